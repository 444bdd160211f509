"""Fused against unfused: the same model built several ways, run in turns, and compared.

`unfused` makes every layer its own kernel; `only X` switches on one optional pass and no other, `no X` switches one
off; `fused` is what a user gets. Passes that find nothing to do in the model are left out, and of builds that come
out with the same code one is run. All builds use the same kernel templates, and each runs from its artifact in a
process of its own.
"""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from rich.box import SIMPLE_HEAD
from rich.markup import escape
from rich.table import Table

from glulam.benchmarks.measure import Rounds, Spread, difference, take_turns
from glulam.benchmarks.peers import EngineProcess
from glulam.compiler.driver import build_artifact, explain
from glulam.compiler.graph.graph import Graph
from glulam.compiler.options import Options
from glulam.compiler.pipeline import switchable_passes
from glulam.runtime.artifact import Artifact, write_artifact

FUSED, UNFUSED = "fused", "unfused"
LABEL_SEPARATOR = " + "
CHANGES = "(changes of layout)"


@dataclass(frozen=True)
class Build:
    """One way to build the model, and what came of it. `arena` and `kernels` (calls of them) are None for a peer."""

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
    """Builds in the order unfused, only one pass, one pass left out, fused, peers.

    Ratios are against unfused: below one is faster.
    `idle` are the passes that find nothing to do in this model.
    """

    model: str
    threads: int
    builds: Sequence[Build]
    groups: Sequence[GroupTime]
    idle: Sequence[str] = ()


def variants(graph: Graph, options: Options) -> tuple[dict[str, Options], list[str]]:
    """Options of every build by label, and the names of the passes that find nothing to do in this graph."""
    names = [name for name in switchable_passes() if name not in options.disable]
    alone = {name: replace(options, disable=(*options.disable, *(n for n in names if n != name))) for name in names}
    without = {name: replace(options, disable=(*options.disable, name)) for name in names}
    useful = {report.name for report in explain(graph, options) if report.changed}
    lonely = {n for n in names if any(report.changed for report in explain(graph, alone[n]) if report.name == n)}
    table = {
        UNFUSED: replace(options, fuse=False),
        **{f"only {name}": alone[name] for name in names if name in lonely},
        **{f"no {name}": without[name] for name in names if name in useful},
        FUSED: options,
    }
    return table, [name for name in names if name not in useful | lonely]


def build_variants(graph: Graph, table: Mapping[str, Options], progress: Callable[[str], None]) -> dict[str, Artifact]:
    """The artifacts by label. Builds that come out alike are one, but `unfused` and `fused` are always two."""
    labels: dict[str, list[str]] = {}
    artifacts: dict[str, Artifact] = {}
    for number, (label, options) in enumerate(table.items(), 1):
        progress(f"compiling {number} of {len(table)}: {label}")
        artifact = build_artifact(graph, options)
        digest = hashlib.sha256(artifact.object_code + artifact.weights.tobytes()).hexdigest()
        key = f"{digest} {label}" if label == FUSED and UNFUSED in labels.get(digest, ()) else digest
        labels.setdefault(key, []).append(label)
        artifacts[key] = artifact
    found = {_plainest(names): artifacts[key] for key, names in labels.items()}
    return found | {FUSED: found.pop(FUSED)}  # in the last place


def _plainest(labels: Sequence[str]) -> str:
    return next((plain for plain in (UNFUSED, FUSED) if plain in labels), "\n= ".join(labels))


def compare(
    graph: Graph,
    feeds: Mapping[str, np.ndarray],
    options: Options | None = None,
    *,
    passes: bool = True,
    peers: Mapping[str, Path] | None = None,
    rounds: int = 9,
    turn_seconds: float = 0.25,
    progress: Callable[[str], None] = lambda stage: None,
) -> FusionReport:
    """Build the graph every way, let the builds take turns, and put the results side by side.

    Without `passes` there are just two builds, unfused and fused. `peers` adds engines of `peers.PEERS`, each with the
    ONNX file it shall load; `progress` hears what is being done.
    """
    options = options or Options()
    table, idle = variants(graph, options) if passes else ({UNFUSED: replace(options, fuse=False), FUSED: options}, [])
    with tempfile.TemporaryDirectory(prefix="glulam-") as name, ExitStack() as stack:
        folder = Path(name)
        engines: dict[str, EngineProcess] = {}
        facts: dict[str, tuple[int | None, int | None]] = {}
        for index, (label, artifact) in enumerate(build_variants(graph, table, progress).items()):
            facts[label] = (artifact.manifest.arena_bytes, len(artifact.manifest.steps))
            file = folder / f"{index}.glulam"
            write_artifact(file, artifact)
            engine = EngineProcess("glulam", file, feeds, threads=options.threads, label=label)
            engines[label] = stack.enter_context(engine)
        for peer, file in (peers or {}).items():
            progress(f"loading: {peer}")
            engines[peer] = stack.enter_context(EngineProcess(peer, file, feeds, threads=options.threads))
        progress("running in turns")
        turns = take_turns(engines, rounds, turn_seconds, lambda done: progress(f"round {done} of {rounds}"))
        builds = [_build(label, engine, turns, engines, facts) for label, engine in engines.items()]
        progress("profiling")
        groups = group_times(
            graph, engines[UNFUSED].ask("profile", repeat=20), engines[FUSED].ask("profile", repeat=20)
        )
    return FusionReport(graph.name, options.threads, builds, groups, idle)


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


def group_times(graph: Graph, unfused: Mapping[str, Any], fused: Mapping[str, Any]) -> list[GroupTime]:
    """For each fused kernel the time of its layers' kernels in the unfused build, costliest first.

    A layer that the fused build has folded away counts where its result went: to the kernel of the layer before it.
    The last row is what no layer is named for, in either build: changes of layout.
    """
    rows = [(row["label"], row["label"].split(LABEL_SEPARATOR), row["seconds"]) for row in fused["steps"]]
    known = {node.name for node in graph.nodes}
    group_of = {layer: label for label, layers, _ in rows for layer in layers if layer in known}
    for node in graph.nodes:
        if node.name not in group_of:
            makers = [v.producer.name for v in node.present_inputs() if v.producer is not None]
            if makers and makers[0] in group_of:
                group_of[node.name] = group_of[makers[0]]
    alone: dict[str, float] = {}
    for row in unfused["steps"]:
        group = group_of.get(row["label"].split(LABEL_SEPARATOR)[0], CHANGES)
        alone[group] = alone.get(group, 0.0) + row["seconds"]
    groups = [GroupTime(label, len(layers), alone.get(label, 0.0), s) for label, layers, s in rows if label in alone]
    groups.sort(key=lambda group: -group.unfused)
    moved = sum(seconds for label, _, seconds in rows if label not in alone)
    return [*groups, GroupTime(CHANGES, 0, alone.get(CHANGES, 0.0), moved)]


def comparison_table(report: FusionReport, name: str = "") -> Table:
    """The builds: ratio first, then time, kernel calls, memory, difference."""
    title = f"{name or report.model}, {report.threads} thread{'s' if report.threads > 1 else ''}"
    caption = (
        "ratio: time as a fraction of unfused, taken round by round: median and quartiles\n"
        "error: largest difference from unfused, as a fraction of the output's RMS"
    )
    if report.idle:
        caption += f"\npasses with nothing to do here: {', '.join(report.idle)}"
    table = Table(title=title, caption=caption, title_justify="left", caption_justify="left", box=SIMPLE_HEAD)
    for column in ("build", "ratio", "quartiles", "ms", "calls", "arena MB", "error"):
        table.add_column(column, justify="left" if column == "build" else "right", no_wrap=column != "build")
    for build in report.builds:
        table.add_row(
            f"[bold]{build.label}[/bold]" if build.label == FUSED else build.label,
            f"{build.ratio.median:.3f}",
            f"{build.ratio.low:.2f} - {build.ratio.high:.2f}",
            f"{build.seconds.median * 1e3:.2f}",
            "-" if build.kernels is None else str(build.kernels),
            "-" if build.arena is None else f"{build.arena / 1e6:.1f}",
            f"{build.difference:.0e}" if build.difference else "0",
        )
    return table


def markdown(report: FusionReport, name: str = "") -> str:
    """The comparison as a Markdown table, for a README."""
    head = f"| {name or report.model}, threads: {report.threads} | ratio | quartiles | ms | kernel calls | arena, MB |"
    lines = [head, "| --- | ---: | ---: | ---: | ---: | ---: |"]
    for build in report.builds:
        calls = "-" if build.kernels is None else str(build.kernels)
        arena = "-" if build.arena is None else f"{build.arena / 1e6:.1f}"
        spread = f"{build.ratio.low:.2f}-{build.ratio.high:.2f}"
        label = build.label.replace("\n", " ")
        cells = (label, f"{build.ratio.median:.2f}", spread, f"{build.seconds.median * 1e3:.2f}", calls, arena)
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def group_table(report: FusionReport, most: int = 20) -> Table:
    """The fused kernels that matter most: what their layers cost alone and together."""
    *groups, changes = report.groups
    shown, rest = groups[:most], groups[most:]
    title = "fused groups, costliest first, from profiled runs"
    table = Table(title=title, title_justify="left", show_footer=True, box=SIMPLE_HEAD)
    unfused, fused = (sum(getattr(group, side) for group in report.groups) for side in (UNFUSED, FUSED))
    footers = ("all", f"{unfused * 1e6:.0f}", f"{fused * 1e6:.0f}", _ratio(fused, unfused))
    for column, footer in zip(("layers", "alone us", "fused us", "ratio"), footers, strict=True):
        table.add_column(column, footer, justify="left" if column == "layers" else "right", overflow="fold")
    if rest:
        label = f"({len(rest)} more)"
        shown = [*shown, GroupTime(label, 0, sum(g.unfused for g in rest), sum(g.fused for g in rest))]
    for group in [*shown, changes]:
        ratio = _ratio(group.fused, group.unfused)
        table.add_row(escape(group.label), f"{group.unfused * 1e6:.0f}", f"{group.fused * 1e6:.0f}", ratio)
    return table


def _ratio(fused: float, unfused: float) -> str:
    return f"{fused / unfused:.2f}" if unfused else "-"
