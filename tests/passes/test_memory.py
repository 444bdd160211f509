"""Memory plans: reuse, overwriting in place, and outputs that have memory of their own."""

from __future__ import annotations

import pytest
from pass_texts import CONV1, IMAGE
from rewrites import compiled, graph_of

from glulam.compiler.options import Options
from glulam.compiler.passes.memory import materialise_outputs, plan_memory

VECTOR = "input %x: f32[4,16]\n"
BYTES = 4 * 16 * 4


def plan(text):
    graph = graph_of(text)
    materialise_outputs(graph)
    found = plan_memory(graph)
    return graph, found, {node.name: donor for node, donor in found.in_place.items()}


# ---- in place


def test_the_last_reader_overwrites():
    _, found, donors = plan(VECTOR + "%a = exp(%x)\n%b = tanh(%a)\n%y = transpose(%b) {perm=(1, 0)}\noutput y = %y")
    assert donors == {"b": "a"}
    assert found.arena_bytes == BYTES


@pytest.mark.parametrize(
    "text",
    [
        "%b = tanh(%x)\n%y = transpose(%b) {perm=(1, 0)}\noutput y = %y",  # an input of the graph
        "%a = exp(%x)\n%b = tanh(%a)\n%c = add(%a, %b)\n%y = transpose(%c) {perm=(1, 0)}\noutput y = %y",
        "%a = exp(%x)\n%b = tanh(%a)\n%y = transpose(%b) {perm=(1, 0)}\noutput y = %y\noutput z = %a",
        "%a = reduce(%x) {kind='sum', axes=(0,), keepdims=True}\n%b = add(%a, %x)\n"
        "%y = transpose(%b) {perm=(1, 0)}\noutput y = %y",
        "%a = exp(%x)\n%b = softmax(%a) {axis=1}\n%y = transpose(%b) {perm=(1, 0)}\noutput y = %y",
    ],
    ids=["graph input", "second use", "graph output", "broadcast", "not pointwise"],
)
def test_others_do_not(text):
    assert "b" not in plan(VECTOR + text)[2]


def test_a_value_read_through_a_view_as_well_is_not_overwritten():
    text = ("input %x: f32[1,2,8]\nconst %k: f32[1,2,2] = random\n%a = relu(%x)\n%r = reshape(%a) {shape=(2, 8)}\n"
            "%m = matmul(%k, %r)\n%s = add(%m, %a)\n%y = transpose(%s) {perm=(0, 2, 1)}\noutput y = %y")  # fmt: skip
    graph = graph_of(text)
    compiled(text)
    (add,) = (node for node in graph.nodes if node.name == "s")
    assert plan_memory(graph).in_place[add] == "m"


# ---- arena


def test_values_that_never_live_together_share_memory():
    steps = "".join(f"%a{i} = transpose(%{'x' if i == 0 else f'a{i - 1}'}) {{perm=(1, 0)}}\n" for i in range(6))
    _, found, _ = plan(VECTOR + steps + "output y = %a5")
    assert found.arena_bytes == 2 * BYTES


def test_values_that_live_together_do_not_overlap():
    _, found, _ = plan(
        VECTOR + "%a = exp(%x)\n%b = tanh(%x)\n%t = transpose(%b) {perm=(1, 0)}\n%c = matmul(%a, %t)\noutput y = %c"
    )
    places = {v.name: r for v, r in found.refs.items()}
    assert abs(places["a"].offset - places["t"].offset) >= BYTES


# ---- outputs


def test_an_output_is_written_where_the_caller_wants_it():
    graph, found, _ = plan(VECTOR + "%a = exp(%x)\n%y = reshape(%a) {shape=(64,)}\noutput y = %y")
    places = {v.name: (r.space, r.offset) for v, r in found.refs.items()}
    assert places["a"] == places["y"] == ("output", 0)
    assert [node.op.name for node in graph.nodes] == ["exp", "reshape"]


def test_inputs_constants_repeats_and_their_views_are_copied():
    text = (VECTOR + "const %k: f32[4,16] = random\n%r = reshape(%x) {shape=(64,)}\n%y = relu(%x)\n"
            "output a = %x\noutput b = %k\noutput c = %r\noutput d = %y\noutput e = %y")  # fmt: skip
    graph, _, _ = plan(text)
    assert [node.op.name for node in graph.nodes].count("identity") == 4
    compiled(text)


def test_outputs_of_a_split_are_given_out():
    compiled(VECTOR + "%a, %b, %c = split(%x) {axis=1, sizes=(4, 2, 10)}\n%y = relu(%a)\n"
             "output a = %a\noutput c = %c\noutput y = %y")  # fmt: skip


def test_parts_in_blocks_are_given_out():
    compiled("input %x: f32[2,16,6,6]\nconst %k: f32[40,16,1,1] = random\n"
             f"%a = conv(%x, %k) {CONV1}\n%p, %q, %r = split(%a) {{axis=1, sizes=(16, 16, 8)}}\n%e = sigmoid(%r)\n"
             "output q = %q\noutput e = %e\noutput r = %r")  # fmt: skip


def test_a_view_of_a_constant_is_computed():
    compiled(VECTOR + "const %k: f32[64] = random\n%r = reshape(%k) {shape=(4, 16)}\n%y = add(%x, %r)\noutput y = %y",
             Options(disable=("constant_folding",)))  # fmt: skip


def test_unused_values_have_memory_while_they_are_written():
    compiled(IMAGE + f"%a = conv(%x, %u) {CONV1}\n%b = sigmoid(%a)\n%y = relu(%a)\noutput y = %y",
             Options(disable=("dead_code",)))  # fmt: skip
