"""Kernels as text."""

from __future__ import annotations

import math

import pytest
import sample_kernels as sample

from glulam.compiler.graph.types import DType
from glulam.compiler.loops import expr as ex
from glulam.compiler.loops.expr import Bitcast, Cast, Const, Param
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
