"""A sub-graph as one op, the base of what passes make of several nodes. It keeps what it replaced."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from glulam.compiler.graph.evaluate import evaluate
from glulam.compiler.graph.graph import Graph, Value
from glulam.compiler.graph.op import Op
from glulam.compiler.graph.types import Array, TensorType


@dataclass(frozen=True)
class SubGraph(Op):
    """The `body` as one op: its inputs in order, its only output. So its meaning is that of the body."""

    body: Graph

    tolerance = 1e-4

    @property
    def result(self) -> Value:
        """The output, as a value of the body."""
        (value,) = self.body.outputs.values()
        return value

    def infer(self, *inputs: TensorType | None) -> tuple[TensorType, ...]:
        wanted = [value.type for value in self.body.inputs.values()]
        if list(inputs) != wanted:
            raise self.fail(f"the body takes {list(map(str, wanted))}, not {list(map(str, inputs))}")
        return (self.result.type,)

    def reference(self, *inputs: Array | None) -> tuple[Array, ...]:
        feeds = {name: array for name, array in zip(self.body.inputs, inputs, strict=True) if array is not None}
        return tuple(evaluate(self.body, feeds).values())

    def flops(self, inputs: Sequence[TensorType | None], outputs: Sequence[TensorType]) -> int:
        return sum(node.flops for node in self.body.nodes)
