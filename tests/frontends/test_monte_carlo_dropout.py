"""Monte-Carlo dropout: seeded, reproducible, the same bits everywhere; statistics; the number of the run."""

from __future__ import annotations

import numpy as np
import pytest

from glulam.compiler import driver
from glulam.compiler.errors import ShapeError, UnsupportedError
from glulam.compiler.graph.evaluate import evaluate
from glulam.compiler.graph.graph import Graph
from glulam.compiler.ops import RandomDropout
from glulam.compiler.options import Options
from glulam.compiler.targets import runnable_targets
from glulam.frontends import layers as L
from glulam.frontends.onnx import to_onnx

TARGETS = [target.name for target in runnable_targets()]


def mix(x):
    x = x.astype(np.uint32)
    x = (x ^ x >> np.uint32(16)) * np.uint32(0x7FEB352D)
    x = (x ^ x >> np.uint32(15)) * np.uint32(0x846CA68B)
    return x ^ x >> np.uint32(16)


def splitmix64(seed):
    mask = 2**64 - 1
    z = seed + 0x9E3779B97F4A7C15 & mask
    z = (z ^ z >> 30) * 0xBF58476D1CE4E5B9 & mask
    z = (z ^ z >> 27) * 0x94D049BB133111EB & mask
    return z ^ z >> 31


def keeps(count, p, seed, run=0):
    """The definition over again, in unsigned numbers."""
    word = splitmix64(seed)
    k0, k1 = np.uint32(word % 2**32), np.uint32(word >> 32)
    number = np.array([run % 2**32], np.uint32), np.array([run >> 32], np.uint32)
    index = np.arange(count, dtype=np.uint32)
    hashed = mix(mix(index ^ k0) ^ k1 ^ mix(number[0] ^ mix(number[1] ^ k1)))
    return hashed >> np.uint32(8) >= round(p * 2**24)


@pytest.mark.parametrize(("p", "seed", "run"), [(0.5, 0, 0), (0.2, 123456789, 1), (0.9, 2**63 + 5, 2**40 + 7)])
def test_generator_is_the_documented_one(p, seed, run):
    x = np.ones((5, 7, 11), np.float32)
    (y,) = RandomDropout(p, seed).reference(x, np.array(run, np.int64))
    np.testing.assert_array_equal(y.ravel() != 0, keeps(x.size, p, seed, run))
    np.testing.assert_allclose(y[y != 0], 1 / (1 - p), rtol=1e-6)


@pytest.mark.parametrize("p", [0.1, 0.5, 0.75])
def test_frequencies_and_independence(p):
    kept = np.stack([keeps(1 << 16, p, seed) for seed in range(4)] + [keeps(1 << 16, p, 0, run) for run in range(1, 5)])
    spread = (p * (1 - p) / kept.shape[1]) ** 0.5
    assert np.abs(kept.mean(1) - (1 - p)).max() < 5 * spread
    together = np.corrcoef(kept) - np.eye(len(kept))
    assert np.abs(together).max() < 5 / kept.shape[1] ** 0.5
    for lag in (1, 2, 16, 64, 1000):
        neighbours = [np.corrcoef(row[:-lag], row[lag:])[0, 1] for row in kept]
        assert np.abs(neighbours).max() < 5 / kept.shape[1] ** 0.5


def network(run=None):
    x = L.Input((3, 9, 10), name="x", batch=2, seed=4)
    y = L.ReLU()(L.Conv2d(20, 3, padding=1)(x))
    y = L.Dropout(0.4, monte_carlo=True)(y) if run is None else L.Dropout(0.4, monte_carlo=True)(y, run)
    y = L.ReLU()(L.Conv2d(5, 3)(y) * 0.5)
    y = L.AlphaDropout(0.1, monte_carlo=True)(y)
    return Graph.of([x] if run is None else [x, run], {"y": y, "z": L.Dropout2d(0.5, monte_carlo=True)(y)})


@pytest.mark.parametrize("threads", [1, 2, 3])
@pytest.mark.parametrize("target", TARGETS)
def test_same_elements_whatever_target_threads_and_run(target, threads):
    graph = network()
    feeds = {"x": np.random.default_rng(0).standard_normal((2, 3, 9, 10)).astype(np.float32)}
    expected = evaluate(graph, feeds)
    with driver.compile_graph(graph, Options(target=target, threads=threads)) as model:
        first, second = model.run(feeds), model.run(feeds)
    for name, wanted in expected.items():
        np.testing.assert_array_equal(first[name], second[name])
        np.testing.assert_allclose(first[name], wanted, atol=1e-5)
    np.testing.assert_array_equal(first["z"] == 0, expected["z"] == 0)


def test_number_of_the_run_gives_other_samples():
    run = L.Input((), "run", "int64", batch=None)
    graph = network(run)
    feeds = {"x": np.random.default_rng(0).standard_normal((2, 3, 9, 10)).astype(np.float32)}
    with driver.compile_graph(graph) as model:
        samples = [model.run({**feeds, "run": np.array(number, np.int64)})["y"] for number in (0, 1, 1, 2)]
    np.testing.assert_array_equal(samples[1], samples[2])
    assert (samples[0] != samples[1]).any()
    assert (samples[1] != samples[3]).any()
    np.testing.assert_allclose(samples[0], evaluate(network(), feeds)["y"], atol=1e-5)


def test_alpha_dropout_keeps_mean_and_variance():
    x = np.random.default_rng(1).standard_normal((1 << 17,)).astype(np.float32)
    (y,) = RandomDropout(0.2, 3, alpha=True).reference(x)
    assert abs(y.mean()) < 0.02
    assert abs(y.var() - 1) < 0.02


def test_whole_channels_share_their_fate():
    (y,) = RandomDropout(0.5, 1, whole_channels=True).reference(np.ones((3, 17, 4, 5), np.float32))
    kept = (y != 0).reshape(51, 20)
    assert (kept.all(1) | ~kept.any(1)).all()
    assert 10 < kept[:, 0].sum() < 41


def test_equal_layers_at_two_places_differ_and_equal_seeds_agree():
    x = L.Input((1000,), name="x")
    drop = [L.Dropout(0.5, monte_carlo=True), L.Dropout(0.5, monte_carlo=True)]
    drop += [L.Dropout(0.5, monte_carlo=True, seed=9) for _ in range(2)]
    graph = Graph.of([x], {f"y{i}": layer(x) for i, layer in enumerate(drop)})
    y = evaluate(graph, {"x": np.ones((1, 1000), np.float32)})
    assert (y["y0"] != y["y1"]).any()
    np.testing.assert_array_equal(y["y2"], y["y3"])


def test_number_of_a_run_needs_live_dropout():
    x = L.Input((8,), name="x")
    with pytest.raises(ShapeError, match="only with monte_carlo=True"):
        L.Dropout(0.5)(x, L.Input((), "run", "int64", batch=None))


def test_export_is_training_mode_or_refused():
    x = L.Input((8,), name="x")
    proto = to_onnx(Graph.of([x], {"y": L.Dropout(0.5, monte_carlo=True)(x)}))
    assert [node.op_type for node in proto.graph.node] == ["Dropout"]
    with pytest.raises(UnsupportedError, match="keeps mean and variance"):
        to_onnx(Graph.of([x], {"y": L.AlphaDropout(0.5, monte_carlo=True)(x)}))
