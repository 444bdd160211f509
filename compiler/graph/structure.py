"""Keys under which ops, and graphs among their attributes, are equal: by what they compute, not by names."""

from __future__ import annotations

from collections.abc import Hashable

from glulam.compiler.graph.graph import Graph, Value
from glulam.compiler.graph.op import Op

_SHORT = 64  # bytes of a constant that are compared


def op_key(op: Op) -> Hashable:
    """Equal for ops that mean the same; 0.0 and -0.0, or 1 and True and 1.0, are different; NaN equals itself."""
    return type(op), tuple(_exactly(value) for value in op.attributes().values())


def graph_key(graph: Graph) -> Hashable:
    """Equal for graphs of equal nodes in order over the same short constants; longer ones must be one object."""
    number: dict[Value, int] = {}
    for value in graph.inputs.values():
        number[value] = len(number)

    def described(value: Value | None) -> Hashable:
        if value is None or value in number:
            return None if value is None else number[value]
        data = value.data
        assert data is not None
        return value.type, data.tobytes() if data.nbytes <= _SHORT else id(data)

    nodes = []
    for node in graph.nodes:
        inputs = tuple(map(described, node.inputs))
        for value in node.outputs:
            number[value] = len(number)
        nodes.append((op_key(node.op), inputs, tuple((value.type, value.layout) for value in node.outputs)))
    inputs = tuple((value.type, value.layout) for value in graph.inputs.values())
    return inputs, tuple(nodes), tuple(map(described, graph.outputs.values()))


def _exactly(value: object) -> Hashable:
    match value:
        case tuple():
            return tuple(_exactly(item) for item in value)
        case Op():
            return op_key(value)
        case Graph():
            return graph_key(value)
        case bool() | int() | float():
            return type(value).__name__, repr(value)
        case Hashable():
            return value
    return id(value)
