"""The zoo: published parameter counts and multiply-accumulates, names, and activations of sane scale."""

from __future__ import annotations

import numpy as np
import pytest
from zoo_sizes import small_network

from glulam.compiler.errors import ShapeError
from glulam.compiler.graph.evaluate import evaluate, evaluate_all
from glulam.compiler.graph.graph import Graph
from glulam.compiler.graph.verify import verify
from glulam.frontends import zoo
from glulam.frontends.layers import count_parameters, load_state_dict, state_dict, summary

# torchvision's tables: num_params (without auxiliary heads) and GFLOPS, which there are multiply-accumulates;
# U-Net: the count of the widespread PyTorch implementation with transposed convolutions; super-resolution: PyTorch's
# example with a slope per channel
PUBLISHED = {
    "resnet18": (11_689_512, 1.814),
    "resnet50": (25_557_032, 4.089),
    "vgg16": (138_357_544, 15.470),
    "mobilenet_v2": (3_504_872, 0.301),
    "mobilenet_v3_large": (5_483_032, 0.217),
    "squeezenet1_1": (1_235_496, 0.349),
    "densenet121": (7_978_856, 2.834),
    "googlenet": (6_624_904, 1.498),
    "inception_v3": (23_834_568, 5.713),
    "efficientnet_b0": (5_288_548, 0.386),
    "shufflenet_v2_x1_0": (2_278_604, 0.145),
    "unet": (31_037_698, 48.17),
    "resnext50_32x4d": (25_028_904, 4.230),
    "regnet_y_800mf": (6_432_512, 0.834),
    "mnasnet1_0": (4_383_312, 0.314),
    "alexnet": (61_100_840, 0.714),
    "convnext_tiny": (28_589_128, 4.456),
    "vit_b_16": (86_567_656, 17.564),
    "r3d_18": (33_371_472, 40.697),
    "fcn_resnet50": (32_957_013, 142.72),
    "lraspp_mobilenet_v3_large": (3_221_538, 2.086),
    "super_resolution": (59_657 + 160, 2.985),
}
# where that is not the default of the zoo
PUBLISHED_SHAPES = {
    "r3d_18": (3, 16, 112, 112),
    "fcn_resnet50": (3, 520, 520),
    "lraspp_mobilenet_v3_large": (3, 520, 520),
}
RESULTS = {
    "unet": (1, 2, 256, 256),
    "r3d_18": (1, 400),
    "fcn_resnet50": (1, 21, 520, 520),
    "lraspp_mobilenet_v3_large": (1, 21, 520, 520),
    "super_resolution": (1, 1, 672, 672),
}
SMALL = {
    "inception_v3": 107,
    "unet": 32,
    "squeezenet1_1": 64,
    "googlenet": 64,
    "vgg16": 64,
    "vit_b_16": 48,
    "convnext_tiny": 32,
    "fcn_resnet50": 32,
}


HEAVY = 12_000_000  # parameters


def test_the_list_is_complete():
    assert set(zoo.NETWORKS) == set(PUBLISHED)


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_counts_and_a_sound_graph(name):
    graph = zoo.NETWORKS[name](**({"input_shape": PUBLISHED_SHAPES[name]} if name in PUBLISHED_SHAPES else {}))
    verify(graph)
    parameters, gmacs = PUBLISHED[name]
    assert count_parameters(graph) == parameters
    assert summary(graph).macs / 1e9 == pytest.approx(gmacs, rel=5e-3)
    (value,) = graph.outputs.values()
    assert value.shape == RESULTS.get(name, (1, 1000))


def response(graph, seed):
    (value,) = graph.inputs.values()
    x = np.random.default_rng(seed).standard_normal(value.shape).astype(np.float32)
    return evaluate_all(graph, {value.name: x})


def heavy_ones_are_long():
    return [pytest.param(n, marks=pytest.mark.long if p[0] > HEAVY else ()) for n, p in PUBLISHED.items()]


@pytest.mark.parametrize("name", heavy_ones_are_long())
def test_activations_keep_their_scale_and_inputs_are_told_apart(name):
    graph = small_network(name, SMALL.get(name, 96))
    (output,) = graph.outputs.values()
    one, two = response(graph, 1), response(graph, 2)
    for node in graph.nodes:
        for value in node.outputs:
            assert np.isfinite(one[value]).all(), node
            assert np.abs(one[value]).max() < 1e3, node
    spread = one[output].std()
    assert 0.01 < spread < 100
    assert (one[output] - two[output]).std() > 0.05 * spread


@pytest.mark.parametrize("name", ["resnet18", "shufflenet_v2_x1_0"])
def test_weights_are_reproducible_and_loadable(name):
    make = zoo.NETWORKS[name]

    def build(seed):
        return make(num_classes=10, input_shape=(3, 64, 64), seed=seed)

    def logits(graph):
        return evaluate(graph, {"input": np.ones((1, 3, 64, 64), np.float32)})["output"]

    a, b, c = build(0), build(0), build(1)
    np.testing.assert_array_equal(logits(a), logits(b))
    assert not np.allclose(logits(a), logits(c))
    load_state_dict(c, state_dict(a))
    np.testing.assert_array_equal(logits(a), logits(c))


NAMES = {
    "resnet50": [
        "conv1.weight",
        "bn1.running_mean",
        "layer1.0.downsample.1.running_var",
        "layer4.2.bn3.bias",
        "fc.bias",
    ],
    "vgg16": ["features.28.weight", "classifier.6.bias"],
    "mobilenet_v2": ["features.1.conv.0.0.weight", "features.2.conv.3.running_var", "classifier.1.weight"],
    "mobilenet_v3_large": ["features.4.block.2.fc1.bias", "features.16.1.running_mean", "classifier.3.weight"],
    "squeezenet1_1": ["features.3.squeeze.weight", "features.12.expand3x3.bias", "classifier.1.weight"],
    "densenet121": ["features.conv0.weight", "features.denseblock4.denselayer16.norm2.running_var", "classifier.bias"],
    "googlenet": ["conv1.conv.weight", "inception4e.branch4.1.bn.running_mean", "fc.weight"],
    "inception_v3": ["Conv2d_1a_3x3.conv.weight", "Mixed_7c.branch3x3dbl_3b.bn.weight", "fc.bias"],
    "efficientnet_b0": ["features.1.0.block.1.fc2.bias", "features.7.0.block.3.1.weight", "classifier.1.bias"],
    "shufflenet_v2_x1_0": ["conv1.0.weight", "stage2.0.branch1.2.weight", "stage4.3.branch2.6.running_mean", "fc.bias"],
    "resnext50_32x4d": ["layer1.0.downsample.0.weight", "layer4.2.conv2.weight", "fc.bias"],
    "regnet_y_800mf": [
        "stem.0.weight",
        "trunk_output.block1.block1-0.proj.1.running_var",
        "trunk_output.block3.block3-7.f.se.fc1.bias",
        "trunk_output.block4.block4-1.f.c.0.weight",
        "fc.weight",
    ],
    "mnasnet1_0": ["layers.3.weight", "layers.7.running_mean", "layers.12.3.layers.4.bias", "classifier.1.bias"],
    "alexnet": ["features.10.bias", "classifier.1.weight", "classifier.6.bias"],
    "convnext_tiny": [
        "features.0.1.weight",
        "features.1.2.layer_scale",
        "features.5.8.block.2.bias",
        "features.6.1.weight",
        "features.7.0.block.5.weight",
        "classifier.0.bias",
        "classifier.2.weight",
    ],
    "vit_b_16": [
        "class_token",
        "conv_proj.bias",
        "encoder.pos_embedding",
        "encoder.layers.encoder_layer_11.self_attention.in_proj_weight",
        "encoder.layers.encoder_layer_0.self_attention.out_proj.bias",
        "encoder.layers.encoder_layer_3.mlp.3.weight",
        "encoder.ln.weight",
        "heads.head.bias",
    ],
    "r3d_18": [
        "stem.0.weight",
        "layer2.0.conv1.0.weight",
        "layer3.0.downsample.1.running_mean",
        "layer4.1.conv2.1.bias",
    ],
    "fcn_resnet50": ["backbone.layer4.2.bn3.bias", "classifier.0.weight", "classifier.4.bias"],
    "lraspp_mobilenet_v3_large": [
        "backbone.13.block.1.0.weight",
        "backbone.16.0.weight",
        "classifier.cbr.0.weight",
        "classifier.scale.1.weight",
        "classifier.low_classifier.bias",
    ],
}


@pytest.mark.parametrize("name", NAMES)
def test_parameters_have_torchvisions_names(name):
    names = state_dict(zoo.NETWORKS[name]())
    assert set(NAMES[name]) <= set(names)


def test_options_reach_the_network():
    graph = zoo.resnet18(num_classes=7, input_shape=(1, 40, 48), batch=3)
    assert isinstance(graph, Graph)
    assert graph.name == "resnet18"
    assert graph.inputs["input"].shape == (3, 1, 40, 48)
    assert graph.outputs["output"].shape == (3, 7)
    assert zoo.unet(base=8, input_shape=(1, 32, 48)).outputs["output"].shape == (1, 2, 32, 48)
    with pytest.raises(ShapeError, match="multiples of 16"):
        zoo.unet(input_shape=(3, 100, 100))
