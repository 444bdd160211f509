"""Object files: every target's come out, they call nothing but the C library, and LLVM's refusals are typed errors."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest
from native import entry_text

from glulam.compiler.codegen.module import build_assembly, build_objects, declarations, module_text
from glulam.compiler.errors import CompileError
from glulam.compiler.graph.types import DType
from glulam.compiler.loops import expr as ex
from glulam.compiler.loops.builder import Builder
from glulam.compiler.loops.expr import Cast, Fma
from glulam.compiler.loops.index import Affine, Bounded
from glulam.compiler.loops.ir import Access, IndexValue
from glulam.compiler.targets import NAMED, target

TARGETS = [pytest.param(t, id=t.name) for t in NAMED]
MACHINES = {"x86_64": 62, "aarch64": 183}  # e_machine of the ELF header


def multiply_adds(lanes, name="muladd"):
    b = Builder(name)
    x, y = b.param("x", (lanes,)), b.param("y", (lanes,), Access.UPDATE)
    with b.section(i=1), b.vector("v", lanes) as v:
        b.store(y[v], Fma(x[v], x[v], ex.exp(y[v])))
    return b.kernel()


def objects(kernel, text, machine):
    """That of the kernel and that of the entry point."""
    return build_objects([kernel], machine, declarations([kernel]) + text)


@pytest.mark.parametrize("machine", TARGETS)
def test_every_target_gives_an_object_file(machine):
    kernel = multiply_adds(machine.lanes)
    codes = objects(kernel, entry_text(kernel), machine)
    assert len(codes) == 2
    for code in codes:
        assert code[:4] == b"\x7fELF"
        assert int.from_bytes(code[18:20], "little") == MACHINES[machine.architecture]


@pytest.mark.parametrize("machine", TARGETS)
def test_arithmetic_calls_no_library(machine):
    """Neither multiply-adds without FMA nor halves without conversion instructions may become calls."""
    b = Builder("plain")
    x, y = b.param("x", (16,), dtype=DType.F16), b.param("y", (16,), Access.WRITE, dtype=DType.F16)
    with b.section(i=1), b.vector("v", 16) as v:
        wide = Cast(x[v], DType.F32)
        z = Fma(wide, ex.tanh(wide), ex.erf(wide)) + ex.log(ex.unary("round", wide))
        b.store(y[v], Cast(z, DType.F16) + x[v])
    text = build_assembly([b.kernel()], entry_text(b.kernel()), machine)
    calls = set(re.findall(r"\b(?:callq?|bl)\s+([\w@]+)", text))
    assert calls <= {"plain", "plain@PLT"}


def test_a_place_within_bounds_is_found_and_read_once_for_all_that_take_it():
    """By the blocks of a register tile, as in a convolution without padding around its input."""
    b = Builder("bounded")
    x, w, y = b.param("x", (9, 4)), b.param("w", (4, 2, 16)), b.param("y", (8, 2, 16), Access.WRITE)
    with b.section(i=8) as (i,), b.vector("v", 16) as v:
        acc = b.tile("acc", 4, 2)
        with b.unrolled("t", 4) as t, b.unrolled("j", 2) as j:
            b.store(acc[t, j], 0.0)
        with b.serial("k", 4) as k, b.unrolled("t", 4) as t, b.unrolled("j", 2) as j:
            place = Bounded(IndexValue(Affine.of(i) - 2), 9)
            b.store(acc[t, j], Fma(x[place, k], w[k, j, v], acc[t, j]))
        with b.unrolled("j", 2) as j:
            b.store(y[i, j, v], acc[0, j])
    text = module_text([b.kernel()], entry_text(b.kernel()), target("x86-64-v4"))
    assert len(re.findall(r"call i64 @llvm\.smax", text)) == 2, "one for the place, one for the section"


@pytest.mark.parametrize(("nearest", "wanted"), [(False, {"prefetcht0", "prefetcht2"}), (True, {"prefetcht0"})])
def test_lines_are_asked_into_the_cache_that_the_target_wants(nearest, wanted):
    machine, b = replace(target("x86-64-v4"), asks_nearest=nearest), Builder("asks")
    x, y = b.param("x", (64,)), b.param("y", (16,), Access.WRITE)
    with b.section(i=1), b.vector("v", 16) as v:
        for level in (1, 2):
            b.prefetch(x[16 * level], level)
        b.store(y[v], x[v])
    text = build_assembly([b.kernel()], entry_text(b.kernel()), machine)
    assert set(re.findall(r"\bprefetch\w+", text)) == wanted


@pytest.mark.parametrize("name", ["x86-64-v3", "x86-64-v4"])
def test_spilled_vectors_lie_in_whole_cache_lines(name):
    """More sums than registers: what waits in memory is moved by instructions for aligned vectors only."""
    machine, b = target(name), Builder("many")
    sums, lanes = machine.vector_registers + 8, machine.lanes
    x, y = b.param("x", (sums, 9, lanes)), b.param("y", (sums, lanes), Access.WRITE)
    with b.section(i=1), b.vector("v", lanes) as v:
        acc = b.tile("acc", sums)
        with b.unrolled("t", sums) as t:
            b.store(acc[t], 0.0)
        with b.serial("k", 9) as k, b.unrolled("t", sums) as t:
            b.store(acc[t], Fma(x[t, k, v], x[0, k, v], acc[t]))
        with b.unrolled("t", sums) as t:
            b.store(y[t, v], acc[t])
    text = build_assembly([b.kernel()], entry_text(b.kernel()), machine)
    moves = re.findall(r"(vmov\w+)\s+%[yz]mm\d+, -?\d*\(%rsp\)", text)
    assert set(moves) == {"vmovaps"}


@pytest.mark.parametrize("machine", TARGETS)
def test_fused_multiply_add_where_the_target_has_it(machine):
    kernel = multiply_adds(machine.lanes)
    text = build_assembly([kernel], entry_text(kernel), machine)
    assert bool(re.search(r"vfn?m(add|sub)|fml[as]", text)) == machine.has_fma


def test_only_the_named_level_is_used():
    kernel = multiply_adds(16)
    assert "zmm" in build_assembly([kernel], entry_text(kernel), target("x86-64-v4"))
    assert "zmm" not in build_assembly([kernel], entry_text(kernel), target("x86-64-v3"))
    assert "ymm" not in build_assembly([kernel], entry_text(kernel), target("x86-64-v2"))


def test_kernels_and_the_entry_are_exported_and_nothing_else():
    kernels = [multiply_adds(16, "first"), multiply_adds(8, "second")]
    text = build_assembly(kernels, entry_text(kernels[0]), target("x86-64-v4"))
    assert re.findall(r"\.globl\s+(\w+)", text) == ["first", "second", "run"]


def test_an_object_of_a_kernel_does_not_depend_on_the_others():
    one, two = multiply_adds(16, "first"), multiply_adds(8, "second")
    assert build_objects([one, two], target()) == [*build_objects([one], target()), *build_objects([two], target())]


def test_the_same_kernels_give_the_same_bytes():
    kernel = multiply_adds(16)
    one, two = (objects(kernel, entry_text(kernel), target("x86-64-v4")) for _ in range(2))
    assert one == two


def test_declarations_may_be_repeated_by_the_entry():
    kernel = multiply_adds(16)
    text = "declare i64 @llvm.smax.i64(i64, i64)\n" + entry_text(kernel)
    assert module_text([kernel], text, target()).count("declare i64 @llvm.smax.i64(") == 1
    objects(kernel, text, target())


def test_a_refusal_by_llvm_is_a_compile_error_with_the_text():
    kernel = multiply_adds(16)
    with pytest.raises(CompileError, match=r"(?s)refused.*define void @run"):
        objects(kernel, "define void @run() {\n  call void @nowhere()\n  ret void\n}\n", target())
