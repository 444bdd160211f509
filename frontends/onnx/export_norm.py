"""ONNX nodes for normalisations; those that ONNX lacks, or got after the opset written, are composed."""

from __future__ import annotations

import math

import numpy as np

from glulam.compiler import ops
from glulam.compiler.graph.graph import Node
from glulam.compiler.graph.op import Op
from glulam.compiler.graph.types import DType
from glulam.frontends.onnx.writer import Export, Writer


def batch_norm(w: Writer, node: Node) -> None:
    assert isinstance(node.op, ops.BatchNorm)
    w.emit("BatchNormalization", w.inputs(node), w.outputs(node), epsilon=node.op.epsilon)


def layer_norm(w: Writer, node: Node) -> None:
    op = node.op
    assert isinstance(op, ops.LayerNorm)
    x, scale, bias = (*w.inputs(node), "", "")[:3]
    shape, dtype = node.output.shape, node.output.type.dtype
    if w.opset >= 17:
        scale = scale or w.constant(np.ones(shape[op.axis :]), dtype)
        w.emit("LayerNormalization", [x, scale, bias], w.outputs(node), axis=op.axis, epsilon=op.epsilon)
        return
    axes = list(range(op.axis, len(shape)))
    centred = w.call("Sub", x, w.call("ReduceMean", x, axes=axes))
    variance = w.call("ReduceMean", w.call("Mul", centred, centred), axes=axes)
    deviation = w.call("Sqrt", w.call("Add", variance, w.constant(op.epsilon, dtype)))
    normal = w.call("Div", centred, deviation)
    if scale:
        normal = w.call("Mul", normal, scale)
    w.emit("Add" if bias else "Identity", [normal, bias], w.outputs(node))


def group_norm(w: Writer, node: Node) -> None:
    """Before opset 21 by InstanceNormalization, to which every group is a channel; scale and shift follow."""
    op = node.op
    assert isinstance(op, ops.GroupNorm)
    x, scale, bias = (*w.inputs(node), "", "")[:3]
    shape, dtype = node.output.shape, node.output.type.dtype
    if w.opset >= 21:
        scale = scale or w.constant(np.ones(shape[1]), dtype)
        bias = bias or w.constant(np.zeros(shape[1]), dtype)
        inputs = [x, scale, bias]
        w.emit("GroupNormalization", inputs, w.outputs(node), num_groups=op.groups, epsilon=op.epsilon)
        return
    ones, zeros = (w.constant(np.full(op.groups, value), dtype) for value in (1, 0))
    grouped = w.call("Reshape", x, w.constant([shape[0], op.groups, math.prod(shape[1:]) // op.groups]))
    normal = w.call("InstanceNormalization", grouped, ones, zeros, epsilon=op.epsilon)
    normal = w.call("Reshape", normal, w.constant(shape))
    per_channel = w.constant([shape[1], *(1,) * (len(shape) - 2)])
    if scale:
        normal = w.call("Mul", normal, w.call("Reshape", scale, per_channel))
    if bias:
        normal = w.call("Add", normal, w.call("Reshape", bias, per_channel))
    w.emit("Identity", [normal], w.outputs(node))


def rms_norm(w: Writer, node: Node) -> None:
    op = node.op
    assert isinstance(op, ops.RMSNorm)
    x, scale = (*w.inputs(node), "")[:2]
    axes = list(range(op.axis, len(node.output.shape)))
    mean = _reduced(w, "ReduceMean", w.call("Mul", x, x), axes)
    normal = w.call("Div", x, w.call("Sqrt", w.call("Add", mean, w.constant(op.epsilon, node.output.type.dtype))))
    w.emit("Mul" if scale else "Identity", [normal, scale], w.outputs(node))


def lp_normalize(w: Writer, node: Node) -> None:
    op = node.op
    assert isinstance(op, ops.LpNormalize)
    (x,) = w.inputs(node)
    dtype = node.output.type.dtype
    if op.p in (1, 2):
        norm = _reduced(w, f"ReduceL{op.p:.0f}", x, [op.axis])
    elif op.p == math.inf:
        norm = _reduced(w, "ReduceMax", w.call("Abs", x), [op.axis])
    else:
        powers = w.call("Pow", w.call("Abs", x), w.constant(op.p, dtype))
        total = w.call("ReduceSum", powers, w.constant([op.axis]))
        norm = w.call("Pow", total, w.constant(1 / op.p, dtype))
    w.emit("Div", [x, w.call("Max", norm, w.constant(op.epsilon, dtype))], w.outputs(node))


def _reduced(w: Writer, op_type: str, x: str, axes: list[int]) -> str:
    """A reduction that keeps its axes; they became an input at opset 18."""
    if w.opset >= 18:
        return w.call(op_type, x, w.constant(axes))
    return w.call(op_type, x, axes=axes)


def local_response_norm(w: Writer, node: Node) -> None:
    """LRN for windows about the middle, as runtimes take no others; else a pool over channels averages squares."""
    op = node.op
    assert isinstance(op, ops.LocalResponseNorm)
    (x,) = w.inputs(node)
    shape, dtype = node.output.shape, node.output.type.dtype
    size = op.before + op.after + 1
    if op.before == op.after and len(shape) == 4 and dtype is DType.F32:
        w.emit("LRN", [x], w.outputs(node), size=size, alpha=op.alpha, beta=op.beta, bias=op.bias)
        return
    planes = w.call("Reshape", w.call("Mul", x, x), w.constant([shape[0], 1, shape[1], math.prod(shape[2:])]))
    padded = w.call("Pad", planes, w.constant([0, 0, op.before, 0, 0, 0, op.after, 0]), w.constant(0, dtype))
    mean = w.call("AveragePool", padded, kernel_shape=[size, 1])
    scaled = w.call("Mul", w.call("Reshape", mean, w.constant(shape)), w.constant(op.alpha, dtype))
    base = w.call("Add", scaled, w.constant(op.bias, dtype))
    w.emit("Div", [x, w.call("Pow", base, w.constant(op.beta, dtype))], w.outputs(node))


TABLE: dict[type[Op], Export] = {
    ops.BatchNorm: batch_norm,
    ops.LayerNorm: layer_norm,
    ops.GroupNorm: group_norm,
    ops.RMSNorm: rms_norm,
    ops.LpNormalize: lp_normalize,
    ops.LocalResponseNorm: local_response_norm,
}
