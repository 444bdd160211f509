"""A convolution by Winograd's algorithm in stages becomes three ops, the last of which carries the epilogue."""

from __future__ import annotations

from dataclasses import dataclass

from glulam.compiler.graph.graph import Graph, Node
from glulam.compiler.graph.patch import Patch
from glulam.compiler.ops.winograd import WinogradConv, WinogradInput, WinogradOutput, WinogradProducts
from glulam.compiler.passes.manager import Decision, NodePass, Uses
from glulam.compiler.targets import Target


@dataclass(frozen=True)
class SplitWinograd(NodePass):
    """The transformed tiles become tensors in the arena; the filters are then read once."""

    target: Target

    name = "split_winograd"

    def visit(self, graph: Graph, uses: Uses, node: Node) -> Patch | Decision | None:
        op = node.op
        if not isinstance(op, WinogradConv) or not op.staged:
            return None
        x, weights, *bias = node.inputs
        patch = Patch(graph, f"transforms, products and transforms of {op.filtering.name} tiles", at=node.name)
        shape, lanes = node.output.shape, self.target.lanes
        tiles = patch.apply(WinogradInput(op.pads, op.outputs, op.taps, lanes), x, name=f"{node.name}.tiles")
        products = patch.apply(
            WinogradProducts(shape, op.outputs, op.taps, lanes), tiles, weights, name=f"{node.name}.products"
        )
        result = patch.apply(WinogradOutput(shape, op.outputs, op.taps, lanes), products, *bias, name=node.name)
        patch.replace(node.output, result)
        return patch
