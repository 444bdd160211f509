"""Tensors without elements, and what is computed from nothing else."""

from __future__ import annotations

import numpy as np
import pytest
from executors import check
from rewrites import graph_of, rewrite

from glulam.compiler.passes.fold_empty import FoldEmpty

CONV = "{strides=(1, 1), pads=((0, 0), (0, 0)), dilations=(1, 1), groups=1}"
TRANSPOSED = CONV.replace("groups", "output_padding=(0, 0), groups")


def fold(text):
    return rewrite(text, FoldEmpty(), tolerance=0)


def test_a_result_without_elements_is_known_whatever_the_input():
    result = fold(f"input %x: f32[1,4,8,8]\nconst %w: f32[0,4,3,3] = []\n%y = conv(%x, %w) {CONV}\noutput y = %y")
    assert result.ops == ""
    assert result.graph.outputs["y"].shape == (1, 0, 6, 6)


def test_a_sum_over_no_channels_is_the_bias():
    text = "input %x: f32[1,0,8,8]\nconst %w: f32[2,0,3,3] = []\nconst %b: f32[2] = [3, 5]\n"
    result = fold(f"{text}%y = conv(%x, %w, %b) {CONV}\n%r = relu(%y)\noutput y = %r")
    assert result.ops == "relu"  # of a constant, which is no matter of this pass
    np.testing.assert_array_equal(result.graph.nodes[0].inputs[0].data[0, :, 0, 0], [3, 5])
    assert result.taken == ["y: conv of tensors without elements"]


def test_what_has_elements_stays():
    text = "input %x: f32[2,0]\ninput %z: f32[2,3]\n%c = concat(%x, %z) {axis=1}\noutput y = %c"
    assert fold(text).ops == "concat"


@pytest.mark.parametrize("op", ["conv", "conv_transpose"])
@pytest.mark.parametrize("shape", [(0, 4, 8, 8), (1, 0, 8, 8), (1, 4, 8, 8)], ids=str)
@pytest.mark.parametrize("disable", [(), ("constant_folding",)], ids=["folded", "not folded"])
def test_no_kernel_meets_them(op, shape, disable):
    inner, outer = (shape[1], 0 if shape[1] and shape[0] else 4)
    weight = f"{outer},{inner},3,3" if op == "conv" else f"{inner},{outer},3,3"
    filled = "random" if inner and outer else "[]"
    attributes = CONV if op == "conv" else TRANSPOSED
    graph = graph_of(
        f"input %x: f32[{','.join(map(str, shape))}]\nconst %w: f32[{weight}] = {filled}\n"
        f"%y = {op}(%x, %w) {attributes}\n%r = relu(%y)\noutput y = %r"
    )
    check(graph, {"x": np.ones(shape, np.float32)}, disable=disable)
