"""Who reads what, in which order, under which names: a table of a graph that patches keep up to date.

So a patch costs what it changes, however large the graph is.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property

from glulam.compiler.graph.graph import Graph, Node, Value

_GAP = 1 << 32  # between the ranks of neighbours, so that others find places between them


class Uses:
    """The table of one graph. Who changes the graph otherwise than by a patch makes a new one."""

    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        self._ranks: dict[Node, int] = {}
        self._outputs = Counter(graph.outputs.values())
        self._renumber()

    # ---- reading

    @cached_property
    def _users(self) -> dict[Value, list[Node]]:
        return self.graph.users()

    @cached_property
    def values(self) -> dict[str, Value]:
        """All values by name."""
        return {value.name: value for value in self.graph.values()}

    @cached_property
    def nodes(self) -> dict[str, Node]:
        """All nodes by name."""
        return {node.name: node for node in self.graph.nodes}

    @cached_property
    def constant_bytes(self) -> int:
        """Of all constants of the graph together, as it was when this was first asked."""
        return sum(value.type.nbytes for value in self.graph.constants())

    def __contains__(self, node: Node) -> bool:
        return node in self._ranks

    def has(self, thing: Node | Value) -> bool:
        """Whether the graph has the node or the value."""
        if isinstance(thing, Node):
            return thing in self
        if thing.producer is not None:
            return thing.producer in self
        return bool(self.users(thing)) or self.is_output(thing) or self.graph.inputs.get(thing.name) is thing

    def users(self, value: Value) -> Sequence[Node]:
        """The nodes that read the value, once for each input. Graph outputs do not count."""
        return self._users.get(value, ())

    def is_output(self, value: Value) -> bool:
        return value in self._outputs

    def is_read(self, node: Node) -> bool:
        """Whether a node or an output of the graph needs something that the node computes."""
        return any(self.users(value) or self.is_output(value) for value in node.outputs)

    def shared_because(self, value: Value) -> str | None:
        """Why the value must stay even if one of its readers needs it no more; None if it may go."""
        if self.is_output(value):
            return f"%{value.name} is an output of the graph"
        others = len(self.users(value)) - 1
        if others > 0:
            return f"%{value.name} has {others} other {'use' if others == 1 else 'uses'}"
        return None

    def rank(self, node: Node) -> int:
        """Greater for nodes that come later."""
        return self._ranks[node]

    def place(self, rank: int) -> int:
        """How many nodes come before all that have this rank or a greater one."""
        return bisect_left(self.graph.nodes, rank, key=self._ranks.__getitem__)

    # ---- changing: the graph and this table together

    def replace(self, table: Mapping[Value, Value]) -> None:
        """Let every reader of a key of `table` read its entry instead (chains are followed)."""

        def latest(value: Value) -> Value:
            while value in table:
                value = table[value]
            return value

        for old in table:
            new = latest(old)
            readers = self._users.pop(old, [])
            for node in readers:
                node.inputs = tuple(new if value is old else value for value in node.inputs)
            self._users.setdefault(new, []).extend(readers)
            if old in self._outputs:
                self.graph.outputs = {k: new if v is old else v for k, v in self.graph.outputs.items()}
                self._outputs[new] += self._outputs.pop(old)
            if not self.has(old):
                self._forget(self.values, old)

    def insert(self, place: int, added: Sequence[Node]) -> None:
        """Put new nodes before the one that has been number `place`."""
        nodes = self.graph.nodes
        before = self._ranks[nodes[place - 1]] if place else 0
        after = self._ranks[nodes[place]] if place < len(nodes) else before + _GAP * (len(added) + 1)
        nodes[place:place] = added
        step = (after - before) // (len(added) + 1)
        if step:
            self._ranks.update((node, before + step * i) for i, node in enumerate(added, 1))
        else:
            self._renumber()
        for node in added:
            self.nodes[node.name] = node
            self.values.update((value.name, value) for value in node.outputs)
            for value in node.present_inputs():
                self._users.setdefault(value, []).append(node)
                self.values[value.name] = value

    def sort(self) -> None:
        """Restore the topological order; GraphError on a cycle."""
        self.graph.sort()
        self._renumber()

    def remove_unread(self, nodes: Iterable[Node]) -> None:
        """Remove those of the nodes that nobody reads, and all that nobody reads any more when they are gone."""
        waiting = [node for node in dict.fromkeys(nodes) if node in self and not self.is_read(node)]
        while waiting:
            node = waiting.pop()
            if node not in self:
                continue
            del self.graph.nodes[self.place(self._ranks[node])]
            del self._ranks[node]
            self._forget(self.nodes, node)
            for value in node.outputs:
                self._forget(self.values, value)
            for value in node.present_inputs():
                readers = self._users[value]
                readers.remove(node)
                if not self.has(value):
                    self._forget(self.values, value)
                elif value.producer is not None and not self.is_read(value.producer):
                    waiting.append(value.producer)

    def rename(self, thing: Node | Value, name: str) -> None:
        """Call a node or a value by a name that is free."""
        if isinstance(thing, Node):
            self._forget(self.nodes, thing)
            self.nodes[name] = thing
        else:
            self._forget(self.values, thing)
            self.values[name] = thing
        thing.name = name

    def _forget(self, names: dict[str, Node] | dict[str, Value], thing: Node | Value) -> None:
        if names.get(thing.name) is thing:
            del names[thing.name]

    def _renumber(self) -> None:
        self._ranks = {node: i * _GAP for i, node in enumerate(self.graph.nodes, 1)}
