"""Codes of quantised networks stay floats where they are read as floats, and nothing stands between what fuses."""

from __future__ import annotations

from glulam.compiler.graph.graph import Graph, Node
from glulam.compiler.graph.patch import Patch
from glulam.compiler.graph.uses import Uses
from glulam.compiler.ops import Cast, ThroughInteger
from glulam.compiler.ops.inputs import INTEGERS
from glulam.compiler.passes.manager import NodePass
from glulam.compiler.passes.whole_numbers import LIMITS, range_of_type, whole_range


class CodesAsFloats(NodePass):
    """Looks at casts from a float to a short integer and back, which are one op on floats then.

    None is left where whole numbers are within what the integers hold.
    """

    name = "codes_as_floats"

    def visit(self, graph: Graph, uses: Uses, node: Node) -> Patch | None:
        if not isinstance(node.op, Cast) or node.output.type.dtype not in LIMITS:
            return None
        (codes,) = node.present_inputs()
        if codes.type.dtype not in INTEGERS or codes.producer is None or not isinstance(codes.producer.op, Cast):
            return None
        (x,) = codes.producer.present_inputs()
        limits = range_of_type(codes.type.dtype)
        if limits.magnitude > LIMITS.get(x.type.dtype, 0):
            return None
        known = whole_range(x)
        patch = Patch(graph, f"the codes {codes.name} stay floats", at=node.name)
        if known is None or known not in limits:
            x = patch.apply(ThroughInteger(codes.type.dtype), x)
        if x.type.dtype is not node.output.type.dtype:
            x = patch.apply(node.op, x)
        patch.replace(node.output, x)
        return patch
