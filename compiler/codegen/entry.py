"""Emits the entry points of a program: the code that calls its kernels, step by step, on one thread or on several.

The text goes into the same LLVM module as the kernels. Every kernel is
`void @kernel(ptr a0, ..., ptr an, ptr scratch, i64 begin, i64 end)` and does the iterations [begin, end) of its
parallel space; any division of that space gives the same bits. What the entry points are called and how they find
their memory is fixed in `runtime.abi`; in which order the steps are done is in `codegen.walks`, how threads share one
in `codegen.workers`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from glulam.compiler.codegen.platform import Platform
from glulam.compiler.codegen.steps import (
    EntryLoop,
    EntryStep,
    Group,
    check,
    joined_groups,
    numbered_loops,
    single_groups,
)
from glulam.compiler.codegen.walks import run_single, walk
from glulam.compiler.codegen.workers import worker_functions
from glulam.compiler.loops.program import Space
from glulam.runtime import abi


def emit_entry(
    program: Sequence[EntryStep | EntryLoop],
    *,
    inputs: int,
    outputs: int,
    scratch_bytes: int,
    sizes: Sequence[int],
    triple: str,
) -> str:
    """LLVM text of all functions in `abi.ENTRY_SYMBOLS`, and `abi.SIZES`; the kernels are expected in the same module.

    Args:
        program: what to run, in order. A step with extent 0 is allowed and does nothing.
        inputs, outputs: number of each in the binding table.
        scratch_bytes: private memory of each thread.
        sizes: what `abi.sizes` gives for the program.
        triple: target triple; selects the system calls that park a thread, and the clock.

    Raises:
        CompileError: a step refers to an input or output that does not exist, or has no valid grain.
        TargetError: no way to park a thread is known for the platform.
    """
    platform = Platform.of_triple(triple)
    loops = list(numbered_loops(program))
    for loop, first in loops:
        check(loop, first, inputs, outputs)
    bindings = _Bindings(inputs, outputs)
    joined = [(tuple(joined_groups(loop, first)), loop.rounds) for loop, first in loops]
    singles = [(tuple(single_groups(loop, first)), loop.rounds) for loop, first in loops]
    groups = dict.fromkeys(group for row, _ in (*joined, *singles) for group in row)
    bodies = {group: f"@glulam.body.{number}" for number, group in enumerate(groups)}
    numbers = ", ".join(f"i64 {number}" for number in (len(sizes), *sizes))
    texts = [
        f"@{abi.SIZES} = constant [{len(sizes) + 1} x i64] [{numbers}]",
        *(_body(name, group, bindings) for group, name in bodies.items()),
        run_single(abi.RUN_SINGLE, joined, bodies, profiled=False),
        run_single(abi.RUN_SINGLE_PROFILED, singles, bodies, profiled=True),
        walk("glulam.walk", joined, bodies, profiled=False),
        walk("glulam.walk.profiled", singles, bodies, profiled=True),
        worker_functions(
            platform,
            steps=sum(len(row) * rounds for row, rounds in singles),
            rows=sum(len(row) * rounds for row, rounds in joined),
            scratch_stride=abi.scratch_stride(scratch_bytes),
        ),
    ]
    return "\n".join(texts)


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


def _body(name: str, group: Group, bindings: _Bindings) -> str:
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


def _part_by_part(group: Group, calls: Sequence[str]) -> list[str]:
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
