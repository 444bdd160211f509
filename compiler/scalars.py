"""Scalars by which nodes differ that are otherwise equal: kernels read those from memory, so that the nodes share one.

The scales and zero points of quantised tensors, for the most part. A scalar that all such nodes agree on stands in the
code, where it is worth more; so does one that is no operand of plain arithmetic, as an exponent.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Hashable

from glulam.compiler.graph.graph import Graph, Node, Value
from glulam.compiler.ops import Add, Div, Mul, Sub
from glulam.compiler.ops.fused import FusedRegion

_ARITHMETIC = Add | Div | Mul | Sub


def differing_scalars(graph: Graph) -> Collection[tuple[Node, int]]:
    """Nodes, and which of their inputs are scalars that others like them read other values of."""
    alike: dict[Hashable, list[Node]] = defaultdict(list)
    for node in graph.nodes:
        if isinstance(node.op, FusedRegion):
            alike[_outline(node, node.op)].append(node)
    found = set[tuple[Node, int]]()
    for nodes in alike.values():
        for i, values in enumerate(zip(*(node.inputs for node in nodes), strict=True)):
            if len({_bits(value) for value in values}) > 1:
                found.update((node, i) for node in nodes if _is_calculated_with(node, i))
    return found


def _outline(node: Node, region: FusedRegion) -> Hashable:
    """What nodes have in common that may share a kernel: the ops by their kinds, types and layouts."""
    kinds = tuple(type(each.op) for each in region.body.nodes)
    sides = (node.inputs, node.outputs)
    return kinds, *(tuple(v and (v.type, v.layout, v.is_constant) for v in side) for side in sides)


def _bits(value: Value | None) -> bytes:
    """Of a scalar that is known, empty for everything else."""
    return b"" if value is None or not value.is_number or value.data is None else value.data.tobytes()


def _is_calculated_with(node: Node, i: int) -> bool:
    """Whether input `i` of the region is a float, and no more than an operand of plain arithmetic."""
    assert isinstance(node.op, FusedRegion)
    value = list(node.op.body.inputs.values())[i]
    users = [each for each in node.op.body.nodes if value in each.inputs]
    return value.type.dtype.is_float and all(isinstance(user.op, _ARITHMETIC) for user in users)
