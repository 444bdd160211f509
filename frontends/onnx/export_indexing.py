"""ONNX nodes for ops that look elements up, put them somewhere, sample or order them; and determinants."""

from __future__ import annotations

from glulam.compiler import ops
from glulam.compiler.errors import UnsupportedError
from glulam.compiler.graph.graph import Node
from glulam.compiler.graph.op import Op
from glulam.compiler.graph.types import DType
from glulam.frontends.onnx.proto import elem_type_of
from glulam.frontends.onnx.writer import Export, Writer


def gather_elements(w: Writer, node: Node) -> None:
    assert isinstance(node.op, ops.GatherElements)
    w.emit("GatherElements", w.inputs(node), w.outputs(node), axis=node.op.axis)


def _with_long_indices(w: Writer, node: Node) -> list[str]:
    """The inputs, of which the second is int64."""
    x, indices, *rest = w.inputs(node)
    value = node.inputs[1]
    assert value is not None
    if value.type.dtype is not DType.I64:
        indices = w.call("Cast", indices, to=elem_type_of(DType.I64))
    return [x, indices, *rest]


def gather_nd(w: Writer, node: Node) -> None:
    assert isinstance(node.op, ops.GatherND)
    w.emit("GatherND", _with_long_indices(w, node), w.outputs(node), batch_dims=node.op.batch_dims)


def scatter(w: Writer, node: Node) -> None:
    """The attribute `reduction` came with opset 16, its values max and min with opset 18."""
    op = node.op
    assert isinstance(op, ops.ScatterElements | ops.ScatterND)
    needed = {"none": 13, "add": 16, "mul": 16}.get(op.reduction, 18)
    if w.opset < needed:
        raise UnsupportedError(f"a scatter with reduction {op.reduction!r} needs opset={needed}")
    attributes = {} if op.reduction == "none" else {"reduction": op.reduction}
    if isinstance(op, ops.ScatterElements):
        w.emit("ScatterElements", w.inputs(node), w.outputs(node), axis=op.axis, **attributes)
    else:
        w.emit("ScatterND", _with_long_indices(w, node), w.outputs(node), **attributes)


def top_k(w: Writer, node: Node) -> None:
    op = node.op
    assert isinstance(op, ops.TopK)
    inputs = [*w.inputs(node), w.constant([op.k])]
    w.emit("TopK", inputs, w.outputs(node), axis=op.axis, largest=int(op.largest), sorted=1)


def cumulative(w: Writer, node: Node) -> None:
    op = node.op
    assert isinstance(op, ops.Cumulative)
    if op.kind != "sum":
        raise UnsupportedError("a running product needs an opset beyond those that can be written")
    inputs = [*w.inputs(node), w.constant(op.axis)]
    w.emit("CumSum", inputs, w.outputs(node), exclusive=int(op.exclusive), reverse=int(op.reverse))


def grid_sample(w: Writer, node: Node) -> None:
    """The operator came with opset 16; with opset 20 the modes got new names, and images any rank."""
    op = node.op
    assert isinstance(op, ops.GridSample)
    if w.opset < 16 or (w.opset < 20 and len(node.output.shape) != 4):
        raise UnsupportedError(f"this sampling needs opset={16 if len(node.output.shape) == 4 else 20}")
    if op.mode == "cubic" and op.cubic_coeff != -0.75:
        raise UnsupportedError(f"ONNX cannot say the cubic coefficient {op.cubic_coeff} of a sampling")
    mode = op.mode if w.opset >= 20 or op.mode == "nearest" else {"linear": "bilinear", "cubic": "bicubic"}[op.mode]
    attributes = {"padding_mode": op.outside, "align_corners": int(op.align_corners)}
    w.emit("GridSample", w.inputs(node), w.outputs(node), mode=mode, **attributes)


def roi_align(w: Writer, node: Node) -> None:
    """Image indices are int64."""
    op = node.op
    assert isinstance(op, ops.RoiAlign)
    if w.opset < 16:
        raise UnsupportedError("the pooling of regions needs opset=16")
    if op.samples[0] != op.samples[1]:
        raise UnsupportedError(f"{node.name}: ONNX has one number of samples for rows and columns, not {op.samples}")
    x, boxes, image = w.inputs(node)
    w.emit(
        "RoiAlign",
        [x, boxes, w.call("Cast", image, to=elem_type_of(DType.I64))],
        w.outputs(node),
        output_height=op.size[0],
        output_width=op.size[1],
        sampling_ratio=op.samples[0],
        spatial_scale=op.scale,
        mode=op.mode,
        coordinate_transformation_mode="half_pixel" if op.half_pixel else "output_half_pixel",
    )


def max_roi_pool(w: Writer, node: Node) -> None:
    op = node.op
    assert isinstance(op, ops.MaxRoiPool)
    w.emit("MaxRoiPool", w.inputs(node), w.outputs(node), pooled_shape=op.size, spatial_scale=op.scale)


def det(w: Writer, node: Node) -> None:
    w.emit("Det", w.inputs(node), w.outputs(node))


TABLE: dict[type[Op], Export] = {
    ops.GatherElements: gather_elements,
    ops.GatherND: gather_nd,
    ops.ScatterElements: scatter,
    ops.ScatterND: scatter,
    ops.TopK: top_k,
    ops.Cumulative: cumulative,
    ops.GridSample: grid_sample,
    ops.Det: det,
    ops.RoiAlign: roi_align,
    ops.MaxRoiPool: max_roi_pool,
}
