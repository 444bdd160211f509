"""ONNX nodes for ops that move elements."""

from __future__ import annotations

from glulam.compiler import ops
from glulam.compiler.errors import UnsupportedError
from glulam.compiler.graph.graph import Node
from glulam.compiler.graph.op import Op
from glulam.compiler.graph.types import DType
from glulam.frontends.onnx.writer import Export, Writer


def plain(op_type: str) -> Export:
    def export(w: Writer, node: Node) -> None:
        w.emit(op_type, w.inputs(node), w.outputs(node))

    return export


def dropout(w: Writer, node: Node) -> None:
    """ONNX drops elements of float tensors only, and never all of them."""
    assert isinstance(node.op, ops.Dropout)
    (x,) = w.inputs(node)
    if node.output.type.dtype.is_float and node.op.p < 1:
        w.emit("Dropout", [x, w.constant(node.op.p, DType.F32)], w.outputs(node))
    else:
        w.emit("Identity", [x], w.outputs(node))


def random_dropout(w: Writer, node: Node) -> None:
    """Training-mode dropout: other elements are dropped there, for the generator is not ONNX's to say."""
    op = node.op
    assert isinstance(op, ops.RandomDropout)
    if op.alpha or op.whole_channels:
        raise UnsupportedError("ONNX has no dropout of whole channels, and none that keeps mean and variance")
    x = w.inputs(node)[0]
    inputs = [x, w.constant(op.p, DType.F32), w.constant(True, DType.BOOL)]
    w.emit("Dropout", inputs, w.outputs(node), seed=op.seed % 2**31)


def reshape(w: Writer, node: Node) -> None:
    assert isinstance(node.op, ops.Reshape)
    (x,) = w.inputs(node)
    shape = node.op.shape
    if 0 not in shape:
        w.emit("Reshape", [x, w.constant(shape)], w.outputs(node))
    elif w.opset >= 14:
        w.emit("Reshape", [x, w.constant(shape)], w.outputs(node), allowzero=1)
    else:
        raise UnsupportedError("a reshape to an empty shape needs opset=14")


def transpose(w: Writer, node: Node) -> None:
    assert isinstance(node.op, ops.Transpose)
    attributes = {"perm": node.op.perm} if node.op.perm else {}
    w.emit("Transpose", w.inputs(node), w.outputs(node), **attributes)


def concat(w: Writer, node: Node) -> None:
    assert isinstance(node.op, ops.Concat)
    w.emit("Concat", w.inputs(node), w.outputs(node), axis=node.op.axis)


def gather(w: Writer, node: Node) -> None:
    assert isinstance(node.op, ops.Gather)
    w.emit("Gather", w.inputs(node), w.outputs(node), axis=node.op.axis)


def split(w: Writer, node: Node) -> None:
    assert isinstance(node.op, ops.Split)
    w.emit("Split", [*w.inputs(node), w.constant(node.op.sizes)], w.outputs(node), axis=node.op.axis)


def slice_(w: Writer, node: Node) -> None:
    op = node.op
    assert isinstance(op, ops.Slice)
    value = node.inputs[0]
    assert value is not None
    starts, ends, steps = [], [], []
    for extent, start, step, size in zip(value.shape, op.starts, op.steps, op.sizes, strict=True):
        end = start + size * step
        starts.append(start if size else 0)
        # an end before index 0 must not be read as counted from the back
        ends.append(0 if not size else end if end >= 0 else -extent - 1)
        steps.append(step if size else 1)
    axes = list(range(len(starts)))
    w.emit("Slice", [*w.inputs(node), *map(w.constant, (starts, ends, axes, steps))], w.outputs(node))


def pad(w: Writer, node: Node) -> None:
    """Cropping comes first, so it is a slice of its own."""
    op = node.op
    assert isinstance(op, ops.Pad)
    (x,) = w.inputs(node)
    value = node.inputs[0]
    assert value is not None
    if op.mode == "wrap" and w.opset < 19:
        raise UnsupportedError("a pad with mode 'wrap' needs opset=19")
    if any(side < 0 for pad in op.pads for side in pad):
        starts = [max(-before, 0) for before, _ in op.pads]
        ends = [extent - max(-after, 0) for extent, (_, after) in zip(value.shape, op.pads, strict=True)]
        x = w.call("Slice", x, w.constant(starts), w.constant(ends), w.constant(list(range(len(starts)))))
    sides = [max(before, 0) for before, _ in op.pads] + [max(after, 0) for _, after in op.pads]
    fill = w.constant(op.value, value.type.dtype) if op.mode == "constant" else ""
    w.emit("Pad", [x, w.constant(sides), fill], w.outputs(node), mode=op.mode)


def expand(w: Writer, node: Node) -> None:
    assert isinstance(node.op, ops.Expand)
    w.emit("Expand", [*w.inputs(node), w.constant(node.op.shape)], w.outputs(node))


def tile(w: Writer, node: Node) -> None:
    assert isinstance(node.op, ops.Tile)
    w.emit("Tile", [*w.inputs(node), w.constant(node.op.repeats)], w.outputs(node))


TABLE: dict[type[Op], Export] = {
    ops.Identity: plain("Identity"),
    ops.Shape: plain("Shape"),
    ops.Dropout: dropout,
    ops.RandomDropout: random_dropout,
    ops.Reshape: reshape,
    ops.Transpose: transpose,
    ops.Concat: concat,
    ops.Gather: gather,
    ops.Split: split,
    ops.Slice: slice_,
    ops.Pad: pad,
    ops.Expand: expand,
    ops.Tile: tile,
}
