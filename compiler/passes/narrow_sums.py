"""Sums of whole numbers in float64 that float32 holds as well are computed in float32, for which the kernels are.

So are the products of quantised layers, of which ONNX wants exact sums in int32. Where the sums of all input channels
could be too large, some of them at a time go into a convolution of their own.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from glulam.compiler.graph.graph import Graph, Node, Value
from glulam.compiler.graph.patch import Patch
from glulam.compiler.graph.types import Array, DType
from glulam.compiler.graph.uses import Uses
from glulam.compiler.ops import Add, Cast, Conv, Linear, MatMul, Slice, Sub
from glulam.compiler.passes.manager import Decision, NodePass
from glulam.compiler.passes.whole_numbers import LIMITS, whole_range

_LIMIT = LIMITS[DType.F32]
_PARTS = 16  # at most, of one layer
_STEP = 16  # channels that stay together


class NarrowSums(NodePass):
    """Looks at sums, differences, convolutions and products in float64, and at casts to it and back.

    It declines where a part of few input channels could be too large for float32.
    """

    name = "narrow_sums"

    def visit(self, graph: Graph, uses: Uses, node: Node) -> Patch | Decision | None:
        if isinstance(node.op, Cast):
            return _without_detour(graph, node)
        if not isinstance(node.op, Add | Sub | Conv | Linear | MatMul) or node.output.type.dtype is not DType.F64:
            return None
        found = whole_range(node.output)
        operands = [whole_range(value) for value in node.present_inputs()]
        if found is None or not all(each is not None and each.magnitude <= _LIMIT for each in operands):
            return None
        patch = Patch(graph, f"sums of at most {found.magnitude} are exact in float32", at=node.name)
        if found.magnitude <= _LIMIT:
            narrow = patch.apply(node.op, *(_narrow(patch, value) for value in node.inputs), name=f"{node.name}.narrow")
            patch.replace(node.output, patch.apply(Cast(DType.F64), narrow))
            return patch
        if isinstance(node.op, Add | Sub):
            return None
        spans = _spans(node)
        if spans is None:
            return Decision(node.name, False, f"sums of up to {found.magnitude} need float64")
        patch.reason = f"sums of at most {found.magnitude} are exact in float32 in {len(spans)} parts"
        patch.replace(node.output, _in_parts(patch, node, spans))
        return patch


def _without_detour(graph: Graph, node: Node) -> Patch | None:
    """A cast of a float32 that was cast to float64 before, or of an int32 that becomes another float."""
    (wide,) = node.present_inputs()
    if wide.type.dtype is not DType.F64 or wide.producer is None or not isinstance(wide.producer.op, Cast):
        return None
    (x,) = wide.producer.present_inputs()
    if x.type.dtype is not DType.F32 and not (x.type.dtype is DType.I32 and node.output.type.dtype.is_float):
        return None
    patch = Patch(graph, f"float64 holds %{x.name} as it is", at=node.name)
    patch.replace(node.output, x if node.output.type == x.type else patch.apply(node.op, x, name=node.name))
    return patch


def _narrow(patch: Patch, value: Value | None) -> Value | None:
    """The value in float32."""
    if value is None:
        return None
    if value.data is not None:
        return patch.constant(value.data.astype(np.float32), value.name)
    return patch.apply(Cast(DType.F32), value)


# ---- in parts


def _spans(node: Node) -> list[slice] | None:
    """Input channels that can go together, None if there are too few of them or the weights are not known."""
    if isinstance(node.op, MatMul) or (isinstance(node.op, Conv) and node.op.groups > 1):
        return None
    _, weights, *bias = node.present_inputs()
    if weights.data is None or any(each.data is None for each in bias):
        return None
    sums = _sums_by_channel(node, weights.data)
    count = sums.shape[1]
    for parts in range(2, _PARTS + 1):
        step = -(-count // parts // _STEP) * _STEP
        spans = [slice(first, min(first + step, count)) for first in range(0, count, step)]
        if all(sums[:, span].sum(1).max(initial=0.0) <= _LIMIT for span in spans):
            return spans
    return None


def _sums_by_channel(node: Node, weights: Array) -> npt.NDArray[np.float64]:
    """The largest magnitude that the products of an input channel can add to each output."""
    x = node.operand(0)
    terms = whole_range(x)
    assert terms is not None
    products: npt.NDArray[np.float64] = np.abs(weights.astype(np.float64)) * terms.magnitude
    return np.asarray(products.reshape(*weights.shape[:2], -1).sum(2))


def _in_parts(patch: Patch, node: Node, spans: list[slice]) -> Value:
    """The sum, in float64, of layers on some of the channels each, and of the bias."""
    x, weights, *bias = (value for value in node.inputs if value is not None)
    assert weights.data is not None
    axis = 1 if isinstance(node.op, Conv) else x.type.rank - 1
    narrow = _narrow(patch, x)
    total: Value | None = None
    for number, span in enumerate(spans):
        starts = tuple(span.start if each == axis else 0 for each in range(x.type.rank))
        sizes = tuple(span.stop - span.start if each == axis else n for each, n in enumerate(x.shape))
        part = patch.apply(Slice(starts, (1,) * x.type.rank, sizes), narrow)
        some = patch.constant(weights.data[:, span].astype(np.float32), f"{weights.name}.{number}")
        wide = patch.apply(Cast(DType.F64), patch.apply(node.op, part, some, name=f"{node.name}.{number}"))
        total = wide if total is None else patch.apply(Add(), total, wide)
    assert total is not None
    for each in bias:
        shape = (-1, *[1] * (x.type.rank - 2)) if isinstance(node.op, Conv) else (-1,)
        assert each.data is not None
        total = patch.apply(Add(), total, patch.constant(each.data.reshape(shape), each.name))
    return total
