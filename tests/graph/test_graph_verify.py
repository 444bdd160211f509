"""The verifier finds every broken rule and shows the node."""

from __future__ import annotations

import numpy as np
import pytest

from glulam.compiler.errors import GraphError
from glulam.compiler.graph.graph import Graph, Value
from glulam.compiler.graph.types import f32
from glulam.compiler.graph.verify import verify
from toy_ops import Halve, Note, Plus, Region


def good() -> Graph:
    graph = Graph("g")
    x = graph.input("x", f32(1, 4))
    c = graph.constant(np.ones((1, 4), np.float32), "c")
    a = graph.apply(Plus(), x, c, name="a")
    b = graph.apply(Note(), a, name="b")
    graph.output("y", b)
    return graph


def test_a_good_graph_passes():
    verify(good())


def rename(graph):
    graph.nodes[1].output.name = "a"


def rename_node(graph):
    graph.nodes[1].name = "a"


def reverse(graph):
    graph.nodes.reverse()


def cycle(graph):
    a, b = graph.nodes
    a.inputs = (b.output, a.inputs[1])


def foreign(graph):
    graph.nodes[1].inputs = (Value("z", f32(1, 4)),)


def dropped(graph):
    del graph.nodes[0]


def no_output(graph):
    graph.outputs.clear()


def foreign_output(graph):
    graph.outputs["z"] = Value("z", f32(1, 4))


def wrong_type(graph):
    graph.nodes[1].output.type = f32(1, 5)


def unfit_inputs(graph):
    graph.nodes[0].inputs[0].type = f32(1, 5)


def wrong_constant(graph):
    graph.nodes[0].inputs[1].data = np.ones((1, 4))


def swapped_bytes(graph):
    graph.nodes[0].inputs[1].data = np.ones((1, 4), np.float32).astype(">f4")


def wrong_constant_output(graph):
    graph.outputs["z"] = Value("z", f32(3), data=np.ones(2, np.float32))


def constant_input(graph):
    graph.inputs["x"].data = np.ones((1, 4), np.float32)


def computed_input(graph):
    graph.inputs["b"] = graph.nodes[1].output


def stolen_output(graph):
    Value.producer.__set__(graph.nodes[0].output, graph.nodes[1])


def twice(graph):
    graph.nodes.append(graph.nodes[1])


A, B = r"\n  %a: f32\[1,4\] = plus\(%x, %c\)", r"\n  %b: f32\[1,4\] = note\(%a\) {what=None, dtype=f32}"
BROKEN = {
    rename: "two things are named 'a'",
    rename_node: "two things are named 'a'.*" + B.replace("}", "} @ a"),
    reverse: "%a is computed only later.*" + B,
    cycle: r"%b is computed only later, or depends on this node\n  %a: f32\[1,4\] = plus\(%b, %c\)",
    foreign: "%z is not computed",
    dropped: "%a is not computed in this graph.*" + B,
    no_output: "there is no output",
    foreign_output: "output 'z' is %z, which no node",
    wrong_type: r"the op makes f32\[1,4\]\n  %b: f32\[1,5\]",
    unfit_inputs: r"f32\[1,5\] and f32\[1,4\] differ.*" + A,
    wrong_constant: r"%c is f32\[1,4\], but its data are <f8\[1, 4\].*" + A,
    swapped_bytes: "its data are >f4.*" + A,
    wrong_constant_output: r"%z is f32\[3\], but its data are <f4\[2\]",
    constant_input: "input %x is also computed or constant",
    computed_input: "input %b is also computed",
    stolen_output: "%a does not name this node as its producer.*" + A,
    twice: "two things|in the list twice",
}


@pytest.mark.parametrize("damage", BROKEN, ids=lambda f: f.__name__)
def test_damage_is_found(damage):
    graph = good()
    damage(graph)
    with pytest.raises(GraphError, match=BROKEN[damage]):
        verify(graph)


def test_subgraphs_are_verified():
    graph = Graph("outer")
    body = good()
    graph.output("y", graph.apply(Region(body), graph.input("x", f32(1, 4))))
    verify(graph)
    reverse(body)
    with pytest.raises(GraphError, match="graph 'g': %a is computed only later"):
        verify(graph)


def test_outputs_of_one_node_must_keep_their_places():
    graph = Graph()
    left, right = graph.add(Halve(), graph.input("x", f32(1, 4)))
    graph.output("l", left)
    left.index, right.index = 1, 0
    with pytest.raises(GraphError, match="does not name this node"):
        verify(graph)
