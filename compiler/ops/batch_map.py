"""A part of a network that takes a batch a few samples at a time, so that what it computes stays in the caches."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from glulam.compiler.graph.evaluate import evaluate
from glulam.compiler.graph.graph import Graph, Node, Value
from glulam.compiler.graph.op import Op
from glulam.compiler.graph.types import Array, TensorType


@dataclass(frozen=True)
class BatchMap(Op):
    """The sub-graph `body` for the first few elements along the first axes of the inputs, then for the next few, ...

    The inputs go with the body's in order, the outputs too; what the body gives is joined along the first axes. Passes
    work on the body as on the graph around it, and its kernels are called once for each part.
    """

    body: Graph

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
        once = sum(
            node.op.flops([None if v is None else v.type for v in node.inputs], [v.type for v in node.outputs])
            for node in self.body.nodes
        )
        return once * (outputs[0].shape[0] // next(iter(self.body.outputs.values())).shape[0])

    def parts(self, node: Node) -> int:
        """How many times the body is executed for a node of this op."""
        return node.outputs[0].shape[0] // next(iter(self.body.outputs.values())).shape[0]

    def _types(self, values: Iterable[Value]) -> list[TensorType]:
        return [value.type for value in values]


def resized(type: TensorType, count: int) -> TensorType:
    """The type with another extent of its first axis."""
    return type.with_shape((count, *type.shape[1:]))


def bodies(graph: Graph) -> list[Graph]:
    """The sub-graphs that passes treat like the graph itself."""
    return [node.op.body for node in graph.nodes if isinstance(node.op, BatchMap)]
