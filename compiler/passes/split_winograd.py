"""A convolution by Winograd's algorithm in stages becomes three ops, the last of which carries the epilogue."""

from __future__ import annotations

from dataclasses import dataclass

from glulam.compiler.graph.graph import Graph, Node
from glulam.compiler.graph.patch import Patch
from glulam.compiler.graph.uses import Uses
from glulam.compiler.ops.winograd import WinogradConv
from glulam.compiler.passes.manager import Decision, NodePass
from glulam.compiler.targets import Target


@dataclass(frozen=True)
class SplitWinograd(NodePass):
    """The transformed tiles become tensors in the arena, so the filters are read once.

    Convolutions that read the same tensor share its tiles.
    """

    target: Target

    name = "split_winograd"
    optional = False  # no kernel goes through all stages of a dilated convolution

    def visit(self, graph: Graph, uses: Uses, node: Node) -> Patch | Decision | None:
        op = node.op
        if not isinstance(op, WinogradConv) or not op.staged:
            return None
        x, weights, bias = node.operand(0), node.operand(1), node.inputs[2:]
        transform, multiply, transform_back = op.stages(self.target.lanes, node.output.shape)
        known = [user.output for user in uses.users(x) if user.op == transform]
        what = "shares the tiles of its input" if known else f"transforms {op.filtering.name} tiles"
        patch = Patch(graph, f"{what}, multiplies, transforms back", at=node.name)
        tiles = known[0] if known else patch.apply(transform, x, name=f"{node.name}.tiles")
        products = patch.apply(multiply, tiles, weights, name=f"{node.name}.products")
        result = patch.apply(transform_back, products, *bias, name=node.name)
        patch.replace(node.output, result)
        return patch
