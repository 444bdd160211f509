"""The text form of a graph: `to_text` prints it, `parse` (in `graph.parser`) reads it back.

    graph net {
      input %x: f32[1,3,8,8]
      const %w: f32[4,3,3,3] = #0123456789abcdef
      const %b: f32[4] = [0.0, 1.0, 2.0, 3.0]
      %conv: f32[1,4,6,6] <c16 halo 1+1,1+1> = conv(%x, %w, %b) {strides=(1, 1), ...}
      %s.0: f32[1,2,6,6], %s.1: f32[1,2,6,6] = split(%conv) {axis=1, sizes=(2, 2)}
      output y = %s.0
    }

One node a line. A name that is not made of letters, digits and `_ . / - + $` is quoted. `@ name` after a node gives
the node's own name where it does not follow from its outputs. A layout stands in angle brackets if it is not plain.
Large constants are named by the hash of their contents; `constants_of` collects them.
"""

from __future__ import annotations

import hashlib
import math
import re
from collections.abc import Iterator

import numpy as np

from glulam.compiler.errors import GraphError
from glulam.compiler.graph.arrays import same_bits
from glulam.compiler.graph.graph import Graph, Node, Value
from glulam.compiler.graph.layout import Layout
from glulam.compiler.graph.op import Op
from glulam.compiler.graph.parser import BARE_NAME, implied_name, parse
from glulam.compiler.graph.types import Array, DType, TensorType

__all__ = ["INLINE_LIMIT", "constants_of", "digest", "literal", "node_text", "parse", "to_text"]

INLINE_LIMIT = 16
"""Constants of at most this many elements are printed in full."""


def to_text(graph: Graph) -> str:
    """The graph as text that `parse` reads back; ends with a newline.

    Raises GraphError if an attribute has no text form.
    """
    return "\n".join(_graph_lines(graph, "")) + "\n"


def node_text(node: Node) -> str:
    """The node as one line, for messages: sub-graphs among the attributes are left out."""
    return _node_line(node, None)


def constants_of(graph: Graph) -> dict[str, Array]:
    """The constants that the text names by hash only, sub-graphs included; the mapping that `parse` wants.

    Raises GraphError if two constants that differ have one hash.
    """
    table: dict[str, Array] = {}
    for value in _large_constants(graph):
        data = _data(value)
        known = table.setdefault(digest(data), data)
        if known is not data and not same_bits(known, data):
            raise GraphError(f"constant %{value.name} has the hash of another constant with other contents")
    return table


def digest(array: Array) -> str:
    """The first 16 hex digits of the SHA-256 of type and contents (row-major, little-endian)."""
    sha = hashlib.sha256(str(TensorType.of(array)).encode())
    wanted = DType.of(array.dtype).numpy.newbyteorder("<")
    if array.flags.c_contiguous and array.dtype == wanted:
        sha.update(array.reshape(-1).view(np.uint8).data)
    else:  # chunk by chunk: a broadcast view may be far larger than the memory behind it
        chunks = np.nditer(
            array, flags=["external_loop", "buffered", "zerosize_ok"], order="C", op_dtypes=wanted, casting="equiv"
        )
        for chunk in chunks:
            sha.update(np.asarray(chunk).tobytes())
    return sha.hexdigest()[:16]


def literal(value: object, indent: str | None = "") -> str:
    """An attribute's value as text. `indent` is that of the line; None leaves the contents of sub-graphs out.

    Raises GraphError if there is no text form.
    """
    match value:
        case None | bool() | str():
            return repr(value)
        case int() | np.integer():
            return str(int(value))
        case float() | np.floating():
            return repr(float(value))
        case DType():
            return value.value
        case tuple():
            inner = ", ".join(literal(item, indent) for item in value)
            return f"({inner},)" if len(value) == 1 else f"({inner})"
        case TensorType():
            return str(value)
        case Layout():
            return f"<{value}>"
        case Op():
            return value.name + _attributes(value, indent)
        case Graph():
            if indent is None:
                return f"graph {_name(value.name)} {{...}}"
            return "\n".join(_graph_lines(value, indent))
    raise GraphError(
        f"{type(value).__name__} {value!r} has no text form; attributes are literals, types, ops or graphs"
    )


# ---- lines


def _graph_lines(graph: Graph, indent: str) -> Iterator[str]:
    """The lines of a graph; the first one is not indented, so that it can follow `body=`."""
    inner = indent + "  "
    yield f"graph {_name(graph.name)} {{"
    for name, value in graph.inputs.items():
        alias = "" if name == value.name else f" @ {_name(name)}"
        yield f"{inner}input {_typed(value)}{alias}"
    shown: set[Value] = set()
    for node in graph.nodes:
        yield from _constant_lines(node.present_inputs(), shown, inner)
        yield inner + _node_line(node, inner)
    yield from _constant_lines(iter(graph.outputs.values()), shown, inner)
    for name, value in graph.outputs.items():
        yield f"{inner}output {_name(name)} = %{_name(value.name)}"
    yield indent + "}"


def _constant_lines(values: Iterator[Value], shown: set[Value], indent: str) -> Iterator[str]:
    for value in values:
        if value.is_constant and value not in shown:
            shown.add(value)
            yield f"{indent}const {_typed(value)} = {_contents(value)}"


def _node_line(node: Node, indent: str | None) -> str:
    outputs = ", ".join(map(_typed, node.outputs))
    inputs = ", ".join("none" if v is None else f"%{_name(v.name)}" for v in node.inputs)
    own_name = "" if node.name == implied_name([v.name for v in node.outputs]) else f" @ {_name(node.name)}"
    attributes = _attributes(node.op, indent) if node.op.attributes() else ""
    return f"{outputs} = {node.op.name}({inputs}){' ' if attributes else ''}{attributes}{own_name}"


def _attributes(op: Op, indent: str | None) -> str:
    return "{" + ", ".join(f"{name}={literal(value, indent)}" for name, value in op.attributes().items()) + "}"


def _typed(value: Value) -> str:
    layout = "" if value.layout.is_plain else f" <{value.layout}>"
    return f"%{_name(value.name)}: {value.type}{layout}"


def _name(name: str) -> str:
    return name if re.fullmatch(BARE_NAME, name) else repr(name)


# ---- constants


def _data(value: Value) -> Array:
    if value.data is None:
        raise GraphError(f"%{value.name} is not a constant")
    return value.data


def _large_constants(graph: Graph) -> Iterator[Value]:
    for value in graph.constants():
        if not _is_inline(_data(value)):
            yield value
    for node in graph.nodes:
        for attribute in node.op.attributes().values():
            if isinstance(attribute, Graph):
                yield from _large_constants(attribute)


def _contents(value: Value) -> str:
    """The constant in full if it is small and reads back to the same bits, else its hash."""
    data = _data(value)
    if _is_inline(data):
        return _inline(_shortest(data) if data.dtype.kind == "f" else data.tolist())
    return "#" + digest(data)


def _is_inline(data: Array) -> bool:
    return data.size <= INLINE_LIMIT and not _has_odd_nan(data)


def _has_odd_nan(data: Array) -> bool:
    """Is there a NaN whose bits the word `nan` does not tell?"""
    if data.dtype.kind != "f":
        return False
    nan = data.dtype.type(math.nan)
    return not same_bits(np.where(np.isnan(data), nan, data).astype(data.dtype), data)


def _shortest(data: Array) -> object:
    """Nested lists of floats, each the double with the fewest digits that rounds to the element."""
    if data.ndim:
        return [_shortest(row) for row in data]
    item = data[()]
    short = float(str(item))
    return short if math.isnan(short) or data.dtype.type(short) == item else float(item)


def _inline(nested: object) -> str:
    if isinstance(nested, list):
        return "[" + ", ".join(map(_inline, nested)) + "]"
    return literal(nested)
