"""Convolutions with weights computed at run time, and the kernel that scales weights for each sample."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from executors import assert_close
from harness import run_op

from glulam.compiler.errors import ShapeError
from glulam.compiler.graph.types import f32
from glulam.compiler.kernels.context import Epilogue
from glulam.compiler.loops.expr import Param
from glulam.compiler.ops import Conv
from glulam.compiler.ops.dynamic_conv import DynamicConv, Modulate
from glulam.compiler.targets import runnable_targets

TARGETS = [t.name for t in runnable_targets()]
SHAPES = [
    ((1, 1, 7), 1),
    ((1, 3, 1, 13), 17),
    ((2, 17, 7, 13), 3),
    ((3, 32, 13, 1), 24),
    ((1, 72, 5, 7), 40),
    ((1, 48, 2, 3, 7), 33),
    ((2, 600, 2, 3), 64),
]


def arrays(shape, outs, seed=0):
    """x, factor, w and bias."""
    rng, ones = np.random.default_rng(seed), (1,) * (len(shape) - 2)
    shapes = shape, (*shape[:2], *ones), (outs, shape[1], *ones), (outs,)
    return [rng.standard_normal(s).astype(np.float32) for s in shapes]


def pointwise(rank, tile=()):
    """The op of a 1x1 convolution in so many dimensions."""
    ones = (1,) * rank
    return DynamicConv(ones, ones, ((0, 0),) * rank, ones, tile=tile)


def definition(x, factor, w, bias):
    ones = (1,) * (x.ndim - 2)
    return Conv(ones, ((0, 0),) * (x.ndim - 2), ones).reference((x * factor).astype(np.float32), w, bias)[0]


@pytest.mark.parametrize("native", [True, False])
@pytest.mark.parametrize("name", TARGETS)
@pytest.mark.parametrize("case", SHAPES, ids=str)
def test_both_kernels_equal_the_definition(name, case, native):
    x, factor, w, bias = arrays(*case)
    (own,) = Modulate().reference(factor, w)
    (got,) = run_op(Modulate(), [factor, w], constants=(1,), target=name, native=native)
    np.testing.assert_array_equal(got, own)
    for given in (bias, None):
        expected = definition(x, factor, w, given)
        op = pointwise(x.ndim - 2)
        assert_close(op.reference(x, own, given)[0], expected)
        (got,) = run_op(
            op, [x, own, given], constants=(2,), target=name, native=native, out_halo=1,
            epilogue=Epilogue(Param(0) * 2.0),
        )  # fmt: skip
        assert_close(got, 2 * expected)


@pytest.mark.parametrize("tile", [(1, 1), (6, 2), (13, 3)])
def test_a_given_tile_gives_the_same_bits(tile):
    x, factor, w, bias = arrays((1, 72, 5, 7), 40)
    (own,) = Modulate().reference(factor, w)
    results = [run_op(pointwise(2, t), [x, own, bias], constants=(2,))[0] for t in ((), tile)]
    np.testing.assert_array_equal(*results)


def test_a_factor_that_is_not_finite_leaves_empty_lanes_empty():
    _, factor, w, _ = arrays((1, 17, 3), 3)
    factor[0, 5] = np.inf
    with np.errstate(all="ignore"):
        (expected,) = Modulate().reference(factor, w)
    np.testing.assert_array_equal(run_op(Modulate(), [factor, w], constants=(1,))[0], expected)


def test_shapes_that_do_not_fit_are_refused():
    for op, types in (
        (Modulate(), (f32(1, 4, 2, 1), f32(8, 4, 1, 1))),
        (Modulate(), (f32(1, 4), f32(8, 4))),
        (Modulate(), (f32(1, 4, 1, 1), f32(8, 5, 1, 1))),
        (pointwise(2), (f32(4, 4, 5, 5), f32(2, 8, 4, 1))),
        (pointwise(2), (f32(1, 4, 5, 5), f32(1, 8, 3, 1))),
        (pointwise(2), (f32(1, 4, 5, 5), f32(1, 8, 4))),
        (pointwise(1, (0, 1)), (f32(1, 4, 5), f32(1, 8, 4))),
        (replace(pointwise(1), groups=2), (f32(1, 4, 5), f32(1, 8, 2))),
        (replace(pointwise(1), kernel=(6,)), (f32(1, 4, 5), f32(1, 8, 24))),
    ):
        with pytest.raises(ShapeError):
            op.infer(*types)


@pytest.mark.parametrize("native", [True, False])
@pytest.mark.parametrize("name", TARGETS)
@pytest.mark.parametrize("op", [Modulate, DynamicConv], ids=lambda op: op.name)
def test_sample_cases(op, name, native):
    for case in op.cases():
        inputs = case.arrays()
        (got,) = run_op(case.op, list(inputs), constants=tuple(case.constants), target=name, native=native, out_halo=1)
        (expected,) = case.op.reference(*inputs)
        assert got.shape == expected.shape
        if expected.size:
            assert_close(got, expected)
