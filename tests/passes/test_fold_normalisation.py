"""Normalisation folding: where it fires, where it declines and why, and that the numbers stay."""

from __future__ import annotations

import numpy as np
import pytest
from rewrites import graph_of, rewrite

from glulam.compiler.graph.evaluate import evaluate
from glulam.compiler.graph.text import to_text
from glulam.compiler.graph.types import f32
from glulam.compiler.passes.fold_normalisation import FoldNormalisation
from glulam.compiler.passes.matmul_to_linear import MatMulToLinear

X = "input %x: f32[2,4,7,7]\n"
STATS = """
const %s: f32[6] = random
const %b: f32[6] = random
const %m: f32[6] = random
const %v: f32[6] = positive
"""
WEIGHTS = "const %w: f32[6,4,3,3] = random\n"
PADDED = "{strides=(1, 1), pads=((1, 1), (1, 1)), dilations=(1, 1), groups=1}"
VALID = "{strides=(1, 1), pads=((0, 0), (0, 0)), dilations=(1, 1), groups=1}"
NORM = "%n = batch_norm(%c, %s, %b, %m, %v) {epsilon=1e-3}\n"
CONV_NORM = X + STATS + WEIGHTS + f"%c = conv(%x, %w) {PADDED}\n" + NORM


def fold(text: str, **options):
    return rewrite(text, FoldNormalisation(**options))


# ---- into the layer before


def test_batch_norm_into_convolution(golden):
    result = fold(CONV_NORM + "output y = %n")
    assert result.ops == "conv"
    assert result.taken == ["n: folded into c before it"]
    golden("fold_conv_batch_norm", to_text(result.graph))


def test_declines_on_a_second_use():
    result = fold(CONV_NORM + "%r = relu(%c)\noutput y = %n\noutput z = %r")
    assert result.ops == "conv scale_shift relu"
    assert "before it, %c has 1 other use; after it, %n is an output of the graph" in result.declined


def test_trap_1_the_intermediate_is_also_a_graph_output():
    result = fold(CONV_NORM + "output y = %n\noutput z = %c")
    assert result.ops == "conv scale_shift"
    assert "before it, %c is an output of the graph" in result.declined


def test_trap_2_fan_out_of_the_convolution():
    result = fold(CONV_NORM + "%a = add(%n, %c)\noutput y = %a")
    assert result.ops == "conv scale_shift add"


def test_trap_3_groups():
    text = X + STATS + "const %w: f32[6,2,3,3] = random\n"
    text += "%c = conv(%x, %w) {strides=(2, 1), pads=((1, 0), (0, 2)), dilations=(1, 2), groups=2}\n" + NORM
    assert fold(text + "output y = %n").ops == "conv"


def test_trap_5_epsilon_is_kept():
    text = CONV_NORM.replace("epsilon=1e-3", "epsilon=0.5").replace("positive", "random") + "output y = %n"
    graph = graph_of(text)
    graph.nodes[1].inputs[4].data[:] = 1e-4
    assert rewrite(graph, FoldNormalisation()).ops == "conv"


def test_trap_6_batch_norm_is_folded_in_float64():
    """Large mean and tiny variance: a float32 fold of the shift would lose the digits that cancel."""
    graph = graph_of(CONV_NORM + "output y = %n")
    conv, norm = graph.nodes
    for value, data in zip(norm.inputs[1:], ([1.1] * 6, [0.3] * 6, [1 / 3] * 6, [1e-9] * 6), strict=True):
        value.data = np.array(data, np.float32)
    rewritten = rewrite(graph, FoldNormalisation(), tolerance=1e-5).graph
    factor = np.float64(np.float32(1.1)) / np.sqrt(np.float64(np.float32(1e-9)) + 1e-3)
    wanted = (conv.inputs[1].data.astype(np.float64) * factor).astype(np.float32)
    assert np.array_equal(rewritten.nodes[0].inputs[1].data, wanted)


def test_a_chain_is_rounded_once():
    text = CONV_NORM + "const %k: f32[6,1,1] = random\n%d = div(%n, %k)\n%e = sub(%d, %k)\noutput y = %e"
    result = fold(text)
    assert result.ops == "conv"
    assert result.taken == ["n + d + e: folded into c before it"]


def test_bias_of_the_convolution_is_scaled():
    text = CONV_NORM.replace("conv(%x, %w)", "conv(%x, %w, %m)") + "output y = %n"
    assert fold(text).ops == "conv"


def test_shared_weights_stay_for_the_other_layer():
    text = CONV_NORM + f"%c2 = conv(%x, %w) {VALID}\noutput y = %n\noutput z = %c2"
    assert fold(text).ops == "conv conv"


@pytest.mark.parametrize("groups", [1, 2, 4])
def test_transposed_convolution(groups):
    out = 6 // groups if groups < 4 else 3
    channels = out * groups
    text = X + STATS.replace("[6]", f"[{channels}]") + f"const %w: f32[4,{out},3,3] = random\n"
    text += "%c = conv_transpose(%x, %w) {strides=(2, 2), pads=((1, 1), (1, 0)), dilations=(1, 1), "
    text += f"output_padding=(1, 0), groups={groups}}}\n" + NORM
    assert fold(text + "output y = %n").ops == "conv_transpose"


def test_one_and_three_dimensional_convolution():
    for rank, pads in ((1, "((1, 1),)"), (3, "((1, 1), (0, 0), (1, 0))")):
        ones = "(" + "1, " * rank + ")"
        text = f"input %x: f32[1,4{',5' * rank}]\n" + STATS + f"const %w: f32[6,4{',3' * rank}] = random\n"
        text += f"%c = conv(%x, %w) {{strides={ones}, pads={pads}, dilations={ones}}}\n" + NORM
        assert fold(text + "output y = %n").ops == "conv"


LINEAR = "input %x: f32[3,5]\n" + STATS + "const %w: f32[6,5] = random\n%c = linear(%x, %w, %b)\n"


def test_batch_norm_into_linear():
    assert fold(LINEAR + NORM + "output y = %n").ops == "linear"


def test_linear_declines_on_second_use_and_output():
    assert fold(LINEAR + NORM + "output y = %n\noutput z = %c").ops == "linear scale_shift"
    assert fold(LINEAR + NORM + "%r = relu(%c)\noutput y = %n\noutput z = %r").ops == "linear scale_shift relu"


def test_batch_norm_over_rows_does_not_go_into_linear():
    text = "input %x: f32[3,6,5]\n" + STATS + "const %w: f32[8,5] = random\n%c = linear(%x, %w)\n" + NORM
    result = fold(text + "output y = %n")
    assert result.ops == "linear scale_shift"
    assert "c: the statistics differ within a channel" in result.declined


def test_matmul_and_add_become_linear():
    text = "input %x: f32[2,3,5]\nconst %w: f32[5,6] = random\nconst %b: f32[6] = random\n"
    text += "%c = matmul(%x, %w)\n%a = add(%b, %c)\noutput y = %a"
    result = rewrite(text, MatMulToLinear(), FoldNormalisation())
    assert result.ops == "linear"
    assert len(result.graph.nodes[0].inputs) == 3


def test_constant_bias_after_convolution_on_either_side():
    for add in ("%a = add(%c, %k)", "%a = add(%k, %c)"):
        text = X + WEIGHTS + f"const %k: f32[1,6,1,1] = random\n%c = conv(%x, %w) {PADDED}\n{add}\noutput y = %a"
        assert fold(text).ops == "conv"


@pytest.mark.parametrize("shape", ["", "1", "6,1,1", "1,6,1,1", "6,7,7", "1,1,7,1"])
@pytest.mark.parametrize(
    "op", ["add(%c, %k)", "sub(%k, %c)", "mul(%k, %c)", "div(%c, %k)", "sub(%c, %k)", "div(%k, %c)"]
)
def test_constants_of_all_shapes(op, shape):
    text = X + WEIGHTS + f"const %k: f32[{shape}] = positive\n%c = conv(%x, %w) {PADDED}\n%a = {op}\noutput y = %a"
    per_channel = shape in ("", "1", "6,1,1", "1,6,1,1")
    assert fold(text).ops == ("conv" if per_channel and op != "div(%k, %c)" else f"conv {op[:3]}")


def test_per_element_constants_that_are_equal_within_a_channel_fold():
    graph = graph_of(
        X + WEIGHTS + f"const %k: f32[6,7,7] = random\n%c = conv(%x, %w) {PADDED}\n%a = add(%c, %k)\noutput y = %a"
    )
    graph.nodes[1].inputs[1].data[:] = np.arange(6).reshape(6, 1, 1)
    assert rewrite(graph, FoldNormalisation()).ops == "conv"


def test_trap_7_a_broadcasting_scale_is_refused():
    text = "input %x: f32[1,4,1,1]\nconst %w: f32[6,4,1,1] = random\nconst %k: f32[1,6,5,5] = random\n"
    result = fold(text + f"%c = conv(%x, %w) {VALID}\n%a = mul(%c, %k)\noutput y = %a")
    assert result.ops == "conv mul"
    assert "enlarges f32[1,6,1,1] to f32[1,6,5,5]" in result.declined


def test_weights_or_statistics_that_are_not_constant():
    text = X + STATS + f"input %w: f32[6,4,3,3]\n%c = conv(%x, %w) {PADDED}\n" + NORM + "output y = %n"
    result = fold(text)
    assert result.ops == "conv scale_shift"
    assert "the weights of c are not constant" in result.declined
    text = CONV_NORM.replace("const %v: f32[6] = positive", "input %v: f32[6]").replace("1e-3", "9.0")
    result = fold(text + "output y = %n")
    assert result.ops == "conv batch_norm"
    assert "n: its statistics are not constant" in result.declined


def test_weights_that_would_overflow():
    graph = graph_of(CONV_NORM + "output y = %n")
    graph.nodes[1].inputs[1].data = np.full(6, 3e38, np.float32)
    report = FoldNormalisation().run(graph)
    assert "would not be finite" in report.decisions[0].reason


def test_scales_that_would_vanish_stay_apart():
    text = "input %x: f32[4]\nconst %k: f32[] = 1e-30\n%a = mul(%x, %k)\n%b = mul(%a, %k)\noutput y = %b"
    assert fold(text).ops == "mul mul"
    graph = graph_of(
        X + WEIGHTS + f"const %k: f32[] = 1e-25\n%a = mul(%x, %k)\n%c = conv(%a, %w) {PADDED}\noutput y = %c"
    )
    (weights,) = (node.inputs[1] for node in graph.nodes if node.op.name == "conv")
    weights.data = np.full(weights.shape, 1e-25, np.float32)
    assert "or vanish" in FoldNormalisation().run(graph).decisions[0].reason


@pytest.mark.parametrize("strict", [False, True])
@pytest.mark.parametrize(("first", "second"), [(0.01, 0.02), (0.05, 0.1), (0.01, 0.1)])
def test_what_is_rounded_to_codes_is_computed_as_it_stands_if_strict(first, second, strict):
    text = (
        f"input %x: f32[256]\nconst %s: f32[] = {first}\nconst %t: f32[] = {second}\n"
        "%a = mul(%x, %s)\n%b = div(%a, %t)\n%c = round(%b)\noutput y = %c"
    )
    graph = graph_of(text)
    feeds = {"x": np.arange(-128, 128).astype(np.float32)}
    before = evaluate(graph, feeds)["y"]
    FoldNormalisation(strict=strict).run(graph)
    assert " ".join(node.op.name for node in graph.nodes) == ("mul div round" if strict else "mul round")
    assert np.abs(evaluate(graph, feeds)["y"] - before).max() <= (0 if strict else 1)


def test_division_by_zero_is_not_a_scale():
    text = (
        X
        + WEIGHTS
        + f"const %k: f32[6,1,1] = [0.0, 1.0, 1.0, 1.0, 1.0, 1.0]\n%c = conv(%x, %w) {PADDED}\n%a = div(%c, %k)"
    )
    graph = graph_of(text + "\noutput y = %c\noutput z = %a")
    assert "not finite" in FoldNormalisation().run(graph).decisions[0].reason


def test_through_max_pool_only_if_increasing():
    pool = "%p = max_pool(%c) {kernel=(3, 3), strides=(2, 2), pads=((1, 1), (1, 1)), dilations=(1, 1)}\n"
    text = X + WEIGHTS + STATS + f"%c = conv(%x, %w) {PADDED}\n" + pool + NORM.replace("%c", "%p") + "output y = %n"
    assert fold(text.replace("%s: f32[6] = random", "%s: f32[6] = positive")).ops == "conv max_pool"


def test_trap_14_negative_scale_and_max_pool():
    pool = "%p = max_pool(%c) {kernel=(3, 3), strides=(2, 2), pads=((1, 1), (1, 1)), dilations=(1, 1)}\n"
    text = X + WEIGHTS + STATS + f"%c = conv(%x, %w) {PADDED}\n" + pool + NORM.replace("%c", "%p") + "output y = %n"
    result = fold(text)
    assert result.ops == "conv max_pool scale_shift"
    assert "p: a scale that is not positive does not pass a max pool" in result.declined


@pytest.mark.parametrize(("pads", "include", "folds"), [(0, True, True), (1, False, True), (1, True, False)])
def test_through_average_pool(pads, include, folds):
    pool = f"%p = average_pool(%c) {{kernel=(3, 3), strides=(2, 2), pads=(({pads}, {pads}), (0, 0)), dilations=(1, 1), "
    pool += f"count_include_pad={include}}}\n"
    text = X + WEIGHTS + STATS + f"%c = conv(%x, %w) {PADDED}\n" + pool + NORM.replace("%c", "%p") + "output y = %n"
    assert fold(text).ops == ("conv average_pool" if folds else "conv average_pool scale_shift")


@pytest.mark.parametrize(
    ("axes", "keepdims", "folds"), [("(2, 3)", True, True), ("(2, 3)", False, True), ("(1,)", True, False)]
)
def test_through_a_global_average(axes, keepdims, folds):
    text = X + WEIGHTS + f"const %k: f32[1,1,1,1] = random\n%c = conv(%x, %w) {PADDED}\n"
    text += f"%p = reduce(%c) {{kind='mean', axes={axes}, keepdims={keepdims}}}\n"
    constant = (
        "const %s: f32[6{}] = random\n".format(",1,1" if keepdims else "") if folds else "const %s: f32[7,7] = random\n"
    )
    assert fold(text + constant + "%n = mul(%p, %s)\noutput y = %n").ops == (
        "conv reduce" if folds else "conv reduce mul"
    )


def test_forward_through_a_global_average():
    text = (
        FORWARD
        + NORM_FIRST
        + "const %u: f32[5,6] = random\n%p = reduce(%n) {kind='mean', axes=(2, 3), keepdims=False}\n"
    )
    assert fold(text + "%c = linear(%p, %u)\noutput y = %c").ops == "reduce linear"
    text = text.replace("axes=(2, 3)", "axes=(1, 2)").replace("f32[5,6]", "f32[5,7]")
    result = fold(text + "%c = linear(%p, %u)\noutput y = %c")
    assert result.ops == "scale_shift reduce linear"
    assert "p: the statistics differ within what is averaged" in result.declined


@pytest.mark.parametrize(
    ("mode", "op", "folds"), [("constant", "mul", True), ("constant", "add", False), ("reflect", "add", True)]
)
def test_through_padding(mode, op, folds):
    text = "input %x: f32[1,3,8,8]\nconst %s: f32[3,1,1] = random\nconst %w: f32[4,3,3,3] = random\n"
    text += f"%n = {op}(%x, %s)\n%p = pad(%n) {{pads=((0, 0), (0, 0), (1, 2), (0, 1)), mode='{mode}'}}\n"
    assert fold(text + f"%c = conv(%p, %w) {VALID}\noutput y = %c").ops == ("pad conv" if folds else "add pad conv")


def test_not_through_relu():
    text = CONV_NORM.replace("%n =", "%r = relu(%c)\n%n =").replace("batch_norm(%c", "batch_norm(%r")
    result = fold(text + "output y = %n")
    assert result.ops == "conv relu scale_shift"
    assert "r: relu is not linear" in result.declined


def test_scale_of_attention_goes_through_reshape_and_transpose():
    text = """
    input %x: f32[2,5,8]
    const %w: f32[8,8] = random
    const %k: f32[] = 0.125
    %q = linear(%x, %w)
    %r = reshape(%q) {shape=(2, 5, 4, 2)}
    %t = transpose(%r) {perm=(0, 2, 1, 3)}
    %m = mul(%t, %k)
    output y = %m
    """
    assert fold(text).ops == "linear reshape transpose"


# ---- into the layers after

FORWARD = (
    X.replace("f32[2,4,7,7]", "f32[2,6,7,7]") + STATS + "const %w: f32[4,6,3,3] = random\nconst %k: f32[4] = random\n"
)
NORM_FIRST = NORM.replace("%c", "%x")


def test_batch_norm_into_the_convolution_after():
    result = fold(FORWARD + NORM_FIRST + f"%c = conv(%n, %w, %k) {VALID}\noutput y = %c")
    assert result.ops == "conv"
    assert result.taken == ["n: folded into c after it"]


def test_forward_declines_on_a_second_use():
    text = FORWARD + NORM_FIRST + f"%c = conv(%n, %w) {VALID}\n%r = relu(%n)\noutput y = %c\noutput z = %r"
    result = fold(text)
    assert result.ops == "scale_shift conv relu"
    assert "after it, r: relu is not linear" in result.declined


def test_forward_declines_on_a_graph_output():
    result = fold(FORWARD + NORM_FIRST + f"%c = conv(%n, %w) {VALID}\noutput y = %c\noutput z = %n")
    assert result.ops == "scale_shift conv"
    assert "after it, %n is an output of the graph" in result.declined


def test_several_consumers_that_can_all_take_it():
    text = (
        FORWARD + NORM_FIRST + f"%c = conv(%n, %w) {VALID}\n%d = conv(%n, %w, %k) {VALID}\noutput y = %c\noutput z = %d"
    )
    result = fold(text)
    assert result.ops == "conv conv"
    assert result.taken == ["n: folded into c, d after it"]


def test_several_consumers_of_which_one_cannot():
    text = FORWARD + NORM_FIRST + f"%c = conv(%n, %w) {VALID}\n%d = conv(%n, %w) {PADDED}\noutput y = %c\noutput z = %d"
    assert fold(text).ops == "scale_shift conv conv"


@pytest.mark.parametrize("groups", [1, 2, 3, 6])
def test_forward_with_groups(groups):
    text = FORWARD.replace("f32[4,6,3,3]", f"f32[6,{6 // groups},3,3]") + NORM_FIRST
    assert (
        fold(text + f"%c = conv(%n, %w) {VALID.replace('groups=1', f'groups={groups}')}\noutput y = %c").ops == "conv"
    )


def test_trap_12_zero_padding_after_a_mean_shift():
    """(x - mean) into a padded convolution: the border would see the shift."""
    text = "input %x: f32[1,3,8,8]\nconst %m: f32[1,3,1,1] = random\nconst %w: f32[4,3,3,3] = random\n"
    result = fold(text + f"%n = sub(%x, %m)\n%c = conv(%n, %w) {PADDED}\noutput y = %c")
    assert result.ops == "sub conv"
    assert "c: the shift must not reach the zero padding" in result.declined


def test_trap_13_batch_norm_forward_through_a_padded_convolution():
    result = fold(FORWARD + NORM_FIRST + f"%c = conv(%n, %w) {PADDED}\noutput y = %c")
    assert result.ops == "scale_shift conv"
    assert "c: the shift must not reach the zero padding" in result.declined


def test_a_scale_alone_goes_into_a_padded_convolution_negative_or_not():
    text = "input %x: f32[1,3,8,8]\nconst %s: f32[3,1,1] = [-2.0, 0.0, 3.0]\nconst %w: f32[4,3,3,3] = random\n"
    assert fold(text + f"%n = mul(%x, %s)\n%c = conv(%n, %w) {PADDED}\noutput y = %c").ops == "conv"


def test_z_score_of_the_input():
    text = "input %x: f32[1,3,8,8]\nconst %m: f32[3,1,1] = random\nconst %d: f32[3,1,1] = positive\n"
    text += "const %w: f32[4,3,3,3] = random\n%a = sub(%x, %m)\n%b = div(%a, %d)\n"
    result = fold(text + f"%c = conv(%b, %w) {VALID}\noutput y = %c")
    assert result.ops == "conv"
    assert result.taken == ["a + b: folded into c after it"]


def test_z_score_before_a_padded_convolution():
    """The scale goes in always, the shift stays; a batch norm stays as one node."""
    text = "input %x: f32[1,3,8,8]\nconst %m: f32[3,1,1] = random\nconst %d: f32[3,1,1] = positive\n"
    text += "const %w: f32[4,3,3,3] = random\n%a = sub(%x, %m)\n%b = div(%a, %d)\n"
    text += f"%c = conv(%b, %w) {PADDED}\noutput y = %c"
    assert fold(text).ops == "sub conv"
    assert fold(text, forward=False).ops == "scale_shift conv"
    assert fold(text, forward=False).graph.nodes[0].inputs[1].type == f32(3, 1, 1)


def test_per_element_statistics_do_not_fold_into_a_convolution():
    text = "input %x: f32[1,3,8,8]\nconst %m: f32[3,8,8] = random\nconst %w: f32[4,3,3,3] = random\n"
    result = fold(text + f"%n = sub(%x, %m)\n%c = conv(%n, %w) {VALID}\noutput y = %c")
    assert result.ops == "sub conv"
    assert "c: the statistics differ within a channel" in result.declined


def test_per_element_statistics_fold_into_linear_through_flatten():
    text = "input %x: f32[2,3,4,4]\nconst %m: f32[3,4,4] = random\nconst %d: f32[3,1,1] = positive\n"
    text += "const %w: f32[5,48] = random\n%a = sub(%x, %m)\n%n = div(%a, %d)\n%f = reshape(%n) {shape=(2, 48)}\n"
    result = fold(text + "%c = linear(%f, %w)\noutput y = %c")
    assert result.ops == "reshape linear"


def test_flatten_that_mixes_channels_with_the_batch():
    text = "input %x: f32[2,3,4,4]\nconst %d: f32[3,1,1] = positive\nconst %w: f32[5,16] = random\n"
    result = fold(text + "%n = div(%x, %d)\n%f = reshape(%n) {shape=(6, 16)}\n%c = linear(%f, %w)\noutput y = %c")
    assert result.ops == "div reshape linear"


def test_only_a_scale_goes_into_a_transposed_convolution():
    text = "input %x: f32[1,4,5,5]\nconst %s: f32[4,1,1] = random\nconst %w: f32[4,3,3,3] = random\n"
    conv = (
        "%c = conv_transpose(%n, %w) {strides=(2, 2), pads=((0, 0), (0, 0)), dilations=(1, 1), output_padding=(0, 0), "
    )
    conv += "groups=2}\noutput y = %c"
    assert fold(text + "%n = mul(%x, %s)\n" + conv).ops == "conv_transpose"
    result = fold(text + "%n = add(%x, %s)\n" + conv)
    assert result.ops == "add conv_transpose"
    assert "border of a transposed convolution" in result.declined


def test_a_value_used_as_weights_is_not_folded_into():
    text = "input %x: f32[4,3]\ninput %z: f32[2,3]\nconst %s: f32[] = 3.0\n%n = mul(%x, %s)\n"
    text += "%c = linear(%z, %n)\noutput y = %c"
    assert fold(text).ops == "mul linear"


def test_the_rest_of_a_chain_stays():
    """Per element and then per channel: only the latter goes into the convolution."""
    text = "input %x: f32[1,3,8,8]\nconst %m: f32[3,8,8] = random\nconst %d: f32[3,1,1] = positive\n"
    text += (
        f"const %w: f32[4,3,3,3] = random\n%a = sub(%x, %m)\n%n = div(%a, %d)\n%c = conv(%n, %w) {VALID}\noutput y = %c"
    )
    assert fold(text).ops == "sub conv"


def test_directions_can_be_switched_off():
    assert fold(CONV_NORM + "output y = %n", backward=False).ops == "conv scale_shift"
    text = FORWARD + NORM_FIRST + f"%c = conv(%n, %w) {VALID}\noutput y = %c"
    assert fold(text, forward=False).ops == "scale_shift conv"


def test_names_stay():
    graph = fold(CONV_NORM + "%r = relu(%n)\noutput y = %r").graph
    assert [(n.name, n.output.name) for n in graph.nodes] == [("c", "n"), ("r", "r")]


def test_batch_norm_between_two_convolutions_goes_back():
    text = CONV_NORM + f"const %u: f32[4,6,1,1] = random\n%d = conv(%n, %u) {VALID}\noutput y = %d"
    result = fold(text)
    assert result.ops == "conv conv"
    assert result.taken == ["n: folded into c before it"]


def test_integers_are_left_alone():
    result = fold("input %x: i64[4]\nconst %k: i64[] = 3\n%a = mul(%x, %k)\noutput y = %a")
    assert result.ops == "mul"
    assert result.decisions == []


def test_trap_10_names_do_not_collide():
    """Equal layers folded twice, with a value that already has the name a new constant would get."""
    twice = CONV_NORM + "const %c.bias: f32[6] = random\n%q = add(%n, %n)\n".replace("%c.bias", "%taken")
    twice += NORM.replace("%n", "%n2").replace("%c", "%d").join([f"%d = conv(%x, %w) {PADDED}\n", ""])
    graph = fold(twice + "%a = add(%q, %n2)\noutput y = %a").graph
    names = [value.name for value in graph.values()]
    assert len(set(names)) == len(names)
    assert [n.name for n in graph.nodes] == ["c", "q", "d", "a"]
