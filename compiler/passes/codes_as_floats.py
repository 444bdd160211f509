"""Codes of quantised networks stay floats where they are read as floats, and nothing stands between what fuses."""

from __future__ import annotations

from glulam.compiler.graph.graph import Graph, Node, Value
from glulam.compiler.graph.patch import Patch
from glulam.compiler.graph.types import DType
from glulam.compiler.graph.uses import Uses
from glulam.compiler.ops import Add, Cast, Clip, Sub, ThroughInteger
from glulam.compiler.ops.inputs import INTEGERS
from glulam.compiler.passes.manager import NodePass
from glulam.compiler.passes.whole_numbers import LIMITS, is_whole, range_of_type, whole_range


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
            x = before_cast(x, codes.type.dtype)
            x = patch.apply(ThroughInteger(codes.type.dtype, is_whole(x)), x)
        if x.type.dtype is not node.output.type.dtype:
            x = patch.apply(node.op, x)
        patch.replace(node.output, x)
        return patch


def before_cast(x: Value, dtype: DType) -> Value:
    """A float of which a cast to a type of integers makes the same: casts cut off what a clip would."""
    limits = range_of_type(dtype)
    while (node := x.producer) is not None:
        source, *others = node.present_inputs()
        adds = isinstance(node.op, Add | Sub) and source.type == x.type and all(_is_zero(each) for each in others)
        clips = isinstance(node.op, Clip) and node.op.low <= limits.low and node.op.high >= limits.high
        if not (adds or clips or node.op == ThroughInteger(dtype) or node.op == ThroughInteger(dtype, True)):
            break
        x = source
    return x


def _is_zero(value: Value) -> bool:
    return value.data is not None and not value.data.any()
