"""Codes that become the same codes again are not computed again.

Quantised networks keep floats between all layers, also around those that only choose among codes: a maximum pool, for
example, reads dequantised codes, and what it gives is quantised with the scale and zero point that were there before.
As there are few codes, what becomes of each of them is simply computed.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from glulam.compiler.graph.graph import Graph, Node, Value
from glulam.compiler.graph.op import Op, Trait
from glulam.compiler.graph.patch import Patch
from glulam.compiler.graph.types import DType
from glulam.compiler.graph.uses import Uses
from glulam.compiler.ops import MaxPool, ThroughInteger
from glulam.compiler.passes.codes import computed, every_code
from glulam.compiler.passes.manager import Decision, NodePass

_STEPS = 12  # ops from codes to codes


class SameCodes(NodePass):
    """Looks at what quantises numbers that were codes of one byte before, with at most one maximum pool in between."""

    name = "same_codes"

    def visit(self, graph: Graph, uses: Uses, node: Node) -> Patch | Decision | None:
        if not isinstance(node.op, ThroughInteger) or node.op.dtype.size > 1 or (way := _way(node)) is None:
            return None
        if not _keeps(way, node.op.dtype):
            return Decision(node.name, False, f"not all codes of %{way.codes.name} stay what they are")
        patch = Patch(graph, f"the codes are those of %{way.codes.name}", at=node.name)
        result = way.codes if way.pool is None else patch.apply(way.pool, way.codes, name=node.name)
        patch.replace(node.output, result)
        return patch


class _Way(NamedTuple):
    """From codes through some nodes to codes; the pool, if there is one, stands behind `before` of them."""

    codes: Value
    nodes: Sequence[Node]
    pool: MaxPool | None
    before: int


def _way(last: Node) -> _Way | None:
    """How codes of the same type became what `last` gives; None if they did not."""
    nodes: list[Node] = [last]
    pool: MaxPool | None = None
    behind = 0
    for _ in range(_STEPS):
        value = _only_variable(nodes[-1])
        made_by = None if value is None else value.producer
        if value is None or made_by is None or value.type.dtype is not last.output.type.dtype:
            return None
        if _gives_codes(made_by, last.op):
            return _Way(value, nodes[::-1], pool, len(nodes) - behind)
        if isinstance(made_by.op, MaxPool) and pool is None:
            (x,) = made_by.present_inputs()
            if made_by.op.has_empty_windows(x.shape[2:]):
                return None
            pool, behind = made_by.op, len(nodes)
            if (source := x.producer) is None:
                return None
            if _gives_codes(source, last.op):
                return _Way(x, nodes[::-1], pool, 0)
            made_by = source
        nodes.append(made_by)
    return None


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
    """Whether each code becomes itself, and a pool may come first: what it compares must not fall as codes rise."""
    codes = every_code(dtype, way.codes.type.dtype)
    before, behind = way.nodes[: way.before], way.nodes[way.before :]
    numbers = computed(before, way.codes, codes)
    if way.pool is not None and not (np.diff(numbers) >= 0).all():
        return False
    source = _only_variable(behind[0]) if behind else None
    return np.array_equal(numbers if source is None else computed(behind, source, numbers), codes)
