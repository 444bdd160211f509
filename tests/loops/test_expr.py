"""Expressions: construction, traversal and their numpy meaning."""

from __future__ import annotations

import numpy as np
import pytest

from glulam.compiler.errors import LoopError
from glulam.compiler.graph.types import DType
from glulam.compiler.loops import expr as ex
from glulam.compiler.loops.expr import Const, Param, evaluate


def test_unknown_operations_are_refused_with_the_known_ones():
    with pytest.raises(LoopError, match=r"no unary operation 'secant'.*tanh"):
        ex.unary("secant", Param(0))
    with pytest.raises(LoopError, match=r"no binary operation 'rotate'.*shl"):
        ex.binary("rotate", Param(0), Param(1))
    with pytest.raises(LoopError, match="no comparison 'is'"):
        ex.compare("is", Param(0), Param(1))


def test_operands_of_two_types_are_refused():
    with pytest.raises(LoopError, match="types f32 and i64; cast one of them"):
        Param(0) + Param(1, DType.I64)


def test_two_numbers_are_refused():
    with pytest.raises(LoopError, match="at least one symbolic operand"):
        ex.maximum(1.0, 2.0)


def test_numbers_take_the_type_of_the_other_operand():
    assert (Param(0, DType.I64) + 1).y.dtype is DType.I64
    assert (2 - Param(0, DType.F64)).x.dtype is DType.F64


def shared(depth=60):
    e = Param(3)
    for _ in range(depth):
        e = e + e
    return e


def test_sharing_costs_nothing():
    """A tree of 2**60 paths and 61 nodes."""
    e = shared()
    assert evaluate(e, [None, None, None, np.float64(1)]) == 2.0**60
    moved = ex.substitute(e, {3: Param(0)})
    assert evaluate(moved, [np.float64(1)]) == 2.0**60
    assert moved.x is moved.y


def test_substitution_leaves_what_it_does_not_touch():
    e = ex.exp(Const(1.0)) + Param(0)
    replaced = ex.substitute(e, [Param(5)])
    assert replaced.x is e.x
    assert replaced.y.index == 5


def test_integer_division_is_towards_zero():
    x = np.array([7, -7, 7, -7, 5, -128, -128, 0], np.int8)
    y = np.array([2, 2, -2, -2, 0, 2, -1, 3], np.int8)
    quotient = evaluate(Param(0, DType.I8) / Param(1, DType.I8), [x, y])
    np.testing.assert_array_equal(quotient, np.array([3, -3, -3, 3, 0, -64, -128, 0], np.int8))
    assert quotient.dtype == np.int8


def test_maximum_gives_nan_if_either_is():
    x, y = np.float32([np.nan, 1.0, 1.0]), np.float32([1.0, np.nan, 2.0])
    np.testing.assert_array_equal(evaluate(ex.maximum(Param(0), Param(1)), [x, y]), np.float32([np.nan, np.nan, 2.0]))


def test_fma_rounds_once():
    x = np.float32(1 + 2**-12)
    exact = float(x) * float(x) - 1.0
    assert evaluate(ex.Fma(Param(0), Param(0), Const(-1.0)), [x]) == np.float32(exact) != np.float32(x * x) - 1
