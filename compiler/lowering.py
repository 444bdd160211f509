"""From a graph whose layouts are chosen to a program of kernels: lower each node, pack constants, plan memory."""

from __future__ import annotations

from collections.abc import Callable, Collection, Hashable
from dataclasses import dataclass, field, replace
from typing import NamedTuple

import numpy as np

from glulam.compiler.errors import GlulamError, UnsupportedError
from glulam.compiler.graph.graph import Graph, Node, Value
from glulam.compiler.kernels.context import Arg, Context, Lowered
from glulam.compiler.kernels.operand import Operand
from glulam.compiler.kernels.packing import Packing, WeightBlock
from glulam.compiler.loops.ir import Kernel
from glulam.compiler.loops.printer import show_kernel
from glulam.compiler.loops.program import Program, Ref, Repeat, Step
from glulam.compiler.ops.batch_map import BatchMap
from glulam.compiler.passes.by_channel import by_channel
from glulam.compiler.passes.memory import MemoryPlan, plan_memory
from glulam.compiler.passes.storage import is_view
from glulam.compiler.scalars import differing_scalars
from glulam.compiler.targets import Target
from glulam.compiler.twins import Twin, twin_key

_CHUNK_MICROSECONDS = 2.0
_LEAST_MICROSECONDS = 0.5  # of a chunk, where there are more threads than chunks
_MAX_CHUNKS = 256
_CLAIM_MICROSECONDS = 8.0  # of the chunks that a thread claims at once
_NOTHING = 1e-3  # microseconds
_FLOPS_PER_MICROSECOND = 80_000.0  # of a core, roughly: how long pieces of work are matters within a factor of two
_BYTES_PER_MICROSECOND = 15_000.0


def lower_graph(graph: Graph, target: Target, before_packing: Callable[[], None] = lambda: None) -> Program:
    """The program of the graph, each output of which has memory of its own (see `materialise_outputs`).

    `before_packing` is called when only the constants remain to be packed; the graph is not needed any more then. The
    kernels are still to be verified.
    Raises UnsupportedError that names every node without a kernel.
    """
    plan = plan_memory(graph, target.threads)
    lowering = _Lowering(target)
    repeats: list[Repeat] = []  # in the graph itself; those inside others are written out
    steps = lowering.steps(graph, plan, repeats)
    if lowering.refused:
        raise UnsupportedError("these nodes cannot be compiled:", lowering.refused)
    weights = lowering.weights
    del lowering  # which knows constants that can go when they are packed
    before_packing()
    return Program(
        tuple(steps),
        weights.packed(),
        plan.arena_bytes,
        {name: value.type for name, value in graph.inputs.items()},
        {name: value.type for name, value in graph.outputs.items()},
        tuple(repeats),
    )


class _Known(NamedTuple):
    """Values of a graph that go through kernels channel by channel, and inputs of nodes, see `differing_scalars`."""

    by_channel: Collection[Value]
    differing: Collection[tuple[Node, int]]


@dataclass(frozen=True)
class _Lowering:
    """Kernels that are shared by text, constants that are shared by contents, and what was met on the way."""

    target: Target
    weights: WeightBlock = field(default_factory=WeightBlock)
    kernels: dict[str, Kernel] = field(default_factory=dict)
    twins: dict[Hashable, Twin] = field(default_factory=dict)
    refused: list[str] = field(default_factory=list)  # nodes without a kernel, and why

    def steps(self, graph: Graph, plan: MemoryPlan, repeats: list[Repeat]) -> list[Step]:
        """The calls of all kernels in order. Those of a batch map come once for each part, which `repeats` is told."""
        steps: list[Step] = []
        known = _Known(by_channel(graph), differing_scalars(graph))
        for node in graph.nodes:
            if isinstance(node.op, BatchMap):
                steps += self.batch_steps(node, plan, len(steps), repeats)
            elif not is_view(node):
                steps += self.node_steps(node, plan, known)
        return steps

    def batch_steps(self, node: Node, plan: MemoryPlan, first: int, repeats: list[Repeat]) -> list[Step]:
        """The calls for all parts of a batch map, the first of which is call number `first`."""
        assert isinstance(node.op, BatchMap)
        parts, inner = node.op.parts(node), plan.inner[node]
        if node.op.parallel:
            found: list[Repeat] = []
            alone = _Lowering(replace(self.target, threads=1), self.weights, self.kernels, refused=self.refused)
            once = alone.steps(node.op.body, inner, found)
            repeats += [replace(repeat, first=first + repeat.first) for repeat in found]
            return [_in_parts(step, node, plan, parts) for step in once]
        once = self.steps(node.op.body, inner, [])
        if parts > 1:
            repeats.append(Repeat(first, len(once), parts))
        return [_placed(step, node, plan, part) for part in range(parts) for step in once]

    def node_steps(self, node: Node, plan: MemoryPlan, known: _Known) -> list[Step]:
        """The call of the node's kernel; none if it has nothing to do or no kernel."""
        try:
            lowered = self.lowered(node, plan, known)
        except UnsupportedError as error:
            self.refused.append(f"{node.name!r} ({node.op.name}): {error}")
            return []
        except GlulamError as error:
            error.add_note(f"while lowering {node!r} with layouts {[str(v.layout) for v in node.outputs]}")
            raise
        return [_step(node, lowered, plan, self.weights, self.target)] if lowered.kernel.extent else []

    def lowered(self, node: Node, plan: MemoryPlan, known: _Known) -> Lowered:
        """The node with a kernel that may be another node's as well."""

        def operand(value: Value, differs: bool = False) -> Operand:
            strides = plan.strides.get(value)
            return Operand(value.type, value.layout, strides, value.data, value in known.by_channel, differs)

        inputs = [None if v is None else operand(v, (node, i) in known.differing) for i, v in enumerate(node.inputs)]
        outputs = [operand(v) for v in node.outputs]
        key = twin_key(node.op, inputs, outputs)
        if key in self.twins and (twin := self.twins[key].with_inputs(inputs)) is not None:
            return twin
        made: Lowered = node.op.lower(Context(node.op.name, self.target, inputs, outputs))
        made = replace(made, kernel=_shared(made.kernel, node, self.kernels))
        if key is not None:
            self.twins[key] = Twin(made, inputs)
        return made


def _in_parts(step: Step, node: Node, plan: MemoryPlan, parts: int) -> Step:
    """A step of a parallel batch map's body as a step of the graph around it, for all parts of the samples."""
    assert step.parts == 1, "parallel batch maps are not nested"
    refs, second = (_placed(step, node, plan, part).refs for part in (0, 1))
    strides = tuple(later.offset - ref.offset for ref, later in zip(refs, second, strict=True))
    return replace(step, refs=refs, parts=parts, strides=strides, flops=step.flops * parts, bytes=step.bytes * parts)


def _placed(step: Step, node: Node, plan: MemoryPlan, part: int) -> Step:
    """A step of a batch map's body as a step of the graph around it, for one part of the samples."""
    assert isinstance(node.op, BatchMap)
    inner = {"input": list(node.op.body.inputs.values()), "output": list(node.op.body.outputs.values())}
    outer = {"input": node.inputs, "output": node.outputs}

    op = node.op

    def placed(ref: Ref) -> Ref:
        if ref.space == "weights":
            return ref
        if ref.space == "arena":
            own = part * plan.inner[node].arena_bytes if op.parallel else 0
            return replace(ref, offset=ref.offset + plan.inner_offsets[node] + own)
        value = outer[ref.space][ref.index]
        assert value is not None
        whole = plan.refs[value]
        return replace(whole, offset=whole.offset + part * inner[ref.space][ref.index].type.nbytes + ref.offset)

    return replace(step, refs=tuple(map(placed, step.refs)))


def _shared(kernel: Kernel, node: Node, kernels: dict[str, Kernel]) -> Kernel:
    """The kernel under a name of its own, or an earlier one with the same text."""
    text = show_kernel(replace(kernel, name="kernel"))
    if text not in kernels:
        kernels[text] = replace(kernel, name=f"k{len(kernels)}_{_kind(node)}")
    return kernels[text]


def _kind(node: Node) -> str:
    anchor = getattr(node.op, "anchor", None)
    return node.op.name if anchor is None else f"fused_{anchor.op.name}"


def _step(node: Node, lowered: Lowered, plan: MemoryPlan, weights: WeightBlock, target: Target) -> Step:
    def ref(arg: Arg) -> Ref:
        if isinstance(arg, tuple):
            kind, i = arg
            value = node.inputs[i] if kind == "input" else node.outputs[i]
            assert value is not None
            if value.data is None:
                return plan.refs[value]
            arg = Packing.copy(np.atleast_1d(value.data))  # of an op whose kernel expects no constant there
        return Ref("weights", 0, weights.add(arg))

    kernel = lowered.kernel
    values = (*node.present_inputs(), *node.outputs)
    traffic = sum(v.type.nbytes for v in values)  # however weights are packed, the work is cut in the same places
    grain, claim = _division(
        kernel.extent, node.flops / _FLOPS_PER_MICROSECOND + traffic / _BYTES_PER_MICROSECOND, target
    )
    refs = tuple(ref(arg) for arg in lowered.args)
    packed = sum(arg.nbytes for arg in lowered.args if isinstance(arg, Packing))
    moved = packed + sum(v.type.nbytes for v in values if not v.is_constant)
    anchor = getattr(node.op, "anchor", None) or node
    return Step(
        kernel,
        refs,
        grain=grain,
        label=_label(node),
        flops=node.flops,
        bytes=moved,
        foreign=lowered.foreign,
        node=anchor.name,
        template=lowered.template,
        claim=claim,
    )


def _division(extent: int, microseconds: float, target: Target) -> tuple[int, int]:
    """How many iterations of a kernel make a chunk, and how many chunks a thread claims at once."""
    estimate = max(microseconds, _NOTHING)
    for_all = min(estimate / _LEAST_MICROSECONDS, target.threads) if target.many_threads else 1
    chunks = int(min(max(estimate / _CHUNK_MICROSECONDS, for_all, 1), _MAX_CHUNKS))
    grain = max(1, extent // chunks) if target.many_threads else -(-extent // chunks)
    return grain, max(1, int(_CLAIM_MICROSECONDS * extent / (estimate * grain)))


def _label(node: Node) -> str:
    """Names of the layers that the kernel computes."""
    body: Graph | None = getattr(node.op, "body", None)
    return node.name if body is None else " + ".join(n.name for n in body.nodes)
