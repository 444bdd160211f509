"""How large the register tile of a matrix-like kernel is: pixels (or rows) times output-channel blocks."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache

from glulam.compiler.kernels.ranges import Parts, Pieces, pieces
from glulam.compiler.kernels.rates import STREAM_BYTES
from glulam.compiler.targets import Target

TOGETHER = 8  # sums of a tile that a long epilogue is applied to where they are
LATENCY = 4.0  # cycles until an FMA's result can be added to again
_BROADCASTS = 2.0  # loads of one element that start in one cycle
_LOADS_SHOW = 0.03  # of the time of loads, even where multiplying takes longer


@dataclass(frozen=True)
class Tiling:
    """`pixels` accumulators for each of `blocks` channel blocks."""

    pixels: int
    blocks: int

    def channel_groups(self, total: int) -> list[Pieces]:
        """All `total` channel blocks in groups as large as the tile, and a smaller one."""
        return pieces(total, self.blocks)


def step_cycles(target: Target, pixels: int, blocks: int) -> float:
    """Estimated cycles to add one input channel's product to the tile."""
    fmas = pixels * blocks / target.fmas_per_cycle
    loads = blocks / target.loads_per_cycle + pixels / _BROADCASTS
    stream = blocks * target.vector_bytes / STREAM_BYTES
    return max(fmas, loads, stream, LATENCY) + _LOADS_SHOW * loads


def choose_tiling(
    target: Target, width: int, blocks: int, depth: int, for_rest: float = 0.0, limit: int | None = None,
    parts: Callable[[Tiling], Parts] | None = None,
) -> Tiling:  # fmt: skip
    """The tile with the fewest estimated cycles for rows of `width` pixels and `blocks` channel blocks.

    With `parts`, how many parts of the work many threads can share, those of the thread with most of them count.
    """
    return min(tilings(target, width, blocks, depth, for_rest, limit, parts), key=lambda entry: entry[:2])[-1]


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


def row_cycles(target: Target, tiling: Tiling, width: int, blocks: int, depth: int, finishing: float = 1.0) -> float:
    """Estimated cycles for a row of `width` pixels, all `blocks` channel blocks, and a sum over `depth` products.

    `finishing` is how much shows of what is done with finished sums.
    """
    full, rest = divmod(width, tiling.pixels)
    total = 0.0
    for _, count, per_group in tiling.channel_groups(blocks):
        for pixels, times in ((tiling.pixels, full), (rest, 1 if rest else 0)):
            if times:
                finish = finishing * (4.0 + pixels * per_group)
                total += count * times * (step_cycles(target, pixels, per_group) * depth + finish)
    return total
