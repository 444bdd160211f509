"""Several threads take samples of a batch each, instead of the same layer together.

What a thread computes it then finds in its own caches, and the threads need not meet in any memory but that of the
weights. That matters most where cores share no cache, which a virtual machine does not tell.

The price is that every thread reads all weights; layers that have so many that they wait for memory stay together, and
so does what comes after them.

The algorithms are chosen before, for the whole batch, and what comes after finds plain tensors only where it would
bring them into a layout of its own: the same bits come out for any number of threads.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from glulam.compiler.graph.graph import Graph, Node
from glulam.compiler.graph.op import Prefers, Trait
from glulam.compiler.graph.patch import Patch
from glulam.compiler.graph.uses import Uses
from glulam.compiler.kernels.rates import memory_rate
from glulam.compiler.ops.batch_map import BatchMap
from glulam.compiler.passes.manager import Decision, Pass
from glulam.compiler.passes.samples import Layer, batch_map_patch, batch_of, layers_of
from glulam.compiler.targets import Target

_CROSSING = 0.25  # of the bytes of a layer's tensors move between threads that compute it together
_CROSSING_RATE = 2.5  # bytes a cycle that one thread gets from another one's caches, near or far


@dataclass(frozen=True)
class BatchAcrossThreads(Pass):
    """Puts a parallel batch map around the layers from the inputs to the best place, a part for each thread."""

    target: Target
    threads: int

    name = "batch_across_threads"
    nested = False  # threads that compute samples of their own have none to share

    def proposals(self, graph: Graph, uses: Uses) -> Iterator[Patch | Decision]:
        batch = batch_of(graph)
        if self.threads < 2 or batch < 2 or not graph.nodes:
            return
        at = graph.nodes[0].name
        if batch % self.threads:
            yield Decision(at, False, f"{batch} samples are no equal parts for {self.threads} threads")
            return
        size = batch // self.threads
        layers = layers_of(graph, batch, size)
        saved, count = self.plan(layers, graph)
        if not count:
            why = "it has more weights than tensors, or what comes after would add up in another order"
            yield Decision(at, False, f"threads share each layer: {why}")
            return
        chosen = layers[:count]
        where = f"{count} layers up to {chosen[-1].node.name}"
        reason = f"{size} samples for each of {self.threads} threads in {where}: {saved / 1e3:.0f}k cycles less"
        yield batch_map_patch(graph, chosen, size, reason, parallel=True)

    def plan(self, layers: Sequence[Layer], graph: Graph) -> tuple[float, int]:
        """(estimated cycles that the best place saves, how many layers there are up to it)."""
        readers, bound = graph.users(), _bound_to_layouts(graph)
        inside: set[Node] = set()
        behind: set[Node] = set()
        best, total = (0.0, 0), 0.0
        for count, layer in enumerate(layers, 1):
            inside.add(layer.node)
            total += self.saved(layer)
            behind.update(reader for value in layer.node.outputs for reader in readers[value])
            if (total, count) > best and bound.isdisjoint(behind - inside):
                best = total, count
        return best

    def saved(self, layer: Layer) -> float:
        """Estimated cycles that a layer takes less if threads take samples instead of parts of it."""
        node = layer.node
        if isinstance(node.op, BatchMap):
            size = next(iter(node.op.body.outputs.values())).shape[0]
            return node.op.parts(node) * sum(map(self.saved, layers_of(node.op.body, size)))
        computing = node.flops / self.threads / (2 * self.target.fmas_per_cycle * self.target.lanes)
        reading = layer.weights / memory_rate(self.target, layer.weights)
        waiting = max(reading - computing, 0.0) - max(reading / self.threads - computing, 0.0)
        return layer.tensors / self.threads * _CROSSING / _CROSSING_RATE - waiting


def _bound_to_layouts(graph: Graph) -> set[Node]:
    """Nodes that compute in the layout they find, or hand it on to one that does: in another one they may round
    differently. What comes out of a batch map is plain.
    """
    found: set[Node] = set()
    readers = graph.users()
    for node in reversed(graph.nodes):
        if not node.op.traits.isdisjoint((Trait.POINTWISE, Trait.VIEW)):
            bound = any(reader in found for value in node.outputs for reader in readers[value])
        else:
            bound = node.prefers is Prefers.EITHER
        if bound:
            found.add(node)
    return found
