"""Pictures of a graph for inspection, and the analyses of its shape that passes and people ask for.

The DOT text needs no graphviz to be made; `coordinates` gives places for drawing with anything else.
"""

from __future__ import annotations

from collections.abc import Collection

import networkx as nx

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


def coordinates(graph: Graph) -> dict[Node, tuple[float, float]]:
    """A place for each node: y = -(longest path from the inputs), each such layer centred around x = 0."""
    places: dict[Node, tuple[float, float]] = {}
    for depth, generation in enumerate(nx.topological_generations(graph.as_networkx())):
        row = list(generation)
        places.update({node: (i - (len(row) - 1) / 2, -float(depth)) for i, node in enumerate(row)})
    return places


def reaches(graph: Graph, start: Node, end: Node) -> bool:
    """Does a result of `start` flow into `end`? A node reaches itself."""
    return bool(nx.has_path(graph.as_networkx(), start, end))


def between(graph: Graph, start: Node, end: Node) -> list[Node]:
    """The nodes on some path from `start` to `end`, both included, in the graph's order; empty if there is no path."""
    view = graph.as_networkx()
    inside = (nx.descendants(view, start) | {start}) & (nx.ancestors(view, end) | {end})
    return [node for node in graph.nodes if node in inside]


def is_convex(graph: Graph, nodes: Collection[Node]) -> bool:
    """Does every path between two of the nodes stay among them? Only such a set can become one node."""
    chosen = set(nodes)
    view = graph.as_networkx()
    outside = {reader for node in chosen for reader in view.successors(node)} - chosen
    below = outside.union(*(nx.descendants(view, node) for node in outside))
    return not below & chosen


def immediate_dominators(graph: Graph) -> dict[Node, Node | None]:
    """For each node the nearest one that every path from the graph's inputs passes; None where there is none."""
    starts = [n for n in graph.nodes if any(v.producer is None and not v.is_constant for v in n.present_inputs())]
    starts += [n for n in graph.nodes if all(v.producer is None for v in n.present_inputs())]
    return _dominators(graph, graph.as_networkx(), starts)


def immediate_postdominators(graph: Graph) -> dict[Node, Node | None]:
    """For each node the nearest one that every path to the graph's outputs passes; None where there is none.

    Where a branch is closed again (a residual add, a concat) it is the node that closes it.
    """
    ends = [v.producer for v in graph.outputs.values() if v.producer is not None]
    return _dominators(graph, graph.as_networkx().reverse(), ends)


def _dominators(graph: Graph, view: nx.DiGraph[Node], starts: Collection[Node]) -> dict[Node, Node | None]:
    root = Node(Op(), (), (), "")
    view.add_edges_from((root, node) for node in starts)
    found = nx.immediate_dominators(view, root)
    return {node: None if (above := found.get(node)) is root else above for node in graph.nodes}


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
