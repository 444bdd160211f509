"""One thread against two: rounds are kept by where the cores were, and messages between them arrive."""

from __future__ import annotations

import pytest

from glulam.benchmarks import distance, scaling
from glulam.frontends.zoo import NETWORKS
from glulam.runtime import processors

MOVES = [20.0, 20.0, 160.0, 160.0, 20.0, 160.0]


def test_messages_arrive():
    if processors.usable() < 2 or len(processors.allowed()) < 2:
        with pytest.raises(OSError, match="one core"):
            distance.distance()
        return
    before = processors.allowed()
    assert 1 < distance.distance() < 1e6
    assert processors.allowed() == before, "the caller stays where it was"


@pytest.fixture
def moving(monkeypatch):
    """Cores that are near, near; far, far; and on the move."""
    places = iter(MOVES)
    monkeypatch.setattr(scaling, "distance", lambda: next(places))
    shapes = {"input": (1, 3, 32, 32)}
    monkeypatch.setattr(scaling, "open_case", lambda name, open_case=scaling.open_case: open_case(name, shapes))


def test_rounds_are_told_apart(moving):
    found = scaling.measure("squeezenet1_1", rounds=3, turn_seconds=0.001)
    assert list(found) == [scaling.NEAR, scaling.FAR]
    assert all(len(rounds.medians[label]) == 1 for rounds in found.values() for label in ("1", "2", "1 and 1"))


def test_the_table_has_a_row_for_each_place(moving, capsys, monkeypatch):
    places = iter([20.0, *MOVES])  # the first one: whether there are two cores
    monkeypatch.setattr(scaling, "distance", lambda: next(places))
    assert scaling.main(["squeezenet1_1", "--rounds", "3", "--turn", "0.001"]) == 0
    printed = capsys.readouterr().out
    assert [line.split()[:3] for line in printed.splitlines() if "squeezenet" in line] == [
        ["squeezenet1_1", scaling.NEAR, "1"],
        ["squeezenet1_1", scaling.FAR, "1"],
    ]


def test_models_need_not_be_named(monkeypatch):
    monkeypatch.setattr(scaling, "distance", lambda: 20.0)
    measured = []
    monkeypatch.setattr(scaling, "measure", lambda name, rounds, turn: measured.append(name) or {})
    assert scaling.main([]) == 0
    assert measured == list(scaling.DEFAULT_MODELS)
    assert set(measured) < set(NETWORKS)


def test_a_single_core_is_an_error_that_says_so(monkeypatch, capsys):
    monkeypatch.setattr(processors, "allowed", lambda: (0,))
    with pytest.raises(SystemExit):
        scaling.main(["squeezenet1_1"])
    assert "one core has no distance" in capsys.readouterr().err
