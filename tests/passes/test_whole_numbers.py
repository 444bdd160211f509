"""Codes of quantised networks: they stay floats, and sums of their products are float32 where it holds them."""

from __future__ import annotations

import numpy as np
import pytest
from rewrites import Result, rewrite

from glulam.compiler.driver import compile_graph
from glulam.compiler.graph.evaluate import evaluate
from glulam.compiler.graph.graph import Graph, Value
from glulam.compiler.graph.types import DType, TensorType, f32
from glulam.compiler.ops import (
    Add,
    Cast,
    Clip,
    Concat,
    Conv,
    Linear,
    MatMul,
    MaxPool,
    Mul,
    Round,
    Slice,
    Sub,
    ThroughInteger,
)
from glulam.compiler.options import Options
from glulam.compiler.passes.algorithms import candidates
from glulam.compiler.passes.codes_as_floats import CodesAsFloats
from glulam.compiler.passes.fold_normalisation import FoldNormalisation
from glulam.compiler.passes.narrow_sums import NarrowSums
from glulam.compiler.passes.whole_numbers import Range, is_exact, is_whole, whole_range
from glulam.compiler.targets import target

U8 = TensorType(DType.U8, (2, 19, 6, 5))
SAME = ((1, 1), (1, 1))


def codes(graph: Graph, type: TensorType = U8, zero: int = 3, dtype: DType = DType.F64) -> Value:
    """Codes less a zero point, as an importer makes them."""
    x = graph.apply(Cast(DType.F32), graph.input("x", type))
    x = graph.apply(Sub(), x, graph.constant(np.float32(zero)))
    return x if dtype is DType.F32 else graph.apply(Cast(dtype), x)


def weights(*shape: int, dtype: type = np.float64, largest: int = 127) -> np.ndarray:
    return np.random.default_rng(shape).integers(-largest, largest + 1, shape).astype(dtype)


def convolution(graph: Graph, x: Value, w: np.ndarray, groups: int = 1) -> Value:
    return graph.apply(Conv((1, 1), SAME, (1, 1), groups), x, graph.constant(w))


def narrowed(graph: Graph) -> Result:
    return rewrite(graph, NarrowSums(), tolerance=0.0)


def dtypes(graph: Graph, op: type) -> list[DType]:
    return [node.output.type.dtype for node in graph.nodes if isinstance(node.op, op)]


def test_a_convolution_of_codes_and_its_bias_are_float32():
    graph = Graph("g")
    sums = convolution(graph, codes(graph), weights(7, 19, 3, 3))
    biased = graph.apply(Add(), sums, graph.constant(weights(7, 1, 1, largest=5000)))
    graph.output("y", graph.apply(Cast(DType.F32), biased))
    result = narrowed(graph)
    assert result.ops == "cast sub conv add"
    assert set(dtypes(result.graph, Conv) + dtypes(result.graph, Add)) == {DType.F32}


def test_integers_are_cast_from_float32():
    graph = Graph("g")
    graph.output("y", graph.apply(Cast(DType.I32), convolution(graph, codes(graph), weights(7, 19, 3, 3))))
    assert narrowed(graph).ops == "cast sub conv cast"


@pytest.mark.parametrize("extent", [1, 17, 40])
def test_sums_of_too_many_channels_are_taken_in_parts(extent):
    graph = Graph("g")
    x = codes(graph, TensorType(DType.U8, (1, 400, 3, extent)))
    graph.output("y", graph.apply(Cast(DType.F32), convolution(graph, x, np.full((5, 400, 3, 3), 127.0))))
    result = narrowed(graph)
    assert len(dtypes(result.graph, Conv)) > 1
    assert set(dtypes(result.graph, Conv)) == {DType.F32}
    assert set(dtypes(result.graph, Add)) == {DType.F64}
    feed = np.full((1, 400, 3, extent), 255, np.uint8)  # the largest sum that there can be
    wanted = evaluate(graph, {"x": feed})["y"]
    np.testing.assert_array_equal(compile_graph(graph).run({"x": feed})["y"], wanted)


def test_a_bias_of_a_layer_in_parts_is_added_once():
    graph = Graph("g")
    x = codes(graph, TensorType(DType.U8, (3, 2000)))
    layer = graph.apply(Linear(), x, graph.constant(np.full((4, 2000), 100.0)), graph.constant(weights(4)))
    graph.output("y", graph.apply(Cast(DType.F32), layer))
    assert len(dtypes(narrowed(graph).graph, Linear)) > 1


def test_a_product_of_codes():
    graph = Graph("g")
    a = codes(graph, TensorType(DType.U8, (2, 5, 40)))
    b = graph.apply(Cast(DType.F64), graph.input("b", TensorType(DType.I8, (2, 40, 7))))
    graph.output("y", graph.apply(Cast(DType.I32), graph.apply(MatMul(), a, b)))
    assert dtypes(narrowed(graph).graph, MatMul) == [DType.F32]


def test_declines_products_that_float32_does_not_hold():
    graph = Graph("g")
    a = codes(graph, TensorType(DType.U8, (5, 600)))
    b = graph.apply(Cast(DType.F64), graph.input("b", TensorType(DType.I8, (600, 7))))
    graph.output("y", graph.apply(Cast(DType.I32), graph.apply(MatMul(), a, b)))
    result = narrowed(graph)
    assert dtypes(result.graph, MatMul) == [DType.F64]
    assert "need float64" in result.declined


@pytest.mark.parametrize("factor", [0.5, 1 / 3])
def test_weights_that_are_not_whole_stay_float64(factor):
    graph = Graph("g")
    graph.output("y", convolution(graph, codes(graph), weights(7, 19, 3, 3) + factor))
    assert not narrowed(graph).taken


def test_floats_stay_float64():
    graph = Graph("g")
    x = graph.apply(Cast(DType.F64), graph.input("x", f32(2, 19, 6, 5)))
    graph.output("y", convolution(graph, x, weights(7, 19, 3, 3)))
    assert not narrowed(graph).taken


# ---- what keeps sums exact


def exact_layer(behind: np.ndarray, op: type) -> Graph:
    graph = Graph("g")
    sums = convolution(graph, codes(graph, dtype=DType.F32), weights(7, 19, 3, 3, dtype=np.float32))
    graph.output("y", graph.apply(op(), sums, graph.constant(behind.astype(np.float32))))
    return graph


def test_scales_are_not_folded_into_whole_weights():
    result = rewrite(exact_layer(np.random.default_rng(5).random((7, 1, 1)), Mul), FoldNormalisation(), tolerance=0.0)
    assert result.ops == "cast sub conv mul"
    assert "sums of whole numbers are exact" in result.declined


def test_whole_numbers_are_folded_into_the_bias():
    result = rewrite(exact_layer(weights(7, 1, 1), Add), FoldNormalisation(), tolerance=0.0)
    assert result.ops == "cast sub conv"


def test_codes_are_scaled_after_their_zero_point_was_subtracted():
    graph = Graph("g")
    graph.output("y", graph.apply(Mul(), codes(graph, dtype=DType.F32), graph.constant(np.float32(0.1))))
    result = rewrite(graph, FoldNormalisation(), tolerance=0.0)
    assert result.ops == "cast sub mul"


def test_no_algorithm_that_rounds():
    graph = Graph("g")
    x = codes(graph, TensorType(DType.U8, (1, 64, 56, 56)), dtype=DType.F32)
    graph.output("y", convolution(graph, x, weights(64, 64, 3, 3, dtype=np.float32, largest=20)))
    node = graph.nodes[-1]
    assert is_exact(node)
    found, refused = candidates(target("x86-64-v3"), node)
    assert all("winograd" not in each.name for each in found)
    assert any("sums of whole numbers" in why for why in refused)


# ---- codes


def quantised(graph: Graph, x: Value, dtype: DType = DType.U8) -> Value:
    return graph.apply(Cast(dtype), graph.apply(Round(), x))


def test_codes_that_are_read_as_floats_are_never_integers():
    graph = Graph("g")
    back = graph.apply(Cast(DType.F32), quantised(graph, graph.input("x", f32(3, 7)), DType.I8))
    graph.output("y", back)
    assert rewrite(graph, CodesAsFloats(), tolerance=0.0).ops == "round through_integer"


def test_codes_that_somebody_else_reads_are_integers_as_well():
    graph = Graph("g")
    code = quantised(graph, graph.input("x", f32(3, 7)), DType.I8)
    graph.output("y", graph.apply(Cast(DType.F64), code))
    graph.output("code", code)
    assert sorted(rewrite(graph, CodesAsFloats(), tolerance=0.0).ops.split()) == sorted(
        ["round", "cast", "through_integer", "cast"]
    )


def test_what_is_whole_already_passes_as_it_is():
    graph = Graph("g")
    x = graph.apply(Cast(DType.F32), quantised(graph, graph.input("x", f32(1, 3, 8, 8)), DType.I8))
    pooled = graph.apply(MaxPool((2, 2), (2, 2), ((0, 0), (0, 0)), (1, 1)), x)
    graph.output("y", graph.apply(Cast(DType.F32), graph.apply(Cast(DType.I8), pooled)))
    assert rewrite(graph, CodesAsFloats(), tolerance=0.0).ops == "round through_integer max_pool"


@pytest.mark.parametrize("dtype", [DType.I32, DType.I64, DType.U32])
def test_integers_that_float32_does_not_hold_stay(dtype):
    graph = Graph("g")
    graph.output("y", graph.apply(Cast(DType.F32), quantised(graph, graph.input("x", f32(3, 7)), dtype)))
    assert not rewrite(graph, CodesAsFloats(), tolerance=0.0).taken


def test_nan_and_what_is_out_of_range_become_what_the_casts_made_of_them():
    graph = Graph("g")
    x = graph.apply(Cast(DType.U8), graph.input("x", f32(6)))
    graph.output("y", graph.apply(Cast(DType.F32), x))
    feed = {"x": np.array([np.nan, -3, 300, 1.5, np.inf, -0.0], np.float32)}
    as_written = compile_graph(graph, Options(disable=("codes_as_floats",))).run(feed)["y"]
    changed = compile_graph(graph).run(feed)["y"]
    np.testing.assert_array_equal(changed, as_written)
    np.testing.assert_array_equal(np.signbit(changed), np.signbit(as_written))


@pytest.mark.parametrize("dtype", [DType.U8, DType.I8])
def test_casts_cut_off_what_clips_did_and_whole_numbers_are_not_rounded_again(dtype):
    graph, limits = Graph("g"), np.iinfo(dtype.numpy.name)
    x = graph.apply(Round(), graph.input("x", f32(9)))
    x = graph.apply(Clip(float(limits.min), float(limits.max)), graph.apply(Add(), x, graph.constant(np.float32(0))))
    graph.output("y", graph.apply(Cast(DType.F32), graph.apply(Cast(dtype), x)))
    result = rewrite(graph, CodesAsFloats(), tolerance=0.0)
    assert result.ops == "round through_integer"
    assert result.graph.nodes[-1].op == ThroughInteger(dtype, whole=True)
    feed = {"x": np.array([np.nan, -3e9, 300.5, 1.5, np.inf, -np.inf, -0.0, 254.5, -0.4], np.float32)}
    as_written = compile_graph(graph, Options(disable=("codes_as_floats",))).run(feed)["y"]
    np.testing.assert_array_equal(compile_graph(graph).run(feed)["y"], as_written)


@pytest.mark.parametrize("op", [Clip(0.0, 200.0), Clip(1.0, 255.0)])
def test_clips_within_the_type_stay(op):
    graph = Graph("g")
    x = graph.apply(op, graph.apply(Round(), graph.input("x", f32(9))))
    graph.output("y", graph.apply(Cast(DType.F32), graph.apply(Cast(DType.U8), x)))
    assert "clip" in rewrite(graph, CodesAsFloats(), tolerance=0.0).ops


def test_what_is_whole():
    graph = Graph("g")
    x = graph.input("x", f32(3))
    whole = graph.apply(Round(), x)
    assert is_whole(graph.apply(Add(), whole, graph.constant(np.float32(3))))
    assert is_whole(graph.apply(Clip(-1.0, 7.0), graph.apply(Sub(), whole, whole)))
    for other in (
        x, graph.apply(Add(), whole, graph.constant(np.float32(0.5))), graph.apply(Clip(0.5, 7.0), whole),
        graph.apply(Mul(), whole, whole), graph.constant(np.array([1, np.nan], np.float32)),
    ):  # fmt: skip
        assert not is_whole(other)


# ---- ranges


def test_ranges():
    graph = Graph("g")
    x = graph.apply(Cast(DType.F32), graph.input("x", TensorType(DType.I8, (1, 2, 4, 4))))
    assert whole_range(x) == Range(-128, 127)
    shifted = graph.apply(Sub(), x, graph.constant(np.float32(-10)))
    assert whole_range(shifted) == Range(-118, 137)
    assert whole_range(graph.apply(Add(), shifted, x)) == Range(-246, 264)
    assert whole_range(graph.apply(Concat(1), shifted, x)) == Range(-128, 137)
    assert whole_range(graph.apply(ThroughInteger(DType.U8), shifted)) == Range(0, 255)
    assert whole_range(graph.apply(MaxPool((2, 2), (2, 2), ((0, 0), (0, 0)), (1, 1)), x)) == Range(-128, 127)
    with_empty_windows = MaxPool((2, 2), (2, 2), ((0, 0), (0, 2)), (1, 1))
    assert whole_range(graph.apply(with_empty_windows, x)) is None  # -inf is no whole number


@pytest.mark.parametrize("data", [0.5, np.nan, np.inf])
def test_constants_that_are_not_whole(data):
    assert whole_range(Graph("g").constant(np.array([1, data], np.float32))) is None


def test_numbers_that_the_type_does_not_hold():
    graph = Graph("g")
    x = graph.apply(Cast(DType.F32), graph.input("x", TensorType(DType.I32, (3,))))
    assert whole_range(x) is None
    assert whole_range(graph.apply(Cast(DType.F64), graph.input("z", TensorType(DType.I32, (3,))))) is not None


def test_integers_may_wrap_around():
    graph = Graph("g")
    x = graph.input("x", TensorType(DType.U8, (3,)))
    assert whole_range(graph.apply(Sub(), x, graph.constant(np.array(3, np.uint8)))) == Range(0, 255)


@pytest.mark.parametrize("dtype", [DType.F32, DType.F64])
@pytest.mark.parametrize("moves", [1, 5, 40])
def test_sums_are_exact_however_far_their_codes_are(moves, dtype):
    """The casts that narrow sums bring make it farther, which must not make Winograd's algorithm of it."""
    graph = Graph("g")
    type_ = TensorType(DType.U8, (1, 64, 20, 20 + moves))
    x = codes(graph, type_, dtype=dtype)
    for _ in range(moves):
        x = graph.apply(Slice((0, 0, 0, 1), (1,) * 4, (*x.shape[:3], x.shape[3] - 1)), x)
    wide = weights(64, 64, 3, 3, dtype=dtype.numpy.type, largest=15)
    graph.output("y", convolution(graph, x, wide))
    feeds = {"x": np.random.default_rng(0).integers(0, 256, type_.shape).astype(np.uint8)}
    got = compile_graph(graph, Options(target="x86-64-v2")).run(feeds)["y"]
    np.testing.assert_array_equal(got, evaluate(graph, feeds)["y"])


def test_what_many_values_have_in_common_is_looked_at_once():
    graph = Graph("g")
    x = codes(graph, zero=0)
    for _ in range(40):
        x = graph.apply(Add(), x, x)
    assert whole_range(x) == Range(0, 255 << 40)
