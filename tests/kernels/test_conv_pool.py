"""A convolution that pools its own result gives what the two kernels give."""

import numpy as np
import pytest

from glulam.compiler.driver import compile_graph, lower
from glulam.compiler.graph.evaluate import evaluate
from glulam.compiler.graph.graph import Graph
from glulam.compiler.graph.types import DType, TensorType, f32
from glulam.compiler.loops.program import interpret_program
from glulam.compiler.ops import AveragePool, Conv, LeakyRelu, MaxPool, Reduce
from glulam.compiler.options import Options
from glulam.compiler.targets import runnable_targets

TARGETS = [t.name for t in runnable_targets()]
ONES = (1, 1)
POOLS = {
    "max 2x2": MaxPool((2, 2), (2, 2), ((0, 0), (0, 0)), ONES),
    "max 3x3 stride 2": MaxPool((3, 3), (2, 2), ((1, 1), (1, 1)), ONES),
    "max 2x2 ceil": MaxPool((2, 2), (2, 2), ((0, 0), (0, 0)), ONES, ceil_mode=True),
    "max dilated": MaxPool((2, 2), (1, 2), ((1, 0), (0, 1)), (2, 1)),
    "average without pads": AveragePool((3, 2), (2, 1), ((1, 0), (0, 1)), ONES, count_include_pad=False),
    "average with pads": AveragePool((3, 2), (2, 1), ((1, 0), (0, 1)), ONES, count_include_pad=True),
    "stride beyond kernel": MaxPool((1, 2), (3, 3), ((0, 0), (0, 0)), ONES),
    "global mean": Reduce("mean", (2, 3)),
    "global max": Reduce("max", (2, 3)),
}


def network(pool, shape=(2, 5, 13, 11), out_channels=20, kernel=3, stride=1, dilation=1):
    rng = np.random.default_rng(3)
    graph = Graph()
    x = graph.input("x", f32(*shape))
    w = graph.constant(rng.standard_normal((out_channels, shape[1], kernel, kernel)).astype(np.float32) * 0.3)
    b = graph.constant(rng.standard_normal(out_channels).astype(np.float32))
    pads = ((kernel // 2 * dilation,) * 2,) * 2
    conv = Conv((stride, stride), pads, (dilation, dilation))
    y = graph.apply(LeakyRelu(0.1), graph.apply(conv, x, w, b))
    graph.output("y", graph.apply(pool, y))
    return graph, {"x": rng.standard_normal(shape).astype(np.float32)}


def is_fused(program):
    return any("conv + leaky_relu + " in step.label for step in program.steps)


@pytest.mark.parametrize("name", POOLS)
def test_native_equals_reference(name):
    graph, feeds = network(POOLS[name])
    expected = evaluate(graph, feeds)["y"]
    for target in TARGETS:
        options = Options(target=target, numerics="strict")
        assert is_fused(lower(graph, options))
        got = compile_graph(graph, options).run(feeds)["y"]
        np.testing.assert_allclose(got, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", ["max 3x3 stride 2", "average without pads", "global mean"])
def test_interpreter_equals_reference(name):
    graph, feeds = network(POOLS[name], shape=(1, 3, 6, 5), out_channels=3)
    got = interpret_program(lower(graph, Options(numerics="strict")), feeds)["y"]
    np.testing.assert_allclose(got, evaluate(graph, feeds)["y"], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(("kernel", "stride", "extents"), [(7, 2, (40, 37)), (3, 1, (9, 30)), (5, 3, (1, 50))])
def test_a_plain_image_is_read_as_it_is(kernel, stride, extents):
    graph, feeds = network(POOLS["max 3x3 stride 2"], (1, 3, *extents), 33, kernel, stride)
    expected = evaluate(graph, feeds)["y"]
    for target in TARGETS:
        options = Options(target=target, numerics="strict")
        program = lower(graph, options)
        assert is_fused(program)
        assert [step.label for step in program.steps] == ["conv + leaky_relu + max_pool", "max_pool_plain"]
        np.testing.assert_allclose(compile_graph(graph, options).run(feeds)["y"], expected, rtol=1e-5, atol=1e-5)
    if extents[0] < 10:
        np.testing.assert_allclose(interpret_program(program, feeds)["y"], expected, rtol=1e-5, atol=1e-5)


def test_many_chunks_overlap():
    graph, feeds = network(POOLS["max 3x3 stride 2"], shape=(1, 3, 100, 8), out_channels=16, stride=1)
    program = lower(graph, Options(numerics="strict"))
    assert is_fused(program)
    assert max(len(kernel.sections) for kernel in program.kernels) > 1
    got = compile_graph(graph, Options(numerics="strict", threads=2)).run(feeds)["y"]
    np.testing.assert_allclose(got, evaluate(graph, feeds)["y"], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("shape", [(1, 5, 13, 11), (1, 33, 7, 9)], ids=str)
def test_taps_so_far_apart_that_no_padding_is_needed(shape):
    graph, feeds = network(POOLS["max 3x3 stride 2"], shape=shape, dilation=8)
    for target in TARGETS:
        options = Options(target=target, numerics="strict")
        assert is_fused(lower(graph, options))
        got = compile_graph(graph, options).run(feeds)["y"]
        np.testing.assert_allclose(got, evaluate(graph, feeds)["y"], rtol=1e-5, atol=1e-5)


def test_declines_when_the_result_is_read_elsewhere():
    graph, _ = network(POOLS["max 2x2"])
    unpooled = next(iter(graph.nodes[-1].inputs))
    graph.output("unpooled", unpooled)
    assert not is_fused(lower(graph, Options(numerics="strict")))


@pytest.mark.parametrize("name", POOLS)
def test_sums_in_float64_are_pooled_by_themselves(name):
    rng = np.random.default_rng(3)
    graph = Graph()
    x, w = graph.input("x", TensorType(DType.F64, (2, 5, 9, 8))), graph.constant(rng.standard_normal((20, 5, 3, 3)))
    graph.output("y", graph.apply(POOLS[name], graph.apply(Conv(ONES, ((1, 1), (1, 1)), ONES), x, w)))
    feeds = {"x": rng.standard_normal((2, 5, 9, 8))}
    got = compile_graph(graph).run(feeds)["y"]
    np.testing.assert_allclose(got, evaluate(graph, feeds)["y"], rtol=1e-12, atol=1e-12)
