"""Channel factors go into the weights of a 1x1 convolution where these are fewer than pixels; else it is declined."""

from __future__ import annotations

import numpy as np
import pytest
from pass_texts import CONV1
from rewrites import graph_of, random, rewrite

from glulam.benchmarks.cases import open_case
from glulam.compiler.driver import compile_graph, explain, lower, optimise
from glulam.compiler.graph.evaluate import evaluate
from glulam.compiler.loops.program import interpret_program
from glulam.compiler.ops.batch_map import nested_graphs
from glulam.compiler.options import Options
from glulam.compiler.passes.modulate_weights import ModulateWeights
from glulam.compiler.targets import runnable_targets

TARGETS = [t.name for t in runnable_targets()]


def block(batch=1, channels=17, outs=3, size="7,13", conv=CONV1, weight=None, mul="%x, %s", tail="output y = %y"):
    weight = weight or f"{outs},{channels},1,1"
    return f"""input %i: f32[{batch},{channels},{size}]
const %w: f32[{weight}] = random
const %b: f32[{weight.split(",")[0]}] = random
%x = silu(%i)
%m = reduce(%x) {{kind='mean', axes=(2, 3), keepdims=True}}
%s = sigmoid(%m)
%p = mul({mul})
%y = conv(%p, %w, %b) {conv}
{tail}"""


def fires(text):
    return rewrite(text, ModulateWeights()).ops


@pytest.mark.parametrize("mul", ["%x, %s", "%s, %x"])
@pytest.mark.parametrize("batch", [1, 3])
def test_scales_the_weights(mul, batch):
    assert fires(block(batch, mul=mul)) == "silu reduce sigmoid modulate dynamic_conv"


@pytest.mark.parametrize(
    ("text", "why"),
    [
        (block(tail="%z = relu(%p)\noutput y = %y\noutput z = %z"), "other use"),
        (block(outs=12), "12 output channels for 91 pixels"),
        (block(conv=CONV1.replace("strides=(1, 1)", "strides=(2, 1)")), "no 1x1"),
        (block(conv=CONV1.replace("(0, 0)", "(1, 1)")), "no 1x1"),
        (block(weight="3,17,3,3"), "no 1x1"),
        (block(weight="17,1,1,1", conv=CONV1.replace("groups=1", "groups=17")), "no 1x1"),
        (block().replace("const %w: f32[3,17,1,1] = random", "input %w: f32[3,17,1,1]"), "not constant"),
        (block().replace("reduce(%x)", "reduce(%i)"), "computes the tensor"),
    ],
)
def test_declines(text, why):
    result = rewrite(text, ModulateWeights())
    assert "modulate" not in result.ops
    assert why in result.declined


@pytest.mark.parametrize(
    "text",
    [
        block(tail="output y = %y\noutput p = %p"),
        block().replace("mul(%x, %s)", "mul(%x, %x)"),
        block(tail="output y = %y").replace("conv(%p, %w, %b) " + CONV1, "relu(%p)"),
        block(size="1,1"),
    ],
)
def test_does_not_concern_other_products(text):
    assert "modulate" not in fires(text)


@pytest.mark.parametrize("name", TARGETS)
@pytest.mark.parametrize("shape", [(1, 1, 1), (1, 17, 3), (2, 33, 10)], ids=str)
def test_reference_interpreter_and_native_agree_for_any_threads(name, shape):
    batch, channels, outs = shape
    graph = graph_of(block(batch, channels, outs, tail="%z = relu(%y)\noutput z = %z"))
    feeds = {key: random(value.type, key) for key, value in graph.inputs.items()}
    (expected,) = evaluate(graph, feeds).values()
    found = []
    for threads in (1, 2, 4):
        options = Options(target=name, threads=threads, disable=("choose_algorithm",))
        bodies = nested_graphs(optimise(graph, options)[0])
        assert "modulate" in [node.op.name for body in bodies for node in body.nodes]
        with compile_graph(graph, options) as model:
            found.append(model.run(feeds)["z"].copy())
    found.append(interpret_program(lower(graph, Options(target=name)), feeds)["z"])
    for got in found:
        np.testing.assert_allclose(got, expected, rtol=0, atol=1e-5 * np.abs(expected).max())
    np.testing.assert_array_equal(found[0], found[1])
    np.testing.assert_array_equal(found[0], found[2])


def test_strict_numerics_multiply_the_tensor():
    graph = graph_of(block())
    assert not any(node.op.name == "modulate" for node in optimise(graph, Options(numerics="strict"))[0].nodes)


@pytest.mark.usefixtures("choices_of_zen4")
def test_fires_in_the_early_layers_of_efficientnet_only():
    (report,) = (r for r in explain(open_case("efficientnet_b0").graph) if r.name == ModulateWeights.name)
    taken = [d.node for d in report.decisions if d.taken]
    assert taken == [
        f"features.{layer}.mul" for layer in ("1.0.block.1", "2.0.block.2", "2.1.block.2", "3.0.block.2", "3.1.block.2")
    ]
    assert any("output channels for 196 pixels" in d.reason for d in report.decisions if not d.taken)
    assert any("strassen_conv" in d.reason for d in report.decisions if not d.taken)
