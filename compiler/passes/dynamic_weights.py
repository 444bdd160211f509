"""A convolution whose weights are computed at run time becomes one that reads them in channel blocks.

So dynamic filters, weights mixed for each input, and cross-correlations of what two branches compute take the kernels
of other convolutions.
"""

from __future__ import annotations

import math

from glulam.compiler.graph.graph import Graph, Node, Value
from glulam.compiler.graph.patch import Patch
from glulam.compiler.graph.types import DType
from glulam.compiler.graph.uses import Uses
from glulam.compiler.ops import Add, Conv, Expand, Reshape
from glulam.compiler.ops.dynamic_conv import DynamicConv
from glulam.compiler.passes.added_bias import per_channel
from glulam.compiler.passes.manager import Decision, NodePass


class DynamicWeights(NodePass):
    """Groups of several channels are taken for samples with weights of their own; a computed bias is added behind.

    A channel that several filters of their own go over is repeated for each.
    """

    name = "dynamic_weights"

    def visit(self, graph: Graph, uses: Uses, node: Node) -> Patch | Decision | None:
        op = node.op
        if type(op) is not Conv:
            return None
        x, weights, rest = node.operand(0), node.operand(1), node.inputs[2:]
        bias = rest[0] if rest else None
        if weights.is_constant and (bias is None or bias.is_constant):
            return None
        if x.type.dtype is not DType.F32:
            return Decision(node.name, False, f"its kernel takes float32, not {x.type.dtype.value}")
        if 0 in (*x.shape, *node.output.shape):
            return Decision(node.name, False, "there is nothing to compute")
        what = "bias" if weights.is_constant else "weights"
        patch = Patch(graph, f"its {what} are computed", at=node.name)
        whole = weights.is_constant or op.groups == 1 or weights.shape[1] == 1
        own = bias if whole and bias is not None and bias.is_constant else None
        if weights.is_constant:
            y = patch.apply(op, x, weights, name=node.name)
        elif whole:
            groups = 1 if op.groups == 1 else node.output.shape[1]
            seen = x if groups in (1, op.groups) else _repeated(patch, x, groups // op.groups)
            dynamic = DynamicConv.of(op, weights.shape[2:], groups)
            y = patch.apply(dynamic, seen, _of_samples(patch, weights, 1), own, name=node.name)
        else:
            y = _groups_as_samples(patch, node, x, weights)
        if bias is not own and bias is not None:
            each = per_channel(node)
            added = patch.apply(Reshape(each), bias) if bias.data is None else patch.constant(bias.data.reshape(each))
            y = patch.apply(Add(), y, added)
        patch.replace(node.output, y)
        return patch


def _of_samples(patch: Patch, weights: Value, samples: int) -> Value:
    """Weights[M * OC,C,*K] as [M,OC,C * K,*1]."""
    outs, *products = weights.shape
    shape = (samples, outs // samples, math.prod(products), *(1,) * (len(products) - 2))
    return patch.apply(Reshape(shape), weights, name=f"{weights.name}_of_samples")


def _repeated(patch: Patch, x: Value, times: int) -> Value:
    """x[N,C,*S] as [N,C * times,*S], each channel so many times."""
    batch, channels, *extents = x.shape
    each = patch.apply(Reshape((batch, channels, 1, *extents)), x)
    each = patch.apply(Expand((batch, channels, times, *extents)), each)
    return patch.apply(Reshape((batch, channels * times, *extents)), each, name=f"{x.name}_repeated")


def _groups_as_samples(patch: Patch, node: Node, x: Value, weights: Value) -> Value:
    """The convolution of x[N,G * C,*S] as that of [N * G,C,*S]."""
    op, (batch, channels, *extents) = node.op, x.shape
    assert isinstance(op, Conv)
    samples = batch * op.groups
    split = patch.apply(Reshape((samples, channels // op.groups, *extents)), x, name=f"{x.name}_groups")
    own = _of_samples(patch, weights, op.groups)
    if batch > 1:
        again = patch.apply(Reshape((1, *own.shape)), own)
        again = patch.apply(Expand((batch, *own.shape)), again)
        own = patch.apply(Reshape((samples, *own.shape[1:])), again)
    y = patch.apply(DynamicConv.of(op, weights.shape[2:], 1), split, own, name=f"{node.name}_groups")
    return patch.apply(Reshape(node.output.shape), y, name=node.name)
