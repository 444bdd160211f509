"""Patches change the graph at once, keep its order, and drop what nobody needs."""

from __future__ import annotations

import pytest

from glulam.compiler.errors import GraphError
from glulam.compiler.graph.graph import Graph
from glulam.compiler.graph.patch import Patch
from glulam.compiler.graph.text import to_text
from glulam.compiler.graph.types import f32
from glulam.compiler.graph.verify import verify
from toy_ops import Halve, Note, Plus


def chain() -> Graph:
    graph = Graph()
    x = graph.input("x", f32(4))
    a = graph.apply(Note(1), x, name="a")
    b = graph.apply(Note(2), a, name="b")
    graph.output("y", b)
    graph.output("z", a)
    return graph


def test_nothing_changes_before_commit():
    graph = chain()
    before = to_text(graph)
    patch = Patch(graph, "try")
    patch.replace(graph.nodes[0].output, patch.apply(Plus(), graph.inputs["x"], graph.inputs["x"]))
    assert to_text(graph) == before


def test_replacing_reaches_readers_and_outputs():
    graph = chain()
    a, b = graph.nodes
    patch = Patch(graph, "double")
    new = patch.apply(Plus(), graph.inputs["x"], graph.inputs["x"], name="new")
    patch.replace(a.output, new)
    assert patch.at == "a"
    patch.commit()
    verify(graph)
    assert graph.nodes == [new.producer, b]
    assert b.inputs == (new,)
    assert graph.outputs["z"] is new


def test_a_node_put_behind_keeps_its_input():
    graph = chain()
    a = graph.nodes[0].output
    patch = Patch(graph, "behind")
    patch.replace(a, patch.apply(Note(3), a, name="behind"))
    patch.commit()
    verify(graph)
    assert [n.name for n in graph.nodes] == ["a", "behind", "b"]


def test_order_is_restored_where_the_new_node_reads_later_values():
    graph = Graph()
    x = graph.input("x", f32(4))
    a = graph.apply(Note(1), x, name="a")
    b = graph.apply(Note(2), x, name="b")
    graph.output("y", graph.apply(Note(3), a, name="c"))
    graph.output("z", b)
    patch = Patch(graph, "a is b")
    patch.replace(a, patch.apply(Note(4), b, name="new"))
    patch.commit()
    verify(graph)
    assert [node.name for node in graph.nodes] == ["b", "new", "c"]


def test_unequal_types_are_refused():
    graph = chain()
    patch = Patch(graph, "halves")
    left, _ = patch.add(Halve(), graph.inputs["x"])
    with pytest.raises(GraphError, match=r"types differ \(halves\)"):
        patch.replace(graph.nodes[0].output, left)


def test_chains_of_replacements_are_followed():
    graph = chain()
    a, b = (n.output for n in graph.nodes)
    patch = Patch(graph, "all are x")
    patch.replace(b, a)
    patch.replace(a, graph.inputs["x"])
    patch.commit()
    verify(graph)
    assert graph.nodes == []
    assert graph.outputs == {"y": graph.inputs["x"], "z": graph.inputs["x"]}


def test_a_whole_chain_that_nobody_needs_goes():
    graph = Graph()
    x = graph.input("x", f32(4))
    value = x
    for i in range(5):
        value = graph.apply(Note(i), value, name=f"n{i}")
    graph.output("y", graph.apply(Note(9), value, name="last"))
    patch = Patch(graph, "short cut")
    patch.replace(value, x)
    patch.commit()
    verify(graph)
    assert [node.name for node in graph.nodes] == ["last"]


def test_order_is_restored_where_readers_get_a_value_that_was_computed_later():
    graph = Graph()
    x = graph.input("x", f32(4))
    early = graph.apply(Note(1), x, name="early")
    reader = graph.apply(Note(2), early, name="reader")
    late = graph.apply(Note(1), x, name="late")
    graph.output("y", reader)
    graph.output("z", late)
    patch = Patch(graph, "the later of two equal ones")
    patch.replace(early, late)
    patch.commit()
    verify(graph)
    assert [node.name for node in graph.nodes] == ["late", "reader"]
    assert reader.producer.inputs == (late,)
