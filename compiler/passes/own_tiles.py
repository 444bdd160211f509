"""For two threads, convolutions by Winograd's algorithm in one kernel where stages would be little faster.

In stages both threads read the tiles that both have transformed. In one kernel a thread transforms what it reads by
itself, into memory of its own, and computes half of the channels, whose filters it then reads for each block of tiles:
unless these are many, for which a kernel of nothing but products waits less. The sums are the same, so threads may
decide.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

from glulam.compiler.graph.graph import Graph, Node
from glulam.compiler.graph.patch import Patch
from glulam.compiler.graph.uses import Uses
from glulam.compiler.kernels.fixed_point import weight_bytes
from glulam.compiler.ops.batch_map import BatchMap
from glulam.compiler.ops.winograd import WinogradConv
from glulam.compiler.passes.conv_algorithms import winograd_cycles
from glulam.compiler.passes.manager import Decision, Pass
from glulam.compiler.targets import PARTNERS, Target

_WORTH_IT = 1.12  # times the cycles of the stages: about as fast then while cores share a cache, and faster where not
_KEPT = 4  # times the second-level cache of filters; more of them come sooner if nothing but products goes on


@dataclass(frozen=True)
class OwnTiles(Pass):
    """Takes staged convolutions back to one kernel, but for dilated ones, which have none."""

    target: Target
    threads: int

    name = "own_tiles"
    nested = False  # what one thread computes by itself stays as it is

    def proposals(self, graph: Graph, uses: Uses) -> Iterator[Patch | Decision]:
        for node in list(graph.nodes) if self.threads == PARTNERS else []:
            if isinstance(node.op, BatchMap) and not node.op.parallel:
                yield from self.proposals(node.op.body, Uses(node.op.body))
            elif isinstance(node.op, WinogradConv) and _may_be_whole(node.op):
                yield self.proposal(graph, node, node.op)

    def proposal(self, graph: Graph, node: Node, op: WinogradConv) -> Patch | Decision:
        whole = replace(op, staged=False)
        single = winograd_cycles(replace(self.target, threads=PARTNERS), node, whole)
        staged = winograd_cycles(self.target, node, op)
        why = f"winograd {op.filtering.name}: {single / 1e3:.0f}k cycles in one kernel, {staged / 1e3:.0f}k in stages"
        if single > _WORTH_IT * staged:
            return Decision(node.name, False, why)
        if (size := _filter_bytes(node, op)) > _KEPT * self.target.l2_bytes:
            why = f"winograd {op.filtering.name}: {size / 1e6:.0f} MB of filters come sooner in stages"
            return Decision(node.name, False, why)
        patch = Patch(graph, why, at=node.name)
        patch.replace(node.output, patch.apply(whole, *node.inputs, name=node.name))
        return patch


def _filter_bytes(node: Node, op: WinogradConv) -> int:
    weights = node.operand(1)
    return round(op.filtering.numbers(weights.shape) * weight_bytes(op.digits))


def _may_be_whole(op: WinogradConv) -> bool:
    return op.staged and not op.filtering.is_dilated
