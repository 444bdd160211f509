"""Pooling: a run of output pixels stays in registers while the taps of their windows are folded into it.

Serves maximum and average, every kernel size, stride, dilation and rank. On channel blocks the lanes are channels and
neighbouring pixels share the loads of a row; on plain tensors the lanes are neighbouring pixels. Windows that overlap
much share the folded columns of the input. All read past the edge: the input carries padding that does not change the
result.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial

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
        self.columns = (ctx.output.spatial[-1] - 1) * geometry.strides[-1] + self._span(geometry)
        self.row: Buffer | None = None
        if self.block > 1 and self.saves_work():
            self.row = self.b.scratch("row", (self.columns, self.block), self.dtype)

    @staticmethod
    def _span(geometry: PoolGeometry) -> int:
        """Input columns from a window's first to its last."""
        return (geometry.kernel[-1] - 1) * geometry.dilations[-1] + 1

    def saves_work(self) -> bool:
        """Whether to fold the input's columns into a private row first, and the windows from there."""
        width, last = self.ctx.output.spatial[-1], self.geometry.kernel[-1]
        heights = self.geometry.taps // last
        return heights > 1 and self.columns * (heights + 1) + width * last < 0.8 * width * heights * last

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
        head = {"n": self.ctx.output.shape[0], "c": self.ctx.output.blocks}
        if outer:
            with self.ctx.image_section(self.ctx.output.blocks, outer) as (n, c, at):
                rows = tuple(at)
                if self.row is not None:
                    self.run(self.columns, Affine.of(0), partial(self.fill_row, self.row, (n, c), rows))
                self.run(width, Affine.of(0), partial(self.pixels, (n, c), rows, step=1))
            return
        full, rest = divmod(width, _TASK_PIXELS)
        for first, count, length in ((0, full, _TASK_PIXELS), (full * _TASK_PIXELS, 1, rest)):
            with self.b.section(**head, w=count) as (n, c, w):
                self.run(length, w * length + first, partial(self.pixels, (n, c), (), step=1))

    def run(self, extent: int, first: Affine, body: Callable[..., None]) -> None:
        """`body` for tiles of places of the last dimension."""
        size = min(extent, self.ctx.target.vector_registers // 4)
        if not size:
            return
        with self.b.serial("s", extent // size) as s, self.b.vector("v", self.block) as v:
            body(first + s * size, size, lane=v)
        if extent % size:
            with self.b.vector("v", self.block) as v:
                body(first + extent // size * size, extent % size, lane=v)

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

        def element(t: Var, tap: Sequence[IndexLike]) -> Expr:
            if self.row is None:
                return self.seen(head, (*rows, start + t * step), tap, lane)
            column = (start + t * step) * self.geometry.strides[-1] + Affine.of(tap[-1]) * self.geometry.dilations[-1]
            return self.row[column, lane]  # type: ignore[index]

        kernel = self.geometry.kernel if self.row is None else self.geometry.kernel[-1:]
        acc = self.reduced(kernel, count, element)
        with self.b.unrolled("t", count) as t:
            places = (*rows, start + t * step)
            point = (*head, *places, *(() if lane is None else (lane,)))
            self.ctx.write(point, self.ctx.finish(self.scaled(acc[t], places), point))

    def fill_row(self, row: Buffer, head: tuple[Var, Var], rows: Rows, start: Affine, count: int, lane: Var) -> None:
        """`count` columns of the input folded over all dimensions but the last."""
        outer = [*zip(self.geometry.strides, self.geometry.dilations, self.geometry.before, strict=True)][:-1]

        def element(t: Var, tap: Sequence[IndexLike]) -> Expr:
            places = [
                place * stride + Affine.of(k) * dilation - before
                for place, k, (stride, dilation, before) in zip(rows, tap[:-1], outer, strict=True)
            ]
            return self.x[(*head, *places, start + t - self.geometry.before[-1], lane)]

        acc = self.reduced((*self.geometry.kernel[:-1], 1), count, element)
        with self.b.unrolled("t", count) as t:
            self.b.store(row[start + t, lane], acc[t])

    def seen(self, head: tuple[Var, Var], places: Rows, tap: Sequence[IndexLike], lane: Var | None) -> Expr:
        """What the windows at the places see through a tap."""
        geo = self.geometry
        spatial = [
            place * stride + Affine.of(k) * dilation - before
            for place, stride, k, dilation, before in zip(
                places, geo.strides, tap, geo.dilations, geo.before, strict=True
            )
        ]
        return self.x[(*head, *spatial, *(() if lane is None else (lane,)))]

    def reduced(self, kernel: Shape, count: int, element: Callable[[Var, Sequence[IndexLike]], Expr]) -> Tile:
        """element(t, tap) folded over all taps, for each t < count. Long sums are taken row by row: it rounds less."""
        b, (*outer, last) = self.b, kernel
        inner = last if last <= _UNROLLED_TAPS else unroll_factor(last, _UNROLLED_TAPS)
        apart = self.op == "add" and bool(outer) and math.prod(kernel) > 4 * _UNROLLED_TAPS
        acc = self.started("acc", count)
        with ExitStack() as stack:
            head = [stack.enter_context(b.serial("k", extent)) for extent in outer]
            into = self.started("part", count) if apart else acc
            with b.serial("kw", last // inner) as kw, b.unrolled("ku", inner) as ku, b.unrolled("t", count) as t:
                b.store(into[t], ex.binary(self.op, into[t], element(t, (*head, kw * inner + ku))))
            if apart:
                with b.unrolled("t", count) as t:
                    b.store(acc[t], acc[t] + into[t])
        return acc

    def started(self, name: str, count: int) -> Tile:
        tile = self.b.tile(name, count, dtype=self.dtype)
        with self.b.unrolled("t", count) as t:
            self.b.store(tile[t], Const(-math.inf if self.op == "maximum" else 0.0, self.dtype))
        return tile

    def scaled(self, total: Expr, places: Rows) -> Expr:
        """The sum of a window over its count."""
        for d, table in self.tables.items():
            total = total * table[places[d]]
        return total if self.factor == 1.0 else total * self.factor


def _named(extents: Sequence[int]) -> dict[str, int]:
    return {f"o{d}": extent for d, extent in enumerate(extents)}
