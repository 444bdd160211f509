"""Random graphs: native code, fused, unfused and with a pass left out, gives the reference's values.

`make test` draws the same few hundred graphs every time; `make fuzz` draws new ones, for GLULAM_FUZZ_SECONDS at most.
"""

from __future__ import annotations

import os
import time

import numpy as np
from executors import TARGETS, agree, native, reference
from hypothesis import HealthCheck, event, given, note, settings
from hypothesis import strategies as st
from strategies import feeds_for, graphs

from glulam.compiler.graph.text import to_text
from glulam.compiler.graph.verify import verify
from glulam.compiler.options import Options
from glulam.compiler.pipeline import switchable_passes

FUZZING = settings.get_current_profile_name() == "fuzz"
SECONDS = float(os.environ.get("GLULAM_FUZZ_SECONDS", "600" if FUZZING else "60"))
EXAMPLES = settings.default.max_examples if FUZZING else 200
OTHER_BUILDS = ({"fuse": False}, *({"disable": (name,)} for name in switchable_passes()))
TOLERANCE = 2e-4

_budget = {"end": 0.0, "failed": False}


@settings(
    max_examples=EXAMPLES,
    derandomize=not FUZZING,
    database=None if not FUZZING else settings.default.database,
    deadline=None,
    suppress_health_check=list(HealthCheck),
)
@given(graphs(6), st.sampled_from(TARGETS), st.sampled_from(OTHER_BUILDS), st.integers(0, 3))
def test_fuzz_random_graphs(graph, target, other, seed):
    _budget["end"] = _budget["end"] or time.monotonic() + SECONDS
    if not _budget["failed"] and time.monotonic() > _budget["end"]:
        return
    event(f"{len(graph.nodes) // 5 * 5}+ nodes")
    note(f"target {target}, {other}, seed {seed}\n{to_text(graph)}")
    verify(graph)
    feeds = feeds_for(graph, seed)
    expected = reference(graph, feeds)
    if any(np.abs(array).max(initial=0) > 1e6 for array in expected.values()):
        return  # sums of products of such size have no digits in common
    passed = False
    try:
        for build in ({}, other):
            agree(native(graph, feeds, Options(target=target, **build)), expected, TOLERANCE, str(build or "fused"))
        passed = True
    finally:
        _budget["failed"] |= not passed
