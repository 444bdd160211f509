"""Which cache lines go from one thread's caches to another's, by simulation.

    python -m glulam.benchmarks.sharing resnet50 --steps 10

    python -m glulam.benchmarks.sharing resnet50 --batch 8

Every thread is taken to do just its own share of each step (`compiler.codegen.workers`), and its caches to keep all
they have met. A line of the arena moves when a thread reads it that has not met it since another one wrote it, and when
a thread writes it that others have met. What kernels read and write is found in the loop IR: the places of a buffer
access are the sums of what its loop variables add, one variable after the other. Indices that are computed at run time,
the caller's tensors and the weights are left out. The figures are those of a run that follows another one.

Why it matters: on a Zen 4 EPYC a thread copies 0.4 MB, from its second-level cache to the same, in 8 microseconds;
where the other core wrote the source in 24, where it also read the target before in 40, and in 170 if the other core
belongs to another group of cores. Most of that is the write to a line that both cores have: 7 nanoseconds, or 28 to 35,
whether it was asked for ahead or not, while one that only the other core has takes 1, or 3, where lines follow each
other. So each line that a thread reads of another one's costs whoever writes there next.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from rich.table import Table

from glulam.arguments import not_negative, positive
from glulam.benchmarks.cases import open_case
from glulam.compiler.driver import lower
from glulam.compiler.loops.expr import Expr
from glulam.compiler.loops.index import Affine, Index, Var
from glulam.compiler.loops.ir import Access, Buffer, For, Kernel, Load, Section, Stmt, Store, TileWrite
from glulam.compiler.loops.program import Program, Step
from glulam.compiler.options import Options
from glulam.console import exit_with, wide_console
from glulam.runtime import abi

Lines = np.ndarray[tuple[int], np.dtype[np.int64]]
Footprint = dict[tuple[str, bool], Lines]
"""For each buffer, and whether it is written, the cache lines from its start that are met."""


@dataclass(frozen=True)
class Sharing:
    """Bytes of the arena that the threads meet in a step, and those of them that come from another thread's caches."""

    label: str
    met: int
    read: int
    written: int

    @property
    def moved(self) -> int:
        return self.read + self.written


def simulate(program: Program, threads: int) -> list[Sharing]:
    """All steps of the second of two runs."""
    met = np.zeros(-(-program.arena_bytes // abi.CACHE_LINE) + 1, np.int64)  # a bit for each thread
    known: dict[tuple[str, int, int], Footprint] = {}
    found: list[Sharing] = []
    for _ in range(2):
        found = []
        for step in program.steps:
            meets: list[tuple[int, int, Footprint]] = []
            for thread, part, begin, end in shares(step, threads):
                key = (step.kernel.name, begin, end)
                if key not in known:
                    known[key] = footprint(step.kernel, begin, end)
                meets.append((thread, part, known[key]))
            found.append(_step(step, meets, met))
    return found


def shares(step: Step, threads: int) -> Iterator[tuple[int, int, int, int]]:
    """(thread, part of the batch, begin, end) of the iterations in each thread's share."""
    each = abi.chunk_count(step.kernel.extent, step.grain)
    bounds = [each * step.parts * thread // threads for thread in range(threads + 1)]
    for thread, (first, last) in enumerate(pairwise(bounds)):
        for part in range(step.parts):
            low, high = max(first - part * each, 0), min(last - part * each, each)
            if low < high:
                yield thread, part, low * step.grain, min(high * step.grain, step.kernel.extent)


def _step(step: Step, meets: Sequence[tuple[int, int, Footprint]], met: Lines) -> Sharing:
    """Count what moves in a step, and note who has met which line after it: which thread meets what of which part."""
    places = [
        {b.name: ref for b, ref in zip(step.kernel.params, step.part(part), strict=True) if ref.space == "arena"}
        for part in range(step.parts)
    ]
    counts = {False: 0, True: 0}
    total, after = 0, met.copy()
    for writing in (False, True):
        for thread, part, each in meets:
            for (name, written), lines in each.items():
                if name not in places[part] or written is not writing:
                    continue
                at = lines + places[part][name].offset // abi.CACHE_LINE
                before, mine = met[at], 1 << thread
                moved = (before & ~mine) != 0 if writing else (before != 0) & (before & mine == 0)
                counts[writing] += int(moved.sum())
                total += len(at)
                after[at] = mine if writing else after[at] | mine
    met[:] = after
    return Sharing(step.label, *(n * abi.CACHE_LINE for n in (total, counts[False], counts[True])))


# ---- what a kernel meets


def footprint(kernel: Kernel, begin: int, end: int) -> Footprint:
    """What iterations `begin` to `end` of the kernel's parallel space read and write."""
    found: dict[tuple[str, bool], list[Lines]] = {}
    for section, iterations, first in kernel.pieces():
        met = iterations[max(begin - first, 0) : max(end - first, 0)]
        if met:
            for buffer, written, lines in _section(section, met.start, met.stop):
                found.setdefault((buffer.name, written), []).append(lines)
    return {key: np.unique(np.concatenate(parts)) for key, parts in found.items()}


def _section(section: Section, low: int, high: int) -> Iterator[tuple[Buffer, bool, Lines]]:
    values = _values(section.vars, low, high)
    done = set()
    for buffer, written, index in _accesses(section.body):
        if buffer.access is Access.SCRATCH or not all(isinstance(i, Affine) for i in index):
            continue
        start, steps = _offset(buffer, index)
        key = (buffer.name, written, start, frozenset(steps.items()))
        if key not in done:
            done.add(key)
            base = sum((values[v] * k for v, k in steps.items() if v in values), np.full(high - low, start))
            inner = [(v, k) for v, k in steps.items() if v not in values]
            yield buffer, written, _lines(np.unique(base), inner, buffer.dtype.size)


def _values(vars: Sequence[Var], low: int, high: int) -> dict[Var, Lines]:
    """The loop variables' values in iterations `low` to `high`."""
    found, rest = {}, np.arange(low, high)
    for var in reversed(vars):
        rest, found[var] = np.divmod(rest, max(var.extent, 1))
    return found


def _accesses(body: Iterable[Stmt]) -> Iterator[tuple[Buffer, bool, tuple[Index, ...]]]:
    """Each place in a buffer that is (not) written."""
    for stmt in body:
        if isinstance(stmt, For):
            yield from _accesses(stmt.body)
        elif isinstance(stmt, Store | TileWrite):
            if isinstance(stmt, Store):
                yield stmt.buffer, True, stmt.index
            yield from ((load.buffer, False, load.index) for load in _loads(stmt.value))


def _loads(value: Expr) -> Iterator[Load]:
    if isinstance(value, Load):
        yield value
    for child in value.children():
        yield from _loads(child)


def _offset(buffer: Buffer, index: Sequence[Index]) -> tuple[int, dict[Var, int]]:
    """Elements from the buffer's start: a constant, and what each variable adds."""
    total = Affine.of(0)
    for i, stride in zip(index, buffer.strides, strict=True):
        total = total + Affine.of(i) * stride
    return total.const, total.terms


def _lines(starts: Lines, steps: Sequence[tuple[Var, int]], size: int) -> Lines:
    """Cache lines that elements of `size` bytes lie in, from all starts, for all values of the variables."""
    places = starts
    for var, step in sorted(steps, key=lambda each: -abs(each[1])):  # few distinct places while steps are wide
        places = np.unique(np.add.outer(places, np.arange(var.extent) * step))
    return np.unique(places * size // abi.CACHE_LINE)


# ---- the command


def main(arguments: Sequence[str] | None = None) -> int:
    """Print a row for each model, and with --steps the steps in which most moves."""
    parser = argparse.ArgumentParser(
        prog="python -m glulam.benchmarks.sharing",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("models", nargs="+", metavar="MODEL", help="networks of the zoo, real models, or ONNX files")
    parser.add_argument("--threads", type=positive, default=2, metavar="N", help="number of threads (2)")
    parser.add_argument("--batch", type=positive, metavar="N", help="samples per run (as the model has it, mostly 1)")
    parser.add_argument(
        "--steps", type=not_negative, default=0, metavar="N", help="also the N steps in which most moves"
    )
    chosen = parser.parse_args(arguments)
    console = wide_console(160)
    table = Table("model", "met", "read", "written", title="MB that move between threads' caches in a run", box=None)
    for name in chosen.models:
        graph = open_case(name, batch=chosen.batch).graph
        steps = simulate(lower(graph, Options(threads=chosen.threads)), chosen.threads)
        table.add_row(name, *(_megabytes(sum(getattr(s, kind) for s in steps)) for kind in ("met", "read", "written")))
        if chosen.steps:
            console.print(_steps_table(steps, chosen.steps, name))
    console.print(table)
    return 0


def _steps_table(steps: list[Sharing], count: int, name: str) -> Table:
    table = Table("met", "read", "written", "step", title=f"{name}, MB", box=None)
    for step in sorted(steps, key=lambda step: -step.moved)[:count]:
        table.add_row(_megabytes(step.met), _megabytes(step.read), _megabytes(step.written), step.label)
    return table


def _megabytes(size: int) -> str:
    return f"{size / 1e6:.2f}"


if __name__ == "__main__":
    exit_with(main)
