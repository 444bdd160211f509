"""Which algorithms may compute a convolution, which one the cost model takes, and that the choice keeps the meaning."""

import numpy as np
import pytest
from machines import MESH, ZEN4, ZEN5

import glulam as gl
from glulam.compiler.driver import compile_graph, lower, optimise
from glulam.compiler.graph.evaluate import evaluate
from glulam.compiler.graph.graph import Graph
from glulam.compiler.graph.types import f32
from glulam.compiler.kernels.rates import memory_rate
from glulam.compiler.ops import Conv
from glulam.compiler.ops.winograd import WinogradConv
from glulam.compiler.options import Options
from glulam.compiler.passes.algorithms import candidates
from glulam.compiler.targets import runnable_targets, target

TARGETS = [t.name for t in runnable_targets()]


def network(taps, channels=64, extents=(17, 18), strides=(1, 1), dilations=(1, 1), groups=1):
    rng = np.random.default_rng(2)
    graph = Graph()
    x = graph.input("x", f32(1, channels, *extents))
    scale = np.sqrt(np.prod(taps) * channels)
    w = graph.constant((rng.standard_normal((channels, channels // groups, *taps)) / scale).astype(np.float32))
    pads = tuple((r // 2, (r - 1) // 2) for r in taps)
    graph.output("y", graph.apply(Conv(strides, pads, dilations, groups), x, w, None, name="layer"))
    return graph, {"x": rng.standard_normal((1, channels, *extents)).astype(np.float32)}


def winograds(graph):
    """Those of float32 filters."""
    found, refused = candidates(target("x86-64-v3"), graph.nodes[-1])
    return sorted(c.name for c in found if c.name.startswith("winograd ") and "-bit" not in c.name), refused


@pytest.mark.parametrize(
    ("taps", "tiles"),
    [
        ((3, 3), ["2x2", "4x4", "6x6"]), ((1, 3), ["1x2", "1x4", "1x6"]), ((3, 1), ["2x1", "4x1", "6x1"]),
        ((5, 5), ["3x3", "4x4"]), ((1, 7), ["1x4", "1x6"]), ((7, 1), ["4x1", "6x1"]), ((7, 7), ["4x4"]),
        ((3, 5), ["4x4"]), ((7, 5), ["4x4"]), ((3, 7), ["4x4"]),
    ],
)  # fmt: skip
def test_tiles_for_taps(taps, tiles):
    names, _ = winograds(network(taps)[0])
    assert names == sorted(f"winograd {each}{how}" for each in tiles for how in ("", " in stages"))


@pytest.mark.parametrize(
    ("how", "oblong"),
    [
        ({}, ["2x4", "4x2"]), ({"strides": (2, 2)}, ["2x4", "4x2"]), ({"taps": (5, 5)}, ["3x4", "4x3"]),
        ({"taps": (1, 3)}, []), ({"channels": 512}, []), ({"channels": 128}, ["2x4", "4x2"]),
        ({"extents": (17, 7)}, []), ({"dilations": (2, 2)}, []),
    ],
    ids=str,
)  # fmt: skip
def test_oblong_tiles_for_small_results_of_few_filters(how, oblong):
    names, _ = winograds(network(**{"taps": (3, 3), "extents": (7, 13)} | how)[0])
    found = {name.split()[1] for name in names}
    assert sorted(each for each in found if each[0] != each[-1] and "1" not in each) == oblong


def test_oblong_tiles_whose_filters_crowd_a_cache_keep_them_in_fewer_bits():
    graph, _ = network((3, 3), channels=512, extents=(7, 13))
    found = {each.name for each in candidates(ZEN4, graph.nodes[-1])[0]}
    assert {name for name in found if " 2x4" in name} == {"winograd 2x4 in stages of 24-bit filters"}


def test_oblong_tiles_are_chosen_where_squares_have_too_many_products_or_filters():
    graph, _ = network((3, 3), channels=256, extents=(7, 7))
    found, _ = candidates(ZEN4, graph.nodes[-1])
    assert min(found, key=lambda each: each.cycles).name.split()[1] in ("2x4", "4x2")


def test_no_strassen_where_operands_come_from_a_slow_cache():
    graph, _ = network((1, 1), channels=512, extents=(28, 28))
    for machine, first in ((ZEN4, "strassen"), (MESH, "direct")):
        found, _ = candidates(machine, graph.nodes[-1])
        assert min(found, key=lambda each: each.cycles).name.split()[0] == first


@pytest.mark.parametrize("stride", [1, 2, 4])
def test_a_first_layer_whose_result_is_wanted_plain_works_on_rows_of_pixels(stride):
    """Not one whose vectors of pixels have to be picked from many."""
    layers = [gl.layers.Input((3, 64, 64)), gl.layers.Conv2d(64, 3, stride=stride, padding=1), gl.layers.ReLU()]
    for behind, narrow in (([], stride < 4), ([gl.layers.Conv2d(64, 3)], False)):
        graph = gl.Sequential([*layers, *behind]).graph()
        names = [step.kernel.name for step in lower(graph, Options(target="x86-64-v4")).steps]
        assert any("narrow" in name for name in names) == narrow


@pytest.mark.parametrize("machine", [ZEN4, ZEN5, MESH, target("x86-64-v3")], ids=lambda machine: machine.tune)
@pytest.mark.parametrize(("taps", "stride", "added"), [(3, 2, False), (7, 2, True), (11, 4, True)])
def test_phases_of_a_first_layer_are_added_up_if_it_has_many_taps(machine, taps, stride, added):
    net = gl.Sequential([gl.layers.Input((3, 224, 224)), gl.layers.Conv2d(64, taps, stride=stride, padding=3)])
    found, _ = candidates(machine, net.graph().nodes[-1])
    assert min(found, key=lambda each: each.cycles).name.endswith("of added phases") == added


@pytest.mark.parametrize(
    ("how", "added"),
    [
        ({}, True), ({"strides": (1, 1)}, False), ({"strides": (2, 1)}, False), ({"channels": 16}, False),
        ({"dilations": (2, 2)}, False), ({"strides": (7, 7)}, False),
    ],
    ids=str,
)  # fmt: skip
def test_which_phases_may_be_added_up(how, added):
    """Not where there are none along an axis, or none of several taps, or channels enough to fill vectors."""
    names, _ = winograds(network((7, 7), **({"strides": (2, 2), "channels": 3} | how))[0])
    assert any("added" in name for name in names) == added


def test_filters_in_fewer_bits_are_for_few_tiles_whose_products_wait_for_filters():
    def best(machine, extent, *, strict=False):
        graph, _ = network((3, 3), channels=512, extents=(extent, extent))
        found, _ = candidates(machine, graph.nodes[-1], strict)
        return min(found, key=lambda each: each.cycles).name

    for machine in (MESH, ZEN5):
        assert best(machine, 7) == "winograd 2x2 in stages of 20-bit filters"
        assert best(machine, 14) == "winograd 4x4 in stages of 24-bit filters"
        assert "-bit" not in best(machine, 28), "each filter has work for many tiles"
        assert best(machine, 7, strict=True).startswith("direct")
    assert best(ZEN4, 7) == "winograd 2x4 in stages of 24-bit filters"
    assert "-bit" not in best(ZEN4, 14), "unpacking takes its time"
    graph, _ = network((3, 3), channels=512, extents=(14, 14))
    names = [each.name.split() for each in candidates(MESH, graph.nodes[-1])[0] if "-bit" in each.name]
    assert {tile for _, tile, *_, bits, _ in names if bits == "20-bit"} == {"2x2"}, "others would round too much"
    assert {tile for _, tile, *_, bits, _ in names if bits == "24-bit"} >= {"2x2", "4x4", "6x6"}


@pytest.mark.parametrize("taps", [(1, 1), (2, 2), (3, 4), (1, 9)])
def test_other_taps_are_refused(taps):
    names, refused = winograds(network(taps)[0])
    assert not names
    assert f"no winograd: the kernel is {taps[0]}x{taps[1]}, the stride 1x1" in refused


@pytest.mark.parametrize(
    ("how", "why"),
    [
        ({"strides": (1, 2), "dilations": (2, 1)}, "dilation with strides or groups"),
        ({"groups": 16}, "the channels of a group fill no blocks of"),
    ],
    ids=str,
)
def test_small_groups_and_strides_with_dilation_are_refused(how, why):
    names, refused = winograds(network((3, 3), **how)[0])
    assert not names
    assert any(reason.startswith(f"no winograd: {why}") for reason in refused)


@pytest.mark.parametrize("strides", [(2, 1), (3, 3)])
def test_strides_of_single_taps_and_long_ones_are_refused(strides):
    names, refused = winograds(network((1, 3), strides=strides)[0])
    assert not names
    assert f"no winograd: the kernel is 1x3, the stride {strides[0]}x{strides[1]}" in refused


@pytest.mark.parametrize(
    ("taps", "tiles"), [((3, 3), ["2x2", "4x4"]), ((5, 5), ["2x2", "4x4"]), ((1, 7), ["1x2", "1x4"])]
)
def test_tiles_for_strides(taps, tiles):
    names, _ = winograds(network(taps, extents=(35, 36), strides=tuple(2 if n > 1 else 1 for n in taps))[0])
    assert names == sorted(f"winograd {each}{how}" for each in tiles for how in ("", " in stages"))


def test_dilated_convolutions_are_computed_in_stages():
    names, _ = winograds(network((3, 3), dilations=(2, 3))[0])
    assert names == ["winograd 2x2 in stages", "winograd 4x4 in stages", "winograd 6x6 in stages"]


@pytest.mark.parametrize("name", ["x86-64-v4", "x86-64-v3"])
@pytest.mark.parametrize("taps", [(3, 3), (5, 5), (1, 7)], ids=str)
def test_products_of_one_channel_do_not_pay_for_their_transforms(taps, name):
    graph = Graph()
    w = graph.constant(np.ones((64, 1, *taps), np.float32))
    pads = tuple((r // 2, r // 2) for r in taps)
    graph.apply(Conv((1, 1), pads, (1, 1), 1), graph.input("x", f32(1, 1, 56, 56)), w, None)
    found, _ = candidates(target(name), graph.nodes[-1])
    assert min(found, key=lambda candidate: candidate.cycles).name.startswith("direct ")


@pytest.mark.parametrize("name", TARGETS)
@pytest.mark.parametrize("taps", [(1, 7), (7, 1), (5, 5), (1, 3)], ids=str)
def test_the_cheapest_is_taken_and_equals_the_definition(taps, name):
    graph, feeds = network(taps)
    options = Options(target=name)
    optimised, reports = optimise(graph, options)
    assert any(node.op.name.startswith("winograd_") for node in optimised.nodes)
    assert any("winograd" in str(report) and "direct" in str(report) for report in reports)
    expected = evaluate(graph, feeds)["y"]
    one, two = (compile_graph(graph, Options(target=name, threads=threads)).run(feeds)["y"] for threads in (1, 2))
    np.testing.assert_allclose(one, expected, rtol=0, atol=3e-5 * np.abs(expected).max())
    np.testing.assert_array_equal(one, two)


@pytest.mark.parametrize("taps", [(1, 7), (5, 5)], ids=str)
def test_strict_numerics_keep_it_out(taps):
    optimised, _ = optimise(network(taps)[0], Options(numerics="strict"))
    assert not any(node.op.name.startswith("winograd_") for node in optimised.nodes)


def test_branches_share_the_tiles_of_their_input():
    """Two of three convolutions transform the same tiles; the third one pads differently."""
    rng = np.random.default_rng(3)
    graph = Graph()
    x = graph.input("x", f32(1, 32, 13, 17))
    for i, pad in enumerate((1, 1, 0)):
        w = graph.constant((rng.standard_normal((48, 32, 3, 3)) / 17).astype(np.float32))
        op = WinogradConv((1, 1), ((pad, pad),) * 2, (1, 1), 1, outputs=(4, 4), taps=(3, 3), staged=True)
        graph.output(f"y{i}", graph.apply(op, x, w, None, name=f"branch{i}"))
    feeds = {"x": rng.standard_normal(x.shape).astype(np.float32)}
    expected = evaluate(graph, feeds)
    optimised, reports = optimise(graph, Options())
    assert [node.op.name for node in optimised.nodes].count("winograd_input") == 2
    assert any("shares the tiles" in str(report) for report in reports)
    for name, result in compile_graph(graph).run(feeds).items():
        np.testing.assert_allclose(result, expected[name], rtol=0, atol=3e-5 * np.abs(expected[name]).max())


@pytest.mark.parametrize(("dilation", "share"), [(9, (2 * 9 * 2 + 12 * 3) / (30 * 3)), (30, 1 / 3)])
def test_taps_in_the_padding_cost_nothing(dilation, share):
    """Of three taps along each axis those that meet an image of 30 x 30 pixels; with dilation 1, only rows skip any."""

    def direct(dilation):
        graph = Graph()
        w = graph.constant(np.ones((64, 64, 3, 3), np.float32))
        op = Conv((1, 1), ((dilation, dilation),) * 2, (dilation,) * 2)
        graph.apply(op, graph.input("x", f32(1, 64, 30, 30)), w, None)
        found, _ = candidates(target("x86-64-v4"), graph.nodes[-1])
        return min(each.cycles for each in found if each.name.startswith("direct "))

    all_rows = direct(1) / (88 / 90)
    assert direct(dilation) == pytest.approx(all_rows * share**2)


@pytest.mark.parametrize(("size", "taps", "times"), [(28, 3, 1.0), (28, 3, 2.0), (28, 7, 1.0), (112, 3, 1.0)])
def test_depthwise_convolutions_cost_what_they_multiply_and_fetch(size, taps, times):
    channels = int(96 * times)
    graph = Graph()
    w = graph.constant(np.ones((channels, 1, taps, taps), np.float32))
    op = Conv((1, 1), ((taps // 2,) * 2,) * 2, (1, 1), channels)
    graph.apply(op, graph.input("x", f32(1, channels, size, size)), w, None)
    machine = target("x86-64-v4")
    ((found,), _) = candidates(machine, graph.nodes[-1])
    assert found.name == "depthwise"
    fmas = channels // machine.lanes * size**2 * taps**2 / machine.fmas_per_cycle
    reading = 4 * channels * size**2 / memory_rate(machine, 4 * channels * size**2)
    assert max(fmas, reading) < found.cycles < 2 * fmas + 0.5 * reading


@pytest.mark.parametrize(("groups", "name"), [(64, "depthwise"), (16, "grouped"), (4, "direct")])
def test_the_algorithm_is_called_what_the_kernel_is(groups, name):
    net = gl.Sequential([gl.layers.Input((64, 7, 7)), gl.layers.Conv2d(64, 3, padding=1, groups=groups)])
    (step,) = [s for s in gl.compile(net, numerics="strict").manifest.steps if s.label == "0"]
    assert step.algorithm.startswith(name)
    (lowered,) = [s for s in lower(net.graph(), Options(numerics="strict")).steps if s.label == "0"]
    assert lowered.template == name
