"""What is a function of one code, however many ops compute it, is looked up in a table of 256 codes.

Quantised networks turn codes into floats around every layer. An activation between two of them has the codes of one
layer as its only variable, and gives codes; a sigmoid that is quantised before it is multiplied with its input is no
exception. The table is what the ops themselves make of all codes, to the bit.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from glulam.compiler.graph.graph import Graph, Node, Value
from glulam.compiler.graph.op import Trait
from glulam.compiler.graph.patch import Patch
from glulam.compiler.graph.types import Array, DType
from glulam.compiler.graph.uses import Uses
from glulam.compiler.ops import BitCast, Cast, ThroughInteger
from glulam.compiler.ops.byte_lookup import ByteLookup
from glulam.compiler.passes.codes import BYTES, computed, every_code, is_number, moved, moves, stored
from glulam.compiler.passes.manager import Decision, Pass
from glulam.compiler.passes.whole_numbers import range_of_type
from glulam.compiler.targets import Target

_LEAST, _MOST = 4, 32  # ops that a table replaces


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


def _table_for(graph: Graph, uses: Uses, node: Node) -> Patch | None:
    if (low := _lowest_code(node)) is None or (found := _function_of(uses, node)) is None:
        return None
    source, nodes = found
    table = tuple((computed(nodes, source, _codes(source)).astype(np.int64) - low).tolist())
    patch = Patch(graph, f"a function of %{source.name}, by {len(nodes)} ops", at=node.name)
    result = patch.apply(ByteLookup(table), _as_bytes(patch, source), name=node.name)
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


def _function_of(uses: Uses, last: Node) -> tuple[Value, list[Node]] | None:
    """The nearest codes that the result is a function of, and the nodes between them in order; None without such."""
    nodes = {last}
    while len(nodes) <= _MOST:
        read = {value for node in nodes for value in node.present_inputs() if not is_number(value)}
        open_ = [value for value in read if value.producer not in nodes]
        if any(value.shape != last.output.shape or value.is_constant for value in open_):
            return None
        if len(open_) == 1 and _is_codes(open_[0]) and len(nodes) >= _LEAST:
            return open_[0], sorted(nodes, key=uses.rank)
        producers = [value.producer for value in open_ if value.producer is not None]
        if len(producers) < len(open_):
            return None
        latest = max(producers, key=uses.rank)
        if Trait.POINTWISE not in latest.op.traits:
            return None
        nodes.add(latest)
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
