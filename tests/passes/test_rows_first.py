"""Images whose rows lie outside the channel blocks: which tensors, and that nothing else changes."""

from __future__ import annotations

import numpy as np
from executors import native
from pass_texts import CONV1, CONV3
from rewrites import graph_of, rewrite

from glulam.compiler.options import Options
from glulam.compiler.passes.average_in_producer import AverageInProducer
from glulam.compiler.passes.fuse import Fuse
from glulam.compiler.passes.layout import ChooseLayout
from glulam.compiler.passes.rows_first import RowsFirst
from glulam.compiler.targets import target

V3 = target("x86-64-v3")  # blocks of 8 channels
LARGE = "input %x: f32[1,16,12,12]\nconst %w: f32[16,16,3,3] = random\nconst %u: f32[16,16,1,1] = random\n"
DEPTHWISE = "{strides=(1, 1), pads=((1, 1), (1, 1)), dilations=(1, 1), groups=16}"


def turned(text, threads=2):
    """Names of the tensors that are turned."""
    result = rewrite(text, ChooseLayout(V3), RowsFirst(threads))
    return {value.name for value in result.graph.values() if value.layout.rows_first}


def test_images_in_channel_blocks():
    text = LARGE + f"%a = conv(%x, %w) {CONV3}\n%y = conv(%a, %u) {CONV1}\noutput y = %y"
    assert turned(text) == {"x_c8", "a", "y"}
    assert turned(text, threads=1) == turned(text, threads=3) == set()


def test_small_images_and_single_blocks_stay():
    small = LARGE.replace("12,12", "7,7") + f"%a = conv(%x, %w) {CONV3}\n%y = conv(%a, %u) {CONV1}\noutput y = %y"
    assert turned(small) == set()
    single = LARGE.replace("w: f32[16,", "w: f32[8,").replace("u: f32[16,16", "u: f32[16,8")
    assert turned(single + f"%a = conv(%x, %w) {CONV3}\n%y = conv(%a, %u) {CONV1}\noutput y = %y") == {"x_c8", "y"}


def test_rows_of_very_many_channels_stay():
    for channels, expected in ((1024, {"a", "b"}), (2048, {"b"})):
        text = (f"input %x: f32[1,16,12,16]\nconst %w: f32[{channels},16,1,1] = random\n"
                f"const %u: f32[16,{channels},1,1] = random\nconst %v: f32[16,16,1,1] = random\n"
                f"%a = conv(%x, %w) {CONV1}\n"
                f"%b = conv(%a, %u) {CONV1}\n%y = conv(%b, %v) {CONV1}\noutput y = %y")  # fmt: skip
        assert turned(text) & {"a", "b"} == expected


def test_views_have_the_layout_of_what_they_lie_in():
    text = (LARGE + f"%a = conv(%x, %u) {CONV1}\n%b = conv(%x, %w) {CONV3}\n%c = concat(%a, %b) {{axis=1}}\n"
            "const %v: f32[16,32,1,1] = random\n"
            f"%y = conv(%c, %v) {CONV1}\noutput y = %y")  # fmt: skip
    assert turned(text) == {"x_c8", "a", "b", "c", "y"}


def test_what_is_reduced_channel_by_channel_stays():
    text = (LARGE + f"const %d: f32[16,1,3,3] = random\n%a = conv(%x, %u) {CONV1}\n%b = conv(%a, %d) {DEPTHWISE}\n"
            "%y = reduce(%b) {kind='mean', axes=(2, 3), keepdims=True}\noutput y = %y")  # fmt: skip
    assert turned(text) == {"x_c8"}


def test_means_of_rows_leave_the_halves_of_an_image_to_two_threads():
    """Unless there are more channels than pixels."""
    for channels, rows, expected in ((16, 12, {"x_c8", "a", "r"}), (64, 12, {"x_c8", "a", "r"}), (160, 12, {"x_c8"}),
                                     (16, 13, {"x_c8"})):  # fmt: skip
        text = (f"input %x: f32[1,16,{rows},12]\nconst %u: f32[{channels},16,1,1] = random\n"
                f"const %d: f32[{channels},1,3,3] = random\n%a = conv(%x, %u) {CONV1}\n"
                f"%b = conv(%a, %d) {DEPTHWISE.replace('groups=16', f'groups={channels}')}\n%r = relu(%b)\n"
                "%y = reduce(%r) {kind='mean', axes=(2, 3), keepdims=True}\noutput y = %y")  # fmt: skip
        result = rewrite(text, Fuse(V3), AverageInProducer(V3), ChooseLayout(V3), RowsFirst(2))
        assert {value.name for value in result.graph.values() if value.layout.rows_first} == expected


def test_sums_over_pixels_keep_their_order():
    text = (
        LARGE + f"%a = conv(%x, %u) {CONV1}\n%n = group_norm(%a) {{groups=4}}\n%y = conv(%n, %u) {CONV1}\noutput y = %y"
    )
    assert turned(text) == {"x_c8", "y"}


def test_the_pass_can_be_cut_off():
    graph = graph_of(LARGE + f"%a = conv(%x, %w) {CONV3}\n%y = conv(%a, %u) {CONV1}\noutput y = %y")
    ChooseLayout(V3).run(graph)
    report = RowsFirst(2).run(graph, limit=1)
    assert (report.patches, [value.name for value in graph.values() if value.layout.rows_first]) == (1, ["x_c8"])


def test_the_same_bits_in_samples_that_one_thread_takes_a_few_at_a_time():
    graph = graph_of("input %x: f32[3,16,12,12]\nconst %w: f32[16,16,3,3] = random\n"
                     f"%a = conv(%x, %w) {CONV3}\n%b = relu(%a)\n%y = conv(%b, %w) {CONV3}\noutput y = %y")  # fmt: skip
    feeds = {"x": np.random.default_rng(0).standard_normal((3, 16, 12, 12), np.float32)}
    expected = native(graph, feeds, Options(threads=1))["y"]
    np.testing.assert_array_equal(native(graph, feeds, Options(threads=2))["y"], expected)
    np.testing.assert_array_equal(native(graph, feeds, Options(threads=2, disable=("rows_first",)))["y"], expected)
