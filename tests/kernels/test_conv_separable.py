"""A depthwise convolution with the 1x1 convolution behind it gives what the two kernels give."""

from __future__ import annotations

import numpy as np
import pytest
from executors import TARGETS, agree, every_way, graph_of_cases, native, reference

from glulam.compiler.graph.graph import Graph
from glulam.compiler.graph.types import f32
from glulam.compiler.ops import Add, Clip, Conv, HardSwish, MaxPool
from glulam.compiler.ops.fused import FusedRegion
from glulam.compiler.ops.separable import SeparableConv
from glulam.compiler.options import Options
from glulam.compiler.passes import rows_first
from glulam.compiler.passes.nonnegative import is_nonnegative

ONES = (1, 1)
NONE = ((0, 0), (0, 0))


def padded_conv(graph, value):
    """A 3x3 convolution, for which the result carries padding."""
    weights = np.random.default_rng(5).uniform(-1, 1, (5, value.shape[1], 3, 3)).astype(np.float32)
    return graph.apply(Conv(ONES, ((1, 1), (1, 1)), ONES), value, graph.constant(weights))


@pytest.mark.parametrize("behind", [lambda graph, value: value, padded_conv], ids=["one row", "with padding"])
@pytest.mark.parametrize("target", TARGETS)
def test_cases(target, behind):
    graph, feeds = graph_of_cases(SeparableConv.cases(), behind)
    every_way(graph, feeds, target, 1e-4)


def test_rows_that_lie_together_give_the_same_bits(monkeypatch):
    monkeypatch.setattr(rows_first, "_LEAST_PIXELS", 1)
    graph, feeds = graph_of_cases(SeparableConv.cases(), padded_conv)
    one, two = (native(graph, feeds, Options(threads=threads)) for threads in (1, 2))
    for name, expected in one.items():
        np.testing.assert_array_equal(two[name], expected, name)


def block(graph, x, channels, strides, seed, residual=False):
    """Depthwise 3x3, ReLU6, 1x1, and what the kernels of their own compute with the same weights."""
    rng = np.random.default_rng(seed)
    depth = x.shape[1]
    weights = [
        graph.constant(rng.uniform(-1, 1, shape).astype(np.float32))
        for shape in ((depth, 1, 3, 3), (depth,), (channels, depth, 1, 1), (channels,))
    ]
    first = Conv((strides, strides), ((1, 1), (1, 1)), ONES, depth)
    value = graph.apply(Clip(0.0, 6.0), graph.apply(first, x, *weights[:2]))
    value = graph.apply(Conv(ONES, NONE, ONES), value, *weights[2:])
    return graph.apply(Add(), value, x) if residual else value


@pytest.mark.parametrize("extents", [(60, 61), (113, 50)])
@pytest.mark.parametrize("strides", [1, 2])
def test_large_images(extents, strides):
    graph = Graph("large")
    x = graph.input("x", f32(1, 100, *extents))
    y = block(graph, x, 100 if strides == 1 else 40, strides, 1, residual=strides == 1)
    y = block(graph, y, 88, 1, 2)
    graph.output("y", padded_conv(graph, y))
    feeds = {"x": np.random.default_rng(3).uniform(-1, 1, x.shape).astype(np.float32)}
    apart = native(graph, feeds, Options(disable=("fuse_separable",)))
    agree(apart, reference(graph, feeds), 1e-4, "two kernels")
    for threads in (1, 2, 4):
        got = native(graph, feeds, Options(threads=threads))
        np.testing.assert_array_equal(got["y"], apart["y"])


def test_layers_that_differ_in_weights_only():
    graph = Graph("twins")
    x = graph.input("x", f32(1, 96, 60, 60))
    y = x
    for seed in range(3):
        y = block(graph, y, 96, 1, seed)
    graph.output("y", y)
    feeds = {"x": np.random.default_rng(3).uniform(-1, 1, x.shape).astype(np.float32)}
    agree(native(graph, feeds), reference(graph, feeds), 1e-4, "native")


def test_tells_that_its_result_is_not_negative():
    first, second = Graph("depthwise"), Graph("pointwise")
    x = first.input("x", f32(1, 3, 5, 5))
    first.output(
        "y", first.apply(HardSwish(), first.apply(Conv(ONES, NONE, ONES, 3), x, first.input("w", f32(3, 1, 3, 3))))
    )
    value = second.apply(Conv(ONES, NONE, ONES), second.input("x", f32(1, 3, 3, 3)), second.input("w", f32(4, 3, 1, 1)))
    second.output("y", second.apply(Clip(0.0, 6.0), value))
    graph = Graph("g")
    op = SeparableConv.of(FusedRegion(first), second=FusedRegion(second))
    given = [graph.input(f"x{i}", value.type) for i, value in enumerate(op.body.inputs.values())]
    y = graph.apply(op, *given)
    graph.output("z", graph.apply(MaxPool((3, 3), ONES, ((1, 1), (1, 1)), ONES), y))
    assert is_nonnegative(y)
