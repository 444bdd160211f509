"""Convolution of every kind: reference = loop interpreter = native code, and which template is taken."""

from __future__ import annotations

import itertools
from dataclasses import replace

import numpy as np
import pytest
from convolutions import TARGETS, case, check, floats, lowered, template
from fusing import with_relu
from harness import run_op

import glulam as gl
from glulam.compiler.driver import lower
from glulam.compiler.graph.layout import PLAIN, Layout
from glulam.compiler.graph.types import f32
from glulam.compiler.kernels import conv_direct
from glulam.compiler.kernels.conv_geometry import ConvGeometry, Met
from glulam.compiler.loops.printer import show_kernel
from glulam.compiler.ops.activation import Silu
from glulam.compiler.options import Options
from glulam.compiler.targets import target

NEEDS_WIDE = pytest.mark.skipif("x86-64-v4" not in TARGETS, reason="this machine has no AVX-512")


DENSE = [
    case((2, 20, 2, 5), 18, (3, 3), pads=1),
    case((1, 16, 3, 5), 40, (1, 1)),
    case((1, 33, 9), 5, (3,), strides=2, pads=2, bias=False),
    case((1, 5, 2, 3, 3), 17, (2, 3, 2), pads=((1, 0), (0, 2), (1, 1))),
    case((1, 2, 9, 9), 3, (2, 3), dilations=(3, 2), strides=(1, 3)),
    case((1, 32, 3, 3), 32, (3, 3), pads=1, groups=2),
    case((0, 3, 4, 4), 2, (3, 3)),
]

GROUPED = [
    case((2, 20, 4, 9), 20, (3, 3), pads=1, groups=5),
    case((1, 24, 5, 9), 48, (3, 3), pads=1, groups=24),  # multiplier 2
    case((1, 40, 3, 9), 20, (1, 3), groups=20, bias=False),
    case((1, 51, 4, 5), 51, (3, 3), pads=1, groups=3),
    case((1, 48, 4, 5), 48, (2, 2), strides=2, groups=2),
    case((1, 64, 9), 16, (3,), pads=1, groups=4),
    case((1, 12, 3, 4, 5), 12, (2, 2, 2), groups=3, dilations=(1, 2, 1)),
    case((1, 112, 2, 3), 21, (1, 1), groups=7),
    case((1, 26, 3, 30), 26, (1, 12), groups=13),
    case((1, 6, 4, 4), 9, (3, 3), pads=1, groups=3, bias=False),
]

APART = [
    case((1, 60, 3, 5), 60, (1, 1), groups=2),
    case((2, 153, 1, 5), 153, (2, 2), pads=((1, 0), (0, 2)), groups=9),
    case((1, 340, 2, 2), 34, (1, 1), groups=2, bias=False),
    case((1, 15, 1, 13), 90, (1, 3), strides=(1, 2), groups=3),
    case((1, 66, 7), 130, (3,), pads=2, dilations=2, groups=2),
    case((1, 57, 5, 1), 171, (2, 1), strides=(2, 1), groups=19),
    case((1, 45, 2, 3, 4), 39, (1, 2, 2), groups=3),
    case((1, 270, 3, 3), 30, (3, 3), pads=1, groups=2),  # a sum of several parts
    case((0, 60, 3, 3), 60, (3, 3), groups=2),
]

PADDED = [  # taps that meet nothing but padding are passed over
    case((1, 17, 6, 15), 16, (3, 3), pads=(3, 7), dilations=(3, 7)),
    case((1, 16, 3, 5), 40, (3, 5), pads=((1, 0), (2, 1))),
    case((2, 3, 2, 7), 5, (7, 3), pads=((6, 3), (1, 1)), strides=(2, 1)),
    case((1, 20, 1, 1), 16, (3, 3), pads=4, bias=False),
    case((1, 18, 2, 3, 13), 16, (3, 1, 3), pads=((1, 1), (0, 0), (9, 9)), dilations=(1, 1, 9)),
]

WHOLE = [  # images in one register tile: their weights exceed half of the second-level cache
    case((1, 264, 2, 1), 264, (2, 1), pads=((1, 0), (0, 0))),
    case((1, 120, 3, 2), 130, (3, 3), pads=1),
    case((2, 250, 5, 4), 264, (3, 3), strides=2, pads=((1, 0), (2, 1)), bias=False),
    case((1, 768, 2, 1), 768, (3, 1), pads=((1, 1), (0, 0)), groups=3),
    case((1, 192, 2, 2, 2), 100, (2, 2, 2), pads=((1, 0), (0, 1), (0, 1))),
]

LINES = [  # one place and one tap in all dimensions but one
    case((1, 20, 33, 1), 18, (5, 1), pads=((2, 2), (0, 0))),
    case((2, 17, 1, 1, 13), 24, (1, 1, 3), strides=2, pads=((0, 0), (0, 0), (1, 0)), bias=False),
    case((1, 3, 1, 29), 16, (1, 7), dilations=(1, 3)),
]

CASES = [*DENSE, *GROUPED, *APART, *PADDED, *LINES, *WHOLE]


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("number", range(len(CASES)))
def test_native(number, target):
    op, arrays = CASES[number]
    check(op, arrays, target, native=True)
    check(op, arrays, target, native=True, out_halo=1)


@pytest.mark.parametrize("number", range(len(CASES) - len(WHOLE) + 2))  # the others take minutes
def test_interpreted(number):
    check(*CASES[number], TARGETS[0], native=False, out_halo=1)


def test_a_column_of_pixels_is_a_row():
    machine = target("x86-64-v4")
    column, row = (
        lowered(*case((1, 32, 40, *one), 48, (5, *one), pads=(pads, *((0, 0),) * len(one))), machine).kernel
        for one, pads in (((1,), (2, 1)), ((), (2, 1)))
    )
    assert show_kernel(column) == show_kernel(row)


def test_taps_that_meet_more_than_padding():
    geometry = ConvGeometry((3,), (1,), (12,), ((12, 12),))
    assert geometry.met(0, 28, 28) == [Met(0, 12, range(1, 3)), Met(12, 4, range(3)), Met(16, 12, range(2))]
    for stride, dilation, before in itertools.product((1, 2, 3), (1, 2, 5), (-2, 0, 1, 4, 20)):
        geometry = ConvGeometry((4,), (stride,), (dilation,), ((before, 0),))
        found = geometry.met(0, 11, 6)
        assert [o for met in found for o in range(met.first, met.first + met.count)] == list(range(11))
        assert all(a.taps != b.taps for a, b in itertools.pairwise(found))
        for met in found:
            for output in range(met.first, met.first + met.count):
                places = [output * stride - before + k * dilation for k in range(4)]
                assert [0 <= place < 6 for place in places] == [k in met.taps for k in range(4)]
    assert geometry.met(0, 0, 6) == []


def test_pixels_of_a_tile_that_taps_meet():
    edge = ConvGeometry((11,), (4,), (1,), ((2, 2),))
    assert edge.met_in_tile(0, 0, 14, 224) == (Met(1, 13, range(2)), Met(0, 14, range(2, 11)))
    assert edge.met_in_tile(0, 14, 14, 224) == (Met(0, 14, range(11)),)
    assert edge.met_in_tile(0, 42, 13, 224) == (Met(0, 13, range(10)), Met(0, 12, range(10, 11)))
    for stride, dilation, before, first in itertools.product((1, 2, 3), (1, 2, 5), (-2, 0, 1, 4, 20), (0, 3)):
        found = ConvGeometry((4,), (stride,), (dilation,), ((before, 0),)).met_in_tile(0, first, 5, 6)
        pairs = [(o, k) for met in found for k in met.taps for o in range(met.first, met.first + met.count)]
        places = {(o, k): (first + o) * stride - before + k * dilation for o in range(5) for k in range(4)}
        assert sorted(pairs) == [pair for pair, place in places.items() if 0 <= place < 6]


def test_taps_that_a_row_meets_are_known_however_long_the_input():
    """By the edges alone: a second of sound has as many samples as takes long to go through in Python."""
    assert ConvGeometry((512,), (1,), (1,), ((0, 0),)).met(0, 10**12, 10**12 + 511) == [Met(0, 10**12, range(512))]
    edges = ConvGeometry((3,), (2,), (1,), ((1, 1),)).met(0, 10**12, 2 * 10**12 - 1)
    assert edges == [Met(0, 1, range(1, 3)), Met(1, 10**12 - 2, range(3)), Met(10**12 - 1, 1, range(2))]


@pytest.mark.parametrize("constants", [(), (1,), (2,), (0, 2)])
def test_operands_given_at_run_time(constants):
    for op, arrays in (DENSE[0], DENSE[3], GROUPED[0], GROUPED[9]):
        known = [i for i in constants if arrays[i] is not None]
        for name in TARGETS:
            check(op, arrays, name, True, known)
    check(op, arrays, TARGETS[0], False, known)


@pytest.mark.parametrize("native", [False, True])
def test_doubles(native):
    for shape, groups in (((2, 6, 4, 5), 1), ((1, 20, 3, 3), 20)):
        op, arrays = case(shape, shape[1], (3, 3), pads=1, groups=groups, dtype=np.float64)
        (result,) = run_op(op, arrays, (1, 2), "native", native)
        np.testing.assert_allclose(result, op.reference(*arrays)[0], rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("target", TARGETS)
def test_epilogue(target):
    """relu(conv) * factor, with a factor per element and one per channel, behind a missing and a given bias."""
    several = DENSE[0], DENSE[2], GROUPED[0], GROUPED[1], GROUPED[3], APART[1], APART[2], PADDED[0], *LINES, WHOLE[0]
    for op, arrays in several:
        shape = op.reference(*arrays)[0].shape
        for extents in (shape, (1, shape[1], *[1] * (len(shape) - 2))):
            for constants in ((1, 2), (), (1, 2, -1)):
                region, given = with_relu(op, arrays, factor := floats(*extents))
                known = [i % len(given) for i in constants if i < len(given) - 1]
                (result,) = run_op(region, given, known, target)
                wanted = np.maximum(op.reference(*arrays)[0], 0) * factor
                np.testing.assert_allclose(result, wanted, rtol=1e-4, atol=5e-5)


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("constants", [(), (1, 2)])
def test_nan_and_infinity_do_not_leak_between_groups(target, constants):
    for op, arrays in (*GROUPED, *APART[:-1]):
        x = arrays[0].copy()
        x[:, 0], x[:, -1] = np.inf, np.nan
        (result,) = run_op(op, [x, *arrays[1:]], [i for i in constants if arrays[i] is not None], target)
        (wanted,) = op.reference(x, *arrays[1:])
        np.testing.assert_array_equal(np.isfinite(result), np.isfinite(wanted))


def test_templates():
    name, refused = template(*DENSE[0])
    assert name == "direct"
    assert list(refused) == ["whole image"]
    assert template(*DENSE[5])[0] == "direct"
    assert {template(*each)[0] for each in WHOLE} == {"whole image"}
    name, refused = template(*GROUPED[0])
    assert name == "grouped"
    assert list(refused) == ["whole image", "direct", "depthwise"]
    assert template(*case((1, 32, 5, 5), 32, (3, 3), groups=32))[0] == "depthwise"
    name, refused = template(*case((1, 1300, 2, 2), 1300, (1, 1), groups=13))
    assert name == "apart"
    assert "89%" in refused["grouped"]
    name, refused = template(*case((1, 96, 5, 5), 96, (1, 1), groups=8))
    assert name == "apart"
    assert "half a vector" in refused["grouped"]
    name, refused = template(*case((1, 660, 1, 9), 110, (7, 7), groups=11, pads=3))
    assert name == "apart"
    assert "written out" in refused["grouped"]
    assert {template(*each)[0] for each in APART} == {"apart"}
    name, refused = template(*DENSE[0], constants=())
    assert name == "generic"
    assert set(refused.values()) == {"the weights are not known at compile time"}


FAR_APART = [
    case((1, 17, 9, 13), 33, (3, 3), pads=7, dilations=7),
    case((2, 3, 6, 7), 17, (3, 3), pads=((9, 2), (5, 6)), dilations=(5, 6)),
    case((1, 33, 13, 11), 16, (2, 3), pads=((0, 3), (8, 8)), dilations=(1, 8), strides=(1, 2)),
    case((1, 16, 3, 4, 7), 17, (1, 2, 3), pads=((0, 0), (1, 1), (6, 6)), dilations=(1, 2, 6)),
    case((1, 20, 1, 7), 3, (1, 3), pads=((0, 0), (7, 7)), dilations=(1, 7)),
    case((1, 100, 13, 13), 49, (3, 3), pads=12, dilations=12),
]


@pytest.mark.parametrize("name", TARGETS)
@pytest.mark.parametrize("number", range(len(FAR_APART)))
def test_taps_so_far_apart_that_most_meet_padding_need_none(number, name):
    """With the same bits as between zeros, which another reader of the image may want."""
    op, arrays = FAR_APART[number]
    padding = op.padding(0, [None if a is None else f32(*a.shape) for a in arrays])
    assert padding.or_none
    blocked = Layout(target(name).lanes, padding.spans)
    for native in (True, False) if arrays[0].size < 2000 and name == TARGETS[0] else (True,):
        (bare,) = run_op(op, arrays, (1, 2), name, native)
        (padded,) = run_op(op, arrays, (1, 2), name, native, in_layouts=[blocked, PLAIN, PLAIN])
        np.testing.assert_array_equal(bare, padded)
        (wanted,) = op.reference(*arrays)
        np.testing.assert_allclose(bare, wanted, rtol=1e-4, atol=5e-5)


WIDE = target("x86-64-v4")
NARROW = replace(WIDE, fmas_per_cycle=1, loads_per_cycle=1)


@pytest.mark.parametrize("outs", [17, 24, 40])
@pytest.mark.parametrize("native", [pytest.param(True, marks=NEEDS_WIDE), False])
def test_half_a_block(outs, native):
    for shape, kernel, more in (
        ((2, 20, 3, 9), (3, 3), {"pads": 1}),
        ((1, 16, 5, 13), (1, 1), {}),
        ((1, 3, 29), (3,), {"strides": 2, "bias": False}),
    ):
        op, arrays = case(shape, outs, kernel, **more)
        check(op, arrays, NARROW, native, out_halo=1)
        region, given = with_relu(op, arrays, floats(*op.reference(*arrays)[0].shape))
        (result,) = run_op(region, given, (1, 2), NARROW, native)
        np.testing.assert_allclose(result, region.reference(*given)[0], rtol=1e-4, atol=5e-5)


def test_half_a_block_is_computed_where_halves_take_half_the_time():
    """On a processor that starts one whole vector at a time, or two halves, 24 channels are a block and a half."""
    whole, narrow = WIDE, NARROW
    assert (whole.half_width, target("x86-64-v3").half_width) == (None, None)
    assert narrow.half_width is not None
    assert narrow.half_width.lanes == 8
    assert [conv_direct.whole_blocks(narrow, n)[0] for n in (8, 16, 17, 24, 25, 33)] == [1, 1, 1, 1, 2, 2]
    assert [conv_direct.whole_blocks(narrow, n)[1] is None for n in (8, 16, 17, 24, 25, 33)] == [
        True, True, False, False, True, False,
    ]  # fmt: skip
    assert all(conv_direct.whole_blocks(whole, n) == (-(-n // 16), None) for n in (8, 16, 17, 24, 25, 33))
    size = (1, (56, 56), 64)
    assert conv_direct.cost(narrow, *size, 24, taps=1) < 0.8 * conv_direct.cost(narrow, *size, 32, taps=1)


@pytest.mark.parametrize("name", TARGETS)
@pytest.mark.parametrize(
    ("x", "outs", "kernel", "attributes"),
    [
        ((1, 3, 13, 31), 49, (3, 3), {"pads": 1}),  # a plain image
        ((2, 17, 7, 13), 33, (1, 1), {}),
        ((1, 64, 7, 17), 20, (3, 3), {"pads": ((0, 2), (1, 1))}),  # its sums have several parts
        ((1, 5, 40), 40, (5,), {"dilations": 3, "pads": 6}),
    ],
    ids=str,
)
def test_a_long_epilogue_of_tiles_of_all_sizes(x, outs, kernel, attributes, name):
    op, arrays = case(x, outs, kernel, **attributes)
    (before,) = op.reference(*arrays)
    region, given = with_relu(op, arrays, floats(*before.shape), activation=Silu())
    (wanted,) = region.reference(*given)
    for native in (True, False) if name == TARGETS[0] else (True,):
        (result,) = run_op(region, given, (1, 2), name, native)
        np.testing.assert_allclose(result, wanted, rtol=1e-4, atol=5e-5)


def test_a_long_epilogue_takes_the_sums_of_a_large_tile_from_memory():
    layers = gl.layers
    for activation, apart in ((layers.ReLU(), False), (layers.GELU(), True)):
        graph = gl.Sequential([layers.Input((32, 8, 28)), layers.Conv2d(32, 1), activation]).graph()
        (kernel,) = (k for k in lower(graph, Options(target="x86-64-v4")).kernels if "conv" in k.name)
        assert ("sums" in show_kernel(kernel)) == apart
