"""Pooling kernels against the references: every case, odd windows, padded outputs, epilogues, NaN and inf."""

import math

import numpy as np
import pytest
from executors import assert_close
from harness import WithSecondInput, run_op

from glulam.compiler.driver import lower
from glulam.compiler.graph.graph import Graph
from glulam.compiler.graph.op import Case, Prefers
from glulam.compiler.graph.types import DType, TensorType, f32
from glulam.compiler.kernels.context import Epilogue
from glulam.compiler.loops import expr as ex
from glulam.compiler.loops.printer import show_kernel
from glulam.compiler.ops import AveragePool, Conv, MaxPool
from glulam.compiler.options import Options
from glulam.compiler.targets import runnable_targets

TARGETS = [t.name for t in runnable_targets()]
WIDE = [
    Case(MaxPool((3, 3), (2, 2), ((1, 1), (1, 1)), (1, 1)), (f32(1, 20, 30, 37),)),
    Case(MaxPool((5, 13), (1, 1), ((2, 2), (6, 6)), (1, 1)), (f32(1, 5, 9, 40),)),
    Case(MaxPool((3,), (2,), ((1, 1),), (1,)), (f32(1, 3, 400),)),
    Case(MaxPool((3, 3), (1, 1), ((1, 1), (1, 1)), (1, 1)), (f32(2, 1, 75, 61),)),
    Case(MaxPool((3, 3, 3), (1, 1, 1), ((1, 1), (1, 1), (1, 1)), (1, 1, 1)), (f32(1, 2, 4, 7, 33),)),
    Case(MaxPool((1, 21), (1, 1), ((0, 0), (10, 10)), (1, 1)), (f32(1, 17, 3, 30),)),
    Case(MaxPool((3, 3), (2, 2), ((3, 0), (0, 3)), (2, 2), True), (f32(1, 17, 13, 29),)),
    Case(MaxPool((2, 2), (5, 5), ((0, 0), (0, 0)), (1, 1)), (f32(1, 3, 40, 90),)),
    Case(AveragePool((3, 3), (3, 3), ((1, 1), (1, 1)), (1, 1), True, True), (f32(1, 3, 130, 111),)),
    Case(AveragePool((8, 8), (3, 3), ((2, 2), (2, 2)), (1, 1), True), (f32(1, 20, 20, 41),)),
    Case(AveragePool((3,), (1,), ((1, 1),), (1,), False, True), (f32(1, 3, 170),)),
    Case(AveragePool((2, 11, 3), (1, 2, 1), ((0, 1), (5, 5), (1, 1)), (1, 1, 2), True), (f32(1, 3, 3, 14, 9),)),
]
CASES = [*MaxPool.cases(), *AveragePool.cases(), *WIDE]


@pytest.mark.parametrize("blocked", [False, True], ids=["plain", "blocks"])
@pytest.mark.parametrize("case", CASES, ids=str)
def test_kernel_follows_the_reference(case, blocked):
    arrays = case.arrays()
    (want,) = case.op.reference(*arrays)
    for target in TARGETS:
        (got,) = run_op(EitherWay(case.op), arrays, target=target, either_blocked=blocked)
        assert_close(got, want)
    if want.size * math.prod(case.op.kernel) < 20_000:
        (got,) = run_op(EitherWay(case.op), arrays, native=False, either_blocked=blocked)
        assert_close(got, want)


@pytest.mark.parametrize("blocked", [False, True], ids=["plain", "blocks"])
@pytest.mark.parametrize("case", [c for c in CASES if c.inputs[0].dtype in (np.float32, f32().dtype)][::3], ids=str)
def test_padding_and_epilogue_are_written(case, blocked):
    x = case.arrays()[0]
    (pooled,) = case.op.reference(x)
    other = np.random.default_rng(1).uniform(-1, 1, pooled.shape).astype(np.float32)
    relu = Epilogue(ex.maximum(ex.Param(0) + ex.Param(1), 0.0), (1,))
    op = WithSecondInput(EitherWay(case.op))
    (got,) = run_op(op, [x, other], out_halo=2 * blocked, epilogue=relu, either_blocked=blocked)
    assert_close(got, np.maximum(pooled + other, 0))


class EitherWay:
    """The op on channel blocks or not, whatever its width; float64 stays plain."""

    def __init__(self, op):
        self.op = op

    def infer(self, x):
        return self.op.infer(x)

    def preference(self, types, outputs):
        return Prefers.EITHER if outputs[0].dtype is DType.F32 else Prefers.PLAIN

    def padding(self, index, types):
        return self.op.padding(0, types[:1]) if index == 0 else None

    def lower(self, ctx):
        return self.op.lower(ctx)


@pytest.mark.parametrize("blocked", [False, True], ids=["plain", "blocks"])
def test_nan_and_infinities_pass_through_the_maximum(blocked):
    x = np.random.default_rng(0).uniform(-1, 1, (1, 19, 9, 11)).astype(np.float32)
    x[0, 3, 4, 5], x[0, 18, 0, 0], x[0, 7], x[0, 8, 2, 2] = math.nan, math.inf, -math.inf, -math.inf
    for kernel, stride in ((2, 2), (3, 1), (3, 2), (4, 1), (5, 2)):
        op = MaxPool((kernel,) * 2, (stride,) * 2, ((1, 1), (1, 1)), (1, 1))
        for target in TARGETS:
            (got,) = run_op(EitherWay(op), [x], target=target, either_blocked=blocked)
            np.testing.assert_array_equal(got, op.reference(x)[0])
        assert np.isnan(op.reference(x)[0]).any()


def test_other_element_types_stay_plain():
    type = TensorType.of(np.zeros((1, 3, 8), np.float64))
    op = MaxPool((2,), (2,), ((0, 0),), (1,))
    assert op.preference([type], op.infer(type)) is Prefers.PLAIN


@pytest.mark.parametrize(("extent", "kernel", "strides"), [(57, 3, 2), (25, 13, 1), (25, 15, 1)])
def test_the_text_of_a_maximum_does_not_double_with_its_elements(extent, kernel, strides):
    graph, pads = Graph("g"), ((kernel // 2, kernel // 2),) * 2
    w = graph.constant(np.ones((32, 16, 1, 1), np.float32))
    y = graph.apply(Conv((1, 1), ((0, 0),) * 2, (1, 1), 1), graph.input("x", f32(1, 16, extent, extent)), w, None)
    graph.output("y", y)
    graph.output("z", graph.apply(MaxPool((kernel,) * 2, (strides,) * 2, pads, (1, 1)), y))
    texts = [show_kernel(step.kernel) for step in lower(graph, Options()).steps if "pool" in step.kernel.name]
    assert texts
    assert max(len(line) for text in texts for line in text.splitlines()) < 1500
