"""Reductions over axes, and the place of the largest or smallest element."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from glulam.compiler.graph.op import Op, Trait
from glulam.compiler.graph.types import Array, DType, Shape, TensorType
from glulam.compiler.ops.inputs import FLOATS, NUMBERS, check_axis, check_dtype, required

Axes = tuple[int, ...]
INTEGER_KINDS = ("sum", "max", "min", "prod", "l1", "sum_square")


def _log_sum_exp(x: Array, axes: Axes) -> Array:
    largest = np.max(x, axes, keepdims=True, initial=-math.inf)
    shift = np.where(np.isfinite(largest), largest, 0)
    return np.log(np.exp(x - shift).sum(axes, keepdims=True)) + shift


KINDS: dict[str, Callable[[Array, Axes], Array]] = {
    "sum": lambda x, axes: np.sum(x, axes, keepdims=True),
    "mean": lambda x, axes: np.sum(x, axes, keepdims=True) / np.float64(math.prod(x.shape[a] for a in axes)),
    "max": lambda x, axes: np.max(x, axes, keepdims=True, initial=_lowest(x)),
    "min": lambda x, axes: np.min(x, axes, keepdims=True, initial=_highest(x)),
    "prod": lambda x, axes: np.prod(x, axes, keepdims=True),
    "l1": lambda x, axes: np.sum(np.abs(x), axes, keepdims=True),
    "l2": lambda x, axes: np.sqrt(np.sum(np.square(x), axes, keepdims=True)),
    "sum_square": lambda x, axes: np.sum(np.square(x), axes, keepdims=True),
    "log_sum": lambda x, axes: np.log(np.sum(x, axes, keepdims=True)),
    "log_sum_exp": _log_sum_exp,
}


def _lowest(x: Array) -> float:
    return -math.inf if x.dtype.kind == "f" else int(np.iinfo(x.dtype).min)


def _highest(x: Array) -> float:
    return math.inf if x.dtype.kind == "f" else int(np.iinfo(x.dtype).max)


@dataclass(frozen=True)
class Reduce(Op):
    """One value for all elements along the axes (sorted, not negative; none reduces each element by itself).

    NaN anywhere makes max and min NaN. Of nothing, sum is 0, prod 1, mean NaN, max -inf, min +inf, log_sum_exp -inf.
    """

    kind: str
    axes: Axes
    keepdims: bool = True

    name = "reduce"
    traits = frozenset({Trait.ANCHOR})

    def infer(self, *inputs: TensorType | None) -> tuple[TensorType, ...]:
        (x,) = required(self, inputs, 1)
        if self.kind not in KINDS:
            raise self.fail(f"kind {self.kind!r} is unknown; there are {list(KINDS)}")
        check_dtype(self, x.dtype, NUMBERS if self.kind in INTEGER_KINDS else FLOATS)
        for axis in self.axes:
            check_axis(self, axis, x.rank)
        if list(self.axes) != sorted(set(self.axes)):
            raise self.fail(f"axes {self.axes} are not sorted and distinct")
        return (x.with_shape(self.output_shape(x.shape)),)

    def output_shape(self, shape: Shape) -> Shape:
        """The shape with the axes removed, or of extent 1 with `keepdims`."""
        if self.keepdims:
            return tuple(1 if axis in self.axes else extent for axis, extent in enumerate(shape))
        return tuple(extent for axis, extent in enumerate(shape) if axis not in self.axes)

    def reference(self, *inputs: Array | None) -> tuple[Array, ...]:
        (x,) = required(self, inputs, 1)
        exact = x.astype(np.float64) if x.dtype.kind == "f" else x
        with np.errstate(all="ignore"):
            result = KINDS[self.kind](exact, self.axes)
            return (result.reshape(self.output_shape(x.shape)).astype(x.dtype),)


@dataclass(frozen=True)
class ArgReduce(Op):
    """Index (int64) of the largest ("max") or smallest ("min") element along the axis.

    Among equals the first, or the last with `select_last`. NaN counts as both the largest and the smallest.
    """

    kind: str
    axis: int
    keepdims: bool = True
    select_last: bool = False

    name = "arg_reduce"

    def infer(self, *inputs: TensorType | None) -> tuple[TensorType, ...]:
        (x,) = required(self, inputs, 1)
        if self.kind not in ("max", "min"):
            raise self.fail(f"kind {self.kind!r} is unknown; there are max and min")
        check_dtype(self, x.dtype, NUMBERS)
        check_axis(self, self.axis, x.rank)
        if x.shape[self.axis] == 0:
            raise self.fail(f"axis {self.axis} of {x} is empty: no element has an index")
        middle = (1,) if self.keepdims else ()
        return (TensorType(DType.I64, (*x.shape[: self.axis], *middle, *x.shape[self.axis + 1 :])),)

    def reference(self, *inputs: Array | None) -> tuple[Array, ...]:
        (x,) = required(self, inputs, 1)
        find = np.argmax if self.kind == "max" else np.argmin
        if self.select_last:
            index = x.shape[self.axis] - 1 - find(np.flip(x, self.axis), self.axis, keepdims=self.keepdims)
        else:
            index = find(x, self.axis, keepdims=self.keepdims)
        return (np.asarray(index, np.int64),)
