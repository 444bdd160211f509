"""ONNX pools. Global pools are reductions over the spatial axes."""

from __future__ import annotations

import math

from glulam.compiler.graph.graph import Value
from glulam.compiler.ops.pointwise import Abs, Mul, Pow
from glulam.compiler.ops.pool import AveragePool, MaxPool
from glulam.compiler.ops.reduce import Reduce
from glulam.frontends.onnx.context import Context, Converter
from glulam.frontends.onnx.windows import Window, read_window


def _window(ctx: Context) -> tuple[Window, bool]:
    extents = ctx[0].shape[2:]
    kernel = ctx.integers("kernel_shape")
    if not kernel or len(kernel) != len(extents):
        raise ctx.malformed(f"kernel_shape {kernel} for an input of shape {ctx[0].shape}")
    ruled = ctx.text("auto_pad", "NOTSET") not in ("", "NOTSET")
    # the rules of auto_pad fix the output extents themselves, so rounding up has nothing left to do
    ceil = ctx.flag("ceil_mode") and not ruled
    return read_window(ctx, extents, kernel), ceil


def max_pool(ctx: Context) -> Value:
    ctx.only_first_output("Indices")
    ctx.ignore("storage_order")
    window, ceil = _window(ctx)
    return ctx.apply(MaxPool(window.kernel, window.strides, window.pads, window.dilations, ceil), ctx[0])


def average_pool(ctx: Context) -> Value:
    window, ceil = _window(ctx)
    include = ctx.flag("count_include_pad")
    return ctx.apply(AveragePool(window.kernel, window.strides, window.pads, window.dilations, ceil, include), ctx[0])


def lp_pool(ctx: Context) -> Value:
    """(sum |x|^p)^(1/p), the sum being an average that counts the padding, times the window's size."""
    window, ceil = _window(ctx)
    if ceil:
        raise ctx.unsupported("ceil_mode=1")
    p = float(ctx.integer("p", 2))
    x = ctx[0]
    dtype = x.type.dtype
    powers = ctx.apply(Pow(), ctx.apply(Abs(), x), ctx.constant(p, dtype))
    mean = ctx.apply(AveragePool(window.kernel, window.strides, window.pads, window.dilations, False, True), powers)
    total = ctx.apply(Mul(), mean, ctx.constant(float(math.prod(window.kernel)), dtype))
    return ctx.apply(Pow(), total, ctx.constant(1.0 / p, dtype))


def _spatial(ctx: Context, x: Value) -> tuple[int, ...]:
    if len(x.shape) < 2:
        raise ctx.malformed(f"a global pool of {x.type}; it takes [N, C, ...]")
    return tuple(range(2, len(x.shape)))


def global_pool(kind: str) -> Converter:
    def convert(ctx: Context) -> Value:
        return ctx.apply(Reduce(kind, _spatial(ctx, ctx[0]), True), ctx[0])

    return convert


def global_lp_pool(ctx: Context) -> Value:
    p = ctx.integer("p", 2)
    x = ctx[0]
    axes = _spatial(ctx, x)
    if p in (1, 2):
        return ctx.apply(Reduce(f"l{p}", axes, True), x)
    powers = ctx.apply(Pow(), ctx.apply(Abs(), x), ctx.constant(float(p), x.type.dtype))
    return ctx.apply(Pow(), ctx.apply(Reduce("sum", axes, True), powers), ctx.constant(1.0 / p, x.type.dtype))


TABLE: dict[str, Converter] = {
    "MaxPool": max_pool,
    "AveragePool": average_pool,
    "LpPool": lp_pool,
    "GlobalAveragePool": global_pool("mean"),
    "GlobalMaxPool": global_pool("max"),
    "GlobalLpPool": global_lp_pool,
}
