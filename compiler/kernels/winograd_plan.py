"""How the one kernel of Winograd's algorithm cuts an image into blocks of tiles, and what that costs."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import lru_cache

from glulam.compiler.graph.types import Shape
from glulam.compiler.kernels.fixed_point import Digits, weight_bytes
from glulam.compiler.kernels.frames import IMAGE, Frames
from glulam.compiler.kernels.minimal_filtering import Filtering
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
    height, width = f.tiles(spatial)
    blocks = -(-out_channels // target.lanes)
    least = 2 if target.for_partners else _PARTS
    candidates = []
    for rows, columns in _cuts(height, width):
        iterations = images * (height // rows) * (width // columns)
        for row, tiling in product_tilings(target, rows * columns, blocks, _depth(in_channels, f, frames), digits):
            groups = max(1, blocks // tiling.blocks)
            for splits in (s for s in range(1, groups + 1) if groups % s == 0):
                if iterations * splits < least and splits < groups:
                    continue
                plan = Plan(rows, columns, splits, tiling)
                ways = [(plan, _parts(plan, iterations, blocks))]
                if target.for_partners and splits == 1 and _has_middle(plan, images, height, width, blocks):
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


def _depth(in_channels: int, f: Filtering, frames: Frames) -> int:
    """Products that a point is a sum of, on average."""
    return round(frames.met * in_channels * f.sums)


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
    blocks, depth = -(-out_channels // target.lanes), _depth(in_channels, f, frames)
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
        inputs = round(f.points * tiles * depth * f.sums * 4)
        reading = depth * plan.rows * -(-plan.columns // lanes) * (f.input_cycles + _turning_cycles(f, lanes))
    else:
        inputs = round(f.points * tiles * in_blocks * lanes * 4)
        reading = tiles * in_blocks * f.input_cycles
    filters = round(f.points * frames.taps * in_channels * f.sums * out_blocks * lanes * weight_bytes(digits))
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
    return target.memory_rate if target.for_partners and overcrowds(target, together) else stream_rate(target, together)


def _turning_cycles(f: Filtering, lanes: int) -> float:
    """Estimated cycles to bring `lanes` tiles of a channel from rows of the image into vectors across tiles."""
    squares = f.inputs[0] * -(-f.inputs[1] // lanes)
    return _SHUFFLE_CYCLES * squares * lanes * math.log2(lanes)
