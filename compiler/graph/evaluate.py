"""The numpy interpreter: the meaning of a graph, computed node by node from the ops' references."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from glulam.compiler.errors import GraphError
from glulam.compiler.graph.graph import Graph, Value
from glulam.compiler.graph.types import Array, TensorType


def evaluate(graph: Graph, feeds: Mapping[str, Array]) -> dict[str, Array]:
    """Outputs of the graph by name. `feeds` gives every input by name, with exactly its type.

    Raises GraphError if an input is missing, unknown, or of another type.
    """
    values = evaluate_all(graph, feeds)
    return {name: values[value] for name, value in graph.outputs.items()}


def evaluate_all(graph: Graph, feeds: Mapping[str, Array]) -> dict[Value, Array]:
    """Every value of the graph, intermediate ones included."""
    if not isinstance(feeds, Mapping):
        raise GraphError(f"the inputs are a {type(feeds).__name__}; give arrays by name: {list(graph.inputs)}")
    if unknown := set(feeds) - set(graph.inputs):
        raise GraphError(f"no input named {sorted(unknown)}; the inputs are {list(graph.inputs)}")
    table: dict[Value, Array] = {v: v.data for v in graph.constants() if v.data is not None}
    for name, value in graph.inputs.items():
        if name not in feeds:
            raise GraphError(f"input {name!r} is missing")
        array = _array(feeds[name], name)
        if TensorType.of(array) != value.type:
            raise GraphError(f"input {name!r} is {TensorType.of(array)}, but the graph takes {value.type}")
        table[value] = array
    for node in graph.nodes:
        results = node.op.reference(*(None if v is None else table[v] for v in node.inputs))
        for value, result in zip(node.outputs, results, strict=True):
            if TensorType.of(result) != value.type:
                raise GraphError(f"node {node.name!r}: the reference gave {TensorType.of(result)}, not {value.type}")
            table[value] = result
    return table


def _array(given: object, name: str) -> Array:
    if isinstance(given, np.ma.MaskedArray):
        raise GraphError(f"input {name!r}: masked arrays are refused; fill the mask with `.filled(value)`")
    try:
        return np.asarray(given)
    except (ValueError, TypeError) as error:
        raise GraphError(f"input {name!r} is no array ({error})") from error
