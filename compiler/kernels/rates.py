"""Rates of memory: bytes a cycle that come from each cache and from afar, what stays near, and what computing hides.

What is computed, and how a kernel is cut to suit these rates, stands with the kernels.
"""

from __future__ import annotations

import math

from glulam.compiler.targets import Target

_PAGE, LINE = 4096, 64  # bytes
STREAM_BYTES = 20.0  # bytes a cycle that a tile may draw from the second-level cache without waiting
_L2_RATE = 28.0  # bytes a cycle that one core reads from the second-level cache
FAR_RATE = 5.0  # bytes a cycle that come from memory and go back there, all of which shows
COPY_RATE = 5.0  # bytes a cycle that are moved from one arrangement to another
SHOWS = 0.25  # of the shorter of computing and fetching, which go on together
_LATE = 0.5  # of what a slow cache sends shows, where hardware asks for it
_CROWDED = 4  # of the last-level cache, which others use too, one may count on such a part
OFTEN = 3  # times that weights may be larger than pixels, to be read by each of two threads


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


def most_rows(target: Target, stride: int) -> int:
    """Rows, `stride` bytes apart, whose lines of one column stay in the first-level cache while they are gone through.

    A way of that cache is one page large, so that an address tells the set before it is translated.
    """
    sets = _PAGE // math.gcd(stride, _PAGE)
    return max(1, target.l1_bytes // _PAGE) * min(sets, _PAGE // LINE)


def overlapped(one: float, other: float, shows: float = SHOWS) -> float:
    """Cycles of two activities that go on together, as computing and fetching; some of the shorter one shows."""
    return max(one, other) + shows * min(one, other)


def fetched(target: Target, computing: float, size: float, rate: float) -> float:
    """Cycles to compute with `size` bytes that arrive at a rate, in kernels that leave most of it to the hardware.

    What comes from a fast cache hides behind the products.
    """
    return overlapped(computing, size / rate, _LATE) if target.l3_is_slow else max(computing, size / rate)
