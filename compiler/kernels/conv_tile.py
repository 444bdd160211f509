"""The register tile of a direct convolution: output pixels times output-channel blocks, and the sum that it holds.

The tile stays in registers over the whole reduction, or over each part of a long one. Weights are packed per group of
channel blocks in the order the reduction reads them. Kernels go through tiles in ways of their own; see `conv_direct`
for that of whole convolutions.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from itertools import chain
from typing import NamedTuple

import numpy as np

from glulam.compiler.graph.types import Array, DType
from glulam.compiler.kernels.context import Context, Point, View
from glulam.compiler.kernels.conv_geometry import ConvGeometry, Grid, Met
from glulam.compiler.kernels.partial_sums import PartialSums, parts
from glulam.compiler.kernels.ranges import Pieces, pieces, unrolled_steps
from glulam.compiler.kernels.rates import LINE
from glulam.compiler.kernels.tiling import TOGETHER, Tiling, row_cycles
from glulam.compiler.loops.builder import Builder
from glulam.compiler.loops.expr import Expr, Fma, lift
from glulam.compiler.loops.index import Affine, Bounded, IndexLike, Var
from glulam.compiler.loops.ir import Buffer, IndexValue, Tile

SAVED = 1 / 12  # of the products, if they meet only padding, is worth code of its own for some columns
_MANY_BLOCKS = 4  # of channels, so that the next one is mostly another one of the same pixels
_FEW_CHANNELS = 4  # of a plain image, as of colours
_FEW_PIXELS = 200  # of an image that is done with a group of weights before the next group has arrived
_SOME_PIXELS = 1000  # the same if they come from a slow cache


@dataclass(frozen=True)
class ChannelGroups:
    """`count` groups of so many channel blocks each, from block `first` of each convolution group on.

    Of the blocks these `lanes` are computed, and the others hold zeros.
    """

    first: int
    count: int
    blocks: int
    lanes: int
    packed: Buffer
    bias: Buffer


class Where(NamedTuple):
    """For which channels of which image: a group of channel blocks, number `g` of convolution group `q`."""

    group: ChannelGroups
    n: Var
    q: Var
    g: Var


@dataclass(frozen=True)
class Spot:
    """Where a register tile lies: `pixels` in a row, from `start` on.

    `local` is where its first pixel lies among all those of its iteration. `met` has the taps of a row by the pixels of
    the tile that they meet inputs for; without it all taps meet inputs, or padding, for all of them.
    """

    where: Where
    rows: Sequence[Affine]
    start: Affine
    pixels: int
    local: tuple[IndexLike, ...] = ()
    met: tuple[Met, ...] | None = None

    @property
    def place(self) -> tuple[Affine, ...]:
        """Of the first pixel."""
        return (*self.rows, self.start)


@dataclass(frozen=True)
class Part:
    """Of a sum: `blocks` blocks of input channels from block `first` on, with so many lanes each."""

    first: Affine
    blocks: int
    lanes: int


@dataclass(frozen=True)
class Ahead:
    """How much later weights are needed, in groups of output channels and in blocks of input channels."""

    groups: int
    blocks: int


@dataclass(frozen=True)
class Columns:
    """`count` tiles of so many pixels beside each other, from pixel `first` of a row on, and what taps they meet."""

    first: int
    count: int
    pixels: int
    met: tuple[Met, ...]


class ConvTile:
    """Tiles of a convolution; a subclass goes through them, and may put the results elsewhere."""

    dtype = DType.F32  # of the sums

    def __init__(self, ctx: Context, geometry: ConvGeometry, weights: Array, grid: Grid | None = None) -> None:
        self.ctx, self.geometry, self.weights = ctx, geometry, weights
        self.grid = grid or Grid.whole(ctx.output.spatial)
        self.b: Builder = ctx.builder
        self.block = ctx.output.layout.block
        self.groups = geometry.groups
        self.x = self.source()
        self.in_block = self.x.buffer.shape[-1] if self.x.operand.layout.block > 1 else 1
        self.in_channels = weights.shape[1]
        self.group_blocks = -(-ctx.output.shape[1] // self.groups // self.block)
        self.share = Affine.of(0)  # which share of the next weights the tile in hand asks for
        self.sums: dict[tuple[int, ...], Buffer] = {}  # by the shape of the tile, or of all tiles of an iteration
        self.bare = not geometry.is_pointwise and self.meets_edges()
        self.image_level = 1  # the cache that the next pixels are brought to
        bias = ctx.data(2)
        self.has_bias = bias is not None
        self.bias = np.zeros(ctx.output.shape[1], np.float32) if bias is None else bias

    def source(self) -> View:
        """Where the input is read."""
        return self.ctx.input_view(0)

    def meets_edges(self) -> bool:
        """Whether taps reach beyond the zeros around the image, if there are any: a pool's halo is of others."""
        overhang = self.geometry.overhang(self.grid.extents, self.x.operand.spatial)
        layout = self.x.operand.layout
        halo = layout.halo if layout.halo and layout.halo_value == 0 else ((0, 0),) * self.geometry.rank
        return any(has < wanted for has, wanted in zip(chain(*halo), chain(*overhang), strict=True))

    def columns(self, width: int, tiling: Tiling) -> list[Columns]:
        """The tiles of a row.

        Where many products would meet only padding, or there is none, they leave these out: either each tile has pixels
        that meet the same taps, or the tiles are as wide as they can be, and some taps meet inputs for a part of one.
        """
        every, depth = range(self.geometry.kernel[-1]), self.weights[0].size // self.geometry.kernel[-1]

        def cycles(columns: Sequence[Columns]) -> float:
            target, blocks = self.ctx.target, tiling.blocks
            sums = [(each.count, met.count, depth * len(met.taps)) for each in columns for met in each.met]
            return sum(n * row_cycles(target, Tiling(wide, blocks), wide, self.group_blocks, k) for n, wide, k in sums)

        whole = [Columns(first, n, wide, (Met(0, wide, every),)) for first, n, wide in pieces(width, tiling.pixels)]
        best = min(self.alike_columns(width, tiling.pixels), self.mixed_columns(width, whole), key=cycles)
        return best if self.bare or cycles(best) < (1 - SAVED) * cycles(whole) else whole

    def alike_columns(self, width: int, pixels: int) -> list[Columns]:
        """Tiles all of whose pixels meet the same taps."""
        return [
            Columns(each.first + begin, count, wide, (Met(0, wide, each.taps),))
            for each in self.geometry.met(-1, width, self.x.operand.spatial[-1])
            for begin, count, wide in pieces(each.count, pixels)
        ]

    def mixed_columns(self, width: int, whole: Sequence[Columns]) -> list[Columns]:
        """The tiles of the whole row, with what they meet: those at its ends by themselves."""
        inputs, taps = self.x.operand.spatial[-1], self.geometry.kernel[-1]
        inner = next((m for m in self.geometry.met(-1, width, inputs) if len(m.taps) == taps), Met(0, 0, range(0)))
        found: list[Columns] = []
        for each in whole:
            first, wide = each.first, each.pixels
            begin = min(each.count, max(0, -(-(inner.first - first) // wide)))
            end = max(begin, min(each.count, (inner.first + inner.count - first) // wide))
            for start in (first + tile * wide for tile in (*range(begin), *range(end, each.count))):
                found.append(Columns(start, 1, wide, self.geometry.met_in_tile(-1, start, wide, inputs)))
            if begin < end:
                found.append(replace(each, first=first + begin * wide, count=end - begin))
        return found

    def group(self, blocks: Pieces, lanes: int | None = None) -> ChannelGroups:
        """Channel groups with their weights and bias; of all lanes if no number is given."""
        lanes = lanes or self.block
        packed = self.packed(blocks, lanes)
        bias = self.ctx.constant(self.pack_bias(blocks)[..., :lanes], "b", table=not self.has_bias)
        return ChannelGroups(*blocks, lanes, packed, bias)

    def tile(self, spot: Spot) -> None:
        """One register tile: start from the bias, reduce, finish, store."""
        b, (group, _, q, g) = self.b, spot.where
        with b.vector("v", group.lanes) as v:
            acc = b.tile("acc", spot.pixels, group.blocks, dtype=self.dtype)
            sums = PartialSums.of(b, self.sums, acc, v) if self.has_parts() else None
            if sums is not None:
                sums.start(lambda t, j: group.bias[q, g, j, v])
            else:
                with b.unrolled("j", group.blocks) as j, b.unrolled("t", spot.pixels) as t:
                    b.store(acc[t, j], group.bias[q, g, j, v])
            if self.x.operand.layout.block == 1:
                self.add_plain(spot, acc, v)
            else:
                for first, count, length, lanes in self.runs():
                    with b.serial("p", count) as p:
                        self.add_part(spot, Part(p * length + first, length, lanes), acc, v, Ahead(1, 0))
                        if sums is not None:
                            sums.flush()
            if sums is None and self.finishes_apart(spot):
                sums = PartialSums.of(b, self.sums, acc, v)
                with b.unrolled("j", group.blocks) as j, b.unrolled("t", spot.pixels) as t:
                    b.store(sums.total(t, j), acc[t, j])
            self.finish(spot, v, (lambda t, j: acc[t, j]) if sums is None else sums.total)
        self.empty_lanes(spot)

    def add_plain(self, spot: Spot, acc: Tile, v: Var) -> None:
        """Add the products with all channels of a plain input to a tile."""
        b, (group, n, q, _) = self.b, spot.where
        if self.streams_rows():
            self.prefetch_rows(spot)
        for met, taps in self.tap_loops(spot):
            unroll = unrolled_steps(self.in_channels, met.count * group.blocks)
            with b.serial("i", self.in_channels // unroll) as i, b.unrolled("u", unroll) as u:
                channel = i * unroll + u
                self.add(spot, met, acc, v, (n, q * self.in_channels + channel), (), taps, (*taps, channel))

    def add_part(self, spot: Spot, part: Part, acc: Tile, v: Var, ahead: Ahead) -> None:
        """Add a part of the products to a tile, and ask for weights that are needed later, if they come from afar."""
        b, (group, n, q, g) = self.b, spot.where
        group_blocks = self.in_channels // self.in_block if self.groups > 1 else 0
        with b.serial("c", part.blocks) as serial:
            c = part.first + serial
            for met, taps in self.tap_loops(spot):
                unroll = unrolled_steps(part.lanes, met.count * group.blocks)
                with b.serial("i", part.lanes // unroll) as i:
                    block = q * group_blocks + c
                    if self.streams_image():
                        self.prefetch_image(spot, n, block, i, part.lanes // unroll)
                    if self.streams_weights():
                        place = (Affine.of(q), g + ahead.groups, c + ahead.blocks, *taps)
                        self.prefetch_weights(group, place, i * unroll, unroll)
                    with b.unrolled("u", unroll) as u:
                        channel = i * unroll + u
                        self.add(spot, met, acc, v, (n, block), (channel,), taps, (c, *taps, channel))

    def add(
        self, spot: Spot, met: Met, acc: Tile, v: Var, channel: tuple[IndexLike, Affine], lane: tuple[Affine, ...],
        taps: Sequence[Affine], weight: tuple[Affine, ...],
    ) -> None:  # fmt: skip
        """Add the products of one channel, which lies at `channel` and, in blocks, at `lane`, for one tap."""
        b, geo, where = self.b, self.geometry, spot.where
        with b.unrolled("t", met.count) as pixel, b.unrolled("j", where.group.blocks) as j:
            t, (*outer, start) = pixel + met.first, spot.place
            place = self.inside(geo.input_place([*outer, start + t], taps))
            factor = self.weight(where, weight, j, v)
            b.store(acc[t, j], self.multiply_add(self.x[(*channel, *place, *lane)], factor, acc[t, j]))

    def multiply_add(self, x: Expr, weight: Expr, total: Expr) -> Expr:
        """A sum with one more product."""
        return Fma(x, weight, total)

    def weight(self, where: Where, place: tuple[Affine, ...], j: Var, v: Var) -> Expr:
        """The weights for block `j` of a group, from the place of a tap and an input channel."""
        return where.group.packed[(where.q, where.g, *place, j, v)]

    def inside(self, place: list[Affine]) -> Sequence[IndexLike]:
        """Where the input is read: loops over taps leave out what lies beyond its rows, if there is no padding."""
        if not self.bare:
            return place
        ends = zip(place, self.x.operand.spatial, strict=True)
        bounded = [(each, extent, each.bounds()) for each, extent in ends]
        return [e if low >= 0 and high < n else Bounded(IndexValue(e), n) for e, n, (low, high) in bounded]

    def tap_loops(self, spot: Spot) -> Iterator[tuple[Met, list[Affine]]]:
        """Loops over the taps that a tile meets: those of a row by the pixels, in whose loop a tap is when it comes."""
        whole = Met(0, spot.pixels, range(self.geometry.kernel[-1]))
        with ExitStack() as stack:
            rows = self.geometry.tap_loops(self.b, stack, spot.rows, self.x.operand.spatial)
            for met in (whole,) if spot.met is None else spot.met:
                with self.b.serial("k", len(met.taps)) as k:
                    yield met, [*rows, k + met.taps.start]

    def prefetch_image(self, spot: Spot, n: Var, block: Affine, part: Var, parts: int) -> None:
        """Ask for one of `parts` of the tile's pixels in the next channel block; of few blocks, the next tile's."""
        count = -(-spot.pixels // parts)
        with self.b.unrolled("a", count) as a:
            pixel, (*rows, _) = spot.start + part * count + a, spot.place
            if self.in_channels >= _MANY_BLOCKS * self.in_block:
                self.b.prefetch(self.x[(n, block + 1, *self.pixel_read(rows, pixel), 0)])
            else:
                place = self.pixel_read(rows, pixel + spot.pixels)
                self.b.prefetch(self.x[(n, block, *place, 0)], self.image_level)

    def prefetch_rows(self, spot: Spot) -> None:
        """Ask for the rows of a plain image that the next row of tiles is the first to read, where this tile is."""
        geo, (_, n, q, _), (row, start) = self.geometry, spot.where, spot.place
        high, wide = ((taps - 1) * dilation + 1 for taps, dilation in zip(geo.kernel, geo.dilations, strict=True))
        *_, bottom, left = geo.input_place([row + 1, start], [geo.kernel[0] - 1, 0])
        lines = -(-((spot.pixels - 1) * geo.strides[1] + wide) * self.x.operand.type.dtype.size // LINE)
        with (
            self.b.unrolled("c", self.in_channels) as c, self.b.unrolled("r", min(geo.strides[0], high)) as r,
            self.b.unrolled("a", lines) as a,
        ):  # fmt: skip
            column = left + a * (LINE // self.x.operand.type.dtype.size)
            self.b.prefetch(self.x[n, q * self.in_channels + c, bottom - r, column], level=2)

    def pixel_read(self, rows: Sequence[Affine], pixel: Affine) -> Sequence[Affine]:
        """The pixel of the input that one of the output depends on, in a convolution of one tap."""
        return self.geometry.input_place([*rows, pixel], [Affine.of(0)] * self.geometry.rank)

    def prefetch_weights(self, group: ChannelGroups, place: tuple[Affine, ...], channel: Affine, unroll: int) -> None:
        """Ask for a group's weights that are needed later: at once if there are few, else for a share in each tile.

        From a slow cache they take long enough that each tile asks for a share, and leaves them one cache behind.
        """
        slow = self.ctx.target.l3_is_slow
        at_once = group.packed.strides[1] * 4 <= self.ctx.target.l2_bytes // 8 and not slow
        shares = [Affine.of(k) for k in range(unroll)] if at_once else [self.share]
        with self.b.unrolled("j", group.blocks) as j:
            for share in shares:
                self.b.prefetch(group.packed[(*place, channel + share, j, 0)], level=2 if slow else 1)

    def finish(self, spot: Spot, v: Var, total: Callable[[Var, Var], Expr]) -> None:
        """Store a tile of sums, `total(pixel, block)`, with what the epilogue makes of them."""
        (group, n, q, g), b = spot.where, self.b
        pixels = b.serial if self.finishes_apart(spot) else b.unrolled
        with pixels("t", spot.pixels) as t, b.unrolled("j", group.blocks) as j:
            block = q * self.group_blocks + g * group.blocks + j + group.first
            point: Point = (n, block, *self.grid.place([*spot.rows, spot.start + t]), v)
            self.put(point, j, self.ctx.finish(total(t, j), point))

    def finishes_apart(self, spot: Spot) -> bool:
        """Whether a long epilogue takes the sums from memory, as there are no registers left beside all of them."""
        return self.ctx.epilogue.is_long and spot.pixels * spot.where.group.blocks > TOGETHER

    def empty_lanes(self, spot: Spot) -> None:
        """Zeros in the lanes of a tile that are not computed."""
        (group, n, q, g), b = spot.where, self.b
        if empty := self.block - group.lanes:
            with b.vector("v", empty) as v, b.unrolled("j", group.blocks) as j, b.unrolled("t", spot.pixels) as t:
                block = q * self.group_blocks + g * group.blocks + j + group.first
                place = self.grid.place([*spot.rows, spot.start + t])
                self.put((n, block, *place, v + group.lanes), j, lift(0.0, self.ctx.output.type.dtype))

    def put(self, point: tuple[IndexLike, ...], j: Var, value: Expr) -> None:
        """Store a finished element, of block `j` of the tile's."""
        self.ctx.write(point, value)

    def has_lanes(self) -> bool:
        """Whether channels are gone through by blocks and, in these, by lanes."""
        return self.in_block > 1

    def has_parts(self) -> bool:
        """Whether the sums are long, and added up part by part."""
        return self.in_block > 1 and sum(count for _, count, _, lanes in self.runs() if lanes == self.in_block) > 1

    def image_bytes(self) -> int:
        """Of one image of the input."""
        return self.x.operand.type.nbytes // max(1, self.ctx.output.shape[0])

    def streams_image(self) -> bool:
        """Whether a 1x1 convolution's input comes from afar: short runs of pixels in many places.

        Where that is far, it is asked for in any case: little is lost if it has been near.
        """
        if self.ctx.target.l3_is_slow:
            return self.geometry.has_one_tap
        far = self.image_bytes() > self.ctx.target.l2_bytes
        return far and self.geometry.is_pointwise and self.geometry.rank == 1 and self.groups == 1

    def streams_rows(self) -> bool:
        """Whether a plain image of few channels comes from afar: a few lines in each of many rows."""
        few = self.in_channels <= _FEW_CHANNELS and self.geometry.rank == 2
        return few and not self.geometry.is_pointwise and self.image_bytes() > self.ctx.target.l1_bytes

    def streams_weights(self) -> bool:
        """Whether the weights come from afar, and few pixels share the time until the next ones are needed."""
        pixels = self.ctx.output.shape[0] * math.prod(self.grid.extents)
        if self.ctx.target.l3_is_slow:
            return self.weights.nbytes > self.ctx.target.l1_bytes and pixels <= _SOME_PIXELS
        return self.weights.nbytes > self.ctx.target.l2_bytes // 2 and pixels <= _FEW_PIXELS

    def runs(self) -> list[tuple[int, int, int, int]]:
        """(first, count, length, lanes) of the parts of a sum: of so many input channel blocks, of so many lanes."""
        blocks, rest = divmod(self.in_channels, self.in_block)
        products = math.prod(self.geometry.kernel) * self.in_block
        whole = [(*part, self.in_block) for part in parts(blocks, products)] if blocks else []
        return [*whole, (blocks, 1, 1, rest)] if rest else whole

    def packed(self, blocks: Pieces, lanes: int) -> Buffer:
        """The weights of channel groups, as `weight` reads them."""
        return self.ctx.constant(self.pack(blocks)[..., :lanes], "w")

    def pack(self, blocks: Pieces) -> Array:
        """[groups, count, in blocks, *taps, in lanes, per_group, block]; for plain inputs *taps come before C."""
        weights, block, (first, count, per_group) = self.weights, self.block, blocks
        per_conv = weights.shape[0] // self.groups
        taps = weights.shape[2:]
        split = weights.reshape(self.groups, per_conv, self.in_channels, *taps)
        in_blocks = -(-self.in_channels // self.in_block)
        full = _widened(split, self.group_blocks * block, in_blocks * self.in_block)
        part = full[:, first * block : blocks.stop * block]
        part = part.reshape(self.groups, count, per_group, block, in_blocks, self.in_block, *taps)
        rank = len(taps)
        # [q, g, j, v, c, i, *k] -> [q, g, c, *k, i, j, v]
        order = [0, 1, 4, *range(6, 6 + rank), 5, 2, 3]
        if self.has_lanes():
            return part.transpose(order)
        # [q, g, j, v, c, 1, *k] -> [q, g, *k, c, j, v]
        return part.squeeze(5).transpose(0, 1, *range(5, 5 + rank), 4, 2, 3)

    def pack_bias(self, blocks: Pieces) -> Array:
        first, count, per_group = blocks
        per_conv = len(self.bias) // self.groups
        full = _widened(self.bias.reshape(self.groups, per_conv, 1), self.group_blocks * self.block, 1)
        part = full[:, first * self.block : blocks.stop * self.block]
        return part.reshape(self.groups, count, per_group, self.block)


def _widened(weights: Array, out_channels: int, in_channels: int) -> Array:
    """[groups, OC, C, *K] with zeros for channels that are missing; without a copy if none is."""
    groups, outs, ins, *taps = weights.shape
    if (outs, ins) == (out_channels, in_channels):
        return weights
    full = np.zeros((groups, out_channels, in_channels, *taps), weights.dtype)
    full[:, :outs, :ins] = weights
    return full
