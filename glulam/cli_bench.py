"""`glulam bench`: what fusion is worth on a model, and where it stands against other engines."""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

from rich.markup import escape

from glulam.arguments import positive, seconds
from glulam.cli_common import (
    Subparsers,
    UsageError,
    add_command,
    add_model_arguments,
    compile_options,
    open_model,
)
from glulam.console import progress_console, wide_console

WIDE = 0.1  # distance of the quartiles that is worth a word


def add_commands(commands: Subparsers, shared: argparse.ArgumentParser) -> None:
    bench = add_command(
        commands,
        shared,
        "bench",
        "Build a model unfused, with each pass alone, and fused; run the builds in turns and compare them.",
        [
            "glulam bench model.onnx",
            "glulam bench resnet50 --threads 2 --peers",
            "glulam bench ppocrv4-det --groups 40 --rounds 15",
        ],
    )
    add_model_arguments(bench)
    bench.add_argument("--peers", action="store_true", help="ONNX Runtime and OpenVINO too, where installed")
    bench.add_argument("--rounds", type=positive, default=9, metavar="N", help="rounds of one turn each (9)")
    bench.add_argument("--turn", type=seconds, default=0.25, metavar="SECONDS", help="length of a turn (0.25)")
    bench.add_argument("--groups", type=positive, default=15, metavar="N", help="fused groups to list (15)")
    bench.add_argument("--markdown", action="store_true", help="print the comparison as a Markdown table instead")
    bench.set_defaults(action=bench_model)


def bench_model(arguments: argparse.Namespace) -> None:
    """Compare the builds and print the two tables."""
    if not arguments.fuse:
        raise UsageError("bench compares fused builds with an unfused one in any case; leave out --no-fuse")
    from glulam.benchmarks.fusion import FUSED, compare, comparison_table, group_table, markdown
    from glulam.benchmarks.peers import PEERS, installed_peers
    from glulam.runtime.cpu import processor_name

    progress = progress_console()
    peers = installed_peers() if arguments.peers else []
    for missing in [peer for peer in PEERS if arguments.peers and peer not in peers]:
        progress.print(escape(f"{missing} is not installed: compared without it (pip install 'glulam[bench]')"))
    case = open_model(arguments)
    with progress.status("compiling") as status, tempfile.TemporaryDirectory(prefix="glulam-") as folder:
        file = case.write_onnx(Path(folder) / "model.onnx") if peers else None
        report = compare(
            case.graph,
            case.feeds(),
            compile_options(arguments),
            peers={peer: file for peer in peers if file is not None},
            rounds=arguments.rounds,
            turn_seconds=arguments.turn,
            progress=status.update,
        )
    if arguments.markdown:
        print(markdown(report, case.name))
    else:
        wide_console().print(processor_name())
        wide_console().print(comparison_table(report, case.name))
        wide_console().print(group_table(report, arguments.groups))
    fused = next(build for build in report.builds if build.label == FUSED)
    if fused.ratio.high - fused.ratio.low > WIDE * fused.ratio.median:
        progress.print("the quartiles are far apart: other work disturbs this machine")
