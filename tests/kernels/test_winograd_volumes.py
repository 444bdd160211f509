"""Winograd's convolution of volumes: of each frame of the result those of the input add up that its taps meet."""

from dataclasses import replace

import numpy as np
import pytest
from harness import run_op
from machines import ZEN4
from rewrites import rewrite

import glulam as gl
from glulam.compiler.graph.layout import PLAIN, Layout
from glulam.compiler.graph.types import TensorType, f32
from glulam.compiler.kernels.conv_geometry import ConvGeometry
from glulam.compiler.kernels.frames import Frames
from glulam.compiler.ops.winograd import WinogradConv
from glulam.compiler.passes.choose_algorithm import ChooseAlgorithm
from glulam.compiler.targets import runnable_targets, target

TARGETS = [t.name for t in runnable_targets()]


def volumes(outputs, taps, *, strides=(1, 1, 1), pads=((1, 1),) * 3, dilations=(1, 1, 1), groups=1):
    return WinogradConv(strides, pads, dilations, groups, outputs, taps)


CASES = [
    ((1, 17, 4, 7, 13), 33, 3, volumes((4, 4), (3, 3))),
    ((2, 3, 7, 13, 7), 17, 3, volumes((2, 2), (3, 3), pads=((0, 2), (1, 1), (0, 2)))),
    ((1, 33, 5, 6, 6), 16, 3, volumes((6, 6), (3, 3), strides=(2, 1, 1))),
    ((2, 16, 7, 9, 9), 17, 3, volumes((2, 2), (3, 3), strides=(2, 2, 2))),
    ((1, 3, 2, 9, 20), 16, 2, volumes((4, 4), (7, 7), strides=(1, 2, 2), pads=((1, 0), (3, 3), (3, 3)))),
    ((1, 5, 6, 7, 7), 3, 3, volumes((4, 4), (3, 3), dilations=(2, 1, 1), pads=((2, 2), (1, 1), (1, 1)))),
    ((1, 32, 3, 7, 7), 48, 3, volumes((4, 4), (3, 3), pads=((4, 4), (1, 1), (1, 1)))),  # frames that meet nothing
    ((1, 17, 3, 5, 13), 16, 1, volumes((1, 6), (1, 3), pads=((0, 0), (0, 0), (1, 1)))),
]


def data(case):
    shape, outs, taps, op = case
    rng = np.random.default_rng(0)
    kernel = (outs, shape[1] // op.groups, taps, *op.taps)
    w = rng.standard_normal(kernel) / np.sqrt(np.prod(kernel[1:]))
    arrays = [rng.standard_normal(shape), w, rng.standard_normal(outs)]
    return op, [a.astype(np.float32) for a in arrays]


def near(got, expected):
    np.testing.assert_allclose(got, expected, rtol=0, atol=2e-5 * np.abs(expected).max())


@pytest.mark.parametrize("name", TARGETS)
@pytest.mark.parametrize("case", CASES, ids=str)
@pytest.mark.parametrize("threads", [1, 2])
def test_native_equals_reference(name, case, threads):
    op, arrays = data(case)
    (got,) = run_op(op, arrays, constants=(1, 2), target=replace(target(name), threads=threads), out_halo=1)
    near(got, op.reference(*arrays)[0])


@pytest.mark.parametrize("case", CASES, ids=str)
def test_interpreter_equals_native(case):
    op, arrays = data(case)
    slow, fast = (run_op(op, arrays, constants=(1, 2), native=native)[0] for native in (False, True))
    near(fast, slow)


@pytest.mark.parametrize("name", TARGETS)
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("pads", [(1, 1), (0, 2)])
@pytest.mark.parametrize("added", [False, True])
def test_few_channels_are_read_plain(name, channels, pads, added):
    op = volumes((4, 4), (3, 3), pads=(pads, (1, 1), (1, 1)))
    op = replace(op, strides=(1, 2, 2), added=True) if added else op
    op, arrays = data(((1, channels, 4, 9, 37), 33, 3, op))
    plain = Layout(1, op.padding(0, [TensorType.of(a) for a in arrays]).spans)
    for native in (True, False) if channels == 1 and name == TARGETS[0] else (True,):
        (got,) = run_op(op, arrays, (1, 2), name, native=native, in_layouts=[plain, PLAIN, PLAIN])
        near(got, op.reference(*arrays)[0])


@pytest.mark.parametrize("name", TARGETS)
def test_groups_of_whole_blocks(name):
    case = data(((1, 64, 3, 7, 7), 96, 3, volumes((4, 4), (3, 3), groups=2)))
    near(run_op(case[0], case[1], constants=(1, 2), target=name)[0], case[0].reference(*case[1])[0])


@pytest.mark.parametrize("name", TARGETS)
@pytest.mark.parametrize("case", CASES, ids=str)
@pytest.mark.parametrize("threads", [1, 2])
def test_stages_make_up_the_convolution(name, case, threads):
    """Each equals its reference, and what the last one gives is the definition's."""
    op, (x, w, bias) = data(case)
    (expected,) = op.reference(x, w, bias)
    machine = replace(target(name), threads=threads)
    first, second, third = op.stages(machine.lanes, expected.shape)
    (tiles,) = first.reference(x)
    (products,) = second.reference(tiles, w)
    near(third.reference(products, bias)[0], expected)
    for stage, inputs, constants in ((first, [x], ()), (second, [tiles, w], (1,)), (third, [products, bias], (1,))):
        (wanted,) = stage.reference(*inputs)
        assert stage.infer(*(f32(*a.shape) for a in inputs))[0].shape == wanted.shape
        for native in (True, False) if name == TARGETS[0] else (True,):
            near(run_op(stage, inputs, constants, machine, native=native)[0], wanted)


@pytest.mark.parametrize("bits", [20, 24])
@pytest.mark.parametrize("threads", [1, 2])
def test_products_of_filters_in_fewer_bits(bits, threads):
    op, (x, w, _) = data(((1, 32, 4, 7, 7), 49, 3, volumes((2, 2), (3, 3))))
    machine = replace(target("native"), threads=threads)
    first, second, _ = replace(op, bits=bits).stages(machine.lanes, (1, 49, 4, 7, 7))
    (tiles,) = first.reference(x)
    near(run_op(second, [tiles, w], (1,), machine)[0], second.reference(tiles, w)[0])


def test_frames_that_see_the_same_taps():
    geometry = ConvGeometry((3, 3, 3), (1, 1, 1), (1, 1, 1), ((1, 1),) * 3)
    frames = Frames.of(geometry, (8, 5, 5), (8, 5, 5))
    assert [(part.first, part.count, part.taps) for part in frames.parts] == [
        (0, 1, range(1, 3)), (1, 6, range(3)), (7, 1, range(2)),
    ]  # fmt: skip
    assert frames.met == 22 / 8
    assert Frames.of(ConvGeometry((3, 3), (1, 1), (1, 1), ((1, 1),) * 2), (5, 5), (5, 5)) == Frames()


# ---- the choice


def chosen(change):
    case = {"frames": 4, "side": 24, "channels": 64, "kernel": 3, "strides": (1, 1, 1), "apart": (1, 1, 1)} | change
    text = f"""input %x: f32[1,{case["channels"]},{case["frames"]},{case["side"]},{case["side"]}]
const %w: f32[64,{case["channels"]},3,{case["kernel"]},{case["kernel"]}] = random
%y = conv(%x, %w) {{strides={case["strides"]}, pads=((1, 1), (1, 1), (1, 1)), dilations={case["apart"]}, groups=1}}
output z = %y"""
    return rewrite(text, ChooseAlgorithm(ZEN4))


@pytest.mark.parametrize(
    "change",
    [{}, {"strides": (2, 1, 1)}, {"strides": (2, 2, 2)}, {"channels": 70}, {"apart": (2, 1, 1)},
     {"channels": 3, "kernel": 7, "side": 96}],
    ids=str,
)  # fmt: skip
def test_winograds_algorithm_is_chosen_for_volumes(change):
    result = chosen(change)
    assert result.ops == "winograd_conv"
    assert result.error < 1e-5


@pytest.mark.parametrize("change", [{"strides": (1, 3, 3)}, {"kernel": 1}, {"apart": (1, 2, 2), "strides": (1, 2, 2)}])
def test_the_definition_is_left_where_it_does_not_serve(change):
    result = chosen(change)
    assert result.ops == "conv"
    assert "no winograd: " in result.declined


def test_strict_numerics_leave_volumes_to_the_definition():
    net = gl.Sequential([gl.layers.Input((32, 4, 14, 14)), gl.layers.Conv3d(32, 3, padding=1)])
    steps = {numerics: gl.compile(net, numerics=numerics).manifest.steps for numerics in ("fast", "strict")}
    assert any("winograd" in step.kernel for step in steps["fast"])
    assert not any("winograd" in step.kernel for step in steps["strict"])
