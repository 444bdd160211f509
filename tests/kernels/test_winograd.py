"""Winograd's convolution equals the definition, whatever the shape of image, tiles at the edges, and channels."""

from dataclasses import replace

import numpy as np
import pytest
from harness import run_op

from glulam.compiler.driver import compile_graph
from glulam.compiler.graph.graph import Graph
from glulam.compiler.graph.types import f32
from glulam.compiler.kernels import conv_winograd
from glulam.compiler.kernels.winograd import F4, FILTERINGS
from glulam.compiler.ops import Relu
from glulam.compiler.ops.winograd import WinogradConv, WinogradInput, WinogradOutput, WinogradProducts
from glulam.compiler.targets import runnable_targets, target

TARGETS = [t.name for t in runnable_targets()]


def conv(shape, out_channels, pads, seed=0, outputs=4):
    rng = np.random.default_rng(seed)
    x = rng.standard_normal(shape).astype(np.float32)
    w = (rng.standard_normal((out_channels, shape[1], 3, 3)) / np.sqrt(9 * shape[1])).astype(np.float32)
    bias = rng.standard_normal(out_channels).astype(np.float32)
    return WinogradConv((1, 1), pads, (1, 1), 1, outputs), [x, w, bias]


SHAPES = [
    ((1, 1, 3, 3), 1, ((0, 0), (0, 0))),
    ((1, 3, 7, 13), 17, ((1, 1), (1, 1))),
    ((2, 17, 13, 7), 33, ((0, 2), (3, 1))),
    ((1, 33, 1, 1), 16, ((1, 1), (1, 1))),
    ((1, 16, 4, 8), 16, ((1, 1), (1, 1))),
]


@pytest.mark.parametrize("name", TARGETS)
@pytest.mark.parametrize("case", SHAPES, ids=str)
@pytest.mark.parametrize("outputs", sorted(FILTERINGS))
@pytest.mark.parametrize("out_halo", [0, 2])
def test_native_equals_reference(name, case, outputs, out_halo):
    op, arrays = conv(*case, outputs=outputs)
    (expected,) = op.reference(*arrays)
    (got,) = run_op(op, arrays, constants=(1, 2), target=name, out_halo=out_halo)
    np.testing.assert_allclose(got, expected, rtol=0, atol=2e-5 * np.abs(expected).max())


def test_interpreter_equals_native():
    op, arrays = conv((1, 3, 5, 6), 17, ((1, 1), (1, 1)))
    (slow,) = run_op(op, arrays, constants=(1, 2), native=False)
    (fast,) = run_op(op, arrays, constants=(1, 2))
    np.testing.assert_allclose(fast, slow, rtol=1e-6, atol=1e-6)


def test_without_bias_and_with_nan():
    op, (x, w, _) = conv((1, 5, 9, 9), 20, ((1, 1), (1, 1)))
    x[0, 2, 4, 4] = np.nan
    (expected,) = op.reference(x, w, None)
    (got,) = run_op(op, [x, w, None], constants=(1,))
    # A NaN reaches every output of the tiles that read it, which are more than the definition's nine.
    assert np.isnan(got[np.isnan(expected)]).all()
    clean = ~np.isnan(got)
    np.testing.assert_allclose(got[clean], expected[clean], rtol=0, atol=1e-5)


@pytest.mark.parametrize("shape", [(56, 56), (7, 7), (13, 30), (1, 100)])
@pytest.mark.parametrize("channels", [(64, 64), (3, 17), (512, 512)])
def test_plan_cuts_evenly(shape, channels):
    plan = conv_winograd.choose_plan(target("x86-64-v3"), 1, shape, *channels, F4)
    height, width = map(F4.tiles_along, shape)
    assert height % plan.rows == 0
    assert width % plan.columns == 0


@pytest.mark.parametrize("f", FILTERINGS.values(), ids=lambda f: f"F({f.outputs})")
def test_transforms_are_winograds(f):
    """A^T [(G g) * (B^T d)] is the correlation of any d with any g."""
    rng = np.random.default_rng(1)
    d, g = rng.standard_normal(f.inputs), rng.standard_normal(3)
    product = (f.filter_transform @ g) * (f.input_transform @ d)
    np.testing.assert_allclose(f.output_transform @ product, np.correlate(d, g), rtol=1e-12)


def stages(op, x, w, bias, lanes):
    """The three ops of a convolution in stages, each with its inputs from the references of those before it."""
    (type,) = op.infer(f32(*x.shape), f32(*w.shape), f32(*bias.shape))
    first = WinogradInput(op.pads, op.outputs, lanes)
    second = WinogradProducts(type.shape, op.outputs, lanes)
    third = WinogradOutput(type.shape, op.outputs, lanes)
    (tiles,) = first.reference(x)
    (products,) = second.reference(tiles, w)
    return [(first, [x], ()), (second, [tiles, w], (1,)), (third, [products, bias], (1,))]


@pytest.mark.parametrize("case", SHAPES, ids=str)
@pytest.mark.parametrize("outputs", sorted(FILTERINGS))
def test_stages_make_up_the_convolution(case, outputs):
    op, arrays = conv(*case, outputs=outputs)
    (result,) = (op.reference(*inputs) for op, inputs, _ in stages(op, *arrays, lanes=8)[2:])
    (expected,) = op.reference(*arrays)
    np.testing.assert_allclose(result[0], expected, rtol=0, atol=2e-5 * np.abs(expected).max())


@pytest.mark.parametrize("name", TARGETS)
@pytest.mark.parametrize("case", SHAPES, ids=str)
@pytest.mark.parametrize("outputs", sorted(FILTERINGS))
def test_each_stage_equals_its_reference(name, case, outputs):
    op, arrays = conv(*case, outputs=outputs)
    for stage, inputs, constants in stages(op, *arrays, lanes=target(name).lanes):
        assert stage.infer(*(f32(*a.shape) for a in inputs))[0].shape == stage.reference(*inputs)[0].shape
        (expected,) = stage.reference(*inputs)
        for native in (True, False) if name == TARGETS[0] and case == SHAPES[1] else (True,):
            (got,) = run_op(stage, inputs, constants=constants, target=name, native=native)
            np.testing.assert_allclose(got, expected, rtol=0, atol=2e-5 * np.abs(expected).max())


def test_a_staged_convolution_is_three_kernels_with_the_epilogue_in_the_last():
    op, (x, w, bias) = conv((1, 20, 9, 10), 33, ((1, 1), (0, 2)))
    graph = Graph("g")
    y = graph.apply(replace(op, staged=True), graph.input("x", f32(*x.shape)), graph.constant(w), graph.constant(bias))
    graph.output("y", graph.apply(Relu(), y))
    model = compile_graph(graph)
    assert [step.kernel.split("_", 1)[1] for step in model.profile({"x": x}, repeat=1).steps][-4:] == [
        "winograd_input", "winograd_products", "fused_winograd_output", "reorder",
    ]  # fmt: skip
    (expected,) = op.reference(x, w, bias)
    np.testing.assert_allclose(model.run({"x": x})["y"], np.maximum(expected, 0), rtol=0, atol=1e-4)


def test_type_is_the_convolutions():
    op, _ = conv((1, 3, 7, 13), 17, ((1, 1), (1, 1)))
    assert op.infer(f32(1, 3, 7, 13), f32(17, 3, 3, 3), f32(17)) == (f32(1, 17, 7, 13),)
    assert op.padding(0, [f32(1, 3, 7, 13), f32(17, 3, 3, 3), None]).spans == ((1, 2), (1, 4))
