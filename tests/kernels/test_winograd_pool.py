"""A Winograd convolution whose tiles are pooled gives what the kernels one after the other give."""

import numpy as np
import pytest

from glulam.compiler.driver import compile_graph, lower
from glulam.compiler.graph.evaluate import evaluate
from glulam.compiler.graph.graph import Graph
from glulam.compiler.graph.types import f32
from glulam.compiler.loops.program import interpret_program
from glulam.compiler.ops import Add, AveragePool, LeakyRelu, MaxPool
from glulam.compiler.ops.winograd import WinogradConv
from glulam.compiler.options import Options
from glulam.compiler.targets import runnable_targets

TARGETS = [t.name for t in runnable_targets()]
ONES, NONE = (1, 1), ((0, 0), (0, 0))
POOLS = {
    "max 2x2": MaxPool((2, 2), (2, 2), NONE, ONES),
    "max 2x2 ceil": MaxPool((2, 2), (2, 2), NONE, ONES, ceil_mode=True),
    "max 4x2": MaxPool((4, 2), (4, 2), NONE, ONES),
    "average 2x2": AveragePool((2, 2), (2, 2), NONE, ONES),
    "average 2x2 ceil": AveragePool((2, 2), (2, 2), NONE, ONES, ceil_mode=True),
    "average 2x2 with pads": AveragePool((2, 2), (2, 2), ((0, 1), (0, 1)), ONES, count_include_pad=True),
}
REFUSED = {
    "overlapping": MaxPool((3, 3), (2, 2), NONE, ONES),
    "padded": MaxPool((2, 2), (2, 2), ((1, 0), (0, 0)), ONES),
    "across tiles": MaxPool((3, 3), (3, 3), NONE, ONES),
    "dilated": MaxPool((2, 2), (2, 2), NONE, (2, 2)),
}


def network(pool, extents, staged=False, channels=(3, 17), outputs=(4, 4), residual=False):
    rng = np.random.default_rng(3)
    graph, (inside, outside) = Graph(), channels
    x = graph.input("x", f32(2, inside, *extents))
    w = graph.constant((rng.standard_normal((outside, inside, 3, 3)) / np.sqrt(9 * inside)).astype(np.float32))
    b = graph.constant(rng.standard_normal(outside).astype(np.float32))
    op = WinogradConv(ONES, ((1, 1), (1, 1)), ONES, 1, outputs, (3, 3), staged)
    y = graph.apply(op, x, w, b, name="conv")
    feeds = {"x": rng.standard_normal(x.shape).astype(np.float32)}
    if residual:
        feeds["r"] = rng.standard_normal(y.shape).astype(np.float32)
        y = graph.apply(Add(), y, graph.input("r", y.type))
    graph.output("y", graph.apply(pool, graph.apply(LeakyRelu(0.1), y), name="pool"))
    return graph, feeds


def is_fused(program):
    return not any(step.label == "pool" for step in program.steps)


def check(graph, feeds, target):
    expected = evaluate(graph, feeds)["y"]
    options = Options(target=target)
    assert is_fused(lower(graph, options))
    got = compile_graph(graph, options).run(feeds)["y"]
    np.testing.assert_allclose(got, expected, rtol=0, atol=2e-5)


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("staged", [False, True], ids=["one kernel", "staged"])
@pytest.mark.parametrize("name", POOLS)
def test_native_equals_reference(name, staged, target):
    for extents in ((13, 7), (8, 12), (9, 10), (5, 18)):
        check(*network(POOLS[name], extents, staged), target)


@pytest.mark.parametrize("staged", [False, True], ids=["one kernel", "staged"])
@pytest.mark.parametrize("outputs", [(2, 2), (4, 2), (6, 6)], ids=str)
def test_smaller_tiles_and_what_the_epilogue_reads(outputs, staged):
    pool = MaxPool((2, 2), (2, 2), NONE, ONES)
    check(*network(pool, (7, 13), staged, channels=(1, 33), outputs=outputs, residual=True), "native")


@pytest.mark.parametrize("extents", [(2, 7), (3, 2), (2, 3)])
def test_images_smaller_than_a_tile(extents):
    check(*network(POOLS["max 2x2 ceil"], extents), "native")


@pytest.mark.parametrize("staged", [False, True], ids=["one kernel", "staged"])
@pytest.mark.parametrize("name", ["max 2x2", "average 2x2 ceil"])
def test_interpreter_equals_reference(name, staged):
    graph, feeds = network(POOLS[name], (5, 7), staged, channels=(1, 3))
    got = interpret_program(lower(graph, Options(target="x86-64-v2")), feeds)["y"]
    np.testing.assert_allclose(got, evaluate(graph, feeds)["y"], rtol=0, atol=2e-5)


def test_nan_wins():
    graph, feeds = network(POOLS["max 2x2"], (8, 8))
    feeds["x"][0, 1, 3, 3] = np.nan
    expected = evaluate(graph, feeds)["y"]
    assert np.isnan(expected).any()
    got = compile_graph(graph).run(feeds)["y"]
    assert np.isnan(got[np.isnan(expected)]).all()


@pytest.mark.parametrize("staged", [False, True], ids=["one kernel", "staged"])
@pytest.mark.parametrize("name", REFUSED)
def test_other_windows_stay_a_kernel_of_their_own(name, staged):
    graph, feeds = network(REFUSED[name], (9, 10), staged)
    assert not is_fused(lower(graph))
    got = compile_graph(graph).run(feeds)["y"]
    np.testing.assert_allclose(got, evaluate(graph, feeds)["y"], rtol=0, atol=2e-5)


def test_declines_when_the_result_is_read_elsewhere():
    graph, _ = network(POOLS["max 2x2"], (8, 8))
    graph.output("unpooled", next(iter(graph.nodes[-1].inputs)))
    assert not is_fused(lower(graph))


def test_same_bits_at_two_threads():
    graph, feeds = network(POOLS["average 2x2 ceil"], (29, 31), channels=(17, 40))
    one, two = (compile_graph(graph, Options(threads=n)).run(feeds)["y"] for n in (1, 2))
    np.testing.assert_array_equal(one, two)
