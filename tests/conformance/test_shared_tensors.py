"""Readers of one tensor that want other margins around it than their neighbours, or another arrangement."""

from __future__ import annotations

import numpy as np
import pytest
from executors import check

import glulam as gl
from glulam.frontends import layers


def graph_of(build, *shape):
    """The graph from an input of this shape, without the batch, to the results of `build`."""
    x = layers.Input(shape)
    return gl.Graph.of([x], build(x))


def feeds_of(graph):
    rng = np.random.default_rng(0)
    return {name: rng.standard_normal(value.shape).astype(np.float32) for name, value in graph.inputs.items()}


def checked(graph, **settings):
    check(graph, feeds_of(graph), fuse=(True,), **settings)


def dilated(*rates, conv=layers.Conv2d):
    """Convolutions of several dilations side by side, as DeepLab has them."""

    def build(x):
        h = layers.ReLU()(conv(32, 1)(x))
        return [conv(16, 3, padding=rate, dilation=rate)(h) for rate in rates]

    return build


@pytest.mark.parametrize("numerics", ["fast", "strict"])
@pytest.mark.parametrize(("rates", "extent"), [((6, 12, 18), 20), ((1, 12), 14), ((2, 3), 7)])
def test_convolutions_whose_padding_differs(rates, extent, numerics):
    checked(graph_of(dilated(*rates), 17, extent, extent + 3), numerics=numerics)


def test_sequences_whose_padding_differs():
    checked(graph_of(dilated(1, 9, conv=layers.Conv1d), 17, 13))


@pytest.mark.parametrize("numerics", ["fast", "strict"])
@pytest.mark.parametrize("kernel", [3, 5])
@pytest.mark.parametrize("extents", [(2, 2), (2, 3), (8, 2), (6, 3), (7, 7)], ids=str)
def test_a_convolution_beside_a_pool_whose_margin_is_minus_infinity(extents, kernel, numerics):
    def build(x):
        h = layers.Conv2d(32, 1)(x)
        return [layers.Conv2d(17, kernel, padding=kernel // 2)(h), layers.MaxPool2d(3, 1, padding=1)(h)]

    checked(graph_of(build, 3, *extents), numerics=numerics)


BEFORE = {
    "depthwise": lambda x: layers.Conv2d(x.shape[1], 3, padding=1, groups=x.shape[1])(x),
    "pool": layers.MaxPool2d(2, 1),
    "prelu": lambda x: layers.PReLU()(layers.AvgPool2d(3, 1, padding=1)(x)),
}


@pytest.mark.parametrize("before", BEFORE)
@pytest.mark.parametrize(("kernel", "stride"), [(7, 2), (11, 4)])
@pytest.mark.parametrize("channels", [1, 3, 4])
def test_a_first_layer_that_is_not_the_first(channels, kernel, stride, before):
    def build(x):
        return [layers.Conv2d(32, kernel, stride=stride, padding=kernel // 2)(BEFORE[before](x))]

    checked(graph_of(build, channels, 29, 37))


@pytest.mark.parametrize("channels", [17, 51])
def test_volumes_of_odd_channels(channels):
    checked(graph_of(lambda x: [layers.Conv3d(256, 3, padding=1)(x)], channels, 2, 7, 7))


@pytest.mark.parametrize("stop_after", [0, 1, 2])
def test_dilation_wherever_passes_are_stopped(stop_after):
    checked(graph_of(dilated(1, 4), 32, 28, 28), stop_after=stop_after)
