"""The graph: values, nodes, and the few operations by which they are put together and changed."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from operator import attrgetter
from typing import TYPE_CHECKING, Self

import numpy as np

from glulam.compiler.errors import GraphError, ShapeError
from glulam.compiler.graph.deferred import Deferred
from glulam.compiler.graph.layout import PLAIN, Layout
from glulam.compiler.graph.op import Op, Prefers
from glulam.compiler.graph.types import Array, TensorType

if TYPE_CHECKING:
    import networkx as nx


class Value:
    """A tensor in a graph: an input, a constant (`data` is set), or the output of a node."""

    __slots__ = ("_data", "index", "layout", "name", "producer", "type")

    def __init__(self, name: str, type: TensorType, *, data: Array | Deferred | None = None) -> None:
        self.name = name
        self.type = type
        self._data = data
        self.producer: Node | None = None
        self.index = 0
        self.layout: Layout = PLAIN

    @property
    def shape(self) -> tuple[int, ...]:
        return self.type.shape

    @property
    def data(self) -> Array | None:
        """The elements of a constant, which may have to be computed first."""
        data = self._data  # once: another thread may put the array in its place meanwhile
        if isinstance(data, Deferred):
            data = self._data = data.array()
        return data

    @data.setter
    def data(self, data: Array | None) -> None:
        self._data = data

    @property
    def deferred(self) -> Deferred | None:
        """The data, if nobody has asked for them yet and they may still have to be computed."""
        data = self._data
        return data if isinstance(data, Deferred) else None

    @property
    def is_constant(self) -> bool:
        return self._data is not None

    @property
    def is_number(self) -> bool:
        """Whether it is a constant of one element."""
        return self.is_constant and self.type.size == 1

    def __repr__(self) -> str:
        return f"%{self.name}: {self.type}"


Named = Value | Iterable[Value] | Mapping[str, Value]


class Node:
    """One application of an op. Inputs left out are None."""

    __slots__ = ("inputs", "name", "op", "outputs")

    def __init__(self, op: Op, inputs: Sequence[Value | None], outputs: Sequence[Value], name: str) -> None:
        self.op = op
        self.inputs: tuple[Value | None, ...] = tuple(inputs)
        self.outputs: tuple[Value, ...] = tuple(outputs)
        self.name = name
        for index, value in enumerate(self.outputs):
            value.producer = self
            value.index = index

    @property
    def output(self) -> Value:
        """The only output."""
        (value,) = self.outputs
        return value

    def operand(self, i: int) -> Value:
        """Input `i`, which must be there. Raises GraphError if it is left out."""
        value = self.inputs[i] if i < len(self.inputs) else None
        if value is None:
            raise GraphError(f"{self!r}: input {i} is missing")
        return value

    def present_inputs(self) -> Iterator[Value]:
        return (value for value in self.inputs if value is not None)

    @property
    def parameters_are_known(self) -> bool:
        """Whether all inputs but the first are constants or left out."""
        return all(value is None or value.is_constant for value in self.inputs[1:])

    @property
    def input_types(self) -> list[TensorType | None]:
        return [None if value is None else value.type for value in self.inputs]

    @property
    def output_types(self) -> list[TensorType]:
        return [value.type for value in self.outputs]

    @property
    def prefers(self) -> Prefers:
        """The arrangement of these tensors that the op computes on."""
        return self.op.preference(self.input_types, self.output_types)

    @property
    def flops(self) -> int:
        """Of one run."""
        return self.op.flops(self.input_types, self.output_types)

    def __repr__(self) -> str:
        outs = ", ".join(map(repr, self.outputs))
        ins = ", ".join("none" if v is None else f"%{v.name}" for v in self.inputs)
        return f"{outs} = {self.op.name}({ins})"


class Graph:
    """A directed acyclic graph of nodes in topological order, with named inputs and outputs.

    `inputs` maps a name to its value (the value has the same name); `outputs` maps a name to any value of the graph,
    so that one value can be given out twice and an input can be given out as it is.
    """

    def __init__(self, name: str = "graph") -> None:
        self.name = name
        self.inputs: dict[str, Value] = {}
        self.outputs: dict[str, Value] = {}
        self.nodes: list[Node] = []
        self._names: set[str] = set()
        self._counter = itertools.count()

    # ---- building

    def input(self, name: str, type: TensorType) -> Value:
        """Declare an input. Its name must be free."""
        if name in self._names:
            raise GraphError(f"graph {self.name!r} has a value named {name!r} already; inputs need names of their own")
        value = Value(self.unique(name), type)
        self.inputs[name] = value
        return value

    def constant(self, data: Array | Deferred | float | Sequence[float], name: str = "const") -> Value:
        """A value known at compile time. The array is not copied and must not be changed afterwards."""
        if isinstance(data, Deferred):
            return Value(self.unique(name), data.type, data=data)
        array = np.asarray(data)
        return Value(self.unique(name), TensorType.of(array), data=array)

    def add(
        self, op: Op, *inputs: Value | None, name: str | None = None, output_names: Sequence[str] | None = None
    ) -> tuple[Value, ...]:
        """Append a node and return its outputs; the shape rule of the op is applied at once."""
        node = self.make(op, *inputs, name=name, output_names=output_names)
        self.nodes.append(node)
        return node.outputs

    def apply(self, op: Op, *inputs: Value | None, name: str | None = None) -> Value:
        """`add` for an op with one output."""
        (value,) = self.add(op, *inputs, name=name)
        return value

    def make(
        self, op: Op, *inputs: Value | None, name: str | None = None, output_names: Sequence[str] | None = None
    ) -> Node:
        """A node that is not in the graph yet."""
        name = self.unique(name or op.name)
        try:
            types = op.infer(*(None if v is None else v.type for v in inputs))
        except ShapeError as error:
            raise ShapeError(f"node {name!r}: {error}") from error
        if output_names is None:
            output_names = [name] if len(types) == 1 else [f"{name}.{i}" for i in range(len(types))]
        outputs = [
            Value(out if len(types) == 1 and out == name else self.unique(out), type)
            for out, type in zip(output_names, types, strict=True)
        ]
        return Node(op, inputs, outputs, name)

    def output(self, name: str, value: Value) -> None:
        if name in self.outputs:
            raise GraphError(f"graph {self.name!r} has an output named {name!r} already")
        self.outputs[name] = value

    def unique(self, wanted: str) -> str:
        """A name that nothing in this graph has, as close to the wanted one as can be; it is taken by the call."""
        name = wanted
        while name in self._names:
            name = f"{wanted}_{next(self._counter)}"
        self._names.add(name)
        return name

    @classmethod
    def of(cls, inputs: Named, outputs: Named, name: str = "graph") -> Self:
        """The graph of everything that `outputs` need, up to `inputs`.

        Both are one value, several, or values by name. Values and nodes whose name is taken already get another one.
        Raises GraphError if an input is missing, if there is no output, or if two of either have the same name.
        """
        graph = cls(name)
        graph.inputs = _by_name(inputs, "inputs")
        graph.outputs = _by_name(outputs, "outputs")
        if not graph.outputs:
            raise GraphError("a graph needs an output; give what it is to compute")
        given = set(graph.inputs.values())
        seen: set[Node] = set()
        nodes: list[Node] = []
        stack = [(v.producer, False) for v in reversed(list(graph.outputs.values())) if v.producer and v not in given]
        while stack:
            node, done = stack.pop()
            if done:
                nodes.append(node)
                continue
            if node in seen:
                continue
            seen.add(node)
            stack.append((node, True))
            needed = [v.producer for v in node.present_inputs() if v.producer and v not in given]
            stack.extend((producer, False) for producer in reversed(needed))
        graph.nodes = nodes
        for value in graph.values():
            if value.producer is None and not value.is_constant and value not in given:
                raise GraphError(f"value {value.name!r} is needed but neither computed, constant, nor among the inputs")
            _rename(value, graph.unique(value.name))
        for node in nodes:
            if [value.name for value in node.outputs] != [node.name]:
                node.name = graph.unique(node.name)
        return graph

    # ---- reading

    def values(self) -> Iterator[Value]:
        """Every value once: inputs, then in the order of the nodes (constants before their first user)."""
        sides = itertools.chain.from_iterable(map(attrgetter("inputs", "outputs"), self.nodes))
        of_nodes = itertools.chain.from_iterable(sides)
        found = dict.fromkeys(itertools.chain(self.inputs.values(), of_nodes, self.outputs.values()))
        found.pop(None, None)
        return iter(found)

    def constants(self) -> Iterator[Value]:
        return (value for value in self.values() if value.is_constant)

    def users(self) -> dict[Value, list[Node]]:
        """For each value, the nodes that read it (once per reading input). Graph outputs do not count as users."""
        table: dict[Value, list[Node]] = {value: [] for value in self.values()}
        for node in self.nodes:
            for value in node.inputs:
                if value is not None:
                    table[value].append(node)
        return table

    def is_output(self, value: Value) -> bool:
        return any(value is out for out in self.outputs.values())

    def as_networkx(self) -> nx.DiGraph[Node]:
        """The nodes and the data dependences between them, for analysis (orders, dominators, reachability)."""
        import networkx as nx  # which takes a tenth of a second, and compilations hardly ever need

        view: nx.DiGraph[Node] = nx.DiGraph()
        view.add_nodes_from(self.nodes)
        for node in self.nodes:
            view.add_edges_from((value.producer, node) for value in node.present_inputs() if value.producer is not None)
        return view

    def sort(self) -> None:
        """Put the nodes into topological order, keeping today's order where it is free; GraphError on a cycle."""
        import networkx as nx

        rank = {node: i for i, node in enumerate(self.nodes)}
        try:
            self.nodes = list(nx.lexicographical_topological_sort(self.as_networkx(), key=lambda n: rank.get(n, -1)))
        except nx.NetworkXUnfeasible as error:
            raise GraphError(f"graph {self.name!r} has a cycle") from error

    def copy(self) -> Graph:
        """A graph with nodes and values of its own; constant data is shared."""
        twin = Graph(self.name)
        twin._names = set(self._names)
        table: dict[Value, Value] = {}
        for value in self.values():
            clone = Value(value.name, value.type, data=value.deferred or value.data)
            clone.layout = value.layout
            table[value] = clone
        twin.inputs = {name: table[value] for name, value in self.inputs.items()}
        twin.outputs = {name: table[value] for name, value in self.outputs.items()}
        for node in self.nodes:
            inputs = [None if value is None else table[value] for value in node.inputs]
            twin.nodes.append(Node(_copied(node.op), inputs, [table[value] for value in node.outputs], node.name))
        return twin


def _copied(op: Op) -> Op:
    """The op with sub-graphs of its own."""
    inner = {name: value.copy() for name, value in op.attributes().items() if isinstance(value, Graph)}
    return replace(op, **inner) if inner else op


def _by_name(values: Named, what: str) -> dict[str, Value]:
    if isinstance(values, Value):
        return {values.name: values}
    if isinstance(values, Mapping):
        if all(isinstance(name, str) and isinstance(value, Value) for name, value in values.items()):
            return dict(values)
    elif isinstance(values, Iterable):
        given = list(values)
        if all(isinstance(value, Value) for value in given):
            named = {value.name: value for value in given}
            if len(named) < len(given):
                names = ", ".join(value.name for value in given)
                raise GraphError(f"two {what} have the same name ({names}); name them apart")
            return named
    raise GraphError(f"the {what} are {values!r}; they must be a tensor, several, or tensors by name")


def _rename(value: Value, name: str) -> None:
    node = value.producer
    if node is not None and node.outputs == (value,) and node.name == value.name:
        node.name = name
    value.name = name
