"""Pooling: a run of output pixels stays in registers while the taps of their windows are folded into it.

Serves maximum and average, every kernel size, stride, dilation and rank. On channel blocks the lanes are channels and
neighbouring pixels share the loads of a row; on plain tensors the lanes are neighbouring pixels. Windows read past the
edge: the input carries padding that does not change the result.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass

import numpy as np

from glulam.compiler.graph.types import Shape
from glulam.compiler.kernels.context import Context, Lowered
from glulam.compiler.kernels.tiling import unroll_factor
from glulam.compiler.loops import expr as ex
from glulam.compiler.loops.expr import Const, Expr
from glulam.compiler.loops.ir import Affine, Buffer, Builder, IndexLike, Tile, Var

Rows = tuple[Affine, ...]

_UNROLLED_TAPS = 8  # taps of a row that are written out
_TASK_PIXELS = 64  # pixels of a row that one iteration takes where there are no other rows to share out


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
        geo = self.geometry
        return (outputs - 1) * geo.strides[d] + (geo.kernel[d] - 1) * geo.dilations[d] + 1


def maximum(ctx: Context, geometry: PoolGeometry) -> Lowered:
    """The largest element of each window of input 0, whose padding must not exceed any element; NaN wins."""
    return _Pool(ctx, geometry, "maximum", ()).build()


def average(ctx: Context, geometry: PoolGeometry, counts: Sequence[Shape]) -> Lowered:
    """The sum of each window of input 0, padded with zeros, over the product of `counts` at the pixel's place.

    `counts` has one row per spatial dimension with an entry for each place along it.
    """
    return _Pool(ctx, geometry, "add", counts).build()


class _Pool:
    def __init__(self, ctx: Context, geometry: PoolGeometry, op: str, counts: Sequence[Shape]) -> None:
        self.ctx, self.geometry, self.op = ctx, geometry, op
        self.b: Builder = ctx.builder
        self.dtype = ctx.operand(0).type.dtype
        self.block = ctx.output.layout.block
        self.x = ctx.input_view(0)
        self.ctx.output_view()
        self.factor, self.tables = self._reciprocals(counts)

    def _reciprocals(self, counts: Sequence[Shape]) -> tuple[float, dict[int, Buffer]]:
        """One factor for all dimensions whose windows count alike, and a table for each other dimension."""
        common, tables = 1, dict[int, Buffer]()
        for d, row in enumerate(counts):
            if len(set(row)) > 1:
                tables[d] = self.ctx.constant((1.0 / np.array(row, np.float64)).astype(self.dtype.numpy), "r")
            else:
                common *= row[0] if row else 1
        return 1.0 / common, tables

    def build(self) -> Lowered:
        if self.block > 1:
            self.blocked()
        else:
            self.plain()
        return self.ctx.finished()

    # ---- the two ways to fill a vector

    def blocked(self) -> None:
        *outer, width = self.ctx.output.spatial
        if not width:
            return
        size = min(width, self.ctx.target.vector_registers // 4)
        full, rest = divmod(width, size)
        tiles = full if outer else min(full, _TASK_PIXELS // size)
        head = {"n": self.ctx.output.shape[0], "c": self.ctx.output.blocks}

        def row(place: tuple[Var, Var], rows: Rows, start: Affine, tiles: int) -> None:
            with self.b.serial("s", tiles) as s, self.b.vector("v", self.block) as v:
                self.pixels(place, rows, start + s * size, size, 1, v)

        with self.b.section(**head, **_named(outer), w=full // tiles) as (n, c, *at, w):
            rows = tuple(map(Affine.of, at))
            row((n, c), rows, w * (tiles * size), tiles)
            if rest and outer:
                with self.b.vector("v", self.block) as v:
                    self.pixels((n, c), rows, Affine.of(full * size), rest, 1, v)
        if outer:
            return
        with self.b.section(**head) as (n, c):
            row((n, c), (), Affine.of(full // tiles * tiles * size), full % tiles)
            if rest:
                with self.b.vector("v", self.block) as v:
                    self.pixels((n, c), (), Affine.of(full * size), rest, 1, v)

    def plain(self) -> None:
        """Vectors of neighbouring pixels; what is left of a row makes a narrower one."""
        *outer, width = self.ctx.output.spatial
        lanes = self.ctx.target.vector_bytes // self.dtype.size
        extents = dict(zip("nc", self.ctx.output.shape, strict=False))
        with self.b.section(**extents, **_named(outer)) as (n, c, *rows):
            full, rest = divmod(width, lanes)
            together = unroll_factor(full, 4) if full else 1
            if full:
                with self.b.serial("s", full // together) as s, self.b.vector("v", lanes) as v:
                    self.pixels((n, c), tuple(map(Affine.of, rows)), s * (together * lanes) + v, together, lanes)
            if rest:
                with self.b.vector("v", rest) as v:
                    self.pixels((n, c), tuple(map(Affine.of, rows)), v + full * lanes, 1, rest)

    # ---- windows

    def pixels(
        self, head: tuple[Var, Var], rows: Rows, start: Affine, count: int, step: int, lane: Var | None = None
    ) -> None:
        """`count` results that lie `step` apart along the last dimension."""
        b, initial = self.b, Const(-math.inf if self.op == "maximum" else 0.0, self.dtype)
        acc = b.tile("acc", count, dtype=self.dtype)
        with b.unrolled("t", count) as t:
            b.store(acc[t], initial)

        def fold(into: Tile, tap: Sequence[IndexLike]) -> None:
            with b.unrolled("t", count) as t:
                b.store(into[t], ex.binary(self.op, into[t], self.tap(head, (*rows, start + t * step), tap, lane)))

        self.reduce(acc, fold, count)
        with b.unrolled("t", count) as t:
            places = (*rows, start + t * step)
            point = (*head, *places, *(() if lane is None else (lane,)))
            self.ctx.write(point, self.ctx.finish(self.scaled(acc[t], places), point))

    def tap(self, head: tuple[Var, Var], places: Rows, tap: Sequence[IndexLike], lane: Var | None) -> Expr:
        geo = self.geometry
        spatial = [
            place * stride + Affine.of(k) * dilation - before  # type: ignore[arg-type]
            for place, stride, k, dilation, before in zip(
                places, geo.strides, tap, geo.dilations, geo.before, strict=True
            )
        ]
        return self.x[(*head, *spatial, *(() if lane is None else (lane,)))]

    def reduce(self, acc: Tile, fold: Callable[[Tile, Sequence[IndexLike]], None], count: int) -> None:
        """All taps into `acc`. Long sums are taken row by row, which keeps rounding errors small."""
        b, (*outer, last) = self.b, self.geometry.kernel
        inner = last if last <= _UNROLLED_TAPS else unroll_factor(last, _UNROLLED_TAPS)
        apart = self.op == "add" and bool(outer) and self.geometry.taps > 4 * _UNROLLED_TAPS
        with ExitStack() as stack:
            head = [stack.enter_context(b.serial("k", extent)) for extent in outer]
            into = acc
            if apart:
                into = b.tile("row", count, dtype=self.dtype)
                with b.unrolled("t", count) as t:
                    b.store(into[t], 0.0)
            with b.serial("kw", last // inner) as kw, b.unrolled("ku", inner) as ku:
                fold(into, (*head, kw * inner + ku))
            if apart:
                with b.unrolled("t", count) as t:
                    b.store(acc[t], acc[t] + into[t])

    def scaled(self, total: Expr, places: Rows) -> Expr:
        """The sum of a window over its count."""
        for d, table in self.tables.items():
            total = total * table[places[d]]
        return total if self.factor == 1.0 else total * self.factor


def _named(extents: Sequence[int]) -> dict[str, int]:
    return {f"o{d}": extent for d, extent in enumerate(extents)}
