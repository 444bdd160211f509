"""Transposed convolution in stripes: reference = loop interpreter = native code, and when it is chosen."""

from __future__ import annotations

import numpy as np
import pytest
from fusing import with_relu
from harness import run_op
from test_conv import check, floats
from test_conv_transpose import case

from glulam.compiler.errors import UnsupportedError
from glulam.compiler.graph.graph import Graph
from glulam.compiler.graph.types import f32
from glulam.compiler.kernels.conv_geometry import TransposedGeometry
from glulam.compiler.ops.striped import StripedConvTranspose
from glulam.compiler.passes.algorithms import candidates
from glulam.compiler.passes.choose_algorithm import choose
from glulam.compiler.targets import runnable_targets, target

TARGETS = [t.name for t in runnable_targets()]


def striped(*args, **attributes):
    op, arrays = case(*args, **attributes)
    return StripedConvTranspose(**op.attributes()), arrays


CASES = [
    striped((1, 3, 2, 2), 5, (10, 10), strides=5, pads=2),
    striped((1, 6, 2, 2), 6, (10, 10), strides=5, pads=2, groups=3, bias=False),
    striped((2, 3, 2, 3), 2, (7, 40), strides=(2, 17), pads=((1, 0), (9, 3)), extra=(1, 5)),
    striped((1, 2, 3, 2), 3, (4, 4), strides=(5, 7), extra=(2, 9)),  # pixels that no tap reaches
    striped((1, 5, 4), 17, (64,), strides=32, pads=16),
    striped((1, 3, 1), 1, (20,), strides=33, extra=3),
    striped((1, 4, 3), 6, (5,), strides=20, dilations=7, groups=2),
    striped((1, 2, 2, 1, 3), 3, (3, 4, 5), strides=(2, 3, 4), pads=((1, 1), (0, 2), (2, 1))),
    striped((1, 1, 2, 2), 1, (18, 18), strides=18, pads=17),  # fewer outputs than a stride
    striped((1, 400, 2, 2), 2, (8, 10), strides=(4, 5), pads=1),  # a sum of several parts
    striped((0, 3, 2, 2), 2, (10, 10), strides=5),
]


@pytest.mark.parametrize("name", TARGETS)
@pytest.mark.parametrize("number", range(len(CASES)))
def test_native(number, name):
    check(*CASES[number], name, native=True)


@pytest.mark.parametrize("number", range(len(CASES)))
def test_interpreted(number):
    check(*CASES[number], TARGETS[0], native=False)


@pytest.mark.parametrize("name", TARGETS)
def test_epilogue(name):
    for op, arrays in CASES[:-1]:
        factor = floats(*op.reference(*arrays)[0].shape)
        region, given = with_relu(op, arrays, factor)
        (result,) = run_op(region, given, (1,) if arrays[2] is None else (1, 2), name)
        wanted = np.maximum(op.reference(*arrays)[0], 0) * factor
        np.testing.assert_allclose(result, wanted, rtol=1e-4, atol=5e-5)


@pytest.mark.parametrize("name", TARGETS)
def test_nan_and_infinity_reach_only_what_they_meet(name):
    for op, arrays in CASES[:-1]:
        x = arrays[0].copy()
        x[:, 0, ..., 0], x[:, -1, ..., -1] = np.inf, np.nan
        (result,) = run_op(op, [x, *arrays[1:]], [i for i in (1, 2) if arrays[i] is not None], name)
        np.testing.assert_array_equal(np.isfinite(result), np.isfinite(op.reference(x, *arrays[1:])[0]))


def test_weights_must_be_known():
    op, arrays = CASES[0]
    with pytest.raises(UnsupportedError, match="weights"):
        run_op(op, arrays, (), "native")


def chosen(*args, **attributes):
    """Name of the algorithm that the cost model takes."""
    op, arrays = case(*args, **attributes)
    graph = Graph()
    x = graph.input("x", f32(*arrays[0].shape))
    constants = [graph.constant(a, f"w{i}") for i, a in enumerate(arrays[1:]) if a is not None]
    graph.outputs["y"] = graph.apply(op, x, *constants)
    return choose(candidates(target("x86-64-v4"), graph.nodes[-1])[0], {}).name


def test_chosen_where_phases_would_be_many_or_lanes_empty():
    assert chosen((1, 21, 7, 7), 21, (64, 64), strides=32, pads=16) == "stripes"
    assert chosen((1, 21, 9, 9), 21, (16, 16), strides=8, pads=4, groups=21) == "stripes"
    assert chosen((1, 64, 28, 28), 32, (4, 4), strides=2, pads=1) == "phases"
    assert chosen((1, 128, 28), 64, (16,), strides=8, pads=4) == "phases"


@pytest.mark.parametrize(("outputs", "before"), [(224, 16), (100, 0), (27, 30), (5, 7), (33, 31)])
def test_stripes_have_each_output_once(outputs, before):
    geometry = TransposedGeometry((64,), (32,), (1,), ((before, 0),))
    for lanes in (1, 16):
        found = geometry.stripes(0, outputs, lanes)
        met = [s.start + i * 32 + k for s in found for i in range(s.count) for k in range(s.length)]
        assert sorted(met) == list(range(outputs))
