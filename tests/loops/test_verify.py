"""The verifier refuses each kind of wrong kernel by name, and nothing else."""

from __future__ import annotations

import pytest
import sample_kernels as sample

from glulam.compiler.errors import LoopError
from glulam.compiler.graph.types import DType
from glulam.compiler.loops import expr as ex
from glulam.compiler.loops.builder import Builder
from glulam.compiler.loops.expr import Binary, Cast, Const, Fma, Lookup, Select, Unary
from glulam.compiler.loops.index import Bounded, Var
from glulam.compiler.loops.ir import (
    Access,
    Buffer,
    For,
    IndexValue,
    Kernel,
    Kind,
    LanePick,
    LaneReduce,
    Section,
    Span,
    Store,
    Tile,
)
from glulam.compiler.loops.verify import verify_kernel

GOOD = [
    sample.banded,
    sample.conv_nest,
    sample.gathers,
    sample.scatters,
    sample.strided,
    sample.softmax,
    sample.integers,
]


@pytest.mark.parametrize("build", [*GOOD, sample.late_tile, sample.three_sections], ids=lambda f: f.__name__)
def test_good_kernels_pass(build):
    verify_kernel(build())


def refused(build, message):
    """`build` fills a builder that has buffers x (read) and y (written), both 4 by 8."""
    b = Builder("wrong")
    x, y = b.param("x", (4, 8)), b.param("y", (4, 8), Access.WRITE)
    build(b, x, y)
    with pytest.raises(LoopError, match=message):
        verify_kernel(b.kernel())


@pytest.mark.parametrize("shift", [1, -1])
def test_a_load_out_of_bounds(shift):
    def build(b, x, y):
        with b.section(i=4, j=8) as (i, j):
            b.store(y[i, j], x[i, j + shift])

    refused(build, r"index 1 of x runs over \[(1, 8|-1, 6)\], outside \[0, 7\]")


def test_a_store_out_of_bounds_by_a_negative_step():
    def build(b, x, y):
        with b.section(i=4, j=8) as (i, j):
            b.store(y[i * -1 + 2, j], x[i, j])

    refused(build, r"index 0 of y runs over \[-1, 2\]")


def test_lanes_out_of_bounds():
    def build(b, x, y):
        with b.section(i=4) as (i,), b.vector("v", 9) as v:
            b.store(y[i, v], 0.0)

    refused(build, r"index 1 of y runs over \[0, 8\], outside \[0, 7\]")


def test_a_clamp_wider_than_the_buffer():
    def build(b, x, y):
        with b.section(i=4) as (i,):
            b.store(y[i, 0], x[Bounded(IndexValue(i * 9), 5), 0])

    refused(build, r"index 0 of x runs over \[0, 4\], outside \[0, 3\]")


def test_a_computed_index_of_another_type():
    def build(b, x, y):
        with b.section(i=4) as (i,):
            b.store(y[i, 0], x[Bounded(x[i, 0], 4), 0])

    refused(build, "index 0 of x is f32, not i64")


def test_an_index_inside_an_index_is_checked():
    def build(b, x, y):
        with b.section(i=4) as (i,):
            inner = ex.Cast(x[i + 1, 0], DType.I64)
            b.store(y[i, 0], x[Bounded(inner, 4), 0])

    refused(build, r"index 0 of x runs over \[1, 4\]")


def test_a_tile_index_that_is_not_constant():
    def build(b, x, y):
        with b.section(i=4) as (i,):
            acc = b.tile("acc", 4)
            with b.serial("k", 4) as k:
                b.store(acc[k], x[i, k])

    refused(build, "index k of tile acc is not constant; unroll its loop")


def test_a_tile_index_out_of_bounds():
    def build(b, x, y):
        with b.section(i=4) as (i,):
            acc = b.tile("acc", 4)
            with b.unrolled("k", 5) as k:
                b.store(acc[k], x[i, k])

    refused(build, r"index of tile acc runs over \[0, 4\], outside \[0, 3\]")


def test_a_tile_that_is_not_declared():
    def build(b, x, y):
        with b.section(i=4) as (i,):
            b.store(y[i, 0], Tile("stray", (1,))[0])

    refused(build, "tile stray is not declared here")


def test_a_tile_of_an_inner_loop_used_after_it():
    def build(b, x, y):
        with b.section(i=4) as (i,):
            with b.serial("k", 2):
                acc = b.tile("acc", 1)
                b.store(acc[0], 1.0)
            b.store(y[i, 0], acc[0])

    refused(build, "tile acc is not declared here")


def test_a_tile_of_another_section():
    def build(b, x, y):
        with b.section(i=4) as (i,):
            acc = b.tile("acc", 1)
            b.store(acc[0], 1.0)
        with b.section(i=4) as (i,):
            b.store(y[i, 0], acc[0])

    refused(build, "tile acc is not declared here")


def test_a_variable_outside_its_loop():
    def build(b, x, y):
        with b.section(i=4) as (i,):
            with b.serial("k", 8) as k:
                b.store(y[i, k], 1.0)
            b.store(y[i, 0], x[i, k])

    refused(build, "loop variable k is used outside its loop")


def test_nested_vector_loops():
    def build(b, x, y):
        with b.section(one=1), b.vector("u", 4) as u, b.serial("s", 2), b.vector("v", 8) as v:
            b.store(y[u, v], 1.0)

    refused(build, "vector loop v inside another vector loop")


def test_a_lane_fold_outside_any_vector_loop():
    def build(b, x, y):
        with b.section(i=4) as (i,):
            b.store(y[i, 0], LaneReduce("add", x[i, 0]))

    refused(build, "stands outside any vector loop")


@pytest.mark.parametrize("lanes", [None, 6])
def test_lanes_picked_where_they_are_no_power_of_two(lanes):
    def build(b, x, y):
        with b.section(i=4) as (i,):
            if lanes is None:
                b.store(y[i, 0], LanePick(x[i, 0], Const(0, DType.I32)))
            else:
                with b.vector("v", lanes) as v:
                    b.store(y[i, v], LanePick(x[i, v], Const(0, DType.I32)))

    refused(build, "no vector loop of a power of two lanes")


def test_lanes_picked_by_floats():
    def build(b, x, y):
        with b.section(i=4) as (i,), b.vector("v", 4) as v:
            b.store(y[i, v], LanePick(x[i, v], x[i, v]))

    refused(build, "lanepick of")


@pytest.mark.parametrize(("dtype", "entries"), [(DType.U8, 255), (DType.I8, 256), (DType.I32, 256)])
def test_tables_of_bytes_for_other_than_bytes(dtype, entries):
    def build(b, x, y):
        with b.section(i=4) as (i,), b.vector("v", 4) as v:
            b.store(y[i, v], Cast(Lookup(Cast(x[i, v], dtype), bytes(entries)), DType.F32))

    refused(build, "lookup of")


def test_a_vector_stored_to_one_place():
    def build(b, x, y):
        with b.section(i=4) as (i,), b.vector("v", 8) as v:
            b.store(y[i, 0], x[i, v])

    refused(build, "a vector is stored to one place of y")


def test_a_vector_kept_in_a_scalar_tile():
    def build(b, x, y):
        with b.section(i=4) as (i,):
            acc = b.tile("acc", 1)
            with b.vector("v", 8) as v:
                b.store(acc[0], x[i, v])

    refused(build, "a vector is kept in tile acc, declared outside the vector loop")


@pytest.mark.parametrize("asked_for", [False, True], ids=["loaded", "prefetched"])
def test_a_buffer_of_another_kernel(asked_for):
    stray = Buffer("stray", DType.F32, (4,), (1,), Access.READ)

    def build(b, x, y):
        with b.section(i=4) as (i,):
            if asked_for:
                b.prefetch(stray[i])
            else:
                b.store(y[i, 0], stray[i])

    refused(build, "buffer stray is not a parameter of this kernel")


REAL, WHOLE, FLAG = Const(1.0), Const(1, DType.I64), Const(True, DType.BOOL)
LANE = Var("v", 4)


def lanes(statement):
    return For(LANE, Kind.VECTOR, [statement])


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (WHOLE, "a i64 is stored into y, which holds f32"),
        (Binary("add", REAL, WHOLE), "add of f32, i64"),
        (Select(REAL, REAL, REAL), "select of f32, f32, f32"),
        (Select(FLAG, REAL, WHOLE), "select of bool, f32, i64"),
        (Fma(REAL, REAL, WHOLE), "fma of f32, f32, i64"),
        (ex.Bitcast(WHOLE, DType.F32), "bitcast of i64"),
        (Unary("not", REAL), "not of f32"),
        (Binary("and", REAL, REAL), "and of f32, f32"),
        (ex.Cast(Unary("sqrt", WHOLE), DType.F32), "sqrt of i64"),
        (ex.Cast(Binary("add", FLAG, FLAG), DType.F32), "add of bool, bool"),
        (ex.Cast(ex.Compare("lt", REAL, WHOLE), DType.F32), "lt of f32, i64"),
    ],
    ids=lambda p: p if isinstance(p, str) else "",
)
def test_types_that_do_not_fit(value, message):
    b = Buffer("y", DType.F32, (4,), (1,), Access.WRITE)
    i = Var("i", 4)
    kernel = Kernel("wrong", (b,), (), (Section((i,), [Store(b, b[i].index, value)]),))
    with pytest.raises(LoopError, match=message):
        verify_kernel(kernel)


@pytest.mark.parametrize(
    ("statement", "message"),
    [
        (lambda i, y: For(i, Kind.SERIAL, []), "loop variable i is in use already"),
        (lambda i, y: For(Var("k", 0), Kind.SERIAL, []), "loop k has no iteration"),
        (lambda i, y: For(Var("k", 2), Kind.PARALLEL, []), "parallel loop k inside a section's body"),
        (lambda i, y: For(Var("k", 2), Kind.UNROLLED, [], Span(WHOLE, WHOLE)), "only serial loops may"),
        (lambda i, y: For(Var("k", 2), Kind.SERIAL, [], Span(REAL, WHOLE)), "a f32 is stored into the span of loop k"),
        (lambda i, y: lanes(For(Var("k", 2), Kind.SERIAL, [], Span(WHOLE, IndexValue(LANE + 0)))), "between lanes"),
        (lambda i, y: For(Var("k", 2), Kind.SERIAL, [], Span(WHOLE, IndexValue(LANE + 0))), "v is used outside its"),
    ],
    ids=["twice", "empty", "parallel", "unrolled span", "real span", "span of lanes", "span of nothing"],
)
def test_loops_that_do_not_fit(statement, message):
    y = Buffer("y", DType.F32, (4,), (1,), Access.WRITE)
    i = Var("i", 4)
    with pytest.raises(LoopError, match=message):
        verify_kernel(Kernel("wrong", (y,), (), (Section((i,), [statement(i, y)]),)))


def test_a_store_to_a_read_only_buffer():
    x = Buffer("x", DType.F32, (4,), (1,), Access.READ)
    i = Var("i", 4)
    with pytest.raises(LoopError, match="buffer x is read-only"):
        verify_kernel(Kernel("wrong", (x,), (), (Section((i,), [Store(x, x[i].index, REAL)]),)))
    b = Builder("wrong")
    x = b.param("x", (4,))
    with pytest.raises(LoopError, match="buffer x is read-only"), b.section(i=4) as (i,):
        b.store(x[i], 1.0)
