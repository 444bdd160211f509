"""Convolutions of volumes: taps in the padding go, and Winograd's algorithm comes in by images."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from machines import ZEN4
from rewrites import rewrite

import glulam as gl
from glulam.compiler.ops.conv import Conv
from glulam.compiler.passes.volumes import TrimTaps, VolumesToImages, met_taps


def conv(frames, side, taps, *, passes, channels=64, strides=(1, 1, 1), apart=1, more="", kernel=3, pad=1):
    pads, dilations = ((pad, pad), (1, 1), (1, 1)), (apart,) * 3
    text = f"""input %x: f32[1,{channels},{frames},{side},{side}]
const %w: f32[64,{channels},{taps},{kernel},{kernel}] = random
const %b: f32[64] = random
%y = conv(%x, %w, %b) {{strides={strides}, pads={pads}, dilations={dilations}, groups=1}}
{more}output z = %y"""
    return rewrite(text, *passes)


IMAGES = VolumesToImages(ZEN4)


@pytest.mark.parametrize("strides", [(1, 1, 1), (2, 1, 1), (2, 2, 2)])
@pytest.mark.parametrize(("channels", "kernel"), [(64, 3), (3, 7)])
def test_images_of_three_frames(strides, channels, kernel):
    result = conv(4, 24, 3, passes=[IMAGES], strides=strides, channels=channels, kernel=kernel)
    assert result.ops == "stack_frames conv unstack_frames"
    assert result.error < 1e-5


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"strides": (1, 3, 3)}, "not for groups, nor for these taps"),
        ({"channels": 70}, "do not fill channel blocks"),
        ({"kernel": 1}, "not for groups, nor for these taps"),
        ({"frames": 8, "strides": (2, 2, 2), "apart": 3}, "not for groups, nor for these taps"),
        ({"channels": 1}, "on images"),
    ],
)
def test_declines(change, why):
    result = conv(**{"frames": 4, "side": 24, "taps": 3, "passes": [IMAGES]} | change)
    assert result.ops == "conv"
    assert why in result.declined


@pytest.mark.parametrize(("frames", "pad", "kept"), [(1, 1, "[(1, 2)"), (2, 1, None), (1, 2, "[(2, 3)"), (2, 4, None)])
def test_taps_in_the_padding_go(frames, pad, kept):
    taps = 2 * pad + 1 if frames == 1 else 3
    result = conv(frames, 5, taps, passes=[TrimTaps()], pad=pad)
    assert result.ops == "conv"
    assert result.error < 1e-5
    assert bool(result.taken) is (kept is not None)
    if kept:
        assert f"taps {kept}" in result.taken[0]


def test_keeps_taps_where_padding_leaves_out_pixels():
    """Nothing is met at the front, but the padding behind is too narrow to be cut."""
    result = conv(1, 5, 4, passes=[TrimTaps()], pad=2)
    assert result.error < 1e-5


@given(
    st.integers(1, 4), st.integers(1, 3), st.integers(-3, 8), st.integers(1, 9), st.integers(1, 6), st.integers(1, 9)
)
def test_the_taps_that_meet_the_input(stride, dilation, before, extent, taps, outputs):
    """By the definition: output o meets input o * stride + k * dilation - before by tap k."""

    def meets(tap):
        return any(0 <= o * stride + tap * dilation - before < extent for o in range(outputs))

    met = [tap for tap in range(taps) if meets(tap)]
    op = Conv((stride,), ((before, 0),), (dilation,))
    assert met_taps(op, 0, extent, taps, outputs) == ((met[0], met[-1] + 1) if met else (0, taps))


def test_the_taps_are_found_however_long_the_input():
    assert met_taps(Conv((1,), ((0, 0),), (1,)), 0, 10**12 + 511, 512, 10**12) == (0, 512)


def test_strict_numerics_leave_volumes_to_the_definition():
    net = gl.Sequential([gl.layers.Input((32, 4, 14, 14)), gl.layers.Conv3d(32, 3, padding=1)])
    steps = {numerics: gl.compile(net, numerics=numerics).manifest.steps for numerics in ("fast", "strict")}
    assert any("winograd" in step.algorithm for step in steps["fast"])
    assert not any("winograd" in step.kernel for step in steps["strict"])
