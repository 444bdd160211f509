"""A softmax between two matrix products: where it becomes one kernel with them, and where it stays."""

from __future__ import annotations

from dataclasses import replace

import pytest
from rewrites import rewrite

from glulam.compiler.driver import optimise
from glulam.compiler.options import Options
from glulam.compiler.passes.fuse import Fuse
from glulam.compiler.passes.fuse_attention import FuseAttention
from glulam.compiler.targets import target
from glulam.frontends.zoo import NETWORKS

V3 = target("x86-64-v3")
HEAD = """input %q: f32[2,3,7,5]
input %k: f32[2,3,5,13]
input %v: f32[2,3,13,4]
input %m: f32[7,13]
const %half: f32[] = random
"""
SCORES = "%s = matmul(%q, %k)\n%h = mul(%s, %half)\n%a = add(%h, %m)\n%w = softmax(%a) {axis=3}\n"
ALL = f"{SCORES}%o = matmul(%w, %v)\n"


def fused(text, machine=V3):
    return rewrite(HEAD + text, Fuse(machine), FuseAttention(machine), tolerance=1e-5)


def test_with_what_follows_both():
    assert fused(f"{ALL}%y = relu(%o)\noutput y = %y").ops == "attention"


def test_without_anything_between():
    assert (
        fused("%s = matmul(%q, %k)\n%w = softmax(%s) {axis=3}\n%o = matmul(%w, %v)\noutput y = %o").ops == "attention"
    )


def test_values_that_all_products_share():
    text = f"input %u: f32[3,13,4]\n{SCORES}%o = matmul(%w, %u)\noutput y = %o"
    assert fused(text).ops == "attention"


def test_scores_that_are_read_elsewhere_decline():
    for value in ("a", "w"):
        result = fused(f"{ALL}%n = neg(%{value})\noutput y = %o\noutput z = %n")
        assert "attention" not in result.ops
        assert "has 1 other use" in result.declined
        result = fused(f"{ALL}output y = %o\noutput z = %{value}")
        assert "is an output of the graph" in result.declined


@pytest.mark.parametrize(
    "reader",
    [
        "%o = relu(%w)",
        "input %u: f32[2,3,4,7]\n%o = matmul(%u, %w)",
        "%t = transpose(%w) {perm=(0, 1, 3, 2)}\ninput %u: f32[2,3,7,4]\n%o = matmul(%t, %u)",
    ],
)
def test_a_reader_that_is_no_product_of_the_softmax_declines(reader):
    result = fused(f"{SCORES}{reader}\noutput y = %o")
    assert "attention" not in result.ops
    assert "no matrix product with it on the left" in result.declined


def test_values_with_further_batches_decline():
    result = fused(f"input %u: f32[6,2,3,13,4]\n{SCORES}%o = matmul(%w, %u)\noutput y = %o")
    assert "attention" not in result.ops
    assert "has other rows" in result.declined


def test_another_axis_is_none_of_this():
    result = fused(f"{ALL.replace('axis=3', 'axis=2')}output y = %o")
    assert "attention" not in result.ops


def test_what_is_no_float32_stays():
    text = "input %a: f64[3,20]\ninput %b: f64[20,9]\ninput %c: f64[9,2]\n"
    result = rewrite(
        f"{text}%s = matmul(%a, %b)\n%w = softmax(%s) {{axis=1}}\n%o = matmul(%w, %c)\noutput y = %o",
        Fuse(V3), FuseAttention(V3),
    )  # fmt: skip
    assert "attention" not in result.ops


def test_short_and_very_long_rows_decline():
    short = ALL.replace("%k", "%l").replace("%v", "%u").replace("%m", "%n")
    result = fused(f"input %l: f32[2,3,5,8]\ninput %u: f32[2,3,8,4]\ninput %n: f32[8]\n{short}output y = %o")
    assert "too short" in result.declined
    result = fused(f"{ALL}output y = %o", replace(V3, l2_bytes=2000))
    assert "too long to be kept in the second-level cache" in result.declined


def test_products_that_have_better_kernels_decline():
    result = fused(f"input %u: f32[2,3,13,1]\n{SCORES}%o = matmul(%w, %u)\noutput y = %o")
    assert "lanes along the sum" in result.declined
    result = fused(f"input %u: f32[13,4]\n{SCORES}%o = matmul(%w, %u)\noutput y = %o")
    assert "together with those of the rest" in result.declined


def test_in_a_network():
    graph, _ = optimise(NETWORKS["vit_b_16"](), Options(target="x86-64-v4"))
    assert sum(node.op.name == "attention" for node in graph.nodes) == 12
    graph, _ = optimise(NETWORKS["vit_b_16"](), Options(target="x86-64-v4", fuse=False))
    assert not any(node.op.name == "attention" for node in graph.nodes)
