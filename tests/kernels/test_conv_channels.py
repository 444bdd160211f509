"""Chosen channels of several tensors, convolved and copied, equal the definition whatever the tensors and layouts."""

from __future__ import annotations

import numpy as np
import pytest
from executors import assert_close, same_for_any_threads
from harness import run_op

from glulam.compiler.errors import ShapeError
from glulam.compiler.graph.graph import Graph
from glulam.compiler.graph.layout import Layout
from glulam.compiler.graph.types import f32
from glulam.compiler.kernels.context import Epilogue
from glulam.compiler.loops.expr import Param, tanh
from glulam.compiler.ops import Concat, Conv, Relu
from glulam.compiler.ops.channels import ConvChannels, SelectChannels
from glulam.compiler.targets import runnable_targets, target

TARGETS = [t.name for t in runnable_targets()]
CASES = [*ConvChannels.cases(), *SelectChannels.cases()]


def random(*shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def layer(channels, outs, n=1, ins=21, spatial=(7, 5), bias=True):
    """The inputs of a convolution of so many input channels of each tensor."""
    sources = [random(n, ins + k, *spatial, seed=k) for k in range(len(channels))]
    w = random(outs, sum(map(len, channels)), *(1,) * len(spatial), seed=98)
    return [sources[0], w, random(outs, seed=99) if bias else None, *sources[1:]]


@pytest.mark.parametrize("case", CASES, ids=str)
@pytest.mark.parametrize("name", TARGETS)
def test_native_equals_reference(case, name):
    arrays = case.arrays()
    (expected,) = case.op.reference(*arrays)
    for halo in (0, 2):
        assert_close(run_op(case.op, arrays, case.constants, name, out_halo=halo)[0], expected)


@pytest.mark.parametrize("case", [*ConvChannels.cases()[:2], *SelectChannels.cases()], ids=str)
def test_interpreter_equals_reference(case):
    arrays = case.arrays()
    assert_close(run_op(case.op, arrays, case.constants, native=False)[0], case.op.reference(*arrays)[0])


@pytest.mark.parametrize("spatial", [(1,), (7,), (13, 7), (1, 1), (28, 28), (3, 2, 5)])
@pytest.mark.parametrize("outs", [1, 3, 17, 58])
def test_pixels_and_channels(spatial, outs):
    channels = ((20, 3, 3, 16), (0,), (21, 1, 15))
    arrays = layer(channels, outs, n=2, spatial=spatial)
    op = ConvChannels(channels)
    assert_close(run_op(op, arrays, (1, 2))[0], op.reference(*arrays)[0])


@pytest.mark.parametrize("name", TARGETS)
def test_tensors_may_have_padding_around_them(name):
    channels = ((2, 17), tuple(range(20)))
    arrays, block = layer(channels, 33), target(name).lanes
    plain, around = Layout(block, ((0, 0), (0, 0))), Layout(block, ((1, 2), (0, 1)), -np.inf)
    ones = Layout(1)
    op = ConvChannels(channels)
    for first, second in ((around, plain), (plain, around), (around, around)):
        got = run_op(op, arrays, (1, 2), name, in_layouts=[first, ones, ones, second])
        assert_close(got[0], op.reference(*arrays)[0])


@pytest.mark.parametrize("count", [200, 400, 900])
@pytest.mark.parametrize("pixels", [3, 60])
def test_long_sums_are_added_up_in_parts(count, pixels):
    """And with few outputs or many, whose weights do not stay in a cache."""
    channels = (tuple(range(count)), (0, 2), tuple(range(count, 0, -1)))
    for outs in (18, 300):
        arrays = layer(channels, outs, ins=count + 1, spatial=(pixels,))
        op = ConvChannels(channels)
        assert_close(run_op(op, arrays, (1, 2))[0], op.reference(*arrays)[0])


def test_what_is_not_chosen_is_not_read():
    """Not even times zero: it may be infinite."""
    channels = ((0, 18), (5,))
    arrays = layer(channels, 17)
    for x, chosen in zip((arrays[0], arrays[3]), channels, strict=True):
        x[:, [c for c in range(x.shape[1]) if c not in chosen]] = np.inf
    op = ConvChannels(channels)
    assert_close(run_op(op, arrays, (1, 2))[0], op.reference(*arrays)[0])


def test_epilogue():
    channels = ((0, 18), (5,))
    arrays = layer(channels, 17, bias=False)
    op = ConvChannels(channels)
    (got,) = run_op(op, [*arrays], (1,), epilogue=Epilogue(tanh(Param(0))))
    assert_close(got, np.tanh(op.reference(*arrays)[0]))


def test_it_is_the_convolution_of_the_tensors_side_by_side():
    channels = (tuple(range(21)), tuple(range(22)))
    x, w, b, y = layer(channels, 7)
    conv = Conv((1, 1), ((0, 0), (0, 0)), (1, 1))
    assert_close(ConvChannels(channels).reference(x, w, b, y)[0], conv.reference(*Concat(1).reference(x, y), w, b)[0])


@pytest.mark.parametrize(
    ("op", "types"),
    [
        (ConvChannels(((0,), (3,))), (f32(1, 3, 5), f32(4, 2, 1), None, f32(1, 3, 5))),  # no channel 3
        (ConvChannels(((0, 1),)), (f32(1, 3, 5), f32(4, 3, 1))),  # three channels of weights
        (ConvChannels(((0, 1),)), (f32(1, 3, 5), f32(4, 2, 3))),  # three taps
        (ConvChannels(((0,), (1,))), (f32(1, 3, 5), f32(4, 2, 1), None, f32(1, 3, 6))),  # other pixels
        (ConvChannels(((0,), (1,))), (f32(1, 3, 5), f32(4, 2, 1))),  # one tensor
        (ConvChannels(((-1,),)), (f32(1, 3, 5), f32(4, 1, 1))),
        (SelectChannels(((0, 3),)), (f32(1, 3, 5),)),
        (SelectChannels(((1, 0),)), (f32(1, 3, 5),)),
        (SelectChannels(((0, 0), (1, 0))), (f32(1, 3, 5), f32(2, 3, 5))),
        (SelectChannels(((0, 0),)), (f32(1, 3),)),
    ],
)
def test_what_does_not_fit_is_refused(op, types):
    with pytest.raises(ShapeError):
        op.infer(*types)


@pytest.mark.parametrize("n", [1, 4])
@pytest.mark.parametrize("side", [5, 28])
def test_the_same_bits_for_any_number_of_threads(n, side):
    graph, channels = Graph("g"), ((0, 18, 3), (5, 16), tuple(range(17)))
    x = graph.input("x", f32(n, 3, side, side))
    conv = Conv((1, 1), ((0, 0), (0, 0)), (1, 1))
    sources = [graph.apply(conv, x, graph.constant(random(19, 3, 1, 1, seed=k)), None) for k in range(3)]
    w = graph.constant(random(58, 22, 1, 1))
    y = graph.apply(Relu(), graph.apply(ConvChannels(channels), sources[0], w, None, *sources[1:]))
    z = graph.apply(SelectChannels(tuple((c % 3, c % 19) for c in range(35))), *sources)
    graph.output("y", y)
    graph.output("z", graph.apply(Conv((1, 1), ((1, 1), (1, 1)), (1, 1)), z, graph.constant(random(3, 35, 3, 3)), None))
    feeds = {"x": random(n, 3, side, side)}
    same_for_any_threads(graph, feeds)
