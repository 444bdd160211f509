"""The scoreboard: ONNX's backend suite, run natively, counted per operator as passed, refused or failed.

    python -m glulam.frontends.onnx.scoreboard [--suite node] [--only softmax] [--json scores.json]

Refused is only what `frontends.onnx.refused` lists; anything else that does not give the expected numbers has failed.
Cases run in a process of their own, which is started again after a crash or when a case takes too long.
"""

from __future__ import annotations

import argparse
import json
import queue
import subprocess
import sys
import threading
import time
import warnings
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from glulam.compiler.errors import GlulamError, UnsupportedError
from glulam.frontends.onnx.proto import require_onnx
from glulam.frontends.onnx.refused import on_purpose
from glulam.frontends.onnx.suite import SUITES, Case, collect

RTOL, ATOL = 1e-3, 1e-5
# Two units in the last place, for seven cases of attention whose expected numbers were rounded at every step; all
# other cases pass with one.
BFLOAT16_RTOL = 2.0**-6
OUTCOMES = ("passed", "refused", "failed")
_START_SECONDS = 120.0  # until the first case of a worker begins: it imports onnx and makes all node cases


@dataclass(frozen=True)
class Score:
    """What came of one case. `built_in` names the inputs that the code was compiled for; `folded`: nothing ran."""

    suite: str
    name: str
    operator: str
    outcome: str
    detail: str = ""
    seconds: float = 0.0
    built_in: tuple[str, ...] = ()
    folded: bool = False


@dataclass
class Board:
    """All scores, and the tables made of them."""

    scores: list[Score] = field(default_factory=list)

    def count(self, suite: str | None = None) -> Counter[str]:
        return Counter(score.outcome for score in self.scores if suite in (None, score.suite))

    def operators(self) -> dict[str, Counter[str]]:
        """Outcomes of the node cases by operator."""
        table: dict[str, Counter[str]] = {}
        for score in self.scores:
            if score.suite == "node":
                table.setdefault(score.operator, Counter())[score.outcome] += 1
        return dict(sorted(table.items()))

    def text(self) -> str:
        """The table per operator, what failed and why, and the sums per suite."""
        head = f"{'operator':32}" + "".join(f"{outcome:>9}" for outcome in OUTCOMES)
        lines = [head] if self.operators() else []
        for operator, counts in self.operators().items():
            lines.append(f"{operator:32}" + "".join(f"{counts[outcome] or '.':>9}" for outcome in OUTCOMES))
        failed = [score for score in self.scores if score.outcome == "failed"]
        if failed:
            lines += ["", "failed:", *(f"  {score.suite} {score.name}: {score.detail}" for score in failed)]
        lines += ["", f"{'suite':32}" + "".join(f"{outcome:>9}" for outcome in OUTCOMES)]
        for suite in dict.fromkeys(score.suite for score in self.scores):
            counts = self.count(suite)
            lines.append(f"{suite:32}" + "".join(f"{counts[outcome]:>9}" for outcome in OUTCOMES))
        folded = sum(score.folded for score in self.scores if score.outcome == "passed")
        built_in = sum(bool(score.built_in) for score in self.scores if score.outcome == "passed")
        lines.append(f"of those passed: {built_in} compiled for the values of an input, {folded} folded to constants")
        return "\n".join(lines)

    def json(self) -> dict[str, Any]:
        return {
            "tolerance": {"rtol": RTOL, "atol": ATOL, "rtol_bfloat16": BFLOAT16_RTOL},
            "suites": {suite: dict(self.count(suite)) for suite in dict.fromkeys(s.suite for s in self.scores)},
            "operators": {operator: dict(counts) for operator, counts in self.operators().items()},
            "cases": [asdict(score) for score in self.scores],
        }


def run(suites: Sequence[str] = SUITES, *, only: str = "", timeout: float = 120.0, progress: bool = False) -> Board:
    """Runs the cases whose name or operator contains `only`; a case may take `timeout` seconds."""
    board = Board()
    skip = 0
    while True:
        worker = _Worker(suites, only, skip)
        finished = False
        try:
            for score in worker.scores(timeout):
                if score is None:
                    finished = True
                    break
                board.scores.append(score)
                skip += 1
                if progress and sys.stderr.isatty():
                    print(f"\r{skip} {score.name[:70]:70}", end="", file=sys.stderr, flush=True)
        finally:
            worker.stop()
        if finished:
            return board


class _Worker:
    """A process that runs cases from number `skip` on, and what it says about them."""

    def __init__(self, suites: Sequence[str], only: str, skip: int) -> None:
        command = [sys.executable, "-m", __name__ if __name__ != "__main__" else "glulam.frontends.onnx.scoreboard"]
        command += ["--worker", str(skip), "--only", only, *(part for suite in suites for part in ("--suite", suite))]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        self.lines: queue.SimpleQueue[str | None] = queue.SimpleQueue()
        self.errors: list[str] = []
        self._readers = [
            threading.Thread(target=self._read, daemon=True),
            threading.Thread(target=self._complain, daemon=True),
        ]
        for reader in self._readers:
            reader.start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.lines.put(line)
        self.lines.put(None)

    def _complain(self) -> None:
        assert self.process.stderr is not None
        for line in self.process.stderr:
            self.errors = [*self.errors[-5:], line.strip()]

    def scores(self, timeout: float) -> Iterator[Score | None]:
        """The scores as they come; None at the end of the suite; nothing more after a crash or a case too long."""
        current: dict[str, Any] | None = None
        while True:
            try:
                line = self.lines.get(timeout=_START_SECONDS if current is None else timeout)
            except queue.Empty:
                line = None
            message = None if line is None else json.loads(line)
            match message:
                case {"begin": dict(begun)}:
                    current = begun
                case {"score": dict(score)}:
                    yield Score(**{**score, "built_in": tuple(score["built_in"])})
                case {"end": True}:
                    yield None
                    return
                case _:
                    if current is None:
                        raise UnsupportedError(f"the worker does not start: {' '.join(self.errors)}")
                    yield Score(**current, outcome="failed", detail=self._end(timeout))
                    return

    def _end(self, timeout: float) -> str:
        try:
            code = self.process.wait(timeout=1.0)
        except subprocess.TimeoutExpired:
            return f"no result after {timeout:.0f} s"
        return f"crashed with exit code {code}: {' '.join(self.errors)[-300:]}"

    def stop(self) -> None:
        self.process.kill()
        self.process.wait()


# ---- in the worker


def _work(cases: Sequence[Case], skip: int) -> None:
    for case in cases[skip:]:
        _say({"begin": {"suite": case.suite, "name": case.name, "operator": case.operator}})
        _say({"score": asdict(_score(case))})
    _say({"end": True})


def _say(message: dict[str, Any]) -> None:
    print(json.dumps(message), flush=True)


def _score(case: Case) -> Score:
    """Runs one case. Whatever it raises is a result to be told, so every exception is caught here."""
    from onnx.backend.test.runner import BackendIsNotSupposedToImplementIt

    from glulam.frontends.onnx.backend import Prepared, prepare

    began = time.perf_counter()

    def score(outcome: str, detail: str = "", built_in: tuple[str, ...] = (), folded: bool = False) -> Score:
        took = round(time.perf_counter() - began, 4)
        return Score(case.suite, case.name, case.operator, outcome, detail, took, built_in, folded)

    try:
        model, sets = case.load()
        prepared: Prepared = prepare(model)
        for inputs, expected in sets:
            compare(prepared.run(inputs), expected)
        variant = prepared.variants[-1]
        return score("passed", built_in=tuple(variant.built_in), folded=not variant.model.manifest.steps)
    except BackendIsNotSupposedToImplementIt as error:
        return score("refused", str(error))
    except UnsupportedError as error:
        detail = " ".join(str(error).split())
        return score("refused" if on_purpose(error) else "failed", f"UnsupportedError: {detail}"[:400])
    except Exception as error:
        return score("failed", f"{type(error).__name__}: {' '.join(str(error).split())}"[:400])


def compare(actual: Sequence[Any], expected: Sequence[Any]) -> None:
    """Raises AssertionError unless the outputs have the shapes, dtypes and, within the tolerance, numbers expected."""
    assert len(actual) == len(expected), f"{len(actual)} outputs, not {len(expected)}"
    for index, (got, wanted) in enumerate(zip(actual, expected, strict=True)):
        wanted = np.asarray(wanted)
        what = f"output {index}"
        assert got.shape == wanted.shape, f"{what} has shape {got.shape}, not {wanted.shape}"
        assert got.dtype == wanted.dtype, f"{what} has type {got.dtype}, not {wanted.dtype}"
        rtol = BFLOAT16_RTOL if wanted.dtype.name == "bfloat16" else RTOL
        np.testing.assert_allclose(got, wanted, rtol=rtol, atol=ATOL, err_msg=what)


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; exit code 1 if a case failed."""
    about = (__doc__ or "").split("\n")[0]
    name = "python -m glulam.frontends.onnx.scoreboard"
    parser = argparse.ArgumentParser(prog=name, description=about, allow_abbrev=False)
    add_arguments(parser)
    options = parser.parse_args(arguments)
    try:
        require_onnx()
    except GlulamError as error:
        parser.exit(1, f"error: {error}\n")
    suites = options.suite or list(SUITES)
    if options.worker is not None:
        warnings.simplefilter("ignore")
        cases = [case for case in collect(suites) if _wanted(case, options.only)]
        _work(cases, options.worker)
        return 0
    return show(suites, options.only, options.timeout, options.json)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--suite", action="append", choices=SUITES, help="run these suites only; may be repeated")
    parser.add_argument("--only", default="", metavar="TEXT", help="cases whose name contains TEXT")
    parser.add_argument("--timeout", type=float, default=120.0, help="seconds that one case may take (120)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write every score to FILE")
    parser.add_argument("--worker", type=int, help=argparse.SUPPRESS)


def show(suites: Sequence[str], only: str, timeout: float, file: Path | None) -> int:
    """Run, print, write; 1 if a case failed."""
    began = time.perf_counter()
    board = run(suites, only=only, timeout=timeout, progress=True)
    print(board.text())
    print(f"{len(board.scores)} cases in {time.perf_counter() - began:.0f} s")
    if file is not None:
        file.write_text(json.dumps(board.json(), indent=1) + "\n", encoding="utf-8")
    return 1 if board.count()["failed"] else 0


def _wanted(case: Case, only: str) -> bool:
    return only.lower() in case.name.lower() or only.lower() == case.operator.lower()


if __name__ == "__main__":
    sys.exit(main())
