"""One row times a transposed matrix is the matrix times one column: nothing is transposed.

So the query of a decoding step reads the keys of all tokens before it as they lie in the cache.
"""

from __future__ import annotations

from typing import NamedTuple

from glulam.compiler.graph.graph import Graph, Node, Value
from glulam.compiler.graph.patch import Patch
from glulam.compiler.graph.uses import Uses
from glulam.compiler.ops import MatMul, Mul, Reshape, Transpose
from glulam.compiler.passes.manager import Decision, NodePass


class RowTimesTransposed(NodePass):
    """Looks at products of a single row with a matrix whose last two axes were exchanged.

    It may have been reshaped and multiplied by a number since. The pass declines where the transposed matrix would stay
    for other readers.
    """

    name = "row_times_transposed"

    def visit(self, graph: Graph, uses: Uses, node: Node) -> Patch | Decision | None:
        if not isinstance(node.op, MatMul):
            return None
        row, right = node.present_inputs()
        if min(row.type.rank, right.type.rank) < 2 or row.shape[-2] != 1 or right.shape[-1] == 1:
            return None
        if (found := _transposed(right)) is None:
            return None
        for value in found.between:
            if (why := uses.shared_because(value)) is not None:
                return Decision(node.name, False, f"{value.name} is transposed anyhow: {why}")
        matrix = found.matrix
        patch = Patch(graph, f"%{matrix.name} is read as it lies", at=node.name)
        *batch, depth, columns = right.shape
        if matrix.shape != (*batch, columns, depth):
            matrix = patch.apply(Reshape((*batch, columns, depth)), matrix)
        if found.factor is not None:
            matrix = patch.apply(Mul(), matrix, found.factor)
        column = patch.apply(Reshape((*row.shape[:-2], depth, 1)), row)
        product = patch.apply(MatMul(), matrix, column, name=f"{node.name}.column")
        patch.replace(node.output, patch.apply(Reshape(node.output.shape), product, name=node.name))
        return patch


class _Transposed(NamedTuple):
    """The matrix as it was, the number that it was multiplied by later, and what is `between` that and the product."""

    matrix: Value
    factor: Value | None
    between: list[Value]


def _transposed(right: Value) -> _Transposed | None:
    """How the right operand came from matrices by exchanging their last two axes; None if it did not."""
    between, factor = [right], None
    made_by = right.producer
    if made_by is not None and isinstance(made_by.op, Mul):
        (source, number), whole = made_by.present_inputs(), right.type
        if not number.is_number or source.type != whole:
            return None
        between.append(source)
        made_by, factor = source.producer, number
    if made_by is not None and isinstance(made_by.op, Reshape):
        (source,) = made_by.present_inputs()
        if source.shape[-2:] != right.shape[-2:]:
            return None
        between.append(source)
        made_by = source.producer
    if made_by is None or not isinstance(made_by.op, Transpose):
        return None
    *others, last, before = range(len(made_by.op.perm))
    (matrix,) = made_by.present_inputs()
    if made_by.op.perm != (*others, before, last) or matrix.is_constant:
        return None
    return _Transposed(matrix, factor, between)
