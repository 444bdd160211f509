"""Hand-built kernels natively, on every target of this machine, against the interpreter."""

from __future__ import annotations

import re

import llvmlite.binding as llvm
import numpy as np
import pytest
import sample_kernels as sample
from native import aligned, assert_same, both, run_native

from glulam.compiler.codegen.llvm_process import target_machine
from glulam.compiler.codegen.module import module_text
from glulam.compiler.graph.types import DType
from glulam.compiler.loops import expr as ex
from glulam.compiler.loops.builder import Builder
from glulam.compiler.loops.index import Bounded
from glulam.compiler.loops.ir import Access, LaneReduce, LaneShuffle, Partner
from glulam.compiler.targets import host, runnable_targets
from glulam.compiler.targets import target as native_target
from glulam.compiler.targets.x86 import BEYOND_LEVELS, X86_64_V3, X86_64_V4

TARGETS = [pytest.param(t, id=t.name) for t in runnable_targets()]
EXACT_TARGETS = [pytest.param(t, id=t.name) for t in runnable_targets() if t.has_fma]
BEST = runnable_targets()[0]


def arguments(kernel, seed=0, low=-100, high=100):
    """Random contents for every parameter; outputs start with a value that stands out."""
    rng = np.random.default_rng(seed)
    arrays = {}
    for b in kernel.params:
        if b.access is Access.WRITE:
            arrays[b.name] = np.full(b.span, 1 if b.dtype is DType.BOOL else 77, b.dtype.numpy)
        elif b.dtype.is_float:
            arrays[b.name] = rng.normal(size=b.span).astype(b.dtype.numpy)
        elif b.dtype is DType.BOOL:
            arrays[b.name] = rng.random(b.span) < 0.5
        else:
            arrays[b.name] = rng.integers(low, high, b.span).astype(b.dtype.numpy)
    return arrays


@pytest.mark.parametrize("target", EXACT_TARGETS)
def test_conv_nest(target):
    kernel = sample.conv_nest(unroll=4)
    slow, fast = both(kernel, arguments(kernel), target, cuts=(3,))
    np.testing.assert_allclose(fast["y"], slow["y"], rtol=1e-6, atol=1e-5)


def test_conv_nest_with_two_roundings():
    kernel = sample.conv_nest(lanes=4, blocks=3, size=6, kernel=3, tile=3, unroll=2)
    slow, fast = both(kernel, arguments(kernel), runnable_targets()[-1])
    np.testing.assert_allclose(fast["y"], slow["y"], rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("target", TARGETS)
def test_spans_of_loops_are_clamped_and_may_be_empty(target):
    kernel = sample.banded()
    arrays = arguments(kernel)
    arrays["ends"] = np.array(
        [[0, 6], [2, 4], [3, 3], [5, 1], [-7, 2], [4, 99], [-(2**63), 2**63 - 1], [6, 6], [2**63 - 1, -(2**63)]],
        np.int64,
    ).ravel()
    assert_same(kernel, arrays, target, cuts=(4,))
    x, y = arrays["x"].reshape(9, 6, 8), both(kernel, arrays, target)[0]["y"].reshape(2, 9, 8)
    np.testing.assert_array_equal(y[0, [2, 3, 7, 8]], np.ones((4, 8), np.float32))
    np.testing.assert_array_equal(y[0, 1], (np.float32(0.5) + x[1, 2]) * np.float32(0.5) + x[1, 3])
    np.testing.assert_array_equal(y[1, 7], np.ones(8, np.float32) - x[7, 5])
    np.testing.assert_array_equal(y[1, 2], ((np.float32(1) - x[2, 0]) - x[2, 1]) - x[2, 2] + np.float32(3))


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("lanes", [1, 3, 8, 16, 48])
def test_gathers_clamp_their_indices(lanes, target):
    kernel = sample.gathers(lanes)
    arrays = arguments(kernel)
    arrays["rows"] = np.array([0, 19, 20, -1, 7, 2**62, -(2**63), 5, 5], np.int64)
    assert_same(kernel, arrays, target)


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("lanes", [1, 3, 8, 20])
def test_scatters(lanes, target):
    kernel = sample.scatters(lanes)
    arrays = arguments(kernel)
    arrays["where"] = (np.arange(lanes) * 7 % 40 - 2).astype(np.int64)
    assert_same(kernel, arrays, target)


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("lanes", [1, 3, 16, 40])
def test_strided_vectors(lanes, target):
    kernel = sample.strided(lanes)
    assert_same(kernel, arguments(kernel), target)


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("lanes", [1, 2, 3, 5, 7, 16, 33])
def test_lane_reductions_have_the_same_bits(lanes, target):
    kernel = sample.lane_reductions(lanes)
    assert_same(kernel, arguments(kernel), target)


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("lanes", [1, 2, 4, 8, 16, 32])
def test_lanes_picked_at_run_time(lanes, target):
    kernel = sample.picked_lanes(lanes)
    order = np.random.default_rng(0).integers(-99, 99, (6, lanes), dtype=np.int32)
    assert_same(kernel, {**arguments(kernel), "order": order}, target)


@pytest.mark.parametrize("target", [*TARGETS, pytest.param(native_target(), id="native")])
@pytest.mark.parametrize("lanes", [1, 3, 4, 8, 13, 16, 32])
def test_products_of_bytes(lanes, target):
    kernel = sample.byte_dots(lanes)
    rng = np.random.default_rng(0)
    x, w = (rng.integers(-(2**31), 2**31, (6, lanes), dtype=np.int32) for _ in range(2))
    x[0], w[0] = -1, np.array([0x80808080], np.uint32).view(np.int32)  # the largest products
    unsigned, signed = x.view(np.uint8).reshape(6, lanes, 4), w.view(np.int8).reshape(6, lanes, 4)
    expected = w.astype(np.int64) + (unsigned.astype(np.int64) * signed).sum(2)
    expected += (unsigned[:, :1].astype(np.int64) * signed).sum(2)
    slow, fast = both(kernel, {**arguments(kernel), "x": x.ravel(), "w": w.ravel()}, target)
    for name, got in (("interpreter", slow), ("native", fast)):
        np.testing.assert_array_equal(got["y"], expected.astype(np.int32).ravel(), name)


@pytest.mark.skipif(not native_target().dots_bytes, reason="this machine has no instruction for products of bytes")
def test_products_of_bytes_are_one_instruction():
    text = module_text([sample.byte_dots(native_target().lanes)], "", native_target())
    assert "vpdpbusd" in text
    assert "ashr" not in text


@pytest.mark.parametrize("level", [X86_64_V3, X86_64_V4], ids=lambda level: level.name)
def test_both_instructions_for_products_of_bytes_are_found(level, monkeypatch):
    """Whichever of them this machine has, if any: nothing is run."""
    monkeypatch.setattr(host, "host_features", lambda: set(BEYOND_LEVELS[level.name]) - {"avx512vbmi"})
    made = host._beyond(level)
    module = llvm.parse_assembly(module_text([sample.byte_dots(made.lanes)], "", made))
    assembly = target_machine(made.triple, made.cpu, made.features).emit_assembly(module)
    assert "vpdpbusd" in assembly
    assert "vpmulld" not in assembly


@pytest.mark.parametrize("target", [*TARGETS, pytest.param(native_target(), id="native")])
@pytest.mark.parametrize("lanes", [1, 3, 8, 16, 32, 64, 100])
def test_bytes_of_a_table(lanes, target):
    table = np.random.default_rng(1).permutation(256).astype(np.uint8)
    kernel = sample.lookups(lanes, table.tobytes())
    x = np.random.default_rng(0).integers(0, 256, (6, lanes)).astype(np.uint8)
    x[0], x[1, ::2] = 255, 128
    slow, fast = both(kernel, {**arguments(kernel), "x": x.ravel()}, target)
    for name, got in (("interpreter", slow), ("native", fast)):
        np.testing.assert_array_equal(got["y"], table[table[x]].ravel(), name)
        np.testing.assert_array_equal(got["z"], (np.ones_like(x) * table[x[:, :1]] / 2).ravel(), name)


def test_bytes_of_a_table_are_chosen_by_two_instructions(monkeypatch):
    """Whether this machine has them or not: nothing is run."""
    monkeypatch.setattr(host, "host_features", lambda: {"avx512vbmi"})
    made = host._beyond(X86_64_V4)
    module = llvm.parse_assembly(module_text([sample.lookups(16, bytes(range(256)))], "", made))
    assembly = target_machine(made.triple, made.cpu, made.features).emit_assembly(module)
    assert len(re.findall("vperm[it]2b", assembly)) == 4  # two for each of the two vectors


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("width", [8, 37, 3])
def test_softmax_through_scratch(width, target):
    kernel = sample.softmax(width, lanes=min(8, width))
    slow, fast = both(kernel, arguments(kernel), target, cuts=(1, 4))
    np.testing.assert_allclose(fast["y"], slow["y"], rtol=1e-5)


@pytest.mark.parametrize("target", TARGETS)
def test_integers_and_flags(target):
    kernel = sample.integers()
    assert_same(kernel, arguments(kernel), target)


@pytest.mark.parametrize("target", TARGETS)
def test_tiles_written_first_inside_a_loop(target):
    kernel = sample.late_tile()
    assert_same(kernel, arguments(kernel), target)


@pytest.mark.parametrize("lanes", [1, 2, 3, 7, 8, 16])
@pytest.mark.parametrize("step", [-4, -3, -2, -1, 2, 3, 4, 5])
def test_lanes_a_few_elements_apart_read_nothing_outside(lanes, step):
    b = Builder("apart")
    span = (lanes - 1) * abs(step) + 1
    x, y = b.param("x", (span,)), b.param("y", (lanes,), Access.WRITE)
    with b.section(once=1), b.vector("v", lanes) as v:
        b.store(y[v], x[v * step + (span - 1 if step < 0 else 0)])
    kernel = b.kernel()
    for target in runnable_targets():
        assert_same(kernel, arguments(kernel), target)
    text = module_text([kernel], "", BEST)
    starts = {"%a0": 0}
    for name, base, offset in re.findall(r"(%v[.\d]+) = getelementptr float, ptr (%[\w.]+), i64 (-?\d+)", text):
        starts[name] = starts[base] + int(offset)
    loads = [(int(count), at) for count, at in re.findall(r"load <(\d+) x float>, ptr (%[\w.]+)", text)]
    masked = re.findall(r"masked\.load\.v\d+f32\.p0\(ptr (%[\w.]+), i32 4, <\d+ x i1> <([^>]*)>", text)
    loads += [(mask.count("true"), at) for at, mask in masked]
    assert bool(loads) == (abs(step) <= 4)
    for count, pointer in loads:
        assert 0 <= starts[pointer] <= span - count


@pytest.mark.parametrize("lanes", [3, 5, 7, 13, 15])
@pytest.mark.parametrize("target", TARGETS)
def test_lanes_behind_those_of_a_short_loop_reach_nothing(lanes, target):
    """Neither what is folded or put in another order, nor the memory behind, whose values stand out."""
    b = Builder("short")
    x, y = b.param("x", (2, lanes)), b.param("y", (5, lanes + 3), Access.WRITE)
    where, divisor = b.param("where", (lanes,), dtype=DType.I64), b.param("divisor", (lanes,), dtype=DType.I32)
    folded, whole = b.param("folded", (4,), Access.WRITE), b.param("whole", (lanes + 3,), Access.WRITE, dtype=DType.I32)
    with b.section(once=1), b.vector("v", lanes) as v:
        one, other = x[0, v], x[1, v]
        for i, op in enumerate(("add", "mul", "maximum", "minimum")):
            b.store(folded[i], LaneReduce(op, ex.absolute(one) + 0.5))
        b.store(y[0, v], LaneShuffle(one, other, tuple((3 * i + 1) % (2 * lanes) for i in range(lanes))))
        b.store(y[1, v], one / other)
        b.store(y[2, v], x[1, Bounded(where[v], lanes)])
        b.store(y[3, Bounded(where[v], lanes)], other)
        b.store(y[4, v], x[0, v * -1 + (lanes - 1)])
        b.store(whole[v], ex.binary("div", ex.Const(1000, DType.I32), divisor[v]))
    kernel = b.kernel()
    arrays = arguments(kernel, low=1, high=9)
    arrays["where"] = np.random.default_rng(1).permutation(lanes)
    assert_same(kernel, arrays, target)


@pytest.mark.parametrize("cuts", [(), (1,), (0,), (105,), (104, 105, 106), (50, 110), (116,), (13, 13, 110)], ids=str)
def test_sections_cut_anywhere(cuts):
    kernel = sample.three_sections()
    assert kernel.extent == 3 * 5 * 7 + 11
    assert_same(kernel, arguments(kernel), BEST, cuts)


def test_only_the_iterations_asked_for_are_run():
    kernel = sample.three_sections()
    arrays = arguments(kernel)
    slow, _ = both(kernel, arrays, BEST)
    fast = {name: aligned(a) for name, a in arrays.items()}
    run_native(kernel, [fast[b.name] for b in kernel.params], BEST, begin=40, end=108)
    expected_y, expected_z = arrays["y"].copy(), arrays["z"].copy()
    expected_y[40:] = slow["y"][40:]
    expected_z[:3] = slow["z"][:3]
    np.testing.assert_array_equal(fast["y"], expected_y)
    np.testing.assert_array_equal(fast["z"], expected_z)


@pytest.mark.parametrize("lanes", [17, 31, 64, 100, 128])
def test_vectors_wider_than_the_machine(lanes):
    b = Builder("wide")
    x, y = b.param("x", (3, lanes)), b.param("y", (3, lanes), Access.UPDATE)
    with b.section(i=3) as (i,), b.vector("v", lanes) as v:
        acc = b.tile("acc", 1)
        b.store(acc[0], y[i, v])
        with b.serial("k", 5) as k:
            b.store(acc[0], acc[0] + x[i, v] * x[i, k])
        b.store(y[i, v], acc[0])
    for target in runnable_targets():
        assert_same(b.kernel(), arguments(b.kernel()), target)


def test_kernel_without_sections():
    b = Builder("nothing")
    b.param("x", (3,))
    assert_same(b.kernel(), arguments(b.kernel()), BEST)


def test_loops_of_no_iteration_leave_nothing():
    b = Builder("empty")
    y = b.param("y", (4,), Access.WRITE)
    with b.section(i=4) as (i,):
        b.store(y[i], 1.0)
        with b.serial("k", 0):
            b.store(y[i], 2.0)
    assert_same(b.kernel(), arguments(b.kernel()), BEST)


def test_buffers_with_holes_between_rows():
    b = Builder("holes")
    x = b.param("x", (4, 6), strides=(10, 1))
    y = b.param("y", (4, 6), Access.WRITE, strides=(1, 4))
    with b.section(i=4) as (i,), b.vector("v", 6) as v:
        b.store(y[i, v], x[i, v])
    assert_same(b.kernel(), arguments(b.kernel()), BEST)


def test_a_store_is_seen_by_the_next_load():
    b = Builder("chain")
    y = b.param("y", (9,), Access.UPDATE)
    with b.section(one=1), b.serial("i", 8) as i:
        b.store(y[i + 1], y[i + 1] + y[i])
        b.store(y[i], y[i + 1] * 2.0)
    assert_same(b.kernel(), arguments(b.kernel()), BEST)


def test_shared_parts_of_an_expression_are_computed_once():
    """Forty doublings by sharing: a tree walk without memory would take 2**40 steps."""
    b = Builder("shared")
    x, y = b.param("x", (8,)), b.param("y", (8,), Access.WRITE)
    with b.section(one=1), b.vector("v", 8) as v:
        e = x[v]
        for _ in range(40):
            e = e * 0.5 + e * 0.5
        b.store(y[v], e)
    assert_same(b.kernel(), arguments(b.kernel()), BEST)


def test_a_formula_used_often_gives_each_its_own_value():
    """Expansions live briefly; none may be mistaken for another."""
    b = Builder("often")
    x, y = b.param("x", (64, 8)), b.param("y", (8,), Access.WRITE)
    with b.section(one=1), b.vector("v", 8) as v:
        total = ex.tanh(x[0, v])
        for i in range(1, 64):
            total = total + ex.tanh(x[i, v] * float(i))
        b.store(y[v], total)
    kernel = b.kernel()
    slow, fast = both(kernel, arguments(kernel), BEST)
    np.testing.assert_allclose(fast["y"], slow["y"], rtol=1e-5, atol=1e-5)


def kernel_for_partners():
    """Sections that count how often each of their iterations is executed, all in one array."""
    b = Builder("partners")
    y = b.param("y", (25,), Access.UPDATE, dtype=DType.I32)
    first = 0
    for partner, rows, columns in (
        (None, 2, 1),
        (Partner.BOTH, 2, 3),
        (Partner.SECOND, 1, 3),
        (Partner.FIRST, 4, 1),
        (Partner.BOTH, 1, 1),
        (None, 1, 1),
        (None, 1, 2),
        (Partner.BOTH, 1, 5),
        (Partner.SECOND, 1, 1),
    ):
        with b.of_partner(partner), b.section(i=rows, j=columns) as (i, j):
            place = y[i * columns + j + first]
            b.store(place, place + 1)
        first += rows * columns
    return b.kernel()


def test_what_is_for_a_partner_is_one_piece_of_neighbouring_sections():
    found = [(piece.first, list(piece.iterations), piece.section.extent) for piece in kernel_for_partners().pieces()]
    assert found == [
        (0, [0, 1], 2),
        *((2, [0, 1, 2], 6), (5, [0, 1, 2, 3], 4)),
        *((9, [3, 4, 5], 6), (12, [0, 1, 2], 3), (15, [0], 1)),
        *((16, [0], 1), (17, [0, 1], 2)),
        *((19, [0, 1], 5), (21, [2, 3, 4], 5), (24, [0], 1)),
    ]


def test_any_part_of_sections_for_partners_is_executed_once():
    kernel = kernel_for_partners()
    starts = dict(zip(kernel.sections, np.cumsum([0, *(section.extent for section in kernel.sections)]), strict=False))
    order = [starts[section] + i for section, iterations, _ in kernel.pieces() for i in iterations]
    assert sorted(order) == list(range(25))
    for begin in range(26):
        for end in range(begin, 26):
            y = aligned(np.zeros(25, np.int32))
            run_native(kernel, [y], BEST, begin=begin, end=end)
            assert sorted(np.repeat(np.arange(25), y)) == sorted(order[begin:end]), (begin, end)
