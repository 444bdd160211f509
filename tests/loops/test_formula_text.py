"""The text of formulas: printed, read back to the same numbers; and what is no formula is refused with its place."""

from __future__ import annotations

import numpy as np
import pytest

from glulam.compiler.errors import LoopError
from glulam.compiler.graph.types import DType, TensorType
from glulam.compiler.loops import expr as ex
from glulam.compiler.loops.formula import operand_count, parse_formula, show_formula
from glulam.compiler.ops import ALL_OPS, Pointwise

CASES = [case for op in ALL_OPS if issubclass(op, Pointwise) for case in op.cases()]


@pytest.mark.parametrize("case", CASES, ids=str)
def test_every_pointwise_op_survives_as_text(case):
    arrays = case.arrays()
    types = [TensorType.of(array) for array in arrays]
    expression = case.op.expression(*types)
    own = next((t.dtype for t in types if t.dtype.is_float), DType.F32)
    text = show_formula(expression, own)
    again = parse_formula(text, tuple(t.dtype for t in types))
    assert again.dtype is expression.dtype
    np.testing.assert_array_equal(ex.evaluate(again, arrays), ex.evaluate(expression, arrays))
    assert show_formula(again, own) == text
    assert operand_count(text) <= len(arrays)


def test_shared_parts_are_printed_once():
    x = ex.Param(0)
    for _ in range(60):
        x = x * x
    text = show_formula(x)
    assert len(text) < 2000
    assert show_formula(parse_formula(text, (DType.F32,))) == text


def test_deep_formulas_read_back():
    x = ex.Param(0)
    for i in range(300):
        x = ex.maximum(x + 0.5, float(i))
    text = show_formula(x)
    assert show_formula(parse_formula(text, (DType.F32,))) == text


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "a formula"),
        ("x0 +", "no formula"),
        ("x3", "known functions"),
        ("import os", "the result"),
        ("sin(x0", "no formula"),
        ("gamma(x0)", "unknown function"),
        ("exp(x0, x0)", "another number of arguments"),
        ("x0 = 1.0; x0", "each name once"),
        ("__import__('os')", "unknown function"),
        ("x0.real", "known functions"),
        ("(lambda: x0)()", "known functions"),
        ("x0 < 1.0 < 2.0", "known functions"),
        ("(" * 5000 + "x0" + ")" * 5000, "no formula"),
        ("x0 + " * 50_000 + "x0", "the limit is"),
    ],
)
def test_what_is_no_formula(text, why):
    with pytest.raises(LoopError, match=why):
        parse_formula(text, (DType.F32,))
