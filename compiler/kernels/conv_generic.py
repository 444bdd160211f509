"""Convolution and transposed convolution of any kind: correct for every shape, type, grouping and layout; not fast.

Lanes are output channels. Which input channel and which weights a lane needs is looked up in tables, so groups may have
any size and weights may be known only at run time. What the taps of a transposed convolution meet is looked up too; one
that meets nothing is passed over by a select, never multiplied by zero.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import reduce

import numpy as np
import numpy.typing as npt

from glulam.compiler.graph.types import Array
from glulam.compiler.kernels.context import Context, Lowered, Point
from glulam.compiler.kernels.conv_geometry import ConvGeometry, TransposedGeometry
from glulam.compiler.kernels.operand import pack_channels
from glulam.compiler.kernels.ranges import pieces
from glulam.compiler.loops.expr import Const, Expr, Fma, Select, binary, not_equal
from glulam.compiler.loops.index import Affine, Bounded, IndexLike, Var
from glulam.compiler.loops.ir import Buffer, IndexValue

Table = npt.NDArray[np.int64]
_PIXELS = 4  # of a tile, so that what is looked up serves several


def build(ctx: Context, geometry: ConvGeometry | TransposedGeometry) -> Lowered:
    """The kernel. Inputs: x[N,C,*S], w[OC,C/g,*K] (transposed: [C,OC/g,*K]), b?[OC], then what the epilogue reads."""
    return _Generic(ctx, geometry).build()


@dataclass(frozen=True)
class _Source:
    """An operand in memory: its buffer, channels in a block, and the place of the first spatial element."""

    buffer: Buffer
    block: int
    origin: tuple[int, ...]

    @property
    def extents(self) -> tuple[int, ...]:
        """Of the spatial dimensions, with padding."""
        return self.buffer.shape[2 : 2 + len(self.origin)]


@dataclass(frozen=True)
class _Met:
    """What a tap of an output pixel means along one dimension: input element, kernel element, whether there is any."""

    place: IndexLike
    tap: IndexLike
    valid: Expr | None = None


class _Generic:
    def __init__(self, ctx: Context, geometry: ConvGeometry | TransposedGeometry) -> None:
        self.ctx, self.b, self.geometry = ctx, ctx.builder, geometry
        self.dtype = ctx.operand(0).type.dtype  # the epilogue may give another one
        self.block = ctx.output.layout.block
        self.constants: dict[tuple[object, ...], Buffer] = {}
        self.ins = ctx.operand(0).shape[1] // geometry.groups
        outs = ctx.output.shape[1] // geometry.groups
        # [block, step, lane]: the output channel (lanes beyond the last one repeat it) and the input channel it sees.
        lanes = np.arange(ctx.output.blocks * self.block, dtype=np.int64)
        self.channel = np.minimum(lanes, ctx.output.shape[1] - 1).reshape(-1, 1, self.block)
        step = np.arange(self.ins, dtype=np.int64).reshape(1, -1, 1)
        self.seen = self.channel // outs * self.ins + step
        if isinstance(geometry, TransposedGeometry):
            self.weight_place = (self.seen, self.channel % outs)
            self.tables = [geometry.table(d, ctx.operand(0).spatial, ctx.output.spatial) for d in range(geometry.rank)]
        else:
            self.weight_place = (self.channel, step)
            self.tables = []
        self.x, self.w = self.source(0), self.source(1)

    def build(self) -> Lowered:
        ctx, b = self.ctx, self.b
        ctx.output_view()
        *outer, width = ctx.output.spatial
        head = {"n": ctx.output.shape[0], "c": ctx.output.blocks}
        extents = {f"o{d}": extent for d, extent in enumerate(outer)}
        for first, count, pixels in pieces(width, _PIXELS):
            with (
                b.section(**head, **extents) as (n, c, *rows),
                b.serial("s", count) as s,
                b.vector("v", self.block) as v,
            ):
                self.tile(n, c, (*map(Affine.of, rows), s * pixels + first), v, pixels)
        return ctx.finished()

    def tile(self, n: Var, c: Var, start: tuple[Affine, ...], v: Var, pixels: int) -> None:
        """Some pixels of a row: start from the bias, add all taps, finish, store."""
        b = self.b
        acc = b.tile("acc", pixels, dtype=self.dtype)
        for p in range(pixels):
            b.store(acc[p], self.bias(c, v))
        with ExitStack() as stack:
            i = stack.enter_context(b.serial("i", self.ins))
            taps = [stack.enter_context(b.serial("k", count)) for count in self.tap_counts()]
            seen = self.channels(self.x, self.seen, (c, i, v))
            for p in range(pixels):
                met = [self.meet(d, o + p * (d == len(start) - 1), taps[d]) for d, o in enumerate(start)]
                x = self.x.buffer[(n, seen[0], *(m.place for m in met), *seen[1:])]
                total: Expr = Fma(x, self.weight((c, i, v), met), acc[p])
                conditions = [m.valid for m in met if m.valid is not None]
                if conditions:
                    total = Select(reduce(lambda x, y: binary("and", x, y), conditions), total, acc[p])
                b.store(acc[p], total)
        for p in range(pixels):
            point: Point = (n, c, *start[:-1], start[-1] + p, v)
            self.ctx.write(point, self.ctx.finish(acc[p], point))

    # ---- the spatial dimensions

    def tap_counts(self) -> list[int]:
        return [places.shape[1] for places, _, _ in self.tables] or list(self.geometry.kernel)

    def meet(self, d: int, pixel: Affine, tap: Var) -> _Met:
        geo = self.geometry
        if isinstance(geo, TransposedGeometry):
            places, taps, valid = self.tables[d]
            extent = self.ctx.operand(0).spatial[d] + self.x.origin[d]
            place = self.look_up(places + self.x.origin[d], (pixel, tap), extent)
            kernel = self.look_up(taps, (pixel, tap), geo.kernel[d])
            if valid.all():
                return _Met(place, kernel)
            return _Met(place, kernel, not_equal(self.table(valid)[pixel, tap], 0))
        place = pixel * geo.strides[d] + tap * geo.dilations[d] + (self.x.origin[d] - geo.pads[d][0])
        extent = self.x.extents[d]
        low, high = place.bounds()
        if low >= 0 and high < extent:
            return _Met(place, tap)
        where = IndexValue(place)
        return _Met(Bounded(where, extent), tap, binary("and", where >= 0, where < extent))

    # ---- operands

    def source(self, i: int) -> _Source:
        """Input `i` as it lies in memory. What is known at compile time is padded; weights are put into blocks."""
        data, rank = self.ctx.data(i), self.geometry.rank
        if data is None:
            view = self.ctx.input_view(i)
            return _Source(view.buffer, view.operand.layout.block, view.origin[2 : 2 + rank])
        if i == 1:
            return _Source(self.ctx.constant(self.packed(data), "w"), 0, (0,) * rank)
        spans = self.geometry.pads if isinstance(self.geometry, ConvGeometry) else ((0, 0),) * rank
        padded = np.pad(data, ((0, 0), (0, 0), *spans))
        return _Source(self.ctx.constant(padded, "x"), 1, tuple(before for before, _ in spans))

    def packed(self, weights: Array) -> Array:
        """[blocks, steps, *K, lanes]: each lane's own weights."""
        first, second = np.broadcast_arrays(*self.weight_place)
        return np.moveaxis(weights[first, second], 2, -1)

    def weight(self, at: tuple[Var, Var, Var], met: Sequence[_Met]) -> Expr:
        c, i, v = at
        taps = tuple(m.tap for m in met)
        if self.w.block == 0:
            return self.w.buffer[(c, i, *taps, v)]
        row = self.look_up(self.weight_place[0], at, self.w.buffer.shape[0])
        column = self.channels(self.w, self.weight_place[1], at)
        return self.w.buffer[(row, column[0], *taps, *column[1:])]

    def channels(self, source: _Source, table: Table, at: tuple[IndexLike, ...]) -> tuple[IndexLike, ...]:
        """Index of a channel: its number, or its block and its lane."""
        if source.block == 1:
            return (self.look_up(table, at, source.buffer.shape[1]),)
        block = self.look_up(table // source.block, at, source.buffer.shape[1])
        return block, self.look_up(table % source.block, at, source.block)

    def look_up(self, table: Table, at: Sequence[IndexLike], extent: int) -> IndexLike:
        """An entry of the table as an index; dimensions along which all entries are equal are left out."""
        for d in range(table.ndim):
            first = table.take([0], axis=d)
            if table.shape[d] > 1 and np.array_equal(np.broadcast_to(first, table.shape), table):
                table = first
        kept = [d for d in range(table.ndim) if table.shape[d] > 1]
        if not kept:
            return Affine.of(int(table.flat[0]))
        buffer = self.table(table.reshape([table.shape[d] for d in kept]))
        return Bounded(buffer[tuple(at[d] for d in kept)], extent)

    def table(self, entries: Table) -> Buffer:
        key = (entries.shape, entries.tobytes())
        if key not in self.constants:
            self.constants[key] = self.ctx.constant(entries.astype(np.int64), "i")
        return self.constants[key]

    def bias(self, c: Var, v: Var) -> Expr:
        if not self.ctx.has(2):
            return Const(0.0, self.dtype)
        data = self.ctx.data(2)
        if data is None:
            channel = Bounded(IndexValue(c * self.block + v), self.ctx.output.shape[1])
            return self.ctx.input_view(2).buffer[(channel,)]
        if ("bias",) not in self.constants:
            self.constants["bias",] = self.ctx.constant(pack_channels(data[None], self.block), "b")
        return self.constants["bias",][(0, c, v) if len(data) > 1 else (0, 0, 0)]
