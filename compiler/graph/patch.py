"""Patches: a rewrite collects what it wants to change, and the change happens at once or not at all."""

from __future__ import annotations

from collections.abc import Sequence

from glulam.compiler.errors import GraphError
from glulam.compiler.graph.deferred import Deferred
from glulam.compiler.graph.graph import Graph, Node, Value
from glulam.compiler.graph.op import Op
from glulam.compiler.graph.types import Array
from glulam.compiler.graph.uses import Uses


class Patch:
    """New nodes, and old values that give way to new ones. Nothing touches the graph before `commit`.

    `at` names the node that the patch is about, for reports; without it the first replaced value does.
    """

    def __init__(self, graph: Graph, reason: str, at: str | None = None) -> None:
        self.graph = graph
        self.reason = reason
        self.added: list[Node] = []
        self.replaced: dict[Value, Value] = {}
        self.dropped: list[Node] = []
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

    def drop(self, node: Node) -> None:
        """The node shall go, unless somebody reads it."""
        self.dropped.append(node)

    def commit(self, uses: Uses | None = None) -> None:
        """Make the change, drop what nobody needs any more, and restore the order of the nodes.

        `uses` is the graph's table of uses, which is kept up to date; it is made if there is none.
        """
        if uses is None or uses.graph is not self.graph:
            uses = Uses(self.graph)
        gone = [old.producer for old in self.replaced if old.producer is not None and old.producer in uses]
        place = uses.place(min(map(uses.rank, gone))) if gone else 0
        keeps_order = self._keeps_order(uses, place)
        uses.replace(self.replaced)
        uses.insert(place, self.added)
        if not (keeps_order or in_order(self.graph)):
            uses.sort()
        uses.remove_unread([*gone, *self.added, *self.dropped])
        self._take_over_names(uses)

    def _keeps_order(self, uses: Uses, place: int) -> bool:
        """Whether all that is read anew is computed before this place, where the patch puts its own nodes."""
        nodes = self.graph.nodes
        done: set[Node | None] = {None}

        def is_before(value: Value) -> bool:
            node = value.producer
            if node is None or node in done:
                return True
            return node in uses and (place == len(nodes) or uses.rank(node) < uses.rank(nodes[place]))

        for node in self.added:
            if not all(map(is_before, node.present_inputs())):
                return False
            done.add(node)
        return all(map(is_before, self.replaced.values()))

    def _take_over_names(self, uses: Uses) -> None:
        """Call new values as the dead ones that they replace: names keep their meaning through the passes."""
        for old, new in self.replaced.items():
            if (
                new.producer in self.added
                and uses.has(new)
                and old.name not in uses.values
                and uses.nodes.get(old.name, new.producer) is new.producer
            ):
                uses.rename(new, old.name)
        for thing, name in self._wanted.items():
            owner = uses.values.get(name)
            free = owner is None or (isinstance(thing, Node) and thing.outputs == (owner,))
            if free and name not in uses.nodes and uses.has(thing):
                uses.rename(thing, name)


def in_order(graph: Graph) -> bool:
    """Does every node come after those that it reads?"""
    done: set[Node] = set()
    for node in graph.nodes:
        if any(value.producer is not None and value.producer not in done for value in node.present_inputs()):
            return False
        done.add(node)
    return True
