"""Direct convolution: a tile of output pixels times output-channel blocks stays in registers over the whole reduction.

Serves every kernel size, stride, dilation and rank, groups whose channels fill whole blocks, and inputs either in
channel blocks or plain (the first layer). Weights are packed per group of channel blocks in the order the reduction
reads them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

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
from glulam.compiler.loops.ir import Affine, Bounded, Buffer, Builder, IndexLike, IndexValue, Tile, Var
from glulam.compiler.targets import Target

SAVED = 1 / 12  # of the products, if they meet only padding, is worth code of its own for some columns
_MANY_BLOCKS = 4  # of channels, so that the next one is mostly another one of the same pixels
_DEEP = 3  # weights of a group that take more than this part of the second-level cache are gone through in parts
_SUMS = 16  # part of that cache that their sums may take
_UNEVEN = 1.05  # times its share that a thread may have to do, so that they can
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


class Where(NamedTuple):
    """For which channels of which image: a group of channel blocks, number `g` of convolution group `q`."""

    group: ChannelGroups
    n: Var
    q: Var
    g: Var


@dataclass(frozen=True)
class Spot:
    """Where a register tile lies: `pixels` in a row, from `start` on.

    `local` is where its first pixel lies among all those of its iteration.
    """

    where: Where
    rows: Sequence[Affine]
    start: Affine
    pixels: int
    local: tuple[IndexLike, ...] = ()

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


Visit = Callable[[Spot], None]


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
        self.sums: dict[tuple[int, ...], Buffer] = {}  # by the shape of the tile, or of all tiles of an iteration
        self.taps = range(geometry.kernel[-1])  # of a row, that the tile in hand meets
        padded = self.in_block > 1 or self.x.operand.layout.has_halo
        self.bare = not padded and not geometry.stays_inside(self.grid.extents, self.x.operand.spatial)
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
        if not outer and width // tiling.pixels > 1 and not self.bare:
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
        batch, run = self.ctx.output.shape[0], self.chunk(full)
        deep = self.deep_run(groups, full, run, 1, pixels)
        last = rest if deep >= full else 0
        for begin, times, length in runs(full, deep or run, together=len(groups) == 1 or deep > 0):
            for group in groups:
                extents = {} if deep else {"s": length}
                with self.b.section(n=batch, q=self.groups, h=times, g=group.count, **extents) as (n, q, h, g, *inner):
                    where = Where(group, n, q, g)
                    tiles = partial(self.flat_tiles, where, inner, h * length + begin, length, pixels, last)
                    self.iteration(where, tiles, (length * pixels + last,) if deep else None)
        if rest > last:
            for group in groups:
                with self.b.section(n=batch, q=self.groups, g=group.count) as (n, q, g):
                    self.share = Affine.of(full)
                    self.tile(Spot(Where(group, n, q, g), (), Affine.of(full * pixels), rest))

    def flat_tiles(
        self, where: Where, opened: Sequence[Var], begin: Affine, count: int, pixels: int, last: int, visit: Visit
    ) -> None:
        """`count` tiles from tile `begin` on, and one of the `last` pixels behind them, if any."""
        with self.loops((count,), opened) as (s,):
            self.share = Affine.of(s)
            visit(Spot(where, (), (begin + s) * pixels, pixels, (s * pixels,)))
        if last:
            self.share = Affine.of(count)
            visit(Spot(where, (), (begin + count) * pixels, last, (Affine.of(count * pixels),)))

    def rows(self, groups: Sequence[ChannelGroups], outer: Sequence[int], width: int, tiling: Tiling) -> None:
        """Tiles along the last of several dimensions."""
        columns = self.columns(width, tiling)
        count, *others = outer or [1]
        run = self.run(count)
        deep = self.deep_run(
            groups, count, run, math.prod(others) * -(-width // tiling.pixels), math.prod(others) * width
        )
        for begin, times, length in runs(count, deep or run, together=len(groups) == 1 or deep > 0):
            extents = (length, *others)
            inner = {} if deep else {f"o{d}": extent for d, extent in enumerate(extents)}
            for group in groups:
                space = {"n": self.ctx.output.shape[0], "h": times, "q": self.groups, "g": group.count}
                with self.b.section(**space, **inner) as (n, h, q, g, *opened):
                    where = Where(group, n, q, g)
                    first = h * length + begin if outer else None
                    tiles = partial(self.row_tiles, where, opened, first, extents, columns, tiling.pixels)
                    self.iteration(where, tiles, (*extents, width) if deep else None)

    def row_tiles(
        self, where: Where, opened: Sequence[Var], first: Affine | None, extents: Shape, columns: Sequence[Met],
        pixels: int, visit: Visit,
    ) -> None:  # fmt: skip
        """All tiles of the rows of so many `extents`, from row `first` on; there may be no rows, but only columns."""
        with self.loops(extents, opened) as place:
            rows = [] if first is None else [first + place[0], *map(Affine.of, place[1:])]
            self.share = rows[-1] if rows else Affine.of(0)
            for each in columns:
                self.taps = each.taps
                for begin, count, wide in pieces(each.count, pixels):
                    with self.b.serial("s", count) as s:
                        start = s * wide + (each.first + begin)
                        visit(Spot(where, rows, start, wide, (*place, start)))

    @contextmanager
    def loops(self, extents: Shape, opened: Sequence[Var]) -> Iterator[Sequence[Var]]:
        """Serial loops, unless they are `opened` already, as the section's own."""
        with ExitStack() as stack:
            yield opened or [stack.enter_context(self.b.serial(f"o{d}", extent)) for d, extent in enumerate(extents)]

    def deep_run(self, groups: Sequence[ChannelGroups], count: int, run: int, tiles: int, pixels: int) -> int:
        """How many of `count` rows of so many `tiles` and `pixels`, at most `run`, add up part by part together.

        As many as leave each thread its share, and keep their sums in a cache; 0 if none do.
        """
        target, widest = self.ctx.target, max(groups, key=lambda group: group.blocks)
        weights = self.weights[0].nbytes * widest.blocks * widest.lanes
        if not self.has_parts() or weights <= target.l2_bytes // _DEEP:
            return 0
        images = self.ctx.output.shape[0] * self.groups
        smaller = [group for group in groups if group.blocks < widest.blocks or group.lanes < widest.lanes]
        sums = pixels * widest.blocks * widest.lanes * 4
        fit = max(1, min(run, target.l2_bytes // _SUMS // sums))
        for times in range(-(-count // fit), count + 1):
            length = -(-count // times)
            rounds = -(-count // length) * images
            parts = Parts(
                widest.count * rounds,
                sum(group.count for group in smaller) * rounds,
                max((group.blocks / widest.blocks for group in smaller), default=0.0),
            )
            if length * tiles < 2:
                return 0
            if parts.busiest(target.threads) <= _UNEVEN:
                return length
        return 0

    def iteration(self, where: Where, tiles: Callable[[Visit], None], pixels: Shape | None) -> None:
        """Register tiles one by one; or, if `pixels` says how many they have together, all of them part by part.

        Then the weights of a part stay in the first caches while all tiles meet them.
        """
        if pixels is None:
            tiles(self.tile)
            return
        b, group, shape = self.b, where.group, (*pixels, where.group.blocks, where.group.lanes)
        if shape not in self.sums:
            self.sums[shape] = b.scratch(f"sums{len(self.sums)}", shape)
        kept = self.sums[shape]

        def begin(spot: Spot) -> None:
            *outer, first = spot.local
            with b.vector("v", group.lanes) as v, b.unrolled("t", spot.pixels) as t, b.unrolled("j", group.blocks) as j:
                b.store(kept[(*outer, first + t, j, v)], group.bias[where.q, where.g, j, v])

        def add(part: Part, spot: Spot) -> None:
            with b.vector("v", group.lanes) as v:
                acc = b.tile("acc", spot.pixels, group.blocks)
                sums = PartialSums(b, kept, lambda t, j: acc[t, j], v, spot.pixels, spot.local)
                sums.clear()
                self.add_part(spot, part, acc, v, Ahead(0, part.blocks))
                sums.add()

        def end(spot: Spot) -> None:
            *outer, first = spot.local
            with b.vector("v", group.lanes) as v:
                self.finish(spot, v, lambda t, j: kept[(*outer, first + t, j, v)])
            self.empty_lanes(spot)

        tiles(begin)
        for first, count, length, lanes in self.runs():
            with b.serial("p", count) as p:
                tiles(partial(add, Part(p * length + first, length, lanes)))
        tiles(end)

    def columns(self, width: int, tiling: Tiling) -> list[Met]:
        """The columns, by the taps of a row that meet more than padding.

        All as one if that saves too little, since tiles must not become too narrow; unless there is no padding.
        """
        taps = self.geometry.kernel[-1]

        def cycles(columns: Sequence[Met]) -> float:
            depth = self.weights[0].size // taps
            tiles = [
                (Tiling(min(tiling.pixels, c.count), tiling.blocks), c.count, depth * len(c.taps)) for c in columns
            ]
            return sum(row_cycles(self.ctx.target, tile, n, self.group_blocks, deep) for tile, n, deep in tiles)

        found, whole = self.geometry.met(-1, width, self.x.operand.spatial[-1]), [Met(0, width, range(taps))]
        return found if self.bare or cycles(found) < (1 - SAVED) * cycles(whole) else whole

    def tile(self, spot: Spot) -> None:
        """One register tile: start from the bias, reduce, finish, store."""
        b, (group, _, q, g) = self.b, spot.where
        with b.vector("v", group.lanes) as v:
            acc = b.tile("acc", spot.pixels, group.blocks)
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
            self.finish(spot, v, (lambda t, j: acc[t, j]) if sums is None else sums.total)
        self.empty_lanes(spot)

    def add_plain(self, spot: Spot, acc: Tile, v: Var) -> None:
        """Add the products with all channels of a plain input to a tile."""
        b, (_, n, q, _) = self.b, spot.where
        with ExitStack() as stack:
            taps = self.tap_loops(spot, stack)
            unroll = unrolled_steps(self.in_channels, math.prod(acc.shape))
            i = stack.enter_context(b.serial("i", self.in_channels // unroll))
            u = stack.enter_context(b.unrolled("u", unroll))
            channel = i * unroll + u
            self.add(spot, acc, v, (n, q * self.in_channels + channel), (), taps, (*taps, channel))

    def add_part(self, spot: Spot, part: Part, acc: Tile, v: Var, ahead: Ahead) -> None:
        """Add a part of the products to a tile, and ask for weights that are needed later, if they come from afar."""
        b, (group, n, q, g) = self.b, spot.where
        group_blocks = self.in_channels // self.in_block if self.groups > 1 else 0
        with ExitStack() as stack:
            c = part.first + stack.enter_context(b.serial("c", part.blocks))
            taps = self.tap_loops(spot, stack)
            unroll = unrolled_steps(part.lanes, math.prod(acc.shape))
            i = stack.enter_context(b.serial("i", part.lanes // unroll))
            if self.streams_image():
                self.prefetch_image(spot, n, c, i, part.lanes // unroll)
            if self.streams_weights():
                place = (Affine.of(q), g + ahead.groups, c + ahead.blocks, *taps)
                self.prefetch_weights(group, place, i * unroll, unroll)
            channel = i * unroll + stack.enter_context(b.unrolled("u", unroll))
            self.add(spot, acc, v, (n, q * group_blocks + c), (channel,), taps, (c, *taps, channel))

    def add(
        self, spot: Spot, acc: Tile, v: Var, channel: tuple[IndexLike, Affine], lane: tuple[Affine, ...],
        taps: Sequence[Affine], weight: tuple[Affine, ...],
    ) -> None:  # fmt: skip
        """Add the products of one channel, which lies at `channel` and, in blocks, at `lane`, for one tap."""
        b, geo, where = self.b, self.geometry, spot.where
        with b.unrolled("t", spot.pixels) as t, b.unrolled("j", where.group.blocks) as j:
            *outer, start = spot.place
            place = self.inside(geo.input_place([*outer, start + t], taps))
            factor = where.group.packed[(where.q, where.g, *weight, j, v)]
            b.store(acc[t, j], Fma(self.x[(*channel, *place, *lane)], factor, acc[t, j]))

    def inside(self, place: list[Affine]) -> Sequence[IndexLike]:
        """Where the input is read: loops over taps leave out what lies beyond its rows, if there is no padding."""
        if not self.bare:
            return place
        ends = zip(place, self.x.operand.spatial, strict=True)
        bounded = [(each, extent, each.bounds()) for each, extent in ends]
        return [e if low >= 0 and high < n else Bounded(IndexValue(e), n) for e, n, (low, high) in bounded]

    def tap_loops(self, spot: Spot, stack: ExitStack) -> list[Affine]:
        """Loops over the taps that a tile meets."""
        rows = self.geometry.tap_loops(self.b, stack, spot.rows, self.x.operand.spatial)
        return [*rows, stack.enter_context(self.b.serial("k", len(self.taps))) + self.taps.start]

    def prefetch_image(self, spot: Spot, n: Var, block: Affine, part: Var, parts: int) -> None:
        """Ask for one of `parts` of the tile's pixels in the next channel block; of few blocks, the next tile's."""
        count = -(-spot.pixels // parts)
        with self.b.unrolled("a", count) as a:
            place = spot.start + part * count + a
            if self.in_channels >= _MANY_BLOCKS * self.in_block:
                self.b.prefetch(self.x[n, block + 1, place, 0])
            else:
                self.b.prefetch(self.x[n, block, place + spot.pixels, 0], self.image_level)

    def prefetch_weights(self, group: ChannelGroups, place: tuple[Affine, ...], channel: Affine, unroll: int) -> None:
        """Ask for a group's weights that are needed later: at once if there are few, else for a share in each tile."""
        at_once = group.packed.strides[1] * 4 <= self.ctx.target.l2_bytes // 8
        shares = [Affine.of(k) for k in range(unroll)] if at_once else [self.share]
        with self.b.unrolled("j", group.blocks) as j:
            for share in shares:
                self.b.prefetch(group.packed[(*place, channel + share, j, 0)])

    def finish(self, spot: Spot, v: Var, total: Callable[[Var, Var], Expr]) -> None:
        """Store a tile of sums, `total(pixel, block)`, with what the epilogue makes of them."""
        (group, n, q, g), b = spot.where, self.b
        with b.unrolled("j", group.blocks) as j, b.unrolled("t", spot.pixels) as t:
            block = q * self.group_blocks + g * group.blocks + j + group.first
            point: Point = (n, block, *self.grid.place([*spot.rows, spot.start + t]), v)
            self.put(point, j, self.ctx.finish(total(t, j), point))

    def empty_lanes(self, spot: Spot) -> None:
        """Zeros in the lanes of a tile that are not computed."""
        (group, n, q, g), b = spot.where, self.b
        if empty := self.block - group.lanes:
            with b.vector("v", empty) as v, b.unrolled("j", group.blocks) as j, b.unrolled("t", spot.pixels) as t:
                block = q * self.group_blocks + g * group.blocks + j + group.first
                place = self.grid.place([*spot.rows, spot.start + t])
                self.put((n, block, *place, v + group.lanes), j, Const(0.0))

    def put(self, point: tuple[IndexLike, ...], j: Var, value: Expr) -> None:
        """Store a finished element, of block `j` of the tile's."""
        self.ctx.write(point, value)

    def has_parts(self) -> bool:
        """Whether the sums are long, and added up part by part."""
        return self.in_block > 1 and sum(count for _, count, _, lanes in self.runs() if lanes == self.in_block) > 1

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

    def streams_weights(self) -> bool:
        """Whether the weights come from afar, and few pixels share the time until the next ones are needed."""
        pixels = self.ctx.output.shape[0] * math.prod(self.grid.extents)
        return self.weights.nbytes > self.ctx.target.l2_bytes // 2 and pixels <= _FEW_PIXELS

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
