"""Two matrix products with a softmax between them become one kernel, which never stores all scores."""

from __future__ import annotations

from dataclasses import dataclass

from glulam.compiler.graph.graph import Graph, Node
from glulam.compiler.graph.patch import Patch
from glulam.compiler.graph.types import DType
from glulam.compiler.graph.uses import Uses
from glulam.compiler.kernels import attention
from glulam.compiler.ops.attention import Attention
from glulam.compiler.ops.fused import FusedRegion, as_region
from glulam.compiler.ops.matmul import MatMul
from glulam.compiler.ops.softmax import Softmax
from glulam.compiler.passes.manager import Decision, NodePass
from glulam.compiler.targets import Target


@dataclass(frozen=True)
class FuseAttention(NodePass):
    """Looks at every softmax of the columns of a matrix product, with what was fused behind that."""

    target: Target

    name = "fuse_attention"

    def visit(self, graph: Graph, uses: Uses, node: Node) -> Patch | Decision | None:
        if not isinstance(node.op, Softmax):
            return None
        (scores,) = node.present_inputs()
        before = scores.producer
        first = None if before is None else _product(before)
        if before is None or first is None or scores.type.rank < 2 or node.op.axis != scores.type.rank - 1:
            return None
        for value in (scores, node.output):
            if (why := uses.shared_because(value)) is not None:
                return Decision(node.name, False, why)
        reader = next(iter(uses.users(node.output)), None)
        second = None if reader is None else _product(reader)
        if reader is None or second is None or reader.inputs[0] is not node.output:
            return Decision(node.name, False, "what reads it is no matrix product with it on the left")
        if reader.output.shape[:-1] != scores.shape[:-1] or not reader.output.type.size:
            return Decision(node.name, False, f"{reader.name!r} has other rows than the scores")
        rights = [list(each.present_inputs())[1].type for each in (before, reader)]
        if (refused := attention.accepts(self.target, scores.type, rights)) is not None:
            return Decision(node.name, False, refused)
        patch = Patch(graph, f"one kernel with {before.name} and {reader.name}", at=node.name)
        given = [value for value in (*before.inputs, *reader.inputs[1:]) if value is not None]
        patch.replace(reader.output, patch.apply(Attention.of(first, node.op, second=second), *given, name=reader.name))
        return patch


def _product(node: Node) -> FusedRegion | None:
    """The node as a region that begins with a matrix product of float32, whose operands are its first inputs."""
    region = as_region(node)
    if region is None or region.anchor is None or not isinstance(region.anchor.op, MatMul):
        return None
    left, right = region.anchor.present_inputs()
    if [left, right] != list(region.body.inputs.values())[:2] or left in region.epilogue_inputs:
        return None
    dtypes = {left.type.dtype, region.result.type.dtype}
    return region if dtypes == {DType.F32} and min(left.type.rank, right.type.rank) > 1 else None
