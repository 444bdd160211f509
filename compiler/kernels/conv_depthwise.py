"""Depthwise convolution on channel blocks: each lane is a channel, so all is vector times vector.

A tile of output pixels of one or two rows stays in registers. Taps are taken in the order in which they use the vectors
of an input row, so that each is loaded once a row; weights stay in registers too where there is room. A long epilogue
must not share a block of code with the taps, or the scheduler would mix the two until both spill; then, and for large
kernels, the rows of taps are a loop.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace

import numpy as np

from glulam.compiler.graph.types import Array, DType, Shape
from glulam.compiler.kernels.context import Context, Lowered, Point
from glulam.compiler.kernels.conv_geometry import ConvGeometry, Grid
from glulam.compiler.kernels.conv_template import constant_weights, not_packable
from glulam.compiler.kernels.depthwise_tile import UNROLLED_TAPS, Tiles, TileShape
from glulam.compiler.kernels.ranges import ENOUGH, pieces, unroll_factor
from glulam.compiler.loops.expr import Expr, Fma
from glulam.compiler.loops.index import Affine, IndexLike, Var
from glulam.compiler.loops.ir import Buffer, Tile
from glulam.compiler.targets import PARTNERS

_CHUNK_FMAS = 20_000  # vector FMAs of an iteration that are worth a thread's while
_ENOUGH_MEANS = 32  # iterations of an image that gives means, as many for any number of threads


def accepts(ctx: Context, geometry: ConvGeometry) -> str | None:
    """None if the template serves this convolution, else why not."""
    if (why := not_packable(ctx)) is not None:
        return why
    x, y = ctx.operand(0), ctx.output
    if not geometry.groups == x.shape[1] == y.shape[1]:
        return f"{x.shape[1]} input and {y.shape[1]} output channels in {geometry.groups} groups are not one per group"
    if x.layout.block != y.layout.block:
        return "the input is not in channel blocks"
    return None


def build(ctx: Context, geometry: ConvGeometry) -> Lowered:
    """The kernel. Inputs: x[N,C,*S], w[C,1,*K], b?[C], then what the epilogue reads."""
    sections(ctx, geometry, constant_weights(ctx), Grid.whole(ctx.output.spatial))
    return ctx.finished()


def build_with_means(ctx: Context, geometry: ConvGeometry) -> Lowered:
    """The kernel with means[N,C,chunks,1] over equal chunks of rows of the result[N,C,H,W] as output 1."""
    grid = Grid.whole(ctx.output.spatial)
    Depthwise(ctx, geometry, constant_weights(ctx), grid, ctx.outputs[1].shape[2]).sections()
    return ctx.finished()


def chunks_with_means(result: Shape, taps: int, block: int) -> int:
    """Into how many chunks of rows each image of a result[N,C,H,W] falls where they give means.

    That depends neither on the threads nor on N: threads may share the images before kernels are built. The number is
    even if that of the rows is, so that each of two threads can take half of them.
    """
    _, channels, height, width = result
    rows = _useful_rows(width, taps)
    parallel = height * -(-channels // block) // _ENOUGH_MEANS
    length = height if height % PARTNERS else height // PARTNERS
    return height // unroll_factor(length, max(1, min(rows, parallel)))


def sections(ctx: Context, geometry: ConvGeometry, weights: Array, grid: Grid) -> None:
    """The sections that compute the pixels of a grid; weights are [C, 1, *K]."""
    Depthwise(ctx, geometry, weights, grid).sections()


def _useful_rows(width: int, taps: int) -> int:
    """Rows of an iteration that are worth a thread's while."""
    return max(2, _CHUNK_FMAS // max(1, width * taps))


@dataclass(frozen=True)
class _Place:
    """Where a register tile lies: (n, block), first output place in each spatial dimension, lanes, resident weights."""

    head: tuple[Var, Var]
    start: tuple[Affine, ...]
    lane: Var
    weights: Tile | None
    total: Tile | None = None


class Depthwise:
    """The nest of loops; with `means`, so many chunks of rows also give their means.

    A subclass may put the results elsewhere.
    """

    dtype = DType.F32  # of the sums

    def __init__(self, ctx: Context, geometry: ConvGeometry, weights: Array, grid: Grid, means: int = 0) -> None:
        self.means = means
        self.ctx, self.b, self.geometry, self.grid = ctx, ctx.builder, geometry, grid
        self.x = ctx.input_view(0)
        self.block = ctx.output.layout.block
        self.far = ctx.operand(0).type.nbytes > ctx.target.l2_bytes
        self.taps = list(itertools.product(*map(range, geometry.kernel)))
        self.unrolls = len(self.taps) <= UNROLLED_TAPS and not ctx.epilogue.is_long
        self.weights = self.packed(weights[:, 0])
        bias = self.start_of_sums()
        zeros = np.zeros(ctx.output.shape[1], np.float32)
        self.bias = ctx.constant(self.pack(zeros if bias is None else bias), "b", table=bias is None)

    def start_of_sums(self) -> Array | None:
        """The bias of each channel, if there is one."""
        return self.ctx.data(2)

    def packed(self, weights: Array) -> Buffer:
        """The weights [C, *K], as `weight` reads them."""
        return self.ctx.constant(self.pack(weights), "w")

    def weight(self, head: tuple[Var, Var], tap: Sequence[IndexLike], v: Var) -> Expr:
        """Those of a tap for a block of a sample's channels."""
        return self.weights[(head[1], *tap, v)]

    def pack(self, data: Array) -> Array:
        """[C, *K] as [blocks, *K, lanes]."""
        blocks = -(-len(data) // self.block)
        full = data
        if len(data) % self.block:
            full = np.zeros((blocks * self.block, *data.shape[1:]), data.dtype)
            full[: len(data)] = data
        return np.moveaxis(full.reshape(blocks, self.block, *data.shape[1:]), 1, -1)

    def sections(self) -> None:
        ctx, b = self.ctx, self.b
        *outer, width = self.grid.extents
        ctx.output_view()
        shape = self.tile_shape(outer[-1] if outer else 1, width)
        *planes, height = outer or [1]
        chunk = self.chunk(planes, height, width)
        head = {"n": ctx.output.shape[0], "c": ctx.output.blocks}
        for first, count, pixels in [] if outer else pieces(width, shape.pixels):
            with b.section(**head, s=count) as (n, c, s), b.vector("v", self.block) as v:
                self.tile(_Place((n, c), (s * pixels + first,), v, self.resident_weights((n, c), v, shape)), 1, pixels)
        if outer:
            chunks = [*planes, height // chunk]
            with ctx.image_section(ctx.output.blocks, chunks) as (n, c, (*o, h)), b.vector("v", self.block) as v:
                total = self.some_rows((n, c), (*o, h * chunk), v, chunk, shape)
                if total is not None:
                    ctx.write((n, c, h, 0, v), total[0] * (1.0 / (chunk * width)), 1)

    def some_rows(
        self, head: tuple[Var, Var], start: Sequence[Affine], v: Var, count: int, shape: TileShape
    ) -> Tile | None:
        """`count` output rows of a channel block, from row `start` on; their total, if means are wanted."""
        resident, total = self.resident_weights(head, v, shape), self.new_total()
        *planes, row = start
        for first, times, rows in pieces(count, shape.rows):
            with self.b.serial("y", times) as y:
                place = (*planes, row + y * rows + first)
                self.row(_Place(head, place, v, resident, total), rows, shape.pixels)
        return total

    def new_total(self) -> Tile | None:
        """Where an iteration adds up what it stores, if it gives the mean."""
        if not self.means:
            return None
        total = self.b.tile("total", 1)
        self.b.store(total[0], 0.0)
        return total

    def row(self, place: _Place, rows: int, pixels: int) -> None:
        """All tiles of `rows` output rows, from a place without its column on."""
        for first, count, length in pieces(self.grid.extents[-1], pixels):
            with self.b.serial("s", count) as s:
                self.tile(replace(place, start=(*place.start, s * length + first)), rows, length)

    # ---- shapes

    def tile_shape(self, height: int, width: int) -> TileShape:
        spare = 1 if self.means else 0
        return Tiles(self.ctx.target, self.geometry, self.unrolls, spare).best(height, width)

    def chunk(self, planes: Sequence[int], height: int, width: int) -> int:
        """Rows of an iteration: a divisor of the height, and of its half where two threads can take one each.

        Of an odd height it leaves them at least three chunks, unless these would be single rows.
        """
        if self.means:
            return height // self.means
        most = height
        if height and not planes:
            height //= self.ctx.parts(height)
            if (
                self.ctx.partners_share_rows
                and height == most
                and (third := unroll_factor(height, max(1, height // 3))) > 1
            ):
                most = third
        outer = self.ctx.output.shape[0] * self.ctx.output.blocks * math.prod(planes)
        parallel = max(1, height * outer // max(ENOUGH, 2 * self.ctx.target.threads))
        return unroll_factor(height, max(1, min(_useful_rows(width, len(self.taps)), parallel, most))) if height else 1

    # ---- code

    def resident_weights(self, head: tuple[Var, Var], v: Var, shape: TileShape) -> Tile | None:
        if not shape.resident:
            return None
        tile = self.b.tile("w", len(self.taps), dtype=self.dtype)
        for i, tap in enumerate(self.taps):
            self.b.store(tile[i], self.weight(head, tap, v))
        return tile

    def tile(self, place: _Place, rows: int, pixels: int) -> None:
        """One register tile: start from the bias, add all taps, finish, store."""
        b, c, v = self.b, place.head[1], place.lane
        if self.far and len(place.start) > 1:
            self.fetch_ahead(place, rows, pixels)
        acc = b.tile("acc", rows, pixels, dtype=self.dtype)
        with b.unrolled("r", rows) as r, b.unrolled("t", pixels) as t:
            b.store(acc[r, t], self.bias[c, v])
        if self.unrolls:
            self.unrolled(place, acc)
        else:
            self.looped(place, acc)
        part = self.new_total()
        with b.unrolled("r", rows) as r, b.unrolled("t", pixels) as t:
            *outer, last = place.start
            if outer:
                outer[-1] = outer[-1] + r
            point: Point = (*place.head, *self.grid.place([*outer, last + t]), v)
            value = self.ctx.finish(acc[r, t], point)
            if part is not None:
                b.store(acc[r, t], value)
                value = acc[r, t]
                b.store(part[0], part[0] + value)
            self.put(point, value)
        if part is not None and place.total is not None:
            b.store(place.total[0], place.total[0] + part[0])

    def put(self, point: Point, value: Expr) -> None:
        """Store a finished element."""
        self.ctx.write(point, value)

    def fetch_ahead(self, place: _Place, rows: int, pixels: int) -> None:
        """Ask for the input rows that the tile below this one is the first to read."""
        (*outer, row, column), geo = place.start, self.geometry
        below = (rows - 1) * geo.strides[-2] + (geo.kernel[-2] - 1) * geo.dilations[-2] + 1
        *planes, top, left = geo.input_place((*outer, row, column), (0,) * geo.rank)
        with self.b.unrolled("r", rows * geo.strides[-2]) as r, self.b.unrolled("t", pixels * geo.strides[-1]) as t:
            self.b.prefetch(self.x[(*place.head, *planes, top + below + r, left + t, 0)], level=2)

    def unrolled(self, place: _Place, acc: Tile) -> None:
        """All taps, input row by input row; in a row the taps that meet the same pixels follow each other."""
        rows, pixels = acc.shape
        geo = self.geometry
        stride, dilation = geo.strides[-1], geo.dilations[-1]
        tall = len(geo.kernel) > 1

        def order(step: tuple[int, tuple[int, ...]]) -> tuple[object, ...]:
            r, tap = step
            row = r * geo.strides[-2] + tap[-2] * geo.dilations[-2] if tall else 0
            column = tap[-1] * dilation
            return (tap[:-2], row, column % stride, column, r)

        for r, tap in sorted(itertools.product(range(rows), self.taps), key=order):
            resident = place.weights
            weight = self.weight(place.head, tap, place.lane) if resident is None else resident[self.taps.index(tap)]
            for t in range(pixels):
                self.step(place, acc, (r, t), tap, weight)

    def looped(self, place: _Place, acc: Tile) -> None:
        """Loops over the taps, those of a row unrolled in part: first those that meet the same pixels."""
        _, pixels = acc.shape
        stride, dilation = self.geometry.strides[-1], self.geometry.dilations[-1]
        with ExitStack() as stack:
            head: list[IndexLike] = [stack.enter_context(self.b.serial("k", k)) for k in self.geometry.kernel[:-1]]
            inner = unroll_factor(self.geometry.kernel[-1], 8)
            outer = stack.enter_context(self.b.serial("kw", self.geometry.kernel[-1] // inner))
            for k in sorted(range(inner), key=lambda k: (k * dilation % stride, k)):
                tap = (*head, outer * inner + k)
                weight = self.weight(place.head, tap, place.lane)
                for t in range(pixels):
                    self.step(place, acc, (0, t), tap, weight)

    def step(self, place: _Place, acc: Tile, at: tuple[int, int], tap: Sequence[IndexLike], weight: Expr) -> None:
        """Add one tap's product to one pixel of the tile."""
        r, t = at
        moved = list(place.start)
        moved[-1] = moved[-1] + t
        if len(moved) > 1:
            moved[-2] = moved[-2] + r
        where = self.geometry.input_place(moved, tap)
        value = self.x[(*place.head, *where, place.lane)]
        self.b.store(acc[r, t], self.multiply_add(value, weight, acc[r, t]))

    def multiply_add(self, x: Expr, weight: Expr, total: Expr) -> Expr:
        """A sum with one more product."""
        return Fma(x, weight, total)
