"""Drawing."""

from __future__ import annotations

import numpy as np

from glulam.compiler.graph.draw import to_dot
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
