"""Random graphs: native code, fused, unfused and with a pass left out, gives the reference's values.

See `fuzzing` for how many; `make fuzz` prints how many were compared.
"""

from __future__ import annotations

import numpy as np
import pytest
from executors import TARGETS, agree, native, reference
from fuzzing import FUZZING, WANTED, Run, drawing
from hypothesis import assume, event, given, note, settings
from hypothesis import strategies as st
from rewrites import graph_of
from strategies import feeds_for, graphs

from glulam.compiler.graph.text import to_text
from glulam.compiler.graph.verify import verify
from glulam.compiler.options import Options
from glulam.compiler.pipeline import switchable_passes

SHARDS = 16 if WANTED else 1  # so that pytest -n can share out a long run
EXAMPLES = -(-WANTED // SHARDS) or (settings.default.max_examples if FUZZING else 160)
OTHER_BUILDS = ({"fuse": False}, *({"disable": (name,)} for name in switchable_passes()))
TOLERANCE = 2e-4


def agree_as_far_as_known(graph, feeds, actual, expected, what):
    """Whether only the reference's own uncertainty explains a difference; AssertionError if not even that does.

    A sum of what was centred before is nothing but rounding errors: the reference then gives other digits as soon as
    the last bits of the inputs change.
    """
    try:
        agree(actual, expected, TOLERANCE, what)
        return False
    except AssertionError:
        unknown = uncertainty(graph, feeds, expected)
        agree(actual, expected, lambda name: TOLERANCE + 8 * unknown[name], what)
        return True


def uncertainty(graph, feeds, expected, draws=8):
    """By output: how far the reference moves, as a fraction of its magnitude, with the last bits of the inputs."""
    rng = np.random.default_rng(0)
    largest = dict.fromkeys(expected, 0.0)
    for _ in range(draws):
        near = {k: np.nextafter(x, np.float32(rng.choice([-np.inf, np.inf], x.shape))) for k, x in feeds.items()}
        for name, moved in reference(graph, near).items():
            scale = max(np.abs(expected[name]).max(initial=0), 1e-30)
            largest[name] = max(largest[name], float(np.abs(moved - expected[name]).max(initial=0) / scale))
    return largest


def test_what_is_only_rounding_error_agrees_and_nothing_else_does():
    text = "input %x: f32[1,1,3,2]\n%m = reduce(%x) {kind='mean', axes=(2,), keepdims=True}\n%s = sub(%x, %m)\n"
    graph = graph_of(text + "%r = reduce(%s) {kind='sum', axes=(2,), keepdims=True}\noutput y = %r\noutput z = %s")
    feeds = feeds_for(graph)
    expected = reference(graph, feeds)
    assert not agree_as_far_as_known(graph, feeds, expected, expected, "same")
    assert agree_as_far_as_known(graph, feeds, expected | {"y": -expected["y"] + np.float32(2e-8)}, expected, "noise")
    for name, wrong in (("y", np.float32(1e-5)), ("z", np.float32(1e-3))):
        with pytest.raises(AssertionError, match=f"{name}: error"):
            agree_as_far_as_known(graph, feeds, expected | {name: expected[name] + wrong}, expected, "wrong")


@pytest.mark.parametrize("shard", range(SHARDS))
def test_fuzz_random_graphs(shard, record_property):
    run = Run()

    @drawing(EXAMPLES)
    @given(graphs(6), st.sampled_from(TARGETS), st.sampled_from(OTHER_BUILDS), st.integers(0, 3))
    def compare(graph, target, other, seed):
        if run.over():
            return
        event(f"{len(graph.nodes) // 5 * 5}+ nodes")
        note(f"target {target}, {other}, seed {seed}\n{to_text(graph)}")
        verify(graph)
        feeds = feeds_for(graph, seed)
        expected = reference(graph, feeds)
        # sums of products of such size have no digits in common
        assume(all(np.abs(array).max(initial=0) <= 1e6 for array in expected.values()))
        passed, uncertain = False, False
        try:
            for build in ({}, other):
                actual = native(graph, feeds, Options(target=target, **build))
                uncertain |= agree_as_far_as_known(graph, feeds, actual, expected, str(build or "fused"))
            passed = True
        finally:
            run.failed |= not passed
        if not run.failed:
            run.compared += 1
            run.uncertain += uncertain

    try:
        compare()
    finally:
        record_property("random graphs compared", run.compared)
        record_property("of which some output is little but rounding error", run.uncertain)
    assert FUZZING or run.compared > EXAMPLES / 2
