"""What layers compute: shapes and values against formulas written out in numpy here."""

from __future__ import annotations

import math

import numpy as np
import pytest

from glulam.compiler.graph.evaluate import evaluate
from glulam.compiler.graph.graph import Graph
from glulam.compiler.graph.verify import verify
from glulam.frontends import layers as L


def run(layer, *shapes, seed=0, dtype=np.float32):
    """The layer's result on random inputs, and the inputs, batch 2."""
    inputs = [L.Input(shape, name=f"x{i}", batch=2, dtype=dtype) for i, shape in enumerate(shapes)]
    result = layer(*inputs)
    outputs = result if isinstance(result, tuple) else (result,)
    graph = Graph.of(inputs, {f"y{i}": y for i, y in enumerate(outputs)})
    verify(graph)
    rng = np.random.default_rng(seed)
    arrays = [rng.standard_normal(x.shape).astype(dtype) for x in inputs]
    values = evaluate(graph, {x.name: array for x, array in zip(inputs, arrays, strict=True)})
    results = tuple(values[f"y{i}"] for i in range(len(outputs)))
    return (results if isinstance(result, tuple) else results[0]), *arrays


def close(actual, expected, tolerance=1e-5):
    assert actual.shape == np.shape(expected)
    np.testing.assert_allclose(actual, expected, rtol=tolerance, atol=tolerance)


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def erf(x):
    return np.vectorize(math.erf)(x)


ACTIVATIONS = [
    (L.ReLU(), lambda x: np.where(x > 0, x, 0)),
    (L.ReLU6(), lambda x: np.clip(x, 0, 6)),
    (L.Clip(-0.5, 0.25), lambda x: np.clip(x, -0.5, 0.25)),
    (L.Clip(min=0.1), lambda x: np.where(x < 0.1, 0.1, x)),
    (L.Hardtanh(), lambda x: np.clip(x, -1, 1)),
    (L.LeakyReLU(0.2), lambda x: np.where(x >= 0, x, 0.2 * x)),
    (L.PReLU(weight=[0.3]), lambda x: np.where(x >= 0, x, 0.3 * x)),
    (L.ELU(0.7), lambda x: np.where(x > 0, x, 0.7 * np.expm1(x))),
    (
        L.SELU(),
        lambda x: 1.0507009873554805 * np.where(x > 0, x, 1.6732632423543772 * np.expm1(x)),
    ),
    (L.CELU(1.5), lambda x: np.maximum(x, 0) + np.minimum(0, 1.5 * np.expm1(x / 1.5))),
    (L.GELU(), lambda x: 0.5 * x * (1 + erf(x / math.sqrt(2)))),
    (L.GELU("tanh"), lambda x: 0.5 * x * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))),
    (L.SiLU(), lambda x: x * sigmoid(x)),
    (L.Sigmoid(), sigmoid),
    (L.Tanh(), np.tanh),
    (L.Hardswish(), lambda x: x * np.clip(x + 3, 0, 6) / 6),
    (L.Hardsigmoid(), lambda x: np.clip(x + 3, 0, 6) / 6),
    (L.Softplus(2.0), lambda x: np.log1p(np.exp(2 * x)) / 2),
    (L.Softsign(), lambda x: x / (1 + np.abs(x))),
    (L.Mish(), lambda x: x * np.tanh(np.log1p(np.exp(x)))),
    (L.Softmax(1), lambda x: np.exp(x) / np.exp(x).sum(1, keepdims=True)),
    (L.Softmax(), lambda x: np.exp(x) / np.exp(x).sum(-1, keepdims=True)),
    (L.LogSoftmax(1), lambda x: x - np.log(np.exp(x).sum(1, keepdims=True))),
    (L.Identity(), lambda x: x),
    (L.Dropout(), lambda x: x),
]


@pytest.mark.parametrize(("layer", "formula"), ACTIVATIONS, ids=lambda v: type(v).__name__)
def test_activations(layer, formula):
    y, x = run(layer, (5, 4, 3))
    close(y, formula(x.astype(np.float64)))


def test_prelu_has_one_slope_per_channel():
    slopes = np.array([0.1, 0.2, 0.3], np.float32)
    y, x = run(L.PReLU(3, weight=slopes), (3, 4, 4))
    close(y, np.where(x >= 0, x, x * slopes[:, None, None]))


def test_conv1d_by_hand():
    weight, bias = np.array([[[1.0, 2.0, 3.0]]]), np.array([0.5])
    x = L.Input((1, 4))
    graph = Graph.of(x, {"y": L.Conv1d(1, 3, padding=1, weight=weight, bias=bias)(x)})
    y = evaluate(graph, {"input": np.array([[[1, 10, 100, 1000]]], np.float32)})["y"]
    close(y, [[[32.5, 321.5, 3210.5, 2100.5]]])


def test_conv_transpose1d_by_hand():
    x = L.Input((1, 2))
    layer = L.ConvTranspose1d(1, 3, stride=2, output_padding=1, weight=[[[1.0, 2.0, 3.0]]], bias=False)
    y = evaluate(Graph.of(x, {"y": layer(x)}), {"input": np.array([[[1, 10]]], np.float32)})["y"]
    close(y, [[[1, 2, 13, 20, 30, 0]]])


def windows(x, kernel, stride, dilation):
    """Windows of [N, C, H, W] as [N, C, OH, OW, kh, kw]."""
    span = (kernel - 1) * dilation + 1
    view = np.lib.stride_tricks.sliding_window_view(x, (span, span), axis=(2, 3))
    return view[:, :, ::stride, ::stride, ::dilation, ::dilation]


@pytest.mark.parametrize(
    ("padding", "pads"),
    [
        (0, ((0, 0), (0, 0))),
        (2, ((2, 2), (2, 2))),
        ((1, 2), ((1, 1), (2, 2))),
        (((0, 2), (1, 0)), ((0, 2), (1, 0))),
        ("valid", ((0, 0), (0, 0))),
    ],
)
@pytest.mark.parametrize(("stride", "dilation"), [(1, 1), (2, 1), (1, 2)])
def test_conv2d_strides_dilations_and_paddings(padding, pads, stride, dilation):
    weight = np.random.default_rng(1).standard_normal((5, 3, 3, 3)).astype(np.float32)
    y, x = run(L.Conv2d(5, 3, stride, padding, dilation, bias=False, weight=weight), (3, 9, 8))
    padded = np.pad(x, ((0, 0), (0, 0), *pads))
    close(y, np.einsum("nchwij,ocij->nohw", windows(padded, 3, stride, dilation), weight), 1e-4)


@pytest.mark.parametrize(
    ("padding", "extent", "kernel", "stride", "pads"),
    [
        ("same", 8, 3, 1, (1, 1)),
        ("same", 8, 4, 1, (1, 2)),
        ("same_lower", 8, 4, 1, (2, 1)),
        ("same", 8, 3, 2, (0, 1)),
        ("same", 7, 3, 2, (1, 1)),
        ("same", 8, 1, 2, (0, 0)),
    ],
)
def test_same_padding_gives_extent_over_stride(padding, extent, kernel, stride, pads):
    y = L.Conv2d(1, kernel, stride, padding)(L.Input((1, extent, extent)))
    assert y.producer.op.pads == (pads, pads)
    assert y.shape[2] == -(-extent // stride)


@pytest.mark.parametrize("mode", ["reflect", "replicate", "circular"])
def test_conv2d_padding_modes(mode):
    numpy_mode = {"reflect": "reflect", "replicate": "edge", "circular": "wrap"}[mode]
    weight = np.random.default_rng(1).standard_normal((2, 1, 3, 3)).astype(np.float32)
    y, x = run(L.Conv2d(2, 3, padding=1, bias=False, padding_mode=mode, weight=weight), (1, 5, 6))
    padded = np.pad(x, ((0, 0), (0, 0), (1, 1), (1, 1)), mode=numpy_mode)
    close(y, np.einsum("nchwij,ocij->nohw", windows(padded, 3, 1, 1), weight), 1e-4)


def test_grouped_and_depthwise_convolution():
    layer = L.Conv2d(8, 1, groups=4, bias=False)
    y, x = run(layer, (4, 3, 3))
    weight = layer.parameters()["weight"].data
    assert weight.shape == (8, 1, 1, 1)
    close(y, np.repeat(x, 2, axis=1) * weight.reshape(8, 1, 1))


@pytest.mark.parametrize(
    ("layer", "shape", "expected"),
    [
        (L.Conv3d(6, 3, 2, 1), (2, 5, 6, 7), (6, 3, 3, 4)),
        (L.ConvTranspose2d(6, 4, 2, 1), (4, 5, 5), (6, 10, 10)),
        (L.ConvTranspose3d(6, 2, 2), (4, 3, 4, 5), (6, 6, 8, 10)),
        (L.MaxPool3d(2), (2, 4, 6, 8), (2, 2, 3, 4)),
        (L.MaxPool1d(3, 2, ceil_mode=True), (2, 8), (2, 4)),
        (L.MaxPool1d(3, 1, padding=((2, 0),)), (2, 8), (2, 8)),
        (L.MaxPool1d(2, 1, padding=2, dilation=3), (2, 8), (2, 9)),
        (L.AvgPool1d(3, 2, 1), (2, 9), (2, 5)),
        (L.AvgPool3d((1, 2, 2)), (2, 4, 6, 8), (2, 4, 3, 4)),
        (L.AdaptiveAvgPool1d(2), (2, 8), (2, 2)),
        (L.AdaptiveMaxPool3d((1, None, 2)), (2, 4, 5, 6), (2, 1, 5, 2)),
        (L.GlobalAvgPool(), (3, 4, 5), (3, 1, 1)),
        (L.GlobalMaxPool(keepdim=False), (3, 4, 5), (3,)),
        (L.Flatten(), (3, 4, 5), (60,)),
        (L.Flatten(2), (3, 4, 5), (3, 20)),
        (L.Reshape(2, -1, 10), (3, 4, 5), (6, 10)),
        (L.Reshape((2, 60)), (3, 4, 5), (60,)),
        (L.Permute(0, 2, 3, 1), (3, 4, 5), (4, 5, 3)),
        (L.Squeeze(2), (3, 1, 5), (3, 5)),
        (L.Unsqueeze(-1), (3, 5), (3, 5, 1)),
        (L.Crop(2), (3, 4, 5), (3, 2, 2)),
        (L.Upsample(scale_factor=1.5), (1, 5, 4), (1, 7, 6)),
        (L.Linear(7), (4, 5), (4, 7)),
        (L.Mean((2, 3)), (3, 4, 5), (3,)),
        (L.Sum(1, keepdim=True), (3, 4, 5), (1, 4, 5)),
    ],
    ids=lambda v: type(v).__name__ if isinstance(v, L.Module) else str(v),
)
def test_shapes(layer, shape, expected):
    y, _ = run(layer, shape)
    assert y.shape == (2, *expected)


def test_linear_is_x_times_weight_transposed():
    weight, bias = np.arange(6.0).reshape(2, 3), np.array([1.0, -1.0])
    y, x = run(L.Linear(2, bias, weight=weight), (4, 3))
    close(y, x @ weight.T + bias)


@pytest.mark.parametrize("layer", [L.BatchNorm, L.BatchNorm2d])
def test_batch_norm(layer):
    norm = layer(1e-3)
    y, x = run(norm, (3, 4, 5))
    p = {name: value.data.reshape(3, 1, 1) for name, value in norm.parameters().items()}
    close(y, (x - p["running_mean"]) / np.sqrt(p["running_var"] + 1e-3) * p["weight"] + p["bias"])


def test_batch_norm_without_affine_and_for_features():
    norm = L.BatchNorm1d(affine=False)
    y, x = run(norm, (3,))
    p = {name: value.data for name, value in norm.parameters().items()}
    assert set(p) == {"running_mean", "running_var"}
    close(y, (x - p["running_mean"]) / np.sqrt(p["running_var"] + 1e-5))


def test_layer_norm():
    norm = L.LayerNorm((4, 5))
    y, x = run(norm, (3, 4, 5))
    p = norm.parameters()
    mean, var = x.mean((2, 3), keepdims=True), x.var((2, 3), keepdims=True)
    close(y, (x - mean) / np.sqrt(var + 1e-5) * p["weight"].data + p["bias"].data, 1e-4)


def test_max_pool_and_average_pool():
    y, x = run(L.MaxPool2d(3, 2, padding=1), (2, 7, 7))
    padded = np.pad(x, ((0, 0), (0, 0), (1, 1), (1, 1)), constant_values=-np.inf)
    close(y, windows(padded, 3, 2, 1).max((4, 5)))
    y, x = run(L.AvgPool2d(3, 2, padding=1), (2, 7, 7))
    padded = np.pad(x, ((0, 0), (0, 0), (1, 1), (1, 1)))
    close(y, windows(padded, 3, 2, 1).mean((4, 5)))
    y, _ = run(L.AvgPool2d(3, 2, padding=1, count_include_pad=False), (2, 7, 7))
    counts = windows(np.pad(np.ones_like(x), ((0, 0), (0, 0), (1, 1), (1, 1))), 3, 2, 1).sum((4, 5))
    close(y, windows(padded, 3, 2, 1).sum((4, 5)) / counts)


@pytest.mark.parametrize(("kind", "layer"), [("mean", L.AdaptiveAvgPool2d), ("max", L.AdaptiveMaxPool2d)])
@pytest.mark.parametrize("sizes", [1, 3, (2, 4), (5, 3), (7, None), (9, 2), (1, 6)])
def test_adaptive_pools_to_any_size(kind, layer, sizes):
    y, x = run(layer(sizes), (2, 7, 6))
    wanted = [have if want is None else want for have, want in zip((7, 6), np.broadcast_to(sizes, 2), strict=True)]
    expected = np.empty((2, 2, *wanted))
    for i, j in np.ndindex(*wanted):
        rows = slice(i * 7 // wanted[0], -(-(i + 1) * 7 // wanted[0]))
        columns = slice(j * 6 // wanted[1], -(-(j + 1) * 6 // wanted[1]))
        expected[:, :, i, j] = getattr(x[:, :, rows, columns], kind)((2, 3))
    close(y, expected)


def test_structure_layers():
    y, x = run(L.ChannelShuffle(2), (6, 2, 2))
    close(y, x[:, [0, 3, 1, 4, 2, 5]])
    y, x = run(L.PixelShuffle(2), (4, 2, 3))
    assert y[1, 0, 2, 3] == x[1, 1, 1, 1]
    assert y[1, 0, 3, 4] == x[1, 2, 1, 2]
    back, x = run(L.Sequential([L.PixelUnshuffle(2), L.PixelShuffle(2)]), (3, 4, 6))
    close(back, x)
    y, x = run(L.Pad((1, 2, 3, 0), value=7.0), (2, 3, 4))
    close(y, np.pad(x, ((0, 0), (0, 0), (3, 0), (1, 2)), constant_values=7.0))
    y, x = run(L.Pad(1, value=2**53 + 1), (2, 3, 4), dtype="int64")
    assert y[0, 0, 0, 0] == 2**53 + 1
    y, x = run(L.Pad(1, "reflect"), (2, 3, 4))
    close(y, np.pad(x, ((0, 0), (0, 0), (1, 1), (1, 1)), mode="reflect"))
    (a, b, c), x = run(L.Split(2), (5, 2))
    close(np.concatenate([a, b, c], 1), x)
    assert c.shape == (2, 1, 2)
    y, x = run(L.Slice(2, 5, None, -2), (3, 6))
    close(y, x[:, :, 5::-2])


def test_combinations_of_several_tensors():
    for layer, formula in [
        (L.Add(), lambda a, b, c: a + b + c),
        (L.Sub(), lambda a, b, c: a - b - c),
        (L.Mul(), lambda a, b, c: a * b * c),
        (L.Div(), lambda a, b, c: a / b / c),
        (L.Concat(), lambda a, b, c: np.concatenate([a, b, c], 1)),
    ]:
        y, *arrays = run(layer, (3, 2), (3, 2), (3, 2))
        close(y, formula(*arrays), 1e-4)
    y, a, b = run(L.Matmul(), (3, 4), (4, 5))
    close(y, a @ b)


def test_operators_and_subscripts():
    x = L.Input((3, 4), batch=2)
    bias = np.array([1.0, 2.0, 3.0, 4.0])
    y = (2 - x * 3 + bias) / (x**2 + 1.0) - (-x) @ np.eye(4)
    z = bias + x
    power = 2**x
    product = np.ones((5, 3)) @ x
    a = np.random.default_rng(0).standard_normal((2, 3, 4)).astype(np.float32)
    out = evaluate(
        Graph.of(
            x,
            {
                "y": y,
                "z": z,
                "power": power,
                "product": product,
                "part": x[:, 1:, ::-2],
                "one": x[0, ..., -1],
                "row": x[1],
            },
        ),
        {"input": a},
    )
    close(out["y"], (2 - a * 3 + bias) / (a**2 + 1) + a)
    close(out["z"], bias + a)
    close(out["power"], 2.0**a)
    close(out["product"], np.ones((5, 3)) @ a)
    close(out["part"], a[:, 1:, ::-2])
    close(out["one"], a[0, ..., -1])
    close(out["row"], a[1])


def test_subscripts_that_take_everything_in_order_make_no_node():
    x = L.Input((3, 4))
    assert x[:, 0:3, ...] is x
    assert x[::2] is x
    assert x[-1:].producer is None
    assert x[:, ::-1].producer is not None


def test_upsample_nearest_and_linear():
    y, x = run(L.Upsample(scale_factor=2), (1, 2, 3))
    close(y, x.repeat(2, 2).repeat(2, 3))
    x = L.Input((1, 3))
    corners = L.Upsample(5, mode="linear", align_corners=True)(x)
    centres = L.Upsample(6, mode="linear")(x)
    out = evaluate(
        Graph.of(x, {"corners": corners, "centres": centres}), {"input": np.array([[[0, 4, 8]]], np.float32)}
    )
    close(out["corners"], [[[0, 2, 4, 6, 8]]])
    close(out["centres"], [[[0, 1, 3, 5, 7, 8]]])


@pytest.mark.parametrize(
    ("normalize", "formula"),
    [
        (L.ZScore([1.0, 2.0, 3.0], [0.5, 1.5, 2.5]), lambda x, c: (x - c([1, 2, 3])) / c([0.5, 1.5, 2.5])),
        (L.ZScore(0.5, 0.25), lambda x, c: (x - 0.5) / 0.25),
        (L.ZeroCenter(np.arange(60.0).reshape(3, 4, 5)), lambda x, c: x - np.arange(60).reshape(3, 4, 5)),
        (L.Rescale01(-1.0, 3.0), lambda x, c: (x + 1) / 4),
        (L.RescaleSymmetric([0.0, 0.0, -1.0], 3.0), lambda x, c: 2 * (x - c([0, 0, -1])) / c([3, 3, 4]) - 1),
    ],
)
def test_input_normalisations(normalize, formula):
    x = L.Input((3, 4, 5), normalize=normalize)
    graph = Graph.of(x, {"y": L.Identity()(x), "operator": x * 1.0})
    verify(graph)
    a = np.random.default_rng(0).standard_normal((1, 3, 4, 5)).astype(np.float32)
    out = evaluate(graph, {"input": a})
    close(out["y"], formula(a.astype(np.float64), lambda v: np.array(v).reshape(3, 1, 1)))
    np.testing.assert_array_equal(out["y"], out["operator"])


@pytest.mark.parametrize("shape", [(3,), (3, 3), (3, 3, 3)])
def test_channels_without_a_batch_are_the_first_axis(shape):
    x = L.Input(shape, batch=None, normalize=L.ZScore([1.0, 2.0, 3.0], [1.0, 2.0, 4.0]))
    a = np.random.default_rng(0).standard_normal(shape).astype(np.float32)
    y = evaluate(Graph.of(x, {"y": L.Identity()(x)}), {"input": a})["y"]
    channels = (3, *[1] * (len(shape) - 1))
    close(y, (a - np.reshape([1, 2, 3], channels)) / np.reshape([1, 2, 4], channels))


def test_normalised_bytes_become_float32():
    x = L.Input((1, 2), dtype="uint8", normalize=L.Rescale01(0, 255))
    y = evaluate(Graph.of([x], [L.ReLU()(x)]), {"input": np.array([[[0, 255]]], np.uint8)})["relu"]
    close(y, [[[0.0, 1.0]]])


@pytest.mark.parametrize("dtype", ["int64", "int32"])
def test_embedding_picks_rows_of_floats(dtype):
    table = np.random.default_rng(0).standard_normal((5, 3)).astype(np.float32)
    x = L.Input((4,), dtype=dtype)
    given, drawn = L.Embedding(5, 3, weight=table), L.Embedding(5, 3)
    graph = Graph.of(x, {"given": given(x), "drawn": drawn(x)})
    out = evaluate(graph, {"input": np.array([[4, 0, -1, 2]], dtype)})
    np.testing.assert_array_equal(out["given"], table[[[4, 0, -1, 2]]])
    assert out["drawn"].dtype == np.float32
    assert np.unique(out["drawn"]).size == 9


def test_arguments_may_be_numbers_of_numpy():
    x = L.Input((1, 4, 4))
    assert L.Upsample(scale_factor=np.int64(2))(x).shape == (1, 1, 8, 8)
    assert L.Resize(scale_factor=np.float32(1.5))(x).shape == (1, 1, 6, 6)
    assert L.LayerNorm(np.int64(4))(x).shape == x.shape
