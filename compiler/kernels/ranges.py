"""How a range is cut: into equal pieces and a rest, into runs and parts that threads share, into unrolled steps."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

from glulam.compiler.loops.ir import Partner

ENOUGH = 16  # iterations of a parallel space that need no finer split
_ROUND, _MOST_STEPS = 56, 4  # FMAs, and steps, of a round of an unrolled loop; more is more code, not more speed


class Pieces(NamedTuple):
    """`times` pieces of the same `length`, one after the other from `first` on."""

    first: int
    times: int
    length: int

    @property
    def stop(self) -> int:
        return self.first + self.times * self.length


def pieces(extent: int, size: int) -> list[Pieces]:
    """Equal pieces, and a shorter one, that cover `extent`."""
    times, rest = divmod(extent, size)
    whole = [Pieces(0, times, size)] if times else []
    return [*whole, Pieces(times * size, 1, rest)] if rest else whole


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


def unroll_factor(extent: int, limit: int) -> int:
    """The largest divisor of `extent` up to `limit`."""
    return max(d for d in range(1, min(extent, limit) + 1) if extent % d == 0)


def unrolled_steps(extent: int, fmas: int) -> int:
    """How many of `extent` steps of so many FMAs make one round of a loop: enough to hide the loop's own work."""
    return unroll_factor(extent, min(_MOST_STEPS, max(1, _ROUND // fmas)))
