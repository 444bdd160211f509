"""How large the register tile of a matrix-like kernel is: pixels (or rows) times output-channel blocks."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

from glulam.compiler.loops.ir import Partner
from glulam.compiler.targets import Target

_ROUND, _MOST_STEPS = 56, 4  # FMAs, and steps, of a round of an unrolled loop; more is more code, not more speed
COPY_RATE = 5.0  # bytes a cycle that are moved from one arrangement to another
TOGETHER = 8  # sums of a tile that a long epilogue is applied to where they are
OFTEN = 3  # times that weights may be larger than pixels, to be read by each of two threads
_LATENCY = 4.0  # cycles until an FMA's result can be added to again
_PAGE, LINE = 4096, 64  # bytes
_BROADCASTS = 2.0  # loads of one element that start in one cycle
_LOADS_SHOW = 0.03  # of the time of loads, even where multiplying takes longer
STREAM_BYTES = 20.0  # bytes a cycle that a tile may draw from the second-level cache without waiting
_L2_RATE = 28.0  # bytes a cycle that one core reads from the second-level cache
SHOWS = 0.25  # of the shorter of computing and fetching, which go on together
_LATE = 0.5  # of what a slow cache sends shows, where hardware asks for it
FAR_RATE = 5.0  # bytes a cycle that come from memory and go back there, all of which shows
_CROWDED = 4  # of the last-level cache, which others use too, one may count on such a part


@dataclass(frozen=True)
class Tiling:
    """`pixels` accumulators for each of `blocks` channel blocks."""

    pixels: int
    blocks: int

    def channel_groups(self, total: int) -> list[tuple[int, int, int]]:
        """(first block, blocks a group, number of groups) so that all `total` blocks are covered once."""
        count, rest = divmod(total, self.blocks)
        groups = [(0, self.blocks, count)] if count else []
        if rest:
            groups.append((count * self.blocks, rest, 1))
        return groups


def step_cycles(target: Target, pixels: int, blocks: int) -> float:
    """Estimated cycles to add one input channel's product to the tile."""
    fmas = pixels * blocks / target.fmas_per_cycle
    loads = blocks / target.loads_per_cycle + pixels / _BROADCASTS
    stream = blocks * target.vector_bytes / STREAM_BYTES
    return max(fmas, loads, stream, _LATENCY) + _LOADS_SHOW * loads


def choose_tiling(
    target: Target, width: int, blocks: int, depth: int, for_rest: float = 0.0, limit: int | None = None,
    parts: Callable[[Tiling], Parts] | None = None,
) -> Tiling:  # fmt: skip
    """The tile with the fewest estimated cycles for rows of `width` pixels and `blocks` channel blocks.

    With `parts`, how many parts of the work many threads can share, those of the thread with most of them count.
    """
    return min(tilings(target, width, blocks, depth, for_rest, limit, parts), key=lambda entry: entry[:2])[-1]


@dataclass(frozen=True)
class Parts:
    """What threads can share: `whole` equal parts, and `smaller` ones of `size` times their work."""

    whole: int
    smaller: int = 0
    size: float = 0.0

    @classmethod
    def of(cls, rows: int, width: int, pixels: int) -> Parts:
        """Tiles of so many pixels along rows of a width."""
        full, rest = divmod(width, pixels)
        return cls(rows * full, rows if rest else 0, rest / pixels)

    def busiest(self, threads: int) -> float:
        """How many times its share the thread with most work has to do."""
        rounds = math.ceil(self.whole / threads)
        late = max(0, self.smaller - (rounds * threads - self.whole))
        total = self.whole + self.smaller * self.size
        return threads * (rounds + math.ceil(late / threads) * self.size) / total if total else 1.0


def tilings(
    target: Target, width: int, blocks: int, depth: int, for_rest: float = 0.0, limit: int | None = None,
    parts: Callable[[Tiling], Parts] | None = None,
) -> list[tuple[float, int, Tiling]]:  # fmt: skip
    """For each number of channel blocks the best tile: (estimated cycles, minus its pixels, tile).

    A tile that leaves a rest of the width costs `for_rest` cycles more. It has no more pixels than `limit`.
    """
    if parts is None or not target.many_threads:
        return list(_for_one_thread(target, width, blocks, depth, for_rest, limit))
    return _best_tiles(target, width, blocks, depth, for_rest, limit, parts)


@lru_cache(maxsize=4096)
def _for_one_thread(
    target: Target, width: int, blocks: int, depth: int, for_rest: float, limit: int | None
) -> tuple[tuple[float, int, Tiling], ...]:
    """Kept, since the layers of a network ask for few different ones, many times."""
    return tuple(_best_tiles(target, width, blocks, depth, for_rest, limit, None))


def _best_tiles(
    target: Target, width: int, blocks: int, depth: int, for_rest: float, limit: int | None,
    parts: Callable[[Tiling], Parts] | None,
) -> list[tuple[float, int, Tiling]]:  # fmt: skip
    best = []
    for per_group in range(1, min(blocks, 8) + 1):
        most = min((target.vector_registers - per_group - 1) // per_group, limit or width)
        found = []
        for pixels in range(1, min(width, most) + 1):
            tiling = Tiling(pixels, per_group)
            cycles = row_cycles(target, tiling, width, blocks, depth) + (for_rest if width % pixels else 0.0)
            cycles *= 1.0 if parts is None else parts(tiling).busiest(target.threads)
            found.append((cycles, -pixels, tiling))
        if found:
            best.append(min(found, key=lambda entry: entry[:2]))
    return best


def row_cycles(
    target: Target, tiling: Tiling, width: int, blocks: int, depth: int, finishing: float = 1.0
) -> float:  # fmt: skip
    """Estimated cycles for a row of `width` pixels, all `blocks` channel blocks, and a sum over `depth` products.

    `finishing` is how much shows of what is done with finished sums.
    """
    full, rest = divmod(width, tiling.pixels)
    total = 0.0
    for _, per_group, count in tiling.channel_groups(blocks):
        for pixels, times in ((tiling.pixels, full), (rest, 1 if rest else 0)):
            if times:
                finish = finishing * (4.0 + pixels * per_group)
                total += count * times * (step_cycles(target, pixels, per_group) * depth + finish)
    return total


class Run(NamedTuple):
    """`times` times `length` rows, or tiles, from `first` on: those of a partner's half, if two share the image."""

    first: int
    times: int
    length: int
    partner: Partner | None = None


def runs(count: int, length: int, together: bool) -> list[Run]:
    """Runs of `length` that cover `count` rows, or tiles: equal ones `together`, or each by itself.

    Where channels fall into groups of several sizes, one run goes through all of them before the next one does.
    """
    found = pieces(count, length)
    if count > 1 and length == -(-count // 2):
        if len(found) == 1:
            return [Run(*found[0], Partner.BOTH)]
        return [Run(*each, partner) for each, partner in zip(found, (Partner.FIRST, Partner.SECOND), strict=True)]
    if together:
        return [Run(*each) for each in found]
    return [Run(first + i * each, 1, each) for first, times, each in found for i in range(times)]


def most_rows(target: Target, stride: int) -> int:
    """Rows, `stride` bytes apart, whose lines of one column stay in the first-level cache while they are gone through.

    A way of that cache is one page large, so that an address tells the set before it is translated.
    """
    sets = _PAGE // math.gcd(stride, _PAGE)
    return max(1, target.l1_bytes // _PAGE) * min(sets, _PAGE // LINE)


def stream_rate(target: Target, working_set: int) -> float:
    """Bytes a cycle that arrive when `working_set` bytes are read over and over."""
    if stays_near(target, working_set):
        return _L2_RATE
    return target.l3_rate if stays_cached(target, working_set) else target.memory_rate


def stays_near(target: Target, working_set: int) -> bool:
    """Whether so many bytes, read over and over, come from the second-level cache."""
    return working_set <= 0.7 * target.l2_bytes


def stays_cached(target: Target, working_set: int) -> bool:
    """Whether so many bytes, read over and over, come from a cache."""
    return working_set <= 0.7 * target.l3_bytes


def move_rate(target: Target, size: int, together: int) -> float:
    """Bytes a cycle of a tensor of `size` bytes that is written and then read, one of those that take `together`."""
    return FAR_RATE if overcrowds(target, together) else stream_rate(target, size)


def overcrowds(target: Target, size: int) -> bool:
    """Whether so many bytes may not stay in the last-level cache, which others use too."""
    return size > target.l3_bytes // _CROWDED


def memory_rate(target: Target, data: int) -> float:
    """Bytes a cycle that arrive when data is read for the first time in a run: from memory, unless it is little."""
    return target.memory_rate if data > target.l2_bytes else target.l3_rate


def overlapped(one: float, other: float, shows: float = SHOWS) -> float:
    """Cycles of two activities that go on together, as computing and fetching; some of the shorter one shows."""
    return max(one, other) + shows * min(one, other)


def fetched(target: Target, computing: float, size: float, rate: float) -> float:
    """Cycles to compute with `size` bytes that arrive at a rate, in kernels that leave most of it to the hardware.

    What comes from a fast cache hides behind the products.
    """
    return overlapped(computing, size / rate, _LATE) if target.l3_is_slow else max(computing, size / rate)


def unroll_factor(extent: int, limit: int) -> int:
    """The largest divisor of `extent` up to `limit`."""
    return max(d for d in range(1, min(extent, limit) + 1) if extent % d == 0)


def unrolled_steps(extent: int, fmas: int) -> int:
    """How many of `extent` steps of so many FMAs make one round of a loop: enough to hide the loop's own work."""
    return unroll_factor(extent, min(_MOST_STEPS, max(1, _ROUND // fmas)))


def pieces(extent: int, size: int) -> list[tuple[int, int, int]]:
    """(first, count, length) of equal pieces, and a shorter one, that cover `extent`."""
    count, rest = divmod(extent, size)
    parts = [(0, count, size)] if count else []
    return [*parts, (count * size, 1, rest)] if rest else parts
