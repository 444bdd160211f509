"""A part of a network that takes a batch a few samples at a time, so that what it computes stays in the caches."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from glulam.compiler.errors import ShapeError
from glulam.compiler.graph.evaluate import evaluate
from glulam.compiler.graph.graph import Graph, Node, Value
from glulam.compiler.graph.op import Op
from glulam.compiler.graph.types import Array, TensorType


@dataclass(frozen=True)
class BatchMap(Op):
    """The sub-graph `body` for the first few elements along the first axes of the inputs, then for the next few, ...

    The inputs go with the body's in order, the outputs too; what the body gives is joined along the first axes. Passes
    work on the body as on the graph around it, and its kernels are called once for each part. The parts come one after
    the other, in the same memory; `parallel` ones at the same time, in memory of their own.
    """

    body: Graph
    parallel: bool = False

    name = "batch_map"
    tolerance = 1e-4

    def infer(self, *inputs: TensorType | None) -> tuple[TensorType, ...]:
        counts = set()
        for type, wanted in zip(inputs, self._types(self.body.inputs.values()), strict=True):
            if type is None or type.rank == 0 or resized(type, wanted.shape[0]) != wanted:
                raise self.fail(f"the body takes {wanted} at a time, which are no parts of {type}")
            counts.add(divmod(type.shape[0], wanted.shape[0]))
        if len(counts) != 1 or (count := counts.pop())[1] or not count[0]:
            raise self.fail("the inputs do not have the same whole number of parts")
        return tuple(resized(type, type.shape[0] * count[0]) for type in self._types(self.body.outputs.values()))

    def reference(self, *inputs: Array | None) -> tuple[Array, ...]:
        arrays = [array for array in inputs if array is not None]
        sizes = [type.shape[0] for type in self._types(self.body.inputs.values())]
        parts = []
        for part in range(len(arrays[0]) // sizes[0]):
            pieces = (array[part * size : (part + 1) * size] for array, size in zip(arrays, sizes, strict=True))
            parts.append(evaluate(self.body, dict(zip(self.body.inputs, pieces, strict=True))).values())
        return tuple(np.concatenate(results) for results in zip(*parts, strict=True))

    def flops(self, inputs: Sequence[TensorType | None], outputs: Sequence[TensorType]) -> int:
        once = sum(node.flops for node in self.body.nodes)
        return once * (outputs[0].shape[0] // next(iter(self.body.outputs.values())).shape[0])

    def for_samples(self, count: int, inputs: Sequence[TensorType | None]) -> Op | None:
        sizes = {type.shape[0] for type in self._types(self.body.inputs.values())}
        size = sizes.pop()
        if sizes or any(type is None for type in inputs):
            return None
        if count % size == 0:
            return self
        made = for_fewer(self.body.nodes, set(self.body.inputs.values()), math.gcd(count, size), self.body.name)
        if made is None:
            return None
        body, table = made
        if list(body.inputs) != list(self.body.inputs):  # in another order, or not all of them
            return None
        for name, value in self.body.outputs.items():
            body.output(name, table[value])
        return BatchMap(body, self.parallel)

    def parts(self, node: Node) -> int:
        """How many times the body is executed for a node of this op."""
        return node.outputs[0].shape[0] // next(iter(self.body.outputs.values())).shape[0]

    def _types(self, values: Iterable[Value]) -> list[TensorType]:
        return [value.type for value in values]


def resized(type: TensorType, count: int) -> TensorType:
    """The type with another extent of its first axis."""
    return type.with_shape((count, *type.shape[1:]))


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


def for_fewer(
    nodes: Iterable[Node], inputs: set[Value], size: int, name: str
) -> tuple[Graph, dict[Value, Value]] | None:
    """A graph of the nodes for `size` samples, still without outputs, and what stands in it for which value.

    Its inputs are those values that the nodes read and do not compute. None if a node does not take samples one by one
    (see `for_part`), of the graph's `inputs` and of what nodes before it give.
    """
    body, samples = Graph(f"{name} of {size}"), set(inputs)
    table: dict[Value, Value] = {}
    for node in nodes:
        for value in node.present_inputs():
            if value in table:
                continue
            if value.data is not None:
                table[value] = body.constant(value.data, value.name)
            else:
                table[value] = body.input(value.name, resized(value.type, size))
        op = for_part(node, samples, size)
        if op is None:
            return None
        names = [value.name for value in node.outputs]
        operands = [None if value is None else table[value] for value in node.inputs]
        table |= zip(node.outputs, body.add(op, *operands, name=node.name, output_names=names), strict=True)
        samples.update(node.outputs)
    return body, table


def bodies(graph: Graph) -> list[Graph]:
    """The sub-graphs that passes treat like the graph itself."""
    return [node.op.body for node in graph.nodes if isinstance(node.op, BatchMap)]


def nested_graphs(graph: Graph) -> Iterator[Graph]:
    """The graph, its sub-graphs, and theirs."""
    yield graph
    for body in bodies(graph):
        yield from nested_graphs(body)
