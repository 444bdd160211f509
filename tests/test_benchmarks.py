"""The measuring itself: ratios by round, differences, and engines that fail in their own process."""

from __future__ import annotations

import numpy as np
import pytest

import glulam as gl
from glulam.benchmarks.fusion import build_variants, group_times, variants
from glulam.benchmarks.measure import Rounds, difference, take_turns
from glulam.benchmarks.peers import EngineError, EngineProcess
from glulam.benchmarks.report import markdown


class Metronome:
    """Takes the same time for each run, and writes down its turns."""

    def __init__(self, label, seconds, diary):
        self.label, self.seconds, self.diary = label, seconds, diary

    def run(self, times, warm=1):
        self.diary.append(self.label)
        return [self.seconds] * times


def test_turns_rotate_and_each_round_has_one_of_each():
    diary: list[str] = []
    runners = {label: Metronome(label, 0.1, diary) for label in "abc"}
    rounds = take_turns(runners, rounds=3, turn_seconds=0.1)
    assert "".join(diary[3:]) == "abcbcacab"
    assert all(len(medians) == 3 for medians in rounds.medians.values())


def test_a_ratio_is_taken_round_by_round():
    """Both engines slow down together in the last rounds: the ratio does not move."""
    rounds = Rounds({"a": [1.0, 1.0, 4.0], "b": [2.0, 2.0, 8.0]})
    ratio = rounds.ratio("a", "b")
    assert (ratio.low, ratio.median, ratio.high) == (0.5, 0.5, 0.5)
    assert rounds.ratio_to_fastest("b", ["a"]).median == 2.0


def test_difference_is_relative_to_the_rms_of_each_output():
    expected = {"y": np.array([3.0, -4.0]), "z": np.array([100.0, 100.0])}
    ours = {"y": np.array([3.0, -4.0]), "z": np.array([100.0, 101.0])}
    assert difference(ours, expected) == pytest.approx(0.01)
    assert difference({"y": np.array([np.nan])}, {"y": np.array([1.0])}) == np.inf
    assert difference({"y": np.zeros((2, 1))}, {"y": np.zeros((1, 2))}) == np.inf


def test_an_engine_that_refuses_its_model_is_an_error_with_its_last_words(tmp_path):
    broken = tmp_path / "broken.onnx"
    broken.write_bytes(b"no model")
    with pytest.raises(EngineError, match=r"onnxruntime ended with .* on 'load': .*broken\.onnx"):
        EngineProcess("onnxruntime", broken, {"x": np.zeros(1)}, threads=1)


def test_the_report_has_a_row_for_each_case():
    engine = {"seconds": {"median": 0.01}, "load_seconds": 0.1, "peak_rss": 5e7}
    spread = {"median": 0.9, "low": 0.8, "high": 1.0}
    case = {
        "model": "net",
        "threads": 1,
        "engines": {"glulam": engine, "peer": engine},
        "ratios": {"fastest": spread},
    }
    text = markdown({"cpu": "some CPU", "versions": {"glulam": "1", "peer": "2-abc"}, "cases": [case]})
    assert "| net | 1 | 1 | **0.90** (0.80-1.00) | 10.00 | 10.00 |" in text
    assert "peer 2." in text


def small_net():
    """Layers that fold, fuse and pool, over channels that fill no block."""
    return gl.Sequential(
        [
            gl.layers.Input((3, 20, 20)),
            gl.layers.Conv2d(24, 3, padding=1, bias=False),
            gl.layers.BatchNorm(),
            gl.layers.ReLU(),
            gl.layers.Conv2d(20, 3, padding=1),
            gl.layers.BatchNorm(),
            gl.layers.Sigmoid(),
            gl.layers.Conv2d(20, 3, padding=1),
            gl.layers.ReLU(),
            gl.layers.MaxPool2d(2),
            gl.layers.Flatten(),
            gl.layers.Linear(5),
        ]
    ).graph()


def test_every_build_of_the_comparison_agrees_with_the_reference():
    graph = small_net()
    table, idle = variants(graph, gl.Options())
    assert {"unfused", "only fuse", "only fold_normalisation", "no fold_normalisation", "fused"} <= set(table)
    assert "matmul_to_linear" in idle
    feeds = {"input": np.random.default_rng(0).standard_normal((1, 3, 20, 20), dtype=np.float32)}
    expected = gl.reference(graph, feeds)
    for label, options in table.items():
        assert difference(gl.compile(graph, options).run(feeds), expected) < 1e-5, label


def test_builds_that_come_out_alike_are_one():
    graph = gl.Sequential([gl.layers.Input((3, 8, 8)), gl.layers.Conv2d(16, 3), gl.layers.ReLU()]).graph()
    table, _ = variants(graph, gl.Options())
    assert list(build_variants(graph, table, lambda stage: None)) == ["unfused", "fused"]
    plain = gl.Sequential([gl.layers.Input((4, 8, 8)), gl.layers.ReLU()]).graph()
    table, _ = variants(plain, gl.Options())
    assert list(build_variants(plain, table, lambda stage: None)) == ["unfused", "fused"]


def test_a_folded_layer_counts_for_the_group_of_the_layer_before_it():
    graph = small_net()
    first, second, *_ = [node.name for node in graph.nodes if node.op.name == "conv"]
    steps = [{"label": node.name, "seconds": 1.0} for node in graph.nodes] + [{"label": "copy", "seconds": 0.5}]
    names = [node.name for node in graph.nodes]
    at = names.index(second)
    fused = [
        {"label": f"{first} + {names[2]}", "seconds": 2.0},
        {"label": " + ".join([second, *names[at + 2 :]]), "seconds": 3.0},
        {"label": "input_blocked", "seconds": 0.25},
    ]
    *groups, changes = group_times(graph, {"steps": steps}, {"steps": fused})
    assert [(group.unfused, group.fused) for group in groups] == [(len(names) - 3.0, 3.0), (3.0, 2.0)]
    assert (changes.unfused, changes.fused) == (0.5, 0.25)
