"""From a program to object code: each kernel by a key of its contents, from the cache if it was emitted before."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from glulam.compiler.cache import NO_CACHE, Cache, key_of
from glulam.compiler.codegen.entry import emit_entry
from glulam.compiler.codegen.module import build_objects, declarations, generator
from glulam.compiler.codegen.steps import EntryLoop, EntryStep
from glulam.compiler.loops.hazards import dependences
from glulam.compiler.loops.ir import Kernel
from glulam.compiler.loops.printer import show_kernel
from glulam.compiler.loops.program import Program, Repeat, Step
from glulam.compiler.loops.verify import verify_kernel
from glulam.compiler.targets import Target
from glulam.runtime import abi
from glulam.runtime.archive import pack

VERSION = "0.1.0"

_ENTRY = "entry"


@dataclass(frozen=True)
class _Unit:
    """A kernel, its name in the program, and the key of its code, from which it has its name in object code."""

    name: str
    key: str
    kernel: Kernel


def emit_program(program: Program, machine: Target, cache: Cache = NO_CACHE) -> bytes:
    """The archive of the program's kernels and entry points, from the cache what was emitted for any program before.

    Only kernels that are emitted are verified: the others were then.
    """
    made_by = (VERSION, *generator(), repr(machine))
    units = [_unit(kernel, made_by) for kernel in program.kernels]
    entry = declarations([unit.kernel for unit in units]) + emit_entry(
        entry_loops(program, {unit.name: unit.kernel.name for unit in units}),
        inputs=len(program.inputs),
        outputs=len(program.outputs),
        scratch_bytes=program.scratch_bytes,
        sizes=abi.sizes(
            arena_bytes=program.arena_bytes,
            scratch_bytes=program.scratch_bytes,
            weights_bytes=program.weights.nbytes,
            steps=len(program.steps),
            inputs=[type.nbytes for type in program.inputs.values()],
            outputs=[type.nbytes for type in program.outputs.values()],
        ),
        triple=machine.triple,
    )
    keys = {unit.name: unit.key for unit in units} | {_ENTRY: key_of("entry", (*made_by, entry))}
    objects = {name: code for name, key in keys.items() if (code := cache.get(key)) is not None}
    missing = [unit for unit in units if unit.name not in objects]
    for unit in missing:
        verify_kernel(unit.kernel)
    made = build_objects([unit.kernel for unit in missing], machine, "" if _ENTRY in objects else entry)
    names = [*(unit.name for unit in missing), *([] if _ENTRY in objects else [_ENTRY])]
    new = dict(zip(names, made, strict=True))
    cache.put_all({keys[name]: code for name, code in new.items()})
    objects |= new
    return pack({f"{name}.o": objects[name] for name in keys})


def _unit(kernel: Kernel, made_by: tuple[str, ...]) -> _Unit:
    """In object code a kernel is called the same in every program, and unlike all others."""
    key = key_of("kernel", (*made_by, show_kernel(replace(kernel, name="kernel"))))
    return _Unit(kernel.name, key, replace(kernel, name=f"kernel_{key.rpartition('-')[2][:32]}"))


def entry_loops(program: Program, symbols: Mapping[str, str]) -> list[EntryLoop]:
    """The program's calls, in loops where they repeat; `symbols` are the kernels' names in the object code."""
    functions = {function: number for number, function in enumerate(program.foreign)}
    numbers = _numbers_in_text(program)
    waits = [tuple(numbers[other] for other in needed) for needed in dependences(program.steps)]

    def called(step: Step, waits: tuple[int, ...] | None = None) -> EntryStep:
        return EntryStep(
            kernel=symbols.get(step.kernel.name, step.kernel.name),
            args=tuple((ref.space, ref.index, ref.offset) for ref in step.refs),
            extent=step.kernel.extent,
            grain=step.grain,
            foreign=None if step.foreign is None else functions[step.foreign],
            reads=step.reads,
            claim=step.claim,
            parts=step.parts,
            strides=step.strides,
            waits=waits,
        )

    def once(steps: range) -> EntryLoop:
        return EntryLoop.once([called(program.steps[number], waits[number]) for number in steps])

    loops, done = [], 0
    for repeat in program.repeats:
        first, second = (program.steps[repeat.first + i * repeat.count :][: repeat.count] for i in (0, 1))
        strides = [
            tuple(later.offset - ref.offset for ref, later in zip(step.refs, again.refs, strict=True))
            for step, again in zip(first, second, strict=True)
        ]
        loops.append(once(range(done, repeat.first)))
        loops.append(EntryLoop(tuple(map(called, first)), tuple(strides), repeat.rounds))
        done = repeat.first + repeat.count * repeat.rounds
    return [*loops, once(range(done, len(program.steps)))]


def _numbers_in_text(program: Program) -> list[int]:
    """For each step its number among the entry's steps, where those that repeat stand once."""
    numbers: list[int] = []
    text = 0
    for repeat in (*program.repeats, Repeat(len(program.steps), 0, 0)):
        before = repeat.first - len(numbers)
        numbers += range(text, text + before)
        text += before
        numbers += [*range(text, text + repeat.count)] * repeat.rounds
        text += repeat.count
    return numbers
