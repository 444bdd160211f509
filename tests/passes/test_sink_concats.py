"""Norms and pointwise ops go before the concat of what kernels compute, so that they fold into those or fuse."""

from __future__ import annotations

import pytest
from rewrites import compiled, rewrite

from glulam.compiler.passes.sink_concats import SinkConcats

PARTS = """input %x: f32[2,5,6,7]
const %w: f32[19,5,1,1] = random
const %v: f32[3,5,3,3] = random
%a = conv(%x, %w) {strides=(1, 1), pads=((0, 0), (0, 0)), dilations=(1, 1), groups=1}
%b = conv(%x, %v) {strides=(1, 1), pads=((1, 1), (1, 1)), dilations=(1, 1), groups=1}
"""
WHOLE = PARTS + "%c = concat(%a, %b) {axis=1}\n"
NORM = """const %s: f32[22] = random
const %o: f32[22] = random
const %m: f32[22] = random
const %d: f32[22] = positive
%n = batch_norm(%c, %s, %o, %m, %d) {epsilon=0.001}
"""


def sunk(text):
    return rewrite(text, SinkConcats())


def test_a_norm_and_the_gate_of_a_swish():
    result = sunk(WHOLE + NORM + "%g = sigmoid(%n)\n%y = mul(%n, %g)\noutput y = %y")
    assert result.ops == "conv conv batch_norm batch_norm sigmoid sigmoid mul mul concat"
    assert result.taken[0] == "n: batch_norm works on the parts of %c"


def test_each_kernel_takes_its_part():
    ops = compiled(WHOLE + NORM + "%y = relu(%n)\noutput y = %y").split()
    assert ops.count("fused") == 2
    assert "scale_shift" not in ops


@pytest.mark.parametrize(
    "line",
    [
        "const %k: f32[] = random\n%y = mul(%c, %k)",
        "const %k: f32[22,1,1] = random\n%y = sub(%k, %c)",
        "const %k: f32[1,22,6,1] = random\n%y = add(%c, %k)",
        "const %k: f32[7] = random\n%y = add(%c, %k)",
        "const %k: f32[22,1,1] = random\n%y = prelu(%c, %k)",
    ],
)
def test_constants_are_cut_where_they_vary(line):
    assert sunk(WHOLE + line + "\noutput y = %y").ops.endswith("concat")


def test_along_another_axis():
    text = PARTS + "%c = concat(%a, %a) {axis=3}\nconst %k: f32[19,1,14] = random\n%y = mul(%c, %k)\noutput y = %y"
    assert sunk(text).ops == "conv conv mul mul concat"


def test_sums_of_two_that_are_cut_alike():
    text = WHOLE + "%p = exp(%c)\n%q = relu(%p)\n%y = add(%p, %q)\noutput y = %y"
    assert sunk(text).ops == "conv conv exp exp relu relu add add concat"


def test_declines_sums_of_two_that_are_cut_otherwise():
    text = WHOLE + "%p = exp(%a)\n%q = exp(%b)\n%e = concat(%q, %p) {axis=1}\n%y = add(%c, %e)\noutput y = %y"
    assert not sunk(text).taken


@pytest.mark.parametrize(
    ("end", "why"),
    [
        ("%y = relu(%c)\noutput y = %y\noutput c = %c", "c has other readers"),
        ("%y = relu(%c)\n%z = softmax(%c) {axis=1}\noutput y = %y\noutput z = %z", "c has other readers"),
        ("%y = relu(%c)\noutput y = %y\noutput a = %a", "a has other readers than c"),
        (
            "%y = relu(%c)\n%e = concat(%x, %b) {axis=1}\noutput y = %y\noutput e = %e",
            "b has other readers than c",
        ),
    ],
)
def test_declines_where_something_would_stay(end, why):
    result = sunk(WHOLE + end)
    assert not result.taken
    assert why in result.declined


@pytest.mark.parametrize(
    "end",
    [
        "input %k: f32[22,1,1]\n%y = mul(%c, %k)\noutput y = %y",
        "const %k: f32[3,1,1,1,1] = random\n%y = mul(%c, %k)\noutput y = %y",
        "%y = reduce(%c) {kind='mean', axes=(2, 3), keepdims=True}\noutput y = %y",
    ],
)
def test_leaves_what_is_not_by_element(end):
    assert not sunk(WHOLE + end).taken


def test_declines_parts_that_no_kernel_computes():
    result = sunk(PARTS + "%c = concat(%x, %b) {axis=1}\n%y = relu(%c)\noutput y = %y")
    assert "no kernel computes x" in result.declined
