"""Convolutions of codes: where they multiply bytes, what comes behind the sums, and where they stay as they are."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from executors import agree, native, reference
from rewrites import rewrite

from glulam.compiler.driver import optimise
from glulam.compiler.graph.graph import Graph
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
    Relu,
    Round,
    Sub,
    ThroughInteger,
)
from glulam.compiler.options import Options
from glulam.compiler.passes.byte_products import ByteProducts
from glulam.compiler.passes.narrow_sums import NarrowSums
from glulam.compiler.targets import target

V4 = replace(target("x86-64-v4"), dots_bytes=True)
SAME = ((1, 1), (1, 1))


def numbers(*shape, dtype=np.float32, low=-128, high=127):
    return np.random.default_rng(shape).integers(low, high, shape, endpoint=True).astype(dtype)


def codes(graph, zero=0, scale=None, dtype=DType.F32, channels=19):
    """Codes that are computed, less a zero point, times a scale."""
    x = graph.apply(ThroughInteger(DType.U8), graph.input("x", f32(2, channels, 6, 5)))
    if zero:
        x = graph.apply(Sub(), x, graph.constant(np.float32(zero)))
    if dtype is not DType.F32:
        x = graph.apply(Cast(dtype), x)
    return x if scale is None else graph.apply(Mul(), x, graph.constant(np.float32(scale)))


def conv(graph, x, weights, bias=None, groups=1):
    inputs = [graph.constant(weights), *([] if bias is None else [graph.constant(bias)])]
    return graph.apply(Conv((1, 1), SAME, (1, 1), groups), x, *inputs)


def codes_of_rows(graph, depth, dtype=DType.F32):
    x = graph.apply(ThroughInteger(DType.U8), graph.input("x", f32(3, 7, depth)))
    return x if dtype is DType.F32 else graph.apply(Cast(dtype), x)


def linear(graph, x, weights, bias=None):
    return graph.apply(Linear(), x, graph.constant(weights), *([] if bias is None else [graph.constant(bias)]))


def rewritten(graph, tolerance=0.0):
    return rewrite(graph, ByteProducts(V4), NarrowSums(), tolerance=tolerance)


def the_conv(result):
    (node,) = (node for node in result.graph.nodes if node.op.name == "conv_integer")
    return node


@pytest.mark.parametrize("zero", [-128, -1, 0, 127])
def test_codes_with_a_sign_are_moved(zero):
    graph = Graph("g")
    x = graph.apply(ThroughInteger(DType.I8), graph.input("x", f32(2, 19, 6, 5)))
    shifted = graph.apply(Sub(), x, graph.constant(np.float32(zero)))
    y = conv(graph, shifted, numbers(19, 19, 3, 3))
    graph.output("y", graph.apply(Add(), y, conv(graph, x, numbers(19, 19, 3, 3))))
    graph.output("z", graph.apply(Relu(), x))
    result = rewritten(graph)
    zero_points = [node.op.zero_point for node in result.graph.nodes if node.op.name == "conv_integer"]
    assert zero_points == [128 + zero, 128]
    assert result.ops.split().count("through_integer") == 1
    feed = np.random.default_rng(0).integers(-300, 300, (2, 19, 6, 5)).astype(np.float32)
    agree(native(graph, {"x": feed}), reference(graph, {"x": feed}), 0, "native")


@pytest.mark.parametrize("dtype", [DType.F32, DType.F64])
@pytest.mark.parametrize("zero", [0, 1, 255])
def test_whole_numbers(zero, dtype):
    graph = Graph("g")
    y = conv(graph, codes(graph, zero, dtype=dtype), numbers(7, 19, 3, 3, dtype=dtype.numpy))
    graph.output("y", graph.apply(Cast(DType.F32), y) if dtype is DType.F64 else y)
    result = rewritten(graph)
    assert result.ops == "cast conv_integer cast"
    assert the_conv(result).op.zero_point == zero


def test_a_bias_behind_the_sums_is_the_convolutions():
    graph = Graph("g")
    sums = conv(graph, codes(graph, 3, dtype=DType.F64), numbers(7, 19, 3, 3, dtype=np.float64))
    biased = graph.apply(Add(), sums, graph.constant(numbers(7, 1, 1, dtype=np.float64, low=-(10**6), high=10**6)))
    graph.output("y", graph.apply(Cast(DType.F32), biased))
    result = rewritten(graph)
    assert result.ops == "cast conv_integer cast"
    assert len(the_conv(result).inputs) == 3


@pytest.mark.parametrize("bias", [numbers(7), numbers(7) / 3, None], ids=["whole", "float", "none"])
@pytest.mark.parametrize("scale", [None, 0.037])
@pytest.mark.parametrize("steps", [None, 0.001])
def test_scales_and_bias_come_behind_the_sums(bias, scale, steps):
    graph = Graph("g")
    weights = numbers(7, 19, 3, 3)
    if steps is not None:
        weights = weights * (steps * np.arange(1, 8, dtype=np.float32).reshape(-1, 1, 1, 1))
    graph.output("y", conv(graph, codes(graph, 100, scale), weights.astype(np.float32), bias))
    result = rewritten(graph, tolerance=1e-6)
    assert "conv_integer" in result.ops
    assert "conv " not in result.ops


@pytest.mark.parametrize("bias", [numbers(7), numbers(7) / 3, None], ids=["whole", "float", "none"])
@pytest.mark.parametrize("scale", [None, 0.037])
def test_linear_layers(scale, bias):
    graph = Graph("g")
    x = graph.apply(Sub(), codes_of_rows(graph, 20), graph.constant(np.float32(31)))
    x = x if scale is None else graph.apply(Mul(), x, graph.constant(np.float32(scale)))
    weights = numbers(7, 20) * (0.01 * np.arange(1, 8, dtype=np.float32).reshape(-1, 1))
    graph.output("y", linear(graph, x, weights.astype(np.float32), bias))
    assert "linear_integer" in rewritten(graph, tolerance=1e-6).ops


def test_a_zero_point_that_only_a_run_knows():
    """As in dynamically quantised layers: it counts as often as the weights of a channel together."""
    graph = Graph("g")
    x = codes_of_rows(graph, 20)
    zero = graph.apply(ThroughInteger(DType.U8), graph.input("z", f32(1)))
    shifted = graph.apply(Cast(DType.F64), graph.apply(Sub(), x, zero))
    sums = linear(graph, shifted, numbers(7, 20, dtype=np.float64))
    graph.output("y", graph.apply(Cast(DType.I32), sums))
    result = rewritten(graph)
    assert "linear_integer" in result.ops
    assert "linear " not in result.ops
    for number in (0.0, 99.0, 255.0):
        feed = np.random.default_rng(int(number)).integers(0, 256, (3, 7, 20)).astype(np.float32)
        feeds = {"x": feed, "z": np.full(1, number, np.float32)}
        agree(native(graph, feeds), reference(graph, feeds), 0, "native")


@pytest.mark.parametrize("low", [-128, -3])
@pytest.mark.parametrize("groups", [1, 40])
@pytest.mark.parametrize(("strides", "pads"), [(1, (0, 0)), (1, (1, 1)), (2, (2, 1)), (3, (0, 4))])
def test_convolutions_of_codes_whose_zero_point_only_a_run_knows(strides, pads, groups, low):
    """It counts as often as the weights that meet the image, and not its padding."""
    graph = Graph("g")
    x = codes(graph, channels=40)
    zero = graph.apply(ThroughInteger(DType.U8), graph.input("z", f32()))
    shifted = graph.apply(Sub(), x, zero)
    weights = graph.constant(numbers(40, 40 // groups, 3, 2, low=low, high=low + 255))
    sums = graph.apply(Conv((strides, 1), (pads, (1, 0)), (1, 2), groups), shifted, weights)
    graph.output("y", graph.apply(ThroughInteger(DType.U8), graph.apply(Mul(), sums, graph.input("s", f32()))))
    result = rewritten(graph)
    assert "conv_integer" in result.ops
    assert "conv " not in result.ops
    for number in (0.0, 99.0, 255.0):
        feed = np.random.default_rng(int(number)).integers(0, 256, (2, 40, 6, 5)).astype(np.float32)
        feeds = {"x": feed, "z": np.float32(number), "s": np.float32(2**-12)}
        agree(native(graph, feeds), reference(graph, feeds), 0, "native")
    ops = [node.op.name for node in optimise(graph, Options())[0].nodes]
    if target().dots_bytes:
        assert not {"mul", "sub", "add"} & set(ops)


def test_other_readers_get_floats_again():
    graph = Graph("g")
    x = codes(graph)
    y = conv(graph, x, numbers(19, 19, 3, 3))
    graph.output("y", graph.apply(Add(), y, graph.apply(Relu(), x)))
    result = rewritten(graph)
    assert result.ops.count("cast") == 3
    assert "u8" in str(the_conv(result).inputs[0].type)


def test_convolutions_share_the_codes():
    graph = Graph("g")
    x = codes(graph)
    shifted = graph.apply(Sub(), x, graph.constant(np.float32(9)))
    graph.output("y", conv(graph, x, numbers(7, 19, 3, 3)))
    graph.output("z", conv(graph, shifted, numbers(5, 19, 3, 3)))
    result = rewritten(graph)
    assert result.ops == "cast conv_integer cast conv_integer cast"


@pytest.mark.parametrize("limits", [(0.0, 255.0), (-3.0, 300.0)])
def test_casts_cut_off_what_clips_did(limits):
    graph = Graph("g")
    x = graph.apply(
        Clip(*limits), graph.apply(Mul(), graph.input("x", f32(2, 19, 6, 5)), graph.constant(np.float32(90)))
    )
    x = graph.apply(ThroughInteger(DType.U8), x)
    graph.output("y", conv(graph, x, numbers(7, 19, 3, 3)))
    assert rewritten(graph).ops == "mul cast conv_integer cast"


def test_clips_within_the_codes_stay():
    graph = Graph("g")
    x = graph.apply(ThroughInteger(DType.U8), graph.apply(Clip(0.0, 200.0), graph.input("x", f32(2, 19, 6, 5))))
    graph.output("y", conv(graph, x, numbers(7, 19, 3, 3)))
    assert rewritten(graph).ops == "clip cast conv_integer cast"


def test_readers_that_need_a_kernel_to_turn_bytes_keep_the_floats():
    graph = Graph("g")
    x = codes(graph)
    graph.output("y", conv(graph, x, numbers(7, 19, 3, 3)))
    graph.output("z", graph.apply(MaxPool((2, 2), (1, 1), ((0, 0), (0, 0)), (1, 1)), x))
    result = rewritten(graph)
    (pool,) = (node for node in result.graph.nodes if node.op.name == "max_pool")
    assert pool.inputs[0].producer.op.name == "through_integer"


def test_pools_of_codes_are_pools_of_bytes():
    graph = Graph("g")
    pool = MaxPool((3, 3), (1, 1), SAME, (1, 1))
    pooled = graph.apply(pool, codes(graph, 0))
    shifted = graph.apply(Sub(), pooled, graph.constant(np.float32(9)))
    graph.output("y", graph.apply(Add(), conv(graph, shifted, numbers(19, 19, 3, 3)), pooled))
    result = rewritten(graph)
    assert result.ops == "cast max_pool cast conv_integer cast add"
    assert the_conv(result).inputs[0].producer.op == pool


def test_concats_of_codes_are_concats_of_bytes():
    graph = Graph("g")
    one = codes(graph, 0)
    other = graph.apply(ThroughInteger(DType.U8), graph.input("z", f32(2, 5, 6, 5)))
    fixed = graph.constant(numbers(2, 3, 6, 5, low=0, high=255))
    joined = graph.apply(Concat(1), one, other, fixed)
    graph.output("y", conv(graph, joined, numbers(7, 27, 3, 3)))
    result = rewritten(graph)
    assert result.ops == "cast cast concat conv_integer cast"


def test_bytes_that_are_fed_are_read_as_they_are():
    graph = Graph("g")
    x = graph.apply(Cast(DType.F32), graph.input("x", TensorType(DType.U8, (2, 19, 6, 5))))
    graph.output("y", conv(graph, x, numbers(7, 19, 3, 3)))
    assert rewritten(graph).ops == "conv_integer cast"


def declined(graph):
    result = rewritten(graph)
    assert "conv_integer" not in result.ops
    assert "linear_integer" not in result.ops
    return result.declined


def test_declines_what_has_no_kernel():
    graph = Graph("g")
    graph.output("y", conv(graph, codes(graph, channels=38), numbers(38, 19, 3, 3), groups=2))
    assert "no kernel has so many channels" in declined(graph)
    for depth, outs in ((18, 5), (20, 1)):
        graph = Graph("g")
        graph.output("y", linear(graph, codes_of_rows(graph, depth), numbers(outs, depth)))
        assert "no kernel has so many channels" in declined(graph)
    graph = Graph("g")
    weights = graph.apply(Cast(DType.F32), graph.input("w", TensorType(DType.I8, (7, 19, 3, 3))))
    graph.output("y", graph.apply(Conv((1, 1), SAME, (1, 1)), codes(graph), weights))
    assert "not constant" in declined(graph)


@pytest.mark.parametrize(
    "weights",
    [numbers(7, 19, 3, 3) + np.float32(0.3), numbers(7, 19, 3, 3, low=-256), numbers(7, 19, 3, 3, high=255)],
    ids=["floats", "below", "wide"],
)
def test_declines_weights_that_are_no_codes(weights):
    graph = Graph("g")
    graph.output("y", conv(graph, codes(graph), weights))
    assert "no codes of a byte" in declined(graph)


@pytest.mark.parametrize("scale", [None, 0.01])
@pytest.mark.parametrize("zero", [0, 100, 255])
@pytest.mark.parametrize("groups", [1, 19])
def test_weights_with_a_zero_point(groups, zero, scale):
    graph = Graph("g")
    weights = numbers(19, 19 // groups, 3, 3, low=-zero, high=255 - zero)
    weights = weights if scale is None else weights * np.float32(scale)
    graph.output("y", conv(graph, codes(graph, 9), weights, numbers(19), groups))
    result = rewritten(graph, tolerance=0 if scale is None else 1e-6)
    assert "conv " not in result.ops
    assert result.ops.count("conv_integer") == (2 if groups == 1 else 1)


@pytest.mark.parametrize("zero", [0, 99])
def test_linear_layers_whose_weights_have_a_zero_point(zero):
    """The zero point of the codes is known at a run only, as in dynamically quantised layers."""
    graph = Graph("g")
    moved = graph.apply(ThroughInteger(DType.U8), graph.input("z", f32(1)))
    x = graph.apply(Sub(), codes_of_rows(graph, 20), moved)
    graph.output("y", linear(graph, x, numbers(7, 20, low=-zero, high=255 - zero)))
    result = rewritten(graph)
    assert result.ops.count("linear_integer") == 2
    assert "linear " not in result.ops
    for number in (0.0, 99.0, 255.0):
        feed = np.random.default_rng(int(number)).integers(0, 256, (3, 7, 20)).astype(np.float32)
        feeds = {"x": feed, "z": np.full(1, number, np.float32)}
        agree(native(graph, feeds), reference(graph, feeds), 0, "native")


def test_several_groups_of_channels_have_no_kernel_for_weights_with_a_zero_point():
    graph = Graph("g")
    weights = numbers(64, 32, 3, 3, low=0, high=255)
    graph.output("y", conv(graph, codes(graph, channels=64), weights, groups=2))
    assert "of groups of several channels" in declined(graph)


def test_declines_sums_that_may_leave_i32():
    graph = Graph("g")
    x = graph.apply(ThroughInteger(DType.U8), graph.input("x", f32(1, 30000, 3, 1)))
    graph.output("y", conv(graph, x, np.full((2, 30000, 3, 3), -128, np.float32)))
    assert "may leave I32" in declined(graph)


def test_nothing_happens_without_the_instruction_or_to_floats():
    graph = Graph("g")
    graph.output("y", conv(graph, codes(graph), numbers(7, 19, 3, 3)))
    assert not rewrite(graph, ByteProducts(replace(V4, dots_bytes=False))).decisions
    graph = Graph("g")
    graph.output("y", conv(graph, graph.input("x", f32(2, 19, 6, 5)), numbers(7, 19, 3, 3)))
    assert not rewritten(graph).decisions


@pytest.mark.parametrize("weights_zero", [0, 60, 255])
@pytest.mark.parametrize("groups", [1, 40])
def test_native_code_is_exact_at_both_ends_of_weights_with_a_zero_point(groups, weights_zero):
    graph, rng = Graph("g"), np.random.default_rng(groups)
    x = codes(graph, 200, channels=40)
    weights = np.where(rng.random((40, 40 // groups, 3, 3)) < 0.5, 0.0, 255.0) - weights_zero
    y = conv(graph, x, weights.astype(np.float32), groups=groups)
    graph.output("y", graph.apply(ThroughInteger(DType.U8), graph.apply(Mul(), y, graph.constant(np.float32(2**-10)))))
    for feed in (np.full((2, 40, 6, 5), 255), np.zeros((2, 40, 6, 5)), rng.integers(0, 256, (2, 40, 6, 5))):
        feeds = {"x": feed.astype(np.float32)}
        agree(native(graph, feeds), reference(graph, feeds), 0, "native")
    ops = [node.op.name for node in optimise(graph, Options())[0].nodes]
    if target().dots_bytes:  # two kernels at most, and one that makes bytes of the input
        assert ops.count("fused") + ops.count("conv_integer") <= 3
        assert "mul" not in ops


@pytest.mark.parametrize("zero", [0, 77, 255])
def test_native_code_is_exact_at_both_ends(zero):
    """Whatever of all that this machine does: the largest sums of either sign, and what lies beside the image."""
    graph, rng = Graph("g"), np.random.default_rng(zero)
    x = codes(graph, zero, dtype=DType.F64, channels=40)
    weights = np.where(rng.random((33, 40, 3, 3)) < 0.5, -128.0, 127.0)
    weights[0], weights[1] = -128, 127
    graph.output("y", graph.apply(Cast(DType.F32), conv(graph, x, weights)))
    for feed in (np.full((2, 40, 6, 5), 255), np.zeros((2, 40, 6, 5)), rng.integers(0, 256, (2, 40, 6, 5))):
        feeds = {"x": feed.astype(np.float32)}
        agree(native(graph, feeds), reference(graph, feeds), 0, "native")


def test_a_chain_of_layers_with_a_residual_on_any_number_of_threads():
    graph = Graph("g")
    value = codes(graph, 0, channels=32)
    for zero in (0, 128):
        weights = numbers(32, 32, 3, 3) * np.float32(0.0007)
        shifted = graph.apply(
            Mul(), graph.apply(Sub(), value, graph.constant(np.float32(zero))), graph.constant(np.float32(0.02))
        )
        behind = graph.apply(Add(), conv(graph, shifted, weights, numbers(32) / 3), shifted)
        value = graph.apply(ThroughInteger(DType.U8), graph.apply(Mul(), behind, graph.constant(np.float32(30.0))))
    graph.output("y", value)
    feeds = {"x": np.random.default_rng(0).uniform(0, 256, (2, 32, 6, 5)).astype(np.float32)}
    one = native(graph, feeds)
    wanted = reference(graph, feeds)["y"]
    assert np.mean(one["y"] == wanted) > 0.99  # a code may be another one where a product is next to a half
    assert np.abs(one["y"] - wanted).max() <= 8
    for threads in (2, 3):
        np.testing.assert_array_equal(native(graph, feeds, Options(threads=threads))["y"], one["y"])


def test_a_linear_layer_of_one_part_in_place():
    """Codes that lie in a concat of codes, both of which layers read."""
    graph = Graph("g")
    one, other = (graph.apply(ThroughInteger(DType.U8), graph.input(name, f32(1, 3, 8))) for name in ("a", "b"))
    joined = graph.apply(Concat(1), one, other)
    graph.output("y", linear(graph, other, numbers(7, 8)))
    graph.output("z", linear(graph, joined, numbers(5, 8)))
    rng = np.random.default_rng(0)
    feeds = {name: rng.integers(0, 256, (1, 3, 8)).astype(np.float32) for name in ("a", "b")}
    agree(native(graph, feeds), reference(graph, feeds), 0, "native")
    optimised, _ = optimise(graph, Options())
    assert not target().dots_bytes or any(node.op.name == "concat_view" for node in optimised.nodes)


def test_codes_with_a_sign_become_bytes_at_once():
    graph = Graph("g")
    x = graph.apply(ThroughInteger(DType.I8, True), graph.apply(Round(), graph.input("x", f32(2, 19, 6, 5))))
    graph.output("y", conv(graph, x, numbers(7, 19, 3, 3)))
    assert rewritten(graph).ops == "round add cast conv_integer cast"
    for number in (-1e30, -128.5, -127.5, 126.5, 127.5, np.inf):
        feeds = {"x": np.full((2, 19, 6, 5), number, np.float32)}
        agree(native(graph, feeds), reference(graph, feeds), 0, "native")
    lowest, nothing = (native(graph, {"x": np.full((2, 19, 6, 5), n, np.float32)})["y"] for n in (-128, np.nan))
    if target().dots_bytes:
        np.testing.assert_array_equal(nothing, lowest)


def test_signed_bytes_as_they_are():
    """They do not hold the number by which they are moved."""
    graph = Graph("g")
    x = graph.input("x", TensorType(DType.I8, (3, 8)))
    graph.output("y", graph.apply(MatMul(), x, graph.constant(numbers(8, 16, dtype=np.int8, low=-3, high=3))))
    result = rewritten(graph)
    assert "linear_integer" in result.ops


@pytest.mark.parametrize("first", [False, True])
def test_a_bias_stands_on_either_side(first):
    graph = Graph("g")
    total = graph.apply(MatMul(), codes_of_rows(graph, 12), graph.constant(numbers(12, 5)))
    bias = graph.constant(numbers(1, 5, low=-999, high=999))
    graph.output("y", graph.apply(Add(), *((bias, total) if first else (total, bias))))
    assert rewritten(graph).ops == "cast linear_integer cast"


def test_a_bias_that_adds_a_dimension_stays():
    graph = Graph("g")
    x = graph.apply(ThroughInteger(DType.U8), graph.input("x", f32(8)))
    total = graph.apply(MatMul(), x, graph.constant(numbers(8, 16)))
    graph.output("y", graph.apply(Add(), total, graph.constant(numbers(1, 16))))
    assert "add" in rewritten(graph).ops
