"""Constants that are computed later: by whom, how often, and what is known of them before."""

from __future__ import annotations

import threading

import numpy as np
import pytest

from glulam.compiler.errors import GraphError
from glulam.compiler.graph.deferred import Deferred, compute_aside
from glulam.compiler.graph.graph import Graph, Value
from glulam.compiler.graph.types import f32
from glulam.compiler.graph.verify import verify
from glulam.compiler.ops import Add


class Counted:
    def __init__(self, *shape):
        self.calls = 0
        self.shape = shape

    def __call__(self):
        self.calls += 1
        return np.full(self.shape, 3, np.float32)


def graph_of(deferred):
    graph = Graph("late")
    value = graph.constant(deferred, "late")
    graph.output("y", graph.apply(Add(), graph.input("x", f32(2, 3)), value))
    return graph, value


def test_nothing_is_computed_before_somebody_reads():
    compute = Counted(2, 3)
    graph, value = graph_of(Deferred(f32(2, 3), compute))
    verify(graph)
    twin = graph.copy()
    assert value.is_constant
    assert value.type == f32(2, 3)
    assert compute.calls == 0
    np.testing.assert_array_equal(value.data, np.full((2, 3), 3))
    assert next(iter(twin.constants())).data is value.data
    assert compute.calls == 1


def test_threads_share_one_computation():
    compute = Counted(1000)
    deferred = Deferred(f32(1000), compute)
    compute_aside([deferred])
    found = []
    threads = [threading.Thread(target=lambda: found.append(deferred.array())) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert compute.calls == 1
    assert all(array is deferred.array() for array in found)


def test_a_constant_of_another_type_than_its_value_breaks_the_graph():
    graph, value = graph_of(Deferred(f32(2, 3), Counted(2, 3)))
    value.type = f32(3, 2)
    with pytest.raises(GraphError, match=r"%late is f32\[3,2\], but its data will be f32\[2,3\]"):
        verify(graph)


def test_another_thread_may_put_the_array_in_its_place_between_any_two_steps():
    array = np.zeros((2, 3), np.float32)

    class Raced(Value):
        """Whoever looks a second time finds what another thread has stored."""

        @property
        def _data(self):
            now, self.index = self.index, 1
            return array if now else Deferred(f32(2, 3), lambda: array)

        @_data.setter
        def _data(self, data):
            pass

    assert Raced("late", f32(2, 3)).data is array
    assert isinstance(Raced("late", f32(2, 3)).deferred, Deferred)
