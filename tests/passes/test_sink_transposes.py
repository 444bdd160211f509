"""Transposes sink until they cancel: the numbers stay, and none is left where none is needed."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from rewrites import graph_of, rewrite

import glulam as gl
from glulam.compiler.driver import lower
from glulam.compiler.graph.graph import Graph
from glulam.compiler.graph.types import f32
from glulam.compiler.ops import Add, Concat, Mul, Reduce, Relu, Sigmoid, Slice, Transpose
from glulam.compiler.options import Options
from glulam.compiler.passes.constant_folding import ConstantFolding
from glulam.compiler.passes.identity_elimination import IdentityElimination
from glulam.compiler.passes.sink_transposes import SinkTransposes

X = "input %x: f32[2,16,5,6]\nconst %w: f32[16,16,1,1] = random\n"
CONV = "{strides=(1, 1), pads=((0, 0), (0, 0)), dilations=(1, 1), groups=1}"
FIRST = f"%a = conv(%x, %w) {CONV}\n%t = transpose(%a) {{perm=(0, 2, 3, 1)}}\n"
LAST = f"%back = transpose(%last) {{perm=(0, 3, 1, 2)}}\n%y = conv(%back, %w) {CONV}\noutput y = %y"


def sunk(text):
    return rewrite(X + text, SinkTransposes(), IdentityElimination())


@pytest.mark.parametrize(("between", "left"), [
    ("%last = relu(%t)\n", "relu"),
    ("const %c: f32[16] = random\n%s = add(%t, %c)\n%last = relu(%s)\n", "add relu"),
    ("const %c: f32[1,1,1,16] = random\n%last = mul(%c, %t)\n", "mul"),
    ("const %c: f32[5,6,16] = random\n%last = sub(%t, %c)\n", "sub"),
    ("const %c: f32[] = random\n%last = div(%c, %t)\n", "div"),
    ("const %c: f32[16] = random\n%last = prelu(%t, %c)\n", "prelu"),
    ("%r = relu(%t)\n%s = sigmoid(%t)\n%last = mul(%r, %s)\n", "relu sigmoid mul"),
    ("%s = sigmoid(%t)\n%last = mul(%t, %s)\n", "sigmoid mul"),
    ("%r = dropout(%t)\n%last = exp(%r)\n", "exp"),
    ("%last = slice(%t) {starts=(0, 4, 0, 15), steps=(1, -2, 1, -1), sizes=(2, 3, 6, 16)}\n", "slice"),
    ("%r = exp(%t)\n%s = concat(%t, %r) {axis=1}\n%last = relu(%s)\n", "exp concat relu"),
    ("const %c: f32[2,1,6,16] = random\n%last = concat(%c, %t) {axis=1}\n", "concat"),
    ("%last = pad(%t) {pads=((0, 0), (1, 2), (0, 1), (0, 0)), mode='edge', value=0.0}\n", "pad"),
    ("%p = pad(%t) {pads=((0, 0), (1, 2), (0, 1), (0, 0)), value=1.0}\n%last = relu(%p)\n", None),
    ("%m = reduce(%t) {kind='mean', axes=(1, 2), keepdims=True}\n%s = sigmoid(%m)\n%last = mul(%t, %s)\n",
     "reduce sigmoid mul"),
    ("%m = reduce(%t) {kind='max', axes=(3,), keepdims=True}\n%last = sub(%t, %m)\n", "reduce sub"),
])  # fmt: skip
def test_what_is_between_convolutions_of_channels_last(between, left):
    result = sunk(FIRST + between + LAST)
    assert result.ops == ("conv transpose pad relu transpose conv" if left is None else f"conv {left} conv")
    assert result.error < 1e-5


@pytest.mark.parametrize(("end", "left"), [
    ("%y = reduce(%t) {kind='mean', axes=(1, 2), keepdims=False}", "reduce"),
    ("%y = reduce(%t) {kind='mean', axes=(1, 2), keepdims=True}", "reduce reshape"),
    ("%y = reduce(%t) {kind='sum', axes=(0, 3), keepdims=False}", "reduce"),
    ("%y = reduce(%t) {kind='sum', axes=(2,), keepdims=False}", "reduce transpose"),
    ("%y = relu(%t)", "relu transpose"),
])  # fmt: skip
def test_what_is_at_the_end(end, left):
    result = sunk(FIRST + end + "\noutput y = %y")
    assert result.ops == f"conv {left}"
    assert result.error < 1e-5


def test_a_residual_block():
    text = (
        "%r = relu(%t)\n%i = transpose(%r) {perm=(0, 3, 1, 2)}\n"
        f"%b = conv(%i, %w) {CONV}\n%u = transpose(%b) {{perm=(0, 2, 3, 1)}}\n%s = add(%u, %r)\n%last = relu(%s)\n"
    )
    result = sunk(FIRST + text + LAST)
    assert result.ops == "conv relu conv add relu conv"
    assert result.error < 1e-5


@pytest.mark.parametrize(("text", "why"), [
    ("%y = relu(%t)\noutput y = %y\noutput z = %t", "has other readers"),
    ("%y = relu(%t)\n%s = softmax(%t) {axis=3}\noutput y = %y\noutput z = %s", "has other readers"),
])  # fmt: skip
def test_it_stays_for_others(text, why):
    result = sunk(FIRST + text)
    assert result.graph.nodes[1].op.name == "transpose"
    assert why in result.declined


def test_it_stays_behind_inputs_and_views():
    """Where the pointwise op may still go into what reads it."""
    end = "%t = transpose(%v) {perm=(0, 2, 3, 1)}\n%y = relu(%t)\noutput y = %y"
    assert sunk("%v = identity(%x)\n" + end).ops == "transpose relu"
    assert sunk("%e = exp(%x)\n%v = reshape(%e) {shape=(1, 32, 5, 6)}\n" + end).ops == "exp reshape transpose relu"


@pytest.mark.parametrize("between", [
    "input %c: f32[2,5,6,16]\n%last = add(%t, %c)\n",  # which would be transposed instead
    "input %c: f32[6,16]\n%last = add(%t, %c)\n",
    "%b = exp(%x)\n%u = transpose(%b) {perm=(0, 3, 2, 1)}\n%v = slice(%u) {starts=(0, 0, 0, 0), steps=(1, 1, 1, 1), "
    "sizes=(2, 5, 5, 16)}\n%s = slice(%t) {starts=(0, 0, 0, 0), steps=(1, 1, 1, 1), sizes=(2, 5, 5, 16)}\n"
    "%last = add(%s, %v)\n",  # transposed in another order
])  # fmt: skip
def test_operands_in_another_order_stop_it(between):
    result = sunk(FIRST + between + LAST)
    assert "transpose add transpose" in result.ops
    assert result.error < 1e-5


def test_it_does_not_sink_where_the_result_is_larger():
    result = sunk("%m = reduce(%x) {kind='mean', axes=(3,), keepdims=True}\n%t = transpose(%m) {perm=(0, 2, 1, 3)}\n"
                  "const %c: f32[16,7] = random\n%y = add(%t, %c)\noutput y = %y")  # fmt: skip
    assert result.ops == "reduce transpose add"


def test_an_operand_whose_elements_keep_their_order_is_reshaped():
    result = sunk(FIRST + "input %c: f32[2,1,1,16]\n%last = mul(%t, %c)\n" + LAST)
    assert result.ops == "conv reshape mul conv"
    assert result.error < 1e-5


def test_a_network_for_channels_last_is_computed_like_others():
    """With batch normalisation written out, explicit padding, and a mean in the end."""
    head = "input %i: f32[1,20,20,3]\nconst %u: f32[16,3,3,3] = random\nconst %v: f32[16,16,3,3] = random\n"
    layers, x = "", "i"
    for number, weights in enumerate("uv"):
        layers += (
            f"%p{number} = pad(%{x}) {{pads=((0, 0), (1, 1), (1, 1), (0, 0)), value=0.0}}\n"
            f"%n{number} = transpose(%p{number}) {{perm=(0, 3, 1, 2)}}\n"
            f"%c{number} = conv(%n{number}, %{weights}) {CONV}\n"
            f"%t{number} = transpose(%c{number}) {{perm=(0, 2, 3, 1)}}\nconst %b{number}: f32[16] = random\n"
            f"%s{number} = add(%t{number}, %b{number})\nconst %m{number}: f32[1,1,1,16] = random\n"
            f"%g{number} = mul(%s{number}, %m{number})\n%r{number} = relu(%g{number})\n"
        )
        x = f"r{number}"
    end = f"%y = reduce(%{x}) {{kind='mean', axes=(1, 2), keepdims=False}}\noutput y = %y"
    program = lower(graph_of(head + layers + end), Options(numerics="strict"))
    kinds = [step.kernel.name.split("_", 1)[1] for step in program.steps]
    assert [kind for kind in kinds if "reduce" not in kind] == ["transpose", "fused_conv", "fused_conv"]


NHWC, NCHW = (0, 2, 3, 1), (0, 3, 1, 2)


@given(st.lists(st.sampled_from(["relu", "bias", "gate", "concat", "slice", "mean", "back", "again"]), max_size=8),
       st.integers(0, 2**32 - 1))  # fmt: skip
def test_whatever_is_between_transposes(steps, seed):
    rng = np.random.default_rng(seed)
    graph = Graph()
    source = graph.apply(Relu(), graph.input("x", f32(2, 3, 4, 5)))
    x = graph.apply(Transpose(NHWC), source)
    seen = [x]
    for step in steps:
        match step:
            case "relu":
                x = graph.apply(Relu(), x)
            case "bias":
                shape = [extent if keep else 1 for extent, keep in zip(x.shape, rng.integers(0, 2, 4), strict=True)]
                x = graph.apply(Add(), x, graph.constant(rng.standard_normal(shape).astype(np.float32)))
            case "gate":
                x = graph.apply(Mul(), x, graph.apply(Sigmoid(), seen[-1] if seen[-1].shape == x.shape else x))
            case "concat":
                x = graph.apply(Concat(int(rng.integers(4))), x, x)
            case "slice":
                sizes = tuple(max(1, extent - 1) for extent in x.shape)
                x = graph.apply(Slice((0, 0, 0, 0), (1, 1, 1, 1), sizes), x)
            case "mean":
                x = graph.apply(Mul(), x, graph.apply(Reduce("mean", (int(rng.integers(4)),)), x))
            case "back":
                x = graph.apply(Transpose(NCHW), x)
            case "again":
                x = graph.apply(Transpose(NHWC), x)
        seen.append(x)
    graph.output("y", x)
    graph.output("z", seen[rng.integers(len(seen))])
    before = sum(node.op.name == "transpose" for node in graph.nodes)
    feeds = {"x": rng.standard_normal((2, 3, 4, 5)).astype(np.float32)}
    wanted = gl.reference(graph, feeds)
    work = graph.copy()
    for each in (ConstantFolding(), SinkTransposes(), IdentityElimination()):
        each.run(work)
    found = gl.reference(work, feeds)
    for name in wanted:
        np.testing.assert_allclose(found[name], wanted[name], rtol=1e-5, atol=1e-6)
    assert sum(node.op.name == "transpose" for node in work.nodes) <= before
