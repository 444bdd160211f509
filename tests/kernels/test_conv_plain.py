"""First layers: their images are plain, and have no padding in memory."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from convolutions import TARGETS, case, check
from harness import run_op

import glulam as gl
from glulam.compiler.driver import lower
from glulam.compiler.graph.layout import PLAIN, Layout
from glulam.compiler.graph.types import f32
from glulam.compiler.loops.printer import show_kernel
from glulam.compiler.options import Options
from glulam.compiler.targets import target


@pytest.mark.parametrize("target", TARGETS)
def test_plain_input(target):
    """The first layer reads its input as it is; with groups too."""
    for groups in (1, 3):
        op, arrays = case((1, 3, 6, 7), 9, (3, 3), strides=2, pads=1, groups=groups)
        spans = op.padding(0, [f32(*arrays[0].shape), f32(*arrays[1].shape)]).spans
        for native in (True, False)[: 2 if target == TARGETS[0] else 1]:
            check(op, arrays, target, native, in_layouts=[Layout(1, spans), PLAIN, PLAIN])


BARE = [
    case((1, 3, 5, 80), 20, (3, 11), strides=(1, 4), pads=(1, 2)),
    case((2, 3, 6, 41), 17, (7, 7), strides=2, pads=3, bias=False),
    case((1, 1, 3, 17), 33, (2, 5), pads=((1, 0), (4, 1))),
    case((1, 2, 2, 6), 16, (3, 3), pads=((2, 1), (9, 12)), strides=(1, 2)),  # tiles without taps
    case((1, 3, 1, 31), 5, (1, 4), pads=((0, 0), (7, 3)), dilations=(1, 5)),
    case((1, 3, 37), 16, (5,), pads=2, strides=2),
]


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("number", range(len(BARE)))
def test_plain_input_without_padding(number, target):
    op, arrays = BARE[number]
    for native in (True, False)[: 2 if target == TARGETS[0] else 1]:
        check(op, arrays, target, native, in_layouts=[PLAIN] * len(arrays))


def test_pixels_at_the_edges_of_a_first_layer_share_tiles_with_others():
    net = gl.Sequential([gl.layers.Input((3, 224, 224)), gl.layers.Conv2d(64, 11, 4, 2)])
    steps = lower(net.graph(), Options(target="x86-64-v4", numerics="strict")).steps
    (kernel,) = [step.kernel for step in steps if "conv" in step.kernel.name]
    text = show_kernel(kernel)
    assert [line.split()[-1] for line in text.splitlines() if "tile acc" in line] == ["f32[14,2]"] * 2 + ["f32[13,2]"]


PLAIN_INPUTS = [
    case((2, 3, 9, 13), 20, (3, 3), pads=1),
    case((1, 3, 7, 13), 33, (7, 7), pads=3, strides=2),
    case((1, 1, 1, 1), 5, (3, 3), pads=4),
    case((1, 2, 13, 7), 17, (5, 3), pads=((4, 0), (0, 2)), strides=(3, 1), bias=False),
    case((1, 3, 9, 9), 16, (3, 3), pads=(5, 1), dilations=(2, 3)),
    case((1, 3, 40), 16, (5,), pads=2),
    case((1, 2, 3, 5, 4), 16, (3, 3, 3), pads=(1, 1, 2), strides=(1, 2, 1)),
]


@pytest.mark.parametrize("name", TARGETS)
@pytest.mark.parametrize("constants", [(1, 2), ()])
@pytest.mark.parametrize("number", range(len(PLAIN_INPUTS)))
def test_plain_inputs_need_no_padding_in_memory(number, constants, name):
    """Taps beyond the edges are left out, whether the weights are known at compile time or not."""
    op, arrays = PLAIN_INPUTS[number]
    check(op, arrays, name, True, constants, in_layouts=[PLAIN] * len(arrays))
    padded = run_op(op, arrays, constants, name, in_layouts=[Layout(1, op.pads), *[PLAIN] * (len(arrays) - 1)])
    (bare,) = run_op(op, arrays, constants, name, in_layouts=[PLAIN] * len(arrays))
    np.testing.assert_array_equal(bare, padded[0])


def test_plain_inputs_without_padding_by_the_interpreter():
    for op, arrays in PLAIN_INPUTS[:5]:
        for constants in ((1, 2), ()):
            check(op, arrays, "x86-64-v2", False, constants, in_layouts=[PLAIN] * len(arrays))


@pytest.mark.parametrize("name", TARGETS)
@pytest.mark.parametrize(
    ("extents", "kernel", "how"),
    [
        ((13, 17), (3, 3), {"strides": 2, "pads": 1}),
        ((23, 19), (7, 5), {"strides": (2, 3), "pads": ((3, 1), (2, 0))}),
        ((12, 16), (4, 4), {"strides": 4}),
        ((13, 7), (1, 3), {"strides": (3, 1)}),
        ((11, 13), (3, 3), {"dilations": 2}),
    ],
)
def test_the_next_rows_of_a_plain_image_that_comes_from_afar_are_asked_for(extents, kernel, how, name, prefetched):
    """With the same bits, also where there are no next rows."""
    op, arrays = case((2, 3, *extents), 33, kernel, **how)
    plain = [PLAIN] * 3
    (far,) = run_op(op, arrays, (1, 2), replace(target(name), l1_bytes=1 << 9), in_layouts=plain)
    assert "x" in prefetched
    prefetched.clear()
    (near,) = run_op(op, arrays, (1, 2), replace(target(name), l1_bytes=1 << 20), in_layouts=plain)
    assert "x" not in prefetched
    np.testing.assert_array_equal(far, near)
    np.testing.assert_allclose(far, op.reference(*arrays)[0], rtol=1e-4, atol=5e-5)
