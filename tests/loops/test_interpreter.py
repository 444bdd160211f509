"""The interpreter refuses what the verifier does, at the iteration where it happens, and changes nothing else."""

from __future__ import annotations

import numpy as np
import pytest

from glulam.compiler.errors import LoopError
from glulam.compiler.graph.types import DType
from glulam.compiler.loops.builder import Builder
from glulam.compiler.loops.index import Bounded
from glulam.compiler.loops.interpreter import interpret
from glulam.compiler.loops.ir import Access

ROWS, COLUMNS = 3, 8


def kernel(build):
    """`build` fills a builder that has buffers x (read) and y (written)."""
    b = Builder("kernel")
    build(b, b.param("x", (ROWS, COLUMNS)), b.param("y", (ROWS, COLUMNS), Access.WRITE))
    return b.kernel()


def arguments():
    size = ROWS * COLUMNS
    return {"x": np.arange(size, dtype=np.float32), "y": np.full(size, -1, np.float32)}


@pytest.mark.parametrize("column", [lambda i, j: j + i, lambda i, j: j - i], ids=["behind", "before"])
@pytest.mark.parametrize("reads", [True, False], ids=["load", "store"])
def test_an_access_that_leaves_its_buffer(column, reads):
    def build(b, x, y):
        with b.section(i=2) as (i,), b.vector("j", 8) as j:
            b.store(y[i, j if reads else column(i, j)], x[i, column(i, j) if reads else j])

    arrays = arguments()
    with pytest.raises(LoopError, match=f"leaves buffer {'x' if reads else 'y'}"):
        interpret(kernel(build), arrays)
    np.testing.assert_array_equal(arrays["y"], [*range(COLUMNS), *[-1] * 2 * COLUMNS])  # the first row is inside


def test_an_index_computed_beyond_the_buffer():
    def build(b, x, y):
        which = b.param("which", (3,), dtype=DType.I64)
        with b.section(i=3, j=8) as (i, j):
            b.store(y[i, j], x[Bounded(which[i], 5), j])

    arrays = arguments()
    interpret(kernel(build), arrays | {"which": np.array([2, -7, 1])})  # -7 is clamped
    np.testing.assert_array_equal(arrays["y"].reshape(ROWS, COLUMNS)[:, 0], [16, 0, 8])
    with pytest.raises(LoopError, match="leaves buffer x"):
        interpret(kernel(build), arrays | {"which": np.array([2, 4, 1])})


def test_a_tile_read_before_it_is_written():
    def build(b, x, y):
        with b.section(i=3) as (i,), b.vector("j", 8) as j:
            acc = b.tile("acc", 2)
            b.store(acc[0], x[i, j])
            b.store(y[i, j], acc[1])

    with pytest.raises(LoopError, match="acc is read before"):
        interpret(kernel(build), arguments())


def test_a_tile_is_undefined_again_in_the_next_iteration():
    def build(b, x, y):
        with b.section(i=3) as (i,), b.vector("j", 8) as j, b.serial("k", 2):
            acc = b.tile("acc", 1)
            b.store(y[i, j], acc[0])
            b.store(acc[0], x[i, j])

    with pytest.raises(LoopError, match="acc is read before"):
        interpret(kernel(build), arguments())


def test_a_short_argument():
    def build(b, x, y):
        with b.section(i=3, j=8) as (i, j):
            b.store(y[i, j], x[i, j])

    with pytest.raises(LoopError, match="y must be flat with at least 24"):
        interpret(kernel(build), arguments() | {"y": np.zeros(23, np.float32)})
