"""Max pools with indices and unpooling: layers, ONNX both ways, PyTorch's and ONNX's ways of counting."""

from __future__ import annotations

import numpy as np
import pytest
from executors import native
from onnx_support import exported, run_ort, single

from glulam.compiler.graph.evaluate import evaluate
from glulam.compiler.graph.graph import Graph
from glulam.frontends import layers as L
from glulam.frontends.onnx import from_onnx

POOLS = {1: (L.MaxPool1d, L.MaxUnpool1d), 2: (L.MaxPool2d, L.MaxUnpool2d), 3: (L.MaxPool3d, L.MaxUnpool3d)}


@pytest.mark.parametrize("rank", POOLS)
def test_unpooling_puts_every_maximum_back(rank):
    pool, unpool = POOLS[rank]
    extents = (7, 6, 5)[:rank]
    x = L.Input((3, *extents), name="x", batch=2)
    values, indices = pool(2, return_indices=True)(x)
    graph = Graph.of([x], {"v": values, "i": indices, "y": unpool(2, output_size=extents)(values, indices)})
    array = np.random.default_rng(rank).standard_normal(x.shape).astype(np.float32)
    for run in (evaluate, native):
        got = run(graph, {"x": array})
        planes = array.reshape(2, 3, -1)
        np.testing.assert_array_equal(
            np.take_along_axis(planes, got["i"].reshape(2, 3, -1), 2), got["v"].reshape(2, 3, -1)
        )
        kept = got["y"] != 0
        assert kept.sum() == got["v"].size
        np.testing.assert_array_equal(got["y"][kept], array[kept])
    assert graph.outputs["y"].shape == x.shape


def test_a_segmentation_network_goes_down_and_up():
    class Net(L.Block):
        def __init__(self):
            super().__init__()
            self.down = L.Conv2d(16, 3, padding=1)
            self.pool = L.MaxPool2d(2, return_indices=True)
            self.middle = L.Conv2d(16, 3, padding=1)
            self.unpool = L.MaxUnpool2d(2)
            self.up = L.Conv2d(3, 3, padding=1)

        def forward(self, x):
            y, where = self.pool(L.ReLU()(self.down(x)))
            return self.up(self.unpool(L.ReLU()(self.middle(y)), where))

    graph = Net().graph(L.Input((3, 12, 16), name="x"))
    feeds = {"x": np.random.default_rng(0).standard_normal((1, 3, 12, 16)).astype(np.float32)}
    expected = evaluate(graph, feeds)["output"]
    np.testing.assert_allclose(native(graph, feeds)["output"], expected, atol=1e-4)
    np.testing.assert_allclose(exported(graph, feeds)["output"], expected, atol=1e-4)


@pytest.mark.parametrize("attributes", [
    {"kernel_shape": [3], "strides": [2], "pads": [1, 1]},
    {"kernel_shape": [2, 3], "strides": [2, 1], "storage_order": 1},
    {"kernel_shape": [3, 2], "pads": [2, 1, 0, 0], "dilations": [2, 1], "ceil_mode": 1},
    {"kernel_shape": [2, 2, 2], "strides": [1, 2, 1], "auto_pad": "SAME_UPPER"},
])  # fmt: skip
def test_places_are_onnx_runtimes(attributes):
    shape = (2, 3, *(9, 8, 5)[: len(attributes["kernel_shape"])])
    x = np.random.default_rng(1).standard_normal(shape).astype(np.float32)
    proto, feeds = single("MaxPool", [x], outputs=2, **attributes)
    graph, theirs = from_onnx(proto), run_ort(proto, feeds)
    for ours in (evaluate(graph, feeds), native(graph, feeds), exported(graph, feeds)):
        for name, expected in theirs.items():
            np.testing.assert_array_equal(ours[name], expected)


def test_layers_places_survive_the_way_through_onnx():
    x = L.Input((3, 6, 7), name="x", batch=2)
    values, indices = L.MaxPool2d(3, 2, padding=1, return_indices=True)(x)
    graph = Graph.of([x], {"v": values, "i": indices})
    feeds = {"x": np.random.default_rng(2).standard_normal(x.shape).astype(np.float32)}
    for name, expected in evaluate(graph, feeds).items():
        np.testing.assert_array_equal(exported(graph, feeds)[name], expected)


@pytest.mark.parametrize("dtype", [np.int8, np.uint8])
def test_bytes_are_pooled(dtype):
    x = np.random.default_rng(3).integers(np.iinfo(dtype).min, np.iinfo(dtype).max, (1, 2, 5, 6)).astype(dtype)
    proto, feeds = single("MaxPool", [x], kernel_shape=[2, 2], strides=[2, 2])
    np.testing.assert_array_equal(native(from_onnx(proto), feeds)["y"], run_ort(proto, feeds)["y"])


def test_onnx_unpooling_adds_zeros_at_the_ends():
    x = np.array([[[[5, 6], [7, 8]]]], np.float32)
    places = np.array([[[[5, 7], [13, 15]]]], np.int64)
    shape = np.array([1, 1, 5, 5], np.int64)
    proto, feeds = single("MaxUnpool", [x, places, shape], constant=[2], kernel_shape=[2, 2], strides=[2, 2])
    wanted = np.zeros((1, 1, 5, 5), np.float32)
    wanted[0, 0, 1, 1], wanted[0, 0, 1, 3], wanted[0, 0, 3, 1], wanted[0, 0, 3, 3] = 5, 6, 7, 8
    np.testing.assert_array_equal(native(from_onnx(proto), feeds)["y"], wanted)
