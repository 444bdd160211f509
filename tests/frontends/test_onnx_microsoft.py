"""Operators that ONNX Runtime's optimisers leave in a file, against ONNX Runtime."""

import numpy as np
import onnx
import pytest
from onnx import helper
from onnx_support import assert_agrees, model, value_info

from glulam.compiler.errors import UnsupportedError
from glulam.frontends.onnx import from_onnx

RNG = np.random.default_rng(11)
CONV = {"kernel_shape": [3, 3], "pads": [1, 1, 1, 1], "strides": [2, 1]}


def f(*shape):
    return RNG.standard_normal(shape).astype(np.float32)


def ids(high, *shape):
    return RNG.integers(0, high, shape).astype(np.int32)


def ones(*rows, length):
    return (np.arange(length) < np.array(rows)[:, None]).astype(np.int32)


def single(op_type, inputs, outputs=1, domain="com.microsoft", **attributes):
    """A model of one node whose inputs are all inputs of the model; an output that is None is not asked for."""
    names = ["" if array is None else f"x{i}" for i, array in enumerate(inputs)]
    feeds = {name: array for name, array in zip(names, inputs, strict=True) if name}
    results = [f"y{i}" for i in range(outputs)] if isinstance(outputs, int) else outputs
    node = helper.make_node(op_type, names, results, "node", domain=domain, **attributes)
    infos = [value_info(name, array) for name, array in feeds.items()]
    proto = model([node], infos, [name for name in results if name])
    if domain:
        proto.opset_import.append(helper.make_opsetid(domain, 1))
    return proto, feeds


@pytest.mark.parametrize(
    ("op_type", "inputs", "outputs", "attributes"),
    [
        ("FusedMatMul", [f(2, 5, 3), f(2, 5, 7)], 1, {"transA": 1, "alpha": 0.5}),
        ("FusedMatMul", [f(3, 5), f(2, 7, 5)], 1, {"transB": 1}),
        ("FusedMatMul", [f(4, 2, 3, 5), f(2, 3, 5, 7)], 1, {"transBatchA": 1}),
        ("FusedMatMul", [f(5, 2, 3, 4), f(7, 2, 3, 5)], 1,
         {"transBatchA": 1, "transA": 1, "transBatchB": 1, "transB": 1}),
        ("FusedGemm", [f(3, 5), f(7, 5), f(7)], 1, {"transB": 1, "alpha": 2.0, "activation": "Relu"}),
        ("FusedGemm", [f(3, 5), f(5, 7)], 1, {"activation": "LeakyRelu", "activation_alpha": 0.3}),
        ("FusedGemm", [f(3, 5), f(5, 7)], 1, {"activation": "Elu", "activation_alpha": 0.3}),
        ("FusedGemm", [f(3, 5), f(5, 7)], 1, {"activation": "Selu", "activation_alpha": 0.3, "activation_gamma": 2.0}),
        ("FusedGemm", [f(3, 5), f(5, 7)], 1,
         {"activation": "HardSigmoid", "activation_alpha": 0.3, "activation_beta": 0.1}),
        ("FusedGemm", [f(3, 5), f(5, 7)], 1, {"activation": "ThresholdedRelu", "activation_alpha": 0.3}),
        ("FusedGemm", [9 * f(3, 5), f(5, 7)], 1, {"activation": "Softplus"}),
        ("FusedGemm", [f(3, 5), f(5, 7)], 1, {"activation": "Softsign"}),
        ("FusedConv", [f(1, 3, 7, 5), f(4, 3, 3, 3), f(4)], 1, {**CONV, "activation": "Relu"}),
        ("FusedConv", [f(2, 3, 7, 5), f(4, 3, 3, 3), None, f(2, 4, 4, 5)], 1, {**CONV, "activation": "Tanh"}),
        ("FusedConv", [f(1, 3, 7, 5), f(4, 3, 3, 3)], 1,
         {**CONV, "activation": "Clip", "activation_params": [-0.5, 0.7]}),
        ("Gelu", [f(3, 5)], 1, {}),
        ("BiasGelu", [f(3, 5), f(5)], 1, {}),
        ("FastGelu", [f(3, 5)], 1, {}),
        ("FastGelu", [f(3, 5), f(5)], 1, {}),
        ("QuickGelu", [f(3, 5)], 1, {}),
        ("QuickGelu", [f(3, 5)], 1, {"alpha": 1.0}),
        ("SkipLayerNormalization", [f(2, 3, 5), f(2, 3, 5), f(5)], 1, {}),
        ("SkipLayerNormalization", [f(2, 3, 5), f(1, 3, 5), f(5), f(5), f(5)], ["y", "", "", "sum"], {"epsilon": 0.1}),
        ("SkipLayerNormalization", [f(2, 3, 5), f(2, 3, 5), f(5), None], ["y", "", "", "sum"], {}),
        ("SkipSimplifiedLayerNormalization", [f(2, 3, 5), f(2, 3, 5), f(5)], ["y", "", "", "sum"], {"epsilon": 0.1}),
        ("EmbedLayerNormalization", [ids(9, 2, 4), None, f(9, 6), f(8, 6), None, f(6), f(6)], 2, {}),
        ("EmbedLayerNormalization",
         [ids(9, 2, 4), ids(2, 2, 4), f(9, 6), f(8, 6), f(2, 6), f(6), f(6), ones(4, 3, length=4), ids(8, 2, 4)], 3,
         {"epsilon": 0.1}),
    ],
)  # fmt: skip
def test_operators(op_type, inputs, outputs, attributes):
    assert_agrees(*single(op_type, inputs, outputs, **attributes))


def test_simplified_layer_normalization_has_no_domain():
    assert_agrees(*single("SimplifiedLayerNormalization", [f(2, 3, 5), f(5)], domain="", axis=-1, epsilon=0.1))


@pytest.mark.parametrize(
    ("rest", "outputs", "attributes"),
    [
        ([f(18)], 1, {}),
        ([f(18)], 1, {"unidirectional": 1, "scale": 0.3}),
        ([f(18), ones(3, 5, length=5)], 1, {"mask_filter_value": -3.0}),
        ([f(18), np.array([5, 2], np.int32)], 1, {}),
        ([f(18), (RNG.random((2, 5, 5)) < 0.7).astype(np.int32)], 1, {}),
        ([f(18), None, f(2, 2, 3, 4, 2)], 2, {"unidirectional": 1}),
        ([f(18), ones(7, 9, length=9), f(2, 2, 3, 4, 2)], 2, {}),
        ([f(18), None, None, f(2, 3, 5, 5)], 1, {}),
    ],
)
def test_attention(rest, outputs, attributes):
    assert_agrees(*single("Attention", [f(2, 5, 4), f(4, 18), *rest], outputs, num_heads=3, **attributes))


@pytest.mark.parametrize(
    ("rest", "outputs", "attributes"),
    [
        ([f(2, 7, 6), f(2, 7, 9)], 1, {}),
        ([f(2, 7, 6), f(2, 7, 9), f(21)], 1, {"scale": 0.3}),
        ([f(2, 3, 7, 2), f(2, 3, 7, 2)], 1, {}),
        ([f(2, 7, 6), f(2, 7, 9), None, ones(7, 3, length=7), f(1, 3, 5, 7)], 1, {}),
        ([f(2, 7, 6), f(2, 7, 9)], 1, {"unidirectional": 1}),
        ([f(2, 3, 6), f(2, 3, 6)], 1, {"unidirectional": 1}),
        ([f(2, 5, 6), f(2, 5, 6), None, None, None, f(2, 3, 4, 2), f(2, 3, 4, 2)], 3, {"unidirectional": 1}),
        ([f(2, 7, 6), f(2, 7, 6), None, None, None, f(2, 3, 4, 2), f(2, 3, 4, 2)], 3, {"unidirectional": 1}),
    ],
)
def test_multi_head_attention(rest, outputs, attributes):
    assert_agrees(*single("MultiHeadAttention", [f(2, 5, 6), *rest], outputs, num_heads=3, **attributes))


@pytest.mark.parametrize(
    ("op_type", "inputs", "attributes", "words"),
    [
        ("GreedySearch", [f(2)], {}, "ONNX Runtime's own.* before optimising or quantising"),
        ("FusedConv", [f(1, 3, 7, 5), f(4, 3, 3, 3)], {**CONV, "activation": "Wave"}, "activation 'Wave'"),
        ("MultiHeadAttention", [f(2, 5, 3, 3, 2)], {"num_heads": 3}, "packed"),
        ("Attention", [f(2, 5, 4), f(4, 18), f(18)], {"num_heads": 3, "do_rotary": 1}, "rotary"),
        ("Attention", [f(2, 5, 4), f(4, 18), f(18), ids(2, 4)], {"num_heads": 3}, "a mask of shape"),
    ],
)
def test_what_is_not_offered_is_named(op_type, inputs, attributes, words):
    with pytest.raises(UnsupportedError, match=rf"com\.microsoft\.{op_type} 'node': .*{words}"):
        from_onnx(single(op_type, inputs, **attributes)[0])


def test_the_same_name_in_another_domain_is_another_operator():
    proto, _ = single("BiasGelu", [f(3, 5), f(5)], domain="mine")
    with pytest.raises(UnsupportedError, match=r"mine\.BiasGelu"):
        from_onnx(onnx.ModelProto.FromString(proto.SerializeToString()))
