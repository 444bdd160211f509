"""Resize kernels against the operator's reference, plain and, where only spatial axes change, on channel blocks."""

import math

import numpy as np
import pytest
from executors import assert_close
from harness import WithSecondInput, run_op

from glulam.compiler.graph.layout import Layout
from glulam.compiler.graph.op import Case, Prefers
from glulam.compiler.graph.types import f32
from glulam.compiler.kernels.context import Epilogue
from glulam.compiler.loops import expr as ex
from glulam.compiler.ops import Resize
from glulam.compiler.targets import runnable_targets, target

TARGETS = [t.name for t in runnable_targets()]


def case(shape, sizes, mode="nearest", **attributes):
    scales = tuple(size / extent for size, extent in zip(sizes, shape, strict=True))
    return Case(Resize(sizes, scales, mode, **attributes), (f32(*shape),))


UPSAMPLE = {"coordinates": "asymmetric", "rounding": "floor"}
OWN = [
    case((2, 20, 5, 6), (2, 20, 10, 12), **UPSAMPLE),
    case((1, 5, 3, 4), (1, 5, 3, 12), **UPSAMPLE),
    case((1, 5, 2, 3), (1, 5, 10, 15), **UPSAMPLE),
    case((1, 5, 2, 3, 4), (1, 5, 4, 6, 8), **UPSAMPLE),
    case((1, 20, 2, 2), (1, 20, 1, 1)),
    case((2, 17, 5, 3), (2, 17, 4, 6), **UPSAMPLE),
    case((1, 16, 5), (1, 16, 4), **UPSAMPLE),
    case((1, 35, 9, 21), (1, 35, 18, 43), "linear"),
    case((1, 3, 40, 37), (1, 3, 6, 5), "linear"),
    case((1, 3, 40, 37), (1, 3, 6, 5), "linear", antialias=True),
    case((1, 20, 6, 7), (1, 20, 9, 20), "cubic"),
    case((1, 2, 3, 4, 5), (1, 2, 5, 7, 9), "cubic"),
    case((2, 3, 4), (4, 2, 7), "linear"),
    case((40,), (70,), "cubic"),
    case((2, 20, 10, 34), (2, 20, 5, 17), "linear"),
    case((1, 3, 6, 99), (1, 3, 3, 33), "linear"),
    case((1, 17, 26, 14), (1, 17, 13, 7), **UPSAMPLE),
    case((1, 2, 12, 40), (1, 2, 3, 10), "cubic"),
    case((2, 3, 4, 40), (2, 3, 4, 20), "linear"),
    case((1, 5, 8, 40), (1, 5, 4, 20), "linear", antialias=True),
    case((1, 3, 7, 13), (1, 3, 14, 26), **UPSAMPLE),
    case((2, 3, 5, 33), (2, 3, 5, 99), **UPSAMPLE),
    case((1, 2, 3, 50), (1, 2, 12, 200), **UPSAMPLE),
    case((1, 5, 13, 1), (1, 5, 39, 1), **UPSAMPLE),
    case((2, 1, 2, 3, 17), (2, 1, 4, 3, 34), **UPSAMPLE),
    case((1, 4, 6), (1, 8, 12), **UPSAMPLE),
]
CASES = [*Resize.cases(), *OWN]
SPATIAL = [c for c in CASES if c.op.preference(c.inputs, c.op.infer(*c.inputs)) is not Prefers.PLAIN]


@pytest.mark.parametrize(
    ("extent", "size", "mode", "step"),
    [(40, 20, "linear", 2), (33, 11, "nearest", 3), (20, 40, "linear", None), (20, 30, "linear", None)],
)
def test_taps_that_move_by_the_same_step(extent, size, mode, step):
    op = case((1, 8, 5, extent), (1, 8, 5, size), mode).op
    assert op._axis_taps(3, extent).step == step


@pytest.mark.parametrize(
    ("shape", "sizes", "mode", "prefers"),
    [
        ((1, 8, 9, 9), (1, 8, 18, 18), "linear", Prefers.BLOCKS),
        ((1, 7, 9, 9), (1, 7, 18, 18), "linear", Prefers.EITHER),  # lanes would be empty
        ((1, 8, 8, 8), (1, 8, 4, 4), "linear", Prefers.EITHER),  # nothing is gathered
        ((1, 8, 9, 9), (1, 8, 18, 9), "linear", Prefers.EITHER),
        ((1, 64, 99, 99), (1, 64, 20, 20), "nearest", Prefers.EITHER),  # most of the input is not read
        ((2, 8, 9, 9), (4, 8, 18, 18), "linear", Prefers.PLAIN),
    ],
)
def test_channel_blocks_are_preferred_to_gathering(shape, sizes, mode, prefers):
    resized = case(shape, sizes, mode)
    assert resized.op.preference(resized.inputs, resized.op.infer(*resized.inputs)) is prefers


@pytest.mark.parametrize("case", CASES, ids=str)
def test_kernel_follows_the_reference(case):
    arrays = case.arrays()
    (want,) = case.op.reference(*arrays)
    for name in TARGETS:
        assert_close(run_op(case.op, arrays, target=name)[0], want)
    if want.size < 1500:
        assert_close(run_op(case.op, arrays, native=False)[0], want)


@pytest.mark.parametrize("case", SPATIAL, ids=str)
def test_channel_blocks(case):
    """The output gets padding, and the input has some already."""
    arrays = case.arrays()
    (want,) = case.op.reference(*arrays)
    for name in TARGETS:
        halo = Layout(target(name).lanes, ((1, 2),) * (arrays[0].ndim - 2), -3.0)
        arguments = {"either_blocked": True, "out_halo": 1, "in_layouts": [halo]}
        assert_close(run_op(case.op, arrays, target=name, **arguments)[0], want)
    if want.size < 1500:
        assert_close(run_op(case.op, arrays, native=False, either_blocked=True)[0], want)


@pytest.mark.parametrize("blocked", [False, True])
@pytest.mark.parametrize("case", OWN[:1] + OWN[4:5] + OWN[7:8] + OWN[10:11], ids=str)
def test_epilogue(case, blocked):
    x = case.arrays()[0]
    (resized,) = case.op.reference(x)
    other = np.random.default_rng(1).uniform(-1, 1, resized.shape).astype(np.float32)
    relu = Epilogue(ex.maximum(ex.Param(0) + ex.Param(1), 0.0), (1,))
    (got,) = run_op(WithSecondInput(case.op), [x, other], epilogue=relu, either_blocked=blocked)
    assert_close(got, np.maximum(resized + other, 0))


@pytest.mark.parametrize("dtype", ["float64", "float16", "int64", "int32", "int16", "int8", "uint8", "bool"])
def test_nearest_moves_every_element_type(dtype):
    x = (np.random.default_rng(0).uniform(0, 2, (1, 3, 5, 40)) * 50).astype(dtype)
    op = Resize((1, 3, 8, 57), (1.0, 1.0, 1.6, 57 / 40))
    for name in TARGETS:
        np.testing.assert_array_equal(run_op(op, [x], target=name)[0], op.reference(x)[0])


@pytest.mark.parametrize("mode", ["linear", "cubic"])
def test_double_precision(mode):
    x = np.random.default_rng(0).uniform(-1, 1, (1, 2, 5, 9))
    op = Resize((1, 2, 8, 20), (1.0, 1.0, 1.6, 20 / 9), mode)
    for name in TARGETS:
        np.testing.assert_allclose(run_op(op, [x], target=name)[0], op.reference(x)[0], atol=1e-14)


@pytest.mark.parametrize("mode", ["nearest", "linear"])
def test_nan_and_infinities(mode):
    x = np.random.default_rng(0).uniform(-1, 1, (1, 20, 5, 9)).astype(np.float32)
    x[0, 3, 2, 4], x[0, 5, 1, 1], x[0, 19] = math.nan, math.inf, -math.inf
    op = Resize((1, 20, 8, 23), (1.0, 1.0, 1.6, 23 / 9), mode)
    for blocked in (False, True):
        assert_close(run_op(op, [x], either_blocked=blocked)[0], op.reference(x)[0])
