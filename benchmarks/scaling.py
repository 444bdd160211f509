"""How many times as fast models are on two threads, and how far their cores are from each other meanwhile.

    python -m glulam.benchmarks.scaling
    python -m glulam.benchmarks.scaling resnet50 vgg16

One and two threads take turns. A virtual machine's cores may move while it is measured: rounds are told apart by
whether the cores were near each other before and after (`benchmarks.distance`), and those in between do not count.

How much more two cores do than one is measured as well: two runs at once, of one thread each, that have nothing to do
with each other but the weights. What they do not reach, for both want the same memory and the same clock, no division
of a single run can be expected to.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
from rich.table import Table

from glulam.arguments import positive, seconds
from glulam.benchmarks.cases import open_case
from glulam.benchmarks.distance import distance
from glulam.benchmarks.measure import TURN_SECONDS, Rounds, Runner, take_turns
from glulam.compiler.driver import compile_graph
from glulam.compiler.options import Options
from glulam.console import exit_with, wide_console
from glulam.runtime.cpu import processor_name
from glulam.runtime.model import Model

_FAR = 80.0  # nanoseconds and more, between cores that share no cache
_ONE, _TWO, _APART = "1", "2", "1 and 1"
NEAR, FAR = "near", "far"

DEFAULT_MODELS = (
    "fcn_resnet50",
    "r3d_18",
    "vit_b_16",
    "convnext_tiny",
    "resnet50",
    "unet",
    "resnet18",
    "vgg16",
)


@dataclass(frozen=True)
class _Runner:
    """A model with its feeds, to be timed."""

    model: Model
    feeds: Mapping[str, np.ndarray]

    def run(self, times: int, warm: int = 1) -> list[float]:
        for _ in range(warm):
            self.model.run(self.feeds)
        found = []
        for _ in range(times):
            start = time.perf_counter()
            self.model.run(self.feeds)
            found.append(time.perf_counter() - start)
        return found


@dataclass(frozen=True)
class _Twice:
    """Two runs at once, each on a thread of its own."""

    alone: _Runner

    def run(self, times: int, warm: int = 1) -> list[float]:
        with ThreadPoolExecutor(1) as other:
            beside = other.submit(self.alone.run, times, warm)
            return self.alone.run(times, warm) + beside.result()


def measure(name: str, rounds: int, turn_seconds: float = TURN_SECONDS) -> dict[str, Rounds]:
    """The rounds of a model by whether the cores were near each other or far, as far as there were such."""
    case = open_case(name)
    feeds = case.feeds()
    found: dict[str, dict[str, list[float]]] = {place: {_ONE: [], _TWO: [], _APART: []} for place in (NEAR, FAR)}
    with compile_graph(case.graph) as one, compile_graph(case.graph, Options(threads=2)) as two:
        alone = _Runner(one, feeds)
        runners: dict[str, Runner] = {_ONE: alone, _TWO: _Runner(two, feeds), _APART: _Twice(alone)}
        for _ in range(rounds):
            before = distance()
            medians = take_turns(runners, 1, turn_seconds).medians
            if (place := _place(before)) == _place(distance()):
                for label, values in medians.items():
                    found[place][label] += values
            runners = dict(reversed(runners.items()))
    return {place: Rounds(medians) for place, medians in found.items() if medians[_ONE]}


def _place(nanoseconds: float) -> str:
    return FAR if nanoseconds >= _FAR else NEAR


def main(arguments: Sequence[str] | None = None) -> int:
    """Print a row for each model and distance of the cores."""
    parser = argparse.ArgumentParser(
        prog="python -m glulam.benchmarks.scaling",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "models",
        nargs="*",
        default=DEFAULT_MODELS,
        metavar="MODEL",
        help="networks of the zoo, real models, or ONNX files (eight networks)",
    )
    parser.add_argument("--rounds", type=positive, default=15, metavar="N", help="rounds of one turn each (15)")
    parser.add_argument(
        "--turn", type=seconds, default=TURN_SECONDS, metavar="SECONDS", help=f"length of a turn ({TURN_SECONDS})"
    )
    chosen = parser.parse_args(arguments)
    columns = "1 thread, ms", "2 threads, ms", "times as fast", "quartiles", "two runs at once"
    table = Table("model", "cores", "rounds", *columns, box=None)
    try:
        distance()
    except OSError as error:
        parser.error(f"{error}: two threads cannot be held against one here")
    for name in chosen.models:
        for place, rounds in measure(name, chosen.rounds, chosen.turn).items():
            ratio, (one, two) = rounds.ratio(_ONE, _TWO), (rounds.seconds(label).median for label in (_ONE, _TWO))
            figures = f"{one * 1e3:.2f}", f"{two * 1e3:.2f}", f"{ratio.median:.2f}", f"{ratio.low:.2f}-{ratio.high:.2f}"
            most = f"{2 * rounds.ratio(_ONE, _APART).median:.2f}"
            table.add_row(name, place, str(len(rounds.medians[_ONE])), *figures, most)
    table.title = processor_name()
    wide_console(160).print(table)
    return 0


if __name__ == "__main__":
    exit_with(main)
