"""ONNX nodes for layers: convolutions, products, pools, softmax, reductions."""

from __future__ import annotations

from typing import Any

import numpy as np

from glulam.compiler import ops
from glulam.compiler.errors import UnsupportedError
from glulam.compiler.graph.graph import Node
from glulam.compiler.graph.op import Op
from glulam.compiler.graph.types import DType
from glulam.compiler.ops.pool import lowest
from glulam.frontends.onnx.export_integer import integer_sums
from glulam.frontends.onnx.proto import elem_type_of
from glulam.frontends.onnx.writer import Export, Writer


def _flat(pads: tuple[tuple[int, int], ...]) -> list[int]:
    return [before for before, _ in pads] + [after for _, after in pads]


def conv(w: Writer, node: Node) -> None:
    op = node.op
    assert isinstance(op, ops.Conv | ops.ConvTranspose)
    if _as_integers(w, node):
        return
    attributes: dict[str, Any] = {"output_padding": op.output_padding} if isinstance(op, ops.ConvTranspose) else {}
    weights = node.inputs[1]
    assert weights is not None
    w.emit(
        "ConvTranspose" if isinstance(op, ops.ConvTranspose) else "Conv",
        w.inputs(node),
        w.outputs(node),
        kernel_shape=weights.shape[2:],
        strides=op.strides,
        pads=_flat(op.pads),
        dilations=op.dilations,
        group=op.groups,
        **attributes,
    )


def _as_integers(w: Writer, node: Node) -> bool:
    """Emits a node on codes with int32 sums, as the float64 that others read; False if it is none."""
    sums = w.fresh("sums")
    if not integer_sums(w, node, [sums]):
        return False
    w.emit("Cast", [sums], w.outputs(node), to=elem_type_of(DType.F64))
    return True


def linear(w: Writer, node: Node) -> None:
    """Gemm for a matrix; otherwise a product with the transposed weights, which are stored so if they are constant."""
    value, weight, *rest = node.inputs
    assert value is not None
    assert weight is not None
    x, bias = w.name(value), w.name(rest[0]) if rest and rest[0] is not None else ""
    if len(value.shape) == 2:
        w.emit("Gemm", [x, w.name(weight), bias], w.outputs(node), transB=1)
        return
    if weight.data is not None:
        turned = w.constant(weight.data.T, weight.type.dtype)
    else:
        turned = w.call("Transpose", w.name(weight), perm=[1, 0])
    if not bias:
        w.emit("MatMul", [x, turned], w.outputs(node))
    else:
        w.emit("Add", [w.call("MatMul", x, turned), bias], w.outputs(node))


def pool(w: Writer, node: Node) -> None:
    op = node.op
    assert isinstance(op, ops.MaxPool | ops.AveragePool)
    (x,) = w.inputs(node)
    pads = op.pads
    attributes: dict[str, Any] = {}
    if isinstance(op, ops.AveragePool):
        attributes["count_include_pad"] = int(op.count_include_pad)
        if any(d != 1 for d in op.dilations):
            if w.opset < 19:
                raise UnsupportedError("a dilated average pool needs opset=19")
            attributes["dilations"] = op.dilations
    else:
        attributes["dilations"] = op.dilations
        if any(max(pad) >= k for pad, k in zip(pads, op.kernel, strict=True)) and not op.ceil_mode:
            x = w.call("Pad", x, w.constant([0, 0, *_flat(pads)[: len(pads)], 0, 0, *_flat(pads)[len(pads) :]]),
                       w.constant(lowest(node.output.type.dtype), node.output.type.dtype))  # fmt: skip
            pads = ((0, 0),) * len(pads)
    w.emit(
        "AveragePool" if isinstance(op, ops.AveragePool) else "MaxPool",
        [x],
        w.outputs(node),
        kernel_shape=op.kernel,
        strides=op.strides,
        pads=_flat(pads),
        ceil_mode=int(op.ceil_mode),
        **attributes,
    )


def along_axis(w: Writer, node: Node) -> None:
    assert isinstance(node.op, ops.Softmax | ops.LogSoftmax)
    w.emit(type(node.op).__name__, w.inputs(node), w.outputs(node), axis=node.op.axis)


_REDUCTIONS = {
    "sum": "ReduceSum",
    "mean": "ReduceMean",
    "max": "ReduceMax",
    "min": "ReduceMin",
    "prod": "ReduceProd",
    "l1": "ReduceL1",
    "l2": "ReduceL2",
    "sum_square": "ReduceSumSquare",
    "log_sum": "ReduceLogSum",
    "log_sum_exp": "ReduceLogSumExp",
}
_PER_ELEMENT = {"l1": "Abs", "l2": "Abs", "log_sum": "Log"}


def reduce(w: Writer, node: Node) -> None:
    """ONNX takes no axes for all axes, so a reduction over none is spelt out."""
    op = node.op
    assert isinstance(op, ops.Reduce)
    (x,) = w.inputs(node)
    keepdims = int(op.keepdims)
    if not op.axes:
        if op.kind == "sum_square":
            w.emit("Mul", [x, x], w.outputs(node))
        else:
            w.emit(_PER_ELEMENT.get(op.kind, "Identity"), [x], w.outputs(node))
    elif w.opset >= 18 or op.kind == "sum":
        w.emit(_REDUCTIONS[op.kind], [x, w.constant(op.axes)], w.outputs(node), keepdims=keepdims)
    else:
        w.emit(_REDUCTIONS[op.kind], [x], w.outputs(node), axes=op.axes, keepdims=keepdims)


def arg_reduce(w: Writer, node: Node) -> None:
    op = node.op
    assert isinstance(op, ops.ArgReduce)
    w.emit(
        "ArgMax" if op.kind == "max" else "ArgMin",
        w.inputs(node),
        w.outputs(node),
        axis=op.axis,
        keepdims=int(op.keepdims),
        select_last_index=int(op.select_last),
    )


def matmul(w: Writer, node: Node) -> None:
    if not _as_integers(w, node):
        w.emit("MatMul", w.inputs(node), w.outputs(node))


def resize(w: Writer, node: Node) -> None:
    """By sizes where they imply the scales, else by scales."""
    op = node.op
    assert isinstance(op, ops.Resize)
    (x,) = w.inputs(node)
    value = node.inputs[0]
    assert value is not None
    needed = 19 if op.coordinates == "half_pixel_symmetric" else 18 if op.antialias else 13
    if w.opset < needed:
        raise UnsupportedError(f"this resize needs opset={needed}")
    if op.coordinates == "tf_half_pixel_for_nn":
        raise UnsupportedError("ONNX has dropped the coordinate rule tf_half_pixel_for_nn")
    implied = all(abs(s * n - size) < 1e-9 * size for s, n, size in zip(op.scales, value.shape, op.sizes, strict=True))
    narrow = np.asarray(op.scales, np.float32)
    if not implied and any(
        int(np.float64(s) * n) != size for s, n, size in zip(narrow, value.shape, op.sizes, strict=True)
    ):
        raise UnsupportedError(f"ONNX cannot say scales {op.scales} with sizes {op.sizes}")
    attributes: dict[str, Any] = {"antialias": 1} if op.antialias else {}
    if op.mode == "nearest":
        attributes["nearest_mode"] = op.rounding
    w.emit(
        "Resize",
        [
            x,
            w.constant(op.roi, DType.F32) if op.roi else "",
            "" if implied else w.constant(narrow, DType.F32),
            w.constant(op.sizes) if implied else "",
        ],
        w.outputs(node),
        mode=op.mode,
        coordinate_transformation_mode=op.coordinates,
        cubic_coeff_a=op.cubic_coeff,
        exclude_outside=int(op.exclude_outside),
        extrapolation_value=op.extrapolation_value,
        **attributes,
    )


TABLE: dict[type[Op], Export] = {
    ops.Conv: conv,
    ops.ConvTranspose: conv,
    ops.Linear: linear,
    ops.MatMul: matmul,
    ops.MaxPool: pool,
    ops.AveragePool: pool,
    ops.Softmax: along_axis,
    ops.LogSoftmax: along_axis,
    ops.Reduce: reduce,
    ops.ArgReduce: arg_reduce,
    ops.Resize: resize,
}
