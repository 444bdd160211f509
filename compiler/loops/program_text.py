"""A program as text: its calls in order, how threads divide each, what each waits for, and where its operands lie."""

from __future__ import annotations

from collections.abc import Sequence

from glulam.compiler.loops.hazards import dependences
from glulam.compiler.loops.ir import Access
from glulam.compiler.loops.program import Program, Repeat, Step

_DONE_TO = {Access.READ: "reads", Access.UPDATE: "updates", Access.WRITE: "writes"}


def show_program(program: Program) -> str:
    """The whole program. Places are bytes, the last one included; weights are those packed for the kernels."""
    sizes = f"arena {program.arena_bytes}, weights {program.weights.nbytes}, scratch {program.scratch_bytes} a thread"
    sides = (("input", program.inputs), ("output", program.outputs))
    lines = [f"program of {len(program.steps)} steps; bytes: {sizes}"]
    lines += [f"{side} {i} {name!r}: {type}" for side, types in sides for i, (name, type) in enumerate(types.items())]
    lines += map(_repeat, program.repeats)
    for number, (step, waits) in enumerate(zip(program.steps, dependences(program.steps), strict=True)):
        lines += _step(number, step, waits)
    return "\n".join(lines) + "\n"


def _repeat(repeat: Repeat) -> str:
    last = repeat.first + repeat.count - 1
    return f"steps {repeat.first} to {last} come {repeat.rounds} times, one after the other"


def _step(number: int, step: Step, waits: Sequence[int]) -> list[str]:
    called = f"{number}: {step.kernel.name if step.foreign is None else step.foreign.name}"
    after = f", after {', '.join(map(str, waits))}" if waits else ""
    parts = f", for each of {step.parts} parts of the samples" if step.parts > 1 else ""
    lines = [f"{called}, {step.kernel.extent} iterations in chunks of {step.grain}{parts}{after}  ; {step.label}"]
    for access, done in _DONE_TO.items():
        if places := [_place(step, i) for i, b in enumerate(step.kernel.params) if b.access is access]:
            lines.append(f"    {done} {', '.join(places)}")
    return lines


def _place(step: Step, operand: int) -> str:
    buffer, ref = step.kernel.params[operand], step.refs[operand]
    space = f"{ref.space} {ref.index}" if ref.space in ("input", "output") else ref.space
    moves = f" (+{step.strides[operand]} each)" if step.parts > 1 else ""
    last = ref.offset + max(buffer.span * buffer.dtype.size, 1) - 1
    return f"{space}[{ref.offset}..{last}]{moves}"
