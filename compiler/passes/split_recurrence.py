"""The product of the input with a recurrent layer's weights leaves the recurrence: one linear layer for all steps.

The recurrent op is `projected` afterwards. What is done to weights and biases are nodes of their own, which constant
folding computes.
"""

from __future__ import annotations

from dataclasses import replace

from glulam.compiler.graph.graph import Graph, Node, Value
from glulam.compiler.graph.patch import Patch
from glulam.compiler.graph.uses import Uses
from glulam.compiler.ops import Add, Concat, Gru, Linear, Reshape, Slice, Transpose
from glulam.compiler.ops.recurrent import Recurrent
from glulam.compiler.passes.manager import Decision, NodePass


class SplitRecurrence(NodePass):
    """lstm(x, w, r, b, ...) becomes lstm(linear(x, w, b), -, transposed r, -, ...), and gru and rnn likewise.

    Both biases go into the linear layer, but for the recurrent bias of a GRU's candidate with linear_before_reset.
    """

    name = "split_recurrence"
    ensures = ("projected",)
    optional = False

    def visit(self, graph: Graph, uses: Uses, node: Node) -> Patch | Decision | None:
        op = node.op
        if not isinstance(op, Recurrent) or op.projected:
            return None
        given = op.named(node.inputs)
        patch = Patch(graph, "the product with the input serves all time steps at once", at=node.name)
        directions, rows, features = given.w.shape
        weights = patch.apply(Reshape((directions * rows, features)), given.w)
        into, kept = (None, None) if given.b is None else _biases(patch, op, given.b)
        gates = patch.apply(Linear(), given.x, weights, into, name=f"{node.name}.input")
        turned = patch.apply(Transpose((0, 2, 1)), given.r)
        results = patch.add(replace(op, projected=True), gates, None, turned, kept, *node.inputs[4:], name=node.name)
        for old, new in zip(node.outputs, results, strict=True):
            patch.replace(old, new)
        return patch


def _biases(patch: Patch, op: Recurrent, bias: Value) -> tuple[Value, Value | None]:
    """What the linear layer adds [D * gates * H], and what stays in the recurrence [D, H]."""
    directions, rows = bias.shape[0], bias.shape[1] // 2
    hidden = rows // op.gates

    def part(start: int, size: int) -> Value:
        return patch.apply(Slice((0, start), (1, 1), (directions, size)), bias)

    if isinstance(op, Gru) and op.linear_before_reset:
        gates = patch.apply(Add(), part(0, 2 * hidden), part(rows, 2 * hidden))
        both = patch.apply(Concat(1), gates, part(2 * hidden, hidden))
        kept: Value | None = part(rows + 2 * hidden, hidden)
    else:
        both, kept = patch.apply(Add(), part(0, rows), part(rows, rows)), None
    return patch.apply(Reshape((directions * rows,)), both), kept
