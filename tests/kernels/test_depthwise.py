"""Depthwise convolution: reference = loop interpreter = native code."""

from __future__ import annotations

import numpy as np
import pytest
from fusing import with_relu
from harness import run_op
from test_conv import case, check, floats, template

from glulam.compiler.ops.activation import Silu
from glulam.compiler.targets import runnable_targets

TARGETS = [t.name for t in runnable_targets()]

CASES = [
    case((2, 20, 3, 9), 20, (3, 3), pads=1, groups=20),
    case((1, 16, 7, 15), 16, (3, 3), strides=2, pads=1, groups=16),
    case((1, 33, 7, 8), 33, (5, 5), strides=2, pads=((1, 2), (2, 1)), groups=33, bias=False),
    case((1, 16, 9, 9), 16, (3, 3), dilations=2, pads=2, groups=16),
    case((1, 17, 13, 41), 17, (5, 5), strides=2, pads=2, groups=17, dilations=(1, 3)),
    case((1, 16, 12, 40), 16, (7, 7), strides=3, pads=3, groups=16),
    case((1, 17, 2, 18), 17, (5, 11), pads=((2, 2), (5, 5)), groups=17),
    case((1, 8, 30), 8, (7,), pads=3, groups=8),
    case((1, 20, 1), 20, (3,), pads=1, groups=20),
    case((1, 18, 2, 5, 6), 18, (3, 3, 3), pads=1, groups=18, strides=(1, 2, 1)),
    case((1, 32, 1, 1), 32, (3, 3), pads=3, groups=32),
    case((1, 16, 10, 11), 16, (9, 9), groups=16),
    case((1, 16, 5, 4), 16, (1, 1), groups=16, strides=(2, 1)),
]


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("number", range(len(CASES)))
def test_native(number, target):
    op, arrays = CASES[number]
    assert template(op, arrays)[0] == "depthwise"
    check(op, arrays, target, native=True)
    check(op, arrays, target, native=True, out_halo=1)


@pytest.mark.parametrize("number", range(len(CASES)))
def test_interpreted(number):
    check(*CASES[number], TARGETS[0], native=False, out_halo=1)


@pytest.mark.parametrize("target", TARGETS)
def test_epilogue(target):
    for op, arrays in CASES:
        shape = op.reference(*arrays)[0].shape
        for factor in (floats(*shape), floats(1, shape[1], *[1] * (len(shape) - 2))):
            region, given = with_relu(op, arrays, factor)
            (result,) = run_op(region, given, (1,), target)
            wanted = np.maximum(op.reference(*arrays)[0], 0) * factor
            np.testing.assert_allclose(result, wanted, rtol=1e-4, atol=5e-5)


@pytest.mark.parametrize("target", TARGETS)
def test_long_epilogue(target):
    """With functions in the epilogue the rows of taps are a loop."""
    for op, arrays in CASES:
        region, given = with_relu(op, arrays, activation=Silu())
        (result,) = run_op(region, given, (1, 2), target)
        (before,) = op.reference(*arrays)
        np.testing.assert_allclose(result, before / (1 + np.exp(-before)), rtol=1e-4, atol=5e-5)


@pytest.mark.parametrize("target", TARGETS)
def test_nan_and_infinity_stay_in_their_channel(target):
    op, arrays = CASES[0]
    x = arrays[0].copy()
    x[0, 3], x[1, 19] = np.nan, np.inf
    (result,) = run_op(op, [x, *arrays[1:]], (1, 2), target)
    np.testing.assert_array_equal(np.isfinite(result), np.isfinite(op.reference(x, *arrays[1:])[0]))
