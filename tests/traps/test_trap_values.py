"""Traps 32 to 38, through the whole compiler: NaN, infinities, huge and tiny numbers."""

from __future__ import annotations

import numpy as np
import pytest
from executors import TARGETS, native
from rewrites import graph_of, random
from trapped import PADDED, PLAIN, through

from glulam.compiler.options import Options

EXTREMES = np.array(
    [
        0.0,
        -0.0,
        1e38,
        -1e38,
        np.inf,
        -np.inf,
        np.nan,
        88.8,
        -88.8,
        104.0,
        -104.0,
        1e-38,
        -1e-38,
        1e-42,
        17.0,
        -17.0,
        0.5,
    ],
    np.float32,
)


@pytest.mark.parametrize("kind", ["max", "min", "sum", "mean", "log_sum_exp"])
def test_trap_32_reductions_see_nan_wherever_it_is(kind):
    x = np.arange(37 * 37, dtype=np.float32).reshape(37, 37) / 1000
    x[np.arange(37), np.arange(37)] = np.nan
    x[5, 5] = 5
    for axes in ("(0,)", "(1,)"):
        text = f"input %x: f32[37,37]\n%r = reduce(%x) {{kind={kind!r}, axes={axes}, keepdims=False}}\noutput y = %r"
        assert np.isnan(through(text, x=x)["y"]).sum() == 36


@pytest.mark.parametrize("op", ["relu", "sign", "clip", "leaky_relu", "abs", "hard_swish", "hard_sigmoid"])
def test_trap_33_activations_keep_nan(op):
    attributes = " {low=0.0, high=6.0}" if op == "clip" else ""
    text = f"input %x: f32[17]\n%r = {op}(%x){attributes}\noutput y = %r"
    assert np.isnan(through(text, x=EXTREMES)["y"][6])


@pytest.mark.parametrize("op", ["relu", "clip", "sigmoid", "hard_swish"])
def test_trap_33_fused_activations_keep_nan(op):
    x = np.ones((1, 17, 3, 3), np.float32)
    x[0, :, 1, 1] = np.nan
    text = f"input %x: f32[1,17,3,3]\nconst %w: f32[17,17,1,1] = random\n%c = conv(%x, %w) {PLAIN}\n"
    assert np.isnan(through(text + f"%r = {op}(%c)\noutput y = %r", x=x)["y"]).sum() == 17


@pytest.mark.parametrize("behind_conv", [False, True])
def test_trap_34_max_pool_over_nothing_but_nan(behind_conv):
    x = np.full((1, 5, 6, 6), np.nan, np.float32)
    x[..., 3:] = -np.inf
    conv = (
        f"const %w: f32[5,5,1,1] = positive\n%c = conv(%x, %w) {PLAIN}\n"
        if behind_conv
        else "%c = abs(%x)\n%c2 = neg(%c)\n"
    )
    pool = "{kernel=(2, 2), strides=(2, 2), pads=((0, 0), (1, 1)), dilations=(1, 1)}"
    source = "%c" if behind_conv else "%c2"
    y = through(f"input %x: f32[1,5,6,6]\n{conv}%p = max_pool({source}) {pool}\noutput y = %p", x=x)["y"]
    assert np.isnan(y[..., :2]).all()
    assert (y[..., 2:] == -np.inf).all()


def test_trap_35_nothing_assumes_that_numbers_are_finite():
    text = "input %x: f32[17]\n%a = sub(%x, %x)\n%b = equal(%x, %x)\n%z = mul(%x, %k)\n%o = div(%x, %x)\n"
    text = text.replace("%a =", "const %k: f32[] = 0.0\n%a =")
    outputs = "output a = %a\noutput b = %b\noutput z = %z\noutput o = %o"
    y = through(text + outputs, x=EXTREMES)
    assert np.isnan(y["a"][4:7]).all()
    assert not y["b"][6]
    assert np.isnan(y["z"][4:7]).all()


@pytest.mark.parametrize("target", TARGETS)
def test_trap_36_a_row_does_not_depend_on_the_batch(target):
    """The same sample gives the same bits, alone, at any place of a batch, and beside NaN."""
    body = "input %x: f32[BATCH,3,9,9]\nconst %w: f32[17,3,3,3] = random\nconst %l: f32[10,1377] = random\n"
    body += f"%c = conv(%x, %w) {PADDED}\n%r = relu(%c)\n%f = reshape(%r) {{shape=(BATCH, 1377)}}\n"
    body += "%y = linear(%f, %l)\n%s = softmax(%y) {axis=1}\noutput y = %s"
    batch = random(graph_of(body.replace("BATCH", "5")).inputs["x"].type, "x")
    batch[3] = np.nan
    options = Options(target=target)
    together = native(graph_of(body.replace("BATCH", "5")), {"x": batch}, options)["y"]
    for i in (0, 2, 4):
        alone = native(graph_of(body.replace("BATCH", "1")), {"x": batch[i : i + 1]}, options)["y"]
        np.testing.assert_array_equal(together[i : i + 1], alone)


SHORT_LINES = {
    "softmax": "%y = softmax(%x) {axis=1}",
    "log_softmax": "%y = log_softmax(%x) {axis=1}",
    "layer_norm": "%y = layer_norm(%x, %w, %w) {axis=1}",
    "rms_norm": "%y = rms_norm(%x, %w) {axis=1}",
    "lp_normalize": "%y = lp_normalize(%x) {axis=1, p=2}",
}


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("op", SHORT_LINES)
def test_trap_36_a_short_line_does_not_depend_on_how_many_there_are(op, target):
    """Lines of up to eight elements may be one for each lane, or one after the other: whichever, for any number."""
    body = f"input %x: f32[BATCH,5]\nconst %w: f32[5] = random\n{SHORT_LINES[op]}\noutput y = %y"
    batch = random(graph_of(body.replace("BATCH", "19")).inputs["x"].type, "x")
    options = Options(target=target)
    together = native(graph_of(body.replace("BATCH", "19")), {"x": batch}, options)["y"]
    for first, end in ((0, 1), (4, 7), (2, 19)):
        some = native(graph_of(body.replace("BATCH", str(end - first))), {"x": batch[first:end]}, options)["y"]
        np.testing.assert_array_equal(some, together[first:end])


@pytest.mark.parametrize(
    "op", ["sigmoid", "exp", "tanh", "silu", "softplus", "mish", "gelu", "erf", "elu", "log", "sqrt"]
)
def test_trap_37_functions_at_the_ends_of_the_numbers(op):
    through(f"input %x: f32[17]\n%r = {op}(%x)\noutput y = %r", x=EXTREMES)


@pytest.mark.parametrize("op", ["softmax", "log_softmax"])
def test_trap_37_softmax_at_the_ends_of_the_numbers(op):
    rows = [
        [1e38, -1e38, 0, 1e38],
        [np.inf, 0, 1, 2],
        [-np.inf] * 4,
        [-np.inf, 0, 0, 1],
        [np.nan, 0, 0, 0],
        [88, 89, 90, 1000],
    ]
    through(f"input %x: f32[6,4]\n%r = {op}(%x) {{axis=1}}\noutput y = %r", x=np.array(rows))
    through(f"input %x: f32[4,6]\n%r = {op}(%x) {{axis=0}}\noutput y = %r", x=np.array(rows).T)


def test_trap_38_denormals_are_not_flushed():
    tiny = np.array([1e-40, -1e-40, 1e-45, 1.5e-38, 0], np.float32)
    y = through(
        "input %x: f32[5]\nconst %h: f32[] = 0.5\n%m = mul(%x, %h)\n%a = add(%x, %x)\noutput y = %m\noutput z = %a",
        x=tiny,
    )
    np.testing.assert_array_equal(y["y"], tiny * np.float32(0.5))
    np.testing.assert_array_equal(y["z"], tiny + tiny)
