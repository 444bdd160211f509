"""Drawing, and the analyses by networkx."""

from __future__ import annotations

import numpy as np

from glulam.compiler.graph.draw import (
    between,
    coordinates,
    immediate_dominators,
    immediate_postdominators,
    is_convex,
    reaches,
    to_dot,
)
from glulam.compiler.graph.graph import Graph
from glulam.compiler.graph.types import f32
from toy_ops import Note, Plus


def diamond() -> Graph:
    graph = Graph('a "diamond"')
    x = graph.input("x", f32(4))
    top = graph.apply(Plus(), x, graph.constant(np.ones(4, np.float32), "c"), name="top")
    left = graph.apply(Note("l"), top, name="left")
    right = graph.apply(Note("r" * 99), top, name="right")
    low = graph.apply(Note(), right, name="low")
    end = graph.apply(Plus(), left, low, name="end")
    graph.output("y", end)
    return graph


def test_dot(golden):
    graph = diamond()
    golden("draw_dot", to_dot(graph, constants=True, highlight=graph.nodes[1:2]))


def test_constants_are_drawn_on_demand():
    assert "note" not in to_dot(diamond()).replace("note left", "").replace("note right", "").replace("note low", "")


def test_coordinates():
    top, left, right, low, end = diamond_nodes = (graph := diamond()).nodes
    places = coordinates(graph)
    assert set(places) == set(diamond_nodes)
    assert places[top] == (0.0, 0.0)
    assert places[left][1] == places[right][1] == -1
    assert (places[low][1], places[end][1]) == (-2, -3)
    assert places[left][0] != places[right][0]


def test_paths():
    top, left, right, low, end = (graph := diamond()).nodes
    assert reaches(graph, top, end)
    assert not reaches(graph, left, low)
    assert between(graph, right, end) == [right, low, end]
    assert between(graph, top, end) == graph.nodes
    assert between(graph, left, right) == []


def test_convexity():
    top, left, right, low, end = (graph := diamond()).nodes
    assert is_convex(graph, [top, left])
    assert is_convex(graph, [top, right, low])
    assert not is_convex(graph, [top, left, end])
    assert not is_convex(graph, [top, end])
    assert is_convex(graph, [left, low])


def test_dominators():
    top, left, right, low, end = (graph := diamond()).nodes
    assert immediate_dominators(graph) == {top: None, left: top, right: top, low: right, end: top}
    assert immediate_postdominators(graph) == {top: end, left: end, right: low, low: end, end: None}


def test_an_output_inside_ends_the_postdominance():
    graph = diamond()
    top, left, *_ = graph.nodes
    graph.output("l", left.output)
    assert immediate_postdominators(graph)[top] is None
