"""compile(): the whole way from a graph to a model, top to bottom."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, replace
from functools import partial
from itertools import takewhile

from glulam.compiler.cache import NO_CACHE, Cache, default_cache
from glulam.compiler.emission import VERSION, emit_program
from glulam.compiler.errors import TargetError
from glulam.compiler.graph.graph import Graph
from glulam.compiler.graph.text import to_text
from glulam.compiler.interpreter import quick_switches, without_collector
from glulam.compiler.loops.program import Program
from glulam.compiler.loops.verify import verify_kernel
from glulam.compiler.lowering import lower_graph
from glulam.compiler.ops.batch_map import nested_graphs
from glulam.compiler.options import Options
from glulam.compiler.passes.choose_algorithm import ChooseAlgorithm
from glulam.compiler.passes.manager import PassReport, run_passes
from glulam.compiler.passes.memory import materialise_outputs
from glulam.compiler.passes.own_tiles import OwnTiles
from glulam.compiler.pipeline import disabled_passes, pipeline
from glulam.compiler.targets import Target, target
from glulam.compiler.tuning import Tuned, tune
from glulam.runtime.artifact import Artifact
from glulam.runtime.cpu import check_host
from glulam.runtime.errors import CpuMismatchError
from glulam.runtime.manifest import Manifest, StepInfo, TensorSpec
from glulam.runtime.model import Model


def compile_graph(graph: Graph, options: Options | None = None) -> Model:
    """Native code for the graph, ready to run; the graph itself is not changed.

    Raises UnsupportedError for ops without a kernel, TargetError for a target that this machine cannot execute.
    """
    options = options or Options()
    machine = target(options.target)
    try:
        check_host(machine.triple, machine.required_features)
    except CpuMismatchError as error:
        raise TargetError(f"{error}; `glulam compile --target` writes files for other machines") from error
    return Model(build_artifact(graph, options), options.threads)


def build_artifact(graph: Graph, options: Options | None = None) -> Artifact:
    """What `compile_graph` loads and `Model.save` writes: for any target, also one that this machine cannot execute."""
    with without_collector(), quick_switches():  # until all that was built on the way is gone again
        return _artifact(graph, options or Options())


def _artifact(graph: Graph, options: Options) -> Artifact:
    machine = target(options.target)
    with ThreadPoolExecutor(1) as aside:
        optimised, reports = optimise(graph, options)
        materialise_outputs(optimised)  # before the text, which shows the copies
        # Most of the text is hashes of weights, which need no interpreter lock.
        text = aside.submit(to_text, optimised)

        def release(_: Future[str]) -> None:
            """Nobody else has the folded weights, which can go as soon as they are in the text and packed."""
            for graph in nested_graphs(optimised):
                for value in list(graph.constants()):
                    value.data = None

        program = lower_graph(optimised, cut_for(machine, options), lambda: text.add_done_callback(release))
        code = emit_program(program, machine, cache_for(options))
    manifest = make_manifest(program, machine, options, reports)
    return Artifact(manifest, code, program.weights, text.result(), program.foreign)


def optimise(
    graph: Graph, options: Options, dump: Callable[[str, str], None] | None = None
) -> tuple[Graph, list[PassReport]]:
    """A copy of the graph after all passes, and what they did."""
    work = graph.copy()
    measured = {layer.signature: layer.seconds for layer in tuned(graph, options)} if options.tune else {}
    passes = pipeline(target(options.target), measured, options.numerics == "strict", options.threads)
    reports = run_passes(work, passes, disable=disabled_passes(options), stop_after=options.stop_after, dump=dump)
    return work, reports


def explain(graph: Graph, options: Options | None = None) -> list[PassReport]:
    """Every decision of every pass, with its reason."""
    return optimise(graph, options or Options())[1]


def tuned(graph: Graph, options: Options, progress: Callable[[str], None] = lambda text: None) -> list[Tuned]:
    """The layers that have a choice of algorithms, with what each candidate takes on this machine.

    Raises CpuMismatchError if this machine cannot execute the target's code.
    """
    disabled = disabled_passes(options)
    if ChooseAlgorithm.name in disabled:
        return []
    machine, strict = target(options.target), options.numerics == "strict"
    alone = replace(options, tune=False, stop_after=None, disable=(ChooseAlgorithm.name,))
    whole = pipeline(machine, strict=strict, threads=options.threads)
    before = list(takewhile(lambda each: each.name != ChooseAlgorithm.name, whole))
    work = graph.copy()
    run_passes(work, before, disable=[name for name in disabled if name in {each.name for each in before}])
    build = partial(build_artifact, options=alone)
    return tune(work, machine, options.threads, cache_for(options), build, progress, strict)


def cache_for(options: Options) -> Cache:
    """Where compilations with these options look for what earlier ones left."""
    return default_cache() if options.cache else NO_CACHE


def lower(graph: Graph, options: Options | None = None) -> Program:
    """The program that `compile_graph` would emit, for inspection and for the loop interpreter."""
    options = options or Options()
    optimised, _ = optimise(graph, options)
    materialise_outputs(optimised)
    program = lower_graph(optimised, cut_for(target(options.target), options))
    for kernel in program.kernels:
        verify_kernel(kernel)
    return program


def cut_for(machine: Target, options: Options) -> Target:
    """The machine with the threads that kernels are cut for."""
    return replace(machine, threads=options.threads)


def make_manifest(program: Program, machine: Target, options: Options, reports: Sequence[PassReport] = ()) -> Manifest:
    """What the artifact says about itself; the reports tell how algorithms were chosen."""
    choices = {d.node: d.reason for r in reports if r.name == ChooseAlgorithm.name for d in r.decisions}
    choices |= {d.node: d.reason for r in reports if r.name == OwnTiles.name for d in r.decisions if d.taken}
    return Manifest(
        glulam_version=VERSION,
        target=machine.name,
        triple=machine.triple,
        cpu_features=machine.required_features,
        inputs=tuple(TensorSpec(name, str(t.dtype.numpy), t.shape) for name, t in program.inputs.items()),
        outputs=tuple(TensorSpec(name, str(t.dtype.numpy), t.shape) for name, t in program.outputs.items()),
        arena_bytes=program.arena_bytes,
        scratch_bytes=program.scratch_bytes,
        steps=tuple(
            StepInfo(
                kernel=step.kernel.name,
                label=step.label,
                extent=step.kernel.extent * step.parts,
                grain=step.grain,
                flops=step.flops,
                bytes=step.bytes,
                algorithm=choices.get(step.node, step.template),
            )
            for step in program.steps
        ),
        options={k: ",".join(v) if isinstance(v, tuple) else v for k, v in asdict(options).items() if k != "cache"},
    )
