"""Means over all pixels are taken by the depthwise convolution that computes the tensor, whoever else reads that."""

from __future__ import annotations

import numpy as np
import pytest
from rewrites import graph_of, random, rewrite

from glulam.benchmarks.cases import open_case
from glulam.compiler.driver import compile_graph, explain, lower, optimise
from glulam.compiler.errors import ShapeError
from glulam.compiler.graph.evaluate import evaluate
from glulam.compiler.loops.program import interpret_program
from glulam.compiler.ops.averaged import AveragedRegion
from glulam.compiler.ops.batch_map import nested_graphs
from glulam.compiler.options import Options
from glulam.compiler.passes.average_in_producer import AverageInProducer
from glulam.compiler.passes.fuse import Fuse
from glulam.compiler.targets import runnable_targets, target

TARGETS = [t.name for t in runnable_targets()]
MACHINE = target(TARGETS[0])
SHAPES = [  # batch, channels, size, kernel, stride, pad
    (1, 3, "7,13", 3, 1, 1),
    (1, 17, "13,7", 3, 2, 1),
    (2, 33, "28,5", 5, 1, 2),
    (1, 16, "1,1", 1, 1, 0),
    (3, 20, "6,30", 3, 1, 0),
    (1, 4, "60,3", 3, 1, 2),
    (1, 33, "12,13", 3, 1, 1),
]


def block(
    batch=1, channels=17, size="7,13", kernel=3, stride=1, pad=1, *, act="silu", groups=None, keep=True,
    outputs=("y", "m"), kind="mean",
):  # fmt: skip
    groups = groups or channels
    return f"""input %x: f32[{batch},{channels},{size}]
const %w: f32[{channels},{channels // groups},{kernel},{kernel}] = random
const %b: f32[{channels}] = random
%c = conv(%x, %w, %b) {{strides=({stride}, {stride}), pads=(({pad}, {pad}), ({pad}, {pad})), dilations=(1, 1), groups={groups}}}
%y = {act}(%c)
%m = reduce(%y) {{kind='{kind}', axes=(2, 3), keepdims={keep}}}
""" + "\n".join(f"output {name} = %{name}" for name in outputs)  # noqa: E501


def passed(text):
    return rewrite(text, Fuse(MACHINE), AverageInProducer(MACHINE))


@pytest.mark.parametrize("keep", [True, False])
@pytest.mark.parametrize("outputs", [("m",), ("y", "m")])
def test_the_producer_averages(keep, outputs):
    assert passed(block(keep=keep, outputs=outputs)).ops == "averaged reduce"


def test_other_readers_stay():
    assert "averaged" in passed(block(outputs=("m",)) + "\n%z = softmax(%y) {axis=1}\noutput z = %z").ops


@pytest.mark.parametrize(
    ("text", "why"),
    [
        (block(channels=16, groups=1), "not depthwise"),
        (block(channels=1, groups=1), "not depthwise"),
        (block(channels=32, groups=2), "not depthwise"),
        (block().replace("const %w: f32[17,1,3,3] = random", "input %w: f32[17,1,3,3]"), "not known"),
        (block().replace("reduce(%y)", "reduce(%x)"), "no fused kernel"),
        (block(outputs=("c", "m")), "no fused kernel"),
    ],
)
def test_declines(text, why):
    result = passed(text)
    assert "averaged" not in result.ops
    assert why in result.declined


def test_does_not_concern_other_reductions():
    for text in (block(kind="max"), block().replace("axes=(2, 3)", "axes=(3,)")):
        assert "averaged" not in passed(text).ops


def near(got, expected):
    for name, wanted in expected.items():
        np.testing.assert_allclose(got[name], wanted, rtol=0, atol=2e-6 * np.abs(wanted).max(), err_msg=name)


@pytest.mark.parametrize("act", ["silu", "relu", "sigmoid"])
@pytest.mark.parametrize("name", TARGETS)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_reference_interpreter_and_native_agree_for_any_threads(name, shape, act):
    graph = graph_of(block(*shape, act=act))
    feeds = {key: random(value.type, key) for key, value in graph.inputs.items()}
    expected, found = evaluate(graph, feeds), []
    for threads in (1, 2, 4):
        options = Options(target=name, threads=threads)
        bodies = nested_graphs(optimise(graph, options)[0])
        assert any(isinstance(node.op, AveragedRegion) for body in bodies for node in body.nodes)
        with compile_graph(graph, options) as model:
            found.append({key: array.copy() for key, array in model.run(feeds).items()})
        near(found[-1], expected)
    for key in expected:
        np.testing.assert_array_equal(found[0][key], found[1][key])
        np.testing.assert_array_equal(found[0][key], found[2][key])
    if act == "silu":
        near(interpret_program(lower(graph, Options(target=name)), feeds), expected)


@pytest.mark.parametrize("height", [2, 6, 14, 28, 52, 112])
def test_either_half_of_an_even_number_of_rows_has_chunks_of_its_own(height):
    for channels, width in ((3, 1), (33, 7), (96, 112), (960, 13)):
        (region,) = (node.op for node in passed(block(1, channels, f"{height},{width}")).graph.nodes
                     if isinstance(node.op, AveragedRegion))  # fmt: skip
        assert region.chunks % 2 == 0


def test_chunks_must_divide_the_rows():
    (region,) = (node.op for node in passed(block()).graph.nodes if isinstance(node.op, AveragedRegion))
    types = [value.type for value in region.body.inputs.values()]
    assert [t.shape for t in region.infer(*types)] == [(1, 17, 7, 13), (1, 17, region.chunks, 1)]
    with pytest.raises(ShapeError, match="equal chunks"):
        AveragedRegion(region.body, 2).infer(*types)


def test_without_fusion_every_layer_has_its_kernel():
    ops = [node.op.name for node in optimise(graph_of(block()), Options(fuse=False))[0].nodes]
    assert "averaged" not in ops
    assert "fused" not in ops


def test_fires_in_every_block_of_efficientnet_and_declines_in_regnet():
    decisions = {}
    for name in ("efficientnet_b0", "regnet_y_800mf"):
        (report,) = (r for r in explain(open_case(name).graph) if r.name == AverageInProducer.name)
        decisions[name] = report.decisions
    assert sum(d.taken for d in decisions["efficientnet_b0"]) == 16
    assert not any(d.taken for d in decisions["regnet_y_800mf"])
    assert any("not depthwise" in d.reason for d in decisions["regnet_y_800mf"])
