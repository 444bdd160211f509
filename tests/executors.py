"""One graph through every executor: its numpy reference, the loop interpreter, and native code."""

from __future__ import annotations

import heapq
from dataclasses import replace

import numpy as np

from glulam.compiler import driver
from glulam.compiler.graph.evaluate import evaluate
from glulam.compiler.graph.graph import Graph
from glulam.compiler.graph.text import to_text
from glulam.compiler.graph.types import TensorType
from glulam.compiler.loops.hazards import dependences
from glulam.compiler.loops.program import interpret_program
from glulam.compiler.options import Options
from glulam.compiler.targets import runnable_targets

TARGETS = tuple(target.name for target in runnable_targets())
_TINY = 1e-30
_HUGE = 1e30  # the end of the numbers: nothing else is measured by elements of such size


def assert_close(actual, expected, tolerance=1e-5, what=""):
    """NaN and infinities in the same places; integers equal; floats within `tolerance` of the largest magnitude."""
    assert (actual.dtype, actual.shape) == (expected.dtype, expected.shape), what
    if expected.dtype.kind != "f":
        np.testing.assert_array_equal(actual, expected, err_msg=what)
        return
    finite = np.isfinite(expected)
    np.testing.assert_array_equal(actual[~finite], expected[~finite], err_msg=f"{what}: NaN or infinity")
    wanted = expected[finite].astype(np.float64)
    scale = np.abs(wanted[np.abs(wanted) < _HUGE]).max(initial=0.0)
    difference = np.abs(actual[finite].astype(np.float64) - wanted)
    error = np.where(np.isnan(difference), np.inf, difference) / np.maximum(np.maximum(np.abs(wanted), scale), _TINY)
    worst = error.max(initial=0.0)
    assert worst <= tolerance, f"{what}: error {worst:.3g} of the magnitude, allowed {tolerance:.3g}"


def agree(actual, expected, tolerance, what, detail=""):
    """All outputs of a run; the message lists every one that is wrong."""
    assert list(actual) == list(expected), what
    wrong = []
    for name, wanted in expected.items():
        limit = tolerance(name) if callable(tolerance) else tolerance
        try:
            assert_close(actual[name], wanted, limit, name)
        except AssertionError as error:
            wrong.append(" ".join(str(error).split())[:300])
    assert not wrong, "\n".join([f"{what}: {len(wrong)} of {len(expected)} outputs are wrong", *wrong, detail])


def add_case(graph, feeds, i, case, before=lambda value: value):
    """The case as one node; `before` may put something between each input and the node."""
    operands = []
    for j, array in enumerate(case.arrays(seed=i)):
        if array is None:
            operands.append(None)
        elif j in case.constants:
            operands.append(graph.constant(array, f"c{i}_k{j}"))
        else:
            name = f"c{i}_x{j}"
            feeds[name] = array
            operands.append(before(graph.input(name, TensorType.of(array))))
    return graph.add(case.op, *operands, name=f"c{i}")


def graph_of_cases(cases, behind=lambda graph, value: value):
    """Samples of ops with one output in one graph, what `behind` makes of their results, and feeds for it."""
    graph, feeds = Graph("cases"), {}
    for i, case in enumerate(cases):
        (value,) = add_case(graph, feeds, i, case)
        graph.output(f"c{i}", behind(graph, value))
    return graph, feeds


def every_way(graph, feeds, target, tolerance):
    """Reference, interpreter and native code agree, the latter in every bit for any number of threads."""
    expected = reference(graph, feeds)
    agree(interpreted(graph, feeds, Options(target=target)), expected, tolerance, "interpreter")
    one = native(graph, feeds, Options(target=target))
    agree(one, expected, tolerance, "native")
    for threads in (2, 4, 5):
        agree(native(graph, feeds, Options(target=target, threads=threads)), one, 0, f"{threads} threads")


def poisoned(feeds):
    """Feeds that leave NaN wherever floats go: what a later run reads without having written it shows."""
    return {name: np.full_like(array, np.nan) if array.dtype.kind == "f" else array for name, array in feeds.items()}


def native(graph, feeds, options=None):
    """The outputs of native code, in a run after one that filled the arena with NaN."""
    with driver.compile_graph(graph, options or Options()) as model:
        model.run(poisoned(feeds))
        return model.run(feeds)


def same_for_any_threads(graph, feeds):
    """Code for 2 and for 4 threads gives the bits of that for one."""
    with driver.compile_graph(graph) as one:
        wanted = one.run(feeds)
    for threads in (2, 4):
        with driver.compile_graph(graph, Options(threads=threads)) as many:
            for name, array in many.run(feeds).items():
                np.testing.assert_array_equal(array, wanted[name], err_msg=f"{name}, {threads} threads")


def interpreted(graph, feeds, options=None):
    """The outputs by the loop interpreter, each step as late as those before it that wait for it allow."""
    with np.errstate(all="ignore"):
        return interpret_program(latest_first(driver.lower(graph, options or Options())), feeds)


def latest_first(program):
    """The steps in another order that their dependences allow, which hardly ever is the given one."""
    waits = dependences(program.steps)
    missing = [len(needed) for needed in waits]
    followers = [[] for _ in waits]
    for number, needed in enumerate(waits):
        for other in needed:
            followers[other].append(number)
    ready = [-number for number, count in enumerate(missing) if not count]
    heapq.heapify(ready)
    order = []
    while ready:
        order.append(-heapq.heappop(ready))
        for number in followers[order[-1]]:
            missing[number] -= 1
            if not missing[number]:
                heapq.heappush(ready, -number)
    assert len(order) == len(waits)
    return replace(program, steps=tuple(program.steps[number] for number in order), repeats=())


def reference(graph, feeds):
    with np.errstate(all="ignore"):
        return evaluate(graph, feeds)


def check(graph, feeds, *, targets=TARGETS, fuse=(True, False), tolerance=1e-4, interpret=False, **settings):
    """Native code of the graph for each target, fused and not, gives the reference's outputs."""
    expected = reference(graph, feeds)
    for target in targets:
        for fused in fuse:
            options = Options(target=target, fuse=fused, **settings)
            what = f"{target} {'fused' if fused else 'unfused'}"
            if interpret:
                agree(interpreted(graph, feeds, options), expected, tolerance, f"interpreted {what}", to_text(graph))
            agree(native(graph, feeds, options), expected, tolerance, f"native {what}", to_text(graph))
