"""A large batch goes through the first layers of a network a few samples at a time.

All samples together overflow the caches between two layers, so tensors come from far. A few at a time they do not, but
the weights are read anew for each part. Early layers have large tensors and few weights, late ones the opposite: so
the layers up to some point are split, by estimated cycles.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from glulam.compiler.errors import ShapeError
from glulam.compiler.graph.graph import Graph, Node, Value
from glulam.compiler.graph.op import Op, Trait
from glulam.compiler.graph.patch import Patch
from glulam.compiler.kernels.tiling import stream_rate
from glulam.compiler.ops.batch_map import BatchMap, resized
from glulam.compiler.passes.manager import Decision, Pass
from glulam.compiler.targets import Target

_FAR_RATE = 5.0  # bytes a cycle that come from memory and go back there, all of which shows
_CROWDED = 4  # a tensor stays in the last-level cache, which others use too, if it takes no more than such a part of it
_WEIGHTS_SHOW = 0.4  # of the time that weights take to arrive: they are prefetched
_CALL = 2000.0  # cycles that one more kernel call costs
_MOST_PARTS = 64


@dataclass(frozen=True)
class SplitBatch(Pass):
    """Puts one batch map around all layers from the inputs to the best place."""

    target: Target

    name = "split_batch"

    def proposals(self, graph: Graph) -> Iterator[Patch | Decision]:
        extents = {value.shape[:1] for value in graph.inputs.values()}
        batch = next(iter(extents), ())
        if len(extents) != 1 or not batch or batch[0] < 2:
            return
        layers = _layers(graph, batch[0])
        at = graph.nodes[0].name if graph.nodes else graph.name
        best = min((self.plan(graph, layers, size) for size in _sizes(batch[0])), default=(0.0, 0, 0))
        saved, count, size = -best[0], best[1], best[2]
        if saved <= 0:
            yield Decision(at, False, f"{batch[0]} samples at a time are best up to every layer")
            return
        chosen = layers[:count]
        where = f"{len(chosen)} layers up to {chosen[-1].node.name}"
        reason = f"{size} of {batch[0]} samples at a time in {where}: {saved / 1e3:.0f}k cycles less"
        yield _patch(graph, chosen, size, reason)

    def plan(self, graph: Graph, layers: Sequence[_Layer], size: int) -> tuple[float, int, int]:
        """(estimated cycles that the best place adds, how many layers there are up to it, samples at a time)."""
        best, total = (0.0, 0, size), 0.0
        readers = graph.users()
        inside: set[Node] = set()
        crossing: dict[Value, int] = {}  # by how many of their readers are still outside
        outputs = set(graph.outputs.values())
        for count, layer in enumerate(layers, 1):
            total += self.added(layer, size)
            inside.add(layer.node)
            for value in layer.node.present_inputs():
                if value in crossing:
                    crossing[value] -= 1
            crossing |= {value: len(readers[value]) for value in layer.node.outputs}
            late = sum(v.type.nbytes for v, left in crossing.items() if left and v not in outputs)
            best = min(best, (total + 2 * late / _FAR_RATE, count, size), key=lambda entry: (entry[0], -entry[1]))
        return best

    def added(self, layer: _Layer, size: int) -> float:
        """Estimated cycles that a layer takes longer with `size` samples at a time."""
        parts = layer.batch // size
        together = layer.tensors / self.rate(layer.tensors)
        apart = layer.tensors / self.rate(layer.tensors // parts)
        again = (parts - 1) * layer.weights / stream_rate(self.target, self.target.l3_bytes)
        calls = 0.0 if Trait.POINTWISE in layer.node.op.traits else (parts - 1) * _CALL
        return apart - together + _WEIGHTS_SHOW * again + calls

    def rate(self, size: int) -> float:
        """Bytes a cycle of tensors that take `size` bytes."""
        return _FAR_RATE if size > self.target.l3_bytes // _CROWDED else stream_rate(self.target, size)


@dataclass(frozen=True)
class _Layer:
    """A node that computes each sample by itself: the bytes of its tensors for all samples, and of its weights."""

    node: Node
    batch: int
    tensors: int
    weights: int


def _sizes(batch: int) -> list[int]:
    """How many samples may be taken at a time."""
    return [size for size in range(max(1, -(-batch // _MOST_PARTS)), batch) if batch % size == 0]


def _layers(graph: Graph, batch: int) -> list[_Layer]:
    """The nodes that can be split, in order."""
    known = set(graph.inputs.values())
    found = []
    for node in graph.nodes:
        if for_part(node, known, 1) is None or any(value.shape[0] != batch for value in node.outputs):
            continue
        known.update(node.outputs)
        tensors = sum(v.type.nbytes for v in (*node.present_inputs(), *node.outputs) if v in known)
        weights = sum(v.type.nbytes for v in node.present_inputs() if v.is_constant)
        found.append(_Layer(node, batch, tensors, weights))
    return found


def for_part(node: Node, samples: set[Value], size: int) -> Op | None:
    """The node's op for `size` samples, if it takes them one by one; `samples` are the values that have samples."""
    varying = [value for value in node.present_inputs() if not value.is_constant]
    if not varying or not all(value in samples for value in varying):
        return None
    if any(value.type.rank == 0 or value.shape[0] % size for value in (*varying, *node.outputs)):
        return None
    op = node.op.for_samples(size, [value.type if value in samples else None for value in node.inputs])
    if op is None:
        return None
    whole = [None if v is None else resized(v.type, size) if v in samples else v.type for v in node.inputs]
    try:
        types = op.infer(*whole)
    except ShapeError:  # a constant has an entry for each sample
        return None
    return op if types == tuple(resized(value.type, size) for value in node.outputs) else None


def _patch(graph: Graph, layers: Sequence[_Layer], size: int, reason: str) -> Patch:
    """The layers as the body of a batch map."""
    inside = {layer.node for layer in layers}
    body = Graph(f"{graph.name} of {size}")
    samples = set(graph.inputs.values())
    table: dict[Value, Value] = {}
    given = []
    for layer in layers:
        node = layer.node
        for value in node.present_inputs():
            if value in table:
                continue
            if value.data is not None:
                table[value] = body.constant(value.data, value.name)
            else:
                table[value] = body.input(value.name, resized(value.type, size))
                given.append(value)
        op = for_part(node, samples, size)
        assert op is not None
        names = [value.name for value in node.outputs]
        inputs = [None if value is None else table[value] for value in node.inputs]
        table |= zip(node.outputs, body.add(op, *inputs, name=node.name, output_names=names), strict=True)
        samples.update(node.outputs)
    readers, outputs = graph.users(), set(graph.outputs.values())
    results = [
        value
        for layer in layers
        for value in layer.node.outputs
        if value in outputs or any(reader not in inside for reader in readers[value])
    ]
    for value in results:
        body.output(value.name, table[value])
    patch = Patch(graph, reason, at=layers[-1].node.name)
    for old, new in zip(results, patch.add(BatchMap(body), *given, name=f"{layers[-1].node.name}_batch"), strict=True):
        patch.replace(old, new)
    return patch
