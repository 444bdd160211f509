"""What several sub-commands share: arguments, their parsing, and how a model is named."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from glulam.arguments import positive
from glulam.runtime.errors import GlulamError

if TYPE_CHECKING:
    from glulam.benchmarks.cases import Case
    from glulam.compiler.options import Options

Subparsers = Any  # argparse does not export the type that add_subparsers returns


class UsageError(GlulamError):
    """The arguments do not fit together, or not to the model."""


def add_command(
    commands: Subparsers, shared: argparse.ArgumentParser, name: str, summary: str, examples: Sequence[str]
) -> argparse.ArgumentParser:
    """A sub-command whose help ends with examples."""
    parser: argparse.ArgumentParser = commands.add_parser(
        name,
        parents=[shared],
        help=summary[0].lower() + summary[1:].rstrip("."),
        description=summary,
        epilog="examples:\n" + "\n".join(f"  {example}" for example in examples),
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    return parser


def add_model_arguments(parser: argparse.ArgumentParser, tune: bool = True) -> None:
    """The model to compile, and the options of its compilation; without `tune`, for a command that measures anyway."""
    parser.add_argument(
        "model", help="an ONNX file, a network of the zoo (resnet50), or a real model (ppocrv4-det), fetched once"
    )
    parser.add_argument(
        "--shape",
        action="append",
        default=[],
        type=parse_shape,
        metavar="NAME=N,C,H,W",
        help="pin the shape of an input; needed where the file leaves extents open; once for each input",
    )
    parser.add_argument(
        "--target",
        default="native",
        help="native, x86-64-v2, x86-64-v3, x86-64-v4 or aarch64; native:x86-64-v3 is this machine without AVX-512",
    )
    parser.add_argument("--threads", type=positive, default=1, metavar="N", help="threads of one inference (1)")
    parser.add_argument(
        "--numerics",
        choices=("fast", "strict"),
        default="fast",
        help="strict: add up as defined",
    )
    parser.set_defaults(tune=False)
    if tune:
        parser.add_argument(
            "--tune",
            action="store_true",
            help="choose algorithms by measurements on this machine, kept for the next time",
        )
    parser.add_argument("--no-cache", dest="cache", action="store_false", help="generate all code anew")
    parser.add_argument("--no-fuse", dest="fuse", action="store_false", help="every layer its own kernel")
    parser.add_argument(
        "--disable",
        action="append",
        default=[],
        metavar="PASS",
        help="switch one pass off (`glulam explain` lists them)",
    )


def parse_shape(text: str) -> tuple[str, tuple[int, ...]]:
    """`x=1,3,640,640` as (name, extents), for argparse. `x=` is the shape of a scalar."""
    name, equals, extents = text.rpartition("=")
    numbers = extents.split(",") if extents else []
    if not equals or not name or not all(number.strip().isdecimal() for number in numbers):
        raise argparse.ArgumentTypeError(f"{text!r} is not of the form NAME=1,3,640,640")
    return name, tuple(map(int, numbers))


def compile_options(arguments: argparse.Namespace) -> Options:
    """The compiler's options from the arguments of `add_model_arguments`."""
    from glulam.compiler.options import Options

    return Options(
        target=arguments.target,
        threads=arguments.threads,
        numerics=arguments.numerics,
        fuse=arguments.fuse,
        tune=arguments.tune,
        cache=arguments.cache,
        disable=tuple(arguments.disable),
    )


def open_model(arguments: argparse.Namespace) -> Case:
    """The model named on the command line, imported.

    Raises UsageError for an artifact, which is compiled already, or for two shapes of one input.
    """
    from glulam.benchmarks.cases import open_case
    from glulam.runtime.artifact import is_artifact

    if is_artifact(arguments.model):
        raise UsageError(
            f"{arguments.model} is compiled already; name the model that it was made from "
            f"(what it holds: glulam inspect {arguments.model}; where its time goes: glulam run {arguments.model} "
            "--random 0 --profile)"
        )
    shapes = dict(arguments.shape)
    if len(shapes) != len(arguments.shape):
        raise UsageError("--shape was given twice for an input; once for each is possible")
    return open_case(arguments.model, shapes or None)


def check_artifact(path: Path) -> None:
    """Raises UsageError, with the way to an artifact, if the path names a model that is still to be compiled."""
    from glulam.runtime.artifact import is_artifact

    if not path.exists() and not path.suffix:
        raise UsageError(f"there is no file {path}; if that is a model, compile it first: glulam compile {path}")
    if path.is_file() and path.suffix == ".onnx" and not is_artifact(path):
        raise UsageError(f"{path} is not compiled yet: glulam compile {path} -o {path.with_suffix('.glulam').name}")


def check_output(path: Path) -> None:
    """Complains before the work rather than after it."""
    if path.is_dir():
        raise UsageError(f"{path} is a folder; give the name of a file, such as {path / 'result'}")
    if path.exists() and not path.is_file():
        raise UsageError(f"{path} is no regular file; give another name")
    if not path.parent.is_dir():
        raise UsageError(f"there is no folder {path.parent} to write {path.name} to")
