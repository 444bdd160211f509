"""`glulam show`: any level between a model and its machine code, as text."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from glulam.cli_common import Subparsers, UsageError, add_command, add_model_arguments, compile_options, open_model

if TYPE_CHECKING:
    from glulam.compiler.graph.graph import Graph
    from glulam.compiler.loops.ir import Kernel
    from glulam.compiler.options import Options
    from glulam.compiler.targets import Target


def add_commands(commands: Subparsers, shared: argparse.ArgumentParser) -> None:
    show = add_command(
        commands,
        shared,
        "show",
        "Print a level of the compilation: the graph, the program of kernel calls, loops, LLVM code, or assembly.",
        [
            "glulam show resnet18 input                    the graph as imported",
            "glulam show resnet18 graph                    after all passes; --after PASS: after that one",
            "glulam show resnet18 program --threads 4      which kernels are called, on which memory, after which",
            "glulam show resnet18 loops --kernel fc        the loops of the kernels of layers named like that",
            "glulam show resnet18 llvm --kernel conv1",
            "glulam show resnet18 assembly --kernel conv1 --target x86-64-v3",
            "glulam show resnet18 dot | dot -Tsvg -o resnet18.svg",
        ],
    )
    add_model_arguments(show)
    show.add_argument("level", choices=tuple(_LEVELS), help="which level")
    show.add_argument("--after", metavar="PASS", help="the graph after this pass instead of the last")
    show.add_argument("--kernel", metavar="TEXT", help="only kernels whose name or layers contain this")
    show.set_defaults(action=show_level)


def show_level(arguments: argparse.Namespace) -> None:
    """Import, go as far as the level, print."""
    if arguments.after and arguments.level != "graph":
        raise UsageError("--after goes with the level graph")
    if arguments.kernel and arguments.level not in ("loops", "llvm", "assembly"):
        raise UsageError("--kernel goes with the levels loops, llvm and assembly")
    graph = open_model(arguments).graph
    print(_LEVELS[arguments.level](graph, compile_options(arguments), arguments).rstrip("\n"))


def _input(graph: Graph, options: Options, arguments: argparse.Namespace) -> str:
    from glulam.compiler.graph.text import to_text

    return to_text(graph)


def _graph(graph: Graph, options: Options, arguments: argparse.Namespace) -> str:
    from glulam.compiler.driver import optimise

    stages: dict[str, str] = {}
    optimise(graph, options, dump=stages.__setitem__)
    if arguments.after and arguments.after not in stages:
        raise UsageError(f"no pass named {arguments.after!r} ran; these did: {', '.join(stages)}")
    return stages[arguments.after or list(stages)[-1]]


def _dot(graph: Graph, options: Options, arguments: argparse.Namespace) -> str:
    from glulam.compiler.driver import optimise
    from glulam.compiler.graph.draw import to_dot

    return to_dot(optimise(graph, options)[0])


def _program(graph: Graph, options: Options, arguments: argparse.Namespace) -> str:
    from glulam.compiler.driver import lower
    from glulam.compiler.loops.program_text import show_program

    return show_program(lower(graph, options))


def _loops(graph: Graph, options: Options, arguments: argparse.Namespace) -> str:
    from glulam.compiler.loops.printer import show_kernel

    kernels, _ = _kernels(graph, options, arguments)
    return "\n".join(f"; {layers}\n{show_kernel(kernel)}" for kernel, layers in kernels.items())


def _llvm(graph: Graph, options: Options, arguments: argparse.Namespace) -> str:
    from glulam.compiler.codegen.module import module_text

    kernels, machine = _kernels(graph, options, arguments)
    return module_text(list(kernels), "", machine)


def _assembly(graph: Graph, options: Options, arguments: argparse.Namespace) -> str:
    from glulam.compiler.codegen.module import build_assembly

    kernels, machine = _kernels(graph, options, arguments)
    return build_assembly(list(kernels), "", machine)


def _kernels(graph: Graph, options: Options, arguments: argparse.Namespace) -> tuple[dict[Kernel, str], Target]:
    """The kernels that were asked for, each with the layers that call it."""
    from glulam.compiler.driver import lower
    from glulam.compiler.targets import target

    layers: dict[str, list[str]] = {}
    kernels: dict[str, Kernel] = {}
    for step in lower(graph, options).steps:
        kernels[step.kernel.name] = step.kernel
        layers.setdefault(step.kernel.name, []).append(step.label)
    chosen = {
        kernel: "; ".join(layers[name])
        for name, kernel in kernels.items()
        if arguments.kernel is None or any(arguments.kernel in text for text in (name, *layers[name]))
    }
    if not chosen:
        raise UsageError(f"no kernel's name or layers contain {arguments.kernel!r}; there are {', '.join(kernels)}")
    return chosen, target(options.target)


_LEVELS: Mapping[str, Callable[[Graph, Options, argparse.Namespace], str]] = {
    "input": _input,
    "graph": _graph,
    "dot": _dot,
    "program": _program,
    "loops": _loops,
    "llvm": _llvm,
    "assembly": _assembly,
}
