"""Transposes between channel blocks and channels-last pixels: one copy, and the right numbers."""

from __future__ import annotations

import pytest
from rewrites import compiled

CONV = "{strides=(1, 1), pads=((1, 1), (1, 1)), dilations=(1, 1), groups=1}"


def text(channels, tail, head=""):
    return f"""input %x: f32[2,{channels},5,7]
const %w: f32[{channels},{channels},3,3] = random
{head}{tail}"""


@pytest.mark.parametrize("channels", [3, 16, 33])
def test_reads_blocks(channels):
    ops = compiled(text(channels, f"%a = conv(%x, %w) {CONV}\n%y = transpose(%a) {{perm=(0, 2, 3, 1)}}\noutput z = %y"))
    assert ops.endswith("conv transpose")


@pytest.mark.parametrize("channels", [16, 33])
def test_writes_blocks_with_the_padding_that_the_reader_wants(channels):
    ops = compiled(f"""input %x: f32[2,5,7,{channels}]
const %w: f32[{channels},{channels},3,3] = random
%a = transpose(%x) {{perm=(0, 3, 1, 2)}}
%y = conv(%a, %w) {CONV}
output z = %y""")
    assert ops.startswith(("transpose conv", "transpose winograd_conv"))


def test_leaves_a_plain_tensor_that_is_read_elsewhere():
    ops = compiled(f"""input %x: f32[2,5,7,16]
const %w: f32[16,16,3,3] = random
%a = transpose(%x) {{perm=(0, 3, 1, 2)}}
%y = conv(%a, %w) {CONV}
%s = softmax(%a) {{axis=3}}
output z = %y
output s = %s""")
    assert "transpose" in ops
    assert "reorder" in ops


def test_three_spatial_axes_and_one():
    for rank, extents in ((3, "9"), (5, "3,4,5")):
        spatial = rank - 2
        conv = f"{{strides={(1,) * spatial}, pads={((0, 0),) * spatial}, dilations={(1,) * spatial}, groups=1}}"
        last = (0, *range(2, rank), 1)
        ones = ",".join("1" * spatial)
        ops = compiled(f"""input %x: f32[1,17,{extents}]
const %w: f32[20,17,{ones}] = random
%a = conv(%x, %w) {conv}
%y = transpose(%a) {{perm={last}}}
output z = %y""")
        assert ops.endswith("conv transpose")
