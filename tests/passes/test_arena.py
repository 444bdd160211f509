"""Offsets in an arena: nothing alive is overwritten, and halves stay with the thread that wrote them."""

from __future__ import annotations

from itertools import combinations

import hypothesis.strategies as st
from hypothesis import given

from glulam.compiler.passes.arena import Tenant, arrange


@st.composite
def tenants(draw):
    found = []
    for key in range(draw(st.integers(0, 12))):
        birth = draw(st.integers(0, 8))
        size = draw(st.integers(0, 1000))
        middle = draw(st.none() | st.integers(0, size))
        found.append(Tenant(key, size, birth, draw(st.integers(birth, 9)), middle))
    return found


@given(tenants(), st.booleans())
def test_what_lives_together_does_not_overlap(found, for_partners):
    offsets, size = arrange(found, for_partners)
    assert all(offset >= 0 and offset % 64 == 0 for offset in offsets.values())
    assert all(offsets[each.key] + each.size <= size for each in found)
    for a, b in combinations(found, 2):
        if a.birth <= b.death and b.birth <= a.death:
            low, high = sorted((a, b), key=lambda each: offsets[each.key])
            assert not low.size or not high.size or offsets[low.key] + low.size <= offsets[high.key]


def test_the_lowest_place_that_is_free():
    found = [Tenant("a", 640, 0, 1, 320), Tenant("b", 320, 1, 2, 160), Tenant("c", 256, 2, 3, 128)]
    assert arrange(found) == ({"a": 0, "b": 640, "c": 0}, 960)


def test_middles_lie_on_each_other():
    found = [Tenant("a", 6400, 0, 1, 3200), Tenant("b", 1280, 2, 3, 640)]
    assert arrange(found, for_partners=True) == ({"a": 0, "b": 3200 - 640}, 6400)


def test_what_is_written_in_no_halves_has_memory_of_its_own_where_others_come_back():
    halves = [Tenant(f"a{i}", 640, i, i, 320) for i in range(8)]
    mixed = [Tenant(f"m{i}", 640, i, i) for i in range(8)]
    offsets, size = arrange([*halves, *mixed], for_partners=True)
    assert size == 1280
    assert len({offsets[each.key] for each in halves}) == len({offsets[each.key] for each in mixed}) == 1
    assert offsets["a0"] != offsets["m0"]
