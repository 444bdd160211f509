"""What is a function of one code, however many ops compute it, is looked up in a table of 256 codes.

Quantised networks turn codes into floats around every layer. An activation between two of them has the codes of one
layer as its only variable, and gives codes; a sigmoid that is quantised before it is multiplied with its input is no
exception. The table is what the ops themselves make of all codes, to the bit.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from glulam.compiler.graph.graph import Graph, Node, Value
from glulam.compiler.graph.op import Op, Trait
from glulam.compiler.graph.patch import Patch
from glulam.compiler.graph.types import Array, DType
from glulam.compiler.graph.uses import Uses
from glulam.compiler.ops import BitCast, Cast, ThroughInteger
from glulam.compiler.ops.byte_lookup import ByteLookup
from glulam.compiler.passes.codes import BYTES, computed, every_code, moved, moves, stored
from glulam.compiler.passes.manager import Decision, Pass
from glulam.compiler.passes.whole_numbers import range_of_type
from glulam.compiler.targets import Target

_LEAST, _MOST = 4, 64  # ops that a table replaces


@dataclass(frozen=True)
class LookupTables(Pass):
    """Looks at what gives codes of one byte: casts to U8, and ops by which floats go through an integer.

    The last ones first, so that codes on the way need no tables of their own.
    """

    target: Target

    name = "lookup_tables"

    def proposals(self, graph: Graph, uses: Uses) -> Iterator[Patch | Decision]:
        for node in reversed(list(graph.nodes)) if self.target.looks_up_bytes else ():
            if node in uses and (patch := _table_for(graph, uses, node)) is not None:
                yield patch


class _Part(NamedTuple):
    """Pointwise nodes in order, and what they start from."""

    start: Value
    nodes: list[Node]


class _Function(NamedTuple):
    """What a result is of codes: some pointwise nodes, views of what they give, others, ..."""

    codes: Value
    parts: list[_Part]
    views: list[Op]

    def of_all_codes(self) -> Array:
        """The result of each code."""
        numbers: Array = _codes(self.codes)
        for start, nodes in self.parts:
            numbers = computed(nodes, start, numbers)
        return numbers

    @property
    def ops(self) -> int:
        """How many there are."""
        return sum(len(part.nodes) for part in self.parts)


def _table_for(graph: Graph, uses: Uses, node: Node) -> Patch | None:
    if (low := _lowest_code(node)) is None or (found := _function_of(uses, node.output)) is None:
        return None
    table = tuple((found.of_all_codes().astype(np.int64) - low).tolist())
    patch = Patch(graph, f"a function of %{found.codes.name}, by {found.ops} ops", at=node.name)
    source = _as_bytes(patch, found.codes)
    for view in found.views:
        source = patch.apply(view, source)
    result = patch.apply(ByteLookup(table), source, name=node.name)
    if node.output.type.dtype is not DType.U8:
        result = moved(patch, patch.apply(Cast(node.output.type.dtype), result), low)
    patch.replace(node.output, result)
    return patch


def _lowest_code(node: Node) -> int | None:
    """The lowest of the codes of one byte that the node gives; None if it gives no such codes."""
    match node.op:
        case ThroughInteger(dtype=dtype) if dtype in BYTES:
            return range_of_type(dtype).low
        case Cast(dtype=DType.U8):
            return 0
    return None


def _function_of(uses: Uses, result: Value) -> _Function | None:
    """What the result is of the nearest codes that it depends on alone; None without such."""
    parts, views, count = list[_Part](), list[Op](), 0
    nodes, open_ = list[Node](), {result}
    while count <= _MOST:
        alone = next(iter(open_)) if len(open_) == 1 else None
        if alone is not None and _is_codes(alone) and count >= _LEAST:
            return _Function(alone, [_Part(alone, nodes[::-1]), *parts], views)
        producers = [value.producer for value in open_ if value.producer is not None]
        if len(producers) < len(open_):
            return None
        latest = max(producers, key=uses.rank)
        read = [value for value in latest.present_inputs() if not value.is_number]
        if alone is not None and Trait.VIEW in latest.op.traits:
            parts.insert(0, _Part(alone, nodes[::-1]))
            views.insert(0, latest.op)
            nodes = []
        elif Trait.POINTWISE in latest.op.traits and all(value.shape == latest.output.shape for value in read):
            nodes.append(latest)
            count += 1
        else:
            return None
        open_ = (open_ - {*latest.outputs}) | {*read}
    return None


def _is_codes(value: Value) -> bool:
    return value.type.dtype in BYTES or _made_from(value) in BYTES


def _made_from(value: Value) -> DType | None:
    """The type of the integers that floats went through, wherever they have been moved since."""
    while (node := value.producer) is not None and moves(node):
        (value,) = node.present_inputs()
    return node.op.dtype if node is not None and isinstance(node.op, ThroughInteger) else None


def _codes(value: Value) -> Array:
    """All that the value may have, in the order of the bytes that stand for them."""
    if value.type.dtype in BYTES:
        return np.arange(256).astype(np.uint8).view(value.type.dtype.numpy)
    dtype = _made_from(value)
    assert dtype is not None
    return every_code(dtype, value.type.dtype)


def _as_bytes(patch: Patch, value: Value) -> Value:
    """The codes as U8."""
    if value.type.dtype in BYTES:
        return value if value.type.dtype is DType.U8 else patch.apply(BitCast(DType.U8), value)
    return stored(patch, value, -int(_codes(value)[0]))
