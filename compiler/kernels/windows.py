"""Windows that slide over a tensor: where they lie, what they count, and how their elements become one.

The kernels that walk along them are in `pool`, `pool_rows`, and with what computes the elements in `conv_pool`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import product

import numpy as np

from glulam.compiler.graph.types import DType, Shape
from glulam.compiler.kernels.context import Context
from glulam.compiler.kernels.tiling import unroll_factor
from glulam.compiler.loops import expr as ex
from glulam.compiler.loops.builder import Builder
from glulam.compiler.loops.expr import Const, Expr
from glulam.compiler.loops.index import Affine, IndexLike, Var
from glulam.compiler.loops.ir import Buffer, Tile

_UNROLLED_TAPS = 9  # taps that are written out
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
        """The value that changes nothing."""
        return Const(self.window.pad_value, self.dtype)

    def of(self, elements: Sequence[Expr], start: Expr | None = None) -> Expr:
        """All of one or more elements, and what was folded before if there is any."""
        total, rest = (elements[0], elements[1:]) if start is None else (start, elements)
        if self.is_sum:
            return sum(rest, start=total)
        for i in range(0, len(rest), 2):
            pair = rest[i : i + 2]
            # A total that is NaN stays, since nothing is larger. For NaN among the elements two are tested at once.
            for element in pair:
                total = ex.where(element > total, element, total)
            has_nan = ex.not_equal(pair[0], pair[0])
            if len(pair) > 1:
                has_nan = has_nan | ex.not_equal(pair[1], pair[1])
            total = ex.where(has_nan, math.nan, total)
        return total

    def taps(self, b: Builder, kernel: Shape, count: int, element: Callable[[Var, Sequence[IndexLike]], Expr]) -> Tile:
        """element(t, tap) folded over all taps of a kernel, for each t < count, as register tile."""
        if math.prod(kernel) <= _UNROLLED_TAPS:
            acc = b.tile("acc", count, dtype=self.dtype)
            with b.unrolled("t", count) as t:
                b.store(acc[t], self.of([element(t, tap) for tap in product(*map(range, kernel))]))
            return acc
        *outer, last = kernel
        together = unroll_factor(last, _UNROLLED_TAPS)
        acc = into = self._started(b, "acc", count)
        with ExitStack() as stack:
            head = [stack.enter_context(b.serial("k", extent)) for extent in outer]
            if self.is_sum and outer and math.prod(kernel) > _LONG_SUM:
                into = self._started(b, "part", count)
            with b.serial("kw", last // together) as kw, b.unrolled("t", count) as t:
                seen = [element(t, (*head, kw * together + k)) for k in range(together)]
                b.store(into[t], self.of(seen, into[t]))
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
