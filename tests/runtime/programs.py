"""Tiny programs for the runtime's tests: kernels written by hand in LLVM text, compiled without the compiler."""

from __future__ import annotations

import llvmlite.binding as llvm
import numpy as np

from glulam.compiler.codegen.entry import EntryStep, emit_entry
from glulam.runtime.manifest import Manifest, StepInfo, TensorSpec
from glulam.runtime.model import Model

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


def build(text, steps, inputs, outputs, *, arena_bytes=0, scratch_bytes=0, weights=b"", threads=1):
    """A model of kernels `text` called by `steps`."""
    entry = emit_entry(steps, inputs=len(inputs), outputs=len(outputs), scratch_bytes=scratch_bytes, triple=TRIPLE)
    made = manifest(steps, inputs, outputs, arena_bytes=arena_bytes, scratch_bytes=scratch_bytes)
    return Model.from_parts(made, object_code(text + entry), weights, "graph of a test", threads)


def adder(count=1000, grain=64, threads=1, dtype="float32", weights=None):
    """x -> x + weights, float32[count]."""
    weights = np.arange(count, dtype=np.float32) if weights is None else weights
    spec = (TensorSpec("x", dtype, (count,)),), (TensorSpec("y", "float32", (count,)),)
    step = EntryStep("add", (("input", 0, 0), ("weights", 0, 0), ("output", 0, 0)), count, grain)
    return build(ADD_KERNEL, [step], *spec, scratch_bytes=64, weights=weights.view(np.uint8), threads=threads)


def chain(extents_and_grains, size, threads=1):
    """x int32[size] -> y: each step triples and adds one to the first `extent` elements, in two arena buffers in turn.

    Every step reads its predecessor's buffer and overwrites the one before that.
    """
    steps = [EntryStep("tick", (("input", 0, 0), ("arena", 0, 0)), size, size)]
    for number, (extent, grain) in enumerate(extents_and_grains):
        source, target = (number % 2) * 4 * size, ((number + 1) % 2) * 4 * size
        steps.append(EntryStep("tick", (("arena", 0, source), ("arena", 0, target)), extent, grain))
    last = (len(extents_and_grains) % 2) * 4 * size
    steps.append(EntryStep("tick", (("arena", 0, last), ("output", 0, 0)), size, 7))
    spec = (TensorSpec("x", "int32", (size,)),), (TensorSpec("y", "int32", (size,)),)
    return build(STEP_KERNEL.format(name="tick"), steps, *spec, arena_bytes=8 * size, threads=threads)
