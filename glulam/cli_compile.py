"""`glulam compile` and `glulam explain`: from a model to an artifact, and why it came out as it did."""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.markup import escape
from rich.table import Table

from glulam.cli_common import (
    Subparsers,
    UsageError,
    add_command,
    add_model_arguments,
    check_output,
    compile_options,
    open_model,
)
from glulam.console import progress_console, wide_console


def add_commands(commands: Subparsers, shared: argparse.ArgumentParser) -> None:
    compile_ = add_command(
        commands,
        shared,
        "compile",
        "Compile a model ahead of time into one file of native code and packed weights.",
        [
            "glulam compile model.onnx -o model.glulam",
            "glulam compile model.onnx --shape x=1,3,640,640 --threads 2",
            "glulam compile resnet50 --target x86-64-v3",
        ],
    )
    add_model_arguments(compile_)
    compile_.add_argument("-o", "--output", type=Path, help="the artifact to write (MODEL.glulam)")
    compile_.set_defaults(action=compile_model)

    explain = add_command(
        commands,
        shared,
        "explain",
        "Show every rewrite and fusion that was made or refused, and why.",
        [
            "glulam explain model.onnx",
            "glulam explain resnet50 --refused",
            "glulam explain resnet18 --pass fuse --node layer4",
        ],
    )
    add_model_arguments(explain)
    side = explain.add_mutually_exclusive_group()
    side.add_argument("--taken", action="store_true", help="only what was done")
    side.add_argument("--refused", action="store_true", help="only what was refused")
    explain.add_argument("--pass", dest="only_pass", metavar="PASS", help="only this pass")
    explain.add_argument("--node", metavar="TEXT", help="only nodes whose name contains this")
    explain.set_defaults(action=explain_model)


def compile_model(arguments: argparse.Namespace) -> None:
    """Import, compile, save, and say how long it took and how large it is."""
    from glulam.compiler.driver import build_artifact
    from glulam.runtime.artifact import write_artifact

    if arguments.output is not None:
        check_output(arguments.output)
    progress = progress_console()
    with progress.status("importing"):
        case = open_model(arguments)
    begin = time.perf_counter()
    with progress.status(f"compiling {len(case.graph.nodes)} nodes for {arguments.target}"):
        artifact = build_artifact(case.graph, compile_options(arguments))
    output = arguments.output or Path(f"{case.name}.glulam")
    write_artifact(output, artifact)
    manifest = artifact.manifest
    print(
        f"{output}: {len(case.graph.nodes)} nodes compiled to {len(manifest.steps)} kernel calls for {manifest.target} "
        f"in {time.perf_counter() - begin:.1f} s; {output.stat().st_size / 1e6:.1f} MB, "
        f"arena {manifest.arena_bytes / 1e6:.1f} MB"
    )


def explain_model(arguments: argparse.Namespace) -> None:
    """A table for each pass with the decisions that the filters leave."""
    from glulam.compiler.driver import explain

    case = open_model(arguments)
    reports = explain(case.graph, compile_options(arguments))
    names = [report.name for report in reports]
    if arguments.only_pass not in (None, *names):
        raise UsageError(f"no pass named {arguments.only_pass!r} ran; these did: {', '.join(names)}")
    if arguments.node is not None and not any(arguments.node in d.node for r in reports for d in r.decisions):
        raise UsageError(f"no pass looked at a node whose name contains {arguments.node!r}")
    for report in reports:
        shown = _chosen(report.decisions, arguments)
        if arguments.only_pass not in (None, report.name) or (arguments.node is not None and not shown):
            continue
        taken = sum(decision.taken for decision in report.decisions)
        wide_console().print(f"[bold]{report.name}[/bold]: {taken} done, {len(report.decisions) - taken} refused")
        if shown:
            table = Table(box=None, padding=(0, 1), show_header=False)
            for decision in shown:
                mark = "[green]+[/green]" if decision.taken else "[red]-[/red]"
                table.add_row(mark, escape(decision.node), escape(decision.reason))
            wide_console().print(table)


def _chosen(decisions: Sequence[Any], arguments: argparse.Namespace) -> list[Any]:
    return [
        decision
        for decision in decisions
        if (decision.taken or not arguments.taken)
        and (not decision.taken or not arguments.refused)
        and (arguments.node is None or arguments.node in decision.node)
    ]
