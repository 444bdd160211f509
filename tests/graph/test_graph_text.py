"""The text form: what is printed reads back, and what does not read back says where."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from glulam.compiler.errors import GraphError
from glulam.compiler.graph.arrays import same_bits
from glulam.compiler.graph.graph import Graph
from glulam.compiler.graph.layout import Layout
from glulam.compiler.graph.text import constants_of, digest, parse, to_text
from glulam.compiler.graph.types import DType, TensorType, f32
from glulam.compiler.graph.verify import verify
from glulam.compiler.ops import OPS_BY_NAME
from toy_ops import OPS, Halve, Note, Plus, Region


def sample() -> Graph:
    graph = Graph("sample")
    x = graph.input("x", f32(1, 8))
    s = graph.constant(np.arange(8, dtype=np.float32).reshape(1, 8) / 10, "small")
    w = graph.constant(np.arange(80, dtype=np.float32).reshape(4, 20)[::2], "strided")
    a = graph.apply(Plus(), x, s, name="layer/one")
    b = graph.apply(Plus(), a, s, name="strange name:0")
    b.layout = Layout(16, ((1, 1), (0, 2)), -math.inf, rows_first=True)
    left, right = graph.add(Halve(), b, name="h")
    n = graph.apply(Note(("a'b", (1, 2.5, (True, None)), (math.inf, -math.inf, math.nan), (), (3,), "\n")), left, w)
    n = graph.apply(Note(), n, None)
    (p,) = graph.add(Plus(), n, right, name="node", output_names=["value"])
    graph.output("y", p)
    graph.output("x again", x)
    return graph


def again(graph: Graph) -> Graph:
    return parse(to_text(graph), OPS, constants_of(graph))


def test_golden(golden):
    golden("text_sample", to_text(sample()))


def test_print_parse_print_is_a_fixpoint():
    graph = sample()
    twin = again(graph)
    verify(twin)
    assert to_text(twin) == to_text(graph)
    assert [n.name for n in twin.nodes] == [n.name for n in graph.nodes]


def test_layouts_come_back():
    assert again(sample()).nodes[1].output.layout == Layout(16, ((1, 1), (0, 2)), -math.inf, rows_first=True)


def test_attributes_come_back():
    graph = Graph()
    values = [1, -1, 0.1, -0.0, 1e300, "x", (DType.I64, f32(1, 2), TensorType(DType.BOOL, ())), Layout(8), ((((),),),)]
    for what in [*values, Plus(), (Plus(), Note((1,)))]:
        graph.output(
            f"o{len(graph.outputs)}",
            graph.apply(Note(what, DType.U8), graph.inputs.get("x") or graph.input("x", f32(2))),
        )
    twin = again(graph)
    assert [n.op for n in twin.nodes] == [n.op for n in graph.nodes]
    assert math.copysign(1, twin.nodes[3].op.what) == -1


def test_a_fused_region_keeps_its_graph(golden):
    outer = Graph("outer")
    body = sample()
    del body.outputs["x again"]
    outer.output("y", outer.apply(Region(body, "anchor"), outer.input("x", f32(1, 8)), name="first"))
    golden("text_region", to_text(outer))
    twin = again(outer)
    verify(twin)
    assert to_text(twin) == to_text(outer)
    assert to_text(twin.nodes[0].op.body) == to_text(body)


def test_attribute_without_text_form():
    graph = Graph()
    graph.output("y", graph.apply(Note(object()), graph.input("x", f32(1))))
    with pytest.raises(GraphError, match="has no text form"):
        to_text(graph)


ARRAYS = hnp.arrays(
    st.sampled_from([d.numpy for d in DType]), hnp.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=5)
)


@given(ARRAYS)
def test_constants_come_back_bit_for_bit(data):
    graph = Graph()
    graph.output("y", graph.constant(data))
    (value,) = again(graph).constants()
    assert same_bits(value.data, graph.outputs["y"].data)


def test_nan_with_a_payload_is_not_printed_inline():
    data = np.array([0x7FC12345], np.uint32).view(np.float32)
    graph = Graph()
    graph.output("y", graph.constant(data))
    assert f"#{digest(data)}" in to_text(graph)


def test_hash_is_of_contents_not_of_memory():
    a = np.arange(24, dtype=np.float32).reshape(4, 6)
    assert digest(a) == digest(np.asfortranarray(a)) == digest(np.repeat(a, 2, 1)[:, ::2]) == digest(a.astype(">f4"))
    assert digest(a) != digest(a.reshape(6, 4))
    assert digest(a) != digest(a.view(np.int32))
    row = np.ones((1, 1 << 17), np.float32)
    assert digest(np.broadcast_to(row, (3, 1 << 17))) == digest(np.ones((3, 1 << 17), np.float32))


X = "graph g {\n  input %x: f32[4]\n"
BAD = {
    "graph g { input %x: f32[1,4,8] <c4 halo nan+1> }": "line 1, column 41: expected elements of padding, an integer",
    "graph g { input %x: f32[1,4,8] <c4 halo inf+1> }": "line 1, column 41: expected elements of padding, an integer",
    "graph g { input %x: f32[1,4,8] <c4 halo 1+-1> }": "line 1, column 43: expected elements of padding, an integer",
    "graph g { input %x: f32[1,4,8] <c0> }": "expected `plain` or `c` and the block size",
    "graph g {": "line 1, column 10: expected `input`",
    X + "  %y = nothing(%x)\n}": "line 3, column 8: no op is named 'nothing'",
    X + "  %y = plus(%x, %z)\n}": "line 3, column 17: %z is not defined above",
    X + "  %y = plus(%x %x)\n}": "line 3, column 16: expected '\\)'",
    X + "  %y = plus(%x)\n}": "line 3, column 8: plus: missing a required argument",
    X + "  %y, %z = plus(%x, %x)\n}": "line 3, column 12: plus gives 1 outputs, not 2",
    X + "  %y: f32[5] = plus(%x, %x)\n}": r"line 3, column 3: %y is given as f32\[5\], but plus makes it f32\[4\]",
    X + "  const %c: f32[2] = [1, 2]\n  %y = plus(%x, %c)\n}": r"line 4, column 8: .*f32\[4\] and f32\[2\] differ",
    X + "  const %c: f32[3] = [1, 2]\n}": r"line 3, column 22: 2 elements for f32\[3\]",
    X + "  const %c: i8[1] = [300]\n}": "line 3, column 21: an element does not fit into i8",
    X + "  const %c: i8[1] = [1.5]\n}": "expected an element of type i8",
    X + "  const %c: f32[99] = #0123456789abcdef\n}": "no constant has the hash",
    X + "  const %x: f32[] = 1\n}": "line 3, column 9: %x is defined twice",
    X + "  const %c: f33[] = 1\n}": "expected an element type",
    X + "  const %c: f32[-1] = []\n}": "expected an extent",
    X + "  %y = note(%x) {that=1}\n}": "note has the attributes",
    X + "  %y = note(%x) {what=1, what=2}\n}": "what is given twice",
    X + "  %y = note(%x) {what=foo}\n}": "'foo' is neither",
    X + "  %y = note(%x) {what=" + "(" * 999: "nested too deeply",
    X + "  %y = note(%x) {what=" + "1" * 999 + "}": "expected a number",
    X + "  %y = region(%x)\n}": "region needs body",
    X + "  %y = note(%x) @ x\n}": "the node's name 'x' is taken",
    X + "  output y = %x\n  output y = %x\n}": "an output named 'y' already",
    X + "} more": "line 3, column 3: expected the end of the text",
}


@pytest.mark.parametrize("text", BAD)
def test_errors_name_the_place(text):
    with pytest.raises(GraphError, match=BAD[text]):
        parse(text, OPS)


@pytest.mark.parametrize(
    "node",
    [
        "reduce(%x) {kind='sum', axes=3, keepdims=True}",
        "reduce(%x) {kind='sum', axes=(1e400,), keepdims=True}",
        "transpose(%x) {perm=(0, 1, 2, 'a')}",
        "softmax(%x) {axis=1.5}",
        "softmax(%x) {axis='a'}",
        "bit_cast(%x) {dtype=3}",
    ],
)
def test_attributes_that_an_op_cannot_have_are_placed(node):
    with pytest.raises(GraphError, match="line 2, column 6: "):
        parse(f"graph g {{ input %x: f32[1,4,8,8]\n%y = {node}\noutput z = %y }}", OPS_BY_NAME)


@pytest.mark.parametrize("name", ["//a", "a//b", "a/", "/a/b", "///", "a// }"])
def test_slashes_in_names_come_back(name):
    graph = Graph(name)
    (value,) = graph.add(Note(name), graph.input(f"{name}x", f32(2)), name=name)
    graph.output(f"{name}y", value)
    twin = again(graph)
    assert to_text(twin) == to_text(graph)
    assert (twin.name, twin.nodes[0].name, list(twin.outputs)) == (name, name, [f"{name}y"])


def test_error_points_at_the_place():
    with pytest.raises(GraphError) as caught:
        parse(X + "  %y = plus(%x, %z)\n}", OPS)
    assert str(caught.value).splitlines()[1:] == ["    %y = plus(%x, %z)", " " * 18 + "^"]


def test_names_are_free_for_the_reader():
    text = """
    graph {  // comments and blank lines are allowed

      input %x: f32[4]
      %y = note(%x) @ n
      %a, %b = halve(%y)
      output y = %a
    }
    """
    graph = parse(text, OPS)
    verify(graph)
    assert to_text(parse(to_text(graph), OPS)) == to_text(graph)
