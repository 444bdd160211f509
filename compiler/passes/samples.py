"""Networks that treat the samples of a batch one by one: which layers do, and a batch map around some of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from glulam.compiler.graph.graph import Graph, Node
from glulam.compiler.graph.patch import Patch
from glulam.compiler.ops.batch_map import BatchMap, for_fewer, for_part


@dataclass(frozen=True)
class Layer:
    """A node that computes each sample by itself: the bytes of its tensors for all samples, and of its weights."""

    node: Node
    batch: int
    tensors: int
    weights: int


def batch_of(graph: Graph) -> int:
    """Samples of all inputs; 0 if there are none, or not the same number in each."""
    extents = {value.shape[:1] for value in graph.inputs.values()}
    return next(iter(extents))[0] if len(extents) == 1 and () not in extents else 0


def layers_of(graph: Graph, batch: int, size: int = 1) -> list[Layer]:
    """The nodes that can take `size` samples at a time, in order."""
    known = set(graph.inputs.values())
    found = []
    for node in graph.nodes:
        if for_part(node, known, size) is None or any(value.shape[0] != batch for value in node.outputs):
            continue
        known.update(node.outputs)
        tensors = sum(v.type.nbytes for v in (*node.present_inputs(), *node.outputs) if v in known)
        weights = sum(v.type.nbytes for v in node.present_inputs() if v.is_constant)
        found.append(Layer(node, batch, tensors, weights))
    return found


def batch_map_patch(graph: Graph, layers: Sequence[Layer], size: int, reason: str, parallel: bool = False) -> Patch:
    """The layers as the body of a batch map."""
    inside = {layer.node for layer in layers}
    made = for_fewer([layer.node for layer in layers], set(graph.inputs.values()), size, graph.name)
    assert made is not None, "`layers_of` found layers that take samples one by one"
    body, table = made
    readers, outputs = graph.users(), set(graph.outputs.values())
    results = [
        value
        for layer in layers
        for value in layer.node.outputs
        if value in outputs or any(reader not in inside for reader in readers[value])
    ]
    for value in results:
        body.output(value.name, table[value])
    given = [value for value, inner in table.items() if inner in body.inputs.values()]
    patch = Patch(graph, reason, at=layers[-1].node.name)
    name = f"{layers[-1].node.name}_{'lanes' if parallel else 'batch'}"
    for old, new in zip(results, patch.add(BatchMap(body, parallel), *given, name=name), strict=True):
        patch.replace(old, new)
    return patch
