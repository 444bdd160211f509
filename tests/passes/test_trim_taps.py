"""Taps that meet nothing but padding go."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rewrites import rewrite

from glulam.compiler.ops.conv import Conv
from glulam.compiler.passes.trim_taps import TrimTaps, met_taps


def conv(frames, taps, pad):
    text = f"""input %x: f32[1,64,{frames},5,5]
const %w: f32[64,64,{taps},3,3] = random
const %b: f32[64] = random
%y = conv(%x, %w, %b) {{strides=(1, 1, 1), pads={((pad, pad), (1, 1), (1, 1))}, dilations=(1, 1, 1), groups=1}}
output z = %y"""
    return rewrite(text, TrimTaps())


@pytest.mark.parametrize(("frames", "pad", "kept"), [(1, 1, "[(1, 2)"), (2, 1, None), (1, 2, "[(2, 3)"), (2, 4, None)])
def test_taps_in_the_padding_go(frames, pad, kept):
    taps = 2 * pad + 1 if frames == 1 else 3
    result = conv(frames, taps, pad)
    assert result.ops == "conv"
    assert result.error < 1e-5
    assert bool(result.taken) is (kept is not None)
    if kept:
        assert f"taps {kept}" in result.taken[0]


def test_keeps_taps_where_padding_leaves_out_pixels():
    """Nothing is met at the front, but the padding behind is too narrow to be cut."""
    result = conv(1, 4, 2)
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
