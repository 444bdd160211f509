"""Direct convolution: a tile of output pixels times output-channel blocks stays in registers over the whole reduction.

Serves every kernel size, stride, dilation and rank, groups whose channels fill whole blocks, and inputs either in
channel blocks or plain (the first layer). The tile itself is in `conv_tile`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial

from glulam.compiler.graph.types import Array, Shape
from glulam.compiler.kernels.context import Context, Lowered
from glulam.compiler.kernels.conv_geometry import ConvGeometry, Grid
from glulam.compiler.kernels.conv_template import constant_weights, in_one_row, not_packable
from glulam.compiler.kernels.conv_tile import Ahead, ChannelGroups, Columns, ConvTile, Part, Spot, Where
from glulam.compiler.kernels.partial_sums import PartialSums
from glulam.compiler.kernels.ranges import Parts, Pieces, runs
from glulam.compiler.kernels.rates import fetched, memory_rate, stream_rate
from glulam.compiler.kernels.tiling import Tiling, choose_tiling, row_cycles
from glulam.compiler.loops.index import Affine, Var
from glulam.compiler.targets import Target

_DEEP = 3  # weights of a group that take more than this part of the second-level cache are gone through in parts
_SUMS = 16  # part of that cache that their sums may take
_UNEVEN = 1.05  # times its share that a thread may have to do, so that they can

Visit = Callable[[Spot], None]


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
    ctx, geometry, weights = in_one_row(ctx, geometry, constant_weights(ctx))
    sections(ctx, geometry, weights, Grid.whole(ctx.output.spatial), tiling)
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
    blocks, narrow = whole_blocks(target, out_channels)
    depth = in_channels * taps
    again = second_reading(target, outer, blocks, depth)
    tiling = tiling or choose_tiling(target, width, blocks, depth, again)
    weights = depth * blocks * target.lanes * 4
    cycles = row_cycles(target, tiling, width, blocks, depth)
    if narrow is not None:
        cycles += row_cycles(narrow, Tiling(tiling.pixels, 1), width, 1, depth)
    computing = math.prod(outer) * cycles + (again if width % tiling.pixels else 0.0)
    rate = memory_rate(target, weights) if target.l3_is_slow else stream_rate(target, weights)
    return batch * fetched(target, computing, weights, rate)


def whole_blocks(target: Target, out_channels: int) -> tuple[int, Target | None]:
    """Channel blocks of whole vectors, and the target with half of them if one serves for the channels behind."""
    blocks, rest = divmod(out_channels, target.lanes)
    narrow = target.half_width
    if rest and blocks and narrow is not None and rest <= narrow.lanes:
        return blocks, narrow
    return blocks + (rest > 0), None


def second_reading(target: Target, outer: Sequence[int], blocks: int, depth: int) -> float:
    """Cycles to fetch all weights once more, which the pixels that fill no tile of a single long row need."""
    weights = depth * blocks * target.lanes * 4
    return 0.0 if outer or weights <= target.l2_bytes // 2 else weights / stream_rate(target, weights)


class DirectConv(ConvTile):
    """The nest of loops over the tiles of a grid of pixels."""

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

        whole, narrow = (self.group_blocks, None) if self.groups > 1 else whole_blocks(ctx.target, len(self.weights))
        tiling = tiling or choose_tiling(ctx.target, width, whole, depth, again, parts=parts)
        ctx.output_view()
        groups = [self.group(each) for each in tiling.channel_groups(whole)]
        if narrow is not None:
            groups.append(self.group(Pieces(whole, 1, 1), narrow.lanes))
        # The second and later ones find the pixels in L2.
        self.image_level = 2 if sum(group.count for group in groups) == 1 else 1
        if not outer and width // tiling.pixels > 1 and not self.bare:
            self.flat(groups, *divmod(width, tiling.pixels), tiling.pixels)
        else:
            self.rows(groups, outer, width, tiling)

    def flat(self, groups: Sequence[ChannelGroups], full: int, rest: int, pixels: int) -> None:
        """So many full tiles, and some pixels, along the only dimension."""
        batch, run = self.ctx.output.shape[0], self.chunk(full)
        deep = self.deep_run(groups, full, run, 1, pixels)
        last = rest if deep >= full else 0
        for begin, times, length, partner in runs(full, deep or run, together=len(groups) == 1 or deep > 0):
            for group in groups:
                extents = {} if deep else {"s": length}
                with (
                    self.b.of_partner(partner),
                    self.b.section(n=batch, q=self.groups, h=times, g=group.count, **extents) as (n, q, h, g, *inner),
                ):
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
        for begin, times, length, partner in runs(count, deep or run, together=len(groups) == 1 or deep > 0):
            extents = (length, *others)
            inner = {} if deep else {f"o{d}": extent for d, extent in enumerate(extents)}
            for group in groups:
                space = {"n": self.ctx.output.shape[0], "h": times, "q": self.groups, "g": group.count}
                with self.b.of_partner(partner), self.b.section(**space, **inner) as (n, h, q, g, *opened):
                    where = Where(group, n, q, g)
                    first = h * length + begin if outer else None
                    tiles = partial(self.row_tiles, where, opened, first, extents, columns)
                    self.iteration(where, tiles, (*extents, width) if deep else None)

    def row_tiles(
        self, where: Where, opened: Sequence[Var], first: Affine | None, extents: Shape, columns: Sequence[Columns],
        visit: Visit,
    ) -> None:  # fmt: skip
        """All tiles of the rows of so many `extents`, from row `first` on; there may be no rows, but only columns."""
        with self.loops(extents, opened) as place:
            rows = [] if first is None else [first + place[0], *map(Affine.of, place[1:])]
            self.share = rows[-1] if rows else Affine.of(0)
            for tiles in columns:
                with self.b.serial("s", tiles.count) as s:
                    start = s * tiles.pixels + tiles.first
                    visit(Spot(where, rows, start, tiles.pixels, (*place, start), tiles.met))

    @contextmanager
    def loops(self, extents: Shape, opened: Sequence[Var]) -> Iterator[Sequence[Var]]:
        """Serial loops, unless they are `opened` already, as the section's own."""
        with ExitStack() as stack:
            yield opened or [stack.enter_context(self.b.serial(f"o{d}", extent)) for d, extent in enumerate(extents)]

    def deep_run(self, groups: Sequence[ChannelGroups], count: int, run: int, tiles: int, pixels: int) -> int:
        """How many of `count` rows of so many `tiles` and `pixels`, at most `run`, add up part by part together.

        As many as leave each thread its share, and keep their sums in a cache; 0 if none do. Weights that fill much of
        the second-level cache are worth it, and an image that comes from a slow one again for each group of channels.
        """
        target, widest = self.ctx.target, max(groups, key=lambda group: group.blocks)
        weights = self.weights[0].nbytes * widest.blocks * widest.lanes
        again = self.weights.nbytes > weights and weights + self.image_bytes() > target.l2_bytes
        if not self.has_parts() or not (weights > target.l2_bytes // _DEEP or (again and target.l3_is_slow)):
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
