"""Winograd's convolution equals the definition, whatever the shape of image, tiles at the edges, and channels."""

from dataclasses import replace

import numpy as np
import pytest
from harness import run_op
from machines import MESH, ZEN4

from glulam.compiler.driver import compile_graph
from glulam.compiler.errors import ShapeError, UnsupportedError
from glulam.compiler.graph.evaluate import evaluate
from glulam.compiler.graph.graph import Graph
from glulam.compiler.graph.layout import PLAIN, Layout
from glulam.compiler.graph.types import TensorType, f32
from glulam.compiler.kernels import conv_winograd, winograd_plan, winograd_stages
from glulam.compiler.kernels.fixed_point import DIGITS
from glulam.compiler.kernels.minimal_filtering import filtering
from glulam.compiler.kernels.tiling import Tiling
from glulam.compiler.kernels.winograd import product_tilings
from glulam.compiler.ops import Add, Conv, MaxPool, PRelu, Relu
from glulam.compiler.ops.winograd import WinogradConv
from glulam.compiler.options import Options
from glulam.compiler.targets import runnable_targets, target

TARGETS = [t.name for t in runnable_targets()]
F4 = filtering((4, 4), (3, 3))
FILTERINGS = [
    filtering((2, 2), (3, 3)), F4, filtering((6, 6), (3, 3)), filtering((1, 4), (1, 3)), filtering((2, 1), (3, 1)),
    filtering((4, 4), (3, 5)), filtering((1, 6), (1, 3)), filtering((2, 4), (3, 3)),
    filtering((3, 3), (5, 5)), filtering((1, 6), (1, 7)), filtering((4, 1), (7, 1)), filtering((4, 4), (3, 3), (2, 2)),
    filtering((2, 2), (5, 3), (1, 2)), filtering((1, 4), (1, 7), (1, 2)), filtering((2, 1), (3, 1), (3, 1)),
    filtering((2, 2), (11, 11), (4, 4)),
]  # fmt: skip
DILATED = [
    filtering((4, 4), (3, 3), dilations=(2, 2)), filtering((2, 2), (3, 3), dilations=(5, 1)),
    filtering((6, 6), (3, 3), dilations=(2, 2)), filtering((1, 4), (1, 3), dilations=(1, 3)),
    filtering((2, 2), (3, 3), (2, 1), (1, 2)),
]  # fmt: skip
ADDED = [
    filtering((4, 4), (7, 7), (2, 2), added=True), filtering((5, 5), (11, 11), (4, 4), added=True),
    filtering((4, 5), (3, 5), (2, 3), added=True), filtering((2, 4), (3, 3), (1, 2), added=True),
]  # fmt: skip
"""Filterings whose phases are added up."""


def named(f):
    def along(line):
        return (
            f"{line.taps} taps"
            + f" stride {line.stride}" * (line.stride > 1)
            + f" {line.dilation} apart" * (line.dilation > 1)
            + " added" * line.added
        )

    return f"F({f.name}, {along(f.down)} x {along(f.across)})"


def conv(shape, out_channels, pads, seed=0, f=F4):
    """The op, and x, w and bias; an image too small for the filters grows."""
    rng = np.random.default_rng(seed)
    lines = (f.down, f.across)
    least = [(line.taps - 1) * line.dilation + 1 - sum(pad) for line, pad in zip(lines, pads, strict=True)]
    extents = [max(n, span) for n, span in zip(shape[2:], least, strict=True)]
    x = rng.standard_normal((*shape[:2], *extents)).astype(np.float32)
    w = rng.standard_normal((out_channels, shape[1], *f.taps)) / np.sqrt(np.prod(f.taps) * shape[1])
    bias = rng.standard_normal(out_channels).astype(np.float32)
    strides, dilations = zip(*((line.stride, line.dilation) for line in lines), strict=True)
    op = WinogradConv(strides, pads, dilations, 1, f.outputs, f.taps, added=f.sums > 1)
    return op, [x, w.astype(np.float32), bias]


SHAPES = [
    ((1, 1, 3, 3), 1, ((0, 0), (0, 0))),
    ((1, 3, 7, 13), 17, ((1, 1), (1, 1))),
    ((2, 17, 13, 7), 33, ((0, 2), (3, 1))),
    ((1, 33, 1, 1), 16, ((1, 1), (1, 1))),
    ((1, 16, 4, 8), 16, ((1, 1), (1, 1))),
    ((1, 3, 13, 1), 3, ((3, 3), (3, 2))),
]


def in_turn(filterings, shapes, each=3):
    """Filterings and shapes: F4 with all of them, the others with so many, one after the other."""
    pairs = [(F4, shape) for shape in shapes]
    for i, f in enumerate(f for f in filterings if f is not F4):
        pairs += [(f, shapes[(i + j) % len(shapes)]) for j in range(each)]
    return pytest.mark.parametrize(("f", "case"), pairs, ids=[f"{named(f)}-{shape}" for f, shape in pairs])


@pytest.mark.parametrize("name", TARGETS)
@in_turn(FILTERINGS, SHAPES)
def test_native_equals_reference(name, case, f):
    op, arrays = conv(*case, f=f)
    (expected,) = op.reference(*arrays)
    (got,) = run_op(op, arrays, constants=(1, 2), target=name, out_halo=2 if f is F4 else 0)
    np.testing.assert_allclose(got, expected, rtol=0, atol=2e-5 * np.abs(expected).max())


@pytest.mark.parametrize("f", FILTERINGS, ids=named)
def test_interpreter_equals_native(f):
    op, arrays = conv((1, 3, 5, 6), 17, ((1, 1), (1, 1)), f=f)
    (slow,) = run_op(op, arrays, constants=(1, 2), native=False)
    (fast,) = run_op(op, arrays, constants=(1, 2))
    np.testing.assert_allclose(fast, slow, rtol=0, atol=2e-6)


@pytest.mark.parametrize("small", [False, True])
@pytest.mark.parametrize("staged", [False, True])
def test_what_lies_beyond_the_second_cache_is_fetched_ahead(staged, small, prefetched):
    """With the same result, also where the last tile asks for places behind its own."""
    machine = replace(target("native"), l2_bytes=1 << 12 if small else 1 << 20)
    op, arrays = conv((2, 33, 13, 7), 49, ((0, 2), (3, 1)))
    (expected,) = op.reference(*arrays)
    if staged:
        transform, *_ = op.stages(machine.lanes, expected.shape)
        (tiles,) = run_op(transform, arrays[:1], target=machine)
        (same,) = run_op(transform, arrays[:1])
        np.testing.assert_array_equal(tiles, same)
        assert prefetched == ({"y"} if small else set())
    else:
        (got,) = run_op(op, arrays, constants=(1, 2), target=machine)
        np.testing.assert_allclose(got, expected, rtol=0, atol=2e-5 * np.abs(expected).max())
        assert prefetched == ({"x", "u", "v"} if small else {"u"})


FEW_CHANNELS = [
    ((1, 1, 3, 3), 1, ((0, 0), (0, 0))),
    ((2, 3, 13, 7), 33, ((0, 2), (3, 1))),
    ((1, 2, 9, 75), 17, ((1, 1), (1, 1))),
    ((1, 3, 5, 211), 16, ((2, 1), (0, 1))),
    ((1, 4, 13, 13), 3, ((1, 1), (1, 1))),
]


def run_plain(op, arrays, target, native=True):
    """The result for an image that is not in channel blocks."""
    plain = Layout(1, op.padding(0, [TensorType.of(a) for a in arrays]).spans)
    layouts = [plain, PLAIN, PLAIN]
    return run_op(op, arrays, constants=(1, 2), target=target, native=native, in_layouts=layouts)[0]


@pytest.mark.parametrize("name", TARGETS)
@in_turn(FILTERINGS + ADDED, FEW_CHANNELS)
def test_vectors_across_tiles_equal_the_reference(name, case, f):
    op, arrays = conv(*case, f=f)
    (expected,) = op.reference(*arrays)
    got = run_plain(op, arrays, name)
    np.testing.assert_allclose(got, expected, rtol=0, atol=2e-5 * np.abs(expected).max())


@pytest.mark.parametrize("name", TARGETS)
@pytest.mark.parametrize("f", [F4, *ADDED], ids=named)
def test_vectors_across_tiles_interpreted(name, f):
    op, arrays = conv((1, 2, 6, 75), 5, ((1, 1), (1, 2)), f=f)
    slow, fast = run_plain(op, arrays, name, native=False), run_plain(op, arrays, name)
    np.testing.assert_allclose(fast, slow, rtol=0, atol=2e-5)


@pytest.mark.parametrize("name", TARGETS)
@pytest.mark.parametrize("outs", [1, 2, 5])
@pytest.mark.parametrize("f", [F4, filtering((2, 2), (3, 3), (2, 2))], ids=named)
def test_groups_of_whole_blocks(name, outs, f):
    lanes = target(name).lanes
    op, (x, w, bias) = conv((2, 6 * lanes, 9, 11), 3 * outs * lanes, ((1, 1), (1, 2)), f=f)
    op, w = replace(op, groups=3), w[:, : 2 * lanes] * np.float32(1.7)
    (expected,) = op.reference(x, w, bias)
    for native in (True, False) if outs == 1 else (True,):
        (got,) = run_op(op, [x, w, bias], constants=(1, 2), target=name, native=native, out_halo=1)
        np.testing.assert_allclose(got, expected, rtol=0, atol=2e-5 * np.abs(expected).max())


def test_without_bias_and_with_nan():
    op, (x, w, _) = conv((1, 5, 9, 9), 20, ((1, 1), (1, 1)))
    x[0, 2, 4, 4] = np.nan
    (expected,) = op.reference(x, w, None)
    (got,) = run_op(op, [x, w, None], constants=(1,))
    # A NaN reaches every output of the tiles that read it, which are more than the definition's nine.
    assert np.isnan(got[np.isnan(expected)]).all()
    clean = ~np.isnan(got)
    np.testing.assert_allclose(got[clean], expected[clean], rtol=0, atol=1e-5)


@pytest.mark.parametrize("pooled", [False, True])
@pytest.mark.parametrize("extents", [(28, 28), (27, 25), (26, 30)])
@pytest.mark.parametrize("outputs", [(4, 4), (6, 6)])
@pytest.mark.parametrize("name", TARGETS)
def test_two_threads_share_the_block_in_the_middle(name, outputs, extents, pooled, monkeypatch):
    """Of an odd number of them; with the bits of one thread, which goes through them one after the other."""
    f = filtering(outputs, (3, 3))

    def plan(machine, batch, wanted, *_):
        rows, columns = f.tiles(wanted)
        assert rows % 2 == 1
        return winograd_plan.Plan(1, columns, 1, Tiling(4, 1), shares_middle=machine.threads == 2)

    monkeypatch.setattr(conv_winograd, "choose_plan", plan)
    rng = np.random.default_rng(0)
    op = WinogradConv((1, 1), ((1, 1), (1, 1)), (1, 1), outputs=f.outputs, taps=f.taps)
    graph = Graph("shared")
    x = graph.input("x", f32(1, 16, *extents))
    w, b = (rng.uniform(-1, 1, shape).astype(np.float32) for shape in ((32, 16, 3, 3), (32,)))
    y = graph.apply(Relu(), graph.apply(op, x, graph.constant(w), graph.constant(b)))
    if pooled:
        y = graph.apply(MaxPool((2, 2), (2, 2), ((0, 0), (0, 0)), (1, 1), False), y)
    graph.output("y", y)
    feeds = {"x": rng.uniform(-1, 1, (1, 16, *extents)).astype(np.float32)}
    one, two = (compile_graph(graph, Options(target=name, threads=threads)).run(feeds)["y"] for threads in (1, 2))
    np.testing.assert_array_equal(one, two)
    expected = evaluate(graph, feeds)["y"]
    np.testing.assert_allclose(one, expected, atol=1e-4 * np.abs(expected).max())


@pytest.mark.parametrize("shape", [(56, 56), (7, 7), (13, 30), (1, 100)])
@pytest.mark.parametrize("channels", [(64, 64), (3, 17), (512, 512)])
def test_plan_cuts_evenly(shape, channels):
    plan = winograd_plan.choose_plan(target("x86-64-v3"), 1, shape, *channels, F4)
    height, width = F4.tiles(shape)
    assert height % plan.rows == 0
    assert width % plan.columns == 0


def test_blocks_of_tiles_fit_the_cache_of_a_thread_and_two_read_filters_less_often():
    """256 channels of 56x56: the filters are 17 MB, which one thread reads for each block, two for a larger one."""
    f = filtering((6, 6), (3, 3))
    machine = replace(target("x86-64-v4"), l3_bytes=1 << 25)
    one, two = (
        winograd_plan.choose_plan(replace(machine, threads=n), 1, (56, 56), 256, 256, f) for n in (1, 2)
    )  # fmt: skip
    assert f.points * one.tiles * 256 * 4 <= 0.7 * machine.l2_bytes
    assert two.tiles > one.tiles


@pytest.mark.parametrize(("channels", "size", "in_stages"), [(512, 28, True), (256, 56, False)])
def test_stages_pay_while_their_tensors_stay_cached(channels, size, in_stages):
    f, machine = filtering((6, 6), (3, 3)), replace(target("x86-64-v4"), l3_bytes=1 << 25)
    costs = [each.cost(machine, 1, (size, size), channels, channels, f) for each in (winograd_stages, winograd_plan)]
    assert (costs[0] < costs[1]) == in_stages


def test_two_threads_share_the_middle_where_halves_leave_one():
    machine = replace(target("x86-64-v3"), threads=2)
    assert winograd_plan.choose_plan(machine, 1, (28, 28), 16, 32, F4).shares_middle  # 7 rows of tiles
    assert not winograd_plan.choose_plan(machine, 1, (32, 32), 16, 32, F4).shares_middle
    assert not winograd_plan.choose_plan(target("x86-64-v3"), 1, (28, 28), 16, 32, F4).shares_middle


def test_phases_of_channel_blocks_are_not_added_up():
    op, arrays = conv((1, 17, 13, 13), 16, ((1, 1), (1, 1)), f=ADDED[0])
    with pytest.raises(UnsupportedError, match="where vectors hold tiles"):
        run_op(op, arrays, constants=(1, 2))


def test_a_dilated_convolution_is_refused_in_one_kernel():
    op, arrays = conv((1, 3, 7, 13), 17, ((1, 1), (1, 1)), f=DILATED[0])
    with pytest.raises(UnsupportedError, match="in stages"):
        run_op(op, arrays, constants=(1, 2))


def stages(op, x, w, bias, lanes):
    """The three ops of a convolution in stages, each with its inputs from the references of those before it."""
    (type,) = op.infer(f32(*x.shape), f32(*w.shape), f32(*bias.shape))
    first, second, third = op.stages(lanes, type.shape)
    (tiles,) = first.reference(x)
    (products,) = second.reference(tiles, w)
    return [(first, [x], ()), (second, [tiles, w], (1,)), (third, [products, bias], (1,))]


@pytest.mark.parametrize("case", SHAPES, ids=str)
@pytest.mark.parametrize("f", [*FILTERINGS, *DILATED], ids=named)
def test_stages_make_up_the_convolution(case, f):
    op, arrays = conv(*case, f=f)
    (result,) = (op.reference(*inputs) for op, inputs, _ in stages(op, *arrays, lanes=8)[2:])
    (expected,) = op.reference(*arrays)
    np.testing.assert_allclose(result[0], expected, rtol=0, atol=2e-5 * np.abs(expected).max())


@pytest.mark.parametrize("name", TARGETS)
@in_turn([*FILTERINGS, *DILATED], SHAPES)
def test_each_stage_equals_its_reference(name, case, f):
    op, arrays = conv(*case, f=f)
    for stage, inputs, constants in stages(op, *arrays, lanes=target(name).lanes):
        assert stage.infer(*(f32(*a.shape) for a in inputs))[0].shape == stage.reference(*inputs)[0].shape
        (expected,) = stage.reference(*inputs)
        for native in (True, False) if name == TARGETS[0] and case == SHAPES[1] else (True,):
            (got,) = run_op(stage, inputs, constants=constants, target=name, native=native)
            np.testing.assert_allclose(got, expected, rtol=0, atol=2e-5 * np.abs(expected).max())


@pytest.mark.parametrize("name", TARGETS)
@pytest.mark.parametrize("shape", [(1, 1, 7, 13), (2, 3, 13, 7), (1, 17, 13, 13), (1, 70, 1, 1)], ids=str)
@pytest.mark.parametrize("f", [filtering((2, 2), (3, 3)), F4, filtering((1, 6), (1, 7)), DILATED[0]], ids=named)
@pytest.mark.parametrize(("bits", "off"), [(20, 2e-6), (24, 2e-7)])
def test_products_of_filters_in_fewer_bits(name, shape, f, bits, off, prefetched):
    """Of few tiles and many, in halves too. A filter is off by 2**-20 of the largest of its point, at most."""
    op, arrays = conv(shape, 49, ((1, 1), (1, 1)), f=f)
    _, (products, inputs, _), _ = stages(replace(op, bits=bits), *arrays, lanes=target(name).lanes)
    (expected,) = products.reference(*inputs)
    for machine in (target(name), replace(target(name), threads=2)):
        (got,) = run_op(products, inputs, constants=(1,), target=machine)
        np.testing.assert_allclose(got, expected, rtol=0, atol=2e-6 * np.abs(expected).max())
    if name == TARGETS[0]:
        (slow,) = run_op(products, inputs, constants=(1,), target=name, native=False)
        np.testing.assert_allclose(got, slow, rtol=0, atol=2e-6 * np.abs(expected).max())
    assert prefetched - {"x"} == ({"u"} if shape[1] >= 4 else set())
    (exact,) = run_op(replace(products, bits=32), inputs, constants=(1,), target=name)
    assert (got != exact).any()


@pytest.mark.parametrize(("channels", "extent", "threads", "asked"), [
    (17, 26, 1, False), (17, 26, 2, True), (288, 7, 2, True),
])  # fmt: skip
@pytest.mark.parametrize("slow", [False, True])
def test_two_threads_ask_for_tiles_that_the_other_one_has_made(channels, extent, threads, asked, slow, prefetched):
    """For half of the tiles, or of the channels; not where a slow cache sends filters."""
    machine = replace(target("native"), threads=threads, l3_rate=9.0 if slow else 18.0, fmas_per_cycle=2)
    op, arrays = conv((1, channels, extent, extent), channels, ((1, 1), (1, 1)))
    _, (products, inputs, _), _ = stages(op, *arrays, lanes=machine.lanes)
    (expected,) = products.reference(*inputs)
    (got,) = run_op(products, inputs, constants=(1,), target=machine)
    np.testing.assert_allclose(got, expected, rtol=0, atol=2e-6 * np.abs(expected).max())
    assert prefetched == ({"u", "x"} if asked and not machine.l3_is_slow else {"u"})


@pytest.mark.parametrize("name", TARGETS)
@pytest.mark.parametrize("case", SHAPES, ids=str)
@pytest.mark.parametrize(("bits", "off"), [(20, 1e-4), (24, 2e-5)])
def test_filters_in_fewer_bits_in_one_kernel(name, case, bits, off):
    op, arrays = conv(*case)
    (expected,) = op.reference(*arrays)
    for native in (True, False) if name == TARGETS[0] and case == SHAPES[1] else (True,):
        (got,) = run_op(replace(op, bits=bits), arrays, constants=(1, 2), target=name, native=native)
        np.testing.assert_allclose(got, expected, rtol=0, atol=off * np.abs(expected).max())


def test_filters_of_other_bits_are_refused():
    op, _ = conv((1, 3, 7, 13), 17, ((1, 1), (1, 1)))
    with pytest.raises(ShapeError, match=r"21 bits.*20, 24 or 32"):
        replace(op, bits=21).infer(f32(1, 3, 7, 13), f32(17, 3, 3, 3), None)


def test_what_two_threads_share_of_the_products():
    """Of few tiles the channels, but not where each would read all tiles for each group of them from a slow cache."""
    few, many = 16, 196
    for machine, tiles, shared in ((ZEN4, few, "channels"), (MESH, few, "points"), (MESH, many, "tiles")):
        assert winograd_stages._shared(replace(machine, threads=2), tiles, 1, 512).value == shared
        assert winograd_stages._shared(machine, tiles, 1, 512).value == "points"
    assert winograd_stages._shared(replace(ZEN4, threads=2), many, 4, 512).value == "channels"


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
    op, _ = conv((1, 33, 7, 13), 17, ((1, 1), (1, 1)))
    assert op.infer(f32(1, 33, 7, 13), f32(17, 33, 3, 3), f32(17)) == (f32(1, 17, 7, 13),)
    assert op.padding(0, [f32(1, 33, 7, 13), f32(17, 33, 3, 3), None]).spans == ((1, 2), (1, 4))


def test_few_channels_are_read_plain_with_room_for_whole_vectors():
    op, _ = conv((1, 3, 7, 13), 17, ((1, 1), (1, 1)))
    few, more = ([f32(1, c, 7, 13), f32(17, c, 3, 3), None] for c in (3, 5))
    (_, after) = op.padding(0, few).spans[1]
    assert op.reads_plain(0, few, 16)
    assert after == 4 + (16 - 6)
    assert not op.reads_plain(0, more, 16)
    assert not op.reads_plain(0, few, 4)
    assert not replace(op, staged=True).reads_plain(0, few, 16)


def test_weights_of_other_taps_are_refused():
    op, _ = conv((1, 3, 7, 13), 17, ((1, 1), (1, 1)))
    with pytest.raises(ShapeError, match="filters of 3x3 taps"):
        op.infer(f32(1, 3, 7, 13), f32(17, 3, 3, 5), f32(17))


SEQUENCES = [
    WinogradConv((1,), ((1, 1),), (1,), 1, (1, 4), (1, 3)),
    WinogradConv((2,), ((3, 0),), (1,), 1, (1, 2), (1, 5)),
    WinogradConv((1,), ((2, 2),), (2,), 1, (1, 4), (1, 3), staged=True),
]


@pytest.mark.parametrize("name", TARGETS)
@pytest.mark.parametrize("op", SEQUENCES, ids=str)
@pytest.mark.parametrize(("length", "channels"), [(1, 1), (7, 17), (29, 33)])
def test_sequences_are_images_of_one_row(name, op, length, channels):
    rng = np.random.default_rng(2)
    x, bias = (rng.standard_normal(shape).astype(np.float32) for shape in ((2, 3, max(length, 5)), (channels,)))
    w = (rng.standard_normal((channels, 3, op.taps[1])) / 3).astype(np.float32)
    (expected,) = op.reference(x, w, bias)
    arrays, constants, stage = [x, w, bias], [(1, 2)], [op]
    if op.staged:
        first, second, third = op.stages(target(name).lanes, expected.shape)
        tiles = first.reference(x)
        products = second.reference(*tiles, w)
        arrays, constants, stage = [[x], [*tiles, w], [*products, bias]], [(), (1,), (1,)], [first, second, third]
    for each, inputs, fixed in zip(stage, arrays if op.staged else [arrays], constants, strict=True):
        (wanted,) = each.reference(*inputs)
        for native in (True, False):
            (got,) = run_op(each, inputs, constants=fixed, target=name, native=native)
            np.testing.assert_allclose(got, wanted, rtol=0, atol=2e-5 * np.abs(wanted).max())
    np.testing.assert_allclose(wanted, expected, rtol=0, atol=2e-5 * np.abs(expected).max())


@pytest.mark.parametrize("dilation", [1, 4])
def test_sequences_have_epilogues(dilation):
    graph, rng = Graph("g"), np.random.default_rng(3)
    x = rng.standard_normal((2, 64, 200)).astype(np.float32)
    other = rng.standard_normal((2, 70, 200)).astype(np.float32)
    w = (rng.standard_normal((70, 64, 3)) / 14).astype(np.float32)
    op = Conv((1,), ((dilation, dilation),), (dilation,))
    y = graph.apply(op, graph.input("x", f32(*x.shape)), graph.constant(w), None)
    graph.output("y", graph.apply(Relu(), graph.apply(Add(), y, graph.input("other", f32(*other.shape)))))
    model = compile_graph(graph, Options(target=TARGETS[-1]))  # where narrow vectors make it pay
    assert any(step.kernel.endswith(("fused_winograd_conv", "fused_winograd_output")) for step in model.manifest.steps)
    expected = np.maximum(op.reference(x, w, None)[0] + other, 0)
    np.testing.assert_allclose(model.run({"x": x, "other": other})["y"], expected, rtol=0, atol=1e-4)


@pytest.mark.parametrize("extents", [(24, 24), (200,)])
def test_parameters_of_the_epilogue_broadcast_over_the_pixels(extents):
    """A slope for each channel, [C, 1, 1] or [C, 1], is no sequence."""
    graph, rng = Graph("g"), np.random.default_rng(4)
    ones = (1,) * len(extents)
    x = rng.standard_normal((1, 64, *extents)).astype(np.float32)
    slope = rng.standard_normal((64, *ones)).astype(np.float32)
    w = (rng.standard_normal((64, 64, *(3 for _ in extents))) / 24).astype(np.float32)
    op = Conv(ones, tuple((1, 1) for _ in extents), ones)
    y = graph.apply(op, graph.input("x", f32(*x.shape)), graph.constant(w), None)
    graph.output("y", graph.apply(PRelu(), y, graph.constant(slope)))
    model = compile_graph(graph)
    assert any("fused_winograd" in step.kernel for step in model.manifest.steps)
    plain = op.reference(x, w, None)[0]
    np.testing.assert_allclose(model.run({"x": x})["y"], np.where(plain > 0, plain, plain * slope), rtol=0, atol=1e-4)


@pytest.mark.parametrize("f", [F4, filtering((6, 6), (3, 3)), filtering((1, 6), (1, 7))], ids=named)
def test_filters_are_rounded_once(f):
    """In float32 throughout, most of these elements would be off by a unit or more in the last place."""
    weights = np.random.default_rng(5).standard_normal((16, 3, *f.taps)).astype(np.float32)
    packed = np.empty((1, f.points, 3, 1, 16), np.float32)
    f.transform_filters(packed, weights)
    down, across = (np.array(line.filter_transform, np.float64) for line in (f.down, f.across))
    wanted = np.einsum("ai,bj,ocij->abco", down, across, weights.astype(np.float64)).reshape(f.points, 3, 16)
    coarse = np.einsum("ai,ijco->ajco", down.astype(np.float32), weights.transpose(2, 3, 1, 0))
    coarse = np.einsum("bj,ajco->abco", across.astype(np.float32), coarse).reshape(f.points, 3, 16)

    def worst(found):
        return np.max(np.abs(found - wanted) / np.spacing(np.abs(wanted).astype(np.float32)))

    assert worst(packed[0, :, :, 0]) < 0.51
    assert worst(coarse) > 0.6


@pytest.mark.parametrize(("channels", "most"), [(256, 28), (512, 18), (1024, 8)])
def test_tiles_whose_channels_share_sets_of_a_cache_are_few(channels, most):
    """28 tiles of one block read 28 lines a step, which would drive each other out."""
    found = product_tilings(ZEN4, 28, 32, channels, DIGITS[24])
    assert max(tiling.pixels for _, tiling in found) == most
