"""Traps 15 to 31, through the whole compiler: windows, padding, channel blocks, resize."""

from __future__ import annotations

import numpy as np
import pytest
from trapped import PADDED, PLAIN, through

SIDES = ["((0, 1), (1, 0))", "((1, 0), (0, 1))", "((0, 2), (2, 0))", "((2, 1), (1, 2))"]


def pooled(x, op, behind_conv=False, **attributes):
    """A pool over something pointwise, or over what a convolution gives."""
    attributes = {"dilations": "(1, 1)", **attributes}
    listed = ", ".join(f"{key}={value}" for key, value in attributes.items())
    channels = x.split(",")[1]
    conv = f"const %w: f32[{channels},{channels},1,1] = random\n%c = conv(%x, %w) {PLAIN}\n"
    head = f"input %x: f32[{x}]\n" + (conv if behind_conv else "%c = neg(%x)\n")
    return through(f"{head}%p = {op}(%c) {{{listed}}}\noutput y = %p")["y"]


@pytest.mark.parametrize("behind_conv", [False, True])
@pytest.mark.parametrize("include", [False, True])
def test_trap_15_ceil_mode_with_the_divisor_of_included_padding(include, behind_conv):
    pooled("1,17,7,8", "average_pool", behind_conv, kernel="(3, 3)", strides="(2, 3)", pads="((1, 1), (0, 1))",
           ceil_mode=True, count_include_pad=include)  # fmt: skip


@pytest.mark.parametrize("op", ["max_pool", "average_pool"])
def test_trap_16_no_window_lies_wholly_in_padding(op):
    y = pooled("1,3,4,4", op, kernel="(1, 1)", strides="(3, 3)", pads="((0, 2), (0, 3))", ceil_mode=True)
    assert np.isfinite(y).all()
    y = pooled("1,3,2,5", op, kernel="(2, 2)", strides="(2, 2)", pads="((1, 1), (1, 1))", ceil_mode=True)
    assert np.isfinite(y).all()


@pytest.mark.parametrize("extent", [5, 6, 7, 8])
def test_trap_17_extents_under_ceil(extent):
    y = pooled(f"1,4,{extent},{extent}", "max_pool", True, kernel="(3, 3)", strides="(2, 2)", pads="((0, 0), (0, 0))",
               ceil_mode=True)  # fmt: skip
    assert y.shape[2] == -(-(extent - 3) // 2) + 1


@pytest.mark.parametrize("pads", SIDES)
@pytest.mark.parametrize("op", ["max_pool", "average_pool"])
def test_trap_18_pads_differ_between_sides(op, pads):
    pooled("2,5,6,7", op, True, kernel="(3, 3)", strides="(2, 1)", pads=pads)


@pytest.mark.parametrize("pads", SIDES)
def test_trap_19_end_pads_of_a_convolution(pads):
    conv = PADDED.replace("((1, 1), (1, 1))", pads)
    text = "input %x: f32[1,5,6,7]\nconst %w: f32[17,5,3,3] = random\n"
    text += f"%r = neg(%x)\n%c = conv(%r, %w) {conv}\noutput y = %c"
    through(text)
    through(text.replace("strides=(1, 1)", "strides=(2, 3)"))


def test_trap_20_average_pool_same_lower_with_included_padding():
    pooled("1,5,6,6", "average_pool", True, kernel="(3, 2)", strides="(2, 2)", pads="((1, 0), (1, 0))",
           count_include_pad=True)  # fmt: skip


def test_trap_21_padding_as_wide_as_the_kernel():
    through(
        "input %x: f32[1,5,4,4]\nconst %w: f32[17,5,3,3] = random\n%r = neg(%x)\n%c = conv(%r, %w) "
        "{strides=(1, 2), pads=((3, 4), (5, 3)), dilations=(1, 1), groups=1}\noutput y = %c"
    )


@pytest.mark.parametrize("pads", ["((0, 1), (0, 1))", "((1, 0), (1, 0))"])
def test_trap_22_transposed_conv_upper_and_lower(pads):
    through(
        "input %x: f32[1,5,4,3]\nconst %w: f32[5,17,3,3] = random\n%r = neg(%x)\n%c = conv_transpose(%r, %w) "
        f"{{strides=(2, 2), pads={pads}, dilations=(1, 1), output_padding=(0, 0), groups=1}}\noutput y = %c"
    )


def test_trap_23_transposed_conv_with_output_padding():
    y = through(
        "input %x: f32[1,5,4,3]\nconst %w: f32[5,3,2,2] = random\nconst %b: f32[3] = random\n%r = neg(%x)\n"
        "%c = conv_transpose(%r, %w, %b) {strides=(3, 2), pads=((0, 0), (1, 0)), dilations=(1, 1), "
        "output_padding=(2, 1), groups=1}\noutput y = %c"
    )["y"]
    assert y.shape == (1, 3, 13, 6)


@pytest.mark.parametrize("channels", [1, 2, 3])
def test_trap_24_padded_borders_with_few_channels(channels):
    text = f"input %x: f32[1,{channels},5,33]\nconst %w: f32[{channels},{channels},1,7] = random\n%r = neg(%x)\n"
    conv = PADDED.replace("((1, 1), (1, 1))", "((0, 0), (3, 3))")
    through(text + f"%c = conv(%r, %w) {conv}\n%d = conv(%c, %w) {conv}\noutput y = %d")


@pytest.mark.parametrize("shape", ["1,3,1,1", "2,1,1,5", "1,1,3,1"])
def test_trap_25_huge_padding_and_extents_of_one(shape):
    channels = shape.split(",")[1]
    text = f"input %x: f32[{shape}]\nconst %w: f32[2,{channels},3,3] = random\n%r = neg(%x)\n"
    conv = PADDED.replace("((1, 1), (1, 1))", "((17, 9), (0, 21))").replace("strides=(1, 1)", "strides=(3, 2)")
    through(text + f"%c = conv(%r, %w) {conv}\noutput y = %c")


@pytest.mark.parametrize("channels", [1, 3, 8, 15])
def test_trap_26_fewer_channels_than_lanes_with_a_strided_1x1_conv(channels):
    text = f"input %x: f32[2,{channels},7,5]\nconst %w: f32[{channels},{channels},1,1] = random\n%r = neg(%x)\n"
    conv = "{strides=(2, 2), pads=((0, 0), (0, 0)), dilations=(1, 1), groups=1}"
    through(text + f"%c = conv(%r, %w) {conv}\n%d = conv(%c, %w) {conv}\noutput y = %d")


@pytest.mark.parametrize("channels", [5, 17, 31, 33])
def test_trap_27_channels_that_do_not_fill_blocks(channels):
    """Lanes beyond the last channel stay finite and silent, even where an activation takes zero elsewhere."""
    text = f"input %x: f32[1,{channels},4,5]\nconst %w: f32[{channels},{channels},3,3] = random\n"
    text += f"%a = conv(%x, %w) {PADDED}\n%l = exp(%a)\n%i = reciprocal(%l)\n%n = log(%i)\n%b = conv(%n, %w) {PADDED}\n"
    through(
        text + "%s = reduce(%n) {kind='sum', axes=(1,), keepdims=True}\noutput y = %b\noutput z = %s", tolerance=1e-3
    )


# ---- resize


def resized(x, sizes, scales, **attributes):
    listed = "".join(f", {key}={value!r}" for key, value in attributes.items())
    head = f"input %x: f32[{x}]\n%n = neg(%x)\n"
    return through(f"{head}%r = resize(%n) {{sizes={sizes}, scales={scales}{listed}}}\noutput y = %r")["y"]


@pytest.mark.parametrize("rounding", ["round_prefer_ceil", "round_prefer_floor", "floor", "ceil"])
def test_trap_28_ties_of_nearest(rounding):
    for coordinates in ("half_pixel", "asymmetric", "align_corners"):
        resized(
            "1,3,4,6", (1, 3, 8, 3), (1.0, 1.0, 2.0, 0.5), mode="nearest", coordinates=coordinates, rounding=rounding
        )


@pytest.mark.parametrize("mode", ["nearest", "linear", "cubic"])
def test_trap_29_scales_that_are_no_integers(mode):
    resized("1,17,5,7", (1, 17, 8, 9), (1.0, 1.0, 1.7, 1.3), mode=mode)
    resized("1,17,5,7", (1, 17, 3, 5), (1.0, 1.0, 0.6, 5 / 7), mode=mode)


@pytest.mark.parametrize("coordinates", ["half_pixel", "align_corners", "pytorch_half_pixel", "asymmetric"])
@pytest.mark.parametrize("mode", ["nearest", "linear"])
def test_trap_30_an_output_of_one_element(mode, coordinates):
    y = resized("1,2,5,7", (1, 2, 1, 1), (1.0, 1.0, 0.2, 1 / 7), mode=mode, coordinates=coordinates)
    assert np.isfinite(y).all()


def test_trap_31_batch_and_channels_are_left_alone():
    for mode in ("nearest", "linear", "cubic"):
        resized("3,5,4,4", (3, 5, 8, 6), (1.0, 1.0, 2.0, 1.5), mode=mode, coordinates="align_corners")
