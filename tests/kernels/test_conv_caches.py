"""Convolutions whose images, weights or sums outgrow a cache."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from convolutions import TARGETS, case, check, lowered
from harness import run_op

from glulam.compiler.targets import target


@pytest.mark.parametrize("name", TARGETS)
def test_images_beyond_the_cache_are_done_in_chunks(name):
    # Two chunks and a rest of tiles, and a rest of pixels; the image exceeds half of each target's second-level cache.
    check(*case((1, 40, 61, 59), 80, (1, 1)), name, native=True)


DEEP = [
    case((2, 85, 5, 7), 36, (3, 3), pads=((2, 1), (0, 3))),
    case((1, 130, 9, 5), 50, (3, 3), pads=1, strides=2, bias=False),
    case((1, 1500, 6, 5), 33, (1, 1)),
    case((1, 160, 4, 9), 32, (3, 3), pads=((3, 2), (2, 2)), dilations=2, groups=2),
    case((1, 70, 3, 3, 4), 17, (2, 3, 3), pads=1),
    case((1, 900, 40), 16, (1,)),
]


@pytest.mark.parametrize("name", TARGETS)
@pytest.mark.parametrize("threads", [1, 2, 5])
@pytest.mark.parametrize("number", range(len(DEEP)))
def test_long_sums_are_added_part_by_part_with_the_same_bits(number, threads, name):
    """Where a group's weights outgrow the cache, all tiles of an iteration meet a part of them before the next part."""
    op, arrays = DEEP[number]
    small = replace(target(name), l2_bytes=1 << 15, threads=threads)
    (deep,) = run_op(op, arrays, (1, 2), small, native=True)
    (wanted,) = op.reference(*arrays)
    np.testing.assert_allclose(deep, wanted, rtol=1e-4, atol=5e-5)
    (shallow,) = run_op(op, arrays, (1, 2), replace(small, l2_bytes=1 << 30), native=True)
    np.testing.assert_array_equal(deep, shallow)


def test_long_sums_by_the_interpreter():
    op, (x, *constants) = DEEP[0]
    machine = replace(target("x86-64-v2"), l2_bytes=1 << 15)
    assert lowered(op, [x[:1], *constants], machine).kernel.scratch_bytes, "sums wait in memory"
    check(op, [x[:1], *constants], machine, native=False)


def test_which_sums_are_added_part_by_part():
    def scratch(x, outs, kernel, **more):
        op, arrays = case(x, outs, kernel, **more)
        return lowered(op, arrays, replace(target("x86-64-v4"), l2_bytes=1 << 18)).kernel.scratch_bytes

    one_tile = 9 * 3 * 64
    assert scratch((1, 48, 7, 7), 96, (3, 3), pads=1) == 0, "one part"
    assert scratch((1, 128, 7, 7), 16, (3, 3), pads=1) <= one_tile, "a part of the cache has room for the weights"
    assert scratch((1, 1024, 1, 7), 48, (1, 1)) <= one_tile, "one tile"
    assert scratch((1, 128, 7, 7), 48, (3, 3), pads=1) == 7 * 7 * 3 * 64
    assert scratch((1, 1024, 7, 7), 48, (1, 1)) == 7 * 7 * 3 * 64


FAR = [
    (case((2, 70, 9, 13), 50, (1, 1)), {"x", "w"}),
    (case((1, 130, 13, 7), 33, (1, 1), strides=(2, 3), bias=False), {"x", "w"}),
    (case((1, 17, 300), 49, (1,)), {"x", "w"}),
    (case((1, 96, 1, 7), 32, (1, 1), groups=2), {"x", "w"}),
    (case((1, 90, 5, 7), 40, (3, 3), pads=((2, 0), (1, 1))), {"w"}),
    (case((1, 3, 13, 13), 64, (3, 3), strides=2), {"w"}),
]


@pytest.mark.parametrize("name", TARGETS)
@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("number", range(len(FAR)))
def test_what_a_slow_cache_sends_is_asked_for_ahead_with_the_same_bits(number, threads, name, prefetched):
    (op, arrays), wanted = FAR[number]
    machine = replace(target(name), threads=threads)
    (slow,) = run_op(op, arrays, (1, 2), replace(machine, l3_rate=1.0, l1_bytes=1 << 10), native=True)
    assert prefetched == wanted
    (fast,) = run_op(op, arrays, (1, 2), replace(machine, l3_rate=64.0, l1_bytes=1 << 10), native=True)
    np.testing.assert_array_equal(slow, fast)
    (expected,) = op.reference(*arrays)
    np.testing.assert_allclose(slow, expected, rtol=1e-4, atol=5e-5)


@pytest.mark.parametrize("name", TARGETS)
def test_an_image_that_comes_from_a_slow_cache_again_and_again_is_gone_through_part_by_part(name):
    op, arrays = case((1, 96, 40, 40), 130, (3, 3), pads=1)
    machine = replace(target(name), l2_bytes=arrays[0].nbytes + (1 << 14), l3_rate=64.0)
    (fast,) = run_op(op, arrays, (1, 2), machine, native=True)
    (slow,) = run_op(op, arrays, (1, 2), replace(machine, l3_rate=1.0), native=True)
    np.testing.assert_array_equal(slow, fast)
    kernels = [lowered(op, arrays, each).kernel for each in (machine, replace(machine, l3_rate=1.0))]
    assert kernels[0].scratch_bytes < kernels[1].scratch_bytes
