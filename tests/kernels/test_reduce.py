"""Reduction kernels against the operators' references, on plain tensors and on channel blocks."""

import math

import numpy as np
import pytest
from executors import assert_close
from harness import WithSecondInput, run_op

from glulam.compiler.graph.graph import Graph
from glulam.compiler.graph.op import Case, Prefers
from glulam.compiler.graph.types import TensorType, f32
from glulam.compiler.kernels.context import Epilogue
from glulam.compiler.loops import expr as ex
from glulam.compiler.ops import ArgReduce, Conv, Reduce
from glulam.compiler.ops.reduce import KINDS
from glulam.compiler.passes.layout import ChooseLayout
from glulam.compiler.targets import runnable_targets, target

TARGETS = [t.name for t in runnable_targets()]
SPATIAL = [
    Case(Reduce(kind, tuple(range(2, len(shape))), keep), (f32(*shape),))
    for kind in KINDS
    for shape, keep in (((2, 20, 7, 9), True), ((1, 35, 13), False), ((1, 16, 2, 3, 4), False))
]
PLAIN = [
    Case(Reduce("mean", (0, 2)), (f32(3, 5, 41, 70),)),
    Case(Reduce("sum", (1,), False), (f32(2, 37, 3, 50),)),
    Case(Reduce("max", (1, 3), False), (f32(2, 7, 3, 100),)),
    Case(Reduce("l2", (0, 1, 2)), (f32(20, 3, 90),)),
    Case(Reduce("log_sum_exp", (1,), False), (f32(30, 40),)),
    Case(Reduce("mean", (3,), False), (f32(1, 2, 3, 4099),)),
    Case(Reduce("sum", (1,)), (f32(2, 0, 3),)),
    Case(Reduce("sum", (1,)), (f32(0, 2, 3),)),
]
ARG = [
    Case(ArgReduce("max", 1, False), (f32(2, 21, 7, 9),)),
    Case(ArgReduce("min", 2, True, True), (f32(2, 3, 100),)),
    Case(ArgReduce("max", 0, True), (f32(37, 40),)),
]
CASES = [*Reduce.cases(), *ArgReduce.cases(), *PLAIN, *SPATIAL, *ARG]


@pytest.mark.parametrize("case", CASES, ids=str)
def test_kernel_follows_the_reference(case):
    arrays = case.arrays()
    (want,) = case.op.reference(*arrays)
    for name in TARGETS:
        (got,) = run_op(case.op, arrays, target=name)
        assert_close(got, want)
    if arrays[0].size < 5_000:
        (got,) = run_op(case.op, arrays, native=False)
        assert_close(got, want)


@pytest.mark.parametrize("case", SPATIAL, ids=str)
def test_channel_blocks(case):
    arrays = case.arrays()
    (want,) = case.op.reference(*arrays)
    for name in TARGETS:
        (got,) = run_op(case.op, arrays, target=name, either_blocked=True, out_halo=1)
        assert_close(got, want)
    (got,) = run_op(case.op, arrays, native=False, either_blocked=True)
    assert_close(got, want)


@pytest.mark.parametrize("blocked", [False, True])
@pytest.mark.parametrize(
    ("op", "shape", "other"),
    [
        (Reduce("mean", (2, 3)), (2, 20, 5, 7), (1, 20, 1, 1)),
        (Reduce("mean", (2, 3)), (2, 20, 5, 7), (2, 20, 1, 1)),
        (Reduce("mean", (2, 3), False), (2, 20, 5, 7), (20,)),
        (Reduce("sum", (0, 2), False), (2, 20, 5, 7), (20, 1)),
        (Reduce("sum", (3,), False), (2, 20, 5, 7), (1,)),
    ],
)
def test_epilogue(op, shape, other, blocked):
    rng = np.random.default_rng(0)
    x, y = rng.uniform(-1, 1, shape).astype(np.float32), rng.uniform(-1, 1, other).astype(np.float32)
    relu = Epilogue(ex.maximum(ex.Param(0) + ex.Param(1), 0.0), (1,))
    want = np.maximum(op.reference(x)[0] + y, 0)
    for native in (True, False):
        arguments = {"native": native, "either_blocked": blocked, "epilogue": relu}
        assert_close(run_op(WithSecondInput(op), [x, y], constants=(1,), **arguments)[0], want)
        if not blocked or len(other) in (1, 4):
            assert_close(run_op(WithSecondInput(op), [x, y], **arguments)[0], want)


def test_epilogue_may_change_the_element_type():
    class Positive(WithSecondInput):
        def infer(self, x):
            (type,) = self.op.infer(x)
            return (type.with_dtype(TensorType.of(np.zeros(1, bool)).dtype),)

    op = Reduce("sum", (1,))
    x = np.random.default_rng(0).uniform(-1, 1, (5, 40)).astype(np.float32)
    (got,) = run_op(Positive(op), [x], epilogue=Epilogue(ex.Param(0) > 0.0))
    np.testing.assert_array_equal(got, op.reference(x)[0] > 0)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("blocked", [False, True])
def test_special_values(kind, blocked):
    x = np.random.default_rng(0).uniform(0.5, 1, (1, 20, 3, 5)).astype(np.float32)
    x[0, 1, 1, 2], x[0, 2, 0, 0], x[0, 3], x[0, 4, 2, 2], x[0, 5] = math.nan, math.inf, -math.inf, -math.inf, 1e18
    x[0, 6, 2, 4] = math.nan
    for axes in ((2, 3), (1,), (2,)):
        op = Reduce(kind, axes)
        (want,) = op.reference(x)
        for name in TARGETS:
            (got,) = run_op(op, [x], target=name, either_blocked=blocked)
            np.testing.assert_allclose(got, want, rtol=2e-5)


@pytest.mark.parametrize("kind", ["sum", "max", "min", "prod", "l1", "sum_square"])
@pytest.mark.parametrize("dtype", ["int64", "int32", "int8", "uint8"])
def test_integers(kind, dtype):
    x = np.random.default_rng(0).integers(0 if dtype == "uint8" else -9, 9, (3, 70, 5)).astype(dtype)
    for axes in ((1,), (0, 2), (0, 1, 2), ()):
        (want,) = Reduce(kind, axes, False).reference(x)
        np.testing.assert_array_equal(run_op(Reduce(kind, axes, False), [x])[0], want)


@pytest.mark.parametrize("last", [False, True])
@pytest.mark.parametrize("kind", ["max", "min"])
@pytest.mark.parametrize("turned", [False, True])
def test_ties_and_nan_of_arg_reduce(kind, last, turned):
    """Short lines, which lanes take one each, and long ones."""
    rng = np.random.default_rng(0)
    x = rng.integers(-2, 3, (3, 70, 21)).astype(np.float32)
    x[0, 5, 3] = x[0, 9, 3] = x[1, 69, 20] = x[2, 0, 0] = math.nan
    x[1, 3] = math.inf
    x[1, 4] = -math.inf
    x = np.ascontiguousarray(x.swapaxes(1, 2)) if turned else x
    for axis in range(3):
        op = ArgReduce(kind, axis, True, last)
        for name in TARGETS:
            np.testing.assert_array_equal(run_op(op, [x], target=name)[0], op.reference(x)[0])
        np.testing.assert_array_equal(run_op(op, [x[:, :40]], native=False)[0], op.reference(x[:, :40])[0])


def test_long_sums_keep_their_accuracy():
    x = np.random.default_rng(0).uniform(0.9, 1.1, (1, 16, 300, 300)).astype(np.float32)
    (want,) = Reduce("mean", (2, 3)).reference(x)
    for blocked in (False, True):
        np.testing.assert_allclose(run_op(Reduce("mean", (2, 3)), [x], either_blocked=blocked)[0], want, rtol=1e-6)


@pytest.mark.parametrize("length", [191, 127 * 8, 8 * 191 + 5, 8 * 4099])
def test_long_sums_of_any_length_are_added_up_in_parts(length):
    """Also where no part of up to 64 rows divides them."""
    x = np.random.default_rng(0).uniform(0.9, 1.1, (3, length)).astype(np.float32)
    op = Reduce("sum", (1,), False)
    for name in TARGETS:
        np.testing.assert_allclose(run_op(op, [x], target=name)[0], op.reference(x)[0], rtol=3e-7)
    short = x[:, :2000]
    np.testing.assert_allclose(run_op(op, [short], native=False)[0], op.reference(short)[0], rtol=3e-7)


def test_global_pools_take_either_layout():
    type = f32(1, 8, 4, 4)
    for op, prefers in (
        (Reduce("mean", (2, 3)), Prefers.EITHER),
        (Reduce("mean", (2, 3), False), Prefers.EITHER),
        (Reduce("mean", (1, 2, 3)), Prefers.PLAIN),
    ):
        assert op.preference([type], op.infer(type)) is prefers


def test_a_matrix_of_global_means_is_taken_from_channel_blocks():
    """The layout pass leaves results of rank 2 plain and inserts no copy in front of the reduction."""
    rng = np.random.default_rng(0)
    graph = Graph("pooled")
    x = graph.input("x", f32(1, 8, 6, 7))
    weights = graph.constant(rng.uniform(-1, 1, (20, 8, 1, 1)).astype(np.float32), "w")
    y = graph.apply(Conv((1, 1), ((0, 0), (0, 0)), (1, 1)), x, weights)
    graph.output("y", graph.apply(Reduce("mean", (2, 3), False), y))
    ChooseLayout(target("native")).run(graph)
    (reduction,) = [node for node in graph.nodes if isinstance(node.op, Reduce)]
    assert isinstance(reduction.inputs[0].producer.op, Conv)
    assert reduction.inputs[0].layout.block > 1
    assert reduction.output.layout.is_plain


@pytest.mark.parametrize("name", TARGETS)
@pytest.mark.parametrize("shape", [(40, 12, 12), (37, 3, 50), (300, 65)])
def test_a_sample_adds_up_in_the_same_order_in_every_batch(shape, name):
    """Threads may take some of the samples each."""
    x = np.random.default_rng(0).standard_normal((16, *shape), np.float32)
    op = Reduce("sum", (1,))
    (together,) = run_op(op, [x], target=name)
    np.testing.assert_array_equal(together[:1], run_op(op, [x[:1]], target=name)[0])
