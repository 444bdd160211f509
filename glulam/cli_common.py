"""What several sub-commands share: arguments, their parsing, and how a model is named."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

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
    )
    return parser


def add_model_arguments(parser: argparse.ArgumentParser) -> None:
    """The model to compile, and the options of its compilation."""
    parser.add_argument("model", help="an ONNX file, a network of the zoo (resnet50), or a real model (ppocrv4-det)")
    parser.add_argument(
        "--shape",
        action="append",
        default=[],
        type=parse_shape,
        metavar="NAME=N,C,H,W",
        help="pin the shape of an input whose extents the file leaves open; once for each input",
    )
    parser.add_argument("--target", default="native", help="native, x86-64-v2, x86-64-v3, x86-64-v4 or aarch64")
    parser.add_argument("--threads", type=positive, default=1, metavar="N", help="threads of one inference (1)")
    parser.add_argument("--numerics", choices=("fast", "strict"), default="fast", help="strict: no Winograd")
    parser.add_argument("--no-fuse", dest="fuse", action="store_false", help="every layer its own kernel")
    parser.add_argument("--disable", action="append", default=[], metavar="PASS", help="switch one pass off")


def positive(text: str) -> int:
    """A whole number of at least one, for argparse."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of at least 1")
    return int(text)


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
        disable=tuple(arguments.disable),
    )


def open_model(arguments: argparse.Namespace) -> Case:
    """The model named on the command line, imported."""
    from glulam.benchmarks.cases import open_case

    return open_case(arguments.model, dict(arguments.shape) or None)
