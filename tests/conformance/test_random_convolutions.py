"""Random convolutions: whatever may compute one, natively, for one thread or several, gives the reference's values.

See `fuzzing` for how many.
"""

from __future__ import annotations

import math

import numpy as np
from executors import TARGETS, agree, native, reference
from fuzzing import FUZZING, Run, drawing
from hypothesis import given, note, settings
from hypothesis import strategies as st
from strategies import feeds_for

from glulam.compiler import ops
from glulam.compiler.graph.graph import Graph
from glulam.compiler.graph.text import to_text
from glulam.compiler.graph.types import f32
from glulam.compiler.options import Options
from glulam.compiler.passes.algorithms import candidates
from glulam.compiler.targets import target

CHANNELS = (1, 3, 4, 8, 16, 17, 24, 32, 48, 64, 96, 128)
TAPS = (1, 3, 5, 7, 2, 4)
EXTENTS = (1, 2, 3, 5, 7, 8, 13, 14, 19, 28)
SHORT = (1, 2, 3, 4, 7, 9)  # extents of volumes
EXAMPLES = settings.default.max_examples if FUZZING else 40
MOST_PRODUCTS = 30_000_000
TOLERANCE = 2e-4


@st.composite
def convolutions(draw: st.DrawFn) -> Graph:
    """A graph of a convolution, perhaps with what is fused into it: a residual, an activation, a pool."""

    def pick(choices):
        return draw(st.sampled_from(choices))

    def along(choices, dims):
        """One for all axes, or one for each."""
        return (pick(choices),) * dims if draw(st.integers(0, 3)) else tuple(pick(choices) for _ in range(dims))

    dims = pick((2, 2, 2, 2, 1, 3))
    groups = pick((1, 1, 1, 1, 2, 4, 16, 32))
    channels, outputs = (max(1, pick(CHANNELS) // groups) * groups for _ in range(2))
    taps, strides, dilations = along(TAPS, dims), along((1, 1, 1, 2, 3), dims), along((1, 1, 1, 1, 2, 3), dims)
    if draw(st.integers(0, 2)):
        pads = tuple(((d * (k - 1)) // 2,) * 2 for k, d in zip(taps, dilations, strict=True))
    else:
        pads = tuple((draw(st.integers(0, k)), draw(st.integers(0, k))) for k in taps)
    least = (max(1, d * (k - 1) + 1 - sum(p)) for k, d, p in zip(taps, dilations, pads, strict=True))
    extents = tuple(max(pick(SHORT if dims == 3 else EXTENTS), at_least) for at_least in least)
    op = ops.Conv(strides, pads, dilations, groups)
    batch = pick((1, 1, 2, 3))
    result = op.output_extents(extents, taps)
    while channels > groups and _products(batch, outputs, result, channels // groups, taps) > MOST_PRODUCTS:
        channels = max(1, channels // groups // 2) * groups

    rng, graph = np.random.default_rng(7), Graph("convolution")
    x = graph.input("x", f32(batch, channels, *extents))
    shape = (outputs, channels // groups, *taps)
    weights = rng.uniform(-1, 1, shape) * math.sqrt(3 / math.prod(shape[1:]))
    bias = graph.constant(rng.uniform(-1, 1, outputs).astype(np.float32), "b") if draw(st.booleans()) else None
    y = graph.apply(op, x, graph.constant(weights.astype(np.float32), "w"), bias, name="conv")
    if draw(st.integers(0, 3)) == 3:
        y = graph.apply(ops.Add(), y, graph.input("residual", y.type))
    if draw(st.booleans()):
        y = graph.apply(pick((ops.Relu(), ops.HardSwish(), ops.Silu(), ops.LeakyRelu(0.1))), y)
    if draw(st.integers(0, 3)) == 3 and min(result) > 1:
        y = graph.apply(ops.MaxPool((2,) * dims, (2,) * dims, ((0, 0),) * dims, (1,) * dims), y)
    graph.output("y", y)
    return graph


def _products(batch, outputs, extents, depth, taps):
    return batch * outputs * math.prod(extents) * depth * math.prod(taps)


def test_fuzz_random_convolutions(record_property):
    run = Run()

    @drawing(EXAMPLES)
    @given(convolutions(), st.sampled_from(TARGETS), st.sampled_from((1, 2, 4)))
    def compare(graph, name, threads):
        if run.over():
            return
        note(f"target {name}, {threads} threads\n{to_text(graph)}")
        run.failed, before = True, run.failed
        check(graph, Options(target=name, threads=threads))
        run.failed = before
        run.compared += not run.failed

    try:
        compare()
    finally:
        record_property("random convolutions compared", run.compared)
    assert FUZZING or run.compared > EXAMPLES / 2


def check(graph, options):
    """As the compiler has it, and by each algorithm that may compute the convolution."""
    feeds = feeds_for(graph, 1)
    expected = reference(graph, feeds)
    # Sums have a variance of one, so a few that happen to be small are as inexact as others.
    tolerance = TOLERANCE * max(1.0, 1.0 / max(np.abs(expected["y"]).max(), 1e-30))
    agree(native(graph, feeds, options), expected, tolerance, "as the compiler has it")
    conv = next(node for node in graph.nodes if node.name == "conv")
    found, _ = candidates(target(options.target), conv)
    for candidate in found:
        conv.op = candidate.op
        agree(native(graph, feeds, options), expected, tolerance, candidate.name)
