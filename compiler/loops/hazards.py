"""Which steps of a program must be complete before another one may start: where data crosses, and nowhere else.

A step depends on an earlier one if they touch the same bytes and at least one of them writes there: read after write,
write after read, write after write. An operand covers all bytes from its first to its last element, for all parts of a
batch.

External functions may have effects besides what they write, so they keep their order.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from glulam.compiler.loops.ir import Access
from glulam.compiler.loops.program import Step


def dependences(steps: Sequence[Step]) -> list[tuple[int, ...]]:
    """For each step the numbers of those that must be complete before it may start, in order."""
    memory: dict[tuple[str, int], _Memory] = {}
    found: list[tuple[int, ...]] = []
    last_foreign = None
    for number, step in enumerate(steps):
        needed: set[int] = set()
        for space, low, high, access in operands(step):
            place = memory.setdefault(space, _Memory())
            if access is not Access.WRITE:
                needed |= place.read(low, high, number)
            if access is not Access.READ:
                needed |= place.write(low, high, number)
        if step.foreign is not None:
            needed |= set() if last_foreign is None else {last_foreign}
            last_foreign = number
        found.append(tuple(sorted(needed - {number})))
    return found


def operands(step: Step) -> Iterator[tuple[tuple[str, int], int, int, Access]]:
    """The memory, the bytes [low, high) and the access of each operand that is no weight."""
    last = step.part(step.parts - 1)
    for buffer, ref, end in zip(step.kernel.params, step.refs, last, strict=True):
        if ref.space != "weights" and buffer.span:
            low, high = min(ref.offset, end.offset), max(ref.offset, end.offset)
            yield (ref.space, ref.index), low, high + buffer.span * buffer.dtype.size, buffer.access


@dataclass
class _Memory:
    """One block of memory as segments [starts[i], starts[i + 1]), each with who wrote it last and who read it since."""

    starts: list[int] = field(default_factory=lambda: [0])
    writers: list[int | None] = field(default_factory=lambda: [None])
    readers: list[set[int]] = field(default_factory=lambda: [set()])

    def read(self, low: int, high: int, step: int) -> set[int]:
        """Notes that the step reads [low, high); who wrote there."""
        segments = self._cut(low, high)
        for i in segments:
            self.readers[i].add(step)
        return {writer for i in segments if (writer := self.writers[i]) is not None}

    def write(self, low: int, high: int, step: int) -> set[int]:
        """Notes that the step writes [low, high); who wrote or read there."""
        segments = self._cut(low, high)
        found = {writer for i in segments if (writer := self.writers[i]) is not None}
        found = found.union(*(self.readers[i] for i in segments))
        whole = slice(segments.start, segments.stop)
        self.starts[whole], self.writers[whole], self.readers[whole] = [low], [step], [set()]
        return found

    def _cut(self, low: int, high: int) -> range:
        """The segments that make up [low, high), after a cut at both ends."""
        for at in (low, high):
            i = bisect_right(self.starts, at) - 1
            if self.starts[i] != at:
                self.starts.insert(i + 1, at)
                self.writers.insert(i + 1, self.writers[i])
                self.readers.insert(i + 1, set(self.readers[i]))
        return range(bisect_left(self.starts, low), bisect_left(self.starts, high))
