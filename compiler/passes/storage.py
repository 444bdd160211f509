"""Which values share memory: views are traced to the value that owns the memory they lie in."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

from glulam.compiler.errors import GraphError
from glulam.compiler.graph.graph import Node, Value
from glulam.compiler.ops import Reshape
from glulam.compiler.ops.reorder import Reorder
from glulam.compiler.ops.views import ConcatView, SplitView


@dataclass(frozen=True)
class Place:
    """A value lies in the memory of `root`, behind the first `offset` elements that a sample of it has in plain order.

    Views of the whole lie behind none.
    """

    root: Value
    offset: int = 0


class Storage:
    """The places of all values of a graph, as far as they are views of others."""

    def __init__(self, nodes: Iterable[Node]) -> None:
        self._places: dict[Value, Place] = {}
        order = list(nodes)
        # Concats last, since parts of other tensors cannot be laid into them.
        for node in order:
            if isinstance(node.op, SplitView):
                self._split(node)
            elif is_alias(node):
                self._put(node.output, next(node.present_inputs()), 0)
        # Backwards, so that the largest of nested concats is the one that owns the memory.
        for node in reversed(order):
            if (
                isinstance(node.op, ConcatView)
                and (reason := self.concat(node, list(node.present_inputs()))) is not None
            ):
                raise GraphError(f"{node!r} cannot be a view: {reason}")

    def place(self, value: Value) -> Place:
        """Where the value lies in the end."""
        offset = 0
        while value in self._places:
            step = self._places[value]
            value, offset = step.root, offset + step.offset
        return Place(value, offset)

    def root(self, value: Value) -> Value:
        return self.place(value).root

    def concat(self, node: Node, inputs: list[Value]) -> str | None:
        """Lay the inputs into the output, or the output around inputs that lie side by side already; or say why not."""
        if all(value in self._places for value in inputs):
            first = self._places[inputs[0]]
            offset = first.offset
            for value in inputs:
                if self._places[value] != Place(first.root, offset):
                    return "its inputs are parts of other tensors"
                offset += _elements(value)
            self._put(node.output, first.root, first.offset)
            return None
        if any(value in self._places for value in inputs) or len(set(inputs)) != len(inputs):
            return "one of its inputs is part of another tensor"
        offset = 0
        for value in inputs:
            self._put(value, node.output, offset)
            offset += _elements(value)
        return None

    def _split(self, node: Node) -> None:
        offset = 0
        for output in node.outputs:
            self._put(output, next(node.present_inputs()), offset)
            offset += _elements(output)

    def _put(self, value: Value, root: Value, offset: int) -> None:
        if value in self._places:
            raise GraphError(f"{value!r} would lie in two places")
        self._places[value] = Place(root, offset)


def _elements(value: Value) -> int:
    """Of a sample."""
    return math.prod(value.shape[1:])


def is_view(node: Node) -> bool:
    """Whether the node needs no kernel."""
    return isinstance(node.op, ConcatView | SplitView) or is_alias(node)


def is_alias(node: Node) -> bool:
    """Whether the output's memory is the input's, element by element. Constants have none."""
    if not isinstance(node.op, Reshape | Reorder):
        return False
    (source,) = node.present_inputs()
    if source.is_constant or isinstance(node.op, Reshape):
        return not source.is_constant
    return source.type == node.output.type and _same_memory(source, node.output)


def _same_memory(source: Value, target: Value) -> bool:
    """One pixel of one image: the blocks of channels lie one after the other, like plain channels.

    With more images that would not hold for a source that is a part of another tensor.
    """
    if source.layout.has_halo or target.layout.has_halo or source.type.rank < 3:
        return False
    batch, channels, *spatial = source.shape
    if batch != 1 or any(extent != 1 for extent in spatial):
        return False
    block = max(source.layout.block, target.layout.block)
    return channels % block == 0 or source.layout.block > target.layout.block == 1
