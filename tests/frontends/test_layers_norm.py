"""Normalisation, selection, crop and resize layers against formulas written out in numpy, natively too."""

from __future__ import annotations

import numpy as np
import pytest

from glulam.compiler import driver
from glulam.compiler.errors import ShapeError
from glulam.compiler.graph.evaluate import evaluate
from glulam.compiler.graph.graph import Graph
from glulam.compiler.options import Options
from glulam.frontends import layers as L


def run(layer, *arrays):
    """The layer's results by reference; native code must agree."""
    inputs = [L.Input(a.shape[1:], name=f"x{i}", batch=a.shape[0], dtype=a.dtype) for i, a in enumerate(arrays)]
    result = layer(*inputs)
    outputs = result if isinstance(result, tuple) else (result,)
    graph = Graph.of(inputs, {f"y{i}": y for i, y in enumerate(outputs)})
    feeds = {x.name: a for x, a in zip(inputs, arrays, strict=True)}
    expected = evaluate(graph, feeds)
    with driver.compile_graph(graph, Options()) as model:
        for name, native in model.run(feeds).items():
            np.testing.assert_allclose(native, expected[name], rtol=1e-4, atol=1e-5)
    results = tuple(expected[f"y{i}"] for i in range(len(outputs)))
    return results if isinstance(result, tuple) else results[0]


def f(*shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def close(actual, expected):
    np.testing.assert_allclose(actual, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("shape", [(2, 6, 7), (1, 6, 5, 3), (2, 6, 2, 3, 4), (3, 6)])
def test_group_norm(shape):
    x, weight, bias = f(*shape), f(6, seed=1), f(6, seed=2)
    groups = x.reshape(shape[0], 3, -1)
    normal = (groups - groups.mean(2, keepdims=True)) / np.sqrt(groups.var(2, keepdims=True) + 1e-3)
    per_channel = (-1, *(1,) * (len(shape) - 2))
    expected = normal.reshape(shape) * weight.reshape(per_channel) + bias.reshape(per_channel)
    close(run(L.GroupNorm(3, 1e-3, weight=weight, bias=bias), x), expected)


@pytest.mark.parametrize(
    ("layer", "shape"),
    [(L.InstanceNorm1d(), (2, 3, 9)), (L.InstanceNorm2d(), (2, 17, 5, 3)), (L.InstanceNorm3d(), (1, 3, 2, 3, 4))],
)
def test_instance_norm(layer, shape):
    x = f(*shape) + 3
    axes = tuple(range(2, len(shape)))
    expected = (x - x.mean(axes, keepdims=True)) / np.sqrt(x.var(axes, keepdims=True) + 1e-5)
    close(run(layer, x), expected)


@pytest.mark.parametrize(("axes", "shape"), [((0, 2, 3), (2, 3, 5, 4)), ((1, -1), (2, 17, 5)), ((1,), (3, 7))])
def test_mean_variance_norm(axes, shape):
    x = f(*shape) + 2
    expected = (x - x.mean(axes, keepdims=True)) / (x.std(axes, keepdims=True) + 1e-9)
    close(run(L.MeanVarianceNorm(axes) if axes != (0, 2, 3) else L.MeanVarianceNorm(), x), expected)


def test_rms_norm():
    x, weight = f(2, 5, 7), f(7, seed=1)
    close(run(L.RMSNorm(eps=0.1, weight=weight), x), x / np.sqrt((x**2).mean(-1, keepdims=True) + 0.1) * weight)
    eps = np.finfo(np.float32).eps
    both = x / np.sqrt((x**2).mean((1, 2), keepdims=True) + eps)
    close(run(L.RMSNorm((5, 7), elementwise_affine=False), x), both)


@pytest.mark.parametrize("size", [1, 4, 5])
def test_local_response_norm(size):
    x = f(2, 7, 3, 4)
    expected = np.empty_like(x)
    for c in range(7):
        window = x[:, max(c - size // 2, 0) : c + (size - 1) // 2 + 1]
        expected[:, c] = x[:, c] / (2.0 + 0.5 / size * (window**2).sum(1)) ** 0.75
    close(run(L.LocalResponseNorm(size, 0.5, 0.75, 2.0), x), expected)


@pytest.mark.parametrize("p", [1.0, 2.0, 3.0, np.inf])
def test_lp_normalize(p):
    x = f(2, 5, 3)
    close(run(L.LpNormalize(p), x), x / np.linalg.norm(x, ord=p, axis=1, keepdims=True))


def test_selection():
    x = f(2, 9, 4)
    values, indices = run(L.TopK(3, dim=1), x)
    close(values, -np.sort(-x, 1)[:, :3])
    close(np.take_along_axis(x, indices, 1), values)
    close(run(L.ArgMax(), x), x.argmax(1))
    close(run(L.ArgMin(-1, keepdim=True), x), x.argmin(2)[..., None])
    close(run(L.CumSum(1), x), np.cumsum(x, 1))
    close(run(L.CumSum(1, exclusive=True, reverse=True), x), np.flip(np.cumsum(np.flip(x, 1), 1), 1) - x)
    index = np.random.default_rng(1).integers(0, 9, (2, 5, 4))
    close(run(L.Gather(1), x, index), np.take_along_axis(x, index, 1))
    added = x.copy()
    np.add.at(added, (np.arange(2)[:, None, None], index, np.arange(4)), np.ones((2, 5, 4), np.float32))
    close(run(L.Scatter(1, "add"), x, index, np.ones((2, 5, 4), np.float32)), added)


@pytest.mark.parametrize(
    ("equation", "shapes"),
    [
        ("bij,bjk->bik", [(2, 3, 4), (2, 4, 5)]),
        ("bhid,bhjd->bhij", [(2, 3, 4, 5), (2, 3, 6, 5)]),
        ("bijk->bki", [(2, 3, 4, 5)]),
        ("bii->bi", [(2, 3, 3)]),
        ("biij->jb", [(2, 3, 3, 4)]),
        ("bi,bj->bij", [(2, 3), (2, 4)]),
        ("b...i,b...i", [(2, 3, 4), (2, 3, 4)]),
        ("b...i,bij->b...j", [(2, 3, 4), (2, 4, 5)]),
        ("bi,bj,bk->bkji", [(2, 3), (2, 4), (2, 5)]),
        ("bi,bij,bj->b", [(2, 3), (2, 3, 4), (2, 4)]),
        ("bx,by->", [(2, 3), (2, 4)]),
        ("b...,b...->b...", [(2, 3, 1), (2, 1, 4)]),
    ],
)
def test_einsum(equation, shapes):
    arrays = [f(*shape, seed=i) for i, shape in enumerate(shapes)]
    close(run(L.Einsum(equation), *arrays), np.einsum(equation, *arrays))


@pytest.mark.parametrize("equation", ["bij,bjk", "bi1,bi->b", "bij,bik->bijq", "bij,bik->bii", "bij,bik,b->b"])
def test_einsum_refuses(equation):
    with pytest.raises(ShapeError, match="einsum"):
        run(L.Einsum(equation), f(2, 3, 4), f(2, 3, 5))


def test_crops():
    x, small = f(1, 2, 9, 8), f(1, 5, 4, 3)
    close(run(L.Crop2d((4, 3)), x), x[:, :, 2:6, 2:5])
    close(run(L.Crop2d((4, 3), (1, 5)), x), x[:, :, 1:5, 5:8])
    close(run(L.Crop2d(), x, small), x[:, :, 2:6, 2:5])
    close(run(L.Crop(offset=(1, 0)), x, small), x[:, :, 1:5, :3])
    volume = f(1, 2, 5, 6, 7)
    close(run(L.Crop3d((2, 3, 4), (1, 2, 3)), volume), volume[:, :, 1:3, 2:5, 3:7])
    close(run(L.Crop3d(3), volume), volume[:, :, 1:4, 1:4, 2:5])
    with pytest.raises(ShapeError, match="rank 5"):
        run(L.Crop3d(2), x)


@pytest.mark.parametrize("rank", [1, 2, 3])
@pytest.mark.parametrize("mode", ["nearest", "linear", "cubic"])
def test_resize_of_every_rank(rank, mode):
    x = f(1, 3, *(5, 4, 6)[:rank])
    sizes = (7, 3, 8)[:rank]
    by_size = run(L.Resize(sizes, mode=mode, coordinates="half_pixel"), x)
    assert by_size.shape == (1, 3, *sizes)
    close(run(L.Resize(mode=mode, coordinates="half_pixel"), x, np.zeros((1, 1, *sizes), np.float32)), by_size)
    doubled = run(L.Resize(scale_factor=2, mode=mode), x)
    assert doubled.shape == (1, 3, *(2 * n for n in x.shape[2:]))
    if mode == "nearest":
        expected = x
        for axis in range(rank):
            expected = expected.repeat(2, axis + 2)
        close(doubled, expected)


@pytest.mark.parametrize(
    "coordinates", ["half_pixel", "pytorch_half_pixel", "align_corners", "asymmetric", "half_pixel_symmetric"]
)
def test_resize_coordinates(coordinates):
    line = np.arange(5, dtype=np.float32).reshape(1, 1, 5)
    places = {
        "asymmetric": np.arange(10) / 2,
        "align_corners": np.arange(10) * 4 / 9,
    }.get(coordinates, (np.arange(10) + 0.5) / 2 - 0.5)
    close(run(L.Resize(10, mode="linear", coordinates=coordinates), line)[0, 0], np.clip(places, 0, 4))


def test_resize_of_a_region():
    line = np.arange(5, dtype=np.float32).reshape(1, 1, 5)
    layer = L.Resize(3, mode="linear", coordinates="tf_crop_and_resize", roi=(0.25, 1.25), extrapolation_value=9.0)
    close(run(layer, line)[0, 0], [1, 3, 9])


@pytest.mark.parametrize(
    "make",
    [
        lambda: L.Resize(3, 2.0),
        lambda: L.Resize(3, mode="quartic"),
        lambda: L.Resize(3, coordinates="polar"),
        lambda: L.Resize(3, coordinates="tf_crop_and_resize"),
        lambda: L.Resize(3, mode="nearest", align_corners=True),
        lambda: L.GroupNorm(0),
        lambda: L.GroupNorm(2, -1.0),
        lambda: L.LpNormalize(0.0),
        lambda: L.Scatter(0, "sum"),
        lambda: run(L.GroupNorm(4), f(1, 6, 3)),
        lambda: run(L.InstanceNorm2d(), f(1, 6, 3)),
        lambda: run(L.RMSNorm(5), f(1, 6)),
        lambda: run(L.Resize(), f(1, 6, 3)),
        lambda: run(L.TopK(7), f(1, 6)),
    ],
)
def test_refusals(make):
    with pytest.raises(ShapeError):
        make()
