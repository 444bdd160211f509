"""Reductions over axes, and the place of the largest or smallest element."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from glulam.compiler.graph.op import Case, Op, Prefers, Trait
from glulam.compiler.graph.types import Array, DType, Shape, TensorType, f32
from glulam.compiler.kernels import arg_reduce, reduce
from glulam.compiler.kernels.context import Context, Lowered
from glulam.compiler.kernels.windows import PoolGeometry, Window
from glulam.compiler.ops.inputs import FLOATS, NUMBERS, check_axis, check_dtype, f64, i64, required

Axes = tuple[int, ...]
Numbers = npt.NDArray[Any]
_LONG_SUM = 64  # elements, beside which it matters little what is made of their sum alone
_MANY_RESULTS = 1000  # take longer one by one than another kernel's call
INTEGER_KINDS = ("sum", "max", "min", "prod", "l1", "sum_square")
TIES = np.array([[1, 3, 3, 0, 0], [2, 2, 2, 2, 2], [0, 1, 0, 1, -5]], np.float32)
EDGES = np.array(
    [
        [1, 2, np.nan, 3],
        [np.nan, 1, 2, 3],
        [-np.inf, -np.inf, -np.inf, -np.inf],
        [np.inf, 1, -np.inf, np.inf],
        [1e38, -1e38, 1e38, 0],
    ],
    np.float32,
)


def _log_sum_exp(x: Numbers, axes: Axes) -> Numbers:
    largest: Numbers = np.max(x, axes, keepdims=True, initial=-math.inf)
    shift = np.where(np.isfinite(largest), largest, 0)
    total: Numbers = np.exp(x - shift).sum(axes, keepdims=True)
    return np.log(total) + shift


KINDS: dict[str, Callable[[Numbers, Axes], Numbers]] = {
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


def _lowest(x: Numbers) -> float:
    return -math.inf if x.dtype.kind == "f" else int(np.iinfo(x.dtype).min)


def _highest(x: Numbers) -> float:
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

    def for_samples(self, count: int, inputs: Sequence[TensorType | None]) -> Op | None:
        return self if 0 not in self.axes else None

    def preference(self, inputs: Sequence[TensorType | None], outputs: Sequence[TensorType]) -> Prefers:
        (x,) = required(self, inputs, 1)
        spatial = x.rank > 2 and self.axes == tuple(range(2, x.rank))
        return Prefers.EITHER if spatial and x.dtype is DType.F32 else Prefers.PLAIN

    def flops(self, inputs: Sequence[TensorType | None], outputs: Sequence[TensorType]) -> int:
        return sum(type.size for type in inputs if type is not None)

    def finishes_alone(self, inputs: Sequence[TensorType | None]) -> str | None:
        """Results along the last axis come one at a time, and so would all that is made of many, from few elements."""
        (x,) = required(self, inputs, 1)
        if x.rank - 1 not in self.axes or self.preference(inputs, ()) is Prefers.EITHER:
            return None
        count = math.prod(self.output_shape(x.shape))
        short = count >= _MANY_RESULTS and x.size < _LONG_SUM * count
        return "its results, of few elements each, come one at a time" if short else None

    def as_window(self, x: TensorType) -> Window | None:
        """A global pool as one window that covers the whole tensor; None for other reductions."""
        spatial = x.shape[2:]
        whole = self.axes == tuple(range(2, x.rank)) and self.keepdims
        if not whole or self.kind not in ("mean", "max") or 0 in spatial:
            return None
        ones = (1,) * len(spatial)
        geometry = PoolGeometry(spatial, ones, ones, (0,) * len(spatial))
        return Window(geometry, tuple((extent,) for extent in spatial) if self.kind == "mean" else ())

    def lower(self, ctx: Context) -> Lowered:
        return reduce.build(ctx, self.kind, self.axes, self.keepdims)

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

    @classmethod
    def cases(cls) -> Sequence[Case]:
        every = [Case(cls(kind, (1,)), (f32(3, 7, 5),), low=0.1) for kind in KINDS]
        integer = [Case(cls(kind, (0,), False), (i64(3, 7),)) for kind in INTEGER_KINDS]
        empty = [Case(cls(kind, (1,)), (f32(3, 0),)) for kind in KINDS]
        scalar = [Case(cls(kind, (), False), (f32(),)) for kind in ("sum", "mean", "l2", "log_sum_exp")]
        return (
            *every,
            *integer,
            *empty,
            *scalar,
            Case(cls("mean", (2, 3)), (f32(1, 17, 7, 7),)),
            Case(cls("mean", (2, 3), False), (f32(2, 33, 3, 5),)),
            Case(cls("max", (2, 3)), (f32(1, 17, 7, 7),)),
            Case(cls("sum", (0, 2)), (f32(3, 5, 7),)),
            Case(cls("sum", (0, 1, 2), False), (f32(3, 5, 7),)),
            Case(cls("mean", (1,)), (f32(7, 33),)),
            Case(cls("l1", ()), (f32(3, 7),)),
            Case(cls("sum", (0,)), (f32(0, 3),)),
            Case(cls("sum", (1,)), (f32(0, 3),)),
            Case(cls("log_sum_exp", (1,)), (EDGES,)),
            Case(cls("max", (1,)), (EDGES,)),
            Case(cls("min", (1,)), (EDGES,)),
            Case(cls("mean", (1,)), (f64(3, 7),)),
        )


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

    def flops(self, inputs: Sequence[TensorType | None], outputs: Sequence[TensorType]) -> int:
        return sum(type.size for type in inputs if type is not None)

    def lower(self, ctx: Context) -> Lowered:
        return arg_reduce.build(ctx, self.kind, self.axis, last=self.select_last)

    def reference(self, *inputs: Array | None) -> tuple[Array, ...]:
        (x,) = required(self, inputs, 1)
        find = np.argmax if self.kind == "max" else np.argmin
        if self.select_last:
            index = x.shape[self.axis] - 1 - find(np.flip(x, self.axis), self.axis, keepdims=self.keepdims)
        else:
            index = find(x, self.axis, keepdims=self.keepdims)
        return (np.asarray(index, np.int64),)

    @classmethod
    def cases(cls) -> Sequence[Case]:
        return (
            Case(cls("max", 1), (f32(2, 7, 3),)),
            Case(cls("min", 0, False), (f32(7, 13),)),
            Case(cls("max", 1, True, True), (TIES,)),
            Case(cls("max", 1), (TIES,)),
            Case(cls("min", 1, False, True), (TIES,)),
            Case(cls("max", 0), (f32(1, 3),)),
            Case(cls("max", 1), (f32(0, 3),)),
            Case(cls("max", 2, False), (f32(1, 2, 33),)),
            Case(cls("min", 1), (i64(3, 7),)),
            Case(cls("max", 1), (EDGES,)),
            Case(cls("min", 1, True, True), (EDGES,)),
        )
