"""A layer by Strassen's algorithm becomes two ops, the second of which carries the epilogue."""

from __future__ import annotations

from glulam.compiler.graph.graph import Graph, Node
from glulam.compiler.graph.patch import Patch
from glulam.compiler.graph.uses import Uses
from glulam.compiler.ops.strassen import StrassenConv, StrassenLinear, StrassenProducts, StrassenSums
from glulam.compiler.passes.manager import Decision, NodePass


class SplitStrassen(NodePass):
    """Layers that read the same tensor share its sums."""

    name = "split_strassen"

    def visit(self, graph: Graph, uses: Uses, node: Node) -> Patch | Decision | None:
        if not isinstance(node.op, StrassenConv | StrassenLinear):
            return None
        last = isinstance(node.op, StrassenLinear)
        strides = node.op.strides if isinstance(node.op, StrassenConv) and max(node.op.strides) > 1 else ()
        x, parameters = node.operand(0), node.inputs[1:]
        known = [user.output for user in uses.users(x) if user.op == StrassenSums(last, strides)]
        patch = Patch(graph, "shares the sums of its input" if known else "sums of halves, then products", at=node.name)
        sums = known[0] if known else patch.apply(StrassenSums(last, strides), x, name=f"{node.name}.sums")
        patch.replace(node.output, patch.apply(StrassenProducts(last, strides), x, sums, *parameters, name=node.name))
        return patch
