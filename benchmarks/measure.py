"""Rounds in which engines take turns, and what is said about them: ratios first, medians and spread after."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

TURN_SECONDS = 0.25
MOST_RUNS = 500


class Runner(Protocol):
    """What can be timed: an `EngineProcess`, or anything that runs and says how long each run took."""

    def run(self, times: int, warm: int = 1) -> list[float]: ...


@dataclass(frozen=True)
class Spread:
    """Median and quartiles over rounds."""

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread:
        if len(values) < 2:
            return cls(values[0], values[0], values[0])
        low, median, high = statistics.quantiles(values, n=4, method="inclusive")
        return cls(median, low, high)

    def scaled(self, factor: float) -> Spread:
        return Spread(self.median * factor, self.low * factor, self.high * factor)

    def as_json(self) -> dict[str, float]:
        return {"median": self.median, "low": self.low, "high": self.high}


@dataclass(frozen=True)
class Rounds:
    """For each runner, by label, the median seconds of each round; the rounds of all runners belong together."""

    medians: Mapping[str, Sequence[float]]

    def seconds(self, label: str) -> Spread:
        return Spread.of(self.medians[label])

    def ratio(self, label: str, base: str) -> Spread:
        """How many times as long `label` took as `base`, taken round by round: below one, `label` is faster."""
        pairs = zip(self.medians[label], self.medians[base], strict=True)
        return Spread.of([ours / theirs for ours, theirs in pairs])

    def ratio_to_fastest(self, label: str, others: Sequence[str]) -> Spread:
        """`ratio` against whichever of `others` has the lowest median."""
        return self.ratio(label, min(others, key=lambda other: self.seconds(other).median))


def take_turns(
    runners: Mapping[str, Runner],
    rounds: int = 9,
    turn_seconds: float = TURN_SECONDS,
    progress: Callable[[int], None] = lambda done: None,
) -> Rounds:
    """Let every runner run for about `turn_seconds` in each round; the first turn goes to another one each time."""
    times = {}
    for label, runner in runners.items():
        once = min(runner.run(3, warm=1))
        times[label] = max(3, min(MOST_RUNS, round(turn_seconds / max(once, 1e-6))))
    medians: dict[str, list[float]] = {label: [] for label in runners}
    labels = list(runners)
    for index in range(rounds):
        first = index % len(labels)
        for label in labels[first:] + labels[:first]:
            warm = max(1, times[label] // 10)
            medians[label].append(statistics.median(runners[label].run(times[label], warm=warm)))
        progress(index + 1)
    return Rounds(medians)


def difference(outputs: Mapping[str, np.ndarray], expected: Mapping[str, np.ndarray]) -> float:
    """Largest error over all outputs (taken in order), each as a fraction of the expected output's RMS."""
    worst = 0.0
    for ours, theirs in zip(outputs.values(), expected.values(), strict=True):
        if ours.shape != theirs.shape:
            return float("inf")
        if not theirs.size:
            continue
        wide = theirs.astype(np.float64)
        rms = float(np.sqrt(np.mean(np.square(wide)))) or 1.0
        error = float(np.max(np.abs(ours.astype(np.float64) - wide)))
        worst = max(worst, error / rms if np.isfinite(error) else float("inf"))
    return worst
