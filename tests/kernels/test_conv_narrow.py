"""Convolutions whose output channels fill no blocks, along rows of plain tensors equal the definition."""

import numpy as np
import pytest
from executors import assert_close
from harness import run_op

from glulam.compiler.driver import compile_graph, optimise
from glulam.compiler.graph.graph import Graph
from glulam.compiler.graph.types import f32
from glulam.compiler.ops import Conv, Relu
from glulam.compiler.ops.narrow import NarrowConv
from glulam.compiler.options import Options
from glulam.compiler.targets import runnable_targets

TARGETS = [t.name for t in runnable_targets()]
CASES = [
    (NarrowConv((1, 1), ((1, 1), (1, 1)), (1, 1), 3), (2, 15, 13, 7), (51, 5, 3, 3)),
    (NarrowConv((2, 3), ((1, 0), (0, 2)), (1, 1)), (1, 3, 13, 13), (3, 3, 3, 5)),
    (NarrowConv((1, 2), ((2, 1), (1, 4)), (3, 2)), (1, 17, 17, 3), (17, 17, 3, 3)),
    (NarrowConv((1, 1), ((1, 0), (0, 0)), (1, 1)), (2, 1, 7, 1), (3, 1, 2, 1)),
    (NarrowConv((1, 1, 2), ((0, 1), (1, 1), (0, 1)), (1, 2, 1)), (1, 3, 4, 7, 7), (5, 3, 3, 3, 3)),
    (NarrowConv((1, 1), ((0, 0), (0, 0)), (1, 1)), (1, 1, 1, 1), (1, 1, 1, 1)),
    (NarrowConv((1, 1), ((1, 1), (19, 19)), (1, 1)), (1, 8, 5, 37), (8, 8, 3, 39)),
    (NarrowConv((1, 2), ((0, 0), (0, 0)), (1, 1)), (1, 1, 1, 300), (1, 1, 1, 64)),
    (NarrowConv((2, 3), ((1, 0), (0, 2)), (1, 1)), (2, 3, 7, 50), (3, 3, 3, 5)),
    (NarrowConv((1, 4), ((2, 2), (3, 1)), (2, 3)), (1, 17, 13, 70), (7, 17, 3, 3)),
    (NarrowConv((1,), ((2, 1),), (1,)), (1, 3, 33), (2, 3, 4)),
    (NarrowConv((1,), ((0, 0),), (1,)), (1, 1, 700), (36, 1, 63)),
    (NarrowConv((1, 2), ((1, 1), (2, 1)), (1, 1)), (2, 1, 3, 70), (17, 1, 3, 5)),
    (NarrowConv((1,), ((3, 0),), (2,)), (1, 2, 13), (33, 2, 3)),
    (NarrowConv((1, 1, 1), ((1, 1), (1, 1), (1, 1)), (1, 1, 1)), (1, 3, 3, 4, 19), (3, 3, 3, 3, 3)),
    (NarrowConv((1, 1), ((0, 0), (0, 0)), (1, 1), 3), (2, 15, 7, 13), (51, 5, 1, 1)),
    (NarrowConv((1, 1), ((0, 0), (0, 0)), (1, 1), 20), (1, 20, 13, 13), (60, 1, 1, 1)),
    (NarrowConv((2, 1), ((1, 2), (0, 3)), (1, 2), 2), (1, 34, 9, 21), (6, 17, 3, 2)),
    (NarrowConv((2,), ((4, 1),), (1,), 7), (2, 7, 40), (14, 1, 5)),
]


def arrays_of(x, w, seed=0):
    rng = np.random.default_rng(seed)
    return [rng.standard_normal(shape).astype(np.float32) for shape in (x, w, w[:1])]


@pytest.mark.parametrize("name", TARGETS)
@pytest.mark.parametrize("case", CASES, ids=str)
def test_native_equals_reference(name, case):
    op, *shapes = case
    x, w, bias = arrays_of(*shapes)
    assert_close(run_op(op, [x, w, bias], constants=(1, 2), target=name)[0], op.reference(x, w, bias)[0])
    assert_close(run_op(op, [x, w, None], constants=(1,), target=name)[0], op.reference(x, w, None)[0])


@pytest.mark.parametrize("case", [CASES[1], CASES[8]], ids=str)
def test_interpreter_equals_native(case):
    op, *shapes = case
    arrays = arrays_of(*shapes)
    (slow,) = run_op(op, arrays, constants=(1, 2), native=False)
    (fast,) = run_op(op, arrays, constants=(1, 2))
    np.testing.assert_array_equal(slow, fast)


def narrow_chain(width):
    """Two convolutions with few channels, an activation between and after them."""
    (x, first, bias), (_, second, _) = arrays_of((1, 8, 40, width), (8, 8, 3, 3)), arrays_of((1,), (1, 8, 5, 5), 1)
    graph = Graph("g")
    value = graph.input("x", f32(*x.shape))
    one, two = (Conv((1, 1), ((pad, pad), (pad, pad)), (1, 1)) for pad in (1, 2))
    y = graph.apply(Relu(), graph.apply(one, value, graph.constant(first), graph.constant(bias)))
    graph.output("y", graph.apply(Relu(), graph.apply(two, y, graph.constant(second), None)))
    middle = np.maximum(one.reference(x, first, bias)[0], 0)
    return graph, x, np.maximum(two.reference(middle, second, None)[0], 0)


@pytest.mark.parametrize("width", [1, 13, 264])
def test_a_chain_of_them_is_right_at_any_width_and_number_of_threads(width):
    graph, x, expected = narrow_chain(width)
    one, two = (compile_graph(graph, Options(threads=threads)).run({"x": x})["y"] for threads in (1, 2))
    assert_close(one, expected)
    np.testing.assert_array_equal(one, two)


def grouped_chain(between_blocks):
    """1x1 in groups of five channels, by itself or between convolutions in channel blocks."""
    rng = np.random.default_rng(0)
    x = rng.standard_normal((1, 80, 9, 11)).astype(np.float32)
    grouped, full = (rng.standard_normal((80, c, 1, 1)).astype(np.float32) for c in (5, 80))
    graph = Graph("g")
    value, expected = graph.input("x", f32(*x.shape)), x
    for weights in (full, grouped, full) if between_blocks else (grouped,):
        op = Conv((1, 1), ((0, 0), (0, 0)), (1, 1), 80 // weights.shape[1])
        value = graph.apply(op, value, graph.constant(weights), None)
        expected = op.reference(expected, weights, None)[0]
    graph.output("y", graph.apply(Relu(), value))
    return graph, x, np.maximum(expected, 0)


@pytest.mark.parametrize("between_blocks", [False, True])
def test_conversions_count_in_the_choice(between_blocks):
    graph, x, expected = grouped_chain(between_blocks)
    with compile_graph(graph, Options(threads=2)) as model:
        assert_close(model.run({"x": x})["y"], expected)
    optimised, reports = optimise(graph, Options(target="x86-64-v4"))
    assert len(optimised.nodes) == (5 if between_blocks else 1)  # with a conversion before and after, or none
    reasons = [d.reason for r in reports if r.name == "choose_algorithm" for d in r.decisions]
    assert any(reason.startswith("narrow") for reason in reasons) is not between_blocks


def test_it_is_chosen_for_wide_images_and_keeps_them_plain():
    graph, *_ = narrow_chain(264)
    optimised, _ = optimise(graph, Options(target="x86-64-v4"))
    names = [node.name for node in optimised.nodes if node.op.name == "fused"]
    assert len(names) == 2
    assert all(value.layout.block == 1 for node in optimised.nodes for value in node.outputs)


def test_many_output_channels_stay_in_blocks():
    graph = Graph("g")
    w = graph.constant(np.ones((32, 8, 3, 3), np.float32))
    graph.output("y", graph.apply(Conv((1, 1), ((1, 1), (1, 1)), (1, 1)), graph.input("x", f32(1, 8, 40, 264)), w))
    assert "NarrowConv" not in str([node.op for node in optimise(graph, Options())[0].nodes])
