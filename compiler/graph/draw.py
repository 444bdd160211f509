"""Pictures of a graph for inspection, as text in the DOT language, which needs no graphviz to be made."""

from __future__ import annotations

from collections.abc import Collection

from glulam.compiler.graph.graph import Graph, Node, Value
from glulam.compiler.graph.op import Op
from glulam.compiler.graph.text import literal

_LABEL_LIMIT = 40


def to_dot(graph: Graph, *, constants: bool = False, highlight: Collection[Node] = ()) -> str:
    """The graph in the DOT language: boxes for nodes, ellipses for inputs and outputs, types on the edges.

    `constants` draws constants too; nodes in `highlight` are filled.
    """
    lines = [f"digraph {_quoted(graph.name)} {{", "  node [fontsize=10]; edge [fontsize=8];"]
    for name, value in graph.inputs.items():
        lines.append(f"  {_value_id(value)} [label={_quoted(name)}, shape=ellipse];")
    if constants:
        lines += [f"  {_value_id(v)} [label={_quoted(v.name)}, shape=note];" for v in graph.constants()]
    for node in graph.nodes:
        filled = ', style=filled, fillcolor="lightblue"' if node in highlight else ""
        lines.append(f"  {_node_id(node)} [label={_quoted(_label(node))}, shape=box{filled}];")
    for node in graph.nodes:
        for value in node.present_inputs():
            if constants or not value.is_constant:
                lines.append(f"  {_source_id(value)} -> {_node_id(node)} [label={_quoted(str(value.type))}];")
    for name, value in graph.outputs.items():
        out = _quoted(f"output {name}")
        lines.append(f"  {out} [label={_quoted(name)}, shape=ellipse];")
        if constants or not value.is_constant:
            lines.append(f"  {_source_id(value)} -> {out} [label={_quoted(str(value.type))}];")
    return "\n".join([*lines, "}"]) + "\n"


def _label(node: Node) -> str:
    attributes = [f"{k}={_short(v)}" for k, v in node.op.attributes().items()]
    return "\n".join([f"{node.op.name} {node.name}", *attributes])


def _short(value: object) -> str:
    if isinstance(value, Op):
        return value.name
    text = literal(value, None)
    return text if len(text) <= _LABEL_LIMIT else text[: _LABEL_LIMIT - 3] + "..."


def _source_id(value: Value) -> str:
    return _node_id(value.producer) if value.producer else _value_id(value)


def _node_id(node: Node) -> str:
    return _quoted(f"node {node.name}")


def _value_id(value: Value) -> str:
    return _quoted(f"value {value.name}")


def _quoted(text: str) -> str:
    escaped = text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
    return f'"{escaped}"'
