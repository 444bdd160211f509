"""Affine indices: what a remainder by a constant is, and when there is none."""

from __future__ import annotations

import pytest

from glulam.compiler.errors import LoopError
from glulam.compiler.loops.index import Affine, Var


def test_divmod_is_that_of_every_iteration():
    i, j = Var("i", 3), Var("j", 5)
    for const in (-7, -1, 0, 1, 5, 9):
        whole, rest = divmod(i * 4 + j * -2 + const, 2)
        for a in range(i.extent):
            for b in range(j.extent):
                value = sum(k * {i: a, j: b}[v] for v, k in whole.terms.items()) + whole.const
                assert (value, rest) == divmod(4 * a - 2 * b + const, 2)


def test_a_remainder_that_differs_between_iterations_is_refused():
    with pytest.raises(LoopError, match="remainder of i \\+ 4 by 2 is not constant"):
        divmod(Affine.of(Var("i", 3)) + 4, 2)
