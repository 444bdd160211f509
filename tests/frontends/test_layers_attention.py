"""Attention layers against PyTorch's documented formulas in numpy; by native code and ONNX Runtime, too."""

from __future__ import annotations

import numpy as np
import pytest
from executors import native
from onnx_support import exported

from glulam.compiler.errors import ShapeError
from glulam.compiler.graph.evaluate import evaluate
from glulam.compiler.graph.graph import Graph
from glulam.frontends import layers as L


def softmax(x):
    e = np.exp(x - x.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


def attention(q, k, v, bias=0.0, scale=None):
    weights = softmax(q @ k.swapaxes(-1, -2) * (q.shape[-1] ** -0.5 if scale is None else scale) + bias)
    return weights @ v, weights


def multihead(q, k, v, state, heads, bias=0.0):
    """[N, L, E] by PyTorch's rules; the mask is added already."""
    e = q.shape[2]
    weights = [state.get(f"{c}_proj_weight", state.get("in_proj_weight", np.zeros((3 * e, e)))[i * e : (i + 1) * e])
               for i, c in enumerate("qkv")]  # fmt: skip
    biases = np.split(state.get("in_proj_bias", np.zeros(3 * e)), 3)
    parts = [x @ w.T + b for x, w, b in zip((q, k, v), weights, biases, strict=True)]
    parts = [x.reshape(*x.shape[:2], heads, e // heads).swapaxes(1, 2) for x in parts]
    y, shares = attention(*parts, bias)
    y = y.swapaxes(1, 2).reshape(q.shape)
    return y @ state["out_proj.weight"].T + state.get("out_proj.bias", 0.0), shares.mean(1)


def close(graph, feeds, expected):
    for run in (evaluate, native, exported):
        got = run(graph, feeds)
        for name, wanted in expected.items():
            np.testing.assert_allclose(got[name], wanted, rtol=1e-4, atol=1e-5)


def tensors(rng, *types):
    inputs, feeds = [], {}
    for name, shape, dtype in types:
        inputs.append(L.Input(shape[1:], name, dtype, batch=shape[0]))
        feeds[name] = rng.random(shape) < 0.7 if dtype == "bool" else rng.standard_normal(shape).astype(dtype)
    return inputs, feeds


@pytest.mark.parametrize("mask", [None, "float32", "bool", "causal"])
def test_scaled_dot_product(mask):
    rng = np.random.default_rng(0)
    types = [("q", (2, 3, 5, 8), "float32"), ("k", (2, 3, 7, 8), "float32"), ("v", (2, 3, 7, 4), "float32")]
    if mask in ("float32", "bool"):
        types.append(("m", (2, 1, 5, 7), mask))
    inputs, feeds = tensors(rng, *types)
    if mask == "bool":
        feeds["m"][..., 0] = True
    bias = {"float32": lambda: feeds["m"], "bool": lambda: np.where(feeds["m"], 0, -np.inf),
            "causal": lambda: np.triu(np.full((5, 7), -np.inf), 1)}.get(mask, lambda: 0.0)()  # fmt: skip
    y = L.ScaledDotProductAttention(is_causal=mask == "causal", scale=0.3)(*inputs)
    close(Graph.of(inputs, {"y": y}), feeds, {"y": attention(feeds["q"], feeds["k"], feeds["v"], bias, 0.3)[0]})


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("batch_first", [True, False])
def test_self_attention(bias, batch_first):
    rng = np.random.default_rng(1)
    inputs, feeds = tensors(rng, ("x", (2, 6, 12), "float32"), ("m", (6, 6), "bool"))
    feeds["m"] &= ~np.eye(6, dtype=bool)
    if not batch_first:
        feeds["m"] = np.zeros((2, 2), bool)
        inputs[1] = L.Input((2,), "m", "bool", batch=2)
    layer = L.MultiheadAttention(12, 3, bias=bias, batch_first=batch_first, need_weights=True)
    y, shares = layer(*inputs)
    x = feeds["x"] if batch_first else feeds["x"].swapaxes(0, 1)
    wanted, weights = multihead(x, x, x, layer.state_dict(), 3, np.where(feeds["m"], -np.inf, 0))
    wanted = wanted if batch_first else wanted.swapaxes(0, 1)
    close(Graph.of(inputs, {"y": y, "w": shares}), feeds, {"y": wanted, "w": weights})
    assert ("in_proj_bias" in layer.state_dict()) is bias


@pytest.mark.parametrize(("kdim", "vdim"), [(None, None), (5, 7)])
def test_cross_attention(kdim, vdim):
    rng = np.random.default_rng(2)
    inputs, feeds = tensors(rng, ("q", (2, 3, 8), "float32"), ("k", (2, 6, kdim or 8), "float32"),
                            ("v", (2, 6, vdim or 8), "float32"), ("m", (4, 3, 6), "float32"))  # fmt: skip
    weights = {"out_proj.bias": np.arange(8.0)}
    layer = L.MultiheadAttention(8, 2, kdim=kdim, vdim=vdim, batch_first=True, weights=weights)
    y = layer(*inputs)
    wanted, _ = multihead(feeds["q"], feeds["k"], feeds["v"], layer.state_dict(), 2, feeds["m"].reshape(2, 2, 3, 6))
    close(Graph.of(inputs, {"y": y}), feeds, {"y": wanted})
    assert ("in_proj_weight" in layer.state_dict()) is (kdim is None)


@pytest.mark.parametrize("batch_first", [True, False])
@pytest.mark.parametrize("types", [("bool", None), ("bool", "bool"), ("float32", "bool"), ("bool", "float32")])
def test_keys_that_are_padding(types, batch_first):
    rng = np.random.default_rng(4)
    shapes = [((2, 3, 8), "float32"), ((2, 6, 8), "float32"), ((2, 6, 8), "float32")]
    if not batch_first:
        shapes = [((shape[1], shape[0], 8), dtype) for shape, dtype in shapes]
    masks = [((2, 6), types[0]), *([((3, 6), types[1])] if types[1] else [])]
    inputs, feeds = tensors(rng, *(("qkvpm"[i], *each) for i, each in enumerate(shapes + masks)))
    added = []
    for name in "pm"[: len(masks)]:
        if feeds[name].dtype == bool:
            feeds[name][:, 0] = False
        added.append(np.where(feeds[name], -np.inf, 0) if feeds[name].dtype == bool else feeds[name])
    layer = L.MultiheadAttention(8, 2, batch_first=batch_first, key_padding_mask=True)
    y = layer(*inputs)
    q, k, v = (feeds[name] if batch_first else feeds[name].swapaxes(0, 1) for name in "qkv")
    wanted, _ = multihead(q, k, v, layer.state_dict(), 2, added[0][:, None, None] + sum(added[1:]))
    close(Graph.of(inputs, {"y": y}), feeds, {"y": wanted if batch_first else wanted.swapaxes(0, 1)})


def test_self_attention_with_keys_that_are_padding():
    inputs, feeds = tensors(np.random.default_rng(5), ("x", (2, 6, 8), "float32"), ("p", (2, 6), "bool"))
    feeds["p"][:, 2] = False
    layer = L.MultiheadAttention(8, 2, batch_first=True, key_padding_mask=True)
    y, x = layer(*inputs), feeds["x"]
    bias = np.where(feeds["p"], -np.inf, 0)[:, None, None]
    close(Graph.of(inputs, {"y": y}), feeds, {"y": multihead(x, x, x, layer.state_dict(), 2, bias)[0]})
    with pytest.raises(ShapeError, match=r"the mask of keys 'm' is bool\[6,2\], not \(2, 6\)"):
        layer(inputs[0], L.Input((2,), "m", "bool", batch=6))
    with pytest.raises(ShapeError, match="and a mask of keys, and maybe another; not 1 inputs"):
        layer(inputs[0])


def test_causal_attention_sees_nothing_later():
    x = L.Input((5, 4), name="x")
    graph = Graph.of([x], {"y": L.MultiheadAttention(4, 2, batch_first=True, is_causal=True)(x)})
    array = np.random.default_rng(3).standard_normal((1, 5, 4)).astype(np.float32)
    changed = array.copy()
    changed[:, 3:] += 1
    first, second = (native(graph, {"x": a})["y"] for a in (array, changed))
    np.testing.assert_array_equal(first[:, :3], second[:, :3])
    assert (first[:, 3:] != second[:, 3:]).all()


def test_arguments_that_do_not_fit_are_named():
    with pytest.raises(ShapeError, match="3 heads do not divide embed_dim 8"):
        L.MultiheadAttention(8, 3)
    with pytest.raises(ShapeError, match="8 features are needed"):
        L.MultiheadAttention(8, 2)(L.Input((3, 7)))
