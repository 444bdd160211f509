"""Random graphs: native code, fused, unfused and with a pass left out, gives the reference's values.

`make test` draws the same few hundred graphs every time; `make fuzz` draws new ones, for GLULAM_FUZZ_SECONDS at most
or, given GLULAM_FUZZ_EXAMPLES, that many of them however long it takes; and it prints how many were compared.
"""

from __future__ import annotations

import os
import time
from dataclasses import dataclass

import numpy as np
import pytest
from executors import TARGETS, agree, native, reference
from hypothesis import HealthCheck, assume, event, given, note, settings
from hypothesis import strategies as st
from strategies import feeds_for, graphs

from glulam.compiler.graph.text import to_text
from glulam.compiler.graph.verify import verify
from glulam.compiler.options import Options
from glulam.compiler.pipeline import switchable_passes

FUZZING = settings.get_current_profile_name() == "fuzz"
WANTED = int(os.environ.get("GLULAM_FUZZ_EXAMPLES", "0")) if FUZZING else 0
SHARDS = 16 if WANTED else 1  # so that pytest -n can share out a long run
EXAMPLES = -(-WANTED // SHARDS) or (settings.default.max_examples if FUZZING else 200)
SECONDS = float(os.environ.get("GLULAM_FUZZ_SECONDS", ("inf" if WANTED else "600") if FUZZING else "60"))
OTHER_BUILDS = ({"fuse": False}, *({"disable": (name,)} for name in switchable_passes()))
TOLERANCE = 2e-4


@dataclass
class Run:
    """How many graphs agreed, and when to stop; once a graph has failed, its shrinking takes the time it needs."""

    end: float
    failed: bool = False
    compared: int = 0

    def over(self):
        return not self.failed and time.monotonic() > self.end


@pytest.mark.parametrize("shard", range(SHARDS))
def test_fuzz_random_graphs(shard, record_property):
    run = Run(time.monotonic() + SECONDS)

    @settings(
        max_examples=EXAMPLES,
        derandomize=not FUZZING,
        database=settings.default.database if FUZZING else None,
        deadline=None,
        suppress_health_check=list(HealthCheck),
    )
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
        passed = False
        try:
            for build in ({}, other):
                agree(native(graph, feeds, Options(target=target, **build)), expected, TOLERANCE, str(build or "fused"))
            passed = True
        finally:
            run.failed |= not passed
        run.compared += 1

    try:
        compare()
    finally:
        record_property("random graphs compared", run.compared)
