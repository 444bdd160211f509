"""Windows that slide over a tensor: where they lie, what they count, and how their elements become one.

The kernels that walk along them are in `pool`, `pool_rows`, and with what computes the elements in `conv_pool`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import reduce
from itertools import product
from operator import or_

import numpy as np

from glulam.compiler.graph.types import DType, Shape
from glulam.compiler.kernels.context import Context
from glulam.compiler.kernels.ranges import unroll_factor
from glulam.compiler.loops import expr as ex
from glulam.compiler.loops.builder import Builder
from glulam.compiler.loops.expr import Const, Expr
from glulam.compiler.loops.index import Affine, IndexLike, Var
from glulam.compiler.loops.ir import Buffer, Tile, TileRead

_UNROLLED_TAPS = 9  # taps that are written out
_AT_ONCE = 2  # elements that are tested for NaN together
_LONG_SUM = 32  # taps; more are summed up in parts, which rounds less


@dataclass(frozen=True)
class PoolGeometry:
    """Output pixel o and tap k meet the input at o * stride + k * dilation - before, per spatial dimension."""

    kernel: Shape
    strides: Shape
    dilations: Shape
    before: Shape

    @property
    def taps(self) -> int:
        return math.prod(self.kernel)

    def input_place(self, output: Sequence[Affine], tap: Sequence[IndexLike]) -> list[Affine]:
        """Where a tap meets the input for an output pixel."""
        return [
            o * s + Affine.of(k) * d - before
            for o, s, k, d, before in zip(output, self.strides, tap, self.dilations, self.before, strict=True)
        ]

    def span(self, d: int, outputs: int) -> int:
        """Input elements along dimension `d` that `outputs` neighbouring windows cover."""
        return (outputs - 1) * self.strides[d] + (self.kernel[d] - 1) * self.dilations[d] + 1


@dataclass(frozen=True)
class Window:
    """The pool: its geometry, and for averages the number of elements in each window, a row per dimension."""

    geometry: PoolGeometry
    counts: tuple[tuple[int, ...], ...] = ()  # empty for a maximum

    @property
    def pad_value(self) -> float:
        return 0.0 if self.counts else -math.inf

    def span(self, d: int, outputs: int) -> int:
        """Input elements along dimension `d` that `outputs` neighbouring windows cover."""
        return self.geometry.span(d, outputs)


@dataclass(frozen=True)
class Fold:
    """What becomes of the elements of a window: the largest, NaN if any is NaN, or their sum."""

    window: Window
    dtype: DType

    @property
    def is_sum(self) -> bool:
        return bool(self.window.counts)

    @property
    def neutral(self) -> Const:
        """The value that changes nothing; integers have no sign."""
        return Const(self.window.pad_value if self.dtype.is_float else 0, self.dtype)

    def into(self, b: Builder, place: TileRead, elements: Sequence[Expr]) -> None:
        """Leaves all of one or more elements in a register."""
        b.store(place, elements[0])
        self.add(b, place, elements[1:])

    def add(self, b: Builder, place: TileRead, elements: Sequence[Expr]) -> None:
        """Adds elements to those in a register, few with each statement: a maximum's text doubles with every one."""
        for i in range(0, len(elements), _AT_ONCE):
            b.store(place, self._with(place, elements[i : i + _AT_ONCE]))

    def _with(self, total: Expr, elements: Sequence[Expr]) -> Expr:
        """A total that is NaN stays, since nothing is larger. All elements are tested for NaN at once."""
        if self.is_sum:
            return sum(elements, start=total)
        if not self.dtype.is_float:
            return reduce(ex.maximum, elements, total)
        for element in elements:
            total = ex.where(element > total, element, total)
        has_nan = reduce(or_, (ex.not_equal(element, element) for element in elements))
        return ex.where(has_nan, math.nan, total)

    def taps(self, b: Builder, kernel: Shape, count: int, element: Callable[[Var, Sequence[IndexLike]], Expr]) -> Tile:
        """element(t, tap) folded over all taps of a kernel, for each t < count, as register tile."""
        if math.prod(kernel) <= _UNROLLED_TAPS:
            acc = b.tile("acc", count, dtype=self.dtype)
            with b.unrolled("t", count) as t:
                self.into(b, acc[t], [element(t, tap) for tap in product(*map(range, kernel))])
            return acc
        *outer, last = kernel
        together = unroll_factor(last, _UNROLLED_TAPS)
        acc = into = self._started(b, "acc", count)
        with ExitStack() as stack:
            head = [stack.enter_context(b.serial("k", extent)) for extent in outer]
            if self.is_sum and outer and math.prod(kernel) > _LONG_SUM:
                into = self._started(b, "part", count)
            with b.serial("kw", last // together) as kw, b.unrolled("t", count) as t:
                self.add(b, into[t], [element(t, (*head, kw * together + k)) for k in range(together)])
            if into is not acc:
                with b.unrolled("t", count) as t:
                    b.store(acc[t], acc[t] + into[t])
        return acc

    def _started(self, b: Builder, name: str, count: int) -> Tile:
        tile = b.tile(name, count, dtype=self.dtype)
        with b.unrolled("t", count) as t:
            b.store(tile[t], self.neutral)
        return tile


class Scale:
    """What the sums of windows are multiplied by: one over the number of elements. Nothing for maxima."""

    def __init__(self, ctx: Context, fold: Fold) -> None:
        common = 1
        self.tables: dict[int, Buffer] = {}  # for the dimensions along which windows count differently
        for d, row in enumerate(fold.window.counts):
            if len(set(row)) > 1:
                self.tables[d] = ctx.constant(
                    (1.0 / np.array(row, np.float64)).astype(fold.dtype.numpy), "r", table=True
                )
            else:
                common *= row[0] if row else 1
        self.factor = 1.0 / common

    def __call__(self, total: Expr, places: Sequence[Affine]) -> Expr:
        """The result of the window at the places."""
        for d, table in self.tables.items():
            total = total * table[places[d]]
        return total if self.factor == 1.0 else total * self.factor
