"""What a compilation takes: seconds, and memory at its peak.

    python -m glulam.benchmarks.compile resnet50 unet vit_b_16

Every figure is from a fresh process. `network` compiles a network of the zoo, which was built before the clock starts,
`file` imports the same from an ONNX file and compiles it, with all modules that this takes, `shell` is `glulam compile`
from that file to an artifact, which `load` loads. Cold means that no generated code is on disk, cached that the same
was compiled before. The parameters count with the size of the ONNX file, which stores them in float32.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.table import Table

from glulam.arguments import amount
from glulam.benchmarks.cases import open_case
from glulam.compiler.cache import VARIABLE
from glulam.console import exit_with, wide_console
from glulam.frontends.zoo import NETWORKS
from glulam.runtime.errors import GlulamError


@dataclass(frozen=True)
class Run:
    """Seconds of one process's work, and the most memory (bytes) that the process had."""

    seconds: float
    peak: float


@dataclass(frozen=True)
class Costs:
    """What the ways to a compiled model take; there is no `network` for a model that is not in the zoo."""

    name: str
    file_bytes: int
    network: Run | None
    network_cached: Run | None
    file: Run
    file_cached: Run
    shell: Run
    load: Run

    @property
    def peak(self) -> float:
        """The highest of all compilations."""
        runs = (self.network, self.network_cached, self.file, self.file_cached, self.shell)
        return max(run.peak for run in runs if run is not None)


def measure(name: str, folder: Path) -> Costs:
    """The costs of a model, with files in the folder."""
    path, artifact = folder / "model.onnx", folder / "model.glulam"
    open_case(name).write_onnx(path)
    in_zoo = name in NETWORKS
    return Costs(
        name,
        path.stat().st_size,
        _run(folder / "network", "network", name) if in_zoo else None,
        _run(folder / "network", "network", name) if in_zoo else None,
        _run(folder / "file", "file", str(path)),
        _run(folder / "file", "file", str(path)),
        _run(folder / "shell", "shell", str(path), str(artifact)),
        _run(folder / "shell", "load", str(artifact)),
    )


def _run(cache: Path, *arguments: str) -> Run:
    done = subprocess.run(
        [sys.executable, "-m", "glulam.benchmarks.compile_worker", *arguments],
        env={**os.environ, VARIABLE: str(cache)},
        capture_output=True,
        text=True,
    )
    if done.returncode:
        raise GlulamError(f"{' '.join(arguments)} failed: {done.stderr.strip().rpartition(chr(10))[2]}")
    return Run(**json.loads(done.stdout))


def main(arguments: Sequence[str] | None = None) -> int:
    """Print a row for each model; 1 if a compilation takes more memory than it may."""
    parser = argparse.ArgumentParser(
        prog="python -m glulam.benchmarks.compile",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("models", nargs="+", metavar="MODEL", help="networks of the zoo, real models, or ONNX files")
    parser.add_argument(
        "--most", nargs=2, type=amount, metavar=("TIMES", "MB"), help="memory allowed: times the model file, plus MB"
    )
    chosen = parser.parse_args(arguments)
    columns = ("network s", "cached", "file s", "cached", "load s", "model MB", "network", "file", "shell", "load MB")
    table = Table("model", *columns, box=None)
    missed = False
    for name in chosen.models:
        with tempfile.TemporaryDirectory() as folder:
            costs = measure(name, Path(folder))
        if chosen.most is not None:
            times, more = chosen.most
            missed |= costs.peak > times * costs.file_bytes + more * 1e6
        table.add_row(name, *_cells(costs))
    wide_console(160).print(table)
    return int(missed)


def _cells(costs: Costs) -> list[str]:
    compilations = (costs.network, costs.file, costs.shell)
    timed = (costs.network, costs.network_cached, costs.file, costs.file_cached, costs.load)
    seconds = [_shown(run and run.seconds, 2) for run in timed]
    peaks = [_shown(run and run.peak / 1e6) for run in (*compilations, costs.load)]
    return [*seconds, _shown(costs.file_bytes / 1e6), *peaks]


def _shown(number: float | None, digits: int = 0) -> str:
    return "" if number is None else f"{number:.{digits}f}"


if __name__ == "__main__":
    exit_with(main)
