"""Concat, Split and the selection of channels, plain and in channel blocks."""

from __future__ import annotations

import numpy as np
import pytest
from moves import DTYPES, Lowering, blocked, check, random

from glulam.compiler.graph.layout import PLAIN
from glulam.compiler.ops import Concat, Split


@pytest.mark.parametrize("op", [Concat, Split])
def test_cases(op):
    for case in op.cases():
        check(case.op, case.arrays(), constants=case.constants)


@pytest.mark.parametrize("dtype", DTYPES)
def test_dtypes(dtype):
    check(Concat(1), [random((3, 5, 7), dtype), random((3, 2, 7), dtype, 1), random((3, 19, 7), dtype, 2)])
    check(Split(2, (3, 17, 1)), [random((2, 3, 21), dtype)])


@pytest.mark.parametrize("axis", range(4))
@pytest.mark.parametrize("sizes", [(1,), (3, 4), (16, 1, 0, 33), (5, 5, 5)])
def test_plain(axis, sizes):
    shapes = [[2, 3, 2, 5] for _ in sizes]
    for shape, size in zip(shapes, sizes, strict=True):
        shape[axis] = size
    check(Concat(axis), [random(shape, seed=i) for i, shape in enumerate(shapes)])
    whole = [2, 3, 2, 5]
    whole[axis] = sum(sizes)
    check(Split(axis, sizes), [random(whole)])


@pytest.mark.parametrize("sizes", [(1, 1), (1,) * 8, (1,) * 9, (3, 1, 17), (4, 1, 80), (1, 40)])
@pytest.mark.parametrize("rows", [1, 7, 313])
def test_short_pieces_side_by_side(sizes, rows):
    """Records of a field from each input, or of some; one of them known at compile time."""
    inputs = [random((2, rows, size), seed=i) for i, size in enumerate(sizes)]
    check(Concat(2), inputs, constants={1})
    check(Concat(1), [i.reshape(2 * rows, -1) for i in inputs])


@pytest.mark.parametrize("sizes", [(1,) * 8, (3, 5)])
def test_threads_write_no_common_cache_lines(sizes):
    """But at the ends of what each has: all inputs of a record are copied in one iteration."""
    kernel = Lowering(Concat(2), [random((1, 4096, size)) for size in sizes], ([PLAIN] * len(sizes), [PLAIN])).kernel
    assert len(kernel.sections) == 1


def test_long_rows():
    check(Concat(1), [random((1, 70001), seed=i) for i in range(2)], interpreter=False)


@pytest.mark.parametrize("sizes", [(3, 5), (16, 16), (1, 1, 1), (17, 2, 40), (33, 1), (5,), (12,) * 8])
@pytest.mark.parametrize(("halo", "gaps"), [(None, False), ((1, 2), True)])
def test_channels_in_blocks(sizes, halo, gaps):
    spatial = (3, 4)
    inputs = [random((2, size, *spatial), seed=i) for i, size in enumerate(sizes)]
    whole = random((2, sum(sizes), *spatial))

    def layouts(lanes):
        return [blocked(4, lanes, (0, 1) if i == 0 else None) for i in range(len(sizes))], [
            blocked(4, lanes, halo, -np.inf)
        ]

    check(Concat(1), inputs, layouts, gaps=gaps)
    check(Split(1, sizes), [whole], lambda lanes: layouts(lanes)[::-1], gaps=gaps)


@pytest.mark.parametrize("rank", [3, 5])
def test_other_ranks_in_blocks(rank):
    inputs = [random((1, size, *(3, 2, 5)[: rank - 2]), seed=i) for i, size in enumerate((7, 20))]
    check(Concat(1), inputs, lambda lanes: ([blocked(rank, lanes)] * 2, [blocked(rank, lanes, (1, 0))]))


def test_the_same_input_twice_in_blocks():
    x = random((2, 16, 3, 3))
    check(Concat(1), [x, x], lambda lanes: ([blocked(4, lanes)] * 2, [blocked(4, lanes)]))


def test_single_channels_may_be_plain():
    inputs = [random((2, 5, 3, 3)), random((2, 1, 3, 3), seed=1), random((2, 1, 3, 3), seed=2)]
    check(Concat(1), inputs, lambda lanes: ([blocked(4, lanes), PLAIN, blocked(4, lanes)], [blocked(4, lanes, (1, 1))]))


def test_constants_in_blocks():
    inputs = [random((2, 5, 3, 3)), random((2, 20, 3, 3), seed=1), random((2, 1, 3, 3), seed=2)]
    check(Concat(1), inputs, lambda lanes: ([blocked(4, lanes), PLAIN, PLAIN], [blocked(4, lanes)]), constants=(1, 2))
    check(Concat(2), inputs[:1] * 2, lambda lanes: ([blocked(4, lanes), PLAIN], [blocked(4, lanes)]), constants=(1,))


@pytest.mark.parametrize("axis", [0, 2, 3])
def test_other_axes_in_blocks(axis):
    shapes = [[2, 19, 2, 5] for _ in range(3)]
    for shape, size in zip(shapes, (1, 3, 2), strict=True):
        shape[axis] = size

    def layouts(lanes):
        return [blocked(4, lanes, (1, 1)), blocked(4, lanes), blocked(4, lanes)], [blocked(4, lanes, (2, 1))]

    check(Concat(axis), [random(shape, seed=i) for i, shape in enumerate(shapes)], layouts, gaps=True)
    whole = [2, 19, 2, 5]
    whole[axis] = 6
    check(Split(axis, (1, 3, 2)), [random(whole)], lambda lanes: layouts(lanes)[::-1], gaps=True)
