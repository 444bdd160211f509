"""Measure glulam against ONNX Runtime and OpenVINO on the same models, in the same run, ratios first.

python -m glulam.benchmarks.run --models resnet50,mobilenet_v2 --threads 1,2 --peers --json out/bench.json
python -m glulam.benchmarks.run --models all --threads 1,2 --peers --rounds 5 --turn 0.2 --json out/all.json
python -m glulam.benchmarks.run --models resnet50 --batch 8 --isa avx2 --peers
"""

from __future__ import annotations

import argparse
import platform
import tempfile
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from rich.markup import escape
from rich.table import Table

from glulam.arguments import counts, output_file, positive, seconds
from glulam.benchmarks.cases import Case, all_names, open_case
from glulam.benchmarks.measure import Rounds, difference, take_turns
from glulam.benchmarks.peers import PEERS, SWITCHES, EngineProcess, installed_peers
from glulam.compiler.driver import compile_graph
from glulam.compiler.options import Options
from glulam.console import exit_with, wide_console, write_json
from glulam.runtime.cpu import processor_name

OURS = "glulam"
TARGETS: Mapping[str, str] = {"native": "native", "avx2": "native:x86-64-v3"}
NO_SWITCH = "no switch"


@dataclass(frozen=True)
class Setup:
    """What is measured besides the model: `batch` None is the model's own, `isa` one of TARGETS, for all engines."""

    peers: Sequence[str] = ()
    threads: int = 1
    numerics: Literal["fast", "strict"] = "fast"
    batch: int | None = None
    isa: str = "native"
    rounds: int = 9
    turn_seconds: float = 0.3

    @property
    def options(self) -> Options:
        return Options(target=TARGETS[self.isa], threads=self.threads, numerics=self.numerics)

    def switches(self, engine: str) -> Mapping[str, str]:
        """The environment that limits this peer to `isa`; empty if nothing does, or nothing is to."""
        return SWITCHES.get(self.isa, {}).get(engine, {})

    def instructions(self, engine: str) -> str:
        """The instruction set that the engine is held to, or `no switch` if it takes the best one regardless."""
        if self.isa == "native" or engine == OURS:
            return TARGETS[self.isa].removeprefix("native:")
        return self.isa if self.switches(engine) else NO_SWITCH


def start_engines(stack: ExitStack, case: Case, setup: Setup, folder: Path) -> tuple[dict[str, EngineProcess], float]:
    """An engine process each for glulam and the peers, closed with `stack`; and the seconds glulam took to compile."""
    threads, feeds = setup.threads, case.feeds()
    artifact = folder / "model.glulam"
    begin = time.perf_counter()
    compile_graph(case.graph, setup.options).save(artifact)
    compiled = time.perf_counter() - begin
    engines = {OURS: stack.enter_context(EngineProcess(OURS, artifact, feeds, threads=threads))}
    if setup.peers:
        file = case.write_onnx(folder / "model.onnx")
        for peer in setup.peers:
            engine = EngineProcess(peer, file, feeds, threads=threads, environment=setup.switches(peer))
            engines[peer] = stack.enter_context(engine)
    return engines, compiled


def measure_case(name: str, setup: Setup) -> dict[str, Any]:
    """The model of that name, see `measure`."""
    return measure(open_case(name, batch=setup.batch), setup)


def measure(case: Case, setup: Setup) -> dict[str, Any]:
    """One model in one setup: a JSON object with seconds, bytes, ratios and differences per engine."""
    peers = setup.peers
    with tempfile.TemporaryDirectory(prefix="glulam-") as folder, ExitStack() as stack:
        engines, compiled = start_engines(stack, case, setup, Path(folder))
        turns = take_turns(engines, setup.rounds, setup.turn_seconds)
        expected = engines[peers[0]].outputs if peers else engines[OURS].outputs
        report = {
            label: {
                "version": engine.version,
                "instructions": setup.instructions(label),
                "seconds": turns.seconds(label).as_json(),
                "load_seconds": engine.load_seconds,
                "peak_rss": engine.peak_rss(),
                "idle_cpu_seconds": engine.idle_cpu(),
                "difference": difference(engine.outputs, expected),
            }
            for label, engine in engines.items()
        }
    return {
        "model": case.name,
        "batch": case.batch,
        "threads": setup.threads,
        "numerics": setup.numerics,
        "isa": setup.isa,
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


def table_of(cases: Sequence[Mapping[str, Any]], peers: Sequence[str], title: str, worst_first: bool = False) -> Table:
    """The cases as a table for the terminal, in their order or that of their ratios to the faster peer."""
    if worst_first:
        cases = sorted(cases, key=lambda case: -case["ratios"]["fastest"]["median"])
    table = Table(title=title, caption="ratio: glulam / the faster peer, round by round; median and quartiles")
    limited = limited_peers(cases[0], peers)
    heads = {peer: f"{peer} ms" for peer in peers}
    if cases[0]["isa"] != "native":
        heads |= {peer: f"{peer} ms\n({cases[0]['engines'][peer]['instructions']})" for peer in peers}
    columns = ["model", "batch", "threads", "ratio", *(f"to {peer}" for peer in limited), "glulam ms", *heads.values()]
    for column in (*columns, "load ms", "peak MB", "difference"):
        table.add_column(column, justify="left" if column == "model" else "right", no_wrap=column == "model")
    for case in cases:
        engines = case["engines"]
        table.add_row(
            case["model"],
            str(case["batch"]),
            str(case["threads"]),
            *(spread_text(case["ratios"].get(label)) for label in ("fastest", *limited)),
            *(f"{engines[label]['seconds']['median'] * 1e3:.2f}" for label in (OURS, *peers)),
            " / ".join(f"{engines[label]['load_seconds'] * 1e3:.0f}" for label in (OURS, *peers)),
            " / ".join(f"{engines[label]['peak_rss'] / 1e6:.0f}" for label in (OURS, *peers)),
            f"{engines[OURS]['difference']:.1e}",
        )
    return table


def limited_peers(case: Mapping[str, Any], peers: Sequence[str]) -> list[str]:
    """The peers to give a ratio of their own for: those held to the instruction set, if another one is not."""
    free = [peer for peer in peers if case["engines"][peer]["instructions"] == NO_SWITCH]
    return [peer for peer in peers if peer not in free] if free else []


def spread_text(ratio: Mapping[str, float] | None) -> str:
    return f"{ratio['median']:.3f} [{ratio['low']:.3f} {ratio['high']:.3f}]" if ratio else "-"


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m glulam.benchmarks.run", description=__doc__.partition("\n")[0])
    parser.add_argument(
        "--models", default="resnet50", metavar="MODELS", help="networks, real models or .onnx files, by commas; or all"
    )
    parser.add_argument("--threads", type=counts, default="1", metavar="N,N", help="numbers of threads, by commas (1)")
    parser.add_argument(
        "--numerics",
        default="fast",
        choices=("fast", "strict"),
        help="strict: add up as defined (fast)",
    )
    parser.add_argument("--batch", type=positive, metavar="N", help="samples per run (as the model has it, mostly 1)")
    parser.add_argument(
        "--isa", default="native", choices=tuple(TARGETS), help="instructions for all engines that can be told (native)"
    )
    parser.add_argument("--peers", action="store_true", help="measure ONNX Runtime and OpenVINO as well")
    parser.add_argument("--rounds", type=positive, default=9, metavar="N", help="rounds of one turn each (9)")
    parser.add_argument("--turn", type=seconds, default=0.3, metavar="SECONDS", help="length of a turn (0.3)")
    parser.add_argument("--json", type=output_file, metavar="FILE", help="write everything that was measured here")
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> int:
    options = parse(arguments)
    console = wide_console()
    peers = installed_peers() if options.peers else []
    for missing in set(PEERS) - set(peers) if options.peers else ():
        console.print(escape(f"{missing} is not installed: measured without it (pip install 'glulam[bench]')"))
    cases: list[dict[str, Any]] = []
    for name in all_names() if options.models == "all" else options.models.split(","):
        for threads in options.threads:
            with console.status(f"{name}, {threads} thread(s)"):
                setup = Setup(
                    peers=peers,
                    threads=threads,
                    numerics=options.numerics,
                    batch=options.batch,
                    isa=options.isa,
                    rounds=options.rounds,
                    turn_seconds=options.turn,
                )
                cases.append(measure_case(name, setup))
            versions = ", ".join(f"{label} {engine['version']}" for label, engine in cases[-1]["engines"].items())
            console.print(table_of(cases[-1:], peers, f"{processor_name()}: {versions}"))
    result = {
        "cpu": processor_name(),
        "python": platform.python_version(),
        "versions": {label: engine["version"] for label, engine in cases[0]["engines"].items()},
        "cases": cases,
    }
    if options.json:
        write_json(options.json, result)
    console.print(table_of(cases, peers, processor_name()))
    return 0


if __name__ == "__main__":
    exit_with(main)
