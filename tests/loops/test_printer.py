"""Kernels as text."""

from __future__ import annotations

import math

import pytest
import sample_kernels as sample

from glulam.compiler.graph.types import DType
from glulam.compiler.loops import expr as ex
from glulam.compiler.loops.builder import Builder
from glulam.compiler.loops.expr import Bitcast, Cast, Const, Param
from glulam.compiler.loops.ir import Access
from glulam.compiler.loops.printer import show, show_kernel

KERNELS = [sample.conv_nest, sample.gathers, sample.softmax, sample.integers, sample.three_sections]


def test_kernels_print_as_before(golden):
    golden("loops_kernels", "\n".join(show_kernel(build()) for build in KERNELS))


def test_a_loop_shows_its_span():
    assert "serial k < 6 from index(i - 2) to index(i + 1) {" in show_kernel(sample.banded())


def test_equal_kernels_print_equal_text():
    assert show_kernel(sample.conv_nest()) == show_kernel(sample.conv_nest())
    assert show_kernel(sample.conv_nest()) != show_kernel(sample.conv_nest(tile=1))


@pytest.mark.parametrize(
    ("e", "text"),
    [
        (Param(0) + 1.0, "($0 + 1.0)"),
        (ex.maximum(Param(0), 0), "maximum($0, 0.0)"),
        (ex.where(Param(0) < 0.5, Param(1), -math.inf), "select(($0 < 0.5), $1, -inf)"),
        (Const(3, DType.I64), "i64(3)"),
        (Cast(Param(0), DType.F64), "f64($0)"),
        (Bitcast(Param(0), DType.I32), "bits_i32($0)"),
        (~ex.equal(Param(0), 1.0) & (Param(1) >= 2.0), "(not(($0 == 1.0)) & ($1 >= 2.0))"),
        (ex.Fma(Param(0), Param(1), Param(2)), "fma($0, $1, $2)"),
    ],
    ids=lambda p: p if isinstance(p, str) else "",
)
def test_expressions(e, text):
    assert show(e) == text


def test_what_is_used_more_than_once_has_a_name():
    x = Param(0)
    for _ in range(60):
        x = x * x + x  # written out, its text would have 2**60 times as many characters
    text = show(x)
    assert text.startswith("%0 = (($0 * $0) + $0); %1 = ((%0 * %0) + %0); ")
    assert len(text) < 3000


def test_names_stand_in_front_of_their_statement():
    b = Builder("twice")
    x, y = b.param("x", (4, 8)), b.param("y", (4, 8), Access.WRITE)
    with b.section(i=4) as (i,), b.vector("v", 8) as v:
        twice = x[i, v] + x[i, v]
        b.store(y[i, v], twice * twice)
    text = show_kernel(b.kernel())
    assert "      %0 = (x[i, v] + x[i, v])\n      y[i, v] = (%0 * %0)\n" in text


def test_loops_inside_each_other_have_different_names():
    """Else two kernels would have one text, and one would get the other's code."""

    def kernel(outer):
        b = Builder("nested")
        x, y = b.param("x", (4, 4)), b.param("y", (4, 4), Access.WRITE)
        with b.section(n=1), b.serial("i", 4) as first, b.serial("i", 4) as second:
            i = first if outer else second
            b.store(y[i, i], x[i, i])
        with b.section(n=1), b.serial("i", 4) as again:
            b.store(y[again, 0], 0.0)
        return show_kernel(b.kernel())

    assert "y[i, i] = x[i, i]" in kernel(True)
    assert "y[i_1, i_1] = x[i_1, i_1]" in kernel(False)
    assert "y[i, 0] = 0.0" in kernel(True)


def test_tiles_that_are_known_together_have_different_names():
    b = Builder("tiles")
    x, y = b.param("acc", (4,)), b.param("y", (4,), Access.WRITE)
    with b.section(i=4) as (i,):
        first, second = b.tile("acc", 1), b.tile("t", 1)
        with b.serial("k", 1):
            inner = b.tile("t", 1)
            b.store(inner[0], x[i])
        again = b.tile("t", 1)
        b.store(y[i], 0.0)
    assert [tile.name for tile in (first, second, inner, again)] == ["acc_1", "t", "t_1", "t_1"]
    assert b.scratch("t_1", (1,)).name == "t_1_1"
