"""Every sample case of every op through every executor: numpy reference = loop interpreter = native code.

All cases of an op share one graph, so one compilation serves them. In the second test each case stands between two
convolutions: what it reads is produced in channel blocks, and what it gives is read with a margin around it.
"""

from __future__ import annotations

import numpy as np
import pytest
from executors import TARGETS, add_case, agree, check, interpreted, native, reference

from glulam.compiler.graph.graph import Graph
from glulam.compiler.graph.op import Trait
from glulam.compiler.graph.types import DType, TensorType
from glulam.compiler.ops import ALL_OPS, Cast, Conv
from glulam.compiler.options import Options
from glulam.compiler.passes import rows_first

_INTERPRETED_FLOPS = 300_000  # more takes the interpreter seconds


def flops(graph):
    return sum(node.flops for node in graph.nodes)


def both_ways(target):
    """Fused and unfused on the best target: what fusion does hardly depends on the target."""
    return (True, False) if target == TARGETS[0] else (True,)


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("op", [op for op in ALL_OPS if op.cases()], ids=lambda op: op.name)
def test_cases(op, target):
    graph, feeds = Graph(op.name), {}
    for i, case in enumerate(op.cases()):
        for k, value in enumerate(add_case(graph, feeds, i, case)):
            graph.output(f"c{i}_y{k}", value)
    expected = reference(graph, feeds)
    for fuse in both_ways(target):
        options = Options(target=target, fuse=fuse)
        if flops(graph) <= _INTERPRETED_FLOPS:
            agree(interpreted(graph, feeds, options), expected, op.tolerance, f"interpreter, fuse={fuse}")
        agree(native(graph, feeds, options), expected, op.tolerance, f"native, fuse={fuse}")


@pytest.mark.parametrize("op", [op for op in ALL_OPS if op.cases()], ids=lambda op: op.name)
def test_cases_of_constants(op):
    """What is not folded, for it would be large, is computed when run, whatever kernels expect of their inputs."""
    graph = Graph(op.name)
    for i, case in enumerate(op.cases()):
        operands = [None if array is None else graph.constant(array) for array in case.arrays(seed=i)]
        for k, value in enumerate(graph.add(case.op, *operands)):
            graph.output(f"c{i}_y{k}", value)
    agree(native(graph, {}, Options(disable=("constant_folding",))), reference(graph, {}), op.tolerance, "native")


def tame(case):
    """Values that any sum of products bears, and no empty tensor."""
    arrays = [a for a in case.arrays() if a is not None]
    return all(a.size and (a.dtype.kind != "f" or np.abs(a).max() < 1e3) for a in arrays)


def reversed_channels(graph, value):
    """A 1x1 convolution that moves values without changing one bit."""
    if value.type.dtype is not DType.F32 or value.type.rank < 3:
        return value
    channels, spatial = value.shape[1], value.type.rank - 2
    weight = np.eye(channels, dtype=np.float32)[::-1].reshape(channels, channels, *[1] * spatial)
    ones = (1,) * spatial
    conv = Conv(strides=ones, pads=((0, 0),) * spatial, dilations=ones, groups=1)
    return graph.apply(conv, value, graph.constant(weight, f"{value.name}_w"), name=f"{value.name}_before")


def padded_conv(graph, value):
    """A 3x3 convolution that reads one element beyond each edge."""
    if value.type.dtype is not DType.F32 or value.type.rank < 3 or not value.type.size:
        return value
    channels, spatial = value.shape[1], value.type.rank - 2
    rng = np.random.default_rng(channels)
    weight = rng.uniform(-1, 1, (5, channels, *[3] * spatial)).astype(np.float32)
    ones = (1,) * spatial
    conv = Conv(strides=ones, pads=((1, 1),) * spatial, dilations=ones, groups=1)
    return graph.apply(conv, value, graph.constant(weight, f"{value.name}_w"), name=f"{value.name}_after")


def sandwiched(op):
    """Cases with an input in channel blocks or a result that may be."""
    found = []
    for case in op.cases():
        types = [None if a is None else TensorType.of(a) for a in case.arrays()]
        wide = [t for t in (types[0], case.op.infer(*types)[0]) if t is not None and t.rank >= 3]
        if wide and tame(case) and types[0].dtype is DType.F32:
            found.append(case)
    return found


def between_convolutions(op):
    """All such cases as one graph, and its feeds."""
    graph, feeds = Graph(op.name), {}
    for i, case in enumerate(sandwiched(op)):
        for k, value in enumerate(add_case(graph, feeds, i, case, lambda value: reversed_channels(graph, value))):
            graph.output(f"c{i}_y{k}", padded_conv(graph, value))
            if Trait.VIEW in op.traits:  # the tensor itself as well: two names for one place in memory
                graph.output(f"c{i}_v{k}", value)
    return graph, feeds


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("op", [op for op in ALL_OPS if sandwiched(op)], ids=lambda op: op.name)
def test_cases_between_convolutions(op, target):
    graph, feeds = between_convolutions(op)
    check(graph, feeds, targets=[target], fuse=both_ways(target), tolerance=max(op.tolerance, 1e-4))


@pytest.mark.parametrize("op", [op for op in ALL_OPS if sandwiched(op)], ids=lambda op: op.name)
def test_images_whose_rows_come_first_give_the_same_bits(op, monkeypatch):
    """The layout that tensors have for two threads, small ones as well."""
    monkeypatch.setattr(rows_first, "_LEAST_PIXELS", 1)
    graph, feeds = between_convolutions(op)
    one, two = (native(graph, feeds, Options(threads=threads)) for threads in (1, 2))
    for name, expected in one.items():
        np.testing.assert_array_equal(two[name], expected, name)


@pytest.mark.parametrize("target", TARGETS)
def test_floats_beyond_the_integers_saturate_everywhere(target):
    beyond = np.array([np.nan, np.inf, -np.inf, 3e38, -3e38, 300, -300, 4e4, 3e9, -3e9, 1e19], np.float32)
    graph, feeds = Graph("cast"), {"x": beyond}
    x = graph.input("x", TensorType.of(beyond))
    for dtype in (DType.I64, DType.I32, DType.I16, DType.I8, DType.U8):
        graph.output(dtype.value, graph.apply(Cast(dtype), x))
    expected = reference(graph, feeds)
    np.testing.assert_array_equal(expected["u8"], [0, 255, 0, 255, 0, 255, 0, 255, 255, 0, 255])
    assert expected["i64"].tolist()[:3] == [0, 2**63 - 1, -(2**63)]
    agree(interpreted(graph, feeds, Options(target=target)), expected, 0, "interpreter")
    agree(native(graph, feeds, Options(target=target)), expected, 0, "native")
