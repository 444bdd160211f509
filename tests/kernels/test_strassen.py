"""One step of Strassen's algorithm equals the definition, whatever the rows, layouts and batch."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from executors import assert_close
from harness import run_op

from glulam.compiler.driver import compile_graph, optimise
from glulam.compiler.errors import ShapeError
from glulam.compiler.graph.graph import Graph
from glulam.compiler.graph.layout import PLAIN
from glulam.compiler.graph.types import TensorType, f32
from glulam.compiler.kernels.context import Context, Epilogue
from glulam.compiler.kernels.operand import Operand
from glulam.compiler.loops.expr import Param, tanh
from glulam.compiler.ops import Add, Conv, Linear, Relu
from glulam.compiler.ops.strassen import StrassenConv, StrassenLinear, StrassenProducts, StrassenSums
from glulam.compiler.options import Options
from glulam.compiler.targets import runnable_targets, target

TARGETS = [t.name for t in runnable_targets()]
SHAPES = [
    (False, (1, 32, 2), 32),
    (False, (2, 64, 7, 5), 96),
    (False, (2, 64, 3, 14), 32),
    (False, (1, 32, 26), 64),
    (False, (1, 32, 2, 3, 18), 64),
    (False, (1, 32, 13, 1), 64),
    (False, (1, 96, 3, 2, 4), 32),
    (True, (2, 13, 64), 96),
    (True, (1, 2, 32), 32),
    (True, (1, 7, 3, 32), 64),
    (False, (2, 32, 27), 64),
    (True, (2, 3, 14, 32), 64),
    (True, (2, 17, 64), 96),
    (True, (1, 3, 2, 16, 32), 32),
]


def layer(last, shape, outputs, seed=0):
    """x, its sums, w and bias."""
    rng = np.random.default_rng(seed)
    x = rng.standard_normal(shape).astype(np.float32)
    channels = shape[-1] if last else shape[1]
    w = rng.standard_normal((outputs, channels, *(() if last else (1,) * (len(shape) - 2)))).astype(np.float32)
    (sums,) = StrassenSums(last).reference(x)
    return [x, sums, w, rng.standard_normal(outputs).astype(np.float32)]


def definition(last, x, w, bias):
    op = Linear() if last else Conv((1,) * (x.ndim - 2), ((0, 0),) * (x.ndim - 2), (1,) * (x.ndim - 2), 1)
    return op.reference(x, w, bias)[0]


@pytest.mark.parametrize("case", SHAPES, ids=str)
def test_sums_and_products_make_up_the_layer(case):
    x, sums, w, bias = layer(*case)
    assert_close(StrassenProducts(case[0]).reference(x, sums, w, bias)[0], definition(case[0], x, w, bias))
    assert_close(StrassenProducts(case[0]).reference(x, sums, w, None)[0], definition(case[0], x, w, None))


@pytest.mark.parametrize("name", TARGETS)
@pytest.mark.parametrize("case", SHAPES, ids=str)
@pytest.mark.parametrize("out_halo", [0, 2])
def test_native_equals_reference(name, case, out_halo):
    last, arrays = case[0], layer(*case)
    assert_close(run_op(StrassenSums(last), arrays[:1], target=name)[0], arrays[1])
    (got,) = run_op(StrassenProducts(last), arrays, constants=(2, 3), target=name, out_halo=out_halo)
    assert_close(got, definition(last, arrays[0], *arrays[2:]))


@pytest.mark.parametrize("asks", [False, True])
def test_the_next_groups_weights_are_asked_for_where_that_is_sooner_though_many_tiles_share_them(asks, prefetched):
    arrays, machine = layer(True, (1, 600, 64), 128), replace(target("native"), asks_ahead=asks)
    (got,) = run_op(StrassenProducts(True), arrays, constants=(2, 3), target=machine)
    assert prefetched == ({"w"} if asks else set())
    assert_close(got, definition(True, arrays[0], *arrays[2:]))


@pytest.mark.parametrize("name", TARGETS)
@pytest.mark.parametrize("shape", [(2, 25, 32), (1, 7, 32), (1, 2, 32), (1, 197, 32)])
def test_an_iteration_takes_all_tiles_of_weights_that_would_come_from_afar_again(shape, name):
    """Whatever is behind the tiles, for one thread and for halves; with the same bits as tile by tile."""
    arrays = layer(True, shape, 2048)
    found = [
        run_op(StrassenProducts(True), arrays, (2, 3), replace(target(name), l2_bytes=size, threads=threads))[0]
        for size in (1 << 10, 1 << 30) for threads in (1, 2, 4)
    ]  # fmt: skip
    assert_close(found[0], definition(True, arrays[0], *arrays[2:]))
    for other in found[1:]:
        np.testing.assert_array_equal(other, found[0])


@pytest.mark.parametrize("name", TARGETS)
@pytest.mark.parametrize(("last", "shape", "out_halo"), [
    (True, (2, 411, 64), 0), (True, (1, 700, 96), 0), (False, (1, 64, 29, 27), 2), (False, (2, 64, 12, 36), 2),
    (False, (1, 96, 27, 28), 0),
])  # fmt: skip
def test_many_tiles_are_computed_product_by_product_where_their_weights_do_not_stay_near(last, shape, out_halo, name):
    """With the same bits; some tiles at a time, for one thread and for halves."""
    for outputs in (1024, 544):  # the second leaves a group of fewer blocks
        arrays, found = layer(last, shape, outputs), []
        for l2, threads in ((1 << 30, 1), (1 << 15, 1), (1 << 16, 1), (1 << 16, 2)):
            machine = replace(target(name), l2_bytes=l2, threads=threads)
            found += run_op(StrassenProducts(last), arrays, (2, 3), machine, out_halo=out_halo)
        assert_close(found[0], definition(last, arrays[0], *arrays[2:]))
        for other in found[1:]:
            np.testing.assert_array_equal(other, found[0])


@pytest.mark.parametrize("asks", [False, True])
def test_products_that_wait_for_others_have_slots_of_their_own(asks):
    """Unless the weights of all products are asked for ahead."""
    machine, arrays = replace(target("x86-64-v4"), l2_bytes=1 << 16, asks_ahead=asks), layer(True, (1, 411, 64), 1024)
    operands = [Operand(TensorType.of(a), PLAIN, None, a if i > 1 else None) for i, a in enumerate(arrays)]
    ctx = Context("kernel", machine, operands, [Operand(f32(1, 411, 1024))])
    scratch = StrassenProducts(True).lower(ctx).kernel.scratch
    assert any(buffer.shape[0] > 1 for buffer in scratch) == (not asks)


STRIDED = [
    ((1, 32, 13, 7), (2, 2), 32),
    ((2, 64, 5, 57), (1, 2), 96),
    ((1, 32, 28, 28), (2, 2), 64),
    ((1, 32, 6, 5), (3, 1), 32),
    ((1, 64, 29), (2,), 32),
    ((1, 32, 5, 3, 27), (2, 1, 2), 32),
]


@pytest.mark.parametrize("name", TARGETS)
@pytest.mark.parametrize(("shape", "strides", "outputs"), STRIDED, ids=str)
def test_strides_take_some_pixels_and_halve_those(name, shape, strides, outputs):
    rng = np.random.default_rng(3)
    x, bias = (rng.standard_normal(s).astype(np.float32) for s in (shape, (outputs,)))
    w = rng.standard_normal((outputs, shape[1], *(1,) * len(strides))).astype(np.float32)
    axes = len(strides)
    (expected,) = Conv(strides, ((0, 0),) * axes, (1,) * axes, 1).reference(x, w, bias)
    first, second = StrassenSums(False, strides), StrassenProducts(False, strides)
    (sums,) = first.reference(x)
    assert_close(second.reference(x, sums, w, bias)[0], expected)
    for native in (True, False) if x.size < 20000 else (True,):
        assert_close(run_op(first, [x], target=name, native=native)[0], sums)
        (got,) = run_op(
            second, [x, sums, w, bias], constants=(2, 3), target=name, native=native, out_halo=1,
            epilogue=Epilogue(Param(0) * 2.0),
        )  # fmt: skip
        assert_close(got, 2 * expected)


def test_strides_for_other_axes_are_refused():
    for op, x in ((StrassenSums(True, (2,)), f32(1, 8, 32)), (StrassenSums(False, (2,)), f32(1, 32, 8, 8))):
        with pytest.raises(ShapeError, match="strides"):
            op.infer(x)


def test_a_downsampling_convolution_of_one_tap_is_chosen_and_exact():
    rng = np.random.default_rng(0)
    x = rng.standard_normal((1, 512, 28, 28), np.float32)
    w = (rng.standard_normal((512, 512, 1, 1)) / 512).astype(np.float32)
    op = Conv((2, 2), ((0, 0), (0, 0)), (1, 1), 1)
    graph = Graph("g")
    graph.output("y", graph.apply(op, graph.input("x", f32(*x.shape)), graph.constant(w), None))
    options = Options(target=TARGETS[0])
    assert any(node.op == StrassenProducts(False, (2, 2)) for node in optimise(graph, options)[0].nodes)
    with compile_graph(graph, options) as model:
        assert_close(model.run({"x": x})["y"], op.reference(x, w, None)[0])


@pytest.mark.parametrize("last", [False, True])
def test_interpreter_equals_native(last):
    arrays = layer(last, (1, 5, 32) if last else (1, 32, 2, 14), 32)
    for op, inputs, constants in ((StrassenSums(last), arrays[:1], ()), (StrassenProducts(last), arrays, (2, 3))):
        (slow,) = run_op(op, inputs, constants=constants, native=False, target="x86-64-v4")
        (fast,) = run_op(op, inputs, constants=constants, target="x86-64-v4")
        assert_close(fast, slow)


EPILOGUES = {"long": (tanh(Param(0)), np.tanh), "short": (Param(0) * 2.0, lambda y: 2 * y)}


@pytest.mark.parametrize("kind", EPILOGUES)
@pytest.mark.parametrize("case", SHAPES, ids=str)
def test_epilogue_meets_every_quarter(case, kind):
    formula, apply = EPILOGUES[kind]
    x, sums, w, bias = layer(*case)
    (got,) = run_op(StrassenProducts(case[0]), [x, sums, w, bias], constants=(2, 3), epilogue=Epilogue(formula))
    assert_close(got, apply(definition(case[0], x, w, bias)))


def residual_block(op, last):
    """relu(layer(x) + x) as a graph, its input and the expected output."""
    x, _, w, bias = layer(last, (1, 9, 64) if last else (1, 64, 9, 5), 64)
    graph = Graph("g")
    value = graph.input("x", f32(*x.shape))
    y = graph.apply(op, value, graph.constant(w), graph.constant(bias))
    graph.output("y", graph.apply(Relu(), graph.apply(Add(), y, value)))
    return graph, x, np.maximum(definition(last, x, w, bias) + x, 0)


POINTWISE = Conv((1, 1), ((0, 0), (0, 0)), (1, 1), 1)


@pytest.mark.parametrize("last", [False, True])
def test_a_layer_is_two_kernels_with_the_epilogue_in_the_second(last):
    op = StrassenLinear() if last else StrassenConv(**POINTWISE.attributes())
    graph, x, expected = residual_block(op, last)
    model = compile_graph(graph)
    kernels = [step.kernel.split("_", 1)[1] for step in model.manifest.steps if "reorder" not in step.kernel]
    assert kernels == ["strassen_sums", "fused_strassen_products"]
    assert_close(model.run({"x": x})["y"], expected)
    one, two = (compile_graph(graph, Options(threads=threads)).run({"x": x})["y"] for threads in (1, 2))
    np.testing.assert_array_equal(one, two)


def test_layers_that_read_the_same_tensor_share_its_sums():
    x, _, w, bias = layer(True, (1, 8, 32), 32)
    graph = Graph("g")
    value = graph.input("x", f32(*x.shape))
    for i in range(3):
        y = graph.apply(StrassenLinear(), value, graph.constant(w * (i + 1)), graph.constant(bias))
        graph.output(f"y{i}", y)
    ops = [node.op.name for node in optimise(graph, Options())[0].nodes]
    assert ops.count("strassen_sums") == 1
    assert ops.count("strassen_products") == 3


def large(last, height):
    """A layer in which seven products instead of eight pay, if there are pixels to halve."""
    shape = (1, height, 512) if last else (1, 512, height, 27)
    channels = (512, 512) if last else (512, 512, 1, 1)
    graph = Graph("g")
    value, w = graph.input("x", f32(*shape)), graph.constant(np.ones(channels, np.float32))
    graph.output("y", graph.apply(Linear() if last else POINTWISE, value, w, None))
    return graph


@pytest.mark.parametrize("last", [False, True])
def test_it_is_chosen_where_it_pays_and_kept_out_otherwise(last):
    def chosen(graph, **options):
        nodes = optimise(graph, Options(target="x86-64-v3", **options))[0].nodes
        return any("strassen" in node.op.name for node in nodes)

    assert chosen(large(last, 28 if not last else 512))
    assert not chosen(large(last, 1)), "one row of an odd number of pixels has no halves"
    assert not chosen(large(last, 28 if not last else 512), numerics="strict")


def test_it_stays_within_a_sample():
    """Rows of different samples are not mixed: one that is not finite spoils no other."""
    x, _, w, bias = layer(True, (3, 4, 32), 32)
    x[1] = np.nan
    graph = Graph("g")
    y = graph.apply(StrassenLinear(), graph.input("x", f32(*x.shape)), graph.constant(w), graph.constant(bias))
    graph.output("y", y)
    got = compile_graph(graph).run({"x": x})["y"]
    assert np.isnan(got[1]).all()
    assert_close(got[::2], definition(True, x[::2], w, bias))


def test_two_dimensional_inputs_may_be_samples():
    graph = Graph("g")
    w = graph.constant(np.ones((512, 512), np.float32))
    graph.output("y", graph.apply(Linear(), graph.input("x", f32(512, 512)), w, None))
    assert all("strassen" not in node.op.name for node in optimise(graph, Options())[0].nodes)


def test_type_is_the_layers():
    op = StrassenConv(**POINTWISE.attributes())
    assert op.infer(f32(1, 32, 7, 7), f32(64, 32, 1, 1), f32(64)) == (f32(1, 64, 7, 7),)
