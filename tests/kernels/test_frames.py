"""Frames stacked into images and taken apart again, with and without halo, with an epilogue."""

from __future__ import annotations

import numpy as np
import pytest
from fusing import with_relu
from harness import run_op

from glulam.compiler.errors import ShapeError
from glulam.compiler.graph.types import f32
from glulam.compiler.ops.frames import StackFrames, UnstackFrames
from glulam.compiler.targets import runnable_targets

TARGETS = [t.name for t in runnable_targets()]
IMAGES = ((-1, 0, 1), (0, 1, 2), (2, 3, -1))


def data(*shape):
    return np.random.default_rng(0).standard_normal(shape).astype(np.float32)


@pytest.mark.parametrize("name", TARGETS)
@pytest.mark.parametrize("out_halo", [0, 2])
@pytest.mark.parametrize("images", [IMAGES, ((3,),), ((-1, -1),)])
def test_stack(name, out_halo, images):
    op, x = StackFrames(images), data(2, 32, 4, 3, 5)
    (got,) = run_op(op, [x], target=name, out_halo=out_halo)
    np.testing.assert_array_equal(got, op.reference(x)[0])


@pytest.mark.parametrize("channels", [1, 3, 17])
def test_stack_of_plain_frames(channels):
    op, x = StackFrames(IMAGES, blocked=False), data(2, channels, 4, 3, 5)
    for native in (True, False):
        (got,) = run_op(op, [x], native=native)
        np.testing.assert_array_equal(got, op.reference(x)[0])


def test_stack_is_a_concat_of_frames():
    x = data(1, 16, 4, 3, 5)
    (got,) = StackFrames(IMAGES).reference(x)
    zeros = np.zeros_like(x[:, :, 0])
    np.testing.assert_array_equal(got[:1], np.concatenate([zeros, x[:, :, 0], x[:, :, 1]], 1))
    np.testing.assert_array_equal(got[2:], np.concatenate([x[:, :, 2], x[:, :, 3], zeros], 1))


@pytest.mark.parametrize("name", TARGETS)
@pytest.mark.parametrize("out_halo", [0, 2])
@pytest.mark.parametrize("channels", [32, 17, 3])
def test_unstack(name, out_halo, channels):
    op, x = UnstackFrames(4), data(8, channels, 3, 5)
    (got,) = run_op(op, [x], target=name, out_halo=out_halo)
    np.testing.assert_array_equal(got, op.reference(x)[0])


@pytest.mark.parametrize("native", [True, False])
def test_unstack_with_an_epilogue(native):
    region, given = with_relu(UnstackFrames(2), [data(4, 17, 3, 5)], data(2, 17, 2, 3, 5))
    (got,) = run_op(region, given, native=native, out_halo=1)
    np.testing.assert_array_equal(got, region.reference(*given)[0])


def test_refusals():
    with pytest.raises(ShapeError, match="different numbers of frames"):
        StackFrames(((0,), (0, 1))).infer(f32(1, 16, 2, 3, 3))
    with pytest.raises(ShapeError, match="does not have"):
        StackFrames(((0, 2),)).infer(f32(1, 16, 2, 3, 3))
    with pytest.raises(ShapeError, match="N \\* 2"):
        UnstackFrames(2).infer(f32(3, 16, 2, 3))
