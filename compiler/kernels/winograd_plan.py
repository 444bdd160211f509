"""How the one kernel of Winograd's algorithm cuts an image into blocks of tiles, and what that costs."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache

from glulam.compiler.graph.types import Shape
from glulam.compiler.kernels.fixed_point import Digits, weight_bytes
from glulam.compiler.kernels.frames import IMAGE, Frames
from glulam.compiler.kernels.minimal_filtering import Filtering
from glulam.compiler.kernels.ranges import Parts
from glulam.compiler.kernels.rates import SHOWS, memory_rate, move_rate, overcrowds, overlapped, stays_near, stream_rate
from glulam.compiler.kernels.tiling import Tiling
from glulam.compiler.kernels.winograd import product_cycles, product_tilings, transform_slowdown
from glulam.compiler.targets import Target

_PARTS = 4  # iterations that a convolution should have at least
_L2_SHARE = 0.35  # of the second-level cache that the inputs of a block of tiles may fill without that they wait
_AGAIN_RATE = 8.0  # bytes a cycle of inputs behind it that are read for another group of channels
_DRAW_RATE = 15.0  # bytes a cycle of filters that register tiles draw from that cache while more of them arrive there
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
    layer = _Layer(target, images, spatial, in_channels, out_channels, f, digits, frames)
    return min(layer.candidates(), key=lambda candidate: candidate[0])[1]


def cost(
    target: Target, images: int, spatial: Shape, in_channels: int, out_channels: int, f: Filtering,
    digits: Digits | None = None, frames: Frames = IMAGE,
) -> float:  # fmt: skip
    """Estimated cycles of the whole convolution on one core."""
    layer = _Layer(target, images, spatial, in_channels, out_channels, f, digits, frames)
    plan = choose_plan(target, images, spatial, in_channels, out_channels, f, digits, frames)
    point = product_cycles(target, plan.tiling, plan.tiles, layer.out_blocks, layer.depth, digits)
    return f.margin * layer.cycles(plan, point)


@dataclass(frozen=True)
class _Layer:
    """The convolution that is to be cut, see `choose_plan`. Sizes are in bytes."""

    target: Target
    images: int
    spatial: Shape
    in_channels: int
    out_channels: int
    f: Filtering
    digits: Digits | None
    frames: Frames

    @cached_property
    def tiles(self) -> tuple[int, int]:
        """Rows and columns of them in an image."""
        return self.f.tiles(self.spatial)

    @cached_property
    def out_blocks(self) -> int:
        return -(-self.out_channels // self.target.lanes)

    @cached_property
    def seen(self) -> float:
        """Channels that a result sees, of all frames."""
        return self.frames.met * self.in_channels

    @cached_property
    def depth(self) -> int:
        """Products that a point is a sum of, on average."""
        return round(self.seen * self.f.sums)

    @cached_property
    def tiles_in_lanes(self) -> bool:
        return has_few_channels(self.in_channels, self.target.lanes)

    def iterations(self, plan: Plan) -> int:
        """Blocks of tiles in all images."""
        height, width = self.tiles
        return self.images * (height // plan.rows) * (width // plan.columns)

    def candidates(self) -> Iterator[tuple[float, Plan]]:
        """Estimated cycles of the busiest thread, times the threads, and the plan."""
        least = 2 if self.target.for_partners else _PARTS
        for rows, columns in _cuts(*self.tiles):
            for point, tiling in product_tilings(self.target, rows * columns, self.out_blocks, self.depth, self.digits):
                groups = max(1, self.out_blocks // tiling.blocks)
                for splits in (s for s in range(1, groups + 1) if groups % s == 0):
                    plan = Plan(rows, columns, splits, tiling)
                    if self.iterations(plan) * splits < least and splits < groups:
                        continue
                    parts = self.parts(plan)
                    yield self.cycles(plan, point) * parts.busiest(self.target.threads), plan
                    if self.target.for_partners and splits == 1 and self.has_middle(plan):
                        shared = replace(plan, shares_middle=True)
                        busiest = self.parts(shared).busiest(self.target.threads)
                        yield self.cycles(shared, point) * busiest, shared
                    if parts.busiest(self.target.threads) == 1.0:
                        break  # more splits would read inputs more often for nothing

    def parts(self, plan: Plan) -> Parts:
        """What threads can share; split channels that fill no group of the tiling's size are a smaller part."""
        iterations = self.iterations(plan)
        if plan.shares_middle:
            return Parts(iterations - 1, 2, 0.5)
        if plan.splits == 1:
            return Parts(iterations)
        (_, count, each), *rest = plan.tiling.channel_groups(self.out_blocks)
        whole = math.gcd(plan.splits, count)
        smaller = sum(size for _, _, size in rest) / (each * count // whole)
        return Parts(iterations * whole, iterations * len(rest), smaller)

    def has_middle(self, plan: Plan) -> bool:
        """Whether blocks of tiles, below each other, are odd in number, and groups of channels even."""
        height, width = self.tiles
        odd = self.images == 1 and width == plan.columns and height // plan.rows % 2 == 1
        return odd and self.out_blocks % (2 * plan.tiling.blocks) == 0

    # ---- what a plan costs

    def cycles(self, plan: Plan, point: float) -> float:
        """Cycles for all blocks of tiles, the first of which has to fetch the filters from memory.

        `point` are those of the products of one point.
        """
        target, f, iterations = self.target, self.f, self.iterations(plan)
        reading, slow = self.reading(plan), transform_slowdown(target)
        readings = plan.splits + (plan.splits > 1 and self.out_blocks % plan.tiling.blocks > 0)
        transforms = (readings * reading + plan.tiles * self.out_blocks * f.output_cycles) * slow
        transforms += target.overhead * self.moves(plan)
        twice = 2 * reading * slow if plan.shares_middle else 0.0  # by both threads, and the next layer reads of both
        filters, shows = self.filters, SHOWS * target.overhead
        drawn = -(-plan.tiles // plan.tiling.pixels) * filters / _DRAW_RATE if filters > target.l2_bytes else 0.0
        products = max(f.points * point, drawn)
        first = overlapped(products, filters / memory_rate(target, filters), shows)
        others = overlapped(products, filters / self.filter_rate(plan), shows)
        return iterations * transforms + twice + first + (iterations - 1) * others

    def reading(self, plan: Plan) -> float:
        """Cycles to transform the inputs of a block of tiles, with AVX-512."""
        if self.tiles_in_lanes:
            vector = self.f.input_cycles + _turning_cycles(self.f, self.target.lanes)
            return self.seen * plan.rows * -(-plan.columns // self.target.lanes) * vector
        return plan.tiles * self.in_blocks * self.f.input_cycles

    def moves(self, plan: Plan) -> float:
        """What shows of writing and reading a block's transformed inputs and its results, in cycles."""
        inputs, results = self.inputs(plan), self.results(plan)
        passes, together = -(-self.out_blocks // plan.tiling.blocks), inputs + results
        trips = 1 if self.tiles_in_lanes else 2  # of results that show
        return self.input_moves(plan) + trips * passes * results / move_rate(self.target, together, together)

    def input_moves(self, plan: Plan) -> float:
        """Of writing a block's inputs, and of reading them for each group of channels."""
        inputs = self.inputs(plan)
        if inputs <= _L2_SHARE * self.target.l2_bytes:
            return 0.0
        rate = again = move_rate(self.target, inputs, inputs + self.results(plan))
        if not stays_near(self.target, inputs):
            again = min(rate, _AGAIN_RATE)
        return 2 * inputs / rate + (-(-self.out_blocks // plan.tiling.blocks) - 1) * inputs / again

    def filter_rate(self, plan: Plan) -> float:
        """Bytes a cycle of filters read again: two threads, each at a place of its own, crowd each other out."""
        target, together = self.target, self.filters + self.inputs(plan)
        crowded = target.for_partners and overcrowds(target, together)
        return target.memory_rate if crowded else stream_rate(target, together)

    # ---- sizes

    @cached_property
    def in_blocks(self) -> float:
        """Channel blocks that a result sees."""
        return -(-self.in_channels // self.target.lanes) * self.frames.met

    @cached_property
    def filters(self) -> int:
        """All of them, transformed."""
        depth = self.frames.taps * self.in_channels * self.f.sums
        return round(self.f.points * depth * self.out_blocks * self.target.lanes * weight_bytes(self.digits))

    def inputs(self, plan: Plan) -> int:
        """What a block of tiles reads, transformed."""
        if self.tiles_in_lanes:
            return round(self.f.points * plan.tiles * self.seen * self.f.sums * 4)
        return round(self.f.points * plan.tiles * self.in_blocks * self.target.lanes * 4)

    def results(self, plan: Plan) -> int:
        """Products of a block of tiles for one group of channels."""
        return self.f.points * plan.tiles * self.target.lanes * 4 * plan.tiling.blocks


def _cuts(height: int, width: int) -> list[tuple[int, int]]:
    """Blocks of whole rows of tiles, or of parts of one row."""
    rows = [(r, width) for r in range(1, height + 1) if height % r == 0]
    return rows + [(1, c) for c in range(1, width) if width % c == 0]


def _turning_cycles(f: Filtering, lanes: int) -> float:
    """Estimated cycles to bring `lanes` tiles of a channel from rows of the image into vectors across tiles."""
    squares = f.inputs[0] * -(-f.inputs[1] // lanes)
    return _SHUFFLE_CYCLES * squares * lanes * math.log2(lanes)
