"""Convolution by Winograd's minimal filtering, in one kernel.

One iteration takes a block of tiles: it transforms their inputs into scratch memory, multiplies the matrices of all
points for one group of channel blocks after the other, and transforms each result back with the epilogue on the way
out. The filters are transformed at compile time in float64, and read once for each block of tiles. So small blocks,
whose inputs stay in the second-level cache, stand against few readings of the filters; what lies farther is asked for
ahead. `winograd_stages` serves where filters are too many to be read again, and where taps are apart (dilation).

Vectors hold the channels of a block. Those of an image of few channels, as a network's first layer has it, would be
mostly empty while its tiles are transformed, so it is read plain, and the vectors hold a channel of neighbouring tiles.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import lru_cache, partial
from itertools import product

from glulam.compiler.errors import UnsupportedError
from glulam.compiler.graph.types import DType, Shape
from glulam.compiler.kernels.context import Context, Lowered, View
from glulam.compiler.kernels.conv_geometry import Met
from glulam.compiler.kernels.conv_template import constant_weights
from glulam.compiler.kernels.fixed_point import Digits, FixedPoint, weight_bytes
from glulam.compiler.kernels.frames import IMAGE, Frames, each_tap, indices
from glulam.compiler.kernels.minimal_filtering import Filtering
from glulam.compiler.kernels.packing import Packing
from glulam.compiler.kernels.shuffles import transposed
from glulam.compiler.kernels.tiling import (
    SHOWS,
    Parts,
    Tiling,
    memory_rate,
    move_rate,
    overcrowds,
    overlapped,
    stays_near,
    stream_rate,
)
from glulam.compiler.kernels.winograd import (
    FinishedTiles,
    Place,
    Products,
    by_tap,
    packed_filters,
    padded_bias,
    product_cycles,
    product_tilings,
    transform_slowdown,
)
from glulam.compiler.loops.expr import Expr
from glulam.compiler.loops.ir import Affine, Buffer, Builder, Half, Load, Var, scratch_size
from glulam.compiler.targets import Target

_PARTS = 4  # iterations that a convolution should have at least
_L2_SHARE = 0.35  # of the second-level cache that the inputs of a block of tiles may fill without that they wait
_AGAIN_RATE = 8.0  # bytes a cycle of inputs behind it that are read for another group of channels
_DRAW_RATE = 15.0  # bytes a cycle of filters that register tiles draw from that cache while more of them arrive there
_TILES_AHEAD = 2  # of a channel block, for whose transformed inputs room is fetched
_FEW_CHANNELS = 4  # for which turning rows of inputs into vectors across tiles pays
_SHUFFLE_CYCLES = 1.0  # of one that takes two vectors


def has_few_channels(channels: int, lanes: int) -> bool:
    """Whether vectors should hold tiles rather than channels."""
    return channels <= min(_FEW_CHANNELS, lanes // 2)


@dataclass(frozen=True)
class Plan:
    """How an image is cut: blocks of `rows` x `columns` tiles, the channel blocks in `splits` parts for the threads.

    With `shares_middle` two threads take half of the rows of blocks each, and of the one in the middle half of the
    channels.
    """

    rows: int
    columns: int
    splits: int
    tiling: Tiling
    shares_middle: bool = False

    @property
    def tiles(self) -> int:
        return self.rows * self.columns


@lru_cache(maxsize=1024)
def choose_plan(
    target: Target, images: int, spatial: Shape, in_channels: int, out_channels: int, f: Filtering,
    digits: Digits | None = None, frames: Frames = IMAGE,
) -> Plan:  # fmt: skip
    """The cheapest way to cut the image that still gives several threads something to do.

    Of volumes, all `frames` of the result are images, and `in_channels` those of a frame of the input.
    """
    height, width = f.tiles(spatial)
    blocks = -(-out_channels // target.lanes)
    least = 2 if target.halves else _PARTS
    candidates = []
    for rows, columns in _cuts(height, width):
        iterations = images * (height // rows) * (width // columns)
        for row, tiling in product_tilings(target, rows * columns, blocks, _depth(in_channels, frames), digits):
            groups = max(1, blocks // tiling.blocks)
            for splits in (s for s in range(1, groups + 1) if groups % s == 0):
                if iterations * splits < least and splits < groups:
                    continue
                plan = Plan(rows, columns, splits, tiling)
                ways = [(plan, _parts(plan, iterations, blocks))]
                if target.halves and splits == 1 and _has_middle(plan, images, height, width, blocks):
                    ways.append((replace(plan, shares_middle=True), Parts(iterations - 1, 2, 0.5)))
                for way, parts in ways:
                    cycles = _cycles(target, way, row, iterations, in_channels, out_channels, f, digits, frames)
                    candidates.append((cycles * parts.busiest(target.threads), way))
                if ways[0][1].busiest(target.threads) == 1.0:
                    break  # more splits would read inputs more often for nothing
    return min(candidates, key=lambda candidate: candidate[0])[1]


def _parts(plan: Plan, iterations: int, blocks: int) -> Parts:
    """What threads can share; of split channels those that fill no group of the tiling's size are a smaller part."""
    if plan.splits == 1:
        return Parts(iterations)
    (_, each, count), *rest = plan.tiling.channel_groups(blocks)
    whole = math.gcd(plan.splits, count)
    return Parts(iterations * whole, iterations * len(rest), sum(size for _, size, _ in rest) / (each * count // whole))


def _depth(in_channels: int, frames: Frames) -> int:
    """Channels that a result is a sum over, on average."""
    return round(frames.met * in_channels)


def _has_middle(plan: Plan, images: int, height: int, width: int, blocks: int) -> bool:
    """Whether there is an odd number of blocks of tiles, below each other, and of groups of channels an even one."""
    return (
        images == 1
        and width == plan.columns
        and height // plan.rows % 2 == 1
        and blocks % (2 * plan.tiling.blocks) == 0
    )


def cost(
    target: Target, images: int, spatial: Shape, in_channels: int, out_channels: int, f: Filtering,
    digits: Digits | None = None, frames: Frames = IMAGE,
) -> float:  # fmt: skip
    """Estimated cycles of the whole convolution on one core."""
    plan = choose_plan(target, images, spatial, in_channels, out_channels, f, digits, frames)
    height, width = f.tiles(spatial)
    iterations = images * (height // plan.rows) * (width // plan.columns)
    blocks, depth = -(-out_channels // target.lanes), _depth(in_channels, frames)
    row = product_cycles(target, plan.tiling, plan.tiles, blocks, depth, digits)
    return f.margin * _cycles(target, plan, row, iterations, in_channels, out_channels, f, digits, frames)


def _cuts(height: int, width: int) -> list[tuple[int, int]]:
    """Blocks of whole rows of tiles, or of parts of one row."""
    rows = [(r, width) for r in range(1, height + 1) if height % r == 0]
    return rows + [(1, c) for c in range(1, width) if width % c == 0]


def _cycles(
    target: Target, plan: Plan, row: float, iterations: int, in_channels: int, out_channels: int, f: Filtering,
    digits: Digits | None, frames: Frames,
) -> float:  # fmt: skip
    """Cycles for so many blocks of tiles, the first of which has to fetch the filters from memory.

    `row` are those of the products of one point.
    """
    lanes, tiles = target.lanes, plan.tiles
    in_blocks, out_blocks = -(-in_channels // lanes) * frames.met, -(-out_channels // lanes)
    slow, trips = transform_slowdown(target), 2  # of results, which are written and read
    if has_few_channels(in_channels, lanes):
        trips = 1  # estimates are 15 % too low to 13 % too high by six layers; with two, 4 to 37 % too high
        depth = frames.met * in_channels
        inputs = round(f.points * tiles * depth * 4)
        reading = depth * plan.rows * -(-plan.columns // lanes) * (f.input_cycles + _turning_cycles(f, lanes))
    else:
        inputs = round(f.points * tiles * in_blocks * lanes * 4)
        reading = tiles * in_blocks * f.input_cycles
    filters = round(f.points * frames.taps * in_channels * out_blocks * lanes * weight_bytes(digits))
    readings = plan.splits + (plan.splits > 1 and out_blocks % plan.tiling.blocks > 0)
    transforms = (readings * reading + tiles * out_blocks * f.output_cycles) * slow
    twice = 2 * reading * slow if plan.shares_middle else 0.0  # by both threads, and the next layer reads of both
    drawn = -(-tiles // plan.tiling.pixels) * filters / _DRAW_RATE if filters > target.l2_bytes else 0.0
    products = max(f.points * row, drawn)
    passes = -(-out_blocks // plan.tiling.blocks)
    results = f.points * tiles * lanes * 4 * plan.tiling.blocks
    moves = _input_moves(target, inputs, results, passes)
    moves += trips * passes * results / move_rate(target, inputs + results, inputs + results)
    transforms += target.overhead * moves
    shows = SHOWS * target.overhead
    first = overlapped(products, filters / memory_rate(target, filters), shows)
    others = overlapped(products, filters / _filter_rate(target, filters + inputs), shows)
    return iterations * transforms + twice + first + (iterations - 1) * others


def _input_moves(target: Target, inputs: int, results: int, passes: int) -> float:
    """What shows of writing a block's inputs, and of reading them for each group of channels, in cycles."""
    if inputs <= _L2_SHARE * target.l2_bytes:
        return 0.0
    rate = again = move_rate(target, inputs, inputs + results)
    if not stays_near(target, inputs):
        again = min(rate, _AGAIN_RATE)
    return 2 * inputs / rate + (passes - 1) * inputs / again


def _filter_rate(target: Target, together: int) -> float:
    """Bytes a cycle of filters that are read again: two threads, each at a place of its own, crowd each other out."""
    return target.memory_rate if target.halves and overcrowds(target, together) else stream_rate(target, together)


def _turning_cycles(f: Filtering, lanes: int) -> float:
    """Estimated cycles to bring `lanes` tiles of a channel from rows of the image into vectors across tiles."""
    squares = f.inputs[0] * -(-f.inputs[1] // lanes)
    return _SHUFFLE_CYCLES * squares * lanes * math.log2(lanes)


def build(
    ctx: Context, pads: tuple[tuple[int, int], ...], finished: FinishedTiles, digits: Digits | None = None,
    frames: Frames = IMAGE,
) -> Lowered:  # fmt: skip
    """The kernel. Inputs as for the direct convolution; x carries zeros around it as far as the last tile reaches.

    A plain x carries them until the inputs of a tile from there on are whole vectors. Of volumes, `pads` are those of
    rows and columns.

    Raises UnsupportedError for dilated convolutions.
    """
    if finished.f.is_dilated:
        raise UnsupportedError(f"{ctx.name}: dilated convolutions are computed in stages")
    return _Winograd(ctx, pads, finished, digits, frames).build()


@dataclass(frozen=True)
class _FilterGroup:
    """`count` times `per_group` channel blocks from block `first` on, with their filters and bias."""

    first: int
    per_group: int
    count: int
    filters: Buffer | FixedPoint
    bias: Buffer


@dataclass(frozen=True)
class _Run:
    """`count` rows, or columns, of blocks of tiles from the `first` on, whose last tiles have so many outputs inside.

    The channels are in `splits` parts.
    """

    first: int
    count: int
    inside: int
    splits: int


class _Winograd:
    def __init__(
        self, ctx: Context, pads: tuple[tuple[int, int], ...], finished: FinishedTiles, digits: Digits | None,
        frames: Frames,
    ) -> None:  # fmt: skip
        self.ctx, self.pads, self.finished, self.f = ctx, pads, finished, finished.f
        self.digits, self.frames = digits, frames
        self.b: Builder = ctx.builder
        self.block = ctx.output.layout.block
        self.x: View = ctx.input_view(0)
        self.weights = by_tap(constant_weights(ctx))
        out_channels, self.in_channels = self.weights.shape[0], self.weights.shape[-3]
        self.groups = self.x.operand.shape[1] // self.in_channels
        self.out_blocks = ctx.output.blocks // self.groups
        self.bias = padded_bias(ctx.data(2), out_channels, ctx.output.blocks, self.block)
        self.in_blocks = -(-self.in_channels // self.block)
        self.across_tiles = self.x.operand.layout.block == 1
        images = ctx.output.shape[0] * frames.outputs
        size = (images * self.groups, finished.wanted, self.in_channels, out_channels // self.groups)
        self.plan = choose_plan(ctx.target, *size, self.f, digits, frames)

    def build(self) -> Lowered:
        ctx, plan = self.ctx, self.plan
        ctx.output_view()
        if self.across_tiles:  # the last vector of a row of tiles may reach into what follows
            room = plan.tiles + max(0, self.block - plan.columns)
            self.inputs = self.b.scratch("v", (self.f.points, self.frames.taps * self.in_channels, room))
            self.turned = self.b.scratch("d", (*self.f.inputs, self.block))
        else:
            row = self.frames.taps * self.in_blocks * self.block
            self.inputs = self.b.scratch("v", (self.f.points, plan.tiles, row))
        self.inputs_come_from_far = not self.across_tiles and not stays_near(ctx.target, scratch_size(self.inputs))
        self.products = self.b.scratch("m", (plan.tiling.blocks, plan.tiles, self.f.slots, self.block))
        groups = [self.filter_group(*each) for each in plan.tiling.channel_groups(self.out_blocks)]
        runs = self.classes()
        for met in self.frames.parts:
            for down, across in product(*runs):
                for together in [groups] if down.splits == 1 else [[each] for each in groups]:
                    self.emit(met, down, across, together, math.gcd(down.splits, together[0].count))
        return ctx.finished()

    def emit(self, met: Met, down: _Run, across: _Run, groups: Sequence[_FilterGroup], splits: int) -> None:
        """The loops over some blocks of tiles of some frames, and what is done with each."""
        plan = self.plan
        with self.blocks(splits, met, down, across) as (n, t, k, a, e, q):
            corner, frame = ((a + down.first) * plan.rows, (e + across.first) * plan.columns), t + met.first
            with each_tap(self.b, met.taps) as tap:
                self.transform((n, k), frame, tap, corner)
            for each in groups:
                with self.b.serial("g", each.count // splits) as g:
                    group = q * (each.count // splits) + g
                    block = k * self.out_blocks + group * each.per_group + each.first
                    self.multiply(each.filters, k * each.count + group, each.per_group, met.taps)
                    read_bias = partial(self.bias_of, each.bias, k * each.count + group)
                    inside = down.inside, across.inside
                    self.transform_outputs((n, frame), corner, read_bias, block, each.per_group, inside)

    def filter_group(self, first: int, per_group: int, count: int) -> _FilterGroup:
        packed = packed_filters(self.ctx, self.filters(first, per_group, count), self.digits)
        part = self.bias.reshape(self.groups, -1)[:, first * self.block : (first + per_group * count) * self.block]
        bias = self.ctx.constant(part.reshape(-1, per_group, self.block), "b", table=self.ctx.data(2) is None)
        return _FilterGroup(first, per_group, count, packed, bias)

    @contextmanager
    def blocks(self, splits: int, frames: Met, down: _Run, across: _Run) -> Iterator[tuple[Var, ...]]:
        """Parallel loops over volumes, some frames, groups, rows and columns of blocks of tiles, and channel parts.

        The parts come first unless there is one, or images are shared by halves.
        """
        ctx = self.ctx
        inner = {"n": ctx.output.shape[0], "t": frames.count, "k": self.groups, "a": down.count, "e": across.count}
        taps = self.frames.taps * self.in_channels
        weights = round(self.f.points * self.weights.shape[0] * taps * weight_bytes(self.digits))
        if splits == 1 or ctx.run(2, weights) == 1:
            with self.b.of_half(self.half(frames, down)), self.b.section(**inner, q=splits) as vars:
                yield vars
        else:
            with self.b.section(q=splits, **inner) as (q, *vars):
                yield (*vars, q)

    def half(self, frames: Met, down: _Run) -> Half | None:
        """Which half rows of blocks of tiles of an image belong to, or these frames of a volume, or a batch.

        None if two threads do not share it.
        """
        if not self.ctx.target.halves:
            return None
        if self.ctx.output.shape[0] > 1:
            return Half.BOTH
        count, first, length = self.frames.outputs, frames.first, frames.count
        if count == 1:
            count, first, length = self.f.tiles(self.finished.wanted)[0] // self.plan.rows, down.first, down.count
        return Half.FIRST if 2 * (first + length) <= count else Half.SECOND if 2 * first >= count else Half.BOTH

    def classes(self) -> list[list[_Run]]:
        """Rows of blocks of tiles, and columns. Blocks at a ragged edge stand by themselves, and so do shared ones."""
        found, splits = [], self.plan.splits
        for tiles, size, whole, inside in zip(
            self.f.tiles(self.finished.wanted), (self.plan.rows, self.plan.columns), self.f.outputs,
            self.finished.inside, strict=True,
        ):  # fmt: skip
            count = tiles // size
            ragged = [_Run(0, count - 1, whole, splits)] * (count > 1) + [_Run(count - 1, 1, inside, splits)]
            found.append([_Run(0, count, whole, splits)] if inside == whole else ragged)
        if self.plan.shares_middle:
            found[0] = _with_middle(found[0])
        return found

    # ---- the three stages

    def first_input(self, row: Affine, column: Affine) -> tuple[Affine, Affine]:
        """The place in the image of a tile's first input."""
        (top, _), (left, _) = self.pads
        return row * self.f.down.step - top, column * self.f.across.step - left

    def transform(self, head: tuple[Var, Var], frame: Affine, tap: Affine, corner: tuple[Affine, Affine]) -> None:
        """B^T d B of the tiles of volume and group, `head`, of what a tap meets for a frame of the result."""
        met = indices(self.x.operand, self.frames.place(frame, tap))
        (self.transform_across if self.across_tiles else self.transform_inputs)(head, met, tap, corner)

    def transform_inputs(
        self, head: tuple[Var, Var], frame: Place, tap: Affine, corner: tuple[Affine, Affine]
    ) -> None:  # fmt: skip
        """Each tile, for each block of input channels of one of the convolution's groups."""
        b, plan, (n, k) = self.b, self.plan, head
        with (
            b.serial("r", plan.rows) as r, b.serial("s", plan.columns) as s,
            b.serial("c", self.in_blocks) as c, b.vector("v", self.block) as v,
        ):  # fmt: skip
            row, column = self.first_input(corner[0] + r, corner[1] + s)
            tile, place = r * plan.columns + s, tap * self.in_blocks + c

            def write(point: Affine, value: Expr) -> None:
                b.store(self.inputs[point, tile, place * self.block + v], value)
                if self.inputs_come_from_far:
                    b.prefetch(self.inputs[point, tile, (place + _TILES_AHEAD) * self.block], level=2)

            image = (n, k * self.in_blocks + c, *frame)
            self.f.input_tile(b, v, lambda i, j: self.x[(*image, row + i, column + j, v)], write)
            if 4 * math.prod(self.x.operand.shape[1:]) > self.ctx.target.l2_bytes:
                self.fetch_next_tile(image, (row, column))

    def fetch_next_tile(self, image: Place, corner: tuple[Affine, Affine]) -> None:
        """Has the pixels come nearer that a tile to the right does not share with the one whose first input this is."""
        (rows, columns), step, (row, column) = self.f.inputs, self.f.across.step, corner
        for i, j in product(range(rows), range(columns, columns + step)):
            self.b.prefetch(self.x[(*image, row + i, column + j, 0)], level=2)

    def transform_across(
        self, head: tuple[Var, Var], frame: Place, tap: Affine, corner: tuple[Affine, Affine]
    ) -> None:  # fmt: skip
        """The same of a plain image, for some tiles of a row at a time, the last ones overlapping those before."""
        whole, rest = divmod(self.plan.columns, self.block)
        parts = [(Affine.of(0), whole)] * (whole > 0)
        if rest:
            parts.append((Affine.of(max(0, self.plan.columns - self.block)), 1))
        with self.b.serial("c", self.in_channels) as c, self.b.serial("r", self.plan.rows) as r:
            for first, count in parts:
                with self.b.serial("s", count) as s:
                    place = tap * self.in_channels + c
                    self.transform_vector((head[0], c, *frame), place, corner, r, s * self.block + first)

    def transform_vector(
        self, image: Place, place: Affine, corner: tuple[Affine, Affine], r: Var, first: Affine
    ) -> None:  # fmt: skip
        """B^T d B of a channel of tiles side by side: their inputs are turned into vectors across tiles first."""
        b, (rows, inputs) = self.b, self.f.inputs
        row, column = self.first_input(corner[0] + r, corner[1] + first)
        with b.serial("i", rows) as i, b.vector("v", self.block) as v:
            for begin in range(0, inputs, self.block):
                tiles = range(min(self.block, self.plan.columns))
                steps = [column + t * self.f.across.step + begin for t in tiles]
                loads = [self.x[(*image, row + i, step + v)] for step in steps]
                columns = transposed(b, [*loads, *[None] * (self.block - len(loads))], DType.F32)
                for j, value in enumerate(columns[: inputs - begin], begin):
                    b.store(self.turned[i, j, v], value)
        with b.vector("v", self.block) as v:
            self.f.input_tile(
                b,
                v,
                lambda i, j: self.turned[i, j, v],
                lambda point, value: b.store(self.inputs[point, place, r * self.plan.columns + first + v], value),
            )

    def input(self, point: Var, tap: Affine, tile: Affine, channel: Affine) -> Load:
        if self.across_tiles:
            return self.inputs[point, tap * self.in_channels + channel, tile]
        return self.inputs[point, tile, tap * self.in_blocks * self.block + channel]

    def multiply(self, packed: Buffer | FixedPoint, group: Affine, per_group: int, taps: range) -> None:
        """For each point, the tiles' channels times the filters' of one group of blocks."""
        with self.b.serial("p", self.f.points) as p:
            Products(
                self.b, self.plan.tiles, self.in_channels, self.plan.tiling.pixels, per_group, self.block,
                inputs=partial(self.input, p),
                filters=packed, place=(group, p), following=(group, p + 1),
                store=lambda j, tile, v, total: self.b.store(self.products[j, tile, p, v], total),
                come_from_far=self.inputs_come_from_far, taps=taps,
            ).emit()  # fmt: skip

    def transform_outputs(
        self, image: tuple[Var, Affine], corner: tuple[Affine, Affine], bias: Callable[[Var, Var], Load], first: Affine,
        per_group: int, inside: tuple[int, int],
    ) -> None:  # fmt: skip
        """A^T m A of each tile of some blocks, of whose last ones so many rows and columns lie inside the image."""
        plan, b, (n, frame) = self.plan, self.b, image
        down, across = self.f.down.runs(plan.rows, inside[0]), self.f.across.runs(plan.columns, inside[1])
        for (top, rows, height), (left, columns, width) in product(down, across):
            with (
                b.serial("j", per_group) as j, b.serial("r", rows) as r, b.serial("s", columns) as s,
                b.vector("v", self.block) as v,
            ):  # fmt: skip
                tile = (r + top) * plan.columns + s + left
                place = corner[0] + r + top, corner[1] + s + left
                read = partial(self.result, j, tile, v)
                head = (n, first + j, *indices(self.ctx.output, frame))
                self.finished.write(read, bias(j, v), head, place, (height, width), v)

    def result(self, j: Var, tile: Affine, v: Var, point: Affine) -> Load:
        return self.products[j, tile, point, v]

    @staticmethod
    def bias_of(bias: Buffer, group: Affine, j: Var, v: Var) -> Load:
        return bias[group, j, v]

    # ---- weights

    def filters(self, first: int, per_group: int, count: int) -> Packing:
        """Transformed filters as [group, point, in channel of a tap's frame, block of the group, lane]."""
        lanes = slice(first * self.block, (first + per_group * count) * self.block)
        weights = self.weights
        if self.groups > 1:
            weights = weights.reshape(self.groups, -1, *weights.shape[1:])[:, lanes].reshape(-1, *weights.shape[1:])
        else:
            weights = weights[lanes]
        shape = (self.groups * count, self.f.points, self.frames.taps * self.in_channels, per_group, self.block)
        return Packing(weights, shape, DType.F32, self.f.transform_filters, per_group * self.block)


def _with_middle(runs: list[_Run]) -> list[_Run]:
    """The same rows, an odd number of them, with the one in the middle by itself, its channels in two parts."""
    middle = sum(run.count for run in runs) // 2
    found = []
    for run in runs:
        end = run.first + run.count
        for low, high, splits in ((0, middle, run.splits), (middle, middle + 1, 2), (middle + 1, end, run.splits)):
            low, high = max(low, run.first), min(high, end)
            if low < high:
                found.append(_Run(low, high - low, run.inside, splits))
    return found
