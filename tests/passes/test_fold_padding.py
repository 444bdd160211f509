"""Padding folded into its reader: only where the numbers stay."""

from __future__ import annotations

import pytest
from rewrites import rewrite

from glulam.compiler.passes.fold_padding import FoldPadding

X = "input %x: f32[1,3,7,8]\n%r = relu(%x)\nconst %w: f32[4,3,3,3] = random\n"
PAD = "%p = pad(%r) {pads=((0, 0), (0, 0), (1, 0), (0, 2)), value=VALUE}\n"
CONV = "%c = conv(%p, %w) {strides=(2, 1), pads=((0, 1), (1, 1)), dilations=(1, 2), groups=1}\n"
WINDOW = "kernel=(3, 3), strides=(2, 2), pads=PADS, dilations=(1, 1)"
NONE, SOME = "((0, 0), (0, 0))", "((1, 1), (0, 1))"


def fold(text, value="0.0", pads=NONE):
    return rewrite((X + text).replace("VALUE", value).replace("PADS", pads), FoldPadding())


def test_into_convolution():
    result = fold(PAD + CONV + "output y = %c")
    assert result.ops == "relu conv"
    assert result.graph.nodes[1].op.pads == ((1, 1), (1, 3))
    assert result.taken == ["p: becomes padding of c"]


def test_declines_on_a_second_use_and_on_an_output():
    assert fold(PAD + CONV + "%e = neg(%p)\noutput y = %c\noutput z = %e").ops == "relu pad conv neg"
    assert "%p is an output of the graph" in fold(PAD + CONV + "output y = %c\noutput z = %p").declined


@pytest.mark.parametrize("change", [("value=VALUE", "mode='edge'"), ("(1, 0)", "(-1, 0)"), ("VALUE", "1.0")])
def test_other_padding_stays(change):
    assert fold((PAD + CONV).replace(*change) + "output y = %c").ops == "relu pad conv"


@pytest.mark.parametrize(
    ("value", "source", "folds"),
    [("-inf", "%x", True), ("0.0", "%r", True), ("0.0", "%x", False), ("-1.0", "%r", False)],
)
def test_into_max_pool(value, source, folds):
    text = PAD.replace("%r", source) + f"%m = max_pool(%p) {{{WINDOW}}}\noutput y = %m\noutput z = %r"
    assert ("pad" in fold(text, value).ops) is not folds


EDGE = PAD.replace("value=VALUE", "mode='edge', value=0.0")


@pytest.mark.parametrize(("change", "folds"), [
    ((), True), (("dilations=(1, 1)", "dilations=(1, 2)"), False),
    (("(1, 0), (0, 2)", "(2, 0), (0, 2)"), True),
    (("(1, 0), (0, 2)", "(3, 0), (0, 2)"), False),  # a window has nothing else
])  # fmt: skip
def test_the_outermost_elements_again_go_into_a_max_pool(change, folds):
    text = EDGE + f"%m = max_pool(%p) {{{WINDOW}}}\noutput y = %m\noutput z = %r"
    result = fold(text.replace(*change) if change else text)
    assert ("pad" not in result.ops) is folds
    assert result.error == 0


def test_the_outermost_elements_again_count_in_a_mean():
    pool = f"%m = average_pool(%p) {{{WINDOW}, ceil_mode=False, count_include_pad=True}}\n"
    assert "pad" in fold(EDGE + pool + "output y = %m").ops


def test_a_clip_to_what_is_negative():
    clip = "%q = clip(%x) {low=0.0, high=-1.0}\n"
    text = PAD.replace("%r", "%q") + f"%m = max_pool(%p) {{{WINDOW}}}\noutput y = %m"
    at = text.index("%p = ")
    assert "pad" in fold(text[:at] + clip + text[at:]).ops


@pytest.mark.parametrize("value", ["abs(%x)", "exp(%x)", "concat(%r, %s) {axis=1}", "leaky_relu(%x) {alpha=0.5}"])
def test_zeros_go_into_a_max_pool_of_whatever_is_never_below_them(value):
    text = PAD.replace("%r", "%q") + f"%m = max_pool(%p) {{{WINDOW}}}\noutput y = %m"
    at = text.index("%p = ")
    result = fold(f"{text[:at]}%s = sigmoid(%x)\n%q = {value}\n{text[at:]}")
    assert ("pad" in result.ops.split()) is value.startswith("leaky")


def test_zeros_wider_than_the_window_stay_before_a_max_pool():
    text = PAD.replace("(0, 2)", "(0, 3)") + f"%m = max_pool(%p) {{{WINDOW}}}\noutput y = %m"
    assert "a window may lie in the padding alone" in fold(text).declined


@pytest.mark.parametrize(
    ("window", "folds"),
    [
        ("kernel=(2, 2), strides=(1, 1), pads=PADS, dilations=(3, 3)", False),
        ("kernel=(3, 3), strides=(1, 1), pads=PADS, dilations=(1, 1)", True),
        ("kernel=(2, 2), strides=(3, 3), pads=PADS, dilations=(1, 1), ceil_mode=True", False),
        ("kernel=(2, 2), strides=(2, 2), pads=PADS, dilations=(1, 1), ceil_mode=True", True),
    ],
)
def test_zeros_stay_where_a_dilated_window_or_the_last_one_sees_nothing_else(window, folds):
    text = "input %x: f32[1,1,2,2]\n%r = relu(%x)\n%p = pad(%r) {pads=((0, 0), (0, 0), (1, 1), (1, 1))}\n"
    result = rewrite(text + f"%m = max_pool(%p) {{{window.replace('PADS', NONE)}}}\noutput y = %m", FoldPadding())
    assert ("pad" in result.ops.split()) is not folds


AVERAGE = f"%m = average_pool(%p) {{{WINDOW}, count_include_pad=INCLUDE}}\noutput y = %m"


def test_trap_4_average_pool_counts_the_padding():
    result = fold(PAD + AVERAGE.replace("INCLUDE", "False"))
    assert result.ops == "relu average_pool"
    assert result.graph.nodes[1].op.count_include_pad


def test_trap_4_average_pool_that_pads_already():
    result = fold(PAD + AVERAGE.replace("INCLUDE", "False"), pads=SOME)
    assert result.ops == "relu pad average_pool"
    assert "its own padding does not count in the mean, this one does" in result.declined
    assert fold(PAD + AVERAGE.replace("INCLUDE", "True"), pads=SOME).ops == "relu average_pool"


def test_ceiling_rule():
    """A last window that starts in the explicit padding is dropped once that is the pool's own."""
    text = (
        "%p = pad(%r) {pads=((0, 0), (0, 0), (0, 2), (0, 0))}\n%m = average_pool(%p) {kernel=(1, 1), strides=(4, 1), "
    )
    text += "pads=((0, 0), (0, 0)), dilations=(1, 1), ceil_mode=True}\noutput y = %m"
    result = fold(text)
    assert result.ops == "relu pad average_pool"
    assert "m: the ceiling rule would drop a window" in result.declined
