"""Fusion: what joins a kernel, what stays outside and why, and that the numbers stay the same."""

from __future__ import annotations

import pytest
from pass_texts import CONV1, CONV3, IMAGE, POOL2
from rewrites import compiled, rewrite

from glulam.compiler.graph.op import Trait
from glulam.compiler.ops import ALL_OPS
from glulam.compiler.ops.pointwise import Pointwise
from glulam.compiler.options import Options
from glulam.compiler.passes.fuse import Fuse
from glulam.compiler.targets import target

V3 = target("x86-64-v3")
CONV = IMAGE + f"%c = conv(%x, %w) {CONV3}\n"
VECTOR = "input %x: f32[4,8]\n"


def fuse(text):
    return rewrite(text, Fuse(V3))


def body(result):
    """Ops of the only region."""
    (region,) = (node.op for node in result.graph.nodes if node.op.name == "fused")
    return " ".join(node.op.name for node in region.body.nodes)


# ---- anchors


@pytest.mark.parametrize(("shape", "axes", "ops"), [
    ("8,5,30,2", "(3,)", "reduce fused"), ("8,5,30,2", "(0,)", "fused"), ("4,5,30,2", "(3,)", "fused"),
    ("8,5,30,64", "(3,)", "fused"), ("1,2000,7,7", "(2, 3)", "fused"),
])  # fmt: skip
def test_nothing_joins_short_sums_that_come_one_at_a_time(shape, axes, ops):
    result = fuse(f"input %x: f32[{shape}]\n%s = reduce(%x) {{kind='sum_square', axes={axes}, keepdims=False}}\n"
                  "%r = sqrt(%s)\n%y = exp(%r)\noutput y = %y")  # fmt: skip
    assert result.ops == ops


def test_pointwise_ops_join_the_anchor():
    result = fuse(CONV + "%r = relu(%c)\n%y = sigmoid(%r)\noutput y = %y")
    assert (result.ops, body(result)) == ("fused", "conv relu sigmoid")
    assert result.taken == ["c: one kernel for conv + relu + sigmoid"]


def test_an_output_of_the_graph_ends_the_region():
    result = fuse(CONV + "%r = relu(%c)\n%y = sigmoid(%r)\noutput y = %y\noutput z = %c")
    assert (result.ops, body(result)) == ("conv fused", "relu sigmoid")
    assert "c: %c is an output of the graph" in result.declined


def test_a_second_reader_that_is_not_pointwise_ends_the_region():
    both = f"%d = conv(%c, %u) {CONV1}\n%e = conv(%r, %u) {CONV1}\noutput y = %d\noutput z = %e"
    result = fuse(CONV + "%r = relu(%c)\n" + both)
    assert result.ops == "conv relu conv conv"
    assert "conv 'd' reads its result and is not pointwise" in result.declined


def test_readers_that_meet_again_join_together():
    result = fuse(CONV + "%s = sigmoid(%c)\n%y = mul(%c, %s)\noutput y = %y")
    assert (result.ops, body(result)) == ("fused", "conv sigmoid mul")


def test_a_chain_of_readers_that_meets_a_direct_one_joins():
    result = fuse(CONV + "%a = relu(%c)\n%b = sigmoid(%a)\n%y = mul(%c, %b)\noutput y = %y")
    assert (result.ops, body(result)) == ("fused", "conv relu sigmoid mul")


def test_readers_that_never_meet_stay_outside():
    result = fuse(CONV + "%s = sigmoid(%c)\n%t = tanh(%c)\noutput y = %s\noutput z = %t")
    assert result.ops == "conv sigmoid tanh"


def test_a_value_read_twice_by_one_node_joins_once():
    result = fuse(CONV + "%y = mul(%c, %c)\noutput y = %y")
    assert body(result) == "conv mul"


def test_a_residual_joins_the_later_of_two_anchors():
    result = fuse(CONV + f"%d = conv(%x, %u) {CONV1}\n%s = add(%c, %d)\n%y = relu(%s)\noutput y = %y")
    assert result.ops == "conv fused"
    assert body(result) == "conv add relu"


def test_nothing_that_depends_on_the_region_is_read_by_it():
    text = CONV + f"%r = relu(%c)\n%d = conv(%r, %u) {CONV1}\n%y = add(%r, %d)\noutput y = %y"
    result = fuse(text)
    assert result.ops == "fused fused"
    assert compiled(text)


def test_a_change_of_shape_ends_the_region():
    result = fuse("input %x: f32[1,16,6,1]\nconst %w: f32[16,16,1,1] = random\nconst %k: f32[6] = random\n"
                  f"%c = conv(%x, %w) {CONV1}\n%y = add(%c, %k)\noutput y = %y")  # fmt: skip
    assert "'y' changes the shape to [1, 16, 6, 6]" in result.declined


def test_an_anchor_that_nobody_reads_is_left_alone():
    text = CONV + "%y = relu(%x)\noutput y = %y"
    assert fuse(text).ops == "conv relu"
    compiled(text, Options(disable=("dead_code",)))


# ---- windows


def test_a_pool_joins_the_convolution():
    result = fuse(CONV + f"%r = relu(%c)\n%y = max_pool(%r) {POOL2}\noutput y = %y")
    assert body(result) == "conv relu max_pool"


@pytest.mark.parametrize("rest", ["output z = %r", "%t = neg(%r)\n%q = relu(%t)\noutput z = %q"])
def test_a_pool_of_what_others_need_stays(rest):
    result = fuse(CONV + f"%r = relu(%c)\n%y = max_pool(%r) {POOL2}\noutput y = %y\n{rest}")
    assert "max_pool" in result.ops


def test_a_pool_stays_where_the_kernel_cannot_fold_it():
    grouped = CONV3.replace("groups=1", "groups=2")
    result = fuse(f"input %x: f32[1,16,6,6]\nconst %w: f32[16,8,3,3] = random\n%c = conv(%x, %w) {grouped}\n"
                  f"%y = max_pool(%c) {POOL2}\noutput y = %y")  # fmt: skip
    assert result.ops == "conv max_pool"
    assert "max_pool 'y' stays a kernel of its own: the convolution is grouped" in result.declined


# ---- chains


def test_a_chain_becomes_one_kernel():
    result = fuse(VECTOR + "%a = exp(%x)\n%b = add(%a, %x)\n%y = sqrt(%b)\noutput y = %y")
    assert body(result) == "exp add sqrt"


@pytest.mark.parametrize(("op", "count"), [("abs", 300), ("sigmoid", 40), ("gelu", 30), ("mish", 20), ("asinh", 40)])
def test_long_chains_become_several_kernels(op, count):
    """Code generation goes through a formula by recursion, and prints what is used twice in it twice."""
    lines = [f"%v{i + 1} = {op}(%v{i})" for i in range(count)]
    text = "\n".join([VECTOR.replace("%x", "%v0").rstrip(), *lines, f"output y = %v{count}"])
    result = fuse(text)
    regions = [node for node in result.graph.nodes if node.op.name == "fused"]
    assert 1 < len(regions) <= count / 4
    compiled(text)


def test_a_single_op_stays_itself():
    result = fuse(VECTOR + "%y = exp(%x)\noutput y = %y")
    assert result.ops == "exp"


# ---- what is computed for a region alone


SCALED = IMAGE + "input %o: f32[1,16,6,6]\n%n = neg(%o)\n%m = mul(%n, %o)\n" + f"%c = conv(%x, %w) {CONV3}\n"


def test_what_only_the_region_reads_joins_it():
    result = fuse(SCALED + "%y = add(%c, %m)\noutput y = %y")
    assert (result.ops, body(result)) == ("fused", "conv neg mul add")


def test_what_others_read_too_stays_a_kernel():
    result = fuse(SCALED + "%y = add(%c, %m)\noutput y = %y\noutput z = %m")
    assert result.ops == "fused fused"
    assert [len(node.op.body.nodes) for node in result.graph.nodes] == [2, 2]


def test_what_the_anchor_reads_as_well_stays_a_kernel():
    result = fuse(IMAGE + f"%m = neg(%x)\n%c = conv(%m, %w) {CONV3}\n%y = add(%c, %m)\noutput y = %y")
    assert result.ops == "neg fused"


def test_what_is_of_another_shape_stays_a_kernel():
    own = "input %o: f32[1,1,6,6]\n%m = neg(%o)\n"
    result = fuse(IMAGE + own + f"%c = conv(%x, %w) {CONV3}\n%y = add(%c, %m)\noutput y = %y")
    assert sorted(result.ops.split()) == ["fused", "neg"]


def test_chains_that_meet_are_one_kernel():
    result = fuse(VECTOR + "input %z: f32[4,8]\n%a = neg(%x)\n%b = exp(%z)\n%y = add(%a, %b)\noutput y = %y")
    assert (result.ops, body(result)) == ("fused", "neg exp add")


@pytest.mark.parametrize(("length", "kernels"), [(50, 1), (100, 2)])
def test_formulas_that_would_be_too_deep_together_stay_apart(length, kernels):
    before = "".join(f"%b{i + 1} = neg(%b{i})\n" for i in range(length))
    behind = "".join(f"%n{i + 1} = neg(%n{i})\n" for i in range(length))
    text = f"input %b0: f32[1,16,6,6]\n{before}%c = conv(%x, %w) {CONV3}\n%n0 = add(%c, %b{length})\n{behind}"
    assert len(fuse(IMAGE + text + f"output y = %n{length}").graph.nodes) == kernels


# ---- numbers


@pytest.mark.parametrize("channels", [3, 16, 20])
def test_the_anchors_own_input_is_read_again_behind_it(channels):
    text = (f"input %x: f32[1,{channels},6,6]\nconst %w: f32[{channels},{channels},3,3] = random\n"
            f"%c = conv(%x, %w) {CONV3}\n%y = add(%c, %x)\noutput y = %y")  # fmt: skip
    assert "fused" in compiled(text)


@pytest.mark.parametrize("kind", ["input", "const"])
@pytest.mark.parametrize("shape", ["6", "20,6", "1,20,6", "16,1,1", "1,16,1,1", "1,1,20,6", "1"])
@pytest.mark.parametrize("fused", [True, False])
def test_operands_of_every_rank_are_broadcast_into_blocks(kind, shape, fused):
    operand = f"input %z: f32[{shape}]" if kind == "input" else f"const %z: f32[{shape}] = random"
    compiled(f"input %x: f32[1,16,20,6]\n{operand}\nconst %u: f32[16,16,1,1] = random\n"
             f"%c = conv(%x, %u) {CONV1}\n%y = add(%c, %z)\noutput y = %y", Options(fuse=fused))  # fmt: skip


def test_every_pointwise_trait_comes_with_a_formula():
    assert all(issubclass(op, Pointwise) for op in ALL_OPS if Trait.POINTWISE in op.traits)
