"""The table of uses after any patches is that of a graph read anew, and passes cost what they change."""

from __future__ import annotations

import sys
from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import glulam as gl
from glulam.compiler.driver import lower, optimise
from glulam.compiler.graph.graph import Graph
from glulam.compiler.graph.patch import Patch
from glulam.compiler.graph.types import f32
from glulam.compiler.graph.uses import Uses
from glulam.compiler.graph.verify import verify
from glulam.compiler.options import Options
from toy_ops import Note, Plus

ZEROS = np.zeros(4, np.float32)


def same(uses: Uses) -> None:
    """Compare with a table made from scratch."""
    fresh, graph = Uses(uses.graph), uses.graph
    assert uses.nodes == fresh.nodes
    assert uses.values == fresh.values
    assert [uses.place(uses.rank(node)) for node in graph.nodes] == list(range(len(graph.nodes)))
    assert all(node in uses for node in graph.nodes)
    for value in graph.values():
        assert Counter(uses.users(value)) == Counter(fresh.users(value))
        assert uses.is_output(value) == fresh.is_output(value)
        assert uses.shared_because(value) == fresh.shared_because(value)


@given(st.data())
def test_patches_keep_the_table(data):
    graph = Graph()
    values = [graph.input("x", f32(4)), graph.input("y", f32(4)), graph.constant(ZEROS)]
    some = st.integers(0, 10**6)
    for i in range(data.draw(st.integers(1, 8))):
        a, b = (values[data.draw(some) % len(values)] for _ in range(2))
        values.append(graph.apply(Plus(), a, b) if data.draw(st.booleans()) else graph.apply(Note(i), a))
    for i in range(3):
        graph.output(f"out{i}", values[data.draw(some) % len(values)])
    uses = Uses(graph)
    for number in range(data.draw(st.integers(1, 6))):
        patch = Patch(graph, "try", at="there")
        living = list(graph.values())
        old = living[data.draw(some) % len(living)]
        below = depending(graph, old)
        sources = [value for value in living if value not in below] or [graph.inputs["x"]]
        new = sources[data.draw(some) % len(sources)]
        if old in graph.inputs.values():
            continue
        kind = data.draw(st.integers(0, 3))
        if kind == 0:
            patch.replace(old, new)
        elif kind == 1:
            patch.replace(old, patch.apply(Note(number), new, name=data.draw(st.sampled_from([None, "n", old.name]))))
        elif kind == 2:
            patch.replace(old, patch.apply(Plus(), patch.apply(Note(number), new), patch.constant(ZEROS, "zero")))
        else:
            patch.replace(old, patch.apply(Note(number), old, name="behind"))
        patch.commit(uses)
        verify(graph)
        same(uses)


def depending(graph, value):
    """The value, and all that is computed from it."""
    found = {value}
    for node in graph.nodes:
        if not found.isdisjoint(node.inputs):
            found.update(node.outputs)
    return found


def test_a_node_is_found_after_many_have_been_put_at_one_place():
    graph = Graph()
    last = graph.apply(Note(0), graph.input("x", f32(4)))
    graph.output("y", last)
    uses = Uses(graph)
    for number in range(100):
        patch = Patch(graph, "one more in front")
        node = uses.users(graph.inputs["x"])[0]
        between = patch.apply(Note(number), graph.inputs["x"])
        patch.replace(node.output, patch.apply(Note(1000 + number), between))
        patch.commit(uses)
    same(uses)


@pytest.mark.parametrize("stage", [optimise, lambda graph, options: lower(graph, options)])
def test_compilation_grows_linearly_with_the_layers(stage):
    """Counted in calls of Python functions, which do not depend on the clock."""

    def calls(layers):
        stack = [gl.layers.Input((16, 8, 8))]
        for i in range(layers):
            stack += [gl.layers.Conv2d(32 if i % 2 else 16, 3, padding=1), gl.layers.BatchNorm(), gl.layers.ReLU()]
        graph, count = gl.Sequential(stack).graph(), 0

        def tick(frame, event, arg):
            nonlocal count
            count += event == "call"

        sys.setprofile(tick)
        try:
            stage(graph, Options())
        finally:
            sys.setprofile(None)
        return count

    calls(8)
    few, many = calls(40), calls(160)
    assert many < 4.4 * few
