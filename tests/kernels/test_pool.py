"""Pooling kernels against the references: every case, odd windows, padded outputs, epilogues, NaN and inf."""

import math

import numpy as np
import pytest
from harness import run_op

from glulam.compiler.graph.op import Case, Prefers
from glulam.compiler.graph.types import TensorType, f32
from glulam.compiler.kernels.context import Epilogue
from glulam.compiler.loops import expr as ex
from glulam.compiler.ops import AveragePool, MaxPool
from glulam.compiler.targets import runnable_targets

TARGETS = [t.name for t in runnable_targets()]
WIDE = [
    Case(MaxPool((3, 3), (2, 2), ((1, 1), (1, 1)), (1, 1)), (f32(1, 20, 30, 37),)),
    Case(MaxPool((5, 13), (1, 1), ((2, 2), (6, 6)), (1, 1)), (f32(1, 5, 9, 40),)),
    Case(MaxPool((3,), (2,), ((1, 1),), (1,)), (f32(1, 3, 400),)),
    Case(AveragePool((8, 8), (3, 3), ((2, 2), (2, 2)), (1, 1), True), (f32(1, 20, 20, 41),)),
    Case(AveragePool((3,), (1,), ((1, 1),), (1,), False, True), (f32(1, 3, 170),)),
    Case(AveragePool((2, 11, 3), (1, 2, 1), ((0, 1), (5, 5), (1, 1)), (1, 1, 2), True), (f32(1, 3, 3, 14, 9),)),
]
CASES = [*MaxPool.cases(), *AveragePool.cases(), *WIDE]


def check(got, want, bound=1e-5):
    """Equal but for rounding; NaN and inf in the same places."""
    finite = np.isfinite(want)
    np.testing.assert_array_equal(got[~finite], want[~finite])
    scale = np.abs(want[finite]).max(initial=1e-30)
    np.testing.assert_allclose(got[finite], want[finite], rtol=0, atol=bound * scale)


@pytest.mark.parametrize("case", CASES, ids=str)
def test_kernel_follows_the_reference(case):
    arrays = case.arrays()
    (want,) = case.op.reference(*arrays)
    for target in TARGETS:
        (got,) = run_op(case.op, arrays, target=target)
        check(got, want)
    if want.size * math.prod(case.op.kernel) < 20_000:
        (got,) = run_op(case.op, arrays, native=False)
        check(got, want)


@pytest.mark.parametrize("case", [c for c in CASES if c.inputs[0].dtype in (np.float32, f32().dtype)][::3], ids=str)
def test_padding_and_epilogue_are_written(case):
    x = case.arrays()[0]
    (pooled,) = case.op.reference(x)
    other = np.random.default_rng(1).uniform(-1, 1, pooled.shape).astype(np.float32)
    relu = Epilogue(ex.maximum(ex.Param(0) + ex.Param(1), 0.0), (1,))
    op = WithSecondInput(case.op)
    (got,) = run_op(op, [x, other], out_halo=2, epilogue=relu)
    check(got, np.maximum(pooled + other, 0))


class WithSecondInput:
    """The op with one more input, which only the epilogue reads."""

    def __init__(self, op):
        self.op = op

    def infer(self, x, other):
        return self.op.infer(x)

    def preference(self, types, outputs):
        return self.op.preference(types[:1], outputs)

    def padding(self, index, types):
        return self.op.padding(0, types[:1]) if index == 0 else None

    def lower(self, ctx):
        return self.op.lower(ctx)


def test_nan_and_infinities_pass_through_the_maximum():
    x = np.random.default_rng(0).uniform(-1, 1, (1, 19, 9, 11)).astype(np.float32)
    x[0, 3, 4, 5], x[0, 18, 0, 0], x[0, 7], x[0, 8, 2, 2] = math.nan, math.inf, -math.inf, -math.inf
    op = MaxPool((3, 3), (2, 2), ((1, 1), (1, 1)), (1, 1))
    for target in TARGETS:
        np.testing.assert_array_equal(run_op(op, [x], target=target)[0], op.reference(x)[0])
    assert np.isnan(op.reference(x)[0]).any()


def test_other_element_types_stay_plain():
    type = TensorType.of(np.zeros((1, 3, 8), np.float64))
    op = MaxPool((2,), (2,), ((0, 0),), (1,))
    assert op.preference([type], op.infer(type)) is Prefers.PLAIN
