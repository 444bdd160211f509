"""Patches: a rewrite collects what it wants to change, and the change happens at once or not at all."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from itertools import chain
from operator import attrgetter

from glulam.compiler.errors import GraphError
from glulam.compiler.graph.deferred import Deferred
from glulam.compiler.graph.graph import Graph, Node, Value
from glulam.compiler.graph.op import Op
from glulam.compiler.graph.types import Array


class Patch:
    """New nodes, and old values that give way to new ones. Nothing touches the graph before `commit`.

    `at` names the node that the patch is about, for reports; without it the first replaced value does.
    """

    def __init__(self, graph: Graph, reason: str, at: str | None = None) -> None:
        self.graph = graph
        self.reason = reason
        self.added: list[Node] = []
        self.replaced: dict[Value, Value] = {}
        self._wanted: dict[Node | Value, str] = {}
        self._at = at

    @property
    def at(self) -> str:
        return self._at or next((value.name for value in self.replaced), self.graph.name)

    def add(self, op: Op, *inputs: Value | None, name: str | None = None) -> tuple[Value, ...]:
        """A new node; `name` may be that of a node that the patch makes dead, and is taken over from it."""
        node = self.graph.make(op, *inputs, name=name)
        self.added.append(node)
        if name is not None:
            self._wanted[node] = name
        return node.outputs

    def apply(self, op: Op, *inputs: Value | None, name: str | None = None) -> Value:
        """`add` for an op with one output."""
        (value,) = self.add(op, *inputs, name=name)
        return value

    def constant(self, data: Array | Deferred | float | Sequence[float], name: str = "const") -> Value:
        """A new constant, named like `add` names nodes."""
        value = self.graph.constant(data, name)
        self._wanted[value] = name
        return value

    def replace(self, old: Value, new: Value) -> None:
        """Everyone who reads `old` shall read `new`, graph outputs included. The types must be equal.

        Nodes that this patch adds keep the inputs that they were given, so a node can be put behind `old`.
        """
        if old.type != new.type:
            raise GraphError(f"cannot replace {old!r} by {new!r}: the types differ ({self.reason})")
        self.replaced[old] = new

    def commit(self) -> None:
        """Make the change, drop what nobody needs any more, and restore the order of the nodes."""
        graph = self.graph
        producers = {old.producer for old in self.replaced}
        at = next((i for i, node in enumerate(graph.nodes) if node in producers), 0)
        before = set(graph.nodes[:at])
        replace_values(graph, self.replaced)
        graph.nodes[at:at] = self.added
        if not (self._keeps_order(before) or in_order(graph)):
            graph.sort()
        remove_dead(graph)
        self._take_over_names()

    def _keeps_order(self, before: set[Node]) -> bool:
        """Whether all that is read anew is computed by nodes `before` the place where this patch puts its own."""
        done = before | {None}
        for node in self.added:
            if not done.issuperset(value.producer for value in node.present_inputs()):
                return False
            done.add(node)
        return done.issuperset(new.producer for new in self.replaced.values())

    def _take_over_names(self) -> None:
        """Call new values as the dead ones that they replace: names keep their meaning through the passes."""
        values = {value.name: value for value in self.graph.values()}
        nodes = {node.name: node for node in self.graph.nodes}
        for old, new in self.replaced.items():
            if (
                new.producer in self.added
                and old.name not in values
                and nodes.get(old.name, new.producer) is new.producer
            ):
                values[old.name] = values.pop(new.name, new)
                new.name = old.name
        for thing, name in self._wanted.items():
            owner = values.get(name)
            if isinstance(thing, Node) and name not in nodes and (owner is None or thing.outputs == (owner,)):
                nodes[name] = nodes.pop(thing.name, thing)
                thing.name = name
            elif isinstance(thing, Value) and name not in nodes and owner is None:
                values[name] = values.pop(thing.name, thing)
                thing.name = name


def replace_values(graph: Graph, table: dict[Value, Value]) -> None:
    """Let every reader of a key of `table` read its entry instead (chains are followed)."""

    def latest(value: Value) -> Value:
        while value in table:
            value = table[value]
        return value

    for node in graph.nodes:
        if not table.keys().isdisjoint(node.inputs):
            node.inputs = tuple(None if v is None else latest(v) for v in node.inputs)
    graph.outputs = {name: latest(value) for name, value in graph.outputs.items()}


def remove_dead(graph: Graph) -> int:
    """Remove the nodes that no output needs; the number of nodes removed."""
    readers = Counter(chain.from_iterable(map(attrgetter("inputs"), graph.nodes)))
    readers.update(graph.outputs.values())
    read = readers.keys()
    waiting = [node for node in graph.nodes if read.isdisjoint(node.outputs)]
    dead = set(waiting)
    while waiting:
        for value in waiting.pop().present_inputs():
            readers[value] -= 1
            if not readers[value]:
                del readers[value]
                if value.producer is not None and read.isdisjoint(value.producer.outputs):
                    dead.add(value.producer)
                    waiting.append(value.producer)
    if dead:
        graph.nodes = [node for node in graph.nodes if node not in dead]
    return len(dead)


def in_order(graph: Graph) -> bool:
    """Does every node come after those that it reads?"""
    done: set[Node] = set()
    for node in graph.nodes:
        if any(value.producer is not None and value.producer not in done for value in node.present_inputs()):
            return False
        done.add(node)
    return True
