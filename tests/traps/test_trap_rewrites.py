"""Traps 1 to 14, through the whole compiler: rewrites that change what a network computes."""

from __future__ import annotations

import numpy as np
import pytest
from rewrites import graph_of
from trapped import PADDED, PLAIN, through

X = "input %x: f32[1,17,7,9]\nconst %w: f32[33,17,3,3] = random\n"
CONV = f"%c = conv(%x, %w) {PADDED}\n"
STATS = (
    "const %s: f32[33] = random\nconst %b: f32[33] = random\nconst %m: f32[33] = random\nconst %v: f32[33] = positive\n"
)
NORM = "%n = batch_norm(%c, %s, %b, %m, %v) {epsilon=0.001}\n"


def test_trap_01_the_intermediate_is_also_an_output():
    through(X + CONV + "%r = relu(%c)\noutput y = %r\noutput z = %c")
    through(X + STATS + CONV + NORM + "%r = relu(%n)\noutput y = %r\noutput z = %c\noutput u = %n")


def test_trap_02_conv_and_relu_with_fan_out():
    through(X + CONV + "%r = relu(%c)\n%n = neg(%c)\n%a = add(%r, %n)\n%q = mul(%r, %c)\noutput y = %a\noutput z = %q")


def test_trap_03_conv_and_add_with_groups():
    head = "input %x: f32[2,12,6,5]\nconst %w: f32[GROUPS,4,3,3] = random\nconst %b: f32[GROUPS,1,1] = random\n"
    conv = PADDED.replace("groups=1", "groups=3")
    for channels in (6, 12, 96):
        text = head + f"%c = conv(%x, %w) {conv}\n%a = add(%c, %b)\n%d = add(%a, %a)\noutput y = %d"
        through(text.replace("GROUPS", str(channels)))


@pytest.mark.parametrize("include", [False, True])
@pytest.mark.parametrize("pads", ["((0, 0), (0, 0))", "((1, 1), (0, 1))"])
def test_trap_04_pad_before_average_pool(include, pads):
    pool = f"kernel=(3, 3), strides=(2, 2), pads={pads}, dilations=(1, 1), count_include_pad={include}"
    pad = "%p = pad(%r) {pads=((0, 0), (0, 0), (1, 0), (0, 2)), value=0.0}\n"
    through(f"input %x: f32[1,5,7,8]\n%r = exp(%x)\n{pad}%m = average_pool(%p) {{{pool}}}\noutput y = %m")


def test_trap_05_epsilon_of_the_norm_is_kept():
    graph = graph_of(X + STATS + CONV + NORM.replace("0.001", "0.5") + "output y = %n")
    graph.nodes[1].inputs[4].data[:] = 1e-4
    through(graph)
    through(
        "input %x: f32[2,3,16]\n%n = layer_norm(%x) {axis=2, epsilon=0.5}\noutput y = %n", x=np.full((2, 3, 16), 1e-3)
    )


def test_trap_06_norms_fold_in_double_precision():
    graph = graph_of(X + STATS + CONV + NORM.replace("0.001", "0.0") + "output y = %n")
    for value, data in zip(graph.nodes[1].inputs[1:], (1.1, 0.3, 1 / 3, 3e-7), strict=True):
        value.data[:] = data
    through(graph, tolerance=5e-6)


@pytest.mark.parametrize("shape", ["1,1,7,9", "9", "33,1,1", "1,33,7,9", ""])
def test_trap_07_multiplication_that_broadcasts(shape):
    through(X + f"const %k: f32[{shape}] = random\n" + CONV + "%q = mul(%c, %k)\n%a = add(%q, %k)\noutput y = %a")


@pytest.mark.parametrize("shape", ["33,1,1", "1,1,9", "7,9", "9", "", "2,1,1,1", "33,7,1", "2,1,7,9"])
def test_trap_07_operand_that_comes_at_run_time(shape):
    head = X.replace("[1,", "[2,") + f"input %k: f32[{shape}]\nconst %v: f32[8,33,3,3] = random\n"
    body = CONV + f"%r = relu(%c)\n%q = mul(%r, %k)\n%d = conv(%q, %v) {PADDED}\n%s = sub(%k, %c)\n"
    through(head + body + "output y = %d\noutput z = %s")


def test_trap_07_multiplication_that_widens_the_result():
    head = "input %x: f32[1,4,1,5]\nconst %w: f32[4,4,1,1] = random\nconst %k: f32[3,1,6,1] = random\n"
    through(head + f"%c = conv(%x, %w) {PLAIN}\n%q = mul(%c, %k)\noutput y = %q")


@pytest.mark.parametrize("axis", [0, 1, 2, 3])
def test_trap_08_softmax_takes_one_axis(axis):
    through(X + CONV + f"%s = softmax(%c) {{axis={axis}}}\noutput y = %s")


def test_trap_09_transpose_around_resize():
    resize = "sizes=(1, 9, 7, 17), scales=(1.0, 1.0, 1.0, 1.0)".replace("9, 7", "18, 21")
    resize = resize.replace("1.0, 1.0, 1.0, 1.0", "1.0, 2.0, 3.0, 1.0")
    body = "%t = transpose(%x) {perm=(0, 3, 2, 1)}\n%r = resize(%t) {" + resize + ", mode='linear'}\n"
    through("input %x: f32[1,17,7,9]\n" + body + "%u = transpose(%r) {perm=(0, 3, 2, 1)}\noutput y = %u")


def test_trap_10_names_do_not_collide():
    text = "input %x: f32[1,4,5,5]\nconst %w: f32[4,4,1,1] = random\n"
    text += f"%x_c16 = conv(%x, %w) {PLAIN}\n%x_out = relu(%x_c16)\n%x_c16_plain = conv(%x_out, %w) {PLAIN}\n"
    through(text + "%conv = relu(%x_c16_plain)\noutput x_out = %conv\noutput x = %x\noutput w = %x_out")


def test_trap_11_constants_that_differ_in_one_bit():
    text = "input %x: f32[1,4,5,5]\nconst %v: f32[4,4,1,1] = random\nconst %w: f32[4,4,1,1] = random\n"
    text += f"%a = conv(%x, %v) {PLAIN}\n%b = conv(%x, %w) {PLAIN}\n%s = sub(%a, %b)\noutput y = %s"
    graph = graph_of(text)
    one, two = graph.nodes[0].inputs[1], graph.nodes[1].inputs[1]
    two.data[:] = one.data
    two.data[3, 3] = -one.data[3, 3]
    assert np.abs(through(graph)["y"]).max() > 0


def test_trap_12_zero_padding_after_a_mean_shift():
    text = "input %x: f32[1,3,8,8]\nconst %m: f32[1,3,1,1] = random\nconst %w: f32[17,3,3,3] = random\n"
    through(text + f"%n = sub(%x, %m)\n%c = conv(%n, %w) {PADDED}\noutput y = %c")
    through(text + f"%n = sub(%x, %m)\n%c = conv(%n, %w) {PLAIN}\noutput y = %c")


def test_trap_13_norm_in_front_of_a_padded_conv():
    text = "input %c: f32[1,33,8,8]\n" + STATS + "const %w: f32[17,33,3,3] = random\n" + NORM
    through(text + f"%d = conv(%n, %w) {PADDED}\noutput y = %d")
    through(text + f"%r = relu(%n)\n%d = conv(%r, %w) {PADDED}\noutput y = %d")


def test_trap_14_negative_scale_behind_a_max_pool():
    pool = "%p = max_pool(%c) {kernel=(3, 3), strides=(2, 2), pads=((1, 1), (1, 1)), dilations=(1, 1)}\n"
    through(X + STATS + CONV + pool + NORM.replace("%c", "%p") + "output y = %n")
    through(X + CONV + "%g = neg(%c)\n" + pool.replace("%c", "%g") + "%n = neg(%p)\noutput y = %n")
