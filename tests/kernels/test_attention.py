"""Attention in one kernel gives what three kernels give, to the bit."""

from __future__ import annotations

import numpy as np
import pytest
from executors import TARGETS, agree, every_way, graph_of_cases, native, reference

from glulam.compiler.driver import compile_graph
from glulam.compiler.graph.graph import Graph
from glulam.compiler.graph.types import f32
from glulam.compiler.kernels import attention
from glulam.compiler.ops import Add, MatMul, Mul, Softmax
from glulam.compiler.ops.attention import Attention
from glulam.compiler.options import Options
from glulam.frontends import layers as nn

APART = Options(disable=("fuse_attention",))


@pytest.mark.parametrize("share", [4, 1 << 11], ids=["whole matrices", "bands of a few rows"])
@pytest.mark.parametrize("target", TARGETS)
def test_cases(target, share, monkeypatch):
    monkeypatch.setattr(attention, "_SHARE", share)
    graph, feeds = graph_of_cases(Attention.cases())
    every_way(graph, feeds, target, 1e-4)


def scores_and_values(batch, rows, depth, columns, width, seed=0, spread=1.0):
    graph = Graph("attention")
    shapes = {"q": (*batch, rows, depth), "k": (*batch, depth, columns), "v": (*batch, columns, width)}
    shapes["mask"] = (rows, columns)
    q, k, v, mask = (graph.input(name, f32(*shape)) for name, shape in shapes.items())
    rng = np.random.default_rng(seed)
    feeds = {name: (spread * rng.standard_normal(shape)).astype(np.float32) for name, shape in shapes.items()}
    scaled = graph.apply(Mul(), graph.apply(MatMul(), q, k), graph.constant(np.float32(depth**-0.5)))
    weights = graph.apply(Softmax(len(batch) + 1), graph.apply(Add(), scaled, mask))
    graph.output("y", graph.apply(MatMul(), weights, v))
    return graph, feeds


@pytest.mark.parametrize(
    ("batch", "sizes"),
    [((), (700, 17, 1000, 13)), ((2, 3), (101, 64, 97, 64)), ((3,), (9, 7, 3000, 2)), ((1, 1), (13, 1, 1024, 48))],
    ids=str,
)
@pytest.mark.parametrize("target", TARGETS)
def test_the_bits_of_three_kernels(target, batch, sizes):
    graph, feeds = scores_and_values(batch, *sizes)
    apart = native(graph, feeds, Options(target=target, disable=("fuse_attention",)))
    agree(apart, reference(graph, feeds), 1e-4, "three kernels")
    for threads in (1, 2, 3):
        got = native(graph, feeds, Options(target=target, threads=threads))
        np.testing.assert_array_equal(got["y"], apart["y"])


def test_rows_without_any_number_and_with_infinities():
    graph, feeds = scores_and_values((2,), 20, 5, 33, 17)
    feeds["mask"][3] = -np.inf
    feeds["mask"][7, 5] = np.inf
    feeds["mask"][11, 2] = np.nan
    feeds["mask"][13, :30] = -np.inf
    expected = reference(graph, feeds)
    assert np.isnan(expected["y"][:, [3, 7, 11]]).all()
    agree(native(graph, feeds), expected, 1e-4, "native")
    np.testing.assert_array_equal(native(graph, feeds)["y"], native(graph, feeds, APART)["y"])


def test_large_scores():
    graph, feeds = scores_and_values((4,), 50, 16, 60, 8, spread=5.0)
    agree(native(graph, feeds), reference(graph, feeds), 1e-4, "native")


def test_scores_take_no_memory():
    tokens, heads = 1024, 4
    net = nn.Sequential([nn.Input((tokens, 32)), nn.MultiheadAttention(32, heads, batch_first=True, is_causal=True)])
    with compile_graph(net.graph()) as model, compile_graph(net.graph(), APART) as apart:
        assert apart.manifest.arena_bytes > heads * tokens**2 * 4 > 5 * model.manifest.arena_bytes
        x = np.random.default_rng(0).standard_normal((1, tokens, 32)).astype(np.float32)
        np.testing.assert_array_equal(model(x), apart(x))
