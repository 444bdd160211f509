"""From channel blocks to pixels with the channels last one copy is enough: a reorder and a transpose become one."""

from __future__ import annotations

from glulam.compiler.graph.graph import Graph, Node
from glulam.compiler.graph.patch import Patch
from glulam.compiler.graph.uses import Uses
from glulam.compiler.ops import Transpose
from glulam.compiler.ops.reorder import Reorder
from glulam.compiler.passes.manager import Decision, NodePass
from glulam.compiler.passes.storage import is_alias


class TransposedBlocks(NodePass):
    """The transpose to channels last reads channel blocks itself; that to channels first was given them to write."""

    name = "transposed_blocks"
    requires = ("layout",)

    def visit(self, graph: Graph, uses: Uses, node: Node) -> Patch | Decision | None:
        if not isinstance(node.op, Transpose) or node.op.perm != _last(len(node.op.perm)):
            return None
        (plain,) = node.present_inputs()
        reorder = plain.producer
        if node.output.layout.block > 1 or reorder is None or not isinstance(reorder.op, Reorder) or is_alias(reorder):
            return None
        (blocks,) = reorder.present_inputs()
        if blocks.layout.block == 1 or plain.layout.has_halo:
            return None
        patch = Patch(graph, "reads channel blocks", at=node.name)
        result = patch.apply(node.op, blocks, name=node.name)
        result.layout = node.output.layout
        patch.replace(node.output, result)
        return patch


def _last(rank: int) -> tuple[int, ...]:
    """The order that puts the channels last."""
    return (0, *range(2, rank), 1) if rank > 2 else ()
