"""Codes that are quantised again with the same scale and zero point stay as they are."""

from __future__ import annotations

import pytest
from quantised import codes, floats, quantised
from rewrites import rewrite

from glulam.compiler.graph.graph import Graph
from glulam.compiler.graph.types import DType, f32
from glulam.compiler.ops import Add, Expand, MaxPool, Reshape, Sigmoid, Slice, Split, Transpose
from glulam.compiler.passes.same_codes import SameCodes

POOL = MaxPool((2, 2), (1, 1), ((0, 1), (1, 0)), (1, 1))
EMPTY = MaxPool((1, 1), (1, 1), ((1, 0), (0, 0)), (1, 1))


def rewritten(graph, y):
    graph.output("y", y)
    return rewrite(graph, SameCodes(), tolerance=0.0)


@pytest.mark.parametrize(("dtype", "zero"), [(DType.U8, 0), (DType.U8, 130), (DType.I8, 0), (DType.I8, -77)])
@pytest.mark.parametrize("scale", [0.02, 1 / 3, 1e-6, 77.7])
@pytest.mark.parametrize("pool", [POOL, None], ids=["pool", "nothing"])
def test_the_same_scale_and_zero_point(dtype, zero, scale, pool):
    graph = Graph("g")
    between = floats(graph, codes(graph, dtype), scale, zero)
    between = between if pool is None else graph.apply(pool, between)
    result = rewritten(graph, quantised(graph, between, scale, zero, dtype))
    assert result.ops == "mul through_integer" + (" max_pool" if pool else "")


def test_a_pool_of_the_codes_themselves():
    graph = Graph("g")
    between = floats(graph, graph.apply(POOL, codes(graph)), 0.1, 7)
    assert rewritten(graph, quantised(graph, between, 0.1, 7)).ops == "mul through_integer max_pool"


MOVES = (
    Reshape((6, 30)),
    Transpose((0, 2, 3, 1)),
    Slice((0, 1, 0, 1), (1, 1, 2, 1), (2, 2, 3, 2)),
    Expand((4, 2, 3, 6, 5)),
    Split(1, (1, 2)),
)


@pytest.mark.parametrize("move", MOVES, ids=lambda op: op.name)
@pytest.mark.parametrize("dtype", [DType.U8, DType.I8])
def test_codes_that_are_moved(move, dtype):
    graph = Graph("g")
    between = floats(graph, codes(graph, dtype), 0.02, 7)
    *_, y = graph.add(move, graph.apply(Reshape(between.shape), between))
    result = rewritten(graph, quantised(graph, y, 0.02, 7, dtype))
    assert result.ops == f"mul through_integer reshape {move.name}"


def test_codes_that_are_moved_twice_alike_are_moved_once():
    graph = Graph("g")
    x = codes(graph)
    ends = []
    for scale in (0.02, 0.03):
        turned = graph.apply(Transpose((0, 2, 3, 1)), floats(graph, x, scale, 7))
        ends.append(quantised(graph, turned, scale, 7))
    result = rewritten(graph, graph.apply(Add(), *ends))
    assert result.ops == "mul through_integer transpose add"


def stays(graph, y, declines=True):
    before = len(graph.nodes)
    result = rewritten(graph, y)
    assert len(result.graph.nodes) == before
    assert ("stay what they are" in result.declined) is declines


def test_other_scales_or_zero_points_are_computed():
    for scale, zero in ((0.021, 7), (0.02, 8)):
        graph = Graph("g")
        stays(graph, quantised(graph, floats(graph, codes(graph), 0.02, 7), scale, zero))


def test_a_negative_scale_turns_the_order():
    graph = Graph("g")
    stays(graph, quantised(graph, graph.apply(POOL, floats(graph, codes(graph), -0.02, 7)), -0.02, 7))


def test_what_changes_numbers_on_the_way_stays():
    graph = Graph("g")
    stays(graph, quantised(graph, graph.apply(Sigmoid(), floats(graph, codes(graph), 0.02, 7)), 0.02, 7))


def test_other_codes_and_windows_of_padding_alone_are_none_of_this():
    graph = Graph("g")
    stays(graph, quantised(graph, floats(graph, codes(graph, DType.I8), 0.02, 7), 0.02, 7), declines=False)
    graph = Graph("g")
    stays(graph, quantised(graph, graph.apply(EMPTY, floats(graph, codes(graph), 0.02, 7)), 0.02, 7), declines=False)
    graph = Graph("g")
    stays(graph, quantised(graph, graph.input("x", f32(2, 3, 6, 5)), 0.02, 7), declines=False)
    graph = Graph("g")
    x = floats(graph, codes(graph), 0.02, 7)
    stays(graph, quantised(graph, graph.apply(Add(), x, graph.input("z", x.type)), 0.02, 7), declines=False)
