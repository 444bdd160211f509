"""`glulam tune`: the candidates of each layer, measured on this machine, against what the cost model makes of them."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from rich.markup import escape
from rich.table import Table

from glulam.cli_common import Subparsers, add_command, add_model_arguments, compile_options, open_model
from glulam.console import progress_console, wide_console

if TYPE_CHECKING:
    from glulam.compiler.tuning import Tuned


def add_commands(commands: Subparsers, shared: argparse.ArgumentParser) -> None:
    tune = add_command(
        commands,
        shared,
        "tune",
        "Measure the best algorithms and tiles of each layer on this machine; later --tune compilations know them.",
        [
            "glulam tune resnet50",
            "glulam tune model.onnx --threads 2 --no-cache     measure again, keep nothing",
            "glulam tune model.onnx --json",
        ],
    )
    add_model_arguments(tune, tune=False)
    tune.add_argument("--json", action="store_true", help="print the measurements as JSON instead")
    tune.set_defaults(action=tune_model)


def tune_model(arguments: argparse.Namespace) -> None:
    """Measure, then a table of layers and what the cost model's choices cost."""
    from glulam.compiler.driver import tuned

    progress = progress_console()
    case = open_model(arguments)
    with progress.status("measuring") as status:
        layers = tuned(case.graph, compile_options(arguments), status.update)
    if arguments.json:
        print(json.dumps([_record(layer) for layer in layers], indent=1))
        return
    wide_console().print(_table(layers, case.name))
    wide_console().print(escape(verdict(layers)))


def verdict(layers: Sequence[Tuned]) -> str:
    """How often the cost model chose what is fastest, and what its misses cost in a run."""
    layers = [layer for layer in layers if layer.seconds]
    right = sum(layer.estimated == layer.chosen for layer in layers)
    loss = sum(layer.loss * len(layer.nodes) for layer in layers)
    total = sum(layer.seconds[layer.chosen.name] * len(layer.nodes) for layer in layers)
    share = loss / total if total else 0.0
    return (
        f"the cost model chose the fastest candidate for {right} of {len(layers)} measured layers; "
        f"its misses cost {loss * 1e6:.0f} us of {total * 1e6:.0f} us ({share:.1%})"
    )


def _table(layers: Sequence[Tuned], title: str) -> Table:
    table = Table(title=title, box=None, padding=(0, 1))
    for name, side in (("layer", "left"), ("like it", "right"), ("candidate", "left"), ("estimate", "right")):
        table.add_column(name, justify=side)
    table.add_column("measured", justify="right")
    table.add_column("chosen")
    for layer in layers:
        where, like = layer.nodes[0], str(len(layer.nodes))
        for candidate in sorted(layer.candidates, key=lambda c: c.cycles):
            seconds = layer.seconds.get(candidate.name)
            marks = ["fastest"] * (candidate == layer.chosen) + ["by estimate"] * (candidate == layer.estimated)
            time = "" if seconds is None else f"{seconds * 1e6:.1f} us"
            table.add_row(
                escape(where), like, candidate.name, f"{candidate.cycles / 1e3:.0f}k cycles", time, ", ".join(marks)
            )
            where, like = "", ""
    return table


def _record(layer: Tuned) -> dict[str, Any]:
    return {
        "nodes": list(layer.nodes),
        "candidates": {c.name: {"cycles": c.cycles, "seconds": layer.seconds.get(c.name)} for c in layer.candidates},
        "estimated": layer.estimated.name,
        "chosen": layer.chosen.name,
    }
