"""Measure glulam against ONNX Runtime and OpenVINO on the same models, in the same run, ratios first.

python -m glulam.benchmarks.run --models resnet50,mobilenet_v2 --threads 1,2 --peers --json out/bench.json
"""

from __future__ import annotations

import argparse
import json
import platform
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from glulam.benchmarks.cases import Case, open_case
from glulam.benchmarks.measure import Rounds, difference, take_turns
from glulam.benchmarks.peers import PEERS, EngineProcess, installed_peers
from glulam.compiler.driver import compile_graph
from glulam.compiler.options import Options
from glulam.runtime.cpu import processor_name
from glulam.runtime.errors import GlulamError

OURS = "glulam"


def start_engines(
    stack: ExitStack,
    case: Case,
    feeds: Mapping[str, np.ndarray],
    options: Options,
    peers: Sequence[str],
    folder: Path,
) -> tuple[dict[str, EngineProcess], float]:
    """An engine process each for glulam and the peers, closed with `stack`; and the seconds glulam took to compile."""
    threads = options.threads
    artifact = folder / f"{case.name}-{threads}.glulam"
    begin = time.perf_counter()
    compile_graph(case.graph, options).save(artifact)
    compiled = time.perf_counter() - begin
    engines = {OURS: stack.enter_context(EngineProcess(OURS, artifact, feeds, threads=threads))}
    if peers:
        file = case.write_onnx(folder / f"{case.name}.onnx")
        for peer in peers:
            engines[peer] = stack.enter_context(EngineProcess(peer, file, feeds, threads=threads))
    return engines, compiled


def measure_case(name: str, options: Options, peers: Sequence[str], rounds: int, turn_seconds: float) -> dict[str, Any]:
    """One model at one thread count: a JSON object with seconds, bytes, ratios and differences per engine."""
    case = open_case(name)
    feeds = case.feeds()
    with tempfile.TemporaryDirectory(prefix="glulam-") as folder, ExitStack() as stack:
        engines, compiled = start_engines(stack, case, feeds, options, peers, Path(folder))
        turns = take_turns(engines, rounds, turn_seconds)
        expected = engines[peers[0]].outputs if peers else engines[OURS].outputs
        report = {
            label: {
                "version": engine.version,
                "seconds": turns.seconds(label).as_json(),
                "load_seconds": engine.load_seconds,
                "peak_rss": engine.peak_rss(),
                "idle_cpu_seconds": engine.idle_cpu(),
                "difference": difference(engine.outputs, expected),
            }
            for label, engine in engines.items()
        }
    return {
        "model": name,
        "threads": options.threads,
        "numerics": options.numerics,
        "compile_seconds": compiled,
        "engines": report,
        "ratios": ratios(turns, peers),
    }


def ratios(turns: Rounds, peers: Sequence[str]) -> dict[str, dict[str, float]]:
    """glulam's time over each peer's, and over the fastest peer's: below one, glulam is faster."""
    table = {peer: turns.ratio(OURS, peer).as_json() for peer in peers}
    if peers:
        table["fastest"] = turns.ratio_to_fastest(OURS, peers).as_json()
    return table


def table_of(cases: Sequence[Mapping[str, Any]], peers: Sequence[str], title: str) -> Table:
    """The cases as a table for the terminal."""
    table = Table(title=title, caption="ratio: glulam / the faster peer, round by round; median [quartiles]")
    columns = ["model", "threads", "ratio", "glulam ms", *(f"{peer} ms" for peer in peers), "load ms", "peak MB"]
    for column in (*columns, "difference"):
        table.add_column(column, justify="left" if column == "model" else "right")
    for case in cases:
        engines = case["engines"]
        ratio = case["ratios"].get("fastest")
        table.add_row(
            case["model"],
            str(case["threads"]),
            f"{ratio['median']:.3f} [{ratio['low']:.3f} {ratio['high']:.3f}]" if ratio else "-",
            *(f"{engines[label]['seconds']['median'] * 1e3:.2f}" for label in (OURS, *peers)),
            " / ".join(f"{engines[label]['load_seconds'] * 1e3:.0f}" for label in (OURS, *peers)),
            " / ".join(f"{engines[label]['peak_rss'] / 1e6:.0f}" for label in (OURS, *peers)),
            f"{engines[OURS]['difference']:.1e}",
        )
    return table


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m glulam.benchmarks.run", description=__doc__.partition("\n")[0])
    parser.add_argument("--models", default="resnet50", help="zoo networks, real models or .onnx files, by commas")
    parser.add_argument("--threads", default="1", help="thread counts, by commas")
    parser.add_argument(
        "--numerics", default="fast", choices=("fast", "strict"), help="strict: without Winograd (fast)"
    )
    parser.add_argument("--peers", action="store_true", help="measure ONNX Runtime and OpenVINO as well")
    parser.add_argument("--rounds", type=int, default=9, help="rounds in which each engine has one turn")
    parser.add_argument("--turn", type=float, default=0.3, metavar="SECONDS", help="about how long a turn lasts")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write everything that was measured here")
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> int:
    options = parse(arguments)
    console = Console()
    peers = installed_peers() if options.peers else []
    for missing in set(PEERS) - set(peers) if options.peers else ():
        console.print(f"{missing} is not installed: measured without it (pip install 'glulam[bench]')")
    cases: list[dict[str, Any]] = []
    for name in options.models.split(","):
        for threads in map(int, options.threads.split(",")):
            with console.status(f"{name}, {threads} thread(s)"):
                settings = Options(threads=threads, numerics=options.numerics)
                cases.append(measure_case(name, settings, peers, options.rounds, options.turn))
            versions = ", ".join(f"{label} {engine['version']}" for label, engine in cases[-1]["engines"].items())
            console.print(table_of(cases[-1:], peers, f"{processor_name()}: {versions}"))
    result = {
        "cpu": processor_name(),
        "python": platform.python_version(),
        "versions": {label: engine["version"] for label, engine in cases[0]["engines"].items()},
        "cases": cases,
    }
    console.print(table_of(cases, peers, processor_name()))
    if options.json:
        options.json.parent.mkdir(parents=True, exist_ok=True)
        options.json.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except GlulamError as error:
        sys.exit(f"error: {error}")
