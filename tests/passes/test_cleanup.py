"""Dead code, common subexpressions and identities."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import pytest
from rewrites import graph_of, rewrite

from glulam.compiler.graph.graph import Graph
from glulam.compiler.graph.layout import Layout
from glulam.compiler.graph.op import Op, Trait
from glulam.compiler.graph.types import f32
from glulam.compiler.graph.verify import verify
from glulam.compiler.ops import Add, Clip, Relu
from glulam.compiler.passes import common_subexpressions
from glulam.compiler.passes.common_subexpressions import CommonSubexpressions
from glulam.compiler.passes.dead_code import DeadCode
from glulam.compiler.passes.identity_elimination import IdentityElimination

X = "input %x: f32[2,3,4]\n"

# ---- dead code


def test_dead_code():
    result = rewrite(X + "%a = relu(%x)\n%b = exp(%a)\n%c = tanh(%a)\noutput y = %a", DeadCode())
    assert result.ops == "relu"
    assert result.taken == ["b: no output needs b, c"]


def test_live_code_stays():
    assert rewrite(X + "%a = relu(%x)\n%b = exp(%a)\noutput y = %b\noutput z = %a", DeadCode()).decisions == []


def test_unused_outputs_of_a_live_node_stay():
    assert rewrite(X + "%a, %b = split(%x) {axis=1, sizes=(1, 2)}\noutput y = %a", DeadCode()).ops == "split"


# ---- common subexpressions

TWICE = X + "%a = relu(%x)\n%b = relu(%x)\n%c = add(%a, %b)\noutput y = %c"


def cse(text):
    return rewrite(text, CommonSubexpressions())


def test_equal_nodes_become_one():
    result = cse(TWICE)
    assert result.ops == "relu add"
    assert result.taken == ["b: computes the same as a"]


def test_both_may_be_outputs():
    result = cse(TWICE + "\noutput z = %a\noutput w = %b")
    assert result.ops == "relu add"
    assert result.graph.outputs["z"] is result.graph.outputs["w"]


def test_equality_spreads_downwards():
    assert (
        cse(X + "%a = relu(%x)\n%b = relu(%x)\n%c = exp(%a)\n%d = exp(%b)\n%e = add(%c, %d)\noutput y = %e").ops
        == "relu exp add"
    )


def test_other_attributes_or_inputs_stay():
    assert (
        cse(
            X + "%a = elu(%x) {alpha=1.0}\n%b = elu(%x) {alpha=2.0}\n%c = elu(%a) {alpha=1.0}\n"
            "%d = add(%b, %c)\noutput y = %d"
        ).ops
        == "elu elu elu add"
    )


def test_signs_of_zero_in_attributes_count():
    text = X + "%a = clip(%x) {low=0.0, high=1.0}\n%b = clip(%x) {low=-0.0, high=1.0}\n%d = add(%a, %b)\noutput y = %d"
    assert Clip(0.0, 1.0) == Clip(-0.0, 1.0)
    assert cse(text).ops == "clip clip add"


@dataclass(frozen=True)
class Noise(Op):
    name: ClassVar[str] = "noise"
    traits: ClassVar[frozenset[Trait]] = frozenset({Trait.RANDOM})

    def infer(self, x):
        return (x,)


def test_random_nodes_are_never_equal():
    graph = Graph()
    x = graph.input("x", f32(2))
    graph.output("y", graph.apply(Add(), graph.apply(Noise(), x), graph.apply(Noise(), x)))
    assert not CommonSubexpressions().run(graph).changed


def test_layouts_count():
    graph = graph_of(TWICE)
    graph.nodes[0].output.layout = Layout(8)
    assert not CommonSubexpressions().run(graph).changed


CONSTANTS = (
    X + "const %p: f32[4] = [1, 2, 3, 0]\nconst %q: f32[4] = [1, 2, 3, {}]\n%a = add(%x, %p)\n"
    "%b = mul(%a, %q)\noutput y = %b"
)


def test_equal_constants_become_one():
    result = cse(CONSTANTS.format("0"))
    assert len(list(result.graph.constants())) == 1
    assert result.taken == ["q: 1 constants equal to one of %p"]


@pytest.mark.parametrize("last", ["-0.0", "4", "nan"])
def test_constants_that_differ_in_a_bit_stay(last):
    graph = graph_of(CONSTANTS.format(last))
    assert not CommonSubexpressions().run(graph).changed


def test_trap_11_equal_hashes_are_not_equality(monkeypatch):
    monkeypatch.setattr(common_subexpressions, "fingerprint", lambda data: b"the same")
    assert len(list(cse(CONSTANTS.format("4")).graph.constants())) == 2
    assert len(list(cse(CONSTANTS.format("0")).graph.constants())) == 1
    text = (
        X + "const %p: f32[1] = 1\nconst %q: i32[1] = 1065353216\n%a = add(%x, %p)\n"
        "%c = cast(%q) {dtype=f32}\n%b = mul(%a, %c)\noutput y = %b"
    )
    assert len(list(cse(text).graph.constants())) == 2


def test_large_constants_that_differ_where_no_sample_is_taken():
    graph = Graph()
    x = graph.input("x", f32(1 << 14))
    first = np.zeros(1 << 14, np.float32)
    second = first.copy()
    second[3] = 1
    graph.output("y", graph.apply(Add(), graph.apply(Add(), x, graph.constant(first)), graph.constant(second)))
    assert not CommonSubexpressions().run(graph).changed


def test_equal_constants_in_other_memory_order():
    graph = Graph()
    x = graph.input("x", f32(3, 4))
    data = np.arange(12, dtype=np.float32).reshape(3, 4)
    y = graph.apply(Add(), graph.apply(Add(), x, graph.constant(data)), graph.constant(np.asfortranarray(data)))
    graph.output("y", y)
    assert CommonSubexpressions().run(graph).patches == 1
    verify(graph)


# ---- identities


def identities(text):
    return rewrite(text, IdentityElimination(), tolerance=0)


GONE = [
    "identity(%r)",
    "dropout(%r) {p=0.3}",
    "cast(%r) {dtype=f32}",
    "reshape(%r) {shape=(2, 3, 4)}",
    "expand(%r) {shape=(2, 3, 4)}",
    "transpose(%r) {perm=(0, 1, 2)}",
    "tile(%r) {repeats=(1, 1, 1)}",
    "pad(%r) {pads=((0, 0), (0, 0), (0, 0))}",
    "slice(%r) {starts=(0, 0, 0), steps=(1, 1, 1), sizes=(2, 3, 4)}",
    "concat(%r) {axis=1}",
    "concat(%r, %empty) {axis=1}",
    "split(%r) {axis=1, sizes=(3,)}",
    "mul(%r, %one)",
    "mul(%one, %r)",
    "div(%r, %one)",
    "add(%r, %minus)",
    "add(%minus, %r)",
    "sub(%r, %plus)",
]
STAYS = [
    "cast(%r) {dtype=f64}",
    "reshape(%r) {shape=(2, 12)}",
    "expand(%r) {shape=(2, 2, 3, 4)}",
    "transpose(%r) {perm=(0, 2, 1)}",
    "tile(%r) {repeats=(1, 2, 1)}",
    "pad(%r) {pads=((0, 0), (1, 0), (0, 0))}",
    "pad(%r) {pads=((0, 0), (1, -1), (0, 0))}",
    "slice(%r) {starts=(0, 0, 0), steps=(1, 1, 1), sizes=(2, 3, 3)}",
    "slice(%r) {starts=(1, 0, 0), steps=(-1, 1, 1), sizes=(2, 3, 4)}",
    "concat(%r, %r) {axis=1}",
    "div(%one, %r)",
    "sub(%plus, %r)",
    "sub(%r, %minus)",
    "add(%r, %plus)",
    "mul(%r, %ones)",
    "mul(%r, %plus)",
]
NEUTRAL = """
const %one: f32[] = 1
const %plus: f32[4] = [0, 0, 0, 0]
const %minus: f32[4] = [-0.0, -0.0, -0.0, -0.0]
const %ones: f32[5,1,1,1] = [1, 1, 1, 1, 1]
const %empty: f32[2,0,4] = []
"""


@pytest.mark.parametrize("node", GONE)
def test_identity_goes(node):
    result = identities(X + NEUTRAL + f"%r = relu(%x)\n%n = {node}\n%e = exp(%n)\noutput y = %e")
    assert result.ops == "relu exp"


@pytest.mark.parametrize("node", GONE)
def test_identity_goes_from_inputs_to_outputs_with_other_uses(node):
    result = identities(
        X + NEUTRAL + f"%n = {node.replace('%r', '%x')}\n%e = exp(%x)\noutput y = %n\noutput z = %e\noutput w = %n"
    )
    assert result.ops == "exp"
    assert result.graph.outputs["y"] is result.graph.outputs["w"] is result.graph.inputs["x"]


@pytest.mark.parametrize("node", STAYS)
def test_what_is_no_identity_stays(node):
    result = identities(X + NEUTRAL + f"%r = relu(%x)\n%n = {node}\noutput y = %n")
    assert result.ops == f"relu {node.split('(')[0]}"


def test_adding_plus_zero_changes_minus_zero():
    graph = graph_of(X + NEUTRAL + "%n = add(%x, %plus)\noutput y = %n")
    (decision,) = IdentityElimination().run(graph).decisions
    assert decision.reason == "adding +0.0 is not the identity: it turns -0.0 into +0.0"


def test_adding_zero_to_integers():
    assert (
        identities("input %x: i64[3]\nconst %z: i64[] = 0\n%n = add(%z, %x)\n%m = sub(%n, %z)\noutput y = %m").ops == ""
    )


def test_reshape_of_reshape():
    chain = X + "%a = reshape(%x) {shape=(6, 4)}\n%b = reshape(%a) {shape=(24,)}\n%c = reshape(%b) {shape=(4, 6)}\n"
    result = identities(chain + "output y = %c")
    assert result.ops == "reshape"
    assert result.graph.outputs["y"].name == "c"
    assert identities(chain + "output y = %c\noutput z = %a").ops == "reshape reshape"
    assert identities(chain + "%d = reshape(%c) {shape=(2, 3, 4)}\noutput y = %d").ops == ""


def test_transpose_of_transpose():
    text = X + "%a = transpose(%x) {perm=(1, 2, 0)}\n%b = transpose(%a) {perm=(0, 2, 1)}\n"
    result = identities(text + "output y = %b")
    assert result.ops == "transpose"
    assert result.graph.nodes[0].op.perm == (1, 0, 2)
    assert identities(text + "output y = %b\noutput z = %a").ops == "transpose transpose"
    assert (
        identities(X + "%a = transpose(%x) {perm=(1, 2, 0)}\n%b = transpose(%a) {perm=(2, 0, 1)}\noutput y = %b").ops
        == ""
    )


def test_transpose_of_extents_of_one_is_a_reshape():
    assert identities("input %x: f32[2,1,3,1]\n%a = transpose(%x) {perm=(1, 0, 3, 2)}\noutput y = %a").ops == "reshape"
    assert (
        identities("input %x: f32[2,1,3,1]\n%a = transpose(%x) {perm=(2, 1, 0, 3)}\noutput y = %a").ops == "transpose"
    )


def test_empty_inputs_of_concat_are_left_out():
    result = identities(X + NEUTRAL + "%r = relu(%x)\n%c = concat(%x, %empty, %r) {axis=1}\noutput y = %c")
    assert len(result.graph.nodes[-1].inputs) == 2


def test_names_of_values_survive():
    result = identities(
        X + "%a = reshape(%x) {shape=(6, 4)}\n%b = reshape(%a) {shape=(24,)}\n%r = relu(%b)\noutput y = %r"
    )
    assert [n.name for n in result.graph.nodes] == ["b", "r"]
    assert isinstance(result.graph.nodes[1].op, Relu)


EXPAND = X + "const %k: f32[4] = [1, 2, 3, 4]\n%e = expand(%k) {shape=(2, 3, 4)}\n"


def test_expand_before_a_pointwise_op():
    assert identities(EXPAND + "%a = add(%x, %e)\noutput y = %a").ops == "add"
    assert identities(EXPAND + "%a = add(%x, %e)\n%b = neg(%e)\noutput y = %a\noutput z = %b").ops == "expand add neg"
    assert identities(EXPAND + "%a = add(%x, %e)\noutput y = %a\noutput z = %e").ops == "expand add"


def test_expand_that_gives_the_output_its_shape_stays():
    text = "input %x: f32[4]\n%e = expand(%x) {shape=(2, 3, 4)}\n%n = neg(%e)\n%a = add(%e, %e)\n"
    text += "output y = %n\noutput z = %a"
    assert identities(text).ops == "expand neg add"
