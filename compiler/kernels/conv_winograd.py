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
from dataclasses import dataclass
from functools import partial
from itertools import product

from glulam.compiler.errors import UnsupportedError
from glulam.compiler.graph.types import DType
from glulam.compiler.kernels.context import Context, Lowered, View
from glulam.compiler.kernels.conv_geometry import Met
from glulam.compiler.kernels.conv_template import constant_weights
from glulam.compiler.kernels.fixed_point import Digits, FixedPoint, weight_bytes
from glulam.compiler.kernels.frames import IMAGE, Frames, each_tap, indices
from glulam.compiler.kernels.packing import Packing
from glulam.compiler.kernels.ranges import Pieces
from glulam.compiler.kernels.rates import stays_near
from glulam.compiler.kernels.shuffles import transposed
from glulam.compiler.kernels.winograd import FinishedTiles, Place, Products, by_tap, packed_filters, padded_bias
from glulam.compiler.kernels.winograd_plan import choose_plan
from glulam.compiler.loops.builder import Builder
from glulam.compiler.loops.expr import Expr
from glulam.compiler.loops.index import Affine, Var
from glulam.compiler.loops.ir import Buffer, Load, Partner, scratch_size

_TILES_AHEAD = 2  # of a channel block, for whose transformed inputs room is fetched


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
    count: int
    per_group: int
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
        if self.f.sums > 1 and not self.across_tiles:
            raise UnsupportedError(f"{ctx.name}: phases are added up only where vectors hold tiles")
        self.depth = self.in_channels * self.f.sums
        images = ctx.output.shape[0] * frames.outputs
        size = (images * self.groups, finished.wanted, self.in_channels, out_channels // self.groups)
        self.plan = choose_plan(ctx.target, *size, self.f, digits, frames)

    def build(self) -> Lowered:
        ctx, plan = self.ctx, self.plan
        ctx.output_view()
        if self.across_tiles:  # the last vector of a row of tiles may reach into what follows
            room = plan.tiles + max(0, self.block - plan.columns)
            self.inputs = self.b.scratch("v", (self.f.points, self.frames.taps * self.depth, room))
            self.turned = self.b.scratch("d", (*self.f.inputs, self.block))
        else:
            row = self.frames.taps * self.in_blocks * self.block
            self.inputs = self.b.scratch("v", (self.f.points, plan.tiles, row))
        self.inputs_come_from_far = not self.across_tiles and not stays_near(ctx.target, scratch_size(self.inputs))
        self.products = self.b.scratch("m", (plan.tiling.blocks, plan.tiles, self.f.slots, self.block))
        groups = [self.filter_group(each) for each in plan.tiling.channel_groups(self.out_blocks)]
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

    def filter_group(self, blocks: Pieces) -> _FilterGroup:
        packed = packed_filters(self.ctx, self.filters(blocks), self.digits)
        part = self.bias.reshape(self.groups, -1)[:, blocks.first * self.block : blocks.stop * self.block]
        bias = self.ctx.constant(part.reshape(-1, blocks.length, self.block), "b", table=self.ctx.data(2) is None)
        return _FilterGroup(*blocks, packed, bias)

    @contextmanager
    def blocks(self, splits: int, frames: Met, down: _Run, across: _Run) -> Iterator[tuple[Var, ...]]:
        """Parallel loops over volumes, some frames, groups, rows and columns of blocks of tiles, and channel parts.

        The parts come first unless there is one, or partners share images.
        """
        ctx = self.ctx
        inner = {"n": ctx.output.shape[0], "t": frames.count, "k": self.groups, "a": down.count, "e": across.count}
        taps = self.frames.taps * self.depth
        weights = round(self.f.points * self.weights.shape[0] * taps * weight_bytes(self.digits))
        if splits == 1 or ctx.run(2, weights) == 1:
            with self.b.of_partner(self.partner(frames, down)), self.b.section(**inner, q=splits) as vars:
                yield vars
        else:
            with self.b.section(q=splits, **inner) as (q, *vars):
                yield (*vars, q)

    def partner(self, frames: Met, down: _Run) -> Partner | None:
        """Which of two threads rows of blocks of tiles of an image are for, or these frames of a volume, or a batch.

        None if two threads do not share it.
        """
        if not self.ctx.target.for_partners:
            return None
        if self.ctx.output.shape[0] > 1:
            return Partner.BOTH
        count, first, length = self.frames.outputs, frames.first, frames.count
        if count == 1:
            count, first, length = self.f.tiles(self.finished.wanted)[0] // self.plan.rows, down.first, down.count
        return (
            Partner.FIRST if 2 * (first + length) <= count else Partner.SECOND if 2 * first >= count else Partner.BOTH
        )

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
        down, across = self.f.down.sums, self.f.across.sums
        with b.serial("y", down) as y, b.serial("x", across) as x, b.vector("v", self.block) as v:
            phase = (place * down + y) * across + x
            self.f.input_tile(
                b,
                v,
                lambda i, j: self.turned[i * down + y, j * across + x, v],
                lambda point, value: b.store(self.inputs[point, phase, r * self.plan.columns + first + v], value),
            )

    def input(self, point: Var, tap: Affine, tile: Affine, channel: Affine) -> Load:
        if self.across_tiles:
            return self.inputs[point, tap * self.depth + channel, tile]
        return self.inputs[point, tile, tap * self.in_blocks * self.block + channel]

    def multiply(self, packed: Buffer | FixedPoint, group: Affine, per_group: int, taps: range) -> None:
        """For each point, the tiles' channels times the filters' of one group of blocks."""
        with self.b.serial("p", self.f.points) as p:
            Products(
                self.b, self.plan.tiles, self.depth, self.plan.tiling.pixels, per_group, self.block,
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

    def filters(self, blocks: Pieces) -> Packing:
        """Transformed filters as [group, point, channel or phase of a tap's frame, block of the group, lane]."""
        first, count, per_group = blocks
        lanes, weights = slice(first * self.block, blocks.stop * self.block), self.weights
        if self.groups > 1:
            weights = weights.reshape(self.groups, -1, *weights.shape[1:])[:, lanes].reshape(-1, *weights.shape[1:])
        else:
            weights = weights[lanes]
        shape = (self.groups * count, self.f.points, self.frames.taps * self.depth, per_group, self.block)
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
