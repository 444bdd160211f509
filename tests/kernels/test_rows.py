"""Softmax, layer and batch normalisation kernels against the operators' references."""

import math

import numpy as np
import pytest
from executors import assert_close
from harness import run_op

from glulam.compiler.graph.op import Case
from glulam.compiler.graph.types import f32
from glulam.compiler.ops import BatchNorm, LayerNorm, LogSoftmax, Softmax
from glulam.compiler.targets import runnable_targets

TARGETS = [t.name for t in runnable_targets()]
LINES = [
    Case(op(axis), (f32(*shape),))
    for op in (Softmax, LogSoftmax)
    for axis, shape in ((1, (3, 1000)), (1, (1, 21, 13, 17)), (2, (3, 40, 2)), (0, (129,)), (1, (2, 3, 1)), (0, (5, 3)))
]
NORMS = [
    Case(LayerNorm(2, 1e-5), (f32(1, 9, 768), f32(768), f32(768))),
    Case(LayerNorm(1, 1e-5), (f32(3, 4, 33), f32(4, 33), None)),
    Case(LayerNorm(1, 1e-5), (f32(40, 5), None, f32(5))),
]
CASES = [*Softmax.cases(), *LogSoftmax.cases(), *LayerNorm.cases(), *BatchNorm.cases(), *LINES, *NORMS]


@pytest.mark.parametrize("case", CASES, ids=str)
def test_kernel_follows_the_reference(case):
    arrays = case.arrays()
    (want,) = case.op.reference(*arrays)
    parameters = tuple(i for i in range(1, len(arrays)) if arrays[i] is not None)
    for constants in {(), parameters[:1], parameters}:
        for target in TARGETS:
            assert_close(run_op(case.op, arrays, constants, target)[0], want)
        assert_close(run_op(case.op, arrays, constants, native=False)[0], want)


@pytest.mark.parametrize("constants", [(), (1, 2, 3, 4), (2, 3)])
@pytest.mark.parametrize("shape", [(2, 20, 5, 7), (1, 16, 9), (1, 3, 2, 3, 4)])
def test_batch_norm_on_channel_blocks(shape, constants):
    rng = np.random.default_rng(0)
    x = rng.uniform(-1, 1, shape).astype(np.float32)
    scale, bias, mean, var = rng.uniform(0.5, 1.5, (4, shape[1])).astype(np.float32)
    op = BatchNorm(1e-3)
    (want,) = op.reference(x, scale, bias, mean, var)
    for target in TARGETS:
        arguments = {"target": target, "out_halo": 1, "either_blocked": True}
        assert_close(run_op(op, [x, scale, bias, mean, var], constants, **arguments)[0], want)
    assert_close(run_op(op, [x, scale, bias, mean, var], constants, native=False, either_blocked=True)[0], want)


@pytest.mark.parametrize("op", [Softmax, LogSoftmax])
@pytest.mark.parametrize("axis", [0, 1, 2])
def test_softmax_of_extreme_values(op, axis):
    x = np.random.default_rng(0).uniform(-3, 3, (19, 33, 18)).astype(np.float32)
    x[0, :, 0] = -math.inf
    x[:, 1, 1] = -math.inf
    x[2, 3, :] = -math.inf
    x[4:9, 4:9, 4:9] = -math.inf
    x[10, 10, 10], x[11, 11, 11], x[12, 12, 12], x[13, 13, 13] = math.inf, math.nan, 1e38, -1e38
    (want,) = op(axis).reference(x)
    for target in TARGETS:
        assert_close(run_op(op(axis), [x], target=target)[0], want)


@pytest.mark.parametrize("op", [Softmax(1), LogSoftmax(1)])
@pytest.mark.parametrize("bits", [0x7FC00001, 0xFFC001FF, 0x7FC00000, 0x7F800000])
@pytest.mark.parametrize("shape", [(3, 37), (2, 5, 19)], ids=str)
def test_a_line_of_softmax_with_nan_or_infinity_is_nan(op, bits, shape):
    """NaN with any payload, and +inf, wherever they stand; other lines are not touched."""
    x = np.random.default_rng(0).standard_normal(shape).astype(np.float32)
    for place in (0, shape[1] - 1):
        odd = x.copy()
        odd.view(np.uint32)[0, place] = bits
        with np.errstate(invalid="ignore"):
            (want,) = op.reference(odd)
        for target in TARGETS:
            assert_close(run_op(op, [odd], target=target)[0], want)


def test_layer_norm_of_a_line_far_from_zero():
    x = (np.random.default_rng(0).uniform(-1, 1, (2, 999)) + 1000).astype(np.float32)
    assert_close(run_op(LayerNorm(1), [x, None, None])[0], LayerNorm(1).reference(x)[0], 1e-4)


@pytest.mark.parametrize("op", [Softmax(1), LogSoftmax(2), LayerNorm(1)])
def test_double_precision(op):
    x = np.random.default_rng(0).uniform(-3, 3, (3, 21, 10))
    for target in TARGETS:
        np.testing.assert_allclose(run_op(op, [x], target=target)[0], op.reference(x)[0], rtol=1e-12, atol=1e-13)
