"""Scalars by which nodes differ: read from memory, so that the nodes share a kernel; all others stand in the code."""

from __future__ import annotations

import numpy as np
import pytest
from executors import TARGETS, every_way
from test_twins import both_programs, same

from glulam.compiler.driver import lower, optimise
from glulam.compiler.graph.graph import Graph
from glulam.compiler.graph.types import DType, TensorType, f32
from glulam.compiler.loops.printer import show_kernel
from glulam.compiler.ops import Add, Conv, Div, Linear, Mul, Pow, Round, Sigmoid, Sub
from glulam.compiler.options import Options
from glulam.compiler.scalars import differing_scalars

ONES = (1, 1)
KEEP = ("fold_normalisation",)  # which folds scales into weights


def random(rng, *shape):
    return rng.uniform(-1, 1, shape).astype(np.float32)


def scaled_layers(layer, shape, scales):
    """For each pair of scales, what `layer` makes of the input, divided by one, rounded, and times the other."""
    graph = Graph("scaled")
    x = graph.input("x", f32(*shape))
    for i, (before, behind) in enumerate(scales):
        y = graph.apply(Div(), layer(graph, x, i), graph.constant(np.float32(before), f"before{i}"))
        y = graph.apply(Mul(), graph.apply(Round(), y), graph.constant(np.float32(behind), f"behind{i}"))
        graph.output(f"y{i}", y)
    return graph


def linear(graph, x, i):
    rng = np.random.default_rng(i)
    return graph.apply(Linear(), x, graph.constant(random(rng, 33, 24), f"w{i}"), graph.constant(random(rng, 33)))


def conv(graph, x, i):
    weights = random(np.random.default_rng(i), 17, 3, 3, 3)
    return graph.apply(Conv(ONES, ((1, 1), (0, 1)), ONES), x, graph.constant(weights, f"w{i}"))


def sigmoid(graph, x, i):
    return graph.apply(Sigmoid(), graph.apply(Mul(), x, graph.constant(np.float32(i + 2), f"k{i}")))


def kernels(graph, options):
    return [step.kernel.name for step in lower(graph, options).steps if "fused" in step.kernel.name]


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize(
    ("layer", "shape"),
    [(linear, (7, 24)), (conv, (1, 3, 13, 7)), (sigmoid, (2, 17, 1, 7)), (sigmoid, (13,))],
    ids=["linear", "conv", "sigmoid", "sigmoid of a vector"],
)
def test_layers_with_other_scales_share_a_kernel(layer, shape, target, monkeypatch):
    graph = scaled_layers(layer, shape, [(0.25, 0.5), (0.25, 0.75), (0.25, 1.5)])
    options = Options(target=target, disable=KEEP)
    assert len(set(kernels(graph, options))) == 1
    same(*both_programs(graph, options, monkeypatch))
    every_way(graph, {"x": random(np.random.default_rng(1), *shape)}, target, 1e-5)


def test_what_all_agree_on_stands_in_the_code():
    graph = scaled_layers(linear, (7, 24), [(0.25, 0.5), (0.25, 0.75)])
    (text,) = {show_kernel(step.kernel) for step in lower(graph, Options(disable=KEEP)).steps}
    assert "0.25" in text
    assert "0.75" not in text
    alone = scaled_layers(linear, (7, 24), [(0.25, 0.75)])
    (text,) = {show_kernel(step.kernel) for step in lower(alone, Options(disable=KEEP)).steps}
    assert "0.75" in text


def test_an_exponent_stands_in_the_code():
    """x ** 2 is a product, x ** 0.5 a root."""
    graph = Graph("powers")
    x = graph.input("x", f32(5, 9))
    for i, (exponent, offset) in enumerate([(2, 1), (0.5, 3)]):
        y = graph.apply(Pow(), x, graph.constant(np.float32(exponent), f"e{i}"))
        graph.output(f"y{i}", graph.apply(Sub(), y, graph.constant(np.float32(offset), f"o{i}")))
    found, _ = optimise(graph, Options())
    assert [[i for i in range(3) if (node, i) in differing_scalars(found)] for node in found.nodes] == [[2], [2]]
    assert len(set(kernels(graph, Options()))) == 2
    every_way(graph, {"x": np.abs(random(np.random.default_rng(1), 5, 9))}, "native", 1e-6)


def test_whole_numbers_stand_in_the_code():
    """Division by one that is known is a multiplication."""
    graph = Graph("whole")
    x = graph.input("x", TensorType(DType.I32, (5, 9)))
    for i, divisor in enumerate([3, 7]):
        moved = graph.apply(Add(), x, graph.constant(np.arange(9, dtype=np.int32) + i))
        y = graph.apply(Div(), moved, graph.constant(np.int32(divisor), f"d{i}"))
        graph.output(f"y{i}", y)
    assert len(set(kernels(graph, Options()))) == 2
    every_way(graph, {"x": np.arange(-20, 25, dtype=np.int32).reshape(5, 9)}, "native", 0)
