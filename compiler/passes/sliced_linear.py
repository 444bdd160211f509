"""A linear layer of which only slices are read becomes a layer for each: queries, keys and values of attention."""

from __future__ import annotations

import numpy as np

from glulam.compiler.graph.graph import Graph, Node, Value
from glulam.compiler.graph.patch import Patch
from glulam.compiler.graph.uses import Uses
from glulam.compiler.ops import Linear, Slice, Split
from glulam.compiler.passes.added_bias import added_bias
from glulam.compiler.passes.manager import Decision, NodePass


class SlicedLinear(NodePass):
    """The slices are of neighbouring outputs; together they compute no more than the whole did.

    A bias may come behind the layer, as a constant that is added.
    """

    name = "sliced_linear"

    def visit(self, graph: Graph, uses: Uses, node: Node) -> Patch | Decision | None:
        if not isinstance(node.op, Linear) or not uses.users(node.output):
            return None
        x, weights, *bias = node.present_inputs()
        whole = node.output
        if (added := added_bias(uses, node)) is not None:
            whole, bias = added[0], [added[1]]
        parts = [_columns(reader) for reader in uses.users(whole)]
        if None in parts or not parts:
            return None
        if uses.is_output(whole) or any(each.data is None for each in (weights, *bias)):
            return Decision(node.name, False, "its slices are not all that is read, or its weights are not constant")
        pieces = [piece for part in parts if part is not None for piece in part]
        if sum(end - first for first, end, _ in pieces) > weights.shape[0]:
            return Decision(node.name, False, "its slices overlap")
        patch = Patch(graph, f"a layer for each of its {len(pieces)} slices", at=node.name)
        for first, end, value in pieces:
            own = [_rows(patch, each, rank, first, end) for each, rank in zip((weights, *bias), (2, 1), strict=False)]
            assert value.producer is not None
            name = value.producer.name if len(value.producer.outputs) == 1 else value.name
            patch.replace(value, patch.apply(node.op, x, *own, name=name))
        return patch


def _columns(reader: Node) -> list[tuple[int, int, Value]] | None:
    """(first, end, value) of the parts of the last axis that a slice or split takes; None for any other reader."""
    (x,) = list(reader.present_inputs())[:1]
    match reader.op:
        case Slice(starts, steps, sizes):
            if any(step != 1 for step in steps) or sizes[:-1] != x.shape[:-1] or not sizes[-1]:
                return None
            return [(starts[-1], starts[-1] + sizes[-1], reader.output)]
        case Split(axis, sizes) if axis == len(x.shape) - 1 and all(sizes):
            ends = np.cumsum(sizes).tolist()
            return [(end - size, end, value) for end, size, value in zip(ends, sizes, reader.outputs, strict=True)]
    return None


def _rows(patch: Patch, constant: Value, rank: int, first: int, end: int) -> Value:
    """Some of the rows of weights, or of a bias with leading extents of 1."""
    assert constant.data is not None
    rows = constant.data.reshape(constant.shape[-rank:])[first:end]
    return patch.constant(np.ascontiguousarray(rows), f"{constant.name}_{first}_{end}")
