"""Fused against unfused: the same model built several ways, run in turns, and compared.

`unfused` makes every layer its own kernel; `only X` switches on one optional pass and no other; `fused` is what a user
gets. All builds use the same kernel templates, and each runs from its artifact in a process of its own.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from rich.table import Table

from glulam.benchmarks.measure import Rounds, Spread, difference, take_turns
from glulam.benchmarks.peers import EngineProcess
from glulam.compiler.driver import compile_graph
from glulam.compiler.graph.graph import Graph
from glulam.compiler.options import Options
from glulam.compiler.pipeline import switchable_passes

FUSED, UNFUSED = "fused", "unfused"


@dataclass(frozen=True)
class Build:
    """One way to build the model, and what came of it. `arena` and `kernels` are None for a peer."""

    label: str
    seconds: Spread
    ratio: Spread
    difference: float
    peak_rss: int
    arena: int | None = None
    kernels: int | None = None


@dataclass(frozen=True)
class GroupTime:
    """Where one fused kernel's layers spend their time, in both builds. Seconds."""

    label: str
    layers: int
    unfused: float
    fused: float


@dataclass(frozen=True)
class FusionReport:
    """Builds in the order unfused, single passes, fused, peers; ratios are against unfused: below one is faster."""

    model: str
    threads: int
    builds: Sequence[Build]
    groups: Sequence[GroupTime]


def variants(options: Options) -> dict[str, Options]:
    """Options of every build by label."""
    names = switchable_passes()
    return {
        UNFUSED: replace(options, fuse=False, disable=names),
        **{f"only {name}": replace(options, disable=tuple(n for n in names if n != name)) for name in names},
        FUSED: options,
    }


def compare(
    graph: Graph,
    feeds: Mapping[str, np.ndarray],
    options: Options | None = None,
    *,
    peers: Mapping[str, Path] | None = None,
    rounds: int = 9,
    turn_seconds: float = 0.25,
    progress: Callable[[str], None] = lambda stage: None,
) -> FusionReport:
    """Build the graph every way, let the builds take turns, and put the results side by side.

    `peers` adds engines of `peers.PEERS`, each with the ONNX file it shall load; `progress` hears what is being done.
    """
    options = options or Options()
    with tempfile.TemporaryDirectory(prefix="glulam-") as name, ExitStack() as stack:
        folder = Path(name)
        engines: dict[str, EngineProcess] = {}
        facts: dict[str, tuple[int | None, int | None]] = {}
        for index, (label, variant) in enumerate(variants(options).items()):
            progress(f"compiling: {label}")
            model = compile_graph(graph, variant)
            facts[label] = (model.arena_bytes, len(model.manifest.steps))
            model.save(folder / f"{index}.glulam")
            engine = EngineProcess("glulam", folder / f"{index}.glulam", feeds, threads=options.threads, label=label)
            engines[label] = stack.enter_context(engine)
        for peer, file in (peers or {}).items():
            progress(f"loading: {peer}")
            engines[peer] = stack.enter_context(EngineProcess(peer, file, feeds, threads=options.threads))
        progress("running in turns")
        turns = take_turns(engines, rounds, turn_seconds, lambda done: progress(f"round {done} of {rounds}"))
        builds = [_build(label, engine, turns, engines, facts) for label, engine in engines.items()]
        progress("profiling")
        groups = group_times(engines[UNFUSED].ask("profile", repeat=20), engines[FUSED].ask("profile", repeat=20))
    return FusionReport(graph.name, options.threads, builds, groups)


def _build(
    label: str,
    engine: EngineProcess,
    turns: Rounds,
    engines: Mapping[str, EngineProcess],
    facts: Mapping[str, tuple[int | None, int | None]],
) -> Build:
    arena, kernels = facts.get(label, (None, None))
    return Build(
        label,
        turns.seconds(label),
        turns.ratio(label, UNFUSED),
        difference(engine.outputs, engines[UNFUSED].outputs),
        engine.peak_rss(),
        arena,
        kernels,
    )


def group_times(unfused: Mapping[str, Any], fused: Mapping[str, Any]) -> list[GroupTime]:
    """For each fused kernel the time of its layers' kernels in the unfused build, costliest first.

    A step's label joins the names of its layers by `+`. Layers that the fused build has no more (folded away) stay
    in the sum of the group that its successor belongs to only if the label names them.
    """
    alone: dict[str, float] = {}
    for row in unfused["steps"]:
        for layer in row["label"].split("+"):
            alone[layer] = alone.get(layer, 0.0) + row["seconds"]
    groups = []
    for row in fused["steps"]:
        layers = row["label"].split("+")
        groups.append(GroupTime(row["label"], len(layers), sum(alone.get(n, 0.0) for n in layers), row["seconds"]))
    return sorted(groups, key=lambda group: -group.unfused)


def comparison_table(report: FusionReport) -> Table:
    """The builds: ratio first, then time, difference and memory."""
    title = f"{report.model}, {report.threads} thread{'s' if report.threads > 1 else ''}"
    table = Table(title=title, caption="time as a fraction of unfused, round by round: median and quartiles")
    for column in ("build", "of unfused", "quartiles", "ms", "kernels", "arena MB", "peak MB", "difference"):
        table.add_column(column, justify="left" if column == "build" else "right")
    for build in report.builds:
        table.add_row(
            f"[bold]{build.label}[/bold]" if build.label == FUSED else build.label,
            f"{build.ratio.median:.3f}",
            f"{build.ratio.low:.3f} - {build.ratio.high:.3f}",
            f"{build.seconds.median * 1e3:.2f}",
            "-" if build.kernels is None else str(build.kernels),
            "-" if build.arena is None else f"{build.arena / 1e6:.1f}",
            f"{build.peak_rss / 1e6:.0f}",
            f"{build.difference:.1e}",
        )
    return table


def group_table(report: FusionReport, most: int = 20) -> Table:
    """The fused kernels that matter most: what their layers cost alone and together."""
    table = Table(title="fused groups, costliest first")
    for column in ("layers", "alone us", "fused us", "ratio"):
        table.add_column(column, justify="left" if column == "layers" else "right", overflow="fold")
    for group in report.groups[:most]:
        ratio = f"{group.fused / group.unfused:.2f}" if group.unfused else "-"
        table.add_row(group.label, f"{group.unfused * 1e6:.0f}", f"{group.fused * 1e6:.0f}", ratio)
    return table
