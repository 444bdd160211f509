"""A large batch goes through the first layers of a network a few samples at a time.

All samples together overflow the caches between two layers, so tensors come from far. A few at a time they do not, but
the weights are read anew for each part. Early layers have large tensors and few weights, late ones the opposite: so
the layers up to some point are split, by estimated cycles.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from glulam.compiler.graph.graph import Graph, Node, Value
from glulam.compiler.graph.op import Trait
from glulam.compiler.graph.patch import Patch
from glulam.compiler.graph.uses import Uses
from glulam.compiler.kernels.rates import FAR_RATE, move_rate, stream_rate
from glulam.compiler.passes.manager import Decision, Pass
from glulam.compiler.passes.samples import Layer, batch_map_patch, batch_of, layers_of
from glulam.compiler.targets import Target

_WEIGHTS_SHOW = 0.4  # of the time that weights take to arrive: they are prefetched
_CALL = 2000.0  # cycles that one more kernel call costs
_MOST_PARTS = 64


@dataclass(frozen=True)
class SplitBatch(Pass):
    """Puts one batch map around all layers from the inputs to the best place."""

    target: Target

    name = "split_batch"

    def proposals(self, graph: Graph, uses: Uses) -> Iterator[Patch | Decision]:
        batch = batch_of(graph)
        if batch < 2:
            return
        layers = layers_of(graph, batch)
        at = graph.nodes[0].name if graph.nodes else graph.name
        best = min((self.plan(graph, layers, size) for size in _sizes(batch)), default=(0.0, 0, 0))
        saved, count, size = -best[0], best[1], best[2]
        if saved <= 0:
            yield Decision(at, False, f"{batch} samples at a time are best up to every layer")
            return
        chosen = layers[:count]
        where = f"{len(chosen)} layers up to {chosen[-1].node.name}"
        reason = f"{size} of {batch} samples at a time in {where}: {saved / 1e3:.0f}k cycles less"
        yield batch_map_patch(graph, chosen, size, reason)

    def plan(self, graph: Graph, layers: Sequence[Layer], size: int) -> tuple[float, int, int]:
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
                    if not crossing[value]:
                        del crossing[value]
            made = (value for value in layer.node.outputs if value not in outputs and readers[value])
            crossing |= {value: len(readers[value]) for value in made}
            late = sum(value.type.nbytes for value in crossing)
            best = min(best, (total + 2 * late / FAR_RATE, count, size), key=lambda entry: (entry[0], -entry[1]))
        return best

    def added(self, layer: Layer, size: int) -> float:
        """Estimated cycles that a layer takes longer with `size` samples at a time."""
        parts = layer.batch // size
        whole, part = layer.tensors, layer.tensors // parts
        saved = whole / move_rate(self.target, whole, whole) - whole / move_rate(self.target, part, part)
        again = (parts - 1) * layer.weights / stream_rate(self.target, self.target.l3_bytes)
        calls = 0.0 if Trait.POINTWISE in layer.node.op.traits else (parts - 1) * _CALL
        return _WEIGHTS_SHOW * again + calls - saved


def _sizes(batch: int) -> list[int]:
    """How many samples may be taken at a time."""
    return [size for size in range(max(1, -(-batch // _MOST_PARTS)), batch) if batch % size == 0]
