"""Entry points: what is emitted for which platform, and what is refused."""

import re

import llvmlite.binding as llvm
import pytest

from glulam.compiler.codegen.entry import emit_entry
from glulam.compiler.codegen.steps import EntryLoop, EntryStep
from glulam.compiler.errors import CompileError, TargetError
from glulam.runtime import abi

KERNEL = "define void @k(ptr %a, ptr %scratch, i64 %begin, i64 %end) { ret void }\n"
STEPS = [EntryStep("k", (("output", 0, 64),), extent, 4) for extent in (1, 4, 0, 100, 2, 3)]


def text(steps=STEPS, triple="x86_64-unknown-linux-gnu", outputs=1):
    return emit_entry(steps, inputs=0, outputs=outputs, scratch_bytes=100, sizes=(), triple=triple)


@pytest.mark.parametrize(
    "triple",
    [
        "x86_64-unknown-linux-gnu",
        "aarch64-unknown-linux-gnu",
        "arm64-apple-darwin23.0.0",
        "x86_64-apple-macosx13.0",
        "x86_64-pc-windows-msvc",
        "aarch64-pc-windows-msvc",
    ],
)
@pytest.mark.parametrize("steps", [STEPS, [], STEPS[3:4]])
def test_every_platform_gets_object_code(triple, steps):
    llvm.initialize_all_targets()
    llvm.initialize_all_asmprinters()
    module = llvm.parse_assembly(f'target triple = "{triple}"\n{KERNEL}{text(steps, triple)}')
    module.verify()
    machine = llvm.Target.from_triple(triple).create_target_machine(opt=2, reloc="pic", codemodel="small")
    code = machine.emit_object(module)
    assert all(name.encode() in code for name in abi.ENTRY_SYMBOLS)
    assert {function.name for function in module.functions if not function.is_declaration} >= set(abi.ENTRY_SYMBOLS)


def body_of(name):
    return text().split(f"define internal void {name}(")[1].split("\n}")[0]


def test_one_thread_uses_no_atomics():
    single = text().split(f"define void @{abi.RUN_SINGLE}(")[1].split("\n}")[0]
    bodies = re.findall(r"@glulam\.body\.\d+", single)
    assert sum(body_of(name).count("call void @k(") for name in bodies) == 5
    assert "atomic" not in single + "".join(map(body_of, bodies))


def test_neighbouring_steps_of_one_chunk_are_taken_together():
    body = text().split("define internal void @glulam.walk(")[1].split("\n}")[0]
    assert body.count("@glulam.step.once(") == 2
    assert body.count("@glulam.step(") == 1


def test_neighbours_of_one_chunk_a_part_are_taken_together():
    steps = [EntryStep("k", (("output", 0, 0),), 4, 4, parts=2, strides=(16,))] * 3
    body = text(steps).split("define internal void @glulam.walk(")[1].split("\n}")[0]
    assert body.count("@glulam.step(") == 1
    assert "i64 2, i64 1, i64 2" in body  # chunks, grain, extent


def test_a_walk_waits_for_what_a_step_needs_and_at_the_end_for_the_rest():
    def step(*waits):
        return EntryStep("k", (("output", 0, 0),), 8, 4, waits=waits)

    looped = EntryLoop((step(), step(0)), ((0,), (0,)), 3)
    walk = text([step(), step(0), step(0), step(1, 2), looped, step(4), step(1)])
    walk = walk.split("define internal void @glulam.walk(")[1].split("\n}")[0]
    rows = dict(re.findall(r"(%row\.[\w.]+) = getelementptr i8, ptr %rows, i64 (%at\.[\w.]+)", walk))
    numbers = dict(re.findall(r"(%at\.[\w.]+) = mul i64 %stride, (\S+)", walk))
    found = [(what, numbers[rows[row]]) for what, row in re.findall(r"@glulam\.(wait|step)\(ptr (%row[\w.]+)", walk)]
    first, second = "%number.1.0", "%number.1.1"
    assert found == [
        *[("step", "%number.0.0"), ("wait", "0"), ("step", "%number.0.1"), ("step", "%number.0.2")],
        *[("wait", "1"), ("wait", "2"), ("step", "%number.0.3"), ("wait", "3")],
        *[("step", first), ("wait", first), ("step", second), ("wait", second)],
        *[("step", "%number.2.0"), ("step", "%number.2.1"), ("wait", "10"), ("wait", "11")],
    ]


@pytest.mark.parametrize("triple", ["riscv64-unknown-linux-gnu", "x86_64-unknown-freebsd", ""])
def test_unknown_platforms_are_refused(triple):
    with pytest.raises(TargetError, match="triple"):
        text(triple=triple)


@pytest.mark.parametrize(
    "step",
    [
        EntryStep("k", (("output", 1, 0),), 1, 1),
        EntryStep("k", (("input", 0, 0),), 1, 1),
        EntryStep("k", (("arena", 1, 0),), 1, 1),
        EntryStep("k", (("arena", 0, -4),), 1, 1),
        EntryStep("k", (), 1, 0),
        EntryStep("k", (), -1, 1),
        EntryStep("k", (), 1, 1, claim=0),
        EntryStep("k", (), 1, 1, parts=0),
        EntryStep("k", (), 1, 1, waits=(0,)),
        EntryStep("k", (("output", 0, 0),), 1, 1, parts=2),
        EntryStep("k", (("output", 0, 0),), 1, 1, foreign=0, parts=2, strides=(4,)),
    ],
)
def test_impossible_steps_are_refused(step):
    with pytest.raises(CompileError, match="step k"):
        text([step])
