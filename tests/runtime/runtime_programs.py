"""Tiny programs for the runtime's tests: kernels written by hand in LLVM text, compiled without the compiler."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import llvmlite.binding as llvm
import numpy as np

from glulam.compiler.codegen.entry import emit_entry
from glulam.compiler.codegen.steps import EntryStep
from glulam.runtime import abi
from glulam.runtime.manifest import Manifest, StepInfo, TensorSpec
from glulam.runtime.model import Model

FOLDER = Path(__file__).resolve().parent
TRIPLE = llvm.get_default_triple()

# a1[i] = a0[i] * 3 + 1 (int32), for i in [begin, end)
STEP_KERNEL = """
define void @{name}(ptr %a0, ptr %a1, ptr %scratch, i64 %begin, i64 %end) {{
entry:
  %some = icmp ult i64 %begin, %end
  br i1 %some, label %loop, label %exit
loop:
  %i = phi i64 [ %begin, %entry ], [ %i.next, %loop ]
  %from = getelementptr i32, ptr %a0, i64 %i
  %x = load i32, ptr %from, align 4
  %tripled = mul i32 %x, 3
  %y = add i32 %tripled, 1
  %to = getelementptr i32, ptr %a1, i64 %i
  store i32 %y, ptr %to, align 4
  %i.next = add i64 %i, 1
  %more = icmp ult i64 %i.next, %end
  br i1 %more, label %loop, label %exit
exit:
  ret void
}}
"""

# out[i] = in[i] + weights[i] (float), for i in [begin, end); writes its begin to scratch
ADD_KERNEL = """
define void @add(ptr %a0, ptr %a1, ptr %a2, ptr %scratch, i64 %begin, i64 %end) {
entry:
  store i64 %begin, ptr %scratch, align 8
  %some = icmp ult i64 %begin, %end
  br i1 %some, label %loop, label %exit
loop:
  %i = phi i64 [ %begin, %entry ], [ %i.next, %loop ]
  %at0 = getelementptr float, ptr %a0, i64 %i
  %x = load float, ptr %at0, align 4
  %at1 = getelementptr float, ptr %a1, i64 %i
  %w = load float, ptr %at1, align 4
  %y = fadd float %x, %w
  %at2 = getelementptr float, ptr %a2, i64 %i
  store float %y, ptr %at2, align 4
  %i.next = add i64 %i, 1
  %more = icmp ult i64 %i.next, %end
  br i1 %more, label %loop, label %exit
exit:
  ret void
}
"""


# out[i] = address of the scratch memory that iteration i was given; takes its time
WHO_KERNEL = """
define void @who(ptr %a0, ptr %scratch, i64 %begin, i64 %end) {
entry:
  br label %outer
outer:
  %i = phi i64 [ %begin, %entry ], [ %i.next, %write ]
  br label %spin
spin:
  %k = phi i64 [ 0, %outer ], [ %k.next, %spin ]
  %v = phi float [ 1.0, %outer ], [ %v.next, %spin ]
  %v.next = fadd float %v, 1.5
  %k.next = add i64 %k, 1
  %again = icmp ult i64 %k.next, 20000
  br i1 %again, label %spin, label %write
write:
  store float %v.next, ptr %scratch, align 4
  %to = getelementptr ptr, ptr %a0, i64 %i
  store ptr %scratch, ptr %to, align 8
  %i.next = add i64 %i, 1
  %more = icmp ult i64 %i.next, %end
  br i1 %more, label %outer, label %exit
exit:
  ret void
}
"""

# iteration 0 waits for a word that is not zero, but not for ever, and stores it; the others store 7
WAITING_KERNEL = """
define void @waiting(ptr %a0, ptr %a1, ptr %scratch, i64 %begin, i64 %end) {
entry:
  %is.first = icmp eq i64 %begin, 0
  br i1 %is.first, label %look, label %others
look:
  %left = phi i64 [ 1000000000, %entry ], [ %left.next, %look ]
  %seen = load atomic i32, ptr %a0 acquire, align 4
  %left.next = sub i64 %left, 1
  %unset = icmp eq i32 %seen, 0
  %patient = icmp ne i64 %left.next, 0
  %again = and i1 %unset, %patient
  br i1 %again, label %look, label %others
others:
  %value = phi i32 [ 7, %entry ], [ %seen, %look ]
  %to = getelementptr i32, ptr %a1, i64 %begin
  store i32 %value, ptr %to, align 4
  ret void
}
"""

_DELAY = """
declare i32 @usleep(i32)
define internal void @test.delay() noinline {
  %now = call i64 @glulam_read_ticks()
  %mixed = mul i64 %now, -7046029254386353131
  %draw = lshr i64 %mixed, 52
  %low = and i64 %draw, MASK
  %chosen = icmp eq i64 %low, 0
  br i1 %chosen, label %nap, label %exit
nap:
  %long = lshr i64 %draw, 4
  %short = trunc i64 %long to i32
  %slept = call i32 @usleep(i32 %short)
  ret void
exit:
  ret void
}
"""
DELAYED = (
    "claim",
    "run",
    "look",
    "leave",
    "count.in",
    "start",
    "join",
    "work",
    "stale",
    "sleep",
    "patience",
    "reset",
    "wake",
    "walk",
)


def with_delays(mask, labels=DELAYED):
    """Alters entry points so that threads fall asleep now and then wherever their order could matter.

    Counters are reset twice, with a pause between: who uses them meanwhile is found out.
    """

    def change(entry):
        for label in labels:
            pieces = entry.split(f"\n{label}:\n")
            assert len(pieces) > 1, label
            entry = pieces[0]
            for piece in pieces[1:]:
                delay = "" if " = phi " in piece.split("\n")[0] else "  call void @test.delay()\n"
                entry += f"\n{label}:\n{delay}{piece}"
        (reset,) = (line for line in entry.splitlines() if "call void @llvm.memset" in line)
        entry = entry.replace(reset, f"{reset}\n  call void @test.delay()\n{reset}")
        return entry + _DELAY.replace("MASK", str(mask))

    return change


def object_code(text: str, triple: str = TRIPLE) -> bytes:
    llvm.initialize_native_target()
    llvm.initialize_native_asmprinter()
    module = llvm.parse_assembly(f'target triple = "{triple}"\n{text}')
    module.verify()
    machine = llvm.Target.from_triple(triple).create_target_machine(opt=2, reloc="pic", codemodel="small")
    return machine.emit_object(module)


def manifest(steps, inputs, outputs, *, arena_bytes=0, scratch_bytes=0, features=(), triple=TRIPLE):
    infos = tuple(
        StepInfo(step.kernel, f"layer {i}", step.extent, step.grain, 2 * step.extent, 8 * step.extent)
        for i, step in enumerate(steps)
    )
    return Manifest(
        glulam_version="0.1.0",
        target="test",
        triple=triple,
        cpu_features=features,
        inputs=inputs,
        outputs=outputs,
        arena_bytes=arena_bytes,
        scratch_bytes=scratch_bytes,
        steps=infos,
        options={"numerics": "strict"},
    )


def build(text, steps, inputs, outputs, *, arena_bytes=0, scratch_bytes=0, weights=b"", threads=1, change=str):
    """A model of kernels `text` called by `steps`; `change` may alter the emitted entry points."""
    memory = {"arena_bytes": arena_bytes, "scratch_bytes": scratch_bytes, "weights_bytes": len(weights)}
    memory |= {"steps": len(steps), "inputs": [i.nbytes for i in inputs], "outputs": [o.nbytes for o in outputs]}
    counts = {"inputs": len(inputs), "outputs": len(outputs), "scratch_bytes": scratch_bytes}
    entry = emit_entry(steps, **counts, sizes=abi.sizes(**memory), triple=TRIPLE)
    made = manifest(steps, inputs, outputs, arena_bytes=arena_bytes, scratch_bytes=scratch_bytes)
    return Model.from_parts(made, object_code(text + change(entry)), weights, "graph of a test", threads)


def adder(count=1000, grain=64, threads=1, dtype="float32", weights=None):
    """x -> x + weights, float32[count]."""
    weights = np.arange(count, dtype=np.float32) if weights is None else weights
    spec = (TensorSpec("x", dtype, (count,)),), (TensorSpec("y", "float32", (count,)),)
    step = EntryStep("add", (("input", 0, 0), ("weights", 0, 0), ("output", 0, 0)), count, grain)
    return build(ADD_KERNEL, [step], *spec, scratch_bytes=64, weights=weights.view(np.uint8), threads=threads)


def chain(extents_and_grains, size, threads=1, change=str, parts=1):
    """x int32[size] -> y: each step triples and adds one to the first `extent` elements, in two arena buffers in turn.

    Every step reads its predecessor's buffer and overwrites the one before that. With several parts, each one is that
    much of the buffers.
    """
    each = 4 * size // parts
    steps = [EntryStep("tick", (("input", 0, 0), ("arena", 0, 0)), size, size)]
    for number, (extent, grain) in enumerate(extents_and_grains):
        source, target = (number % 2) * 4 * size, ((number + 1) % 2) * 4 * size
        step = EntryStep("tick", (("arena", 0, source), ("arena", 0, target)), extent, grain)
        steps.append(replace(step, claim=1 + number % 5, parts=parts, strides=(each, each)))
    last = (len(extents_and_grains) % 2) * 4 * size
    steps.append(EntryStep("tick", (("arena", 0, last), ("output", 0, 0)), size, 7))
    spec = (TensorSpec("x", "int32", (size,)),), (TensorSpec("y", "int32", (size,)),)
    return build(STEP_KERNEL.format(name="tick"), steps, *spec, arena_bytes=8 * size, threads=threads, change=change)


def web(moves, buffers, size, threads, change=str):
    """x int32[size] -> y: every move (source, target, grain) triples and adds one, from buffer to buffer.

    All buffers start from x, and buffer 0 ends as y. A move waits for those before it that write what it reads or touch
    what it writes.
    """
    places = {"x": ("input", 0, 0), "y": ("output", 0, 0)}
    places |= {number: ("arena", 0, 4 * size * number) for number in range(buffers)}
    moves = [*(("x", number, size) for number in range(buffers)), *moves, (0, "y", size)]
    steps = []
    for source, target, grain in moves:
        waits = [i for i, (a, b, _) in enumerate(moves[: len(steps)]) if b == source or target in (a, b)]
        steps.append(EntryStep("tick", (places[source], places[target]), size, grain, waits=tuple(waits)))
    spec = (TensorSpec("x", "int32", (size,)),), (TensorSpec("y", "int32", (size,)),)
    text = STEP_KERNEL.format(name="tick")
    return build(text, steps, *spec, arena_bytes=4 * size * buffers, threads=threads, change=change)


def branches(threads):
    """x int32[1] -> y int32[2]: the first step waits for what the second one stores; the third passes it on."""
    steps = [
        EntryStep("waiting", (("arena", 0, 0), ("arena", 0, 64)), 2, 1, waits=()),
        EntryStep("tick", (("input", 0, 0), ("arena", 0, 0)), 1, 1, waits=()),
        EntryStep("tick", (("arena", 0, 64), ("output", 0, 0)), 2, 1, waits=(0, 1)),
    ]
    spec = (TensorSpec("x", "int32", (1,)),), (TensorSpec("y", "int32", (2,)),)
    text = WAITING_KERNEL + STEP_KERNEL.format(name="tick")
    return build(text, steps, *spec, arena_bytes=128, threads=threads)


def who(extent, threads):
    """-> y int64[extent]: which scratch memory each iteration was given."""
    step = EntryStep("who", (("output", 0, 0),), extent, 1)
    spec = (TensorSpec("y", "int64", (extent,)),)
    return build(WHO_KERNEL, [step], (), spec, scratch_bytes=100, threads=threads)
