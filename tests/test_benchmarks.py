"""The measuring itself: ratios by round, differences, and engines that fail in their own process."""

from __future__ import annotations

import numpy as np
import pytest

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
    assert "| net | 1 | **0.90** (0.80-1.00) | 10.00 | 10.00 |" in text
    assert "peer 2." in text
