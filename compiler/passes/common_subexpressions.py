"""Common subexpressions: equal constants become one, and equal nodes over the same inputs become one."""

from __future__ import annotations

from collections.abc import Hashable, Iterator

from glulam.compiler.graph.arrays import fingerprint, same_bits
from glulam.compiler.graph.graph import Graph, Node, Value
from glulam.compiler.graph.op import Trait
from glulam.compiler.graph.patch import Patch
from glulam.compiler.graph.structure import op_key
from glulam.compiler.graph.uses import Uses
from glulam.compiler.passes.manager import Decision, Pass


class CommonSubexpressions(Pass):
    """Keeps the first of several equal values. Random ops are never equal."""

    name = "common_subexpressions"

    def proposals(self, graph: Graph, uses: Uses) -> Iterator[Patch | Decision]:
        yield from _merge_constants(graph)
        yield from _merge_nodes(graph)


def _merge_constants(graph: Graph) -> Iterator[Patch]:
    """One patch for all of them: a model may well have a thousand equal ones."""
    buckets: dict[Hashable, list[Value]] = {}
    twins: dict[Value, Value] = {}
    for value in list(graph.constants()):
        if value.data is None:
            continue
        bucket = buckets.setdefault((fingerprint(value.data), value.layout), [])
        twin = next((kept for kept in bucket if kept.data is not None and same_bits(kept.data, value.data)), None)
        if twin is None:
            bucket.append(value)
        else:
            twins[value] = twin
    if twins:
        kept = ", ".join(f"%{name}" for name in dict.fromkeys(value.name for value in twins.values()))
        patch = Patch(graph, f"{len(twins)} constants equal to one of {kept}")
        for value, twin in twins.items():
            patch.replace(value, twin)
        yield patch


def _merge_nodes(graph: Graph) -> Iterator[Patch]:
    seen: dict[Hashable, Node] = {}
    for node in list(graph.nodes):
        if Trait.RANDOM in node.op.traits:
            continue
        key = (op_key(node.op), node.inputs, tuple(value.layout for value in node.outputs))
        twin = seen.setdefault(key, node)
        if twin is node:
            continue
        patch = Patch(graph, f"computes the same as {twin.name}", at=node.name)
        for old, new in zip(node.outputs, twin.outputs, strict=True):
            patch.replace(old, new)
        yield patch
