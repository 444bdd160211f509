"""`glulam profile`: where a network's time goes, kernel by kernel, against what the machine can do."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.markup import escape
from rich.table import Table

from glulam.cli_common import Subparsers, add_command, add_model_arguments, compile_options, console, open_model

if TYPE_CHECKING:
    from glulam.runtime.profile import Profile


def add_commands(commands: Subparsers, shared: argparse.ArgumentParser) -> None:
    profile = add_command(
        commands,
        shared,
        "profile",
        "Show where the time goes: per kernel GFLOP/s, share of the measured peak, bytes and GB/s.",
        [
            "glulam profile resnet50",
            "glulam profile model.onnx --threads 2 --top 20",
            "glulam profile resnet50 --numerics strict --json out/profile.json --trace out/trace.json",
        ],
    )
    add_model_arguments(profile)
    profile.add_argument("--repeat", type=int, default=50, metavar="N", help="runs to take the median of (50)")
    profile.add_argument("--top", type=int, default=0, metavar="N", help="only the N most expensive kernels")
    profile.add_argument("--json", type=Path, metavar="FILE", help="write the figures to this file")
    profile.add_argument("--trace", type=Path, metavar="FILE", help="write a trace for chrome://tracing")
    profile.set_defaults(action=profile_model)


_CAPTION = (
    "medians, held against the peak's median; best: the shortest run of each kernel, against the highest peak\n"
    "winograd and strassen kernels count the multiplications of the definition"
)


def profile_model(arguments: argparse.Namespace) -> None:
    """Compile, profile, and print a row for each kernel call."""
    from glulam.benchmarks.peak import PeakMeter
    from glulam.compiler.driver import compile_graph

    case, options = open_model(arguments), compile_options(arguments)
    with compile_graph(case.graph, options) as model:
        meter = PeakMeter(options.target)
        profile = model.profile(case.feeds(), repeat=arguments.repeat, before=meter.sample)
        peak, best = meter.peak * model.threads, meter.best * model.threads
    rows = figures(profile, peak, best)
    console().print(table(case.name, profile, peak, rows, arguments.top))
    if arguments.json:
        write(arguments.json, {"model": case.name, "threads": profile.threads, "peak": peak, "kernels": rows})
    if arguments.trace:
        write(arguments.trace, {"traceEvents": trace_events(rows)})


def figures(profile: Profile, peak: float, best: float) -> list[dict[str, Any]]:
    """A record for each kernel call, in the order of the calls; times in microseconds.

    Median times are held against the median `peak` in FLOP/s, the shortest ones against the `best`.
    """
    return [
        {
            "layers": step.label,
            "kernel": step.kernel,
            "microseconds": step.seconds * 1e6,
            "share": step.seconds / profile.seconds if profile.seconds else 0.0,
            "gflops": step.gflops,
            "of_peak": step.gflops * 1e9 / peak,
            "best_of_peak": step.flops / step.shortest / best if step.shortest else 0.0,
            "bytes": step.bytes,
            "gbytes": step.gbytes,
        }
        for step in profile.steps
    ]


def table(name: str, profile: Profile, peak: float, rows: list[dict[str, Any]], top: int) -> Table:
    """The most expensive kernels first."""
    title = f"{name}: {profile.seconds * 1e3:.3f} ms, {profile.threads} thread(s), peak {peak / 1e9:.0f} GFLOP/s"
    result = Table(title=title, caption=_CAPTION)
    result.add_column("layers", min_width=10, max_width=70, overflow="ellipsis", no_wrap=True)
    result.add_column("kernel", min_width=6, overflow="ellipsis", no_wrap=True)
    for column in ("us", "share", "GFLOP/s", "of peak", "best", "GB/s"):
        result.add_column(column, justify="right", min_width=len(column), no_wrap=True)
    ordered = sorted(rows, key=lambda row: -row["microseconds"])
    for row in ordered[: top or None]:
        result.add_row(
            escape(row["layers"]),
            row["kernel"],
            f"{row['microseconds']:.1f}",
            f"{row['share']:.1%}",
            f"{row['gflops']:.1f}",
            f"{row['of_peak']:.0%}",
            f"{row['best_of_peak']:.0%}",
            f"{row['gbytes']:.1f}",
        )
    whole = profile.flops / profile.seconds if profile.seconds else 0.0
    result.add_section()
    result.add_row("all", "", f"{profile.seconds * 1e6:.1f}", "", f"{whole / 1e9:.1f}", f"{whole / peak:.0%}", "", "")
    return result


def trace_events(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The kernel calls one after the other, as complete events of the trace event format."""
    events, start = [], 0.0
    for row in rows:
        details = {"kernel": row["kernel"], "gflops": row["gflops"], "of_peak": row["of_peak"], "bytes": row["bytes"]}
        events.append(
            {
                "name": row["layers"],
                "ph": "X",
                "ts": start,
                "dur": row["microseconds"],
                "pid": 0,
                "tid": 0,
                "args": details,
            }
        )
        start += row["microseconds"]
    return events


def write(path: Path, content: dict[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
