"""Where tensors lie in one arena, so that those which are never alive together share memory.

Two threads that compute half of each tensor had better find the memory of a half in their own caches, and not in the
other thread's. So a tensor is laid with its middle on the middles of those that were there before and come after it, as
far as that does not take more memory than it saves traffic.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Generic, TypeVar

import numpy as np

_ALIGNMENT = 64

Key = TypeVar("Key")
Offsets = np.ndarray[tuple[int], np.dtype[np.int64]]


@dataclass(frozen=True)
class Tenant(Generic[Key]):
    """What needs `size` bytes from step `birth` to step `death`, both included.

    The first of two threads writes the bytes before `middle`, the second one the others; None if they do not write one
    piece each.
    """

    key: Key
    size: int
    birth: int
    death: int
    middle: int | None = None


def arrange(tenants: Iterable[Tenant[Key]], for_partners: bool = False) -> tuple[dict[Key, int], int]:
    """The offset of each tenant, and the bytes of the arena.

    Largest first, each at the lowest place; `for_partners` at the lowest of those that cost least, counting the bytes
    by which the arena grows and those that different threads write.
    """
    order = sorted(tenants, key=lambda each: (-each.size, each.birth, each.death))
    arena = _Arena(len(order))
    return {each.key: arena.place(each, for_partners) for each in order}, arena.size


class _Arena:
    """What has been placed already: the columns of a table with a row for each tenant."""

    def __init__(self, count: int) -> None:
        self.count, self.size = 0, 0
        self._table = np.zeros((6, count), np.int64)

    def place(self, tenant: Tenant[Key], for_partners: bool) -> int:
        """Take the best place and return it."""
        size = -(-tenant.size // _ALIGNMENT) * _ALIGNMENT
        known, middle = tenant.middle is not None, (tenant.middle or 0) // _ALIGNMENT * _ALIGNMENT
        placed = self._table[:, : self.count]
        together = (placed[4] <= tenant.death) & (tenant.birth <= placed[5])
        low, high = placed[0, together], placed[1, together]
        if for_partners:
            best = self._cheapest(placed[:, ~together], low, high, size, middle, known)
        else:
            best = _lowest(low, high, size)
        self._table[:, self.count] = best, best + size, best + middle, known, tenant.birth, tenant.death
        self.count += 1
        self.size = max(self.size, best + size)
        return best

    def _cheapest(self, others: Offsets, low: Offsets, high: Offsets, size: int, middle: int, known: bool) -> int:
        """Between the places that are taken, from `low` to `high`; `others` are columns that may be shared."""
        begins = [np.zeros(1, np.int64), low, high, low - size, others[0], others[1], others[2] - middle]
        at = np.unique(np.concatenate(begins))[:, None]
        at = at[(at[:, 0] >= 0) & ~((low < at + size) & (at < high)).any(axis=1)]
        cost = np.maximum(at[:, 0] + size - self.size, 0)
        cost = cost + _changing_hands(others, at, size, at + middle, known).sum(axis=1)
        return int(at[np.argmin(cost), 0])


def _lowest(low: Offsets, high: Offsets, size: int) -> int:
    """The lowest place of that size between those from `low` to `high`."""
    at = 0
    for begin, end in sorted(zip(low.tolist(), high.tolist(), strict=True)):
        if begin - at >= size:
            break
        at = max(at, end)
    return at


def _changing_hands(others: Offsets, at: Offsets, size: int, middle: Offsets, known: bool) -> Offsets:
    """Bytes that different threads write in `size` bytes at each place and in each of the others."""
    low, high, middles, others_known, *_ = others
    begin, end = np.maximum(low, at), np.minimum(high, at + size)
    between = np.minimum(end, np.maximum(middles, middle)) - np.maximum(begin, np.minimum(middles, middle))
    one_known = np.where(others_known != known, (end - begin) // 2, 0)
    return np.maximum(np.where(known & (others_known != 0), between, one_known), 0)
