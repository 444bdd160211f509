"""`glulam profile`: where a network's time goes, kernel by kernel, against what the machine can do."""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from rich.markup import escape
from rich.table import Table

from glulam.arguments import not_negative, output_file, positive
from glulam.cli_common import Subparsers, add_command, add_model_arguments, compile_options, open_model
from glulam.console import wide_console, write_json

if TYPE_CHECKING:
    from glulam.benchmarks.roofline import Roofline, Work
    from glulam.runtime.manifest import StepInfo
    from glulam.runtime.profile import Profile

_MEMORY_SAMPLES = 5


def add_commands(commands: Subparsers, shared: argparse.ArgumentParser) -> None:
    profile = add_command(
        commands,
        shared,
        "profile",
        "Show where the time goes: each kernel's algorithm, GFLOP/s, GB/s, shares of the measured peak and roofline.",
        [
            "glulam profile resnet50",
            "glulam profile model.onnx --threads 2 --top 20",
            "glulam profile resnet50 --numerics strict --json out/profile.json --trace out/trace.json",
        ],
    )
    add_model_arguments(profile)
    profile.add_argument("--repeat", type=positive, default=50, metavar="N", help="runs to take the median of (50)")
    profile.add_argument("--top", type=not_negative, default=0, metavar="N", help="only the N most expensive kernels")
    profile.add_argument("--json", type=output_file, metavar="FILE", help="write the figures to this file")
    profile.add_argument("--trace", type=output_file, metavar="FILE", help="write a trace for chrome://tracing")
    profile.set_defaults(action=profile_model)


_CAPTION = (
    "medians, held against the peak's median; best: the shortest run of each kernel, against the highest peak\n"
    "of peak: winograd and strassen kernels count the multiplications of the definition; of roof: what they do (a),\n"
    "or weights from memory and tensors from the second-level cache (m), whichever takes longer; lost: the share of\n"
    "all time that goes beyond that"
)


def profile_model(arguments: argparse.Namespace) -> None:
    """Compile, profile, and print a row for each kernel call."""
    from glulam.benchmarks.peak import MemoryMeter, PeakMeter
    from glulam.benchmarks.roofline import Roofline, footprint, work_by_step
    from glulam.compiler.driver import compile_graph, cut_for, lower
    from glulam.compiler.targets import target

    case, options = open_model(arguments), compile_options(arguments)
    program = lower(case.graph, options)
    work, size = work_by_step(program, cut_for(target(options.target), options)), footprint(program)
    del program
    with compile_graph(case.graph, options) as model:
        meter = PeakMeter(options.target)
        rates = []
        for amount in (size, None):
            memory = MemoryMeter(amount, model.threads, options.target)
            for _ in range(_MEMORY_SAMPLES):
                memory.sample()
            rates.append(memory.median)
        profile = model.profile(case.feeds(), repeat=arguments.repeat, before=meter.sample)
        roof = Roofline(meter.median * model.threads, *rates)
        rows = figures(profile, model.manifest.steps, roof, meter.best * model.threads, work)
    if arguments.json:
        whole = {"model": case.name, "threads": profile.threads, "seconds": profile.seconds}
        write_json(arguments.json, {**whole, **asdict(roof), "kernels": rows})
    if arguments.trace:
        write_json(arguments.trace, {"traceEvents": trace_events(rows)})
    wide_console().print(table(case.name, profile, roof, rows, arguments.top))


def figures(
    profile: Profile, infos: Sequence[StepInfo], roof: Roofline, best: float, work: Mapping[tuple[str, str], Work]
) -> list[dict[str, Any]]:
    """A record for each kernel call, in the order of the calls; times in microseconds.

    Median times are held against the roofline's peak, the shortest ones against the `best`, both in FLOP/s.
    `work` is what the kernels do, by label and kernel.
    """
    algorithms = {(info.label, info.kernel): info.algorithm.partition(":")[0] for info in infos}
    rows = []
    for step in profile.steps:
        key = step.label, step.kernel
        least = roof.seconds(work[key])
        rows.append(
            {
                "layers": step.label,
                "kernel": step.kernel,
                "algorithm": algorithms[key] or step.kernel.partition("_")[2],
                "microseconds": step.seconds * 1e6,
                "share": step.seconds / profile.seconds if profile.seconds else 0.0,
                "gflops": step.gflops,
                "of_peak": step.gflops * 1e9 / roof.peak,
                "best_of_peak": step.flops / step.shortest / best if step.shortest else 0.0,
                "bytes": step.bytes,
                "gbytes": step.gbytes,
                "roofline_microseconds": least * 1e6,
                "bound": roof.bound(work[key]),
                "of_roofline": least / step.seconds if step.seconds else 0.0,
                "lost": (step.seconds - least) / profile.seconds if profile.seconds else 0.0,
            }
        )
    return rows


def table(name: str, profile: Profile, roof: Roofline, rows: list[dict[str, Any]], top: int) -> Table:
    """The most expensive kernels first, and what the algorithms took together."""
    machine = f"peak {roof.peak / 1e9:.0f} GFLOP/s, memory {roof.memory / 1e9:.0f}, cache {roof.cache / 1e9:.0f} GB/s"
    title = f"{name}: {profile.seconds * 1e3:.3f} ms, {profile.threads} thread(s), {machine}"
    result = Table(title=title, caption=_CAPTION)
    result.add_column("layers", min_width=10, max_width=60, overflow="ellipsis", no_wrap=True)
    result.add_column("kernel", min_width=6, overflow="ellipsis", no_wrap=True)
    result.add_column("algorithm", min_width=8, overflow="ellipsis", no_wrap=True)
    for column in ("us", "share", "GFLOP/s", "of peak", "best", "MB", "GB/s", "of roof", "lost"):
        result.add_column(column, justify="right", min_width=len(column), no_wrap=True)
    ordered = sorted(rows, key=lambda row: -row["microseconds"])
    for row in ordered[: top or None]:
        result.add_row(
            escape(row["layers"]),
            row["kernel"],
            row["algorithm"],
            f"{row['microseconds']:.1f}",
            f"{row['share']:.1%}",
            f"{row['gflops']:.1f}",
            f"{row['of_peak']:.0%}",
            f"{row['best_of_peak']:.0%}",
            f"{row['bytes'] / 1e6:.2f}",
            f"{row['gbytes']:.1f}",
            f"{row['of_roofline']:.0%} {row['bound'][0]}",
            f"{row['lost']:.1%}",
        )
    whole, total = profile.flops / profile.seconds if profile.seconds else 0.0, profile.seconds * 1e6
    least = sum(row["roofline_microseconds"] for row in rows)
    kept = f"{least / total:.0%}" if total else ""
    result.add_section()
    for algorithm, some in _by_algorithm(rows).items():
        sums = [sum(row[key] for row in some) for key in ("microseconds", "share", "roofline_microseconds", "lost")]
        shown = f"{sums[2] / sums[0]:.0%}" if sums[0] else ""
        calls, moved = f"{len(some)} call{'s' * (len(some) > 1)}", f"{sum(row['bytes'] for row in some) / 1e6:.2f}"
        result.add_row(
            "", calls, algorithm, f"{sums[0]:.1f}", f"{sums[1]:.1%}", "", "", "", moved, "", shown, f"{sums[3]:.1%}"
        )
    result.add_section()
    rates = f"{whole / 1e9:.1f}", f"{whole / roof.peak:.0%}"
    result.add_row(
        "all", "", "", f"{total:.1f}", "", *rates, "", "", "", kept, f"{1 - least / total:.1%}" if total else ""
    )
    return result


def _by_algorithm(rows: list[dict[str, Any]]) -> dict[str, list[dict[str, Any]]]:
    """The calls of each kind of algorithm, those that take longest first."""
    found: dict[str, list[dict[str, Any]]] = {}
    for row in rows:
        found.setdefault(row["algorithm"].replace("_", " ").split()[0], []).append(row)
    return dict(sorted(found.items(), key=lambda item: -sum(row["microseconds"] for row in item[1])))


def trace_events(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The kernel calls one after the other, as complete events of the trace event format."""
    events, start = [], 0.0
    for row in rows:
        details = {key: value for key, value in row.items() if key not in ("layers", "microseconds")}
        common = {"name": row["layers"], "cat": row["algorithm"], "ph": "X", "pid": 0, "tid": 0}
        events.append({**common, "ts": start, "dur": row["microseconds"], "args": details})
        start += row["microseconds"]
    return events
