"""Constant folding: what depends on constants only is computed now, by the ops' references.

Shapes are static, so a chain of shape arithmetic (Shape, Gather, Concat, ...) folds away whatever it starts from.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from glulam.compiler.graph.graph import Graph, Node, Value
from glulam.compiler.graph.op import Trait
from glulam.compiler.graph.patch import Patch
from glulam.compiler.graph.types import Array
from glulam.compiler.graph.uses import Uses
from glulam.compiler.ops import Shape
from glulam.compiler.passes.manager import Decision, Pass


@dataclass(frozen=True)
class ConstantFolding(Pass):
    """Computes ahead of time, unless that makes the model much larger.

    growth, free_bytes: a node's results may have `growth` times the bytes of its inputs, or `free_bytes` if that is
    more; so a constant that is expanded or tiled to a large tensor stays an expand or tile.
    total_bytes: of all results together that are held at once; `growth` times the graph's constants if that is more.
    Only what other nodes or the outputs read becomes a constant: one patch for each such value. What nobody else reads
    is let go, so that a long chain, such as that from a code to the weight which it stands for, counts with its end.
    """

    growth: int = 4
    free_bytes: int = 1 << 20
    total_bytes: int = 1 << 30

    name = "constant_folding"

    def proposals(self, graph: Graph, uses: Uses) -> Iterator[Patch | Decision]:
        known: dict[Value, Array] = {v: v.data for v in graph.constants() if v.data is not None}
        folded: set[Node] = set()
        readers = Counter(value for node in graph.nodes for value in node.present_inputs())
        readers.update(graph.outputs.values())
        budget = max(self.total_bytes, self.growth * sum(array.nbytes for array in known.values()))
        for node in graph.nodes:
            if not _is_known(node, known):
                continue
            size = sum(value.type.nbytes for value in node.outputs)
            if why := self._too_large(node, size, budget):
                yield Decision(node.name, False, why)
                continue
            budget -= size
            folded.add(node)
            known.update(zip(node.outputs, _compute(node, known), strict=True))
            readers.subtract(node.present_inputs())
            for value in {value for value in node.present_inputs() if not readers[value] and value.producer in folded}:
                budget += value.type.nbytes
                del known[value]
        for value in _frontier(graph, folded):
            assert value.producer is not None
            patch = Patch(graph, f"{value.producer.op.name} of constants, computed ahead of time", at=value.name)
            patch.replace(value, patch.constant(known[value], f"{value.name}.folded"))
            yield patch

    def _too_large(self, node: Node, size: int, budget: int) -> str | None:
        """Why the results of the node must not become constants."""
        limit = max(self.growth * sum(value.type.nbytes for value in node.present_inputs()), self.free_bytes)
        if size > limit and not isinstance(node.op, Shape):
            return f"its result of {size} bytes is much larger than its inputs; it stays to be computed when run"
        if size > budget:
            return "so many bytes of constants have been computed that the rest stays to be computed when run"
        return None


def _is_known(node: Node, known: dict[Value, Array]) -> bool:
    if isinstance(node.op, Shape):
        return True
    inputs = list(node.present_inputs())
    return bool(inputs) and Trait.RANDOM not in node.op.traits and all(value in known for value in inputs)


def _compute(node: Node, known: dict[Value, Array]) -> tuple[Array, ...]:
    if isinstance(node.op, Shape):
        return tuple(np.array(value.shape, np.int64) for value in node.present_inputs())
    results = node.op.reference(*(None if value is None else known[value] for value in node.inputs))
    return tuple(np.asarray(result) for result in results)


def _frontier(graph: Graph, folded: set[Node]) -> list[Value]:
    """Results of folded nodes that somebody else reads, in the order of the graph."""
    read = {value for node in graph.nodes if node not in folded for value in node.present_inputs()}
    read.update(graph.outputs.values())
    return [value for node in graph.nodes if node in folded for value in node.outputs if value in read]
