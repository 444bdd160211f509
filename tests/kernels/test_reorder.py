"""Reorder between plain tensors and channel blocks, with and without halo, in all element types."""

from __future__ import annotations

import numpy as np
import pytest
from moves import DTYPES, blocked, check, random

import glulam as gl
from glulam.benchmarks.sharing import simulate
from glulam.compiler.driver import lower
from glulam.compiler.graph.layout import PLAIN, Layout
from glulam.compiler.ops.reorder import Reorder
from glulam.compiler.options import Options

SHAPES = [
    (1, 3, 20, 40),
    (2, 16, 7, 7),
    (2, 17, 3, 3),
    (1, 33, 5, 18),
    (2, 5, 1, 1),
    (1, 40, 1, 1),
    (2, 20, 2, 3),
    (1, 1, 4, 16),
    (1, 19, 37),
    (2, 8, 3),
    (1, 18, 2, 3, 17),
    (0, 3, 4, 4),
    (20, 5, 1, 1),
    (2, 0, 3, 3),
]


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("halo", [None, (1, 2)])
@pytest.mark.parametrize("gaps", [False, True])
def test_both_ways(shape, halo, gaps):
    x = random(shape)
    rank = len(shape)
    check(Reorder(16), [x], lambda lanes: ([PLAIN], [blocked(rank, lanes, halo, -np.inf)]), gaps=gaps)
    check(Reorder(1), [x], lambda lanes: ([blocked(rank, lanes, halo, 3.0)], [PLAIN]), gaps=gaps)


@pytest.mark.parametrize("shape", [(1, 19, 4, 5), (2, 3, 3, 20), (1, 4, 7)])
def test_another_halo(shape):
    x, rank = random(shape), len(shape)
    spans = ((2, 0), (0, 3))[: rank - 2]
    check(Reorder(16), [x], lambda lanes: ([blocked(rank, lanes, (1, 0))], [blocked(rank, lanes, spans, 1.0)]))
    check(Reorder(16), [x], lambda lanes: ([blocked(rank, lanes, (1, 0))], [blocked(rank, lanes)]), gaps=True)
    check(Reorder(1), [x], lambda lanes: ([PLAIN], [Layout(1, spans, -1.0)]))
    check(Reorder(1), [x], lambda lanes: ([Layout(1, spans, -1.0)], [PLAIN]))


@pytest.mark.parametrize(
    "shape", [(2, 35, 32, 32), (1, 16, 2048), (1, 33, 4, 16, 32), (1, 20, 64, 48), (1, 17, 32, 64)]
)
def test_rows_a_multiple_of_a_page_apart(shape):
    """They go through a buffer; of 48 columns and more, or several blocks, there is a rest."""
    x = random(shape)
    check(Reorder(1), [x], lambda lanes: ([blocked(len(shape), lanes, (1, 1))], [PLAIN]), gaps=True)
    check(Reorder(16), [x], lambda lanes: ([PLAIN], [blocked(len(shape), lanes)]))


def test_small_elements_a_multiple_of_a_page_apart():
    for dtype, rows in ((np.float16, 32), (np.int8, 64), (np.float64, 16)):
        x = random((1, 32, rows, 64), dtype)
        check(Reorder(1), [x], lambda lanes: ([blocked(4, lanes)], [PLAIN]))


@pytest.mark.parametrize("dtype", DTYPES)
def test_dtypes(dtype):
    for shape in ((1, 19, 3, 20), (2, 4, 2, 3)):
        x = random(shape, dtype)
        check(Reorder(16), [x], lambda lanes: ([PLAIN], [blocked(4, lanes, (1, 1))]))
        check(Reorder(1), [x], lambda lanes: ([blocked(4, lanes, (1, 1))], [PLAIN]))
        check(Reorder(16), [x], lambda lanes: ([blocked(4, lanes, (0, 2))], [blocked(4, lanes, (1, 1))]))


def test_constants():
    x = random((1, 19, 3, 20))
    check(Reorder(16), [x], lambda lanes: ([PLAIN], [blocked(4, lanes, (1, 1))]), constants=(0,))


def test_large():
    for shape in ((1, 64, 57, 56), (1, 3, 150, 160), (1, 100, 14, 14)):
        x = random(shape)
        check(Reorder(16), [x], lambda lanes: ([PLAIN], [blocked(4, lanes, (1, 1))]), interpreter=False)
        check(Reorder(1), [x], lambda lanes: ([blocked(4, lanes, (1, 1))], [PLAIN]), interpreter=False)


@pytest.mark.parametrize("height", [40, 41])
def test_two_threads_copy_the_rows_that_they_computed(height):
    """Not more than a row is another one's, in the middle of an odd number of them."""
    net = gl.Sequential([gl.layers.Input((96, height, 20)), gl.layers.MaxPool2d(3, 1, 1)])
    program = lower(net.graph(), Options(threads=2))
    assert "reorder" in program.steps[-1].kernel.name
    shared = simulate(program, 2)[-1]
    assert shared.met > 0
    assert shared.read <= height % 2 * 96 * 20 * 4
