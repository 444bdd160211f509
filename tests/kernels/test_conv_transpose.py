"""Transposed convolution: reference = loop interpreter = native code."""

from __future__ import annotations

import numpy as np
import pytest
from fusing import with_relu
from harness import run_op
from test_conv import check, floats, template

from glulam.compiler.ops.conv import ConvTranspose
from glulam.compiler.targets import runnable_targets

TARGETS = [t.name for t in runnable_targets()]


def case(x, outs, kernel, strides=1, pads=0, dilations=1, extra=0, groups=1, bias=True, dtype=np.float32):
    """The op with arrays for input shape x and `outs` output channels."""
    rank = len(kernel)

    def each(value):
        return value if isinstance(value, tuple) else (value,) * rank

    spans = tuple(p if isinstance(p, tuple) else (p, p) for p in each(pads))
    op = ConvTranspose(each(strides), spans, each(dilations), each(extra), groups)
    arrays = [floats(*x, dtype=dtype), floats(x[1], outs // groups, *kernel, dtype=dtype)]
    return op, [*arrays, floats(outs, dtype=dtype) if bias else None]


CASES = [
    case((1, 20, 2, 3), 18, (3, 3), strides=2, pads=1, extra=1),
    case((1, 16, 3, 4), 33, (2, 2), strides=2),
    case((1, 3, 3, 3), 5, (4, 4), strides=2, pads=1, bias=False),
    case((1, 17, 5), 4, (3,), strides=3, dilations=2, pads=((1, 2),)),
    case((1, 4, 2, 3, 3), 6, (3, 2, 3), strides=(2, 1, 2), pads=((1, 0), (0, 1), (1, 1))),
    case((1, 16, 3, 4), 16, (1, 1), strides=2, extra=1),  # pixels that no tap reaches
    case((1, 8, 4, 4), 8, (3, 3), strides=2, dilations=2, pads=2),
    case((1, 5, 3, 3), 4, (5, 5), pads=3),
    case((1, 5, 4, 4), 4, (3, 3), strides=2, extra=5),
    case((1, 32, 3, 3), 32, (3, 3), strides=2, groups=2, pads=1),
    case((1, 20, 4, 4), 20, (4, 4), strides=2, groups=20, pads=1),
    case((1, 12, 3, 5), 24, (3, 3), strides=2, groups=3, pads=1),
    case((1, 3, 2, 2), 2, (10, 10), strides=5, pads=2),
    case((1, 6, 2, 2), 6, (10, 10), strides=5, pads=2, groups=3, bias=False),
    case((0, 3, 2, 2), 2, (2, 2), strides=2),
]


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("number", range(len(CASES)))
def test_native(number, target):
    op, arrays = CASES[number]
    check(op, arrays, target, native=True)
    check(op, arrays, target, native=True, out_halo=1)


@pytest.mark.parametrize("number", range(len(CASES)))
def test_interpreted(number):
    check(*CASES[number], TARGETS[0], native=False, out_halo=1)


@pytest.mark.parametrize("constants", [(), (1,), (0, 2)])
def test_operands_given_at_run_time(constants):
    for op, arrays in (CASES[0], CASES[3], CASES[4], CASES[11]):
        for target in TARGETS:
            check(op, arrays, target, True, constants)
    check(*CASES[3], TARGETS[0], False, constants)


@pytest.mark.parametrize("native", [False, True])
def test_doubles(native):
    op, arrays = case((1, 6, 3, 4), 4, (3, 3), strides=2, groups=2, dtype=np.float64)
    (result,) = run_op(op, arrays, (1, 2), "native", native)
    np.testing.assert_allclose(result, op.reference(*arrays)[0], rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("target", TARGETS)
def test_epilogue(target):
    for op, arrays in CASES[:-1]:
        factor = floats(*op.reference(*arrays)[0].shape)
        region, given = with_relu(op, arrays, factor)
        (result,) = run_op(region, given, (1,), target)
        wanted = np.maximum(op.reference(*arrays)[0], 0) * factor
        np.testing.assert_allclose(result, wanted, rtol=1e-4, atol=5e-5)


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("constants", [(), (1, 2)])
def test_nan_and_infinity_reach_only_what_they_meet(target, constants):
    for op, arrays in CASES[:-1]:
        x = arrays[0].copy()
        x[:, 0, ..., 0], x[:, -1, ..., -1] = np.inf, np.nan
        (result,) = run_op(op, [x, *arrays[1:]], [i for i in constants if arrays[i] is not None], target)
        np.testing.assert_array_equal(np.isfinite(result), np.isfinite(op.reference(x, *arrays[1:])[0]))


def test_templates():
    assert template(*CASES[0])[0] == "direct phases"
    assert template(*CASES[10])[0] == "depthwise phases"
    assert template(*CASES[11])[0] == "grouped phases"
    name, refused = template(*CASES[12])
    assert name == "generic"
    assert "25 phases" in refused["direct phases"]
    name, refused = template(*case((1, 48, 3, 19), 6, (16, 16), strides=4, groups=2))
    assert name == "apart phases"
    assert "written out" in refused["grouped phases"]
