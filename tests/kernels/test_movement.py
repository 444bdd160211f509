"""Slice, Pad, Expand, Tile, Transpose, Gather and plain copies, in plain layout and in channel blocks."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from moves import DTYPES, blocked, check, random

from glulam.compiler.graph.types import TensorType
from glulam.compiler.ops import Dropout, Expand, Gather, Identity, Pad, Reshape, Shape, Slice, Tile, Transpose
from glulam.compiler.ops.movement import ChannelShuffle, DepthToSpace

OPS = (Identity, Dropout, Reshape, Shape, Transpose, Slice, Pad, Expand, Tile, Gather, ChannelShuffle, DepthToSpace)
SPATIAL = ((0, 0), (0, 0))


def cases():
    return [pytest.param(case, id=str(case)[:90]) for op in OPS for case in op.cases()]


@pytest.mark.parametrize("case", cases())
def test_cases(case):
    check(case.op, case.arrays(), constants=case.constants)


@pytest.mark.parametrize("dtype", DTYPES)
def test_dtypes(dtype):
    x = random((3, 18, 21), dtype)
    check(Transpose((2, 0, 1)), [x])
    check(Transpose((1, 2, 0)), [x])
    check(Slice((2, 1, 20), (-1, 2, -3), (3, 8, 7)), [x])
    check(Pad(((1, 0), (2, -3), (0, 4)), value=1.0), [x])
    check(Pad(((0, 0), (2, 3), (7, 4)), "reflect"), [x])
    check(Expand((2, 3, 18, 5)), [x[:, :, :1]])
    check(Tile((2, 1, 3)), [x])
    check(Reshape((18, 63)), [x])
    check(Gather(1), [x, np.array([[0, -1], [17, 99]], np.int32)])
    check(Gather(2), [x, np.array([3, -21, -50, 20], np.int64)], constants=(0, 1))


@pytest.mark.parametrize(
    "shape", [(16, 16), (64, 48), (17, 33), (3, 70), (70, 3), (5, 7), (2, 100), (100, 2), (1, 9), (9, 1), (31, 12)]
)
def test_transposed_matrices(shape):
    check(Transpose((1, 0)), [random(shape)])


@pytest.mark.parametrize("perm", list(itertools.permutations(range(4))))
def test_orders_of_axes(perm):
    check(Transpose(perm), [random((2, 5, 20, 3))])


def test_large_transposes():
    check(Transpose((0, 2, 3, 1)), [random((1, 70, 61, 59))], interpreter=False)
    check(Transpose((0, 3, 1, 2)), [random((1, 61, 59, 70))], interpreter=False)


@pytest.mark.parametrize("step", [-9, -8, -3, -2, -1, 1, 2, 3, 5, 9, 1 << 30])
@pytest.mark.parametrize("length", [1, 6, 40, 100])
def test_steps(step, length):
    size = min(length, 1 + (length - 1) // abs(step))
    for start in {0, length - 1 - (size - 1) * abs(step)}:
        begin = start if step > 0 else start + (size - 1) * abs(step)
        check(Slice((0, begin), (1, step), (2, size)), [random((2, length))])
        check(Slice((0, begin, 0), (1, step, 1), (2, size, 3)), [random((2, length, 3))])


@pytest.mark.parametrize(("halo", "gaps"), [(None, False), ((2, 1), True)])
@pytest.mark.parametrize("channels", [3, 16, 20])
class TestInBlocks:
    @pytest.fixture
    def layouts(self, halo):
        return lambda lanes: ([blocked(4, lanes, (1, 0), 5.0)], [blocked(4, lanes, halo, -1.0)])

    @pytest.mark.parametrize(
        ("starts", "steps", "sizes"),
        [((0, 0, 1, 2), (1, 1, 1, 1), (2, 0, 4, 3)), ((1, 0, 4, 6), (-1, 1, -2, -3), (2, 0, 3, 3))],
    )
    def test_spatial_slice(self, starts, steps, sizes, channels, gaps, layouts):
        sizes = (sizes[0], channels, *sizes[2:])
        check(Slice(starts, steps, sizes), [random((2, channels, 5, 7))], layouts, gaps=gaps)

    @pytest.mark.parametrize(("start", "step"), [(1, 1), (0, 2), (-1, -1), (-1, -3)])
    def test_channel_slice(self, start, step, channels, gaps, layouts):
        start %= channels
        size = len(range(start, channels if step > 0 else -1, step))
        op = Slice((0, start, 0, 0), (1, step, 1, 1), (2, size, 2, 3))
        check(op, [random((2, channels, 2, 3))], layouts, gaps=gaps)

    @pytest.mark.parametrize("mode", ["constant", "reflect", "edge", "wrap"])
    @pytest.mark.parametrize("pads", [((1, 2), (0, 3)), ((-1, 4), (9, -2))])
    def test_pad(self, mode, pads, channels, gaps, layouts):
        check(Pad((*SPATIAL, *pads), mode, 2.5), [random((2, channels, 4, 5))], layouts, gaps=gaps)

    def test_channel_shuffle(self, channels, gaps, layouts):
        for groups in (d for d in range(1, channels + 1) if channels % d == 0):
            check(ChannelShuffle(groups), [random((2, channels, 3, 2))], layouts, gaps=gaps)

    @pytest.mark.parametrize("op", [Identity(), Dropout()])
    def test_identity(self, op, channels, gaps, layouts):
        check(op, [random((2, channels, 2, 3))], layouts, gaps=gaps)


@pytest.mark.parametrize("halo", [None, (1, 2)])
@pytest.mark.parametrize(("strides", "extents", "outputs"), [
    ((2, 2), (3, 5), (6, 10)), ((2, 3), (2, 3), (3, 7)), ((3,), (4,), (12,)), ((4,), (3,), (9,)),
    ((1, 2), (2, 3), (2, 5)), ((2, 2, 2), (1, 2, 2), (2, 4, 3)),
])  # fmt: skip
def test_phases_in_blocks_become_pixels(strides, extents, outputs, halo):
    x = random((2, 32 * math.prod(strides), *extents))

    def layouts(lanes):
        return [blocked(x.ndim, lanes, halo)], [blocked(x.ndim, lanes, halo)]

    check(DepthToSpace(strides, outputs), [x], layouts)


@pytest.mark.parametrize(("channels", "groups"), [(240, 3), (116, 2), (960, 8)])
def test_large_channel_shuffles(channels, groups):
    x = random((1, channels, 7, 7))
    check(ChannelShuffle(groups), [x], lambda lanes: ([blocked(4, lanes)], [blocked(4, lanes)]), interpreter=False)


@pytest.mark.parametrize("mode", ["constant", "reflect", "edge", "wrap"])
@pytest.mark.parametrize("extents", [(1, 1), (2, 3), (5, 4)])
def test_wide_padding(mode, extents):
    """Many times the extent, as tables of places."""
    check(Pad(((0, 1), (9, 8), (20, 19)), mode, 3.0), [random((1, *extents))])


def test_wide_padding_in_blocks():
    pads = (*SPATIAL, (6, 5), (6, 6))
    for mode in ("reflect", "constant"):
        check(
            Pad(pads, mode, 3.0),
            [random((1, 5, 2, 2))],
            lambda lanes: ([blocked(4, lanes)], [blocked(4, lanes, (1, 1))]),
        )


def test_padding_of_nothing():
    check(Pad(((0, 0), (0, 0), (2, 1)), value=4.0), [random((2, 3, 0))])


@pytest.mark.parametrize("shape", [(4, 6), (40, 1), (1, 40), (7, 50)])
def test_gather_rows_of_any_length(shape):
    x = random((3, *shape))
    for axis in range(3):
        check(Gather(axis), [x, np.array([0, -1, 1, 1, -2, 1 << 40, -(1 << 40)], np.int64)])


@pytest.mark.parametrize("operand", [(0,), (1,), (0, 1)])
def test_gather_constants(operand):
    check(Gather(1), [random((2, 9, 3)), np.array([[4], [-4]], np.int32)], constants=operand)


def test_empty():
    check(Transpose((1, 0, 2)), [random((2, 0, 3))])
    check(Slice((0, 1), (1, 1 << 30), (2, 0)), [random((2, 3))])
    check(Tile((0, 2)), [random((2, 3))])
    check(Gather(0), [random((3, 0)), np.array([1], np.int64)])


def test_constant_operands():
    x = random((2, 3, 20))
    for op in (
        Transpose((2, 0, 1)),
        Tile((1, 2, 1)),
        Expand((4, 2, 3, 20)),
        Reshape((120,)),
        Slice((0, 2, 1), (1, -1, 1), (2, 3, 4)),
    ):
        check(op, [x], constants=(0,))


def test_blocks_only_where_the_kernel_serves_them():
    x = random((2, 5, 4, 4))
    for starts, sizes, expected in (
        ((0, 0, 1, 0), (2, 5, 3, 4), "either"),
        ((0, 1, 0, 0), (2, 4, 4, 4), "either"),
        ((0, 1, 1, 0), (2, 4, 3, 4), "plain"),
    ):
        op = Slice(starts, (1, 1, 1, 1), sizes)
        types = [TensorType.of(x)]
        assert op.preference(types, op.infer(*types)).value == expected
