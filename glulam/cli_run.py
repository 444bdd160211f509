"""`glulam run` and `glulam inspect`: what works on an artifact, without the compiler."""

from __future__ import annotations

import argparse
import hashlib
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from rich.markup import escape
from rich.table import Table

from glulam.arguments import not_negative, positive
from glulam.cli_common import (
    Subparsers,
    UsageError,
    add_command,
    check_artifact,
    check_output,
)
from glulam.console import wide_console, write_arrays
from glulam.feeds import random_arrays
from glulam.runtime.array_files import ArrayFileError, read_arrays
from glulam.runtime.errors import writing

if TYPE_CHECKING:
    from glulam.runtime.artifact import Artifact
    from glulam.runtime.model import Model


def add_commands(commands: Subparsers, shared: argparse.ArgumentParser) -> None:
    run = add_command(
        commands,
        shared,
        "run",
        "Run a compiled model on arrays from files.",
        [
            "glulam run model.glulam --input x.npy -o out.npz",
            "glulam run model.glulam --input image=x.npy --input size=s.npy",
            "glulam run model.glulam --input all.npz --threads 2",
            "glulam run model.glulam --random 0 --profile",
        ],
    )
    run.add_argument("artifact", type=Path, help="a file that `glulam compile` wrote; load only files you trust")
    run.add_argument(
        "--input",
        action="append",
        default=[],
        metavar="[NAME=]FILE",
        help="an array (.npy), or several by name (.npz); the name can be left out if the model has one input",
    )
    run.add_argument("--random", type=not_negative, metavar="SEED", help="fill the inputs that are not given")
    run.add_argument(
        "-o",
        "--output",
        type=Path,
        metavar="FILE",
        help="write the outputs by name to this .npz; or to an .npy, if there is one",
    )
    run.add_argument("--threads", type=positive, default=1, metavar="N", help="threads (1)")
    run.add_argument("--profile", action="store_true", help="show where the time goes, kernel by kernel")
    run.set_defaults(action=run_model)

    inspect = add_command(
        commands,
        shared,
        "inspect",
        "Show what is in a compiled model: inputs, outputs, memory, required CPU, kernels.",
        [
            "glulam inspect model.glulam",
            "glulam inspect model.glulam --kernels",
            "glulam inspect model.glulam --graph",
        ],
    )
    inspect.add_argument("artifact", type=Path, help="a file that `glulam compile` wrote")
    inspect.add_argument("--kernels", action="store_true", help="list every kernel call: its layers, FLOP, bytes")
    inspect.add_argument("--graph", action="store_true", help="print the optimised graph that it was made from")
    inspect.set_defaults(action=inspect_model)


def run_model(arguments: argparse.Namespace) -> None:
    """Load, run once, write the outputs, and print a row for each."""
    from glulam.runtime.model import load

    output = arguments.output
    check_artifact(arguments.artifact)
    if output is not None:
        check_output(output)
        if output.suffix not in (".npz", ".npy"):
            raise UsageError(f"{output}: outputs are written to an .npz, by name, or to an .npy, if there is one")
    model = load(arguments.artifact, threads=arguments.threads)
    if output is not None and output.suffix == ".npy" and len(model.outputs) != 1:
        raise UsageError(f"{output} can hold one array, and there are {', '.join(model.outputs)}; write an .npz")
    feeds = _feeds(model, arguments)
    outputs = model.run(feeds)
    if output is not None:
        _write(output, outputs)
    if model.threads < arguments.threads:
        print(f"note: {model.threads} of {arguments.threads} threads: this process may use no more", file=sys.stderr)
    wide_console().print(_output_table(outputs))
    if arguments.profile:
        wide_console().print(_profile_table(model, feeds))
    if output is not None:
        print(f"written to {output}")


def _feeds(model: Model, arguments: argparse.Namespace) -> dict[str, np.ndarray]:
    """An array for every input: from its file, or random."""
    feeds = read_inputs(arguments.input, list(model.inputs))
    if unknown := [name for name in feeds if name not in model.inputs]:
        known = ", ".join(map(str, model.inputs.values()))
        raise UsageError(f"the model has no input {', '.join(unknown)}; it has {known}")
    missing = [spec for name, spec in model.inputs.items() if name not in feeds]
    if missing and arguments.random is None:
        wanted = ", ".join(map(str, missing))
        raise UsageError(f"no array for {wanted}; give --input NAME=FILE, or --random SEED")
    specs = {spec.name: (spec.shape, spec.numpy) for spec in missing}
    return feeds | random_arrays(specs, arguments.random or 0)


def read_inputs(entries: Sequence[str], names: Sequence[str]) -> dict[str, np.ndarray]:
    """Arrays by name from `--input` arguments: FILE, NAME=FILE, or an .npz with several.

    Raises UsageError if a file is given without a name although the model has several inputs, or a second one for an
    input, InputError (by the model) if names or shapes do not fit it.
    """
    feeds: dict[str, np.ndarray] = {}
    for entry in entries:
        name, _, path = entry.rpartition("=") if not Path(entry).exists() else ("", "", entry)
        loaded = _read_array_file(Path(path))
        if isinstance(loaded, dict):
            if name:
                raise UsageError(f"{path} holds arrays with names of their own; leave out {name}=")
            found = loaded
        elif name or len(names) == 1:
            found = {name or names[0]: loaded}
        else:
            raise UsageError(f"say which input {path} is for: --input NAME={path}, with NAME one of {', '.join(names)}")
        if twice := feeds.keys() & found.keys():
            raise UsageError(f"{path} is a second array for {', '.join(sorted(twice))}; give one for each input")
        feeds.update(found)
    return feeds


def _read_array_file(path: Path) -> np.ndarray | dict[str, np.ndarray]:
    try:
        return read_arrays(path)
    except ArrayFileError as error:
        raise UsageError(str(error)) from error


def _write(path: Path, outputs: Mapping[str, np.ndarray]) -> None:
    with writing(path):
        if path.suffix == ".npy":
            (array,) = outputs.values()
            np.save(path, array, allow_pickle=False)
        else:
            write_arrays(path, outputs)


def _output_table(outputs: Mapping[str, np.ndarray]) -> Table:
    table = Table(title="outputs", title_justify="left")
    for column in ("name", "type", "min", "mean", "max"):
        table.add_column(column, justify="left" if column in ("name", "type") else "right")
    for name, array in outputs.items():
        shape = ",".join(map(str, array.shape))
        wide = array.astype(np.float64)
        numbers = (wide.min(), wide.mean(), wide.max()) if array.size else ()
        table.add_row(escape(name), escape(f"{array.dtype}[{shape}]"), *(f"{number:.5g}" for number in numbers))
    return table


def _profile_table(model: Model, feeds: Mapping[str, np.ndarray]) -> Table:
    """Where the time of a run goes, slowest first."""
    profile = model.profile(feeds)
    table = Table(
        title=f"{profile.seconds * 1e3:.3f} ms, {len(profile.steps)} kernels, slowest first", title_justify="left"
    )
    for column in ("layers", "kernel", "ms", "share", "GFLOP/s", "GB/s"):
        table.add_column(column, justify="left" if column in ("layers", "kernel") else "right")
    for step in sorted(profile.steps, key=lambda step: -step.seconds):
        table.add_row(
            escape(step.label),
            escape(step.kernel),
            f"{step.seconds * 1e3:.3f}",
            f"{step.seconds / (profile.seconds or 1.0):.1%}",
            f"{step.gflops:.1f}",
            f"{step.gbytes:.1f}",
        )
    return table


def inspect_model(arguments: argparse.Namespace) -> None:
    """The manifest, readable, of a file that is what its hashes say. Nothing of the artifact's code is executed."""
    from glulam.runtime.artifact import Check, open_artifact

    check_artifact(arguments.artifact)
    artifact = open_artifact(arguments.artifact, Check.HASH)
    manifest = artifact.manifest
    if arguments.graph:
        print(artifact.graph_text, end="")
        return
    facts = Table(box=None, show_header=False, padding=(0, 1))
    rows = {
        "file": f"{arguments.artifact}, {arguments.artifact.stat().st_size / 1e6:.1f} MB",
        "written by": f"glulam {manifest.glulam_version}, format {manifest.format_version}",
        "compiled for": f"{manifest.target} ({manifest.triple})",
        "needs": " ".join(manifest.cpu_features) or "nothing beyond the architecture",
        "options": ", ".join(f"{key}={value}" for key, value in manifest.options.items()),
        "memory": f"weights {artifact.weights.nbytes / 1e6:.2f} MB, arena {manifest.arena_bytes / 1e6:.2f} MB, "
        f"each thread {manifest.scratch_bytes / 1e3:.1f} kB more",
        "inputs": "\n".join(map(str, manifest.inputs)),
        "outputs": "\n".join(map(str, manifest.outputs)),
        "work": f"{len(manifest.steps)} calls of {len({step.kernel for step in manifest.steps})} kernels, "
        f"{sum(step.flops for step in manifest.steps) / 1e9:.2f} GFLOP",
        "SHA-256": "\n".join(f"{_sha256(part)} {name}" for name, part in _parts(artifact).items()),
    }
    for name, value in rows.items():
        facts.add_row(name, escape(value))
    wide_console().print(facts)
    if arguments.kernels:
        table = Table(box=None, padding=(0, 1))
        for column in ("layers", "kernel", "MFLOP", "kB"):
            table.add_column(column, justify="left" if column in ("layers", "kernel") else "right")
        for step in manifest.steps:
            table.add_row(escape(step.label), escape(step.kernel), f"{step.flops / 1e6:.2f}", f"{step.bytes / 1e3:.0f}")
        wide_console().print(table)


def _parts(artifact: Artifact) -> dict[str, bytes | memoryview]:
    return {
        "graph": artifact.graph_text.encode(),
        "code": artifact.object_code,
        "weights": artifact.weights.data,
    }


def _sha256(part: bytes | memoryview) -> str:
    return hashlib.sha256(part).hexdigest()
