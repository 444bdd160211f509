"""Random graphs on whole numbers: native code gives the reference's values exactly, with any pass left out."""

from __future__ import annotations

import pytest
from executors import TARGETS, agree, native, reference
from fuzzing import FUZZING, WANTED, Run, drawing
from hypothesis import assume, given, note, settings
from hypothesis import strategies as st
from whole_strategies import stays_exact, whole_feeds, whole_graphs

from glulam.compiler.graph.text import to_text
from glulam.compiler.options import Options
from glulam.compiler.pipeline import switchable_passes

SHARDS = 16 if WANTED else 1
EXAMPLES = -(-WANTED // SHARDS) or (settings.default.max_examples if FUZZING else 120)
BUILDS = ({}, {"threads": 2}, {"fuse": False}, *({"disable": (name,)} for name in switchable_passes()))


@pytest.mark.parametrize("shard", range(SHARDS))
def test_fuzz_random_whole_numbers(shard, record_property):
    run = Run()

    @drawing(EXAMPLES)
    @given(whole_graphs(), st.sampled_from(["native", "native", *TARGETS]), st.sampled_from(BUILDS), st.integers(0, 3))
    def compare(graph, target, build, seed):
        if run.over():
            return
        note(f"target {target}, {build}, seed {seed}\n{to_text(graph)}")
        feeds = whole_feeds(graph, seed)
        assume(stays_exact(graph, feeds))
        passed = False
        try:
            options = Options(target=target, numerics="strict", **build)
            agree(native(graph, feeds, options), reference(graph, feeds), 0, f"{target}, {build}")
            passed = True
        finally:
            run.failed |= not passed
        run.compared += passed

    try:
        compare()
    finally:
        record_property("random graphs on whole numbers compared", run.compared)
    assert FUZZING or run.compared > EXAMPLES / 2
