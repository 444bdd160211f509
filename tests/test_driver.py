"""The way from a graph to an artifact as a whole: what it leaves alone, and that it gives the same every time."""

from __future__ import annotations

import gc
import os
import sys
import threading

import numpy as np
import pytest

from glulam.compiler import driver
from glulam.compiler.driver import build_artifact
from glulam.compiler.errors import TargetError, UnsupportedError
from glulam.compiler.graph.graph import Graph
from glulam.compiler.graph.types import f32
from glulam.compiler.interpreter import quick_switches, without_collector
from glulam.compiler.ops import Conv, Relu
from glulam.compiler.options import Options
from glulam.runtime.cpu import host_architecture


def network():
    graph = Graph()
    x = graph.input("x", f32(1, 3, 9, 9))
    w = graph.constant(np.random.default_rng(0).standard_normal((17, 3, 3, 3), dtype=np.float32))
    graph.output("y", graph.apply(Relu(), graph.apply(Conv((1, 1), ((1, 1), (1, 1)), (1, 1)), x, w, None)))
    return graph


@pytest.fixture(params=[True, False], ids=["collected", "uncollected"])
def collector(request):
    was = gc.isenabled()
    (gc.enable if request.param else gc.disable)()
    yield request.param
    (gc.enable if was else gc.disable)()


def test_the_collector_is_as_it_was(collector):
    build_artifact(network(), Options())
    assert gc.isenabled() is collector


def test_the_collector_is_as_it_was_after_an_error(collector):
    def failing():
        with without_collector():
            assert not gc.isenabled()
            raise UnsupportedError("no kernel")

    with pytest.raises(UnsupportedError):
        failing()
    assert gc.isenabled() is collector


def test_the_same_graph_gives_the_same_artifact():
    one, two = (build_artifact(network(), Options(cache=False)) for _ in range(2))
    assert one.object_code == two.object_code
    assert one.graph_text == two.graph_text
    np.testing.assert_array_equal(one.weights, two.weights)


def test_threads_switch_as_before_afterwards():
    before = sys.getswitchinterval()
    try:
        for seconds in (0.005, 0.0001):
            sys.setswitchinterval(seconds)
            wanted = sys.getswitchinterval()
            with quick_switches():
                assert sys.getswitchinterval() <= wanted
            with pytest.raises(UnsupportedError), quick_switches():
                raise UnsupportedError("no")
            build_artifact(network(), Options())
            assert sys.getswitchinterval() == wanted
    finally:
        sys.setswitchinterval(before)


def test_compilations_that_overlap_leave_the_switch_interval_as_it_was():
    before = sys.getswitchinterval()
    first, second = threading.Event(), threading.Event()

    def begins_and_ends_first():
        with quick_switches():
            first.set()
            second.wait(20)

    thread = threading.Thread(target=begins_and_ends_first)
    thread.start()
    first.wait(20)
    with quick_switches():
        second.set()
        thread.join()
        assert sys.getswitchinterval() < before
    assert sys.getswitchinterval() == before


@pytest.mark.skipif(not hasattr(os, "fork"), reason="nothing forks here")
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("forks_itself", [True, False])
def test_a_child_that_is_forked_during_a_compilation_has_the_settings_of_before(collector, forks_itself):
    before = sys.getswitchinterval()
    inside, done = threading.Event(), threading.Event()

    def compilation():
        with without_collector(), quick_switches():
            inside.set()
            assert done.wait(20)

    def as_before():
        return gc.isenabled() is collector and sys.getswitchinterval() == before

    def child():
        if not as_before():
            return 1
        with without_collector(), quick_switches():
            if gc.isenabled():
                return 2
        return 0 if as_before() else 3

    def status():
        if forks_itself:
            with without_collector(), quick_switches():
                if pid := os.fork():
                    return os.waitpid(pid, 0)[1]
                if not as_before():
                    os._exit(4)
        elif pid := os.fork():
            return os.waitpid(pid, 0)[1]
        os._exit(child())

    other = threading.Thread(target=compilation)
    other.start()
    try:
        assert inside.wait(20)
        assert os.waitstatus_to_exitcode(status()) == 0
    finally:
        done.set()
        other.join()
    assert as_before()


def test_a_target_that_this_machine_cannot_execute_is_refused_before_it_is_compiled(monkeypatch):
    graph = Graph("g")
    graph.output("y", graph.apply(Relu(), graph.input("x", f32(4))))
    monkeypatch.setattr(driver, "build_artifact", lambda *_: pytest.fail("it was compiled"))
    foreign = "x86-64-v2" if host_architecture() == "aarch64" else "aarch64"
    with pytest.raises(TargetError, match="compile --target"):
        driver.compile_graph(graph, Options(target=foreign))
