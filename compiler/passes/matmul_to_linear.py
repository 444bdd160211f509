"""MatMul by a constant matrix becomes a Linear layer over its transpose, not copied; so it can take a bias.

So does a product of few rows and a matrix that is transposed in each run: its elements are dot products of rows.
"""

from __future__ import annotations

import math

from glulam.compiler.graph.graph import Graph, Node, Value
from glulam.compiler.graph.patch import Patch
from glulam.compiler.graph.uses import Uses
from glulam.compiler.ops import Linear, MatMul, Transpose
from glulam.compiler.passes.manager import Decision, NodePass

_DOTS = 8  # rows for which to read a matrix once, as it lies, is faster than to transpose it


class MatMulToLinear(NodePass):
    """x @ w with a constant w[K,N] (leading axes of extent 1 do not count) is linear(x, w.T).

    A constant that is added afterwards becomes the bias by `fold_normalisation`.
    """

    name = "matmul_to_linear"

    def visit(self, graph: Graph, uses: Uses, node: Node) -> Patch | Decision | None:
        if not isinstance(node.op, MatMul):
            return None
        x, w = node.operand(0), node.operand(1)
        if w.data is None:
            if (rows := _transposed(w)) is None or x.type.rank < 2 or math.prod(x.shape[:-1]) > _DOTS:
                return Decision(node.name, False, f"the right operand %{w.name} is not constant")
            patch = Patch(graph, f"multiplies few rows by those of %{rows.name}", at=node.name)
            patch.replace(node.output, patch.apply(Linear(), x, rows, name=node.name))
            return patch
        if not w.type.dtype.is_float:
            return Decision(node.name, False, f"the linear layer is not defined for {w.type.dtype.value}")
        if w.type.rank < 2 or w.type.rank > max(x.type.rank, 2) or any(extent != 1 for extent in w.shape[:-2]):
            return Decision(node.name, False, f"the right operand %{w.name} of shape {list(w.shape)} is not one matrix")
        patch = Patch(graph, f"multiplies by the constant matrix %{w.name}", at=node.name)
        weights = patch.constant(w.data.reshape(w.shape[-2:]).T, f"{w.name}.T")
        patch.replace(node.output, patch.apply(Linear(), x, weights, name=node.name))
        return patch


def _transposed(w: Value) -> Value | None:
    """The matrix of floats that w is the transpose of, None if it is not computed as one."""
    node = w.producer
    if node is None or node.op != Transpose((1, 0)) or not w.type.dtype.is_float:
        return None
    return node.inputs[0]
