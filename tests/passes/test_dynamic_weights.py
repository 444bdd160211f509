"""Convolutions with computed weights are computed by the kernels of others, whatever their groups, strides and taps."""

from __future__ import annotations

import numpy as np
import pytest
from rewrites import graph_of, random, rewrite

from glulam.compiler.driver import compile_graph, lower
from glulam.compiler.graph.evaluate import evaluate
from glulam.compiler.loops.program import interpret_program
from glulam.compiler.options import Options
from glulam.compiler.passes.dynamic_weights import DynamicWeights
from glulam.compiler.targets import runnable_targets

TARGETS = [t.name for t in runnable_targets()]


def dynamic(x, w, *, stride=1, pad=0, dilation=1, groups=1, weights="input", bias=None, op="conv", tail=""):
    """A convolution as text; weights and bias are constants or inputs, which is what passes take for computed."""
    rank, outs = x.count(",") - 1, w.split(",")[0] if op == "conv" else str(int(w.split(",")[1]) * groups)
    more = f", output_padding={(0,) * rank}" if op == "conv_transpose" else ""
    given = f"{bias} %b: f32[{outs}]" + " = random" * (bias == "const") if bias else ""
    return f"""input %x: f32[{x}]
{weights} %w: f32[{w}]{" = random" * (weights == "const")}
{given}
%y = {op}(%x, %w{", %b" * bool(bias)}) {{strides={(stride,) * rank}, pads={((pad, pad),) * rank}, \
dilations={(dilation,) * rank}{more}, groups={groups}}}
{tail}%z = relu(%y)
output z = %z"""


@pytest.mark.parametrize(
    ("text", "ops"),
    [
        (dynamic("1,17,7,13", "3,17,3,3", bias="const"), "reshape dynamic_conv relu"),
        (dynamic("2,17,7", "17,1,3", groups=17), "reshape dynamic_conv relu"),
        (dynamic("1,6,7,13", "4,3,3,3", groups=2), "reshape reshape dynamic_conv reshape relu"),
        (dynamic("2,6,7", "4,3,3", groups=2), "reshape reshape reshape expand reshape dynamic_conv reshape relu"),
        (dynamic("1,6,9", "4,3,3", groups=2, bias="const"), "reshape reshape dynamic_conv reshape add relu"),
        (dynamic("1,4,9", "8,1,3", groups=4, bias="const"), "reshape expand reshape reshape dynamic_conv relu"),
        (dynamic("1,4,9", "8,4,3", bias="input"), "reshape dynamic_conv reshape add relu"),
        (dynamic("1,4,9", "8,4,3", weights="const", bias="input"), "conv reshape add relu"),
    ],
)
def test_fires(text, ops):
    result = rewrite(text, DynamicWeights())
    assert sorted(result.ops.split()) == sorted(ops.split())
    assert result.error < 1e-5


@pytest.mark.parametrize("tail", ["output y = %y\n", "%s = sigmoid(%y)\noutput s = %s\n"])
def test_fires_on_a_graph_output_and_a_second_use(tail):
    result = rewrite(dynamic("1,17,7,13", "3,17,3,3", tail=tail), DynamicWeights())
    assert "dynamic_conv" in result.ops.split()
    assert result.error < 1e-5


@pytest.mark.parametrize(
    ("text", "why"),
    [
        (dynamic("1,4,9", "8,4,3").replace("f32", "f64"), "takes float32, not f64"),
        (dynamic("0,4,9", "8,4,3"), "nothing to compute"),
    ],
)
def test_declines(text, why):
    result = rewrite(text, DynamicWeights())
    assert "dynamic_conv" not in result.ops
    assert why in result.declined


def test_does_not_concern_constants():
    assert rewrite(dynamic("1,4,9", "8,4,3", weights="const", bias="const"), DynamicWeights()).ops == "conv relu"


@pytest.mark.parametrize("name", TARGETS)
@pytest.mark.parametrize(
    "text",
    [
        dynamic("1,17,7,13", "35,17,3,3", pad=1, bias="const"),
        dynamic("2,3,13,7", "16,3,2,5", stride=2, pad=3, bias="input"),
        dynamic("1,33,29", "1,33,7", dilation=3),
        dynamic("1,16,3,7,7", "17,16,1,3,1", pad=1),
        dynamic("3,40,9,7", "40,1,5,5", groups=40, pad=2, bias="input"),
        dynamic("2,34,7,7", "6,17,3,3", groups=2, bias="const"),
        dynamic("1,5,13,1", "10,1,3,1", groups=5, stride=2),
        dynamic("1,17,7,13", "3,17,1,1", weights="const", bias="input"),
        dynamic("1,17,7", "3,17,3", pad=1).replace("input %x: f32[1,17,7]", "const %x: f32[1,17,7] = random"),
        dynamic("1,6,4,4", "6,2,3,3", op="conv_transpose", groups=2, stride=2, pad=1).replace(
            "input %x: f32[1,6,4,4]", "const %x: f32[1,6,4,4] = random"
        ),
        dynamic("1,17,5,7", "17,16,3,3", op="conv_transpose", stride=2, pad=1, bias="const"),
        dynamic("2,6,5", "6,3,4", op="conv_transpose", stride=2, groups=2, bias="input"),
        dynamic("1,3,7,7", "3,5,3,3", op="conv_transpose", pad=1),
    ],
)
def test_reference_interpreter_and_native_agree_for_any_threads(name, text):
    graph = graph_of(text)
    feeds = {key: random(value.type, key) for key, value in graph.inputs.items()}
    (expected,) = evaluate(graph, feeds).values()
    found = [interpret_program(lower(graph, Options(target=name)), feeds)["z"]]
    for threads in (1, 2, 4):
        with compile_graph(graph, Options(target=name, threads=threads)) as model:
            found.append(model.run(feeds)["z"].copy())
    for got in found:
        np.testing.assert_allclose(got, expected, rtol=0, atol=1e-5 * np.abs(expected).max())
    for got in found[2:]:
        np.testing.assert_array_equal(got, found[1])


@pytest.mark.parametrize(
    ("text", "generic"),
    [
        (dynamic("1,17,5,7", "17,16,3,3", op="conv_transpose", stride=2, pad=1), False),
        (dynamic("1,17,5,7", "17,16,3,3", op="conv_transpose", stride=2, pad=1, dilation=2), True),
        (dynamic("1,17,7,13", "35,17,3,3"), False),
    ],
)
def test_no_kernel_looks_each_weight_up(text, generic):
    assert ("generic" in [step.template for step in lower(graph_of(text)).steps]) == generic
