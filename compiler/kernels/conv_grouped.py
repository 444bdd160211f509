"""Grouped convolution whose groups share channel blocks: lanes of input vectors are brought to the groups they feed.

Output lane v of a block belongs to one group; for the i-th channel of a group it needs the lane that holds channel
i of its own group. These lanes are a shuffle of one input vector, or of a few, that is the same for all blocks at a
certain distance (the period). So nothing of one group is ever multiplied into another.
"""

from __future__ import annotations

import math
from contextlib import ExitStack
from dataclasses import dataclass

import numpy as np

from glulam.compiler.graph.types import Array, Shape
from glulam.compiler.kernels.context import Context, Lowered, Point
from glulam.compiler.kernels.conv_geometry import ConvGeometry, Grid
from glulam.compiler.kernels.conv_template import constant_weights, not_packable
from glulam.compiler.kernels.ranges import pieces, unroll_factor
from glulam.compiler.loops.expr import Expr, Fma
from glulam.compiler.loops.index import Affine, IndexLike, Var
from glulam.compiler.loops.ir import Buffer, LaneShuffle, Tile
from glulam.compiler.targets import Target

_FILLED = 0.8  # of its vectors, by a group that is as fast by itself, and compiled in a tenth of the time
_MAX_CLASSES = 8  # blocks with shuffles of their own, each with code of its own
_MAX_SOURCES = 4  # input vectors that one output vector is shuffled from
_MAX_UNROLLED = 64  # channels of a group
_UNROLLED_TAPS = 8  # taps of a kernel row
_APART = 1.2  # cycles to those of its products, of a convolution with its groups apart
_SHUFFLED, _SHUFFLED_ALONE = 1.3, 2.5  # the same where lanes are shuffled, for several taps or for each one
_MOST_PRODUCTS = 4096  # of vectors that are written out: to compile twice as many takes seconds


@dataclass(frozen=True)
class Channels:
    """Which input channels the lanes of output blocks need."""

    lanes: int
    groups: int
    ins: int
    outs: int

    @property
    def filled(self) -> float:
        """The share of lanes that are used where each group has vectors of its own."""
        return self.outs / (-(-self.outs // self.lanes) * self.lanes)

    @property
    def period(self) -> int:
        """After so many output blocks the lanes are the same again, in later input blocks."""
        blocks = self.outs // math.gcd(self.outs, self.lanes)
        advance = blocks * self.lanes // self.outs * self.ins
        return blocks * (self.lanes // math.gcd(advance, self.lanes))

    @property
    def advance(self) -> int:
        """Input blocks that lie a period apart."""
        return self.period * self.lanes // self.outs * self.ins // self.lanes

    @property
    def unrolled(self) -> int:
        """Channels of a group whose shuffles differ; the rest repeats them, a block further each time."""
        return self.lanes if self.ins % self.lanes == 0 else self.ins

    @property
    def classes(self) -> list[tuple[int, int]]:
        """(first block, number of blocks, a period apart) that have the same lanes; a partly filled block is alone."""
        full, rest = divmod(self.groups * self.outs, self.lanes)
        period = min(self.period, full)
        found = [(first, -(-(full - first) // period)) for first in range(period)]
        return [*found, (full, 1)] if rest else found

    def needs(self, block: int, i: int) -> list[int]:
        """For each lane of an output block, the channel that is its group's `i`-th; lanes beyond the last repeat it."""
        last = self.groups * self.outs - 1
        return [min(block * self.lanes + v, last) // self.outs * self.ins + i for v in range(self.lanes)]

    def sources(self, block: int, i: int) -> list[int]:
        """Input blocks that hold those channels."""
        return sorted({channel // self.lanes for channel in self.needs(block, i)})


def accepts(ctx: Context, geometry: ConvGeometry) -> str | None:
    """None if the template serves this convolution, else why not."""
    if (why := not_packable(ctx)) is not None:
        return why
    x, y = ctx.operand(0), ctx.output
    if x.layout.block != y.layout.block:
        return "the input is not in channel blocks"
    return refuses(ctx.target, _channels(ctx, geometry), geometry, ctx.output.spatial[-1])


def refuses(target: Target, channels: Channels, geometry: ConvGeometry, width: int) -> str | None:
    """Why the template does not serve groups of such channels on rows of so many pixels; None if it does."""
    if (filled := channels.filled) > _FILLED:
        return f"a group by itself fills {filled:.0%} of its vectors"
    if geometry.kernel[-1] == 1 and 2 * channels.outs > channels.lanes:
        return "no two taps of a row share what is shuffled, and a group by itself fills half a vector"
    if channels.unrolled > _MAX_UNROLLED:
        return f"{channels.ins} channels of a group that do not fill blocks are more than {_MAX_UNROLLED}"
    classes = channels.classes
    if len(classes) > _MAX_CLASSES:
        return f"{len(classes)} channel blocks that all differ are more than {_MAX_CLASSES}"
    sources = max(len(channels.sources(block, i)) for block, _ in classes for i in range(channels.unrolled))
    if sources > _MAX_SOURCES:
        return f"an output block depends on {sources} input blocks at once, more than {_MAX_SOURCES}"
    return _too_long(target, channels, geometry, width, 1)


def cost(target: Target, batch: int, spatial: Shape, channels: Channels, geometry: ConvGeometry) -> float:
    """Estimated cycles of a convolution whose groups do not fill channel blocks on one core, by whatever template.

    On a Zen 5 what goes on beside products shows less; shuffles for a single tap were not measured there.
    """
    groups, outs, lanes = channels.groups, channels.outs, channels.lanes
    products = batch * math.prod(spatial) * channels.ins * math.prod(geometry.kernel) / target.fmas_per_cycle
    if refuses(target, channels, geometry, spatial[-1]) is not None:
        return (1 + (_APART - 1) * target.overhead**2) * products * groups * -(-outs // lanes)
    shuffled = 1 + (_SHUFFLED - 1) * target.overhead if geometry.kernel[-1] > 1 else _SHUFFLED_ALONE
    return shuffled * products * -(-groups * outs // lanes)


def too_long(ctx: Context, geometry: ConvGeometry, width: int, times: int) -> str | None:
    """Why the code for so many convolutions, each with rows of so many pixels, would be too long; None if it is not."""
    return _too_long(ctx.target, _channels(ctx, geometry), geometry, width, times)


def _too_long(target: Target, channels: Channels, geometry: ConvGeometry, width: int, times: int) -> str | None:
    each = channels.unrolled * unroll_factor(geometry.kernel[-1], _UNROLLED_TAPS) * _pixels(target, geometry, width)
    products = times * len(channels.classes) * each
    return f"{products} products written out are more than {_MOST_PRODUCTS}" if products > _MOST_PRODUCTS else None


def build(ctx: Context, geometry: ConvGeometry) -> Lowered:
    """The kernel. Inputs: x[N,C,*S], w[OC,C/g,*K], b?[OC], then what the epilogue reads."""
    sections(ctx, geometry, constant_weights(ctx), Grid.whole(ctx.output.spatial))
    return ctx.finished()


def sections(ctx: Context, geometry: ConvGeometry, weights: Array, grid: Grid) -> None:
    """The sections that compute the pixels of a grid; weights are [OC, C/g, *K]."""
    _Grouped(ctx, geometry, weights, grid).sections()


def _channels(ctx: Context, geometry: ConvGeometry) -> Channels:
    x, y, groups = ctx.operand(0), ctx.output, geometry.groups
    return Channels(y.layout.block, groups, x.shape[1] // groups, y.shape[1] // groups)


def _pixels(target: Target, geometry: ConvGeometry, width: int) -> int:
    """Pixels of a register tile: beside their sums, their shuffled inputs and a row's weights stay in registers."""
    taps, stride = min(geometry.kernel[-1], _UNROLLED_TAPS), geometry.strides[-1]
    room = target.vector_registers - 2 - taps
    most = max(1, (room - taps) // (1 + min(stride, taps)))
    tiles = -(-width // most)
    return -(-width // tiles)


@dataclass(frozen=True)
class _Class:
    """Output blocks first, first + period, ...: their packed weights and bias."""

    first: int
    period: int
    weights: Buffer
    bias: Buffer


@dataclass(frozen=True)
class _Place:
    """Where a register tile lies: batch, index in the class, first output place in each spatial dimension, lanes."""

    n: Var
    member: Var
    start: tuple[Affine, ...]
    lane: Var


class _Grouped:
    def __init__(self, ctx: Context, geometry: ConvGeometry, weights: Array, grid: Grid) -> None:
        self.ctx, self.b, self.geometry, self.grid = ctx, ctx.builder, geometry, grid
        self.weights = weights
        self.x = ctx.input_view(0)
        self.channels = _channels(ctx, geometry)

    def sections(self) -> None:
        ctx, b = self.ctx, self.b
        *outer, width = self.grid.extents
        ctx.output_view()
        pixels = _pixels(ctx.target, self.geometry, width)
        for first, members in self.channels.classes:
            kind = self.packed(first, members)
            head = {"n": ctx.output.shape[0], "c": members}
            for start, count, length in [] if outer else pieces(width, pixels):
                with b.section(**head, s=count) as (n, c, s), b.vector("v", self.lanes) as v:
                    self.tile(kind, _Place(n, c, (s * length + start,), v), length)
            if outer:
                space = ctx.image_section(members, outer, self.weights.nbytes)
                with space as (n, c, rows), b.vector("v", self.lanes) as v:
                    for start, count, length in pieces(width, pixels):
                        with b.serial("s", count) as s:
                            self.tile(kind, _Place(n, c, (*rows, s * length + start), v), length)

    @property
    def lanes(self) -> int:
        return self.channels.lanes

    def packed(self, first: int, members: int) -> _Class:
        """Weights [members, *outer taps, ins, taps of a row, lanes] and bias [members, lanes] of a class of blocks."""
        ctx, lanes = self.ctx, self.lanes
        weights, bias = self.weights, ctx.data(2)
        period = self.channels.period
        full = np.zeros((ctx.output.blocks * lanes, *weights.shape[1:]), np.float32)
        full[: len(weights)] = weights
        start = np.zeros(len(full), np.float32)
        start[: len(weights)] = 0 if bias is None else bias
        chosen = slice(first, first + (members - 1) * period + 1, period)
        mine = full.reshape(-1, lanes, *weights.shape[1:])[chosen]
        rank = len(self.geometry.kernel)
        order = [0, *range(3, 2 + rank), 2, 2 + rank, 1]
        return _Class(
            first,
            period,
            ctx.constant(mine.transpose(order), "w"),
            ctx.constant(start.reshape(-1, lanes)[chosen], "b"),
        )

    def tile(self, kind: _Class, place: _Place, pixels: int) -> None:
        """One register tile: start from the bias, add all taps of all channels of the group, finish, store."""
        b, v = self.b, place.lane
        acc = b.tile("acc", pixels)
        with b.unrolled("t", pixels) as t:
            b.store(acc[t], kind.bias[place.member, v])
        with ExitStack() as stack:
            taps = self.geometry.tap_loops(b, stack, place.start[:-1], self.x.operand.spatial)
            further = stack.enter_context(b.serial("i", self.channels.ins // self.channels.unrolled))
            inner = unroll_factor(self.geometry.kernel[-1], _UNROLLED_TAPS)
            chunk = stack.enter_context(b.serial("kw", self.geometry.kernel[-1] // inner))
            for i in range(self.channels.unrolled):
                self.channel(kind, place, acc, (taps, chunk * inner, inner), further, i)
        with b.unrolled("t", pixels) as t:
            *outer, last = place.start
            block = place.member * kind.period + kind.first
            point: Point = (place.n, block, *self.grid.place([*outer, last + t]), v)
            self.ctx.write(point, self.ctx.finish(acc[t], point))

    def channel(
        self, kind: _Class, place: _Place, acc: Tile, row: tuple[list[Affine], Affine, int], further: Var, i: int
    ) -> None:
        """Add the products of one channel of each group along a kernel row; each input vector is shuffled once."""
        geo, (pixels,) = self.geometry, acc.shape
        outer, first_tap, taps = row
        stride, dilation = geo.strides[-1], geo.dilations[-1]
        shuffled: dict[int, Tile] = {}
        for k in range(taps):
            channel = further * self.channels.unrolled + i
            weight = kind.weights[(place.member, *outer, channel, first_tap + k, place.lane)]
            for t in range(pixels):
                column = t * stride + k * dilation
                if column not in shuffled:
                    shuffled[column] = self.b.tile("x", 1)
                    moved = self.shuffled(kind, place, (*outer, first_tap), column, further, i)
                    self.b.store(shuffled[column][0], moved)
                self.b.store(acc[t], Fma(shuffled[column][0], weight, acc[t]))

    def shuffled(
        self, kind: _Class, place: _Place, tap: tuple[IndexLike, ...], column: int, further: Var, i: int
    ) -> Expr:
        """The input vector `column` elements after the tile's first, in each lane the group's `i`-th channel."""
        where = self.geometry.input_place(place.start, tap)
        where[-1] = where[-1] + column
        needs, sources = self.channels.needs(kind.first, i), self.channels.sources(kind.first, i)
        first = place.member * self.channels.advance + further
        loads = [self.x[(place.n, first + block, *where, place.lane)] for block in sources]
        at = [sources.index(channel // self.lanes) for channel in needs]
        lane = [channel % self.lanes for channel in needs]
        if len(sources) == 1:
            return loads[0] if lane == list(range(self.lanes)) else LaneShuffle(loads[0], loads[0], tuple(lane))
        mixed: Expr = loads[0]
        for source in range(1, len(sources)):
            chosen = [
                k + self.lanes if a == source else k if source == 1 else v
                for v, (k, a) in enumerate(zip(lane, at, strict=True))
            ]
            mixed = LaneShuffle(mixed, loads[source], tuple(chosen))
        return mixed
