"""Winograd's convolution equals the definition, whatever the shape of image, tiles at the edges, and channels."""

import numpy as np
import pytest
from harness import run_op

from glulam.compiler.graph.types import f32
from glulam.compiler.kernels import conv_winograd
from glulam.compiler.ops.winograd import WinogradConv
from glulam.compiler.targets import runnable_targets, target

TARGETS = [t.name for t in runnable_targets()]


def conv(shape, out_channels, pads, seed=0):
    rng = np.random.default_rng(seed)
    x = rng.standard_normal(shape).astype(np.float32)
    w = (rng.standard_normal((out_channels, shape[1], 3, 3)) / np.sqrt(9 * shape[1])).astype(np.float32)
    bias = rng.standard_normal(out_channels).astype(np.float32)
    return WinogradConv((1, 1), pads, (1, 1), 1), [x, w, bias]


SHAPES = [
    ((1, 1, 3, 3), 1, ((0, 0), (0, 0))),
    ((1, 3, 7, 13), 17, ((1, 1), (1, 1))),
    ((2, 17, 13, 7), 33, ((0, 2), (3, 1))),
    ((1, 33, 1, 1), 16, ((1, 1), (1, 1))),
    ((1, 16, 4, 8), 16, ((1, 1), (1, 1))),
]


@pytest.mark.parametrize("name", TARGETS)
@pytest.mark.parametrize("case", SHAPES, ids=str)
@pytest.mark.parametrize("out_halo", [0, 2])
def test_native_equals_reference(name, case, out_halo):
    op, arrays = conv(*case)
    (expected,) = op.reference(*arrays)
    (got,) = run_op(op, arrays, constants=(1, 2), target=name, out_halo=out_halo)
    np.testing.assert_allclose(got, expected, rtol=0, atol=2e-5 * np.abs(expected).max())


def test_interpreter_equals_native():
    op, arrays = conv((1, 3, 5, 6), 17, ((1, 1), (1, 1)))
    (slow,) = run_op(op, arrays, constants=(1, 2), native=False)
    (fast,) = run_op(op, arrays, constants=(1, 2))
    np.testing.assert_allclose(fast, slow, rtol=1e-6, atol=1e-6)


def test_without_bias_and_with_nan():
    op, (x, w, _) = conv((1, 5, 9, 9), 20, ((1, 1), (1, 1)))
    x[0, 2, 4, 4] = np.nan
    (expected,) = op.reference(x, w, None)
    (got,) = run_op(op, [x, w, None], constants=(1,))
    # A NaN reaches every output of the tiles that read it, which are more than the definition's nine.
    assert np.isnan(got[np.isnan(expected)]).all()
    clean = ~np.isnan(got)
    np.testing.assert_allclose(got[clean], expected[clean], rtol=0, atol=1e-5)


@pytest.mark.parametrize("shape", [(56, 56), (7, 7), (13, 30), (1, 100)])
@pytest.mark.parametrize("channels", [(64, 64), (3, 17), (512, 512)])
def test_plan_cuts_evenly(shape, channels):
    plan = conv_winograd.choose_plan(target("x86-64-v3"), 1, shape, *channels)
    height, width = map(conv_winograd.tiles_along, shape)
    assert height % plan.rows == 0
    assert width % plan.columns == 0


def test_transforms_are_winograds():
    """A^T [(G g) * (B^T d)] is the correlation of any d with any g."""
    rng = np.random.default_rng(1)
    d, g = rng.standard_normal(6), rng.standard_normal(3)
    product = (conv_winograd.FILTER_TRANSFORM @ g) * (conv_winograd.INPUT_TRANSFORM @ d)
    np.testing.assert_allclose(conv_winograd.OUTPUT_TRANSFORM @ product, np.correlate(d, g), rtol=1e-12)


def test_type_is_the_convolutions():
    op, _ = conv((1, 3, 7, 13), 17, ((1, 1), (1, 1)))
    assert op.infer(f32(1, 3, 7, 13), f32(17, 3, 3, 3), f32(17)) == (f32(1, 17, 7, 13),)
    assert op.padding(0, [f32(1, 3, 7, 13), f32(17, 3, 3, 3), None]).spans == ((1, 2), (1, 4))
