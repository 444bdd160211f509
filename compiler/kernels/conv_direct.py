"""Direct convolution: a tile of output pixels times output-channel blocks stays in registers over the whole reduction.

Serves every kernel size, stride, dilation and rank, groups whose channels fill whole blocks, and inputs either in
channel blocks or plain (the first layer). Weights are packed per group of channel blocks in the order the reduction
reads them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass

import numpy as np

from glulam.compiler.graph.types import Array, Shape
from glulam.compiler.kernels.context import Context, Lowered, Point, View
from glulam.compiler.kernels.conv_geometry import ConvGeometry, Grid, Met
from glulam.compiler.kernels.conv_template import constant_weights, not_packable
from glulam.compiler.kernels.partial_sums import PartialSums, parts
from glulam.compiler.kernels.tiling import (
    Parts,
    Tiling,
    choose_tiling,
    pieces,
    row_cycles,
    runs,
    stream_rate,
    unrolled_steps,
)
from glulam.compiler.loops.expr import Const, Expr, Fma
from glulam.compiler.loops.ir import Affine, Buffer, Builder, IndexLike, Tile, Var
from glulam.compiler.targets import Target

Step = Callable[[tuple[IndexLike, ...], tuple[IndexLike, ...], int], None]
LookAhead = Callable[[tuple[IndexLike, ...], Affine, int], None]

SAVED = 1 / 12  # of the products, if they meet only padding, is worth code of its own for some rows or columns
_MANY_BLOCKS = 4  # of channels, so that the next one is mostly another one of the same pixels
_FEW_PIXELS = 200  # of an image that is done with a group of weights before the next group has arrived


def accepts(ctx: Context, geometry: ConvGeometry) -> str | None:
    """None if the template serves this convolution, else why not."""
    if (why := not_packable(ctx)) is not None:
        return why
    x, y = ctx.operand(0), ctx.output
    if geometry.groups == 1:
        return None
    block = y.layout.block
    if x.layout.block != block or (x.shape[1] // geometry.groups) % block or (y.shape[1] // geometry.groups) % block:
        return f"the channels of a group do not fill blocks of {block}"
    return None


def build(ctx: Context, geometry: ConvGeometry, tiling: Tiling | None = None) -> Lowered:
    """The kernel. Inputs: x[N,C,*S], w[OC,C/g,*K], b?[OC], then what the epilogue reads.

    The tile is the one with the fewest estimated cycles if none is given.
    """
    if geometry.is_pointwise and ctx.output.type.rank > 3 and (flat := ctx.flattened()) is not None:
        one = ConvGeometry((1,), (1,), (1,), ((0, 0),), geometry.groups)
        weights = constant_weights(ctx).reshape(*ctx.operand(1).shape[:2], 1)
        sections(flat, one, weights, Grid.whole(flat.output.spatial), tiling)
        return flat.finished()
    sections(ctx, geometry, constant_weights(ctx), Grid.whole(ctx.output.spatial), tiling)
    return ctx.finished()


def sections(ctx: Context, geometry: ConvGeometry, weights: Array, grid: Grid, tiling: Tiling | None = None) -> None:
    """The sections that compute the pixels of a grid; weights are [OC, C/g, *K]."""
    DirectConv(ctx, geometry, weights, grid).sections(tiling)


def cost(
    target: Target, batch: int, spatial: Shape, in_channels: int, out_channels: int, taps: int,
    tiling: Tiling | None = None,
) -> float:  # fmt: skip
    """Estimated cycles of the whole convolution on one core, with the best tile if none is given."""
    *outer, width = spatial
    blocks, half = whole_blocks(target, out_channels)
    depth = in_channels * taps
    again = second_reading(target, outer, blocks, depth)
    tiling = tiling or choose_tiling(target, width, blocks, depth, again)
    weights = depth * blocks * target.lanes * 4
    stream = weights / stream_rate(target, weights)
    cycles = row_cycles(target, tiling, width, blocks, depth)
    if half is not None:
        cycles += row_cycles(half, Tiling(tiling.pixels, 1), width, 1, depth)
    return batch * max(math.prod(outer) * cycles + (again if width % tiling.pixels else 0.0), stream)


def whole_blocks(target: Target, out_channels: int) -> tuple[int, Target | None]:
    """Channel blocks of whole vectors, and the target with half of them if one serves for the channels behind."""
    blocks, rest = divmod(out_channels, target.lanes)
    half = target.half
    if rest and blocks and half is not None and rest <= half.lanes:
        return blocks, half
    return blocks + (rest > 0), None


def second_reading(target: Target, outer: Sequence[int], blocks: int, depth: int) -> float:
    """Cycles to fetch all weights once more, which the pixels that fill no tile of a single long row need."""
    weights = depth * blocks * target.lanes * 4
    return 0.0 if outer or weights <= target.l2_bytes // 2 else weights / stream_rate(target, weights)


@dataclass(frozen=True)
class ChannelGroups:
    """`count` groups of so many channel blocks each, from block `first` of each convolution group on.

    Of the blocks these `lanes` are computed, and the others hold zeros.
    """

    first: int
    blocks: int
    count: int
    lanes: int
    packed: Buffer
    bias: Buffer


class DirectConv:
    """The nest of loops; a subclass may put the results elsewhere."""

    def __init__(self, ctx: Context, geometry: ConvGeometry, weights: Array, grid: Grid | None = None) -> None:
        self.ctx, self.geometry, self.weights = ctx, geometry, weights
        self.grid = grid or Grid.whole(ctx.output.spatial)
        self.b: Builder = ctx.builder
        self.block = ctx.output.layout.block
        self.groups = geometry.groups
        self.x: View = ctx.input_view(0)
        self.in_block = self.x.operand.layout.block
        self.in_channels = weights.shape[1]
        self.group_blocks = -(-ctx.output.shape[1] // self.groups // self.block)
        self.share = Affine.of(0)  # which share of the next weights the tile in hand asks for
        self.sums: dict[tuple[int, ...], Buffer] = {}  # by the shape of the tile
        self.taps = list(map(range, geometry.kernel))  # that the tile in hand meets, in each dimension
        self.pixels = self.fmas = 0  # of the tile in hand; FMAs of one step
        self.image_level = 1  # the cache that the next pixels are brought to
        bias = ctx.data(2)
        self.bias = np.zeros(ctx.output.shape[1], np.float32) if bias is None else bias

    def sections(self, tiling: Tiling | None = None) -> None:
        """All output channels at the pixels of the grid."""
        ctx = self.ctx
        *outer, width = self.grid.extents
        taps = math.prod(self.geometry.kernel)
        depth = self.in_channels * taps
        again = second_reading(ctx.target, outer, self.group_blocks, depth)

        def parts(tiling: Tiling) -> Parts:
            rows = ctx.output.shape[0] * self.groups * -(-self.group_blocks // tiling.blocks)
            return Parts(rows * math.prod(outer)) if outer else Parts.of(rows, width, tiling.pixels)

        whole, half = (self.group_blocks, None) if self.groups > 1 else whole_blocks(ctx.target, len(self.weights))
        tiling = tiling or choose_tiling(ctx.target, width, whole, depth, again, parts=parts)
        ctx.output_view()
        groups = [self.group(*each) for each in tiling.channel_groups(whole)]
        if half is not None:
            groups.append(self.group(whole, 1, 1, half.lanes))
        # The second and later ones find the pixels in L2.
        self.image_level = 2 if sum(group.count for group in groups) == 1 else 1
        if not outer and width // tiling.pixels > 1:
            self.flat(groups, *divmod(width, tiling.pixels), tiling.pixels)
        else:
            self.rows(groups, outer, width, tiling)

    def group(self, first: int, blocks: int, count: int, lanes: int | None = None) -> ChannelGroups:
        """Channel groups with their weights and bias; of all lanes if no number is given."""
        lanes = lanes or self.block
        packed = self.ctx.constant(self.pack(first, blocks, count)[..., :lanes], "w")
        bias = self.ctx.constant(self.pack_bias(first, blocks, count)[..., :lanes], "b", table=self.ctx.data(2) is None)
        return ChannelGroups(first, blocks, count, lanes, packed, bias)

    def flat(self, groups: Sequence[ChannelGroups], full: int, rest: int, pixels: int) -> None:
        """So many full tiles, and some pixels, along the only dimension."""
        batch = self.ctx.output.shape[0]
        for begin, times, length in runs(full, self.chunk(full), together=len(groups) == 1):
            for group in groups:
                with self.b.section(n=batch, q=self.groups, h=times, g=group.count, s=length) as (n, q, h, g, s):
                    self.share = Affine.of(s)
                    self.tile(group, (n, q, g), (), (h * length + s + begin) * pixels, pixels)
        if rest:
            for group in groups:
                with self.b.section(n=batch, q=self.groups, g=group.count) as (n, q, g):
                    self.share = Affine.of(full)
                    self.tile(group, (n, q, g), (), Affine.of(full * pixels), rest)

    def rows(self, groups: Sequence[ChannelGroups], outer: Sequence[int], width: int, tiling: Tiling) -> None:
        """Tiles along the last of several dimensions."""
        columns = self.columns(width, tiling)
        if not outer:
            self.band(groups, Met(0, 1, range(1)), (), columns, tiling.pixels)
        for band in self.bands(outer, width, tiling) if outer else []:
            self.taps[0] = band.taps
            self.band(groups, band, outer[1:], columns, tiling.pixels)

    def band(
        self, groups: Sequence[ChannelGroups], band: Met, others: Sequence[int], columns: Sequence[Met], pixels: int
    ) -> None:
        """The rows of a band; there may be no rows, but only columns."""
        extents = {f"o{d}": extent for d, extent in enumerate(others, 1)}
        for begin, times, length in runs(band.count, self.run(band.count), together=len(groups) == 1):
            for group in groups:
                space = {"n": self.ctx.output.shape[0], "h": times, "q": self.groups, "g": group.count, "o0": length}
                with self.b.section(**space, **extents) as (n, h, q, g, o, *inner):
                    rows = [h * length + o + (band.first + begin), *map(Affine.of, inner)][: self.geometry.rank - 1]
                    self.share = rows[-1] if rows else Affine.of(0)
                    for each in columns:
                        self.taps[-1] = each.taps
                        for first, count, wide in pieces(each.count, pixels):
                            with self.b.serial("s", count) as s:
                                self.tile(group, (n, q, g), rows, s * wide + (each.first + first), wide)

    def bands(self, outer: Sequence[int], width: int, tiling: Tiling) -> list[Met]:
        """The rows of the first dimension, by the rows of taps that meet more than padding.

        All as one if that saves too little, since weights beyond the second-level cache are fetched for each band.
        """
        found, height, taps = self.met(0, outer[0]), outer[0], self.geometry.kernel[0]
        target, weights, depth = self.ctx.target, self.weights.nbytes, self.weights[0].size
        whole = math.prod(outer) * row_cycles(target, tiling, width, self.group_blocks, depth) * self.groups
        saved = whole * (1 - sum(band.count * len(band.taps) for band in found) / max(1, height * taps))
        again = weights / stream_rate(target, weights) if weights > target.l2_bytes // 2 else 0.0
        split = saved - (len(found) - 1) * again > SAVED * whole
        return found if split else [Met(0, height, range(taps))]

    def columns(self, width: int, tiling: Tiling) -> list[Met]:
        """The same for columns, where tiles must not become too narrow."""
        taps = self.geometry.kernel[-1]

        def cycles(columns: Sequence[Met]) -> float:
            depth = self.weights[0].size // taps
            tiles = [
                (Tiling(min(tiling.pixels, c.count), tiling.blocks), c.count, depth * len(c.taps)) for c in columns
            ]
            return sum(row_cycles(self.ctx.target, tile, n, self.group_blocks, deep) for tile, n, deep in tiles)

        found, whole = self.met(self.geometry.rank - 1, width), [Met(0, width, range(taps))]
        return found if cycles(found) < (1 - SAVED) * cycles(whole) else whole

    def met(self, d: int, outputs: int) -> list[Met]:
        return self.geometry.met(d, outputs, self.x.operand.spatial[d])

    def tile(
        self, group: ChannelGroups, where: tuple[Var, Var, Var], rows: Sequence[IndexLike], start: Affine, pixels: int
    ) -> None:
        """One register tile: start from the bias, reduce, finish, store."""
        b, (n, q, g), packed, bias, per_group = self.b, where, group.packed, group.bias, group.blocks
        self.pixels, self.fmas = pixels, pixels * per_group
        self.empty_lanes(group, where, rows, start, pixels)
        with b.vector("v", group.lanes) as v:
            acc = b.tile("acc", pixels, per_group)
            sums = self.partial_sums(acc, v)
            if sums is not None:
                sums.start(lambda t, j: bias[q, g, j, v])
            else:
                with b.unrolled("j", per_group) as j, b.unrolled("t", pixels) as t:
                    b.store(acc[t, j], bias[q, g, j, v])

            def step(point: tuple[IndexLike, ...], weight: tuple[IndexLike, ...], strides: int) -> None:
                with b.unrolled("t", pixels) as t, b.unrolled("j", per_group) as j:
                    *head, last = point[2:] if self.in_block == 1 else point[2:-1]
                    lane = () if self.in_block == 1 else (point[-1],)
                    place = (*point[:2], *head, t * strides + last, *lane)
                    value = Fma(self.x[place], packed[(q, g, *weight, j, v)], acc[t, j])
                    b.store(acc[t, j], value)

            def look_ahead(taps: tuple[IndexLike, ...], channel: Affine, unroll: int) -> None:
                """Ask for the next group's weights: at once if there are few, else for another share in each tile."""
                at_once = packed.strides[1] * 4 <= self.ctx.target.l2_bytes // 8
                shares = [Affine.of(k) for k in range(unroll)] if at_once else [self.share]
                with b.unrolled("j", per_group) as j:
                    for share in shares:
                        b.prefetch(packed[(q, g + 1, *taps, channel + share, j, 0)])

            flush = None if sums is None else sums.flush
            self.reduce((n, q), rows, start, step, look_ahead if self.streams_weights() else None, flush)
            with b.unrolled("j", per_group) as j, b.unrolled("t", pixels) as t:
                block = q * self.group_blocks + g * per_group + j + group.first
                point: Point = (n, block, *self.grid.place([*rows, start + t]), v)
                total = acc[t, j] if sums is None else sums.total(t, j)
                self.put(point, j, self.ctx.finish(total, point))

    def empty_lanes(
        self, group: ChannelGroups, where: tuple[Var, Var, Var], rows: Sequence[IndexLike], start: Affine, pixels: int
    ) -> None:
        """Zeros in the lanes of a tile that are not computed."""
        b, (n, q, g), empty = self.b, where, self.block - group.lanes
        if empty:
            with b.vector("v", empty) as v, b.unrolled("j", group.blocks) as j, b.unrolled("t", pixels) as t:
                block = q * self.group_blocks + g * group.blocks + j + group.first
                self.put((n, block, *self.grid.place([*rows, start + t]), v + group.lanes), j, Const(0.0))

    def partial_sums(self, acc: Tile, v: Var) -> PartialSums | None:
        """Where the tile's sums go part by part, if they are long."""
        if self.in_block == 1 or sum(count for _, count, _, lanes in self.runs() if lanes == self.in_block) < 2:
            return None
        return PartialSums.of(self.b, self.sums, acc, v)

    def run(self, count: int) -> int:
        """How many of `count` rows, or tiles, go through all channel groups before the next ones do."""
        return self.ctx.run(count, self.weights.nbytes)

    def chunk(self, tiles: int) -> int:
        """How many of a flat image's tiles are one run: fewer if the image overflows the second-level cache.

        Unless the weights, which are then read for each, are many.
        """
        l2, image = self.ctx.target.l2_bytes, self.image_bytes()
        if image <= l2 // 2 or self.weights.nbytes > l2 // 4:
            return self.run(tiles)
        return max(1, tiles // -(-image // (l2 // 4)))

    def image_bytes(self) -> int:
        """Of one image of the input."""
        return self.x.operand.type.nbytes // max(1, self.ctx.output.shape[0])

    def streams_image(self) -> bool:
        """Whether a 1x1 convolution's input comes from afar: short runs of pixels in many places."""
        far = self.image_bytes() > self.ctx.target.l2_bytes
        return far and self.geometry.is_pointwise and self.geometry.rank == 1 and self.groups == 1

    def prefetch_image(self, n: Var, block: Affine, start: Affine, part: Var, parts: int) -> None:
        """Ask for one of `parts` of the tile's pixels in the next channel block; of few blocks, the next tile's."""
        count = -(-self.pixels // parts)
        with self.b.unrolled("a", count) as a:
            place = start + part * count + a
            if self.in_channels >= _MANY_BLOCKS * self.in_block:
                self.b.prefetch(self.x[n, block + 1, place, 0])
            else:
                self.b.prefetch(self.x[n, block, place + self.pixels, 0], self.image_level)

    def streams_weights(self) -> bool:
        """Whether the weights come from afar, and few pixels share the time until the next ones are needed."""
        pixels = self.ctx.output.shape[0] * math.prod(self.grid.extents)
        return self.weights.nbytes > self.ctx.target.l2_bytes // 2 and pixels <= _FEW_PIXELS

    def put(self, point: tuple[IndexLike, ...], j: Var, value: Expr) -> None:
        """Store a finished element, of block `j` of the tile's."""
        self.ctx.write(point, value)

    def reduce(
        self, where: tuple[Var, Var], rows: Sequence[IndexLike], start: Affine, step: Step,
        look_ahead: LookAhead | None = None, flush: Callable[[], None] | None = None,
    ) -> None:  # fmt: skip
        """Loops over input channels and kernel taps around `step(input point, weight index, pixel stride)`.

        `look_ahead(weight index, channel, count)` is called once for the `count` channels that are unrolled together,
        `flush` at the end of each part of the sum.
        """
        geo, (n, q) = self.geometry, where
        places = [Affine.of(r) for r in rows] + [start]

        def spatial(taps: Sequence[IndexLike]) -> list[IndexLike]:
            return [
                place * s + Affine.of(k) * d - pad
                for place, s, k, d, (pad, _) in zip(places, geo.strides, taps, geo.dilations, geo.pads, strict=True)
            ]

        if self.in_block == 1:
            with ExitStack() as stack:
                taps = self.tap_loops(stack)
                unroll = unrolled_steps(self.in_channels, self.fmas)
                i = stack.enter_context(self.b.serial("i", self.in_channels // unroll))
                u = stack.enter_context(self.b.unrolled("u", unroll))
                channel = q * self.in_channels + i * unroll + u
                step((n, channel, *spatial(taps)), (*taps, i * unroll + u), geo.strides[-1])
            return
        group_blocks = self.in_channels // self.in_block if self.groups > 1 else 0
        for first, count, length, lanes in self.runs():
            with self.b.serial("p", count) as p:
                with ExitStack() as stack:
                    c = stack.enter_context(self.b.serial("c", length)) + p * length + first
                    taps = self.tap_loops(stack)
                    unroll = unrolled_steps(lanes, self.fmas)
                    i = stack.enter_context(self.b.serial("i", lanes // unroll))
                    if self.streams_image():
                        self.prefetch_image(n, c, start, i, lanes // unroll)
                    if look_ahead is not None:
                        look_ahead((c, *taps), i * unroll, unroll)
                    u = stack.enter_context(self.b.unrolled("u", unroll))
                    channel = (c, *taps, i * unroll + u)
                    step((n, q * group_blocks + c, *spatial(taps), i * unroll + u), channel, geo.strides[-1])
                if flush is not None:
                    flush()

    def tap_loops(self, stack: ExitStack) -> list[Affine]:
        """Loops over the taps that the tile in hand meets."""
        return [stack.enter_context(self.b.serial("k", len(taps))) + taps.start for taps in self.taps]

    def runs(self) -> list[tuple[int, int, int, int]]:
        """(first, count, length, lanes) of the parts of a sum: of so many input channel blocks, of so many lanes."""
        blocks, rest = divmod(self.in_channels, self.in_block)
        products = math.prod(self.geometry.kernel) * self.in_block
        whole = [(*part, self.in_block) for part in parts(blocks, products)] if blocks else []
        return [*whole, (blocks, 1, 1, rest)] if rest else whole

    def pack(self, first: int, per_group: int, count: int) -> Array:
        """[groups, count, in blocks, *taps, in lanes, per_group, block]; for plain inputs *taps come before C."""
        weights, block = self.weights, self.block
        per_conv = weights.shape[0] // self.groups
        taps = weights.shape[2:]
        split = weights.reshape(self.groups, per_conv, self.in_channels, *taps)
        in_blocks = -(-self.in_channels // self.in_block)
        full = _widened(split, self.group_blocks * block, in_blocks * self.in_block)
        part = full[:, first * block : (first + per_group * count) * block]
        part = part.reshape(self.groups, count, per_group, block, in_blocks, self.in_block, *taps)
        rank = len(taps)
        # [q, g, j, v, c, i, *k] -> [q, g, c, *k, i, j, v]
        order = [0, 1, 4, *range(6, 6 + rank), 5, 2, 3]
        if self.in_block > 1:
            return part.transpose(order)
        # [q, g, j, v, c, 1, *k] -> [q, g, *k, c, j, v]
        return part.squeeze(5).transpose(0, 1, *range(5, 5 + rank), 4, 2, 3)

    def pack_bias(self, first: int, per_group: int, count: int) -> Array:
        per_conv = len(self.bias) // self.groups
        full = _widened(self.bias.reshape(self.groups, per_conv, 1), self.group_blocks * self.block, 1)
        part = full[:, first * self.block : (first + per_group * count) * self.block]
        return part.reshape(self.groups, count, per_group, self.block)


def _widened(weights: Array, out_channels: int, in_channels: int) -> Array:
    """[groups, OC, C, *K] with zeros for channels that are missing; without a copy if none is."""
    groups, outs, ins, *taps = weights.shape
    if (outs, ins) == (out_channels, in_channels):
        return weights
    full = np.zeros((groups, out_channels, in_channels, *taps), np.float32)
    full[:, :outs, :ins] = weights
    return full
