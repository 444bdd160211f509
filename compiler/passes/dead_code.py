"""Dead code: nodes whose results reach no output of the graph."""

from __future__ import annotations

from collections.abc import Iterator

from glulam.compiler.graph.graph import Graph, Node
from glulam.compiler.graph.patch import Patch
from glulam.compiler.graph.uses import Uses
from glulam.compiler.passes.manager import Decision, Pass


class DeadCode(Pass):
    """Removes them all with one patch. (Every other patch removes what it makes dead itself.)"""

    name = "dead_code"

    def proposals(self, graph: Graph, uses: Uses) -> Iterator[Patch | Decision]:
        needed: set[Node] = set()
        stack = [value.producer for value in graph.outputs.values() if value.producer]
        while stack:
            node = stack.pop()
            if node not in needed:
                needed.add(node)
                stack.extend(value.producer for value in node.present_inputs() if value.producer)
        dead = [node for node in graph.nodes if node not in needed]
        if dead:
            patch = Patch(graph, f"no output needs {', '.join(node.name for node in dead)}", at=dead[0].name)
            for node in dead:
                patch.drop(node)
            yield patch
