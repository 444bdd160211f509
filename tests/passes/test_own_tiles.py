"""Staged convolutions in one kernel: for two threads only, and with the same bits."""

from __future__ import annotations

import numpy as np
import pytest
from executors import native
from machines import MESH, ZEN4

from glulam.compiler.driver import compile_graph
from glulam.compiler.graph.evaluate import evaluate
from glulam.compiler.graph.graph import Graph
from glulam.compiler.graph.types import f32
from glulam.compiler.ops import Relu
from glulam.compiler.ops.batch_map import BatchMap
from glulam.compiler.ops.winograd import WinogradConv
from glulam.compiler.options import Options
from glulam.compiler.passes import own_tiles
from glulam.compiler.passes.own_tiles import OwnTiles
from glulam.compiler.targets import target

V3 = target("x86-64-v3")


def staged(
    channels, outputs=(4, 4), taps=(3, 3), strides=(1, 1), dilations=(1, 1), extents=(14, 13), batch=1,
    *, bits=32,
):  # fmt: skip
    rng = np.random.default_rng(sum(channels))
    pads = tuple((k // 2 * d, k // 2 * d) for k, d in zip(taps, dilations, strict=True))
    op = WinogradConv(strides, pads, dilations, 1, outputs, taps, staged=True, bits=bits)
    graph = Graph("staged")
    x = graph.input("x", f32(batch, channels[0], *extents))
    w = rng.uniform(-1, 1, (channels[1], channels[0], *taps)).astype(np.float32)
    b = rng.uniform(-1, 1, channels[1]).astype(np.float32)
    graph.output("y", graph.apply(Relu(), graph.apply(op, x, graph.constant(w), graph.constant(b))))
    return graph


def of_body(graph, *, parallel):
    outer = Graph("outer")
    x = outer.input("x", f32(2, *graph.inputs["x"].shape[1:]))
    outer.output("y", outer.apply(BatchMap(graph, parallel), x))
    return outer


def left(graph):
    """Which convolutions are staged."""
    inner = [node.op.body for node in graph.nodes if isinstance(node.op, BatchMap)]
    nodes = [node for each in (graph, *inner) for node in each.nodes]
    return [node.op.staged for node in nodes if isinstance(node.op, WinogradConv)]


@pytest.mark.parametrize(("threads", "kept"), [(1, True), (2, False), (4, True)])
def test_for_two_threads(threads, kept):
    graph = staged((64, 64), extents=(56, 56))
    OwnTiles(V3, threads).run(graph)
    assert left(graph) == [kept]


def test_the_artifact_tells_what_became_of_the_stages():
    with compile_graph(staged((64, 64), extents=(56, 56)), Options(threads=2)) as model:
        (told,) = [step.algorithm for step in model.manifest.steps if "winograd" in step.kernel]
    assert told.startswith("winograd 4x4:")
    assert "in one kernel" in told


def test_not_where_stages_are_much_faster():
    graph = staged((512, 512), outputs=(6, 6), extents=(28, 28))
    report = OwnTiles(V3, 2).run(graph)
    assert left(graph) == [True]
    assert "in one kernel" in report.decisions[0].reason
    assert not report.changed


def test_not_where_many_filters_have_to_come():
    for machine, channels, kept in ((ZEN4, 384, True), (ZEN4, 128, False), (MESH, 384, True), (MESH, 128, False)):
        graph = staged((channels, channels), extents=(14, 14))
        report = OwnTiles(machine, 2).run(graph)
        assert left(graph) == [kept]
        assert ("come sooner in stages" in report.decisions[0].reason) == kept


def test_not_for_dilated_ones():
    graph = staged((64, 64), dilations=(2, 2))
    assert not OwnTiles(V3, 2).run(graph).decisions


@pytest.mark.parametrize(("parallel", "kept"), [(True, True), (False, False)])
def test_samples_that_threads_compute_by_themselves_keep_their_stages(parallel, kept):
    graph = of_body(staged((64, 64), extents=(56, 56)), parallel=parallel)
    OwnTiles(V3, 2).run(graph)
    assert left(graph) == [kept]


@pytest.mark.parametrize("channels", [(1, 3), (17, 33), (64, 48), (40, 17)])
@pytest.mark.parametrize(
    "kind",
    [
        {}, {"outputs": (6, 6)}, {"outputs": (2, 2), "extents": (7, 7)}, {"outputs": (3, 3), "taps": (5, 5)},
        {"outputs": (1, 6), "taps": (1, 3)}, {"strides": (2, 2), "extents": (27, 13)}, {"batch": 3},
        {"bits": 24}, {"outputs": (2, 2), "extents": (7, 13), "bits": 20},
    ],
    ids=str,
)  # fmt: skip
def test_the_bits_are_those_of_the_stages(channels, kind, monkeypatch):
    monkeypatch.setattr(own_tiles, "_WORTH_IT", np.inf)
    graph = staged(channels, **kind)
    x = graph.inputs["x"]
    feeds = {"x": np.random.default_rng(1).uniform(-1, 1, x.shape).astype(np.float32)}
    single = native(graph, feeds, Options(threads=2))["y"]
    stages = native(graph, feeds, Options(threads=2, disable=("own_tiles",)))["y"]
    np.testing.assert_array_equal(single, stages)
    np.testing.assert_array_equal(single, native(graph, feeds, Options())["y"])
    np.testing.assert_allclose(single, evaluate(graph, feeds)["y"], rtol=0, atol=1e-3)
