"""Emits the entry points of a program: the code that calls its kernels, step by step, on one thread or on several.

The text goes into the same LLVM module as the kernels. Every kernel is
`void @kernel(ptr a0, ..., ptr an, ptr scratch, i64 begin, i64 end)` and does the iterations [begin, end) of its
parallel space; any division of that space gives the same bits. What the entry points are called and how they find
their memory is fixed in `runtime.abi`; how threads share the steps is in `codegen.workers`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate, chain, groupby
from typing import Literal

from glulam.compiler.codegen.platform import Platform
from glulam.compiler.codegen.workers import worker_functions
from glulam.compiler.errors import CompileError
from glulam.runtime import abi

Space = Literal["arena", "weights", "input", "output"]

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
class _Group:
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

    def is_followed_by(self, other: _Group) -> bool:
        """Whether one thread had better go through both: it would only wait between them."""
        waits = other.members[0].waits
        needed = waits is None or not set(self.numbers).isdisjoint(waits)
        return needed and self.is_row and other.is_row and self.parts == other.parts

    def and_then(self, other: _Group) -> _Group:
        return _Group(self.members + other.members, self.strides + other.strides, self.numbers + other.numbers)

    @property
    def span(self) -> int:
        return self.members[0].chunks_each * self.grain

    @property
    def extent(self) -> int:
        if self.parts == 1 and not self.is_row:
            return self.members[0].extent
        return self.parts * self.span


def emit_entry(
    program: Sequence[EntryStep | EntryLoop], *, inputs: int, outputs: int, scratch_bytes: int, triple: str
) -> str:
    """LLVM text of all functions in `abi.ENTRY_SYMBOLS`; the kernels are expected in the same module.

    Args:
        program: what to run, in order. A step with extent 0 is allowed and does nothing.
        inputs, outputs: number of each in the binding table.
        scratch_bytes: private memory of each thread.
        triple: target triple; selects the system calls that park a thread, and the clock.

    Raises:
        CompileError: a step refers to an input or output that does not exist, or has no valid grain.
        TargetError: no way to park a thread is known for the platform.
    """
    platform = Platform.of_triple(triple)
    loops = list(_loops(program))
    firsts = accumulate((len(loop.steps) for loop in loops), initial=0)
    numbered = list(zip(loops, firsts, strict=False))
    for loop, first in numbered:
        _check(loop, first, inputs, outputs)
    bindings = _Bindings(inputs, outputs)
    grouped = [(tuple(_grouped(loop, first)), loop.rounds) for loop, first in numbered]
    singles = [(tuple(_alone(loop, first)), loop.rounds) for loop, first in numbered]
    groups = dict.fromkeys(group for row, _ in (*grouped, *singles) for group in row)
    bodies = {group: f"@glulam.body.{number}" for number, group in enumerate(groups)}
    texts = [
        *(_body(name, group, bindings) for group, name in bodies.items()),
        _single(abi.RUN_SINGLE, grouped, bodies, profiled=False),
        _single(abi.RUN_SINGLE_PROFILED, singles, bodies, profiled=True),
        _walk("glulam.walk", grouped, bodies, profiled=False),
        _walk("glulam.walk.profiled", singles, bodies, profiled=True),
        worker_functions(
            platform,
            steps=sum(len(row) * rounds for row, rounds in singles),
            rows=sum(len(row) * rounds for row, rounds in grouped),
            scratch_stride=abi.scratch_stride(scratch_bytes),
        ),
    ]
    return "\n".join(texts)


def _loops(program: Sequence[EntryStep | EntryLoop]) -> Iterator[EntryLoop]:
    """The program as loops only, some of which are done once."""
    for is_loop, items in groupby(program, lambda item: isinstance(item, EntryLoop)):
        if is_loop:
            yield from (item for item in items if isinstance(item, EntryLoop))
        else:
            yield EntryLoop.once([item for item in items if isinstance(item, EntryStep)])


def _check(loop: EntryLoop, first: int, inputs: int, outputs: int) -> None:
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


def _grouped(loop: EntryLoop, first: int) -> Iterator[_Group]:
    """Joins neighbours of one chunk a part, each of which needs one before it, so that threads meet once for all.

    Steps without iterations are dropped.
    """
    rows: list[_Group] = []
    for group in _alone(loop, first):
        if rows and group.chunks and rows[-1].is_followed_by(group):
            rows[-1] = rows[-1].and_then(group)
        elif group.chunks:
            rows.append(group)
    yield from rows


def _alone(loop: EntryLoop, first: int) -> Iterator[_Group]:
    """Each step by itself; the loop's first one has the number `first`."""
    for number, (step, strides) in enumerate(zip(loop.steps, loop.strides, strict=True), first):
        yield _Group((step,), (strides,), (number,))


_Row = tuple[tuple[_Group, ...], int]
"""Groups that are taken in order, and how often."""


@dataclass(frozen=True)
class _Bindings:
    """Where in the binding table the memory of an argument stands."""

    inputs: int
    outputs: int

    def slot(self, space: Space, index: int) -> int:
        match space:
            case "arena":
                return abi.BIND_ARENA
            case "weights":
                return abi.BIND_WEIGHTS
            case "input":
                return abi.BIND_FIRST_INPUT + index
            case "output":
                return abi.BIND_FIRST_INPUT + self.inputs + index

    def load(self, slot: int) -> list[str]:
        return [
            f"  %slot.{slot} = getelementptr i8, ptr %bind, i64 {slot * abi.POINTER_BYTES}",
            f"  %base.{slot} = load ptr, ptr %slot.{slot}, align 8",
        ]

    def function(self, number: int) -> int:
        return abi.BIND_FIRST_INPUT + self.inputs + self.outputs + 2 * number

    def load_all(self, steps: Sequence[EntryStep]) -> list[str]:
        slots = {self.slot(space, index) for step in steps for space, index, _ in step.args}
        first = {self.function(step.foreign) for step in steps if step.foreign is not None}
        slots |= first | {slot + 1 for slot in first}
        return [line for slot in sorted(slots) for line in self.load(slot)]

    def call(self, step: EntryStep, strides: Sequence[int], label: str, begin: str, end: str) -> list[str]:
        """The call of a step's kernel for loop round %round and part %part; expects its bases loaded and %scratch."""
        lines, arguments = [], []
        within = step.strides if step.parts > 1 else (0,) * len(step.args)
        for position, ((space, index, offset), *moves) in enumerate(zip(step.args, strides, within, strict=True)):
            name, base = f"%arg.{label}.{position}", f"%base.{self.slot(space, index)}"
            for count, stride in zip(("round", "part"), moves, strict=True):
                if stride:
                    lines += [
                        f"  {name}.{count}.moved = mul i64 %{count}, {stride}",
                        f"  {name}.{count} = getelementptr i8, ptr {base}, i64 {name}.{count}.moved",
                    ]
                    base = f"{name}.{count}"
            lines.append(f"  {name} = getelementptr i8, ptr {base}, i64 {offset}")
            arguments.append(f"ptr {name}")
        if step.foreign is not None:
            slot = self.function(step.foreign)
            sides = (("ins", arguments[: step.reads]), ("outs", arguments[step.reads :]))
            for side, pointers in sides:
                lines += _pointer_table(f"%{side}.{label}", pointers)
            tables = f"ptr %ins.{label}, ptr %outs.{label}"
            return [*lines, f"  call void %base.{slot}({tables}, ptr %base.{slot + 1})"]
        arguments += ["ptr %scratch", f"i64 {begin}", f"i64 {end}"]
        return [*lines, f"  call void @{step.kernel}({', '.join(arguments)}) noinline"]


def _pointer_table(name: str, pointers: Sequence[str]) -> list[str]:
    """An array of the pointers on the stack."""
    lines = [f"  {name} = alloca [{max(len(pointers), 1)} x ptr], align 8"]
    for i, pointer in enumerate(pointers):
        lines += [
            f"  {name}.{i} = getelementptr i8, ptr {name}, i64 {i * abi.POINTER_BYTES}",
            f"  store {pointer}, ptr {name}.{i}, align 8",
        ]
    return lines


def _body(name: str, group: _Group, bindings: _Bindings) -> str:
    """One group as a function of (bind, scratch, round of its loop, begin, end)."""
    lines = [
        f"define internal void {name}(ptr %bind, ptr %scratch, i64 %round, i64 %begin, i64 %end) nounwind {{",
        "entry:",
        *bindings.load_all(group.members),
    ]
    low, high = ("%begin", "%end") if group.parts == 1 else ("%low", "%high")
    calls = []
    for number, (step, strides) in enumerate(zip(group.members, group.strides, strict=True)):
        begin, end = ("0", str(step.extent)) if group.is_row else (low, high)
        calls += bindings.call(step, strides, str(number), begin, end) if step.extent else []
    if group.parts > 1:
        calls = _part_by_part(group, calls)
    return "\n".join([*lines, *calls, "  ret void", "}"])


def _part_by_part(group: _Group, calls: Sequence[str]) -> list[str]:
    """The calls for iterations [%low, %high) of each %part that [%begin, %end) reaches into."""
    extent = group.span if group.is_row else group.members[0].extent
    return [
        "  br label %piece",
        "piece:",
        "  %at = phi i64 [ %begin, %entry ], [ %next, %piece ]",
        f"  %part = udiv i64 %at, {group.span}",
        f"  %first = mul i64 %part, {group.span}",
        "  %low = sub i64 %at, %first",
        "  %rest = sub i64 %end, %first",
        f"  %high = call i64 @llvm.umin.i64(i64 %rest, i64 {extent})",
        *calls,
        f"  %next = add i64 %first, {group.span}",
        "  %more = icmp ult i64 %next, %end",
        "  br i1 %more, label %piece, label %exit",
        "exit:",
    ]


def _single(name: str, rows: Sequence[_Row], bodies: Mapping[_Group, str], *, profiled: bool) -> str:
    """The run of one thread: every group over its whole extent, no atomics."""
    lines = [
        f"define void @{name}(ptr %bind{', ptr %ticks' if profiled else ''}) nounwind {{",
        "entry:",
        f"  %scratch.slot = getelementptr i8, ptr %bind, i64 {abi.BIND_SCRATCH * abi.POINTER_BYTES}",
        "  %scratch = load ptr, ptr %scratch.slot, align 8",
    ]

    def do(group: _Group, label: str, round: str) -> list[str]:
        call = f"  call void {bodies[group]}(ptr %bind, ptr %scratch, i64 {round}, i64 0, i64 {group.extent})"
        return [call] if group.chunks else []

    return "\n".join([*lines, *_in_order(rows, do, profiled=profiled), "  ret void", "}"])


def _walk(name: str, rows: Sequence[_Row], bodies: Mapping[_Group, str], *, profiled: bool) -> str:
    """What every thread of a shared run does: all groups in order, each claimed in chunks, until it is complete."""
    ticks = ", ptr %ticks" if profiled else ""
    lines = [
        f"define internal void @{name}(ptr %rows, ptr %bind, ptr %scratch, i64 %tid, i64 %shares,"
        f" i64 %eager{ticks}) noinline nounwind {{",
        "entry:",
        "  %lines = add i64 %shares, 1",
        f"  %stride = mul i64 %lines, {abi.CACHE_LINE}",
    ]

    meetings = _Meetings(rows, all_in_order=profiled)

    def do(group: _Group, label: str, round: str) -> list[str]:
        before, after = meetings.around[group]
        take = [*_await(before, f"{label}.before"), *_take(group, label, bodies[group], round)]
        return [*take, f"  call void @glulam.wait(ptr %row.{label}, i64 {group.chunks})"] if after else take

    end = _await(meetings.at_the_end, "end")
    return "\n".join([*lines, *_in_order(rows, do, profiled=profiled), *end, "  ret void", "}"])


class _Meetings:
    """Where a walk waits for what.

    `around` has for each group the rows of counters to wait for before it, with the chunks to be done there, and
    whether to wait for the group itself before going on, as in loops, whose counters have no fixed row. `at_the_end`
    has those that no group has waited for.
    """

    def __init__(self, rows: Sequence[_Row], *, all_in_order: bool) -> None:
        self.around: dict[_Group, tuple[dict[int, int], bool]] = {}
        row_of: dict[int, int] = {}
        first, pending = 0, dict[int, int]()
        for groups, rounds in rows:
            in_order = all_in_order or rounds > 1
            for row, group in enumerate(groups, first):
                known = [step.waits for step in group.members if step.waits is not None]
                if in_order or len(known) < len(group.members):
                    before = dict(pending)
                else:
                    needed = {row_of.get(number) for number in chain(*known)}
                    before = {number: chunks for number, chunks in pending.items() if number in needed}
                self.around[group] = before, in_order and group.chunks > 0
                pending = {number: chunks for number, chunks in pending.items() if number not in before}
                if not in_order and group.chunks:
                    row_of |= dict.fromkeys(group.numbers, row)
                    pending[row] = group.chunks
            first += len(groups) * rounds
        self.at_the_end = pending


def _await(rows: Mapping[int, int], label: str) -> list[str]:
    """Wait for rows of counters, given by number, until so many chunks are done."""
    return [
        line
        for number, chunks in rows.items()
        for line in (
            f"  %at.{label}.{number} = mul i64 %stride, {number}",
            f"  %row.{label}.{number} = getelementptr i8, ptr %rows, i64 %at.{label}.{number}",
            f"  call void @glulam.wait(ptr %row.{label}.{number}, i64 {chunks})",
        )
    ]


def _in_order(rows: Sequence[_Row], do: Callable[[_Group, str, str], list[str]], *, profiled: bool) -> list[str]:
    """All groups one after the other; `do(group, label, round)` may use %number.label, the number of the call."""
    lines = _stamp("start", "0") if profiled else []
    first, block = 0, "entry"
    for number, (groups, rounds) in enumerate(rows):
        inner = []
        for i, group in enumerate(groups):
            label = f"{number}.{i}"
            inner += _numbered(label, number, first + i, len(groups), rounds)
            inner += do(group, label, "0" if rounds == 1 else f"%round.{number}")
            if profiled:
                inner += [f"  %after.{label} = add i64 %number.{label}, 1", *_stamp(label, f"%after.{label}")]
        lines += _repeated(number, rounds, inner, block)
        first, block = first + len(groups) * rounds, _last_block(number, rounds, block)
    return lines


def _take(group: _Group, label: str, body: str, round: str) -> list[str]:
    """Join in a group, whose row of counters has the number %number.label."""
    lines = [
        f"  %at.{label} = mul i64 %stride, %number.{label}",
        f"  %row.{label} = getelementptr i8, ptr %rows, i64 %at.{label}",
    ]
    common = f"ptr %row.{label}, ptr {body}, ptr %bind, ptr %scratch, i64 {round}"
    if group.chunks == 1:
        lines.append(f"  call void @glulam.step.once({common})")
    elif group.chunks > 1:
        sizes = (group.chunks, group.grain, group.extent, group.claim, group.left_to_owner)
        lines.append(
            f"  call void @glulam.step({common}, i64 %tid, i64 %shares, i64 %eager,"
            f" {', '.join(f'i64 {size}' for size in sizes)})"
        )
    return lines


def _repeated(number: int, rounds: int, body: Sequence[str], before: str) -> list[str]:
    """Loop `number` around the body, in which %round.number counts; the body alone if it is done once."""
    if rounds == 1:
        return list(body)
    loop, round = f"loop.{number}", f"%round.{number}"
    return [
        f"  br label %{loop}",
        f"{loop}:",
        f"  {round} = phi i64 [ 0, %{before} ], [ {round}.next, %{loop} ]",
        *body,
        f"  {round}.next = add i64 {round}, 1",
        f"  {round}.more = icmp ult i64 {round}.next, {rounds}",
        f"  br i1 {round}.more, label %{loop}, label %{loop}.end",
        f"{loop}.end:",
    ]


def _last_block(number: int, rounds: int, before: str) -> str:
    """The block that the code after loop `number` is in."""
    return before if rounds == 1 else f"loop.{number}.end"


def _numbered(label: str, loop: int, first: int, each: int, rounds: int) -> list[str]:
    """%number.label: the number of a call that is `first` in the first round, with `each` calls a round."""
    if rounds == 1:
        return [f"  %number.{label} = add i64 {first}, 0"]
    return [
        f"  %number.{label}.moved = mul i64 %round.{loop}, {each}",
        f"  %number.{label} = add i64 %number.{label}.moved, {first}",
    ]


def _stamp(label: str, number: str) -> list[str]:
    """Write the time to entry `number` of the table of ticks."""
    return [
        f"  %now.{label} = call i64 @{abi.READ_TICKS}()",
        f"  %stamp.{label} = getelementptr i64, ptr %ticks, i64 {number}",
        f"  store i64 %now.{label}, ptr %stamp.{label}, align 8",
    ]
