"""What has no elements is known without being computed, and so is what depends on that and constants alone.

So no kernel meets a sum over no channels, or a result without any.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from glulam.compiler.graph.graph import Graph, Node, Value
from glulam.compiler.graph.op import Trait
from glulam.compiler.graph.patch import Patch
from glulam.compiler.graph.types import Array
from glulam.compiler.graph.uses import Uses
from glulam.compiler.passes.manager import Decision, Pass


@dataclass(frozen=True)
class FoldEmpty(Pass):
    """Results without elements, and those of nothing but empty tensors and constants, become constants."""

    name = "fold_empty"
    optional = False  # kernels count on something to compute

    def proposals(self, graph: Graph, uses: Uses) -> Iterator[Patch | Decision]:
        for node in list(graph.nodes):
            results = _known_results(node)
            if results is None:
                continue
            patch = Patch(graph, f"{node.op.name} of tensors without elements", at=node.name)
            for value, result in zip(node.outputs, results, strict=True):
                patch.replace(value, patch.constant(result, f"{value.name}.folded"))
            yield patch


def _known_results(node: Node) -> list[Array] | None:
    if all(_is_empty(value) for value in node.outputs):
        return [np.zeros(value.shape, value.type.dtype.numpy) for value in node.outputs]
    inputs = list(node.present_inputs())
    known = any(map(_is_empty, inputs)) and all(_is_empty(v) or v.is_constant for v in inputs)
    if not known or Trait.RANDOM in node.op.traits:
        return None
    return [np.asarray(result) for result in node.op.reference(*map(_array, node.inputs))]


def _is_empty(value: Value) -> bool:
    return value.type.size == 0


def _array(value: Value | None) -> Array | None:
    return None if value is None else value.data if value.is_constant else np.zeros(value.shape, value.type.dtype.numpy)
