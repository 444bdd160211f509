"""Pointwise ops go before the views of what a kernel computes, so that they fuse with it."""

from __future__ import annotations

import pytest
from rewrites import compiled, rewrite

from glulam.compiler.passes.sink_views import SinkViews

CONV = """input %x: f32[2,19,5,7]
const %w: f32[19,1,3,3] = random
%a = conv(%x, %w) {strides=(1, 1), pads=((1, 1), (1, 1)), dilations=(1, 1), groups=19}
"""
TOKENS = CONV + "%r = reshape(%a) {shape=(2, 19, 35)}\n%t = transpose(%r) {perm=(0, 2, 1)}\n"
GELU = """const %root: f32[1,1,1] = positive
const %one: f32[1] = random
%d = div(%t, %root)
%e = erf(%d)
%f = add(%e, %one)
%y = mul(%t, %f)
"""


def sunk(text):
    return rewrite(text, SinkViews())


def test_an_activation_among_tokens():
    result = sunk(TOKENS + "%y = relu(%t)\noutput y = %y")
    assert result.ops == "conv relu reshape transpose"
    assert result.taken == ["y: relu works on what became %t"]


def test_a_formula_that_reads_the_tokens_twice():
    assert sunk(TOKENS + GELU + "output y = %y").ops == "conv div erf add mul reshape transpose"


def test_one_kernel_computes_both():
    assert compiled(TOKENS + GELU + "output y = %y").count("fused") == 1


@pytest.mark.parametrize("end", [
    "%y = relu(%t)\noutput y = %y\noutput t = %t",
    "%y = relu(%t)\noutput y = %y\noutput r = %r",
    "%y = relu(%t)\n%z = softmax(%t) {axis=2}\noutput y = %y\noutput z = %z",
    "%y = relu(%t)\n%z = exp(%r)\n%s = softmax(%r) {axis=2}\noutput y = %y\noutput z = %z\noutput s = %s",
    "const %c: f32[19] = random\n%y = mul(%t, %c)\noutput y = %y",
    "input %c: f32[1]\n%y = mul(%t, %c)\noutput y = %y",
    "input %c: f32[2,35,19]\n%y = mul(%t, %c)\noutput y = %y",
    "input %c: f32[2,35,19]\n%z = relu(%t)\n%y = mul(%t, %c)\noutput y = %y\noutput z = %z",
    "%z = cast(%t) {dtype=i64}\noutput z = %z",
])  # fmt: skip
def test_declines_where_views_would_stay_or_operands_have_other_places(end):
    assert not sunk(TOKENS + end).taken


def test_a_cast_to_a_shorter_type():
    assert sunk(TOKENS + "%y = cast(%t) {dtype=u8}\noutput y = %y").ops == "conv cast reshape transpose"


def test_declines_what_no_kernel_computes():
    result = sunk("input %x: f32[2,6]\n%r = reshape(%x) {shape=(3, 4)}\n%y = relu(%r)\noutput y = %y")
    assert result.ops == "reshape relu"
    assert "no kernel computes what becomes r" in result.declined


def test_operands_with_other_views_differ():
    text = CONV + "%b = reshape(%a) {shape=(2, 665)}\n%c = exp(%a)\n%s = transpose(%c) {perm=(0, 2, 3, 1)}\n"
    result = sunk(text + "%d = reshape(%s) {shape=(2, 665)}\n%y = add(%b, %d)\noutput y = %y")
    assert not result.taken


def test_operands_that_the_same_reshape_made_of_other_shapes_stay():
    text = "input %x: f32[4,6]\ninput %z: f32[2,12]\n%a = exp(%x)\n%b = exp(%z)\n%r = reshape(%a) {shape=(24,)}\n"
    result = sunk(text + "%s = reshape(%b) {shape=(24,)}\n%y = add(%r, %s)\noutput y = %y")
    assert result.ops == "exp exp reshape reshape add"
    assert "different shapes" in result.declined


def test_leaves_transposes_alone():
    assert not sunk(CONV + "%t = transpose(%a) {perm=(0, 2, 3, 1)}\n%y = relu(%t)\noutput y = %y").taken
