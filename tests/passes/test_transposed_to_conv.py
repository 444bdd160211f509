"""Transposed convolutions to few channels become convolutions and shuffles of pixels."""

from __future__ import annotations

import numpy as np
import pytest
from machines import MESH, ZEN4
from rewrites import compiled, graph_of, rewrite

import glulam as gl
from glulam.compiler.driver import compile_graph
from glulam.compiler.graph.patch import Patch
from glulam.compiler.options import Options
from glulam.compiler.passes import transposed_to_conv
from glulam.compiler.passes.transposed_to_conv import TransposedToConv
from glulam.compiler.targets import runnable_targets, target

PASS = TransposedToConv(target("x86-64-v4"))


def transposed(channels=1, kernel=9, strides=(4, 4), pads=4, dilations=1, groups=1, more="", weights="const"):
    given = f"const %w: f32[32,{channels},{kernel},{kernel}] = random"
    if weights == "input":
        given = f"input %w: f32[32,{channels},{kernel},{kernel}]"
    return rewrite(
        f"""input %x: f32[1,32,24,40]
{given}
const %b: f32[{channels * groups}] = random
%y = conv_transpose(%x, %w, %b) {{strides={strides}, pads=(({pads}, {pads}), ({pads}, {pads})), \
dilations=({dilations}, {dilations}), output_padding=(0, 0), groups={groups}}}
{more}output z = %y""",
        PASS,
    )


@pytest.mark.parametrize("strides", [(4, 4), (2, 3), (1, 4)])
def test_fires(strides):
    result = transposed(strides=strides)
    assert result.ops == "conv reshape transpose reshape slice"
    assert result.error < 1e-5
    assert "as convolution and shuffle" in result.taken[0]


@pytest.mark.parametrize(("kernel", "stride", "pads"), [(6, 2, 2), (9, 4, 4)])  # the latter cuts off pixels
def test_whole_blocks_of_channels_stay_blocks(kernel, stride, pads):
    text = f"""input %x: f32[1,64,8,64]
const %w: f32[64,32,{kernel},{kernel}] = random
const %b: f32[32] = random
%y = conv_transpose(%x, %w, %b) {{strides=({stride}, {stride}), pads=(({pads}, {pads}), ({pads}, {pads})), \
dilations=(1, 1), output_padding=(0, 0), groups=1}}
%r = relu(%y)
const %v: f32[16,32,3,3] = random
%z = conv(%r, %v) {{strides=(1, 1), pads=((1, 1), (1, 1)), dilations=(1, 1), groups=1}}
output z = %z"""
    result = rewrite(text, PASS)
    assert result.ops == "conv depth_to_space relu conv"
    assert result.error < 1e-5
    for machine in runnable_targets():
        for threads in (1, 2):
            ops = compiled(text, Options(target=machine.name, threads=threads)).split()
            assert not {"reshape", "transpose"} & set(ops)


@pytest.mark.parametrize(
    "change", [{}, {"dilations": 3}, {"groups": 4}, {"kernel": 2, "pads": 0}, {"channels": 64}], ids=str
)
def test_strides_of_one_leave_a_convolution(change):
    result = transposed(strides=(1, 1), **change)
    assert result.ops == "conv"
    assert result.error < 1e-5
    assert "strides are 1" in result.taken[0]


def test_fires_for_groups_of_few_outputs():
    result = transposed(channels=3, kernel=8, pads=2, groups=2)
    assert result.ops == "conv reshape transpose reshape"
    assert result.error < 1e-5


def test_counts_on_winograd_unless_the_numerics_are_strict():
    graph = graph_of(
        """input %x: f32[1,64,32,32]
const %w: f32[64,4,4,4] = random
%y = conv_transpose(%x, %w) {strides=(2, 2), pads=((1, 1), (1, 1)), dilations=(1, 1), output_padding=(0, 0), groups=4}
output y = %y"""
    )
    (node,) = graph.nodes
    lines = [transposed_to_conv._Line.of(4, 2, 1, 1, 32, 64)] * 2
    conv = transposed_to_conv._convolution(Patch(graph, ""), node, lines, phases_first=False)
    fast, strict = (TransposedToConv(PASS.target, exact).costs(node, conv) for exact in (False, True))
    assert fast[0] == strict[0]
    assert fast[1] < strict[1]


@pytest.mark.parametrize(("kernel", "pad"), [(4, 1), (4, 0), (2, 0)], ids=["3 taps for 2", "2 for 2", "1 for 1"])
def test_strict_numerics_add_no_zeros_to_taps(kernel, pad):
    """An infinite input would make NaN of what the definition does not let it meet."""
    graph = graph_of(
        f"""input %x: f32[1,64,9,9]
const %w: f32[64,4,{kernel},{kernel}] = positive
%y = conv_transpose(%x, %w) {{strides=(2, 2), \
pads=(({pad}, {pad}), ({pad}, {pad})), dilations=(1, 1), output_padding=(0, 0), groups=1}}
output y = %y"""
    )
    report = TransposedToConv(PASS.target, strict=True).run(graph.copy())
    assert ("a phase lacks" in report.decisions[0].reason) == (pad == 1)
    x = np.ones((1, 64, 9, 9), np.float32)
    x[0, 3, 4, 4] = np.inf
    with compile_graph(graph, Options(numerics="strict")) as model:
        assert np.isinf(model(x)).sum() == 4 * kernel**2
        assert not np.isnan(model(x)).any()


@pytest.mark.parametrize("machine", [ZEN4, MESH], ids=lambda machine: machine.name)
def test_declines_where_the_convolution_has_many_taps_more(machine):
    result = rewrite(
        """input %x: f32[1,256,14,14]
const %w: f32[256,128,3,3] = random
%y = conv_transpose(%x, %w) {strides=(2, 2), pads=((1, 0), (1, 0)), dilations=(1, 1), output_padding=(0, 0), groups=1}
output y = %y""",
        TransposedToConv(machine),
    )
    assert result.ops == "conv_transpose", "four phases have 9 taps together, the convolution's channels 16"


def test_fires_on_a_second_use_and_a_graph_output():
    result = transposed(kernel=4, pads=1, strides=(2, 2), more="%r = relu(%y)\noutput r = %r\n")
    assert result.ops == "conv reshape transpose reshape relu"
    assert result.error < 1e-5


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"channels": 64, "kernel": 2, "strides": (2, 2), "pads": 0}, "as convolution and shuffle"),
        ({"channels": 16, "groups": 2, "kernel": 2, "strides": (2, 2), "pads": 0}, "as convolution and shuffle"),
        ({"dilations": 2}, "dilation with strides"),
        ({"pads": 20}, "cut off inputs"),
        ({"strides": (1, 1), "pads": 9}, "cut off inputs"),
    ],
    ids=str,
)
def test_declines(change, why):
    result = transposed(**change)
    assert result.ops == "conv_transpose"
    assert why in result.declined
    assert not result.taken


@pytest.mark.parametrize("name", [t.name for t in runnable_targets()])
@pytest.mark.parametrize(
    ("kernel", "stride", "padding", "output_padding"),
    [(9, 4, 4, 3), (4, 2, 1, 0), (3, 2, 1, 1), (5, 3, 0, 0), (3, 5, 0, 2), (7, 2, 5, 0), (2, 3, 1, 1), (4, 1, 2, 0)],
)
@pytest.mark.parametrize(("inputs", "channels", "groups"), [(17, 1, 1), (17, 3, 1), (6, 6, 2), (17, 34, 17)])
def test_native_code_computes_the_definition(
    name, kernel, stride, padding, output_padding, inputs, channels, groups, monkeypatch
):
    """Odd extents, phases without taps, pads wider than the kernel, and pixels that no input reaches."""
    monkeypatch.setattr(TransposedToConv, "costs", lambda self, node, conv: (2.0, 1.0))
    layer = gl.layers.ConvTranspose2d(channels, kernel, stride, padding, output_padding=output_padding, groups=groups)
    net = gl.Sequential([gl.layers.Input((inputs, 7, 13), batch=2), layer])
    x = np.random.default_rng(0).standard_normal((2, inputs, 7, 13)).astype(np.float32)
    model = compile_graph(net.graph(), Options(target=name))
    assert not any("conv_transpose" in step.kernel for step in model.manifest.steps)
    (expected,) = gl.reference(net, {"input": x}).values()
    np.testing.assert_allclose(model(x), expected, rtol=0, atol=1e-4)


@pytest.mark.parametrize("before", range(7))
@pytest.mark.parametrize("stride", range(1, 5))
def test_every_tap_is_met_once(before, stride):
    line = transposed_to_conv._Line.of(5, stride, 1, before, inputs=9, outputs=8 * stride)
    taps = line.taps[line.taps < 5]
    assert sorted(taps.tolist()) == list(range(5))
    for phase, met in enumerate(line.taps):
        places = [(phase + before - tap) // stride for tap in met if tap < 5]
        wanted = [line.pads[0] - u for u, tap in enumerate(met) if tap < 5]
        assert [-place for place in places] == wanted
