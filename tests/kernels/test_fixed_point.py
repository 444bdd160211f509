"""Weights kept in 20 or 24 bits: how they are rounded, and linear layers with them by interpreter and native code."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from fusing import with_relu
from harness import run_op

from glulam.compiler.driver import compile_graph, optimise
from glulam.compiler.graph.graph import Graph
from glulam.compiler.graph.types import f32
from glulam.compiler.kernels.context import Context
from glulam.compiler.kernels.fixed_point import DIGITS, FixedPoint
from glulam.compiler.kernels.operand import Operand
from glulam.compiler.kernels.packing import Packing
from glulam.compiler.ops.activation import Gelu, Relu
from glulam.compiler.ops.fixed_point import FixedPointLinear
from glulam.compiler.ops.matmul import Linear
from glulam.compiler.options import Options
from glulam.compiler.targets import runnable_targets
from glulam.compiler.targets import target as named_target

MACHINES = [
    pytest.param(replace(t, asks_ahead=asks), id=f"{t.name}-{'one stream' if asks else 'a stream for each block'}")
    for t in runnable_targets() for asks in (False, True)
]  # fmt: skip
RNG = np.random.default_rng(21)


def floats(*shape):
    return RNG.uniform(-1, 1, shape).astype(np.float32)


def kept(weights, groups, starts, bits=20):
    """The weights [N, K] in float64 as the 16-bit numbers of groups of blocks of lanes say them."""
    ctx = Context("kernel", named_target("native"), [], [Operand(f32(1))])
    count, blocks, lanes = groups
    depth = weights.shape[1]
    FixedPoint.of(ctx, Packing.copy(weights.reshape(*groups, depth).transpose(0, 3, 1, 2)), starts, "w", DIGITS[bits])
    (numbers,) = (arg.array() for arg in ctx.finished().args)
    together, low_bits = {20: (4, 4), 24: (2, 8)}[bits]
    rounds = -(-depth // together)
    behind = rounds * (together + 1)
    assert (numbers.dtype, numbers.shape) == (np.int16, (count, behind + 2 * len(starts), blocks, lanes))
    rows = numbers[:, :behind].reshape(count, rounds, together + 1, blocks, lanes).astype(np.int64)
    low = (rows[:, :, together:] >> low_bits * np.arange(together).reshape(-1, 1, 1)) % 2**low_bits
    q = ((rows[:, :, :together] << low_bits) + low).reshape(count, -1, blocks, lanes)[:, :depth]
    assert np.abs(q).max() < 2 ** (bits - 1)
    halves = numbers[:, behind:].view(np.uint16).astype(np.uint32)
    scales = (halves[:, ::2] + (halves[:, 1::2] << 16)).view(np.float32)
    parts = np.searchsorted(starts, np.arange(depth), side="right") - 1
    values = q * 2.0 ** (2 - bits) * scales[:, parts].astype(np.float64)
    return values.transpose(0, 2, 3, 1).reshape(weights.shape)


def normal(shape):
    return RNG.standard_normal(shape).astype(np.float32)


def outlier(shape):
    weights = normal(shape)
    weights[:, shape[1] // 2] = 1e6
    return weights


@pytest.mark.parametrize("make", [
    normal, outlier,
    lambda shape: normal(shape) * np.float32(1e-24), lambda shape: normal(shape) * np.float32(1e37),
    lambda shape: np.full(shape, np.finfo(np.float32).max), lambda shape: -np.ones(shape, np.float32),
    lambda shape: np.where(np.arange(shape[1]) < 4, np.zeros(shape, np.float32), normal(shape)),
])  # fmt: skip
@pytest.mark.parametrize(("groups", "depth", "starts"), [
    ((2, 3, 4), 21, (0, 8, 16, 20)), ((1, 1, 5), 1, (0,)), ((3, 1, 8), 7, (0, 4)),
])  # fmt: skip
@pytest.mark.parametrize(("bits", "off"), [(20, 1.126 * 2.0**-20), (24, 3 * 2.0**-24)])
def test_a_weight_is_off_by_little_of_the_largest_of_its_part(make, groups, depth, starts, bits, off):
    weights = make((np.prod(groups), depth))
    parts = np.split(weights.astype(np.float64), starts[1:], axis=1)
    found = np.split(kept(weights, groups, starts, bits), starts[1:], axis=1)
    for part, values in zip(parts, found, strict=True):
        largest = np.abs(part).max(1, keepdims=True)
        assert (np.abs(values - part) <= off * largest).all()


def test_what_is_too_small_for_a_scale_of_its_own_has_the_smallest():
    weights = np.full((4, 8), 1e-37, np.float32)
    weights[:, 4:] = 1e-44
    np.testing.assert_allclose(kept(weights, (1, 1, 4), (0, 4)), weights, rtol=0, atol=2.0**-127)


def root_mean_square(x):
    return np.sqrt((x.astype(np.float64) ** 2).mean(1))


def test_errors_are_small_beside_the_weights_of_a_part_whatever_they_are():
    """As the module says: the largest of m numbers is at most sqrt(m) times their root mean square."""
    weights = np.zeros((4, 384), np.float32)
    weights[:, 0], weights[:, 1:] = 1.0, normal((4, 383)) * np.float32(1e-6)
    for w in (weights, outlier((4, 384)), normal((4, 384))):
        error = root_mean_square(kept(w, (1, 1, 4), (0,)) - w)
        assert (error < 2.0**-16 * root_mean_square(w)).all()


def test_errors_of_normally_distributed_weights_are_as_small_as_the_module_says():
    w = normal((64, 384))
    error = root_mean_square(kept(w, (4, 1, 16), (0,)) - w) / root_mean_square(w)
    assert 0.5 * 2.0**-19 < np.median(error) < 1.1 * 2.0**-19


LAYERS = [
    ((7,), 5), ((1, 33), 17), ((1, 1), 40), ((1, 3), 16), ((2, 3, 16), 64), ((1, 769), 150), ((3, 1541), 33),
    ((5, 19), 1), ((3, 0), 4), ((0, 4), 20), ((30, 8), 16),
]  # fmt: skip


@pytest.mark.parametrize("target", MACHINES)
@pytest.mark.parametrize("native", [False, True])
def test_layers(target, native):
    for shape, columns in LAYERS:
        if not native and shape[-1] > 1000:
            continue
        x, w, bias = floats(*shape), floats(columns, shape[-1]), floats(columns)
        for arrays in ([x, w, bias], [x, w, None]):
            (got,) = run_op(FixedPointLinear(), arrays, (1, 2), target, native)
            (wanted,) = Linear().reference(*arrays)
            rounded = 2.0**-19 * np.sqrt(shape[-1])  # six times the expected error of so many weights
            np.testing.assert_allclose(got, wanted, rtol=1e-5, atol=1e-5 + rounded)


@pytest.mark.parametrize(("changes", "shape"), [
    ({}, (2, 8, 42, 16)), ({"asks_ahead": True}, (2, 42, 8, 16)), ({"l3_rate": 1.0}, (2, 42, 8, 16)),
])  # fmt: skip
def test_blocks_are_streams_of_their_own_where_hardware_alone_asks_ahead(changes, shape):
    """[groups, blocks, rows, lanes], else [groups, rows, blocks, lanes]; 32 weights in 40 rows, and two of scales."""
    machine, weights = replace(named_target("x86-64-v4"), **changes), floats(256, 32)
    ctx = Context("kernel", machine, [Operand(f32(1, 32)), Operand(f32(256, 32), data=weights)], [Operand(f32(1, 256))])
    FixedPointLinear().lower(ctx)
    assert shape in [arg.shape for arg in ctx.finished().args if isinstance(arg, Packing)]


def test_weights_that_are_inputs_or_of_another_type_are_as_they_are():
    x, w = floats(3, 20), floats(33, 20)
    np.testing.assert_array_equal(run_op(FixedPointLinear(), [x, w])[0], run_op(Linear(), [x, w])[0])
    wide = [x.astype(np.float64), w.astype(np.float64)]
    np.testing.assert_array_equal(run_op(FixedPointLinear(), wide, (1,))[0], run_op(Linear(), wide, (1,))[0])


@pytest.mark.parametrize("target", MACHINES)
@pytest.mark.parametrize("activation", [Relu(), Gelu()])
def test_an_epilogue_meets_the_finished_sum(target, activation):
    for rows, depth, columns in ((1, 800, 70), (7, 21, 70)):
        arrays = [floats(rows, depth), floats(columns, depth), floats(columns)]
        region, given = with_relu(FixedPointLinear(), arrays, floats(rows, columns), activation=activation)
        (got,) = run_op(region, given, (1, 2), target)
        np.testing.assert_allclose(got, region.reference(*given)[0], rtol=1e-4, atol=2e-5)


@pytest.mark.parametrize("target", MACHINES)
def test_bits_of_a_row_do_not_depend_on_the_rows_around_it(target):
    x, w = floats(9, 1541), floats(45, 1541)
    (whole,) = run_op(FixedPointLinear(), [x, w], (1,), target)
    (alone,) = run_op(FixedPointLinear(), [x[4:5], w], (1,), target)
    np.testing.assert_array_equal(alone[0], whole[4])


@pytest.mark.parametrize("bad", [np.inf, -np.inf, np.nan])
def test_a_weight_that_is_not_finite_spoils_its_column_alone(bad):
    x, w = floats(2, 20), floats(40, 20)
    w[7, 3] = bad
    (got,) = run_op(FixedPointLinear(), [x, w], (1,))
    assert np.isnan(got[:, 7]).all()
    others = np.delete(np.arange(40), 7)
    np.testing.assert_allclose(got[:, others], x @ w[others].T, rtol=1e-5, atol=1e-5)


def layer(op, rows, weights):
    graph = Graph("g")
    w = graph.constant(weights)
    graph.output("y", graph.apply(op, graph.input("x", f32(rows, weights.shape[1])), w, None))
    return graph


@pytest.mark.parametrize("target", ["x86-64-v4", "x86-64-v3"])
def test_it_is_chosen_where_weights_come_from_memory(target):
    def chosen(rows, nbytes, **options):
        graph = layer(Linear(), rows, np.zeros((nbytes // 4000, 1000), np.float32))
        found, _ = optimise(graph, Options(target=target, **options))
        return "fixed_point_linear" in [node.op.name for node in found.nodes]

    cache = named_target(target).l3_bytes
    assert chosen(1, cache)
    assert not chosen(1, cache, numerics="strict")
    assert not chosen(1, cache // 8), "they stay in a cache"
    assert not chosen(64, cache), "each weight has work for many rows"


def test_it_is_chosen_for_a_small_layer_in_a_network_whose_weights_leave_the_cache():
    cache = named_target("x86-64-v4").l3_bytes

    def chosen(others):
        graph = Graph("g")
        x = graph.apply(Linear(), graph.input("x", f32(1, 512)), graph.constant(floats(600, 512)), None)
        for _ in range(others):
            x = graph.apply(Linear(), x, graph.constant(floats(600, 600)), None)
        graph.output("y", x)
        found, _ = optimise(graph, Options(target="x86-64-v4"))
        return sum(node.op.name == "fixed_point_linear" for node in found.nodes)

    many = cache // (4 * 600 * 600)
    assert chosen(1) == 0
    assert chosen(many) == many + 1


def test_it_is_not_chosen_where_unpacking_takes_longer_than_reading():
    machine = named_target("x86-64-v2")
    graph = layer(Linear(), 1, np.zeros((machine.l3_bytes // 4000, 1000), np.float32))
    found, _ = optimise(graph, Options(target=machine.name))
    assert [node.op.name for node in found.nodes] == ["linear"]


def test_a_model_takes_five_eighths_of_the_memory_and_no_other_bits_with_two_threads():
    weights, x = floats(160, 1000), floats(1, 1000)
    graph = layer(FixedPointLinear(), 1, weights)
    compiled = {n: compile_graph(graph, Options(threads=n)) for n in (1, 2)}
    strict = compile_graph(layer(Linear(), 1, weights), Options(numerics="strict"))
    assert 0.625 <= compiled[1].weights_bytes / strict.weights_bytes < 0.635
    assert sum(step.bytes for step in compiled[1].manifest.steps) < sum(step.bytes for step in strict.manifest.steps)
    one, two = (model.run({"x": x})["y"] for model in compiled.values())
    np.testing.assert_array_equal(one, two)
    (wanted,) = Linear().reference(x, weights)
    np.testing.assert_allclose(one, wanted, rtol=1e-5, atol=1e-5 + 2.0**-19 * np.sqrt(1000))
