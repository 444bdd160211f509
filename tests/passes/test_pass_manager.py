"""The manager: verified on both sides, switchable, cut off after N patches, reported."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

import pytest

from glulam.compiler.errors import GraphError
from glulam.compiler.graph.graph import Graph, Node
from glulam.compiler.graph.patch import Patch
from glulam.compiler.graph.text import parse, to_text
from glulam.compiler.graph.uses import Uses
from glulam.compiler.passes.manager import Decision, NodePass, Pass, run_passes
from toy_ops import OPS, Note


@dataclass(frozen=True)
class Drop(NodePass):
    """Drops notes that say `what`."""

    name: ClassVar[str] = "drop"
    ensures: ClassVar[tuple[str, ...]] = ("clean",)
    what: int = 1

    def visit(self, graph: Graph, uses: Uses, node: Node) -> Patch | Decision | None:
        if not isinstance(node.op, Note):
            return None
        if node.op.what != self.what:
            return Decision(node.name, False, f"says {node.op.what}")
        patch = Patch(graph, "dropped")
        patch.replace(node.output, node.inputs[0])
        return patch


@dataclass(frozen=True)
class NeedsClean(Pass):
    name: ClassVar[str] = "needs_clean"
    requires: ClassVar[tuple[str, ...]] = ("clean",)
    optional: ClassVar[bool] = False

    def proposals(self, graph: Graph, uses: Uses) -> Iterator[Patch | Decision]:
        yield Decision(graph.name, False, "nothing to do")


@dataclass(frozen=True)
class Break(Pass):
    name: ClassVar[str] = "break"

    def proposals(self, graph: Graph, uses: Uses) -> Iterator[Patch | Decision]:
        graph.nodes.clear()
        yield from ()


def notes() -> Graph:
    return parse(
        """
        graph g {
          input %x: f32[4]
          %a = note(%x) {what=1}
          %b = note(%a) {what=2}
          %c = note(%b) {what=1}
          output y = %c
        }
        """,
        OPS,
    )


def test_report():
    graph = notes()
    (report,) = run_passes(graph, [Drop()])
    assert report.changed
    assert report.patches == 2
    assert report.decisions == [
        Decision("a", True, "dropped"),
        Decision("b", False, "says 2"),
        Decision("c", True, "dropped"),
    ]
    assert str(report) == "drop: 2 patches\n  + a: dropped\n  - b: says 2\n  + c: dropped"
    assert [n.name for n in graph.nodes] == ["b"]


def test_nothing_changed():
    (report,) = run_passes(notes(), [Drop(3)])
    assert not report.changed
    assert [d.taken for d in report.decisions] == [False] * 3


@pytest.mark.parametrize(("limit", "left"), [(0, "abc"), (1, "bc"), (2, "c"), (3, "c"), (9, "c")])
def test_stop_after_counts_over_all_passes(limit, left):
    graph = notes()
    graph.nodes[2].op = Note(3)
    run_passes(graph, [Drop(1), Drop(2)], stop_after=limit)
    assert "".join(n.name for n in graph.nodes) == left


def test_disable():
    graph = notes()
    assert run_passes(graph, [Drop()], disable=["drop"]) == []
    with pytest.raises(GraphError, match="no pass named 'foo'; the passes are drop"):
        run_passes(graph, [Drop()], disable=["foo"])
    with pytest.raises(GraphError, match="'needs_clean' cannot be disabled"):
        run_passes(graph, [Drop(), NeedsClean()], disable=["needs_clean"])


def test_requires():
    assert len(run_passes(notes(), [Drop(), NeedsClean()])) == 2
    with pytest.raises(GraphError, match="'needs_clean' requires 'clean', which is ensured by 'drop'"):
        run_passes(notes(), [NeedsClean(), Drop()])


def test_stop_after_leaves_passes_that_must_run():
    assert [r.name for r in run_passes(notes(), [Drop(1), Drop(2)], stop_after=1)] == ["drop"]


def test_the_culprit_is_named():
    with pytest.raises(GraphError, match=r"pass 'break' broke the graph: .* output 'y' is %c"):
        run_passes(notes(), [Drop(9), Break()])


def test_a_broken_graph_is_refused_at_the_start():
    graph = notes()
    graph.nodes.reverse()
    with pytest.raises(GraphError, match=r"^graph 'g': %b is computed only later"):
        run_passes(graph, [])


def test_dump():
    shown: list[tuple[str, str]] = []
    graph = notes()
    before = to_text(graph)
    run_passes(graph, [Drop()], dump=lambda name, text: shown.append((name, text)))
    assert shown == [("input", before), ("drop", to_text(graph))]
