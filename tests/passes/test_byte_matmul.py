"""Products of two computed matrices of codes: where they multiply bytes, exactly, and where they stay as they are."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from executors import agree, native, reference
from quantised import floats, number
from rewrites import rewrite

from glulam.compiler.driver import optimise
from glulam.compiler.graph.graph import Graph
from glulam.compiler.graph.types import DType, TensorType, f32
from glulam.compiler.ops import Add, Cast, MatMul, Mul, Reshape, Round, Sub, ThroughInteger, Transpose
from glulam.compiler.ops.matmul_integer import MatMulWords, PackWords
from glulam.compiler.options import Options
from glulam.compiler.passes.byte_products import ByteProducts
from glulam.compiler.passes.sink_transposes import SinkTransposes
from glulam.compiler.targets import target

V4 = replace(target("x86-64-v4"), dots_bytes=True)


def codes(graph, name, shape, dtype=DType.U8):
    """Codes that are computed, as floats."""
    return graph.apply(ThroughInteger(dtype), graph.apply(Round(), graph.input(name, f32(*shape))))


def rewritten(graph, y, *passes):
    graph.output("y", y)
    return rewrite(graph, ByteProducts(V4), *passes, tolerance=0.0)


def exact(graph, **ranges):
    """Native code has the bits of the reference; codes from one end to the other."""
    rng = np.random.default_rng(3)
    feeds = {}
    for name, value in graph.inputs.items():
        low, high = ranges.get(name, (-300, 300))
        feeds[name] = rng.integers(low, high, value.shape).astype(value.type.dtype.numpy)
    expected = reference(graph, feeds)
    for threads in (1, 2):
        agree(native(graph, feeds, Options(threads=threads)), expected, 0, "native")


@pytest.mark.parametrize(("left", "right"), [
    ((7, 16), (16, 33)), ((1, 5), (5, 2)), ((2, 3, 13, 17), (2, 3, 17, 70)), ((3, 1, 4, 3), (2, 3, 5)),
], ids=str)  # fmt: skip
@pytest.mark.parametrize("zeros", [(0, 128), (77, 0), (255, 255), (0, 3)], ids=str)
def test_whole_numbers(left, right, zeros):
    graph = Graph("g")
    a, b = (graph.apply(Sub(), codes(graph, *each), number(graph, zero))
            for each, zero in zip((("a", left), ("b", right)), zeros, strict=True))  # fmt: skip
    result = rewritten(graph, graph.apply(MatMul(), a, b))
    assert "matmul " not in f"{result.ops} "
    assert result.ops.count("matmul_words") == (1 if zeros[0] == 0 else 2)
    assert result.ops.count("linear_integer") == (0 if zeros[1] == 128 else 1)
    assert ("pad" in result.ops) is (left[-1] % 4 > 0)
    exact(graph)


@pytest.mark.parametrize("types", [(DType.I8, DType.I8), (DType.U8, DType.I8), (DType.I8, DType.U8)], ids=str)
def test_codes_with_a_sign(types):
    graph = Graph("g")
    a, b = codes(graph, "a", (9, 20), types[0]), codes(graph, "b", (20, 18), types[1])
    result = rewritten(graph, graph.apply(MatMul(), a, graph.apply(Sub(), b, number(graph, 5))))
    assert "matmul_words" in result.ops
    exact(graph)


@pytest.mark.parametrize(("dtype", "held_as"), [(DType.I8, DType.F64), (DType.U8, DType.F64), (DType.U8, DType.F32)])
def test_bytes_that_are_fed(dtype, held_as):
    graph = Graph("g")
    a, b = (graph.input(name, TensorType(dtype, shape)) for name, shape in (("a", (5, 12)), ("b", (12, 7))))
    product = graph.apply(MatMul(), graph.apply(Cast(held_as), a), graph.apply(Cast(held_as), b))
    result = rewritten(graph, graph.apply(Cast(DType.I32), product))
    assert "matmul_words" in result.ops
    exact(graph, a=(0, 100), b=(0, 100))


@pytest.mark.parametrize("which", [(True, True), (True, False), (False, True)], ids=str)
@pytest.mark.parametrize("zero", [0, 9])
def test_zero_points_that_only_a_run_knows(which, zero):
    graph = Graph("g")
    operands = []
    for name, shape, dynamic in zip("ab", ((6, 10), (10, 9)), which, strict=True):
        x = codes(graph, name, shape)
        if dynamic:
            x = graph.apply(Sub(), x, codes(graph, f"zero_{name}", (1,)))
        operands.append(graph.apply(Sub(), x, number(graph, zero)))
    result = rewritten(graph, graph.apply(MatMul(), *operands))
    assert "matmul_words" in result.ops
    assert "matmul " not in f"{result.ops} "
    exact(graph)


def test_scales_come_behind_the_sums():
    graph = Graph("g")
    a, b = floats(graph, codes(graph, "a", (6, 8)), 0.5, 3), floats(graph, codes(graph, "b", (8, 9)), 0.25, 130)
    result = rewritten(graph, graph.apply(MatMul(), a, b))
    (node,) = (node for node in result.graph.nodes if isinstance(node.op, Mul) and node.output.type.dtype is DType.F32)
    assert float(list(node.present_inputs())[1].data) == 0.125
    exact(graph)


def test_a_scale_of_zero():
    graph = Graph("g")
    a, b = floats(graph, codes(graph, "a", (6, 8)), 0.0, 3), floats(graph, codes(graph, "b", (8, 9)), 0.25, 130)
    assert "matmul_words" in rewritten(graph, graph.apply(MatMul(), a, b)).ops
    exact(graph)


def test_a_left_operand_that_is_read_on_the_right_too():
    graph = Graph("g")
    x = codes(graph, "x", (12, 12))
    result = rewritten(graph, graph.apply(MatMul(), x, x))
    assert "matmul_words" in result.ops
    exact(graph)


def attention(graph, depth):
    """Queries times keys, both from codes of one tensor of tokens."""
    tokens = graph.apply(Reshape((2, 11, 3, depth)), codes(graph, "x", (2, 11, 3 * depth)))
    queries, keys = (graph.apply(Transpose(perm), tokens) for perm in ((0, 2, 1, 3), (0, 2, 3, 1)))
    return graph.apply(MatMul(), floats(graph, queries, 1.0, 7), floats(graph, keys, 1.0, 9))


def test_keys_are_transposed_as_words():
    graph = Graph("g")
    result = rewritten(graph, attention(graph, 8), SinkTransposes())
    (packed,) = (node.op for node in result.graph.nodes if isinstance(node.op, PackWords))
    assert packed.perm == (0, 2, 3, 1)
    exact(graph)


def test_words_do_not_end_in_another_row():
    graph = Graph("g")
    result = rewritten(graph, attention(graph, 6), SinkTransposes())
    (packed,) = (node.op for node in result.graph.nodes if isinstance(node.op, PackWords))
    assert not packed.perm
    exact(graph)


def test_other_readers_get_floats_again():
    graph = Graph("g")
    a, b = codes(graph, "a", (6, 8)), codes(graph, "b", (8, 6))
    product = graph.apply(MatMul(), a, b)
    graph.output("sum", graph.apply(Add(), a, graph.apply(Transpose((1, 0)), b)))
    assert "matmul_words" in rewritten(graph, product).ops
    exact(graph)


@pytest.mark.parametrize(
    ("left", "right", "why"),
    [((4,), (4, 3), "vectors"), ((2, 4), (4,), "vectors"), ((2, 4), (4, 1), "column"), ((1, 9000), (9000, 2), "I32")],
    ids=str,
)
def test_declines(left, right, why):
    graph = Graph("g")
    result = rewritten(graph, graph.apply(MatMul(), codes(graph, "a", left), codes(graph, "b", right)))
    assert "matmul_words" not in result.ops
    assert why in result.declined


def test_floats_are_none_of_this():
    graph = Graph("g")
    result = rewritten(graph, graph.apply(MatMul(), codes(graph, "a", (4, 8)), graph.input("b", f32(8, 4))))
    assert result.ops == "round through_integer matmul"


def test_the_sums_have_an_epilogue():
    graph = Graph("g")
    a, b = floats(graph, codes(graph, "a", (7, 8)), 1.0, 3), floats(graph, codes(graph, "b", (8, 21)), 1.0, 130)
    scaled = graph.apply(Mul(), graph.apply(MatMul(), a, b), number(graph, 2.0**-9))
    graph.output("y", graph.apply(Cast(DType.U8), graph.apply(Add(), graph.apply(Round(), scaled), number(graph, 99))))
    found, _ = optimise(graph, Options(target="native"))
    if target("native").dots_bytes:
        anchors = [node.op.anchor.op for node in found.nodes if getattr(node.op, "anchor", None) is not None]
        assert sum(isinstance(op, MatMulWords) for op in anchors) == 2
    exact(graph)
