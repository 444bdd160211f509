"""Codes that become the same codes again are not computed again.

Quantised networks keep floats between all layers, also around those that only move or choose among codes: a maximum
pool or a transpose, for example, reads dequantised codes, and what it gives is quantised with the scale and zero point
that were there before. As there are few codes, what becomes of each of them is simply computed.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from glulam.compiler.graph.graph import Graph, Node, Value
from glulam.compiler.graph.op import Op, Trait
from glulam.compiler.graph.patch import Patch
from glulam.compiler.graph.types import Array, DType
from glulam.compiler.graph.uses import Uses
from glulam.compiler.ops import MaxPool, ThroughInteger
from glulam.compiler.passes.codes import computed, every_code, moves
from glulam.compiler.passes.manager import Decision, NodePass

_STEPS = 24  # ops from codes to codes


class SameCodes(NodePass):
    """Looks at what quantises numbers that were codes of one byte before, wherever they have been moved since."""

    name = "same_codes"

    def visit(self, graph: Graph, uses: Uses, node: Node) -> Patch | Decision | None:
        if not isinstance(node.op, ThroughInteger) or node.op.dtype.size > 1 or (way := _way(node)) is None:
            return None
        if not _keeps(way, node.op.dtype):
            return Decision(node.name, False, f"not all codes of %{way.codes.name} stay what they are")
        patch = Patch(graph, f"the codes are those of %{way.codes.name}", at=node.name)
        result = way.codes
        for step, value in way.steps:
            if moves(step):
                result = _moved(patch, uses, step.op, result, node)[value.index]
        patch.replace(node.output, result)
        return patch


class _Way(NamedTuple):
    """From codes through what some nodes give, the last of which are codes again."""

    codes: Value
    results: Sequence[Value]

    @property
    def steps(self) -> list[tuple[Node, Value]]:
        """The nodes, and what goes on of their results."""
        return [(value.producer, value) for value in self.results if value.producer is not None]


def _way(last: Node) -> _Way | None:
    """How codes of the same type became what `last` gives; None if they did not."""
    results, value = list[Value](), last.output
    for _ in range(_STEPS):
        node = value.producer
        if node is None or value.type.dtype is not last.output.type.dtype:
            return None
        if results and _gives_codes(node, last.op):
            return _Way(value, results[::-1])
        source = next(node.present_inputs(), None) if moves(node) else _only_variable(node)
        if source is None:
            return None
        results.append(value)
        value = source
    return None


def _moved(patch: Patch, uses: Uses, op: Op, codes: Value, node: Node) -> Sequence[Value]:
    """The codes moved so, perhaps as they have been already, before the node."""
    for user in uses.users(codes):
        if user.op == op and uses.rank(user) < uses.rank(node):
            return user.outputs
    return patch.add(op, codes, name=node.name)


def _gives_codes(node: Node, like: Op) -> bool:
    """Whether both ops give codes of one type."""
    return isinstance(node.op, ThroughInteger) and isinstance(like, ThroughInteger) and node.op.dtype is like.dtype


def _only_variable(node: Node) -> Value | None:
    """The input of a pointwise op whose other inputs are constants of one element; None of others."""
    inputs = list(node.present_inputs())
    variables = [value for value in inputs if value.data is None or value.type.size > 1]
    if Trait.POINTWISE not in node.op.traits or len(variables) != 1 or variables[0].data is not None:
        return None
    return variables[0] if variables[0].shape == node.output.shape else None


def _keeps(way: _Way, dtype: DType) -> bool:
    """Whether each code becomes itself, and pools may come first: what they compare must not fall as codes rise."""
    codes = every_code(dtype, way.codes.type.dtype)
    numbers: Array = codes
    for node, _ in way.steps:
        if (source := None if moves(node) else _only_variable(node)) is not None:
            numbers = computed([node], source, numbers)
        elif isinstance(node.op, MaxPool) and not (np.diff(numbers) >= 0).all():
            return False
    return np.array_equal(numbers, codes)
