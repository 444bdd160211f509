"""Activations that a user writes as formulas (`gl.layer`) against the built-in ones, each fused after a convolution.

python -m glulam.benchmarks.formula --threads 1

The formulas are written as textbooks have them, where the built-in ones have a faster form of the same; but Mish, whose
tanh(log(1 + e**x)) by two functions costs twice as much as without them, is written without them here as well.
Both builds have the same weights and run in turns, each in a process of its own; `code` says whether the two come out
as the same machine code.
"""

from __future__ import annotations

import argparse
import math
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path

from rich.table import Table

from glulam.arguments import output_file, positive, seconds
from glulam.benchmarks.cases import random_feeds
from glulam.benchmarks.measure import Spread, difference, take_turns
from glulam.benchmarks.peers import EngineProcess
from glulam.compiler.driver import build_artifact
from glulam.compiler.options import Options
from glulam.console import exit_with, wide_console, write_json
from glulam.frontends import layers
from glulam.frontends.layers import math as formula
from glulam.frontends.layers.formulas import layer
from glulam.frontends.layers.module import Layer
from glulam.runtime.artifact import write_artifact
from glulam.runtime.cpu import processor_name
from glulam.runtime.errors import GlulamError

FORMULA, BUILT_IN = "formula", "built-in"


@layer
def silu(x):  # type: ignore[no-untyped-def]
    return x * formula.sigmoid(x)


@layer
def hardswish(x):  # type: ignore[no-untyped-def]
    return x * formula.clip(x + 3, 0, 6) / 6


@layer
def gelu(x):  # type: ignore[no-untyped-def]
    return 0.5 * x * (1 + formula.erf(x / math.sqrt(2)))


@layer
def gelu_tanh(x):  # type: ignore[no-untyped-def]
    return 0.5 * x * (1 + formula.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))


@layer
def relu6(x):  # type: ignore[no-untyped-def]
    return formula.clip(x, 0, 6)


@layer
def mish(x):  # type: ignore[no-untyped-def]
    e = formula.exp(formula.minimum(x, 40.0))
    n = e * (e + 2)
    return x * n / (n + 2)


PAIRS: Mapping[str, tuple[type[Layer], Layer]] = {
    "relu6": (relu6, layers.ReLU6()),
    "hardswish": (hardswish, layers.Hardswish()),
    "silu": (silu, layers.SiLU()),
    "gelu": (gelu, layers.GELU()),
    "gelu_tanh": (gelu_tanh, layers.GELU("tanh")),
    "mish": (mish, layers.Mish()),
}
KERNELS = (1, 3)


@dataclass(frozen=True)
class Comparison:
    """`ratio`: the formula's time over that of the built-in layer. `difference` as in `measure.difference`."""

    activation: str
    kernel: int
    ratio: Spread
    seconds: Spread
    difference: float
    same_code: bool


def compare(name: str, kernel: int, channels: int, extent: int, threads: int, rounds: int, turn: float) -> Comparison:
    """A kernel x kernel convolution of channels x extent x extent with the activation, in both ways."""
    made, built_in = PAIRS[name]
    convolution = layers.Conv2d(channels, kernel, padding=kernel // 2)
    graphs = {
        label: layers.Sequential([layers.Input((channels, extent, extent)), convolution, activation]).graph()
        for label, activation in ((FORMULA, made()), (BUILT_IN, built_in))
    }
    feeds = random_feeds(graphs[BUILT_IN])
    code = set()
    with tempfile.TemporaryDirectory(prefix="glulam-") as folder, ExitStack() as stack:
        engines = {}
        for label, graph in graphs.items():
            artifact = build_artifact(graph, Options(threads=threads))
            code.add(artifact.object_code)
            file = Path(folder) / f"{label}.glulam"
            write_artifact(file, artifact)
            engine = EngineProcess("glulam", file, feeds, threads=threads, label=label)
            engines[label] = stack.enter_context(engine)
        turns = take_turns(engines, rounds, turn)
        error = difference(engines[FORMULA].outputs, engines[BUILT_IN].outputs)
    ratio = turns.ratio(FORMULA, BUILT_IN)
    return Comparison(name, kernel, ratio, turns.seconds(BUILT_IN), error, len(code) == 1)


def table_of(comparisons: Sequence[Comparison], title: str) -> Table:
    """The comparisons as a table for the terminal."""
    table = Table(title=title, caption="ratio: formula / built-in, round by round; us: built-in")
    for column in ("activation", "conv", "ratio", "quartiles", "us", "code", "error"):
        table.add_column(column, justify="left" if column == "activation" else "right")
    for one in comparisons:
        table.add_row(
            one.activation,
            f"{one.kernel}x{one.kernel}",
            f"{one.ratio.median:.3f}",
            f"{one.ratio.low:.2f} - {one.ratio.high:.2f}",
            f"{one.seconds.median * 1e6:.0f}",
            "same" if one.same_code else "differs",
            f"{one.difference:.0e}" if one.difference else "0",
        )
    return table


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m glulam.benchmarks.formula", description=__doc__.partition("\n")[0])
    parser.add_argument("--activations", default=",".join(PAIRS), metavar="TEXTS", help="which ones, by commas (all)")
    parser.add_argument(
        "--channels", type=positive, default=64, metavar="N", help="of the convolution's input and output (64)"
    )
    parser.add_argument(
        "--extent", type=positive, default=56, metavar="N", help="height and width of the feature map (56)"
    )
    parser.add_argument("--threads", type=positive, default=1, metavar="N", help="threads of one inference (1)")
    parser.add_argument("--rounds", type=positive, default=9, metavar="N", help="rounds of one turn each (9)")
    parser.add_argument("--turn", type=seconds, default=0.1, metavar="SECONDS", help="length of a turn (0.1)")
    parser.add_argument("--json", type=output_file, metavar="FILE", help="write what was measured here")
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> int:
    options = parse(arguments)
    console = wide_console()
    names = options.activations.split(",")
    if unknown := sorted(set(names) - set(PAIRS)):
        raise GlulamError(f"no activation {', '.join(unknown)} here; there are {', '.join(PAIRS)}")
    comparisons = []
    for name in names:
        for kernel in KERNELS:
            with console.status(f"{kernel}x{kernel} + {name}"):
                shape = (options.channels, options.extent)
                comparisons.append(compare(name, kernel, *shape, options.threads, options.rounds, options.turn))
    size = f"{options.channels} channels, {options.extent}x{options.extent}, threads: {options.threads}"
    console.print(table_of(comparisons, f"{processor_name()}: {size}"))
    if options.json:
        write_json(options.json, [asdict(one) for one in comparisons])
    return 0


if __name__ == "__main__":
    exit_with(main)
