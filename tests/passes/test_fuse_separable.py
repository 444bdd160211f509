"""Depthwise and 1x1 convolutions as one kernel: where they are, and where they stay two."""

from __future__ import annotations

from dataclasses import replace

import pytest
from rewrites import rewrite

from glulam.compiler.driver import optimise
from glulam.compiler.options import Options
from glulam.compiler.passes.fuse import Fuse
from glulam.compiler.passes.fuse_separable import FuseSeparable
from glulam.compiler.targets import target
from glulam.frontends.zoo import NETWORKS

V3 = replace(target("x86-64-v3"), l2_bytes=6000)
DEPTHWISE = "{strides=(2, 1), pads=((1, 1), (0, 2)), dilations=(1, 1), groups=17}"
ONE = "{strides=(1, 1), pads=((0, 0), (0, 0)), dilations=(1, 1), groups=1}"
HEAD = """input %x: f32[2,17,13,7]
const %w: f32[17,1,3,3] = random
const %b: f32[17] = random
const %u: f32[5,17,1,1] = random
const %three: f32[] = random
"""
PAIR = f"%d = conv(%x, %w, %b) {DEPTHWISE}\n%r = relu(%d)\n%p = conv(%r, %u) {ONE}\n"


def fused(text, machine=V3):
    return rewrite(HEAD + text, Fuse(machine), FuseSeparable(machine), tolerance=1e-5)


def test_with_what_follows_both():
    result = fused(f"input %z: f32[2,5,7,7]\n{PAIR}%s = add(%p, %z)\n%y = silu(%s)\noutput y = %y")
    assert result.ops == "separable_conv"


def test_with_a_formula_that_reads_the_result_twice():
    text = (
        f"%d = conv(%x, %w) {DEPTHWISE}\n%a = add(%d, %three)\n%r = mul(%a, %d)\n%p = conv(%r, %u) {ONE}\noutput y = %p"
    )
    assert fused(text).ops == "separable_conv"


def test_without_anything_between():
    assert fused(f"%d = conv(%x, %w) {DEPTHWISE}\n%p = conv(%d, %u) {ONE}\noutput y = %p").ops == "separable_conv"


def test_a_second_use_declines():
    result = fused(f"{PAIR}%q = softmax(%r) {{axis=1}}\noutput y = %p\noutput z = %q")
    assert "separable_conv" not in result.ops
    assert "has 1 other use" in result.declined


def test_a_graph_output_declines():
    result = fused(f"{PAIR}output y = %p\noutput z = %r")
    assert "separable_conv" not in result.ops
    assert "is an output of the graph" in result.declined


def test_a_reader_that_is_no_1x1_convolution_declines():
    wide = "{strides=(1, 1), pads=((1, 1), (1, 1)), dilations=(1, 1), groups=1}"
    alone = PAIR.split("%p")[0]
    for reader in (f"const %v: f32[5,17,3,3] = random\n%p = conv(%r, %v) {wide}", "%p = softmax(%r) {axis=1}"):
        result = fused(f"{alone}{reader}\noutput y = %p")
        assert "separable_conv" not in result.ops
        assert "what reads it is no plain 1x1 convolution" in result.declined


def test_a_pool_behind_declines():
    pool = "{kernel=(2, 2), strides=(2, 2), pads=((0, 0), (0, 0)), dilations=(1, 1), ceil_mode=False}"
    result = fused(f"{PAIR}%m = max_pool(%p) {pool}\noutput y = %m")
    assert "separable_conv" not in result.ops


def test_weights_that_are_fed_decline():
    result = fused(f"input %v: f32[5,17,1,1]\n{PAIR.replace('%u', '%v')}output y = %p")
    assert "the weights are not constants" in result.declined


@pytest.mark.parametrize(
    ("machine", "why"),
    [
        (target("x86-64-v3"), "stays in the second-level cache"),
        (replace(V3, l2_bytes=1000), "too many weights"),
        (replace(V3, l2_bytes=5000), "too large to be kept"),
    ],
)
def test_where_it_does_not_pay(machine, why):
    result = fused(f"{PAIR}output y = %p", machine)
    assert "separable_conv" not in result.ops
    assert why in result.declined


@pytest.mark.parametrize(("name", "count"), [("mobilenet_v2", 4), ("mnasnet1_0", 2), ("mobilenet_v3_large", 1)])
def test_in_networks(name, count):
    graph, reports = optimise(NETWORKS[name](), Options(target="x86-64-v4"))
    assert sum(node.op.name == "separable_conv" for node in graph.nodes) == count
    (report,) = (each for each in reports if each.name == "fuse_separable")
    assert any(not decision.taken for decision in report.decisions)
