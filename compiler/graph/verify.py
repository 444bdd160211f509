"""The verifier: the rules that every graph keeps between two passes."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import NoReturn

from glulam.compiler.errors import GraphError, ShapeError
from glulam.compiler.graph.graph import Graph, Node, Value
from glulam.compiler.graph.op import Op
from glulam.compiler.graph.text import node_text
from glulam.compiler.graph.types import TensorType

Known = dict[Node, tuple[Op, list[TensorType | None], list[TensorType]]]
"""Nodes with the op, and the types of inputs and outputs, that were found to agree."""


def verify(graph: Graph, known: Known | None = None) -> None:
    """Check the graph; sub-graphs among the attributes too. What is `known` to agree is not inferred again.

    Names are unique; every value has one definition, made before its first use (so there is no cycle); producers and
    their outputs agree; constants match their types; types are those that the ops infer; outputs exist.
    Raises GraphError that shows the offending node.
    """
    known = {} if known is None else known
    _check_names(graph)
    defined: set[Value] = set()
    for value in graph.inputs.values():
        if value.producer is not None or value.is_constant:
            _fail(graph, f"the input %{value.name} is also computed or constant")
        defined.add(value)
    for node in graph.nodes:
        _check_inputs(graph, node, defined)
        _check_outputs(graph, node, defined)
        _check_types(graph, node, known)
        for attribute in node.op.attributes().values():
            if isinstance(attribute, Graph):
                verify(attribute, known)
    if not graph.outputs:
        _fail(graph, "there is no output")
    for name, value in graph.outputs.items():
        if value.is_constant:
            _check_constant(graph, value, None)
        elif value not in defined:
            _fail(graph, f"the output {name!r} is %{value.name}, which no node of the graph computes")


def _fail(graph: Graph, why: str, node: Node | None = None) -> NoReturn:
    place = f"\n  {node_text(node)}" if node else ""
    raise GraphError(f"graph {graph.name!r}: {why}{place}")


def _check_names(graph: Graph) -> None:
    """Nothing shares a name, except a node with its only output."""
    owner: dict[str, object] = {}
    for thing in _named(graph):
        other = owner.setdefault(thing.name, thing)
        if other is not thing and not _is_only_output(other, thing):
            _fail(graph, f"two things are named {thing.name!r}", thing if isinstance(thing, Node) else thing.producer)
    if len(set(graph.nodes)) != len(graph.nodes):
        _fail(graph, "a node is in the list twice")


def _named(graph: Graph) -> Iterator[Value | Node]:
    yield from graph.values()
    yield from graph.nodes


def _is_only_output(value: object, node: object) -> bool:
    return isinstance(node, Node) and node.outputs == (value,)


def _check_inputs(graph: Graph, node: Node, defined: set[Value]) -> None:
    for value in node.present_inputs():
        if value.is_constant:
            _check_constant(graph, value, node)
        elif value not in defined:
            later = value.producer is not None and value.producer in graph.nodes
            why = "is computed only later, or depends on this node" if later else "is not computed in this graph"
            _fail(graph, f"%{value.name} {why}", node)


def _check_constant(graph: Graph, value: Value, node: Node | None) -> None:
    if value.producer is not None or value in graph.inputs.values():
        _fail(graph, f"the constant %{value.name} is also computed or an input", node)
    if value.deferred is not None:
        if value.deferred.type != value.type:
            _fail(
                graph, f"the constant %{value.name} is {value.type}, but its data will be {value.deferred.type}", node
            )
        return
    data = value.data
    if data is None or data.dtype != value.type.dtype.numpy or data.shape != value.type.shape:
        described = "missing" if data is None else f"{data.dtype.str}{list(data.shape)}"
        _fail(graph, f"the constant %{value.name} is {value.type}, but its data are {described}", node)


def _check_outputs(graph: Graph, node: Node, defined: set[Value]) -> None:
    for index, value in enumerate(node.outputs):
        if value.producer is not node or value.index != index:
            _fail(graph, f"%{value.name} does not name this node as its producer", node)
        if value.is_constant or value in defined:
            _fail(graph, f"%{value.name} is defined twice", node)
        defined.add(value)


def _check_types(graph: Graph, node: Node, known: Known) -> None:
    given = node.input_types
    made = [value.type for value in node.outputs]
    op, *types = known.get(node, (None,))
    if op is node.op and types == [given, made]:
        return
    try:
        inferred = node.op.infer(*given)
    except ShapeError as error:
        _fail(graph, str(error), node)
    if inferred != tuple(made):
        _fail(graph, f"the op makes {_shown(inferred)}", node)
    known[node] = node.op, given, made


def _shown(types: Iterable[TensorType]) -> str:
    return ", ".join(map(str, types))
