"""The mean over the pixels of a tensor is taken where the tensor is computed, chunk by chunk, and not read from it.

The chunks depend on the shape alone, so the mean has the same bits for any number of threads.
"""

from __future__ import annotations

from dataclasses import dataclass

from glulam.compiler.graph.graph import Graph, Node
from glulam.compiler.graph.patch import Patch
from glulam.compiler.graph.uses import Uses
from glulam.compiler.ops.averaged import AveragedRegion
from glulam.compiler.ops.contracts import AveragesResult
from glulam.compiler.ops.fused import FusedRegion
from glulam.compiler.ops.reduce import Reduce
from glulam.compiler.passes.manager import Decision, NodePass
from glulam.compiler.targets import Target


@dataclass(frozen=True)
class AverageInProducer(NodePass):
    """A mean over all pixels is the mean of means over equal chunks, which the producer's kernel gives."""

    target: Target

    name = "average_in_producer"

    def visit(self, graph: Graph, uses: Uses, node: Node) -> Patch | Decision | None:
        op, x = node.op, node.inputs[0] if node.inputs else None
        if not isinstance(op, Reduce) or x is None or op.kind != "mean" or op.axes != (2, 3) or x.type.rank != 4:
            return None
        region = x.producer
        if region is None or type(region.op) is not FusedRegion or (anchor := region.op.anchor) is None:
            return Decision(node.name, False, f"%{x.name} is computed by no fused kernel that could average it")
        if region.op.window is not None or not isinstance(anchor.op, AveragesResult):
            return Decision(node.name, False, f"{anchor.op.name} cannot average its result")
        values = dict(zip(region.op.body.inputs.values(), region.inputs, strict=True))
        chunks = anchor.op.chunks([None if v is None else values[v] for v in anchor.inputs], x.type, self.target.lanes)
        if isinstance(chunks, str):
            return Decision(node.name, False, chunks)
        reason = f"{region.name} gives the means of {chunks} chunks of rows"
        patch = Patch(graph, reason, at=node.name)
        result, means = patch.add(AveragedRegion(region.op.body, chunks), *region.inputs, name=region.name)
        patch.replace(x, result)
        patch.replace(node.output, patch.apply(op, means, name=node.name))
        return patch
