"""Tuning: measured candidates win, measurements are kept, and without it nothing depends on them."""

import json
import math
from functools import partial

import numpy as np
import pytest

import glulam as gl
from glulam.compiler import driver, tuning
from glulam.compiler.cache import NO_CACHE, VARIABLE
from glulam.compiler.ops import Conv
from glulam.compiler.options import Options
from glulam.compiler.passes import algorithms
from glulam.compiler.passes.algorithms import candidates, signature
from glulam.compiler.passes.candidates import Algorithm, Candidate
from glulam.compiler.passes.choose_algorithm import ChooseAlgorithm
from glulam.compiler.passes.manager import run_passes
from glulam.compiler.passes.sides import BLOCKED, Sides
from glulam.compiler.targets import target

HERE = target()


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setenv(VARIABLE, str(tmp_path))
    return tmp_path


@pytest.fixture
def clock(monkeypatch):
    """Measurements that are made up: `clock.seconds(candidate)`; `clock.asked` are the layers measured."""

    class Clock:
        @staticmethod
        def seconds(candidate):
            return candidate.cycles * 1e-9

    def measure(node, shortlist, *rest):
        Clock.asked.append(node.name)
        return {candidate.name: Clock.seconds(candidate) for candidate in shortlist}

    Clock.asked = []
    monkeypatch.setattr(tuning, "_measure", measure)
    return Clock


def network():
    layers = gl.layers
    return gl.Sequential(
        [
            layers.Input((32, 16, 16)),
            layers.Conv2d(32, 3, padding=1, bias=False),
            layers.BatchNorm(),
            layers.ReLU(),
            layers.Conv2d(32, 3, padding=1),
            layers.Conv2d(48, 1),
        ]
    ).graph()


def worst_first(candidate):
    return 1.0 / candidate.cycles


def test_the_fastest_candidate_is_taken(folder, clock):
    clock.seconds = staticmethod(worst_first)
    artifact = driver.build_artifact(network(), gl.Options(tune=True))
    layers = driver.tuned(network(), gl.Options(tune=True))
    assert len(clock.asked) == len(layers) == 2, "the first two are alike, once norms are folded"
    for layer in layers:
        assert layer.chosen != layer.estimated
        assert layer.loss > 0
        told = [step.algorithm for step in artifact.manifest.steps if step.label.split(" + ")[0] in layer.nodes]
        assert len(told) == len(layer.nodes)
        assert all(text.startswith(f"{layer.chosen.name}: measured ") for text in told)


@pytest.mark.parametrize("channels", [(8, 8, 5), (3, 4, 4, 4, 3), (12, 12, 3), (16, 8, 8, 3)], ids=str)
def test_what_a_choice_puts_beside_a_layer_is_measured_too(folder, clock, channels):
    """Narrow convolutions leave plain tensors, so the next one stands between others than before."""
    convs = [layer for outs in channels for layer in (gl.layers.Conv2d(outs, 3, padding=1), gl.layers.ReLU())]
    graph = gl.Sequential([gl.layers.Input((channels[0], 64, 64)), *convs]).graph()
    for seconds in (worst_first, clock.seconds):
        clock.seconds = staticmethod(seconds)
        measured = {each.signature: each.seconds for each in tuning.tune(graph, HERE, 1, NO_CACHE, None)}
        choice = ChooseAlgorithm(HERE, measured)
        run_passes(graph.copy(), [choice])
        assert set(choice.met) == set(measured)


def test_the_result_is_the_same_and_threads_agree(folder, clock):
    clock.seconds = staticmethod(worst_first)
    x = np.random.default_rng(0).normal(size=(1, 32, 16, 16)).astype(np.float32)
    tuned = gl.compile(network(), tune=True)(x)
    np.testing.assert_allclose(tuned, gl.compile(network())(x), atol=1e-3)
    np.testing.assert_array_equal(tuned, gl.compile(network(), tune=True, threads=2)(x))


def test_untuned_compilation_reads_no_measurements(folder, clock):
    plain = driver.build_artifact(network(), gl.Options())
    clock.seconds = staticmethod(worst_first)
    tuned = driver.build_artifact(network(), gl.Options(tune=True))
    again = driver.build_artifact(network(), gl.Options())
    assert again.object_code == plain.object_code != tuned.object_code
    assert again.manifest == plain.manifest
    assert all("measured" not in step.algorithm for step in again.manifest.steps)
    assert any("k cycles" in step.algorithm for step in again.manifest.steps)


def test_a_measurement_is_made_once(folder, clock):
    driver.tuned(network(), gl.Options(tune=True))
    driver.tuned(network(), gl.Options(tune=True))
    assert len(clock.asked) == 2
    driver.tuned(network(), gl.Options(tune=True, threads=2))
    assert len(clock.asked) == 4
    driver.tuned(network(), gl.Options(tune=True, cache=False))
    assert len(clock.asked) == 6


@pytest.mark.parametrize(
    "contents", [b"", b"[]", b"{}", b'{"seconds": 3}', b'{"seconds": {"direct 1x1": 1}}', b"\xff", b"null", b"{"]
)
def test_a_strange_record_is_measured_again(folder, clock, contents):
    driver.tuned(network(), gl.Options(tune=True))
    for path in folder.glob("tune-*.entry"):
        tuning.Cache(folder).put(path.name.removesuffix(".entry"), contents)
    clock.asked.clear()
    assert all(layer.seconds for layer in driver.tuned(network(), gl.Options(tune=True)))
    assert len(clock.asked) == 2


@pytest.mark.parametrize("bad", [math.nan, math.inf, -1.0, 0.0, "x", None])
def test_times_that_are_none_are_measured_again(bad):
    assert tuning._read(json.dumps({"seconds": {"a": 1.0, "b": bad}}).encode(), ["a", "b"]) is None


def test_strict_numerics_choose_among_the_definitions_sums(folder, clock):
    for layer in driver.tuned(network(), gl.Options(tune=True, numerics="strict")):
        assert not any(word in name for name in layer.seconds for word in ("winograd", "strassen"))
    report = next(r for r in driver.explain(network(), gl.Options(numerics="strict")) if r.name == ChooseAlgorithm.name)
    assert any("no winograd: numerics are strict" in decision.reason for decision in report.decisions)


def test_the_general_algorithm_comes_first_and_wins_ties():
    machine = target("x86-64-v4")
    for node in network().nodes:
        found, _ = candidates(machine, node)
        if found:
            assert found[0].op == node.op
            assert found[0].cycles <= min(c.cycles for c in found if type(c.op).__name__.startswith("Tiled"))


def test_a_new_algorithm_joins_by_an_entry(monkeypatch):
    def perfect(machine, node):
        return [Candidate("perfect", 1.0, node.op)]

    entry = Algorithm("perfect", Conv, lambda machine, node: None, perfect)
    monkeypatch.setattr(algorithms, "ALGORITHMS", (*algorithms.ALGORITHMS, entry))
    report = ChooseAlgorithm(target("x86-64-v4")).run(network())
    assert all(decision.reason.startswith("perfect: 0k cycles") for decision in report.decisions)


def test_conversions_belong_to_a_layer_between_plain_tensors():
    """Of a candidate in channel blocks, measured by itself, both conversions count as far as the network has them."""
    net = gl.layers
    graph = gl.Sequential([net.Input((40, 6, 6)), net.Conv2d(40, 1, groups=8)]).graph()
    (node,) = graph.nodes
    direct = candidates(target("x86-64-v4"), node)[0][0]
    build = partial(driver.build_artifact, options=gl.Options(disable=(ChooseAlgorithm.name,)))
    with tuning._model(node, direct, 1, build) as model:
        labels = [step.label for step in model.manifest.steps]
    assert [tuning._belongs(label, Sides(True, True)) for label in labels] == [True, True, True]
    assert [tuning._belongs(label, Sides(True, False)) for label in labels] == [True, True, False]
    assert [tuning._belongs(label, BLOCKED) for label in labels] == [False, True, False]


def test_real_measurements(folder):
    """On this machine, for real: all candidates of a small layer have times, and signatures tell layers apart."""
    layers = driver.tuned(network(), gl.Options(tune=True))
    assert len({layer.signature for layer in layers}) == len(layers) == 2
    for layer in layers:
        assert {layer.estimated.name, layer.chosen.name} <= set(layer.seconds)
        assert all(0 < seconds < 1 for seconds in layer.seconds.values())
    assert signature(network().nodes[0]) == signature(network().nodes[0])


@pytest.mark.parametrize(("numerics", "name"), [("fast", "conv"), ("strict", "conv_transpose")])
def test_what_is_measured_is_what_the_pipeline_chooses_for(numerics, name, monkeypatch):
    """A transposed convolution becomes another one only if Winograd may serve it then."""
    layers = gl.layers
    net = gl.Sequential([layers.Input((64, 14, 14)), layers.ConvTranspose2d(64, 6, stride=2, padding=2)]).graph()
    given = []
    monkeypatch.setattr(driver, "tune", lambda graph, *rest: given.extend(node.op.name for node in graph.nodes) or [])
    driver.tuned(net, Options(target="x86-64-v4", numerics=numerics))
    assert name in given
    assert ("conv" in given) == (numerics == "fast")
