"""The steps of a program as its entry points call them, and in which groups threads take them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import TypeAlias

from glulam.compiler.errors import CompileError
from glulam.compiler.loops.program import Space
from glulam.runtime import abi

_LEFT_TO_OWNER = 32  # chunks at the end of a share in memory of its own that others do not take from a thread at work


@dataclass(frozen=True)
class EntryStep:
    """One kernel call: `extent` iterations, given out to threads in chunks of `grain`, at most `claim` at a time.

    An argument is (space, index, offset in bytes); the index counts inputs or outputs, and is 0 for arena and weights.
    With `foreign` it is a call of that external function of the binding table, in one chunk: the first `reads`
    arguments are its inputs, the others its outputs. With several `parts` the kernel is called for each of them, in any
    order, and every argument lies `strides` bytes further on each time; the chunks of the parts are numbered through.
    `waits` are the numbers of the steps that must be complete before it, None for all that come before; the steps of a
    program are numbered as they stand there, those of a loop once, and within and behind a loop all is in order.
    """

    kernel: str
    args: tuple[tuple[Space, int, int], ...]
    extent: int
    grain: int
    foreign: int | None = None
    reads: int = 0
    claim: int = 1
    parts: int = 1
    strides: tuple[int, ...] = ()
    waits: tuple[int, ...] | None = None

    @property
    def chunks_each(self) -> int:
        return abi.chunk_count(self.extent, self.grain)


@dataclass(frozen=True)
class EntryLoop:
    """Steps that are run in order, `rounds` times. For each step, how many bytes each argument moves on every time."""

    steps: tuple[EntryStep, ...]
    strides: tuple[tuple[int, ...], ...]
    rounds: int

    @classmethod
    def once(cls, steps: Sequence[EntryStep]) -> EntryLoop:
        return cls(tuple(steps), tuple((0,) * len(step.args) for step in steps), 1)


@dataclass(frozen=True)
class Group:
    """Steps that a thread takes as one: a step of several chunks, or a row of steps that have one chunk a part each.

    Chunks are of `grain` iterations, of which every part has `span` numbers, those beyond its extent unused; a part of
    a row counts as one iteration. `numbers` are those of the steps in the program.
    """

    members: tuple[EntryStep, ...]
    strides: tuple[tuple[int, ...], ...]
    numbers: tuple[int, ...]

    @property
    def is_row(self) -> bool:
        return self.members[0].chunks_each == 1

    @property
    def parts(self) -> int:
        return self.members[0].parts

    @property
    def chunks(self) -> int:
        return self.parts * self.members[0].chunks_each

    @property
    def grain(self) -> int:
        return 1 if self.is_row else self.members[0].grain

    @property
    def claim(self) -> int:
        return 1 if self.is_row else self.members[0].claim

    @property
    def left_to_owner(self) -> int:
        return _LEFT_TO_OWNER if self.parts > 1 else 0

    @property
    def span(self) -> int:
        return self.members[0].chunks_each * self.grain

    @property
    def extent(self) -> int:
        if self.parts == 1 and not self.is_row:
            return self.members[0].extent
        return self.parts * self.span

    def is_followed_by(self, other: Group) -> bool:
        """Whether one thread had better go through both: it would only wait between them."""
        waits = other.members[0].waits
        needed = waits is None or not set(self.numbers).isdisjoint(waits)
        return needed and self.is_row and other.is_row and self.parts == other.parts

    def and_then(self, other: Group) -> Group:
        return Group(self.members + other.members, self.strides + other.strides, self.numbers + other.numbers)


def numbered_loops(program: Sequence[EntryStep | EntryLoop]) -> Iterator[tuple[EntryLoop, int]]:
    """The program as loops only, some of which are done once, each with the number of its first step."""
    first = 0
    for is_loop, items in groupby(program, lambda item: isinstance(item, EntryLoop)):
        neighbours = list(items)
        loops = [item for item in neighbours if isinstance(item, EntryLoop)]
        steps = [item for item in neighbours if isinstance(item, EntryStep)]
        for loop in loops if is_loop else [EntryLoop.once(steps)]:
            yield loop, first
            first += len(loop.steps)


def check(loop: EntryLoop, first: int, inputs: int, outputs: int) -> None:
    """Raises CompileError, with the name of the kernel, for a step that cannot be."""
    limits = {"arena": 1, "weights": 1, "input": inputs, "output": outputs}
    for number, (step, strides) in enumerate(zip(loop.steps, loop.strides, strict=True), first):
        if step.waits is not None and not all(0 <= other < number for other in step.waits):
            raise CompileError(f"step {step.kernel}, number {number}: cannot wait for the steps {step.waits}")
        if step.parts < 1 or (step.parts > 1 and len(step.strides) != len(step.args)):
            raise CompileError(
                f"step {step.kernel}: {step.parts} parts, {len(step.strides)} of {len(step.args)} strides"
            )
        if step.extent < 0 or step.grain < 1 or step.claim < 1:
            sizes = f"extent {step.extent}, grain {step.grain} and claim {step.claim}"
            raise CompileError(f"step {step.kernel}: {sizes}; need >= 0, >= 1 and >= 1")
        once = step.chunks_each == step.parts == loop.rounds == 1
        if step.foreign is not None and not (once and 0 <= step.reads <= len(step.args)):
            raise CompileError(f"step {step.kernel}: an external function is called once, with its inputs first")
        for (space, index, offset), stride in zip(step.args, strides, strict=True):
            if not 0 <= index < limits[space] or offset < 0 or stride < 0:
                raise CompileError(f"step {step.kernel}: no {space} {index} at offset {offset} in this program")


def joined_groups(loop: EntryLoop, first: int) -> Iterator[Group]:
    """Joins neighbours of one chunk a part, each of which needs one before it, so that threads meet once for all.

    Steps without iterations are dropped.
    """
    rows: list[Group] = []
    for group in single_groups(loop, first):
        if rows and group.chunks and rows[-1].is_followed_by(group):
            rows[-1] = rows[-1].and_then(group)
        elif group.chunks:
            rows.append(group)
    yield from rows


def single_groups(loop: EntryLoop, first: int) -> Iterator[Group]:
    """Each step by itself; the loop's first one has the number `first`."""
    for number, (step, strides) in enumerate(zip(loop.steps, loop.strides, strict=True), first):
        yield Group((step,), (strides,), (number,))


Row: TypeAlias = tuple[tuple[Group, ...], int]
"""Groups that are taken in order, and how often."""
