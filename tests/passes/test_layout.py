"""Layout choice: conversions, views of concats and splits, and the padding that tensors carry."""

from __future__ import annotations

import math

import numpy as np
import pytest
from executors import check, native
from pass_texts import CONV1, CONV3, IMAGE, POOL3
from rewrites import compiled, graph_of, rewrite

import glulam as gl
from glulam.compiler.options import Options
from glulam.compiler.passes.layout import ChooseLayout
from glulam.compiler.targets import target

V3 = target("x86-64-v3")  # blocks of 8 channels
PAIR = IMAGE + f"%a = conv(%x, %u) {CONV1}\n%b = conv(%x, %w) {CONV3}\n"


def layout(text):
    return rewrite(text, ChooseLayout(V3))


def layouts(result):
    return {value.name: value.layout for value in result.graph.values()}


# ---- blocks


def test_conversions_only_at_the_edges():
    result = layout(IMAGE + f"%a = conv(%x, %u) {CONV1}\n%r = relu(%a)\n%y = conv(%r, %u) {CONV1}\noutput y = %y")
    assert result.ops == "reorder conv relu conv reorder"


def test_one_conversion_serves_all_readers():
    assert layout(PAIR + "output y = %a\noutput z = %b").ops == "reorder conv conv reorder reorder"


def test_few_channels_are_read_plain():
    result = layout("input %x: f32[1,3,6,6]\nconst %u: f32[16,3,1,1] = random\n"
                    f"%y = conv(%x, %u) {CONV1}\noutput y = %y")  # fmt: skip
    assert result.ops == "conv reorder"


def test_few_channels_are_read_plain_and_need_no_padding():
    """Nor where a pool is computed in the kernel."""
    text = ("input %x: f32[1,3,6,6]\nconst %u: f32[16,3,3,3] = random\n"
            f"%y = conv(%x, %u) {CONV3}\n")  # fmt: skip
    assert layout(text + "output y = %y").ops == "conv reorder"
    net = gl.Sequential([gl.layers.Input((3, 40, 40)), gl.layers.Conv2d(16, 3, padding=1), gl.layers.MaxPool2d(2)])
    steps = gl.compile(net, target="x86-64-v2", numerics="strict").manifest.steps
    assert [step.label for step in steps] == ["0 + 1", "1_plain"]


def test_what_computes_in_either_layout_follows_its_input():
    assert layout("input %x: f32[1,16,6,6]\n%y = relu(%x)\noutput y = %y").ops == "relu"
    result = layout(IMAGE + f"%a = conv(%x, %u) {CONV1}\n%y = relu(%a)\noutput y = %y")
    assert layouts(result)["a"].block == 8


@pytest.mark.parametrize("readers", ["conv {}", "{} conv"], ids=["conv first", "conv last"])
def test_a_transpose_is_in_blocks_if_any_reader_wants_it(readers):
    lines = {"conv": f"%y = conv(%t, %u) {CONV1}", "{}": "%s = sigmoid(%t)\n%z = reshape(%s) {shape=(16, 36)}"}
    text = "input %x: f32[1,6,6,16]\nconst %u: f32[16,16,1,1] = random\n%t = transpose(%x) {perm=(0, 3, 1, 2)}\n"
    text += "\n".join(lines[each] for each in readers.split()) + "\noutput y = %y\noutput z = %z"
    assert layouts(layout(text))["t"].block == V3.lanes


def test_what_is_enlarged_for_plain_readers_is_plain():
    """The smaller tensor is converted; where blocks are wanted afterwards, or rows are short, they stay."""
    from_conv, to_conv = f"%a = conv(%x, %u) {CONV1}\n", f"%y = conv(%r, %u) {CONV1}\noutput y = %y"

    def resized(before, source, sizes, after):
        scales = (1.0, 1.0, *(size / 6 for size in sizes))
        up = f"%r = resize({source}) {{sizes=(1, 16, {sizes[0]}, {sizes[1]}), scales={scales}}}\n"
        return layout(IMAGE + before + up + after).ops

    assert resized("", "%x", (6, 96), "output y = %r") == "resize"
    assert resized(from_conv, "%a", (6, 96), "output y = %r") == "reorder conv reorder resize"
    assert resized(from_conv, "%a", (6, 96), to_conv) == "reorder conv resize conv reorder"
    assert resized(from_conv, "%a", (6, 12), "output y = %r") == "reorder conv resize reorder"


def test_a_pool_of_wide_rows_stays_plain_and_needs_no_padding():
    def pooled(extent):
        return layout(f"input %x: f32[1,16,{extent},{extent}]\n%y = max_pool(%x) {POOL3}\noutput y = %y").ops

    assert pooled(64) == "max_pool"
    assert pooled(6) == "reorder max_pool reorder"


# ---- views


def test_concat_on_whole_blocks_is_a_view():
    text = (
        PAIR
        + f"%c = concat(%a, %b) {{axis=1}}\nconst %k: f32[16,32,1,1] = random\n%y = conv(%c, %k) {CONV1}\noutput y = %y"
    )
    assert "concat_view" in layout(text).ops
    compiled(text)


def test_concat_of_a_value_with_itself_is_copied():
    text = PAIR + "%c = concat(%a, %a) {axis=1}\n%y = relu(%c)\noutput y = %y\noutput z = %b"
    result = layout(text)
    assert "concat_view" not in result.ops
    assert "c: one of its inputs is part of another tensor: they are copied" in result.declined
    compiled(text)


def test_concat_on_partial_blocks_is_copied():
    text = ("input %x: f32[1,16,6,6]\nconst %u: f32[12,16,1,1] = random\nconst %w: f32[8,16,1,1] = random\n"
            f"%a = conv(%x, %u) {CONV1}\n%b = conv(%x, %w) {CONV1}\n%c = concat(%a, %b) {{axis=1}}\n"
            "%y = relu(%c)\noutput y = %y")  # fmt: skip
    assert "do not fill whole blocks" in layout(text).declined
    compiled(text)


@pytest.mark.parametrize(("batch", "ops"), [(1, "concat_view"), (2, "concat")])
def test_what_is_wanted_plain_is_written_where_it_belongs(batch, ops):
    """Of one sample, whatever its channels; those that come in blocks are converted there."""
    text = (f"input %x: f32[{batch},16,6,6]\nconst %u: f32[12,16,1,1] = random\nconst %w: f32[8,16,1,1] = random\n"
            f"%a = conv(%x, %u) {CONV1}\n%b = conv(%x, %w) {CONV1}\n%c = concat(%a, %b) {{axis=1}}\n"
            "output y = %c")  # fmt: skip
    result = layout(text)
    assert ops in result.ops.split()
    assert result.graph.outputs["y"].producer.op.name == (ops if batch == 1 else "reorder")
    compiled(text)


@pytest.mark.parametrize(("batch", "ops"), [(1, "split_view exp exp"), (2, "split exp exp")])
def test_plain_splits_of_one_sample_are_views(batch, ops):
    text = f"input %x: f32[{batch},5,6]\n%p, %q = split(%x) {{axis=1, sizes=(2, 3)}}\n%y = exp(%p)\n%z = exp(%q)\n"
    text += "output y = %y\noutput z = %z"
    assert layout(text).ops == ops
    compiled(text)


def test_parts_of_a_constant_are_copied():
    """Nobody writes a constant into the arena, so they cannot be parts of it."""
    text = "input %x: f32[1,2,6]\nconst %k: f32[1,5,6] = random\n%p, %q = split(%k) {axis=1, sizes=(2, 3)}\n"
    text += "%y = add(%x, %p)\noutput y = %y\noutput q = %q"
    assert layout(text).ops == "split add"
    compiled(text, Options(disable=("constant_folding",)))


def test_a_value_in_two_concats_lies_in_one_of_them():
    text = (
        PAIR + "%c = concat(%a, %b) {axis=1}\n%d = concat(%b, %a) {axis=1}\n"
        "%y = relu(%c)\n%z = relu(%d)\noutput y = %y\noutput z = %z"
    )
    assert layout(text).ops.count("concat_view") == 1
    compiled(text)


def test_nested_concats_lie_in_the_largest():
    text = (
        PAIR + "%c = concat(%a, %b) {axis=1}\n%d = concat(%c, %r) {axis=1}\n%y = relu(%d)\noutput y = %y\noutput z = %c"
    )
    text = text.replace("%c =", "%r = relu(%b)\n%c =", 1)
    assert layout(text).ops.count("concat_view") == 2
    compiled(text)


SPLIT = (
    IMAGE
    + f"const %k: f32[48,16,1,1] = random\n%a = conv(%x, %k) {CONV1}\n"
    + "%p, %q, %r = split(%a) {axis=1, sizes=(16, 16, 16)}\n"
)


def test_parts_of_a_split_next_to_each_other_are_put_together_for_nothing():
    text = SPLIT + "%c = concat(%p, %q) {axis=1}\n%y = relu(%c)\n%z = sigmoid(%r)\noutput y = %y\noutput z = %z"
    result = layout(text)
    assert "split_view" in result.ops
    assert "concat_view" in result.ops
    compiled(text)


def test_parts_in_another_order_are_copied():
    text = SPLIT + "%c = concat(%q, %p) {axis=1}\n%y = relu(%c)\n%z = sigmoid(%r)\noutput y = %y\noutput z = %z"
    assert "its inputs are parts of other tensors" in layout(text).declined
    compiled(text)


def test_a_part_and_another_tensor_are_copied():
    text = (
        SPLIT
        + f"%b = conv(%x, %u) {CONV1}\n%c = concat(%p, %b) {{axis=1}}\n%y = relu(%c)\noutput y = %y\noutput z = %q"
    )
    assert "one of its inputs is part of another tensor" in layout(text).declined
    compiled(text)


# ---- halo


def test_the_producer_writes_the_padding_of_its_readers():
    result = layout(IMAGE + f"%a = conv(%x, %u) {CONV1}\n%y = conv(%a, %w) {CONV3}\noutput y = %y")
    assert layouts(result)["a"].halo == ((1, 1), (1, 1))


def test_padding_of_one_part_goes_around_the_whole():
    text = (
        PAIR + f"%c = concat(%a, %b) {{axis=1}}\n%y = relu(%c)\n%z = conv(%a, %w) {CONV3}\noutput y = %y\noutput z = %z"
    )
    found = layouts(layout(text))
    assert found["a"].halo == found["b"].halo == found["c"].halo == ((1, 1), (1, 1))
    compiled(text)


def test_zeros_serve_a_max_pool_of_what_is_not_negative():
    text = (
        IMAGE + f"%a = conv(%x, %u) {CONV1}\n%r = relu(%a)\n%m = max_pool(%r) {POOL3}\n"
        f"%y = conv(%r, %w) {CONV3}\noutput y = %y\noutput m = %m"
    )
    result = layout(text)
    assert layouts(result)["r"].halo_value == 0.0
    assert "copied" not in result.declined
    compiled(text)


@pytest.mark.parametrize(
    ("formula", "zeros"),
    [
        ("(x0 / maximum(x0, -0.0))", False),
        ("(1.0 / maximum(x0, -0.0))", False),
        ("(1.0 / maximum(x0, 0.0))", False),
        ("(exp(x0) / (minimum(x0, 1.0) + 2.0))", False),
        ("(1.0 / (1.0 + maximum(x0, 0.0)))", True),
        ("(maximum(x0, 0.0) / (exp(x0) + abs(x0)))", True),
    ],
)
@pytest.mark.filterwarnings("ignore:invalid value")
def test_division_by_negative_zero_gives_less_than_nothing(formula, zeros):
    text = (
        IMAGE + f"%a = conv(%x, %u) {CONV1}\n%r = formula(%a) {{text='{formula}'}}\n%m = max_pool(%r) {POOL3}\n"
        f"%y = conv(%r, %w) {CONV3}\noutput y = %y\noutput m = %m"
    )
    assert ("is copied to get its padding" not in layout(text).declined) is zeros


def test_windows_of_minus_infinity_by_a_formula():
    formula = "(1.0 / maximum(x0 - x1, -0.0))"
    graph = graph_of(
        IMAGE + f"input %k: f32[]\n%a = conv(%x, %u) {CONV1}\n%r = formula(%a, %k) {{text='{formula}'}}\n"
        f"%m = max_pool(%r) {POOL3}\n%y = conv(%r, %w) {CONV3}\noutput y = %y\noutput m = %m"
    )
    feeds = {"x": np.zeros((1, 16, 6, 6), np.float32), "k": np.float32(1)}
    check(graph, feeds)
    assert np.isneginf(native(graph, feeds)["m"]).all()


def test_a_max_pool_of_negative_values_gets_a_copy():
    text = (
        IMAGE + f"%a = conv(%x, %u) {CONV1}\n%m = max_pool(%a) {POOL3}\n"
        f"%y = conv(%a, %w) {CONV3}\noutput y = %y\noutput m = %m"
    )
    result = layout(text)
    assert layouts(result)["a"].halo_value == -math.inf
    assert "is copied to get its padding" in result.declined
    compiled(text)


def test_one_part_that_is_not_negative_does_not_speak_for_the_others():
    text = PAIR + (f"%r = relu(%a)\n%c = concat(%r, %b) {{axis=1}}\n%m = max_pool(%c) {POOL3}\n"
                   f"%y = conv(%r, %w) {CONV3}\noutput y = %y\noutput m = %m")  # fmt: skip
    assert "is copied to get its padding" in layout(text).declined
    compiled(text)


def test_no_padding_where_a_view_takes_elements_for_neighbours():
    text = (IMAGE.replace("16,6,6]", "16,1,1]") + "const %v: f32[8,16] = random\n"
            f"%p = conv(%x, %u) {CONV1}\n%c = conv(%p, %w) {CONV3}\n"
            "%f = reshape(%p) {shape=(1, 16)}\n%l = linear(%f, %v)\noutput y = %c\noutput z = %l")  # fmt: skip
    found = layouts(layout(text))
    assert not found["p"].has_halo
    compiled(text)


@pytest.mark.parametrize(
    ("extent", "geometry", "ops"),
    [
        (14, "kernel=(2, 2), strides=(2, 2)", "max_pool"),
        (14, "kernel=(3, 3), strides=(1, 1)", "reorder max_pool reorder"),  # as many results as are read
        (7, "kernel=(2, 2), strides=(2, 2)", "reorder max_pool reorder"),  # three in a row fill no vector
    ],
)
def test_pools_of_plain_images_stay_plain_where_that_moves_much_less(extent, geometry, ops):
    pool = f"%y = max_pool(%x) {{{geometry}, pads=((0, 0), (0, 0)), dilations=(1, 1)}}\noutput y = %y"
    assert layout(f"input %x: f32[1,48,{extent},{extent}]\n{pool}").ops == ops
