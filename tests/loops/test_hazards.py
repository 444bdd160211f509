"""Dependences between steps: each pair that shares bytes is ordered, no other pair is, for any steps."""

from itertools import combinations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from glulam.compiler.graph.types import DType
from glulam.compiler.loops.hazards import dependences
from glulam.compiler.loops.ir import Access, Buffer, Kernel
from glulam.compiler.loops.program import Ref, Step
from glulam.runtime.foreign import Foreign
from glulam.runtime.manifest import TensorSpec

READ, WRITE, UPDATE = Access.READ, Access.WRITE, Access.UPDATE


def step(*operands, parts=1, strides=(), foreign=None):
    """Operands are (access, offset, bytes), in the arena, or with the space in front."""
    places = [operand if len(operand) == 4 else ("arena", *operand) for operand in operands]
    params = [Buffer(f"b{i}", DType.U8, (size,), (1,), access) for i, (_, access, _, size) in enumerate(places)]
    refs = tuple(Ref(space, 0, offset) for space, _, offset, _ in places)
    kernel = Kernel("k", tuple(params), (), ())
    return Step(kernel, refs, 1, "", 0, 0, foreign, parts=parts, strides=strides)


def test_the_three_kinds_of_hazard():
    first = step((WRITE, 0, 64), (READ, 64, 64))
    assert dependences([first, step((READ, 60, 8))]) == [(), (0,)], "read after write"
    assert dependences([first, step((WRITE, 100, 4))]) == [(), (0,)], "write after read"
    assert dependences([first, step((UPDATE, 63, 1))]) == [(), (0,)], "write after write"
    assert dependences([first, step((READ, 64, 64))]) == [(), ()], "both only read"
    assert dependences([first, step((WRITE, 128, 64))]) == [(), ()], "other bytes"
    assert dependences([first, step(("output", WRITE, 0, 64))]) == [(), ()], "other memory"


def test_weights_and_what_has_no_elements_are_nobodys():
    assert dependences([step(("weights", READ, 0, 8), (WRITE, 0, 0)), step((READ, 0, 8))]) == [(), ()]


def test_branches_depend_on_their_own_steps_and_the_join_on_both():
    stem, left, right = step((WRITE, 0, 8)), step((READ, 0, 8), (WRITE, 8, 8)), step((READ, 0, 8), (WRITE, 16, 8))
    join = step((READ, 8, 16), (WRITE, 0, 8))
    assert dependences([stem, left, right, join]) == [(), (0,), (0,), (0, 1, 2)]


def test_an_operand_covers_all_parts():
    parts = step((WRITE, 0, 8), parts=3, strides=(100,))
    assert dependences([parts, step((READ, 204, 8))]) == [(), (0,)]
    assert dependences([parts, step((READ, 208, 8))]) == [(), ()]


def test_external_functions_keep_their_order():
    spec = (TensorSpec("x", "uint8", (1,)),)
    function = Foreign("f", spec, spec, address=1)
    first, second = (step((READ, i, 1), (WRITE, i + 8, 1), foreign=function) for i in (0, 1))
    assert dependences([first, step((WRITE, 99, 1)), second]) == [(), (), (0,)]


@pytest.mark.parametrize("most", [12, 40])
@given(st.data())
def test_any_steps(most, data):
    place = st.tuples(st.sampled_from([READ, WRITE, UPDATE]), st.integers(0, 24), st.integers(1, 8))
    drawn = data.draw(st.lists(st.lists(place, min_size=1, max_size=3), max_size=most))
    found = dependences([step(*operands) for operands in drawn])
    complete = []
    for number, direct in enumerate(found):
        complete.append(set(direct).union(*(complete[other] for other in direct)))
        assert all(conflict(drawn[other], drawn[number]) for other in direct)
    for first, second in combinations(range(len(drawn)), 2):
        assert first in complete[second] or not conflict(drawn[first], drawn[second])


def conflict(first, second):
    pairs = ((a, b) for a in first for b in second if a[0] is not READ or b[0] is not READ)
    return any(i < j + m and j < i + n for (_, i, n), (_, j, m) in pairs)
