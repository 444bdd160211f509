"""Emits the entry points of a program: the code that calls its kernels, step by step, on one thread or on several.

The text goes into the same LLVM module as the kernels. Every kernel is
`void @kernel(ptr a0, ..., ptr an, ptr scratch, i64 begin, i64 end)` and does the iterations [begin, end) of its
parallel space; any division of that space gives the same bits. What the entry points are called and how they find
their memory is fixed in `runtime.abi`; how threads share the steps is in `codegen.workers`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

from glulam.compiler.codegen.platform import Platform
from glulam.compiler.codegen.workers import worker_functions
from glulam.compiler.errors import CompileError
from glulam.runtime import abi

Space = Literal["arena", "weights", "input", "output"]


@dataclass(frozen=True)
class EntryStep:
    """One kernel call: `extent` iterations, given out to threads in chunks of `grain`.

    An argument is (space, index, offset in bytes); the index counts inputs or outputs, and is 0 for arena and weights.
    With `foreign` it is a call of that external function of the binding table, in one chunk: the first `reads`
    arguments are its inputs, the others its outputs.
    """

    kernel: str
    args: tuple[tuple[Space, int, int], ...]
    extent: int
    grain: int
    foreign: int | None = None
    reads: int = 0

    @property
    def chunks(self) -> int:
        return abi.chunk_count(self.extent, self.grain)


@dataclass(frozen=True)
class _Group:
    """Steps that a thread takes as one: a step of several chunks, or a row of steps that have one chunk each."""

    members: tuple[EntryStep, ...]

    @property
    def chunks(self) -> int:
        return self.members[0].chunks


def emit_entry(steps: Sequence[EntryStep], *, inputs: int, outputs: int, scratch_bytes: int, triple: str) -> str:
    """LLVM text of all functions in `abi.ENTRY_SYMBOLS`; the kernels are expected in the same module.

    Args:
        steps: what to run, in order. A step with extent 0 is allowed and does nothing.
        inputs, outputs: number of each in the binding table.
        scratch_bytes: private memory of each thread.
        triple: target triple; selects the system calls that park a thread, and the clock.

    Raises:
        CompileError: a step refers to an input or output that does not exist, or has no valid grain.
        TargetError: no way to park a thread is known for the platform.
    """
    platform = Platform.of_triple(triple)
    for step in steps:
        _check(step, inputs, outputs)
    bindings = _Bindings(inputs, outputs)
    groups = tuple(_grouped(steps))
    singles = tuple(_Group((step,)) for step in steps)
    parts = [
        _single(abi.RUN_SINGLE, steps, bindings, profiled=False),
        _single(abi.RUN_SINGLE_PROFILED, steps, bindings, profiled=True),
        *(_body(f"glulam.body.{i}", group, bindings) for i, group in enumerate(groups)),
        *(_body(f"glulam.profiled.body.{i}", group, bindings) for i, group in enumerate(singles)),
        _walk("glulam.walk", "glulam.body", groups, profiled=False),
        _walk("glulam.walk.profiled", "glulam.profiled.body", singles, profiled=True),
        worker_functions(
            platform, steps=len(steps), rows=len(groups), scratch_stride=abi.scratch_stride(scratch_bytes)
        ),
    ]
    return "\n".join(parts)


def _check(step: EntryStep, inputs: int, outputs: int) -> None:
    if step.foreign is not None and (step.chunks != 1 or not 0 <= step.reads <= len(step.args)):
        raise CompileError(f"step {step.kernel}: an external function is called once, with its inputs first")
    if step.extent < 0 or step.grain < 1:
        raise CompileError(f"step {step.kernel}: extent {step.extent} and grain {step.grain}; need >= 0 and >= 1")
    limits = {"arena": 1, "weights": 1, "input": inputs, "output": outputs}
    for space, index, offset in step.args:
        if not 0 <= index < limits[space] or offset < 0:
            raise CompileError(f"step {step.kernel}: no {space} {index} at offset {offset} in this program")


def _grouped(steps: Sequence[EntryStep]) -> Iterator[_Group]:
    """Joins neighbouring one-chunk steps, so that threads meet once for all of them; drops steps without iterations."""
    pending: list[EntryStep] = []
    for step in steps:
        if step.chunks == 1:
            pending.append(step)
            continue
        if step.chunks == 0:
            continue
        if pending:
            yield _Group(tuple(pending))
            pending = []
        yield _Group((step,))
    if pending:
        yield _Group(tuple(pending))


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

    def call(self, step: EntryStep, label: str, begin: str, end: str) -> list[str]:
        """The call of a step's kernel; expects its bases loaded and %scratch."""
        lines, arguments = [], []
        for position, (space, index, offset) in enumerate(step.args):
            name = f"%arg.{label}.{position}"
            lines.append(f"  {name} = getelementptr i8, ptr %base.{self.slot(space, index)}, i64 {offset}")
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


def _single(name: str, steps: Sequence[EntryStep], bindings: _Bindings, *, profiled: bool) -> str:
    """The run of one thread: every kernel over its whole extent, no atomics."""
    lines = [f"define void @{name}(ptr %bind{', ptr %ticks' if profiled else ''}) nounwind {{"]
    lines += bindings.load_all(steps)
    lines += [
        f"  %scratch.slot = getelementptr i8, ptr %bind, i64 {abi.BIND_SCRATCH * abi.POINTER_BYTES}",
        "  %scratch = load ptr, ptr %scratch.slot, align 8",
    ]
    lines += _stamp(0) if profiled else []
    for number, step in enumerate(steps):
        lines += bindings.call(step, str(number), "0", str(step.extent)) if step.extent else []
        lines += _stamp(number + 1) if profiled else []
    return "\n".join([*lines, "  ret void", "}"])


def _body(name: str, group: _Group, bindings: _Bindings) -> str:
    """One group as a function of (bind, scratch, begin, end); a group of one-chunk steps ignores the range."""
    lines = [f"define internal void @{name}(ptr %bind, ptr %scratch, i64 %begin, i64 %end) nounwind {{"]
    lines += bindings.load_all(group.members)
    for number, step in enumerate(group.members):
        begin, end = ("%begin", "%end") if step.chunks > 1 else ("0", str(step.extent))
        lines += bindings.call(step, str(number), begin, end) if step.extent else []
    return "\n".join([*lines, "  ret void", "}"])


def _walk(name: str, body: str, groups: Sequence[_Group], *, profiled: bool) -> str:
    """What every thread of a shared run does: all groups in order, each claimed in chunks, until it is complete."""
    ticks = ", ptr %ticks" if profiled else ""
    lines = [
        f"define internal void @{name}(ptr %rows, ptr %bind, ptr %scratch, i64 %tid, i64 %shares{ticks})"
        " noinline nounwind {",
        "  %lines = add i64 %shares, 1",
        f"  %stride = mul i64 %lines, {abi.CACHE_LINE}",
    ]
    lines += _stamp(0) if profiled else []
    for number, group in enumerate(groups):
        lines += [
            f"  %at.{number} = mul i64 %stride, {number}",
            f"  %row.{number} = getelementptr i8, ptr %rows, i64 %at.{number}",
        ]
        common = f"ptr %row.{number}, ptr @{body}.{number}, ptr %bind, ptr %scratch"
        if group.chunks == 1:
            lines.append(f"  call void @glulam.step.once({common})")
        elif group.chunks > 1:
            step = group.members[0]
            lines.append(
                f"  call void @glulam.step({common}, i64 %tid, i64 %shares,"
                f" i64 {step.chunks}, i64 {step.grain}, i64 {step.extent})"
            )
        lines += _stamp(number + 1) if profiled else []
    return "\n".join([*lines, "  ret void", "}"])


def _stamp(entry: int) -> list[str]:
    return [
        f"  %now.{entry} = call i64 @{abi.READ_TICKS}()",
        f"  %stamp.{entry} = getelementptr i8, ptr %ticks, i64 {8 * entry}",
        f"  store i64 %now.{entry}, ptr %stamp.{entry}, align 8",
    ]
