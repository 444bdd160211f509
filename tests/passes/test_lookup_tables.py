"""Functions of one code become tables: those of activations between layers, whatever they are made of."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from quantised import codes, floats, number, quantised
from rewrites import rewrite

from glulam.compiler.graph.graph import Graph
from glulam.compiler.graph.types import DType, TensorType, f32
from glulam.compiler.ops import Add, Cast, HardSwish, Mul, Relu, Reshape, Sigmoid, Sub, ThroughInteger, Transpose
from glulam.compiler.passes.lookup_tables import LookupTables
from glulam.compiler.targets import target

TABLES = replace(target("x86-64-v4"), looks_up_bytes=True)
BYTES = [(DType.U8, 0), (DType.U8, 100), (DType.I8, 0), (DType.I8, -77)]


def rewritten(graph, machine=TABLES):
    return rewrite(graph, LookupTables(machine), tolerance=0.0)


def with_output(graph, y):
    graph.output("y", y)
    return graph


def silu(graph, x, zero=3, dtype=DType.U8):
    """As it is quantised: the sigmoid by itself, then its product with the input."""
    gate = floats(graph, quantised(graph, graph.apply(Sigmoid(), x), 1 / 256, zero, dtype), 1 / 256, zero)
    return quantised(graph, graph.apply(Mul(), x, gate), 0.04, zero, dtype)


@pytest.mark.parametrize(("dtype", "zero"), BYTES)
@pytest.mark.parametrize("scale", [0.03, 1 / 3, 1e-6, 77.7])
def test_a_sigmoid_times_its_input(dtype, zero, scale):
    graph = Graph("g")
    result = rewritten(with_output(graph, silu(graph, floats(graph, codes(graph, dtype), scale, zero), zero, dtype)))
    assert result.ops.split().count("byte_lookup") == 1
    assert "sigmoid" not in result.ops
    assert result.ops.startswith("mul" if dtype is DType.U8 else "mul through_integer")


def test_a_cast_to_bytes_is_the_end_as_well():
    graph = Graph("g")
    x = graph.apply(HardSwish(), floats(graph, codes(graph), 0.05, 100))
    y = graph.apply(Cast(DType.U8), graph.apply(Add(), graph.apply(Mul(), x, number(graph, 9)), number(graph, 7.5)))
    assert rewritten(with_output(graph, y)).ops == "mul cast byte_lookup"


@pytest.mark.parametrize("dtype", [DType.U8, DType.I8])
def test_bytes_are_codes_as_they_are(dtype):
    graph = Graph("g")
    x = graph.apply(Cast(DType.F32), graph.input("x", TensorType(dtype, (2, 3, 6, 5))))
    y = quantised(graph, graph.apply(Sigmoid(), floats(graph, x, 0.1, -3)), 0.01, 11)
    ops = rewritten(with_output(graph, graph.apply(Cast(DType.U8), y))).ops
    assert ops == ("byte_lookup" if dtype is DType.U8 else "bit_cast byte_lookup")


def test_what_is_read_on_the_way_stays_for_its_readers():
    graph = Graph("g")
    gate = quantised(graph, graph.apply(Sigmoid(), floats(graph, codes(graph), 0.1, 3)), 0.01, 11)
    graph.output("gate", gate)
    x = graph.apply(HardSwish(), floats(graph, gate, 0.1, 3))
    result = rewritten(with_output(graph, quantised(graph, x, 0.02, 0)))
    assert result.ops.split().count("byte_lookup") == 2  # one of the codes, one of the gate's


def test_of_several_codes_those_that_all_comes_from():
    """The residual is a function of both, and no table is made where the first stops being the only variable."""
    graph = Graph("g")
    first = floats(graph, codes(graph), 0.1, 3)
    other = floats(graph, graph.apply(ThroughInteger(DType.U8), graph.input("z", f32(2, 3, 6, 5))), 0.1, 3)
    y = quantised(graph, graph.apply(Add(), first, other), 0.2, 1)
    assert "byte_lookup" not in rewritten(with_output(graph, y)).ops


@pytest.mark.parametrize("before", [0, 1, 3])
def test_views_on_the_way_come_first(before):
    """Of the bytes, and the table behind them."""
    graph = Graph("g")
    x = floats(graph, codes(graph), 0.1, 3)
    for _ in range(before):
        x = graph.apply(Sigmoid(), x)
    y = graph.apply(Reshape((180,)), graph.apply(Sigmoid(), graph.apply(Reshape((6, 30)), x)))
    result = rewritten(with_output(graph, quantised(graph, graph.apply(Sigmoid(), y), 0.01, 3)))
    assert result.ops == "mul cast reshape reshape byte_lookup cast"


def test_what_is_moved_otherwise_stays():
    graph = Graph("g")
    x = graph.apply(Transpose((0, 2, 3, 1)), floats(graph, codes(graph), 0.1, 3))
    stays(graph, quantised(graph, graph.apply(Sigmoid(), x), 0.01, 3))


def stays(graph, y, machine=TABLES):
    graph.output("y", y)
    assert not rewritten(graph, machine).taken


def test_few_ops_stay_as_they_are():
    graph = Graph("g")
    stays(graph, graph.apply(ThroughInteger(DType.U8), graph.apply(Mul(), codes(graph), number(graph, 0.5))))


def test_a_processor_without_the_instruction():
    graph = Graph("g")
    stays(graph, silu(graph, floats(graph, codes(graph), 0.1, 3)), target("x86-64-v4"))


def test_numbers_of_each_channel():
    graph = Graph("g")
    x = graph.apply(Sub(), floats(graph, codes(graph), 0.1, 3), graph.constant(np.ones((3, 1, 1), np.float32)))
    stays(graph, quantised(graph, graph.apply(Sigmoid(), x), 0.01, 3))


@pytest.mark.parametrize("what", ["wide", "floats"])
def test_what_is_no_byte(what):
    graph = Graph("g")
    x = codes(graph, DType.I16) if what == "wide" else graph.input("x", f32(2, 3, 6, 5))
    stays(graph, quantised(graph, graph.apply(Sigmoid(), floats(graph, x, 0.1, 3)), 0.01, 3))


def test_a_result_of_another_shape():
    graph = Graph("g")
    x = graph.apply(Relu(), floats(graph, codes(graph), 0.1, 3))
    y = graph.apply(Add(), x, graph.input("z", f32(4, 2, 3, 6, 5)))
    stays(graph, quantised(graph, y, 0.01, 3))


def test_chains_that_are_too_long():
    graph = Graph("g")
    x = floats(graph, codes(graph), 0.1, 3)
    for _ in range(70):
        x = graph.apply(Sigmoid(), x)
    stays(graph, quantised(graph, x, 0.01, 3))
