"""Which movements of channels become lookups of convolutions, and which stay."""

from __future__ import annotations

import pytest
from executors import assert_close, same_for_any_threads
from pass_texts import CONV1, CONV3
from rewrites import graph_of, random, rewrite

from glulam.compiler.driver import compile_graph, explain, optimise
from glulam.compiler.options import Options
from glulam.compiler.passes.canonical_shuffle import CanonicalShuffle
from glulam.compiler.passes.chosen_channels import ChosenChannels
from glulam.compiler.passes.dead_code import DeadCode
from glulam.compiler.targets import target
from glulam.frontends import zoo

TARGET = target("x86-64-v4")
HEAD = f"""input %x: f32[2,3,13,7]
const %u: f32[17,3,1,1] = random
const %v: f32[33,3,1,1] = random
%a = conv(%x, %u, none) {CONV1}
%b = conv(%x, %v, none) {CONV1}
%c = relu(%b)
"""


def moved(text, head=HEAD, tolerance=1e-6):
    return rewrite(head + text, DeadCode(), CanonicalShuffle(), ChosenChannels(TARGET), tolerance=tolerance)


def layer(x, channels, name="y", attributes=CONV1, taps="1,1", outs=19):
    return (
        f"const %w{name}: f32[{outs},{channels},{taps}] = random\nconst %b{name}: f32[{outs}] = random\n"
        f"%{name} = conv(%{x}, %w{name}, %b{name}) {attributes}\noutput {name} = %{name}\n"
    )


CONCAT = "%j = concat(%a, %c) {axis=1}\n"


def shuffle(channels):
    """Of %j, its halves interleaved."""
    half = channels // 2
    return (
        f"%apart = reshape(%j) {{shape=(2, 2, {half}, 13, 7)}}\n%swapped = transpose(%apart) {{perm=(0, 2, 1, 3, 4)}}\n"
        f"%s = reshape(%swapped) {{shape=(2, {channels}, 13, 7)}}\n"
    )


SHUFFLE = CONCAT + shuffle(50)


def test_a_concat():
    result = moved(CONCAT + layer("j", 50))
    assert result.ops == "conv conv relu conv_channels"
    op = result.graph.nodes[-1].op
    assert op.channels == (tuple(range(17)), tuple(range(33)))
    assert "j: 0k elements to move, not 9k" in result.taken[0]


def test_a_shuffle_and_both_of_its_halves():
    text = SHUFFLE + "%p, %q = split(%s) {axis=1, sizes=(25, 25)}\n" + layer("p", 25) + layer("q", 25, "z")
    result = moved(text)
    assert result.ops == "conv conv relu conv_channels conv_channels"
    first, second = (node.op.channels for node in result.graph.nodes[-2:])
    assert first == (tuple(range(13)), tuple(range(8, 20)))
    assert second == ((*range(8), *range(20, 33)), tuple(range(13, 17)))


def test_one_of_two_outputs_of_a_split_is_not_read():
    text = SHUFFLE + "%p, %q = split(%s) {axis=1, sizes=(13, 37)}\n" + layer("q", 37)
    assert moved(text).ops == "conv conv relu conv_channels"


def test_a_concat_of_what_a_convolution_makes_of_another_concat():
    text = CONCAT + layer("j", 50, "p") + "%k = concat(%p, %c) {axis=1}\n" + layer("k", 52)
    result = moved(text)
    assert result.ops == "conv conv relu conv_channels conv_channels"
    assert [taken.split(":")[0] for taken in result.taken[-2:]] == ["j", "k"]


def test_slices_of_channels():
    text = "%p = slice(%a) {starts=(0, 16, 0, 0), steps=(1, -3, 1, 1), sizes=(2, 6, 13, 7)}\n" + layer("p", 6)
    result = moved(text)
    assert result.ops == "conv conv_channels"
    assert result.graph.nodes[-1].op.channels == ((1, 4, 7, 10, 13, 16),)


@pytest.mark.parametrize(
    "slice",
    [
        "{starts=(0, 0, 1, 0), steps=(1, 1, 1, 1), sizes=(2, 6, 12, 7)}",
        "{starts=(0, 0, 12, 0), steps=(1, 1, -1, 1), sizes=(2, 6, 13, 7)}",
        "{starts=(1, 0, 0, 0), steps=(1, 1, 1, 1), sizes=(1, 6, 13, 7)}",
    ],
)
def test_declines_slices_of_more_than_channels(slice):
    result = moved(f"%p = slice(%a) {slice}\n" + layer("p", 6))
    assert result.ops == "conv slice conv"
    assert not result.declined


def test_what_others_read_too_is_copied_once():
    text = SHUFFLE + layer("s", 50) + "%m = max_pool(%s) {kernel=(2, 2), strides=(2, 2), pads=((0, 0), (0, 0)), "
    text += "dilations=(1, 1), ceil_mode=False}\noutput m = %m\n"
    text += "%p, %q = split(%s) {axis=1, sizes=(25, 25)}\n" + layer("q", 25, "z")
    result = moved(text)
    ops = result.ops.split()
    assert (ops.count("select_channels"), ops.count("conv_channels"), ops.count("conv")) == (1, 1, 3)
    assert not {"concat", "channel_shuffle", "split"} & set(ops)


def test_a_graph_output_is_copied_once():
    text = SHUFFLE + "output s = %s\n" + "%p, %q = split(%s) {axis=1, sizes=(25, 25)}\n" + layer("q", 25, "z")
    assert moved(text).ops == "conv conv relu select_channels conv_channels"


@pytest.mark.parametrize("more", ["output j = %j\n", "%r = sigmoid(%j)\noutput r = %r\n"])
def test_declines_if_all_would_be_copied_still(more):
    """Whether the graph gives it out, or another node reads it."""
    result = moved(CONCAT + layer("j", 50) + more)
    assert "concat" in result.ops
    assert "conv_channels" not in result.ops
    assert not result.taken


@pytest.mark.parametrize(
    ("attributes", "taps"),
    [
        (CONV3, "3,3"),
        (CONV1.replace("strides=(1, 1)", "strides=(1, 2)"), "1,1"),
        (CONV1.replace("(0, 0), (0, 0)", "(1, 0), (0, 0)"), "1,1"),
    ],
)
def test_declines_other_convolutions(attributes, taps):
    assert moved(CONCAT + layer("j", 50, attributes=attributes, taps=taps)).ops == "conv conv relu concat conv"


def test_declines_groups():
    text = CONCAT + layer("j", 25, attributes=CONV1.replace("groups=1", "groups=2"), outs=18)
    assert moved(text).ops == "conv conv relu concat conv"


def test_declines_weights_that_are_not_constant():
    text = CONCAT + f"input %w: f32[3,50,1,1]\n%y = conv(%j, %w, none) {CONV1}\noutput y = %y"
    assert moved(text).ops == "conv conv relu concat conv"


def test_declines_whole_blocks_which_are_views():
    head = HEAD.replace("[17,", "[48,")
    result = moved(CONCAT + layer("j", 81), head)
    assert result.ops == "conv conv relu concat conv"
    assert not result.declined
    text = "%p, %q = split(%a) {axis=1, sizes=(32, 16)}\n" + layer("p", 32) + layer("q", 16, "z")
    assert moved(text, head).ops == "conv split conv conv"


def test_whole_blocks_of_what_is_shuffled():
    head = HEAD.replace("[17,", "[48,").replace("[33,", "[48,")
    text = CONCAT + shuffle(96) + "%p, %q = split(%s) {axis=1, sizes=(48, 48)}\n" + layer("q", 48)
    result = moved(text, head)
    assert result.ops == "conv conv relu concat conv_channels"
    assert result.graph.nodes[-1].op.channels == ((*range(24, 48), *range(72, 96)),)


def test_declines_if_looking_up_takes_longer():
    result = moved(CONCAT + layer("j", 50, outs=1024))
    assert result.ops == "conv conv relu concat conv"
    assert "1 convolutions look channels up" in result.declined


def test_declines_tensors_with_padding_around_them():
    result = moved(CONCAT + layer("j", 50) + layer("c", 33, "z", CONV3, "3,3"))
    assert "concat" in result.ops
    assert "%c has padding around it for 'z'" in result.declined


def test_declines_plain_tensors():
    head = "input %a: f32[2,17,13,7]\ninput %c: f32[2,33,13,7]\n"
    result = moved(CONCAT + layer("j", 50), head)
    assert result.ops == "concat conv"
    assert "%a does not come in channel blocks" in result.declined


def test_declines_many_tensors():
    head = "input %x: f32[1,3,7,13]\n" + "".join(
        f"const %u{k}: f32[3,3,1,1] = random\n%a{k} = conv(%x, %u{k}, none) {CONV1}\n" for k in range(17)
    )
    concat = f"%j = concat({', '.join(f'%a{k}' for k in range(17))}) {{axis=1}}\n"
    assert "conv_channels" not in moved(concat + layer("j", 51), head).ops


def test_declines_movements_alone():
    result = moved(SHUFFLE + "output s = %s\n")
    assert result.ops == "conv conv relu concat channel_shuffle"
    assert not result.declined


@pytest.mark.parametrize("name", ["x86-64-v4", "x86-64-v3", "x86-64-v2"])
def test_shufflenet(name):
    graph = zoo.shufflenet_v2_x1_0(num_classes=10, input_shape=(3, 64, 64))
    options = Options(target=name)
    ops = [node.op.name for node in optimise(graph, options)[0].nodes]
    assert ops.count("select_channels") == 2
    (report,) = (report for report in explain(graph, options) if report.name == "chosen_channels")
    assert report.patches == (3 if name == "x86-64-v4" else 2)  # small images are cheap to copy


@pytest.mark.parametrize("name", ["squeezenet1_1", "googlenet"])
def test_concats_that_are_views_stay(name):
    graph = zoo.NETWORKS[name](input_shape=(3, 64, 64))
    (report,) = (report for report in explain(graph) if report.name == "chosen_channels")
    assert not report.patches


@pytest.mark.parametrize("batch", [1, 4])
def test_the_same_bits_for_any_number_of_threads(batch):
    graph = zoo.shufflenet_v2_x1_0(num_classes=10, input_shape=(3, 64, 64), batch=batch)
    feeds = {name: random(value.type, name) for name, value in graph.inputs.items()}
    same_for_any_threads(graph, feeds)


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("numerics", ["fast", "strict"])
def test_native_code_agrees(threads, numerics):
    text = SHUFFLE + "%p, %q = split(%s) {axis=1, sizes=(25, 25)}\n" + layer("q", 25) + "%t = tanh(%y)\noutput t = %t\n"
    graph = graph_of(HEAD + text + layer("p", 25, "z", CONV3, "3,3"))
    feeds = {name: random(value.type, name) for name, value in graph.inputs.items()}
    on, off = (
        compile_graph(graph, Options(threads=threads, numerics=numerics, disable=disable)).run(feeds)
        for disable in ((), ("chosen_channels",))
    )
    for name, wanted in off.items():
        assert_close(on[name], wanted)
