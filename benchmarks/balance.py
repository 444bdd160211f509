"""How well the steps of a model divide among threads, by simulation: no machine with that many cores is needed.

    python -m glulam.benchmarks.balance resnet50 mobilenet_v2 --threads 2,4,8,16,64

The runtime gives each step out in chunks of `grain` iterations: a thread takes the chunks of its own share in order,
then those that are left of the other shares, and goes on to the next step, where it waits for the last chunks of those
that this step depends on (`compiler.codegen.workers`). The work of a chunk is that of its iterations, counted in the
loop IR (vector operations), so that a short section at an edge weighs less than a long one. The share of balanced work
is

    sum over steps of work  /  (threads x time until the last one ends)

which is what the speed-up would be, per thread, if memory, meetings and wake-ups cost nothing. The model is compiled
for each number of threads; the work above the line is that of the model compiled for one thread, so that what smaller
parts compute twice does not count as done. With `--measure` steps weigh what they take on one thread of this machine
instead of what their operations count.
"""

from __future__ import annotations

import argparse
import heapq
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from rich.table import Table

from glulam.arguments import amount, counts, not_negative, positive
from glulam.benchmarks.cases import Case, open_case
from glulam.benchmarks.counting import rounds
from glulam.compiler.driver import build_artifact, lower
from glulam.compiler.loops.hazards import dependences
from glulam.compiler.loops.ir import Declare, For, Kernel, Kind, Prefetch, Section, Stmt
from glulam.compiler.loops.program import Program, Step
from glulam.compiler.options import Options
from glulam.console import exit_with, wide_console
from glulam.runtime import abi
from glulam.runtime.model import Model


@dataclass(frozen=True)
class Balance:
    """One step on so many threads: its work, and the time that all of them together waited for its end."""

    label: str
    chunks: int
    work: float
    lost: float
    threads: int

    @property
    def share(self) -> float:
        return self.work / (self.work + self.lost) if self.work else 1.0


def balance(program: Program, threads: int, seconds: Sequence[float] | None = None) -> list[Balance]:
    """All steps on so many threads; each weighs `seconds`, or its operations if none are given."""
    steps = program.steps
    work = [chunk_work(step) for step in steps]
    if seconds is not None:
        scales = [second / (sum(chunks) or 1.0) for second, chunks in zip(seconds, work, strict=True)]
        work = [[chunk * scale for chunk in chunks] for chunks, scale in zip(work, scales, strict=True)]
    times, ends, lost = [0.0] * threads, list[float](), [0.0] * len(steps)

    def waited(others: Sequence[int]) -> list[float]:
        """When each thread has seen the end of the others."""
        if not others:
            return times
        last = max(others, key=lambda other: ends[other])
        seen = [max(ends[last], time) for time in times]
        lost[last] += sum(seen) - sum(times)
        return seen

    for step, needed, chunks in zip(steps, dependences(steps), work, strict=True):
        begins = waited(needed)
        times = assign(chunks, threads, step.claim, begins)
        ends.append(max((end for begin, end in zip(begins, times, strict=True) if end > begin), default=min(begins)))
    waited(range(len(steps)))
    each = zip(steps, work, lost, strict=True)
    return [Balance(step.label, len(chunks), sum(chunks), wasted, threads) for step, chunks, wasted in each]


def share(steps: Iterable[Balance], single: Iterable[Balance] | None = None) -> float:
    """The share of balanced work of a whole run; `single` are the steps of the model compiled for one thread."""
    steps = list(steps)
    most = sum(step.work + step.lost for step in steps)
    return sum(step.work for step in single or steps) / most if most else 1.0


def simulate(case: Case, counts: Sequence[int], repeat: int = 0) -> list[tuple[float, list[Balance]]]:
    """The share of balanced work and the steps for each number of threads; by time if measured `repeat` times."""
    found: dict[int, list[Balance]] = {}
    for count in (1, *counts):
        options = Options(threads=count)
        seconds = measured_seconds(case, options, repeat) if repeat else None
        found[count] = balance(lower(case.graph, options), count, seconds)
    return [(share(found[count], found[1]), found[count]) for count in counts]


def assign(chunks: Sequence[float], threads: int, claim: int = 1, begins: Sequence[float] | None = None) -> list[float]:
    """When each thread is done: whoever is free first claims the next chunks of its share, then of those behind it."""
    shares = min(threads, abi.MAX_SHARES)
    bounds = [number * len(chunks) // shares for number in range(shares + 1)]
    next_of = bounds[:-1]
    loads = list(begins or [0.0] * threads)
    busy = [(begin, thread) for thread, begin in enumerate(loads)]
    heapq.heapify(busy)
    while any(first < end for first, end in zip(next_of, bounds[1:], strict=True)):
        now, thread = heapq.heappop(busy)
        turns = ((thread + turn) % shares for turn in range(shares))
        mine = next(number for number in turns if next_of[number] < bounds[number + 1])
        end = next_of[mine] + abi.claim_size(bounds[mine + 1] - next_of[mine], threads, claim)
        loads[thread] = now + sum(chunks[next_of[mine] : end])
        next_of[mine] = end
        heapq.heappush(busy, (loads[thread], thread))
    return loads


def chunk_work(step: Step) -> list[float]:
    """Operations of each chunk of the step, for all parts of a batch."""
    if step.foreign is not None:
        return [1.0]
    each = iteration_work(step.kernel)
    totals = np.concatenate(([0.0], np.cumsum(each)))
    starts = np.arange(0, step.kernel.extent, step.grain)
    ends = np.minimum(starts + step.grain, step.kernel.extent)
    work: list[float] = (totals[ends] - totals[starts]).tolist()
    return work * step.parts


def iteration_work(kernel: Kernel) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
    """Operations of every iteration of the kernel's parallel space."""
    work = {section: _work(section) for section in kernel.sections}
    parts = [np.full(len(iterations), work[section]) for section, iterations, _ in kernel.pieces()]
    return np.concatenate(parts) if parts else np.zeros(0)


def _work(section: Section) -> float:
    return max(sum(map(_operations, section.body)), 1.0)


def _operations(stmt: Stmt) -> float:
    """Vector (or scalar) operations; each store and each assignment to a tile counts as one."""
    if isinstance(stmt, For):
        times = 1 if stmt.kind is Kind.VECTOR else rounds(stmt)
        return times * sum(map(_operations, stmt.body))
    return 0.0 if isinstance(stmt, Declare | Prefetch) else 1.0


def measured_seconds(case: Case, options: Options, repeat: int) -> list[float]:
    """What each step takes on one thread of this machine."""
    with Model(build_artifact(case.graph, options)) as model:
        return [step.seconds for step in model.profile(case.feeds(), repeat).steps]


def main(arguments: Sequence[str] | None = None) -> int:
    """Print a row for each model, and with --steps the steps that lose most; 1 if a share is below --bar."""
    parser = argparse.ArgumentParser(
        prog="python -m glulam.benchmarks.balance",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("models", nargs="+", metavar="MODEL", help="networks of the zoo, real models, or ONNX files")
    parser.add_argument(
        "--threads", type=counts, default="2,4,8,16,64", metavar="N,N", help="numbers of threads (2,4,8,16,64)"
    )
    parser.add_argument(
        "--steps", type=not_negative, default=0, metavar="N", help="also the N steps that lose most work"
    )
    parser.add_argument("--measure", action="store_true", help="weigh steps by their time on one thread")
    parser.add_argument("--repeat", type=positive, default=20, metavar="N", help="runs of a measurement (20)")
    parser.add_argument("--bar", type=amount, default=0.0, metavar="SHARE", help="fail if a share is below this")
    chosen = parser.parse_args(arguments)
    console, worst = wide_console(160), 1.0
    table = Table("model", *(f"{count} threads" for count in chosen.threads), title="share of balanced work", box=None)
    for name in chosen.models:
        case = open_case(name)
        rows = simulate(case, chosen.threads, chosen.repeat if chosen.measure else 0)
        worst = min([worst, *(found for found, _ in rows)])
        table.add_row(name, *(f"{found:.1%}" for found, _ in rows))
        for _, steps in rows if chosen.steps else ():
            console.print(_steps_table(steps, chosen.steps, name))
    console.print(table)
    return int(worst < chosen.bar)


def _steps_table(steps: list[Balance], count: int, name: str) -> Table:
    total = sum(step.work + step.lost for step in steps)
    table = Table("lost", "balanced", "chunks", "step", title=f"{name}, {steps[0].threads} threads", box=None)
    for step in sorted(steps, key=lambda step: -step.lost)[:count]:
        table.add_row(f"{step.lost / total:.1%}", f"{step.share:.0%}", str(step.chunks), step.label)
    return table


if __name__ == "__main__":
    exit_with(main)
