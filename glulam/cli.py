"""The command `glulam`: its sub-commands, and how errors reach the user.

Each group of sub-commands lives in a `cli_*` module and imports what it needs when it is called, so that `glulam run`
does not load the compiler and `--help` loads nothing.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence

import glulam
from glulam import cli_bench, cli_compile, cli_profile, cli_run, cli_show, cli_tune
from glulam.cli_common import UsageError
from glulam.console import in_one_line, stop_writing
from glulam.runtime.errors import GlulamError

DESCRIPTION = """\
glulam compiles a neural network into a few fused kernels of native code for this CPU.

A first round, with a model of yours or any network of the zoo (resnet50, mobilenet_v2, unet, ...):

  glulam compile model.onnx -o model.glulam         native code and packed weights in one file
  glulam inspect model.glulam                       what is in that file
  glulam run model.glulam --input x.npy -o y.npz    run it
  glulam explain model.onnx                         every fusion that was made or refused, and why
  glulam tune model.onnx                            which algorithms are fastest here, against the estimates
  glulam show model.onnx loops                      any level in between: graph, program, loops, LLVM, assembly
  glulam profile model.onnx                         where the time goes, against the peak of this machine
  glulam bench model.onnx --peers                   fused against unfused, and against other engines
"""


def build_parser() -> argparse.ArgumentParser:
    """The parser of the whole command line; every sub-command sets `action`."""
    parser = argparse.ArgumentParser(
        prog="glulam",
        description=DESCRIPTION,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=f"glulam {glulam.__version__}")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    shared = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    shared.add_argument("--debug", action="store_true", help="show the traceback of an error")
    for module in (cli_compile, cli_tune, cli_show, cli_run, cli_profile, cli_bench):
        module.add_commands(commands, shared)
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command. 0: done. 1: an error, told in one line. 2: wrong usage. 130: interrupted."""
    _open_closed_streams()
    options = build_parser().parse_args(arguments)
    try:
        options.action(options)
        sys.stdout.flush()
    except BrokenPipeError:  # the reader, `head` for one, has seen enough
        stop_writing()
    except KeyboardInterrupt:
        return 130
    except (GlulamError, OSError) as error:
        if options.debug:
            raise
        print(f"glulam: error: {in_one_line(error)}", file=sys.stderr)
        return 2 if isinstance(error, UsageError) else 1
    return 0


def _open_closed_streams() -> None:
    """What goes to a stream that the shell closed (`>&-`) goes nowhere."""
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))  # noqa: SIM115 - open as long as the process
