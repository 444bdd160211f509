"""Slices of a linear layer become layers."""

from __future__ import annotations

import pytest
from rewrites import rewrite

from glulam.compiler.passes.sliced_linear import SlicedLinear

HEAD = """input %x: f32[2,5,8]
const %w: f32[12,8] = random
const %b: f32[12] = random
%y = linear(%x, %w, %b)
"""


def slices(*spans, more=""):
    lines = [
        f"%s{i} = slice(%y) {{starts=(0, 0, {a}), steps=(1, 1, 1), sizes=(2, 5, {n})}}\noutput o{i} = %s{i}"
        for i, (a, n) in enumerate(spans)
    ]
    return rewrite(HEAD + "\n".join(lines) + more, SlicedLinear())


def test_three_slices():
    result = slices((0, 4), (4, 4), (8, 4))
    assert result.ops == "linear linear linear"
    assert result.taken == ["y: a layer for each of its 3 slices"]
    assert {node.output.shape[-1] for node in result.graph.nodes} == {4}


def test_a_split():
    text = "%p, %q = split(%y) {axis=2, sizes=(5, 7)}\noutput p = %p\noutput q = %q"
    assert rewrite(HEAD + text, SlicedLinear()).ops == "linear linear"


WITHOUT = HEAD.replace(", %b)", ")").replace("%y =", "%l =")
HALVES = "%p, %q = split(%y) {axis=2, sizes=(6, 6)}\noutput p = %p\noutput q = %q"


@pytest.mark.parametrize("operands", ["%l, %b", "%b, %l"])
def test_a_bias_that_is_added_behind(operands):
    result = rewrite(f"{WITHOUT}%y = add({operands})\n{HALVES}", SlicedLinear())
    assert result.ops == "linear linear"
    assert result.error < 1e-6


@pytest.mark.parametrize(
    "more",
    ["%y = add(%l, %l)\n", "%y = add(%l, %b)\noutput l = %l\n", "const %k: f32[5,1] = random\n%y = add(%l, %k)\n"],
    ids=["itself", "read elsewhere", "for each row"],
)
def test_declines_what_is_no_bias(more):
    assert rewrite(WITHOUT + more + HALVES, SlicedLinear()).ops == "linear add split"


def test_declines_if_the_sum_is_read_too():
    assert rewrite(f"{WITHOUT}%y = add(%l, %b)\n{HALVES}\noutput y = %y", SlicedLinear()).ops == "linear add split"


@pytest.mark.parametrize(
    ("more", "ops"),
    [
        ("\n%r = relu(%y)\noutput r = %r", "linear slice relu"),
        ("\noutput r = %y", "linear slice"),
    ],
)
def test_declines_if_the_whole_is_read_too(more, ops):
    assert slices((0, 4), more=more).ops == ops


def test_declines_if_slices_overlap():
    result = slices((0, 8), (4, 8))
    assert result.ops == "linear slice slice"
    assert "overlap" in result.declined


def test_declines_a_slice_of_rows():
    text = "%s = slice(%y) {starts=(0, 1, 0), steps=(1, 1, 1), sizes=(2, 2, 12)}\noutput s = %s"
    assert rewrite(HEAD + text, SlicedLinear()).ops == "linear slice"
