"""Which floats are whole numbers, and between what limits: codes of quantised networks, and sums of their products.

A float holds all whole numbers up to a limit. While the magnitudes of all products together stay within it, sums are
exact, in whatever order they are added; an algorithm that multiplies other numbers than the definition loses that.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import reduce
from operator import or_

import numpy as np

from glulam.compiler.graph.graph import Node, Value
from glulam.compiler.graph.op import Trait
from glulam.compiler.graph.types import Array, DType
from glulam.compiler.ops import (
    Add,
    Cast,
    Clip,
    Concat,
    Conv,
    Linear,
    MatMul,
    MaxPool,
    Round,
    Slice,
    Split,
    Sub,
    ThroughInteger,
    Transpose,
)
from glulam.compiler.ops.inputs import INTEGERS

LIMITS = {DType.F32: 1 << 24, DType.F64: 1 << 53}
"""Up to here a float type has every whole number."""

_STEPS = 8  # sums between a value and what is rounded
_FOLLOWED = Add | Sub | Cast | Concat | MaxPool | Slice | Split | Transpose
_SUMS = Conv | Linear | MatMul


@dataclass(frozen=True)
class Range:
    """Whole numbers from `low` to `high`."""

    low: int
    high: int

    @property
    def magnitude(self) -> int:
        return max(abs(self.low), abs(self.high))

    def __add__(self, other: Range) -> Range:
        return Range(self.low + other.low, self.high + other.high)

    def __sub__(self, other: Range) -> Range:
        return Range(self.low - other.high, self.high - other.low)

    def __or__(self, other: Range) -> Range:
        return Range(min(self.low, other.low), max(self.high, other.high))

    def __contains__(self, other: Range) -> bool:
        return self.low <= other.low and other.high <= self.high


def range_of_type(dtype: DType) -> Range:
    limits = np.iinfo(dtype.numpy.name)
    return Range(int(limits.min), int(limits.max))


def whole_range(value: Value) -> Range | None:
    """The limits of whole numbers that the value's type holds exactly; None where that is not known."""
    known: dict[Value, Range | None] = {}
    pending = [value]
    while pending:
        if (first := _unknown(pending[-1], known)) is not None:
            pending.append(first)
            continue
        each = pending.pop()
        known[each] = _held(each, _range(each, known))
    return known[value]


def is_whole(value: Value, steps: int = _STEPS) -> bool:
    """Whether a float has none but whole numbers, however large, infinities and NaN."""
    if value.data is not None:
        return bool((np.rint(value.data) == value.data).all())
    node = value.producer
    if node is None or not steps:
        return False
    if isinstance(node.op, Round | ThroughInteger):
        return True
    if isinstance(node.op, Clip) and not (node.op.low.is_integer() and node.op.high.is_integer()):
        return False
    return isinstance(node.op, Add | Sub | Clip) and all(is_whole(each, steps - 1) for each in node.present_inputs())


def is_exact(node: Node) -> bool:
    """Whether a convolution or matrix product adds up whole numbers that its type holds, so that nothing is rounded."""
    return isinstance(node.op, _SUMS) and whole_range(node.output) is not None


def _unknown(value: Value, known: Mapping[Value, Range | None]) -> Value | None:
    """What must be known before the value's range is; None if all is, or so much that nothing can be said."""
    node = value.producer
    if node is None or not _is_followed(node):
        return None
    for each in node.present_inputs():
        if each not in known:
            return each
        if known[each] is None:
            return None
    return None


def _is_followed(node: Node) -> bool:
    """Whether whole numbers become whole numbers."""
    return isinstance(node.op, _FOLLOWED | _SUMS) or Trait.VIEW in node.op.traits


def _held(value: Value, found: Range | None) -> Range | None:
    """The range as the value's type bounds it."""
    dtype = value.type.dtype
    if dtype in INTEGERS:
        own = range_of_type(dtype)
        return found if found is not None and found in own else own
    return found if found is not None and found.magnitude <= LIMITS.get(dtype, 0) else None


def _range(value: Value, known: Mapping[Value, Range | None]) -> Range | None:
    """The range by what computes the value, without regard to what its type holds."""
    if value.is_constant:
        return None if value.data is None else _range_of_array(value.data)
    node = value.producer
    if node is None:
        return None
    if isinstance(node.op, ThroughInteger):
        return range_of_type(node.op.dtype)
    if not _is_followed(node):
        return None
    ranges: list[Range] = []
    for each in node.present_inputs():
        if (found := known.get(each)) is None:
            return None
        ranges.append(found)
    match node.op:
        case Conv() | Linear() | MatMul():
            return _sums(node, ranges)
        case Add():
            return ranges[0] + ranges[1]
        case Sub():
            return ranges[0] - ranges[1]
        case Concat():
            return reduce(or_, ranges)
        case MaxPool():
            x = next(node.present_inputs())
            return None if node.op.has_empty_windows(x.shape[2:]) else ranges[0]
    return ranges[0]


def _sums(node: Node, ranges: Sequence[Range]) -> Range:
    """Limits of all sums of the products that a convolution or matrix product adds up.

    They hold for parts of the sums as well, so no rounding happens on the way where the type holds them.
    """
    terms, factors, *bias = ranges
    _, weights, *_ = node.present_inputs()
    largest = terms.magnitude * _magnitude_of_row(node, weights, factors) + sum(each.magnitude for each in bias)
    return Range(-largest, largest)


def _range_of_array(data: Array) -> Range | None:
    if data.size == 0 or data.dtype.kind not in "iuf":
        return None
    low, high = float(data.min()), float(data.max())
    if not (math.isfinite(low) and math.isfinite(high)):
        return None
    if data.dtype.kind == "f" and not bool((np.rint(data) == data).all()):
        return None
    return Range(int(low), int(high))


def _magnitude_of_row(node: Node, weights: Value, factors: Range) -> int:
    """The largest sum of magnitudes that one element of the result multiplies with."""
    if weights.data is None:
        depth = weights.shape[-2] if isinstance(node.op, MatMul) and weights.type.rank > 1 else weights.shape[-1]
        count = depth if isinstance(node.op, MatMul | Linear) else math.prod(weights.shape[1:])
        return factors.magnitude * count
    magnitudes = np.abs(weights.data.astype(np.float64))
    if isinstance(node.op, MatMul):
        return int(magnitudes.sum(-2 if weights.type.rank > 1 else -1).max(initial=0.0))
    return int(magnitudes.reshape(weights.shape[0], -1).sum(1).max(initial=0.0))
