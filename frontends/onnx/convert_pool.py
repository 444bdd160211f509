"""ONNX pools. Global pools are reductions over the spatial axes."""

from __future__ import annotations

from functools import reduce

import numpy as np

from glulam.compiler.graph.graph import Value
from glulam.compiler.graph.types import DType
from glulam.compiler.ops.pad import Pad
from glulam.compiler.ops.pointwise import Abs, Cast, Pow
from glulam.compiler.ops.pool import AveragePool, MaxPool
from glulam.compiler.ops.reduce import Reduce
from glulam.compiler.ops.unpool import MaxPoolIndices, MaxUnpool
from glulam.frontends import compositions
from glulam.frontends.onnx.context import Context, Converter
from glulam.frontends.onnx.windows import Window, read_window


def _window(ctx: Context) -> tuple[Window, bool]:
    extents = ctx[0].shape[2:]
    kernel = ctx.integers("kernel_shape")
    if not kernel or len(kernel) != len(extents):
        raise ctx.malformed(f"kernel_shape {kernel} for an input of shape {ctx[0].shape}")
    window = read_window(ctx, extents, kernel)
    # the rules of auto_pad fix the output extents themselves, so rounding up has nothing left to do
    return window, ctx.flag("ceil_mode") and window.rule == "NOTSET"


def max_pool(ctx: Context) -> tuple[Value, ...]:
    """Bytes with a sign, and those whose places are wanted, are pooled as the floats of the same values."""
    window, ceil = _window(ctx)
    column_major = ctx.flag("storage_order")
    shape = (window.kernel, window.strides, window.pads, window.dilations, ceil)
    x, dtype = ctx[0], ctx[0].type.dtype
    if MaxPool(*shape).has_empty_windows(x.shape[2:]):
        raise ctx.malformed(f"pads {window.pads}: a window has no element of the input; pads are less than the kernel")
    if dtype is DType.I8 or (dtype is DType.U8 and ctx.uses_output(1)):
        x = ctx.apply(Cast(DType.F32), x)
    if ctx.uses_output(1):
        values, *rest = ctx.add(MaxPoolIndices(*shape, per_plane=False, column_major=column_major), x)
    else:
        values, rest = ctx.apply(MaxPool(*shape), x), []
    return values if x is ctx[0] else ctx.apply(Cast(dtype), values), *rest


def max_unpool(ctx: Context) -> Value:
    """Places count the elements of the pool's input as its window implies it; output_shape adds zeros at the ends."""
    x, places = ctx[0], ctx[1]
    kernel = ctx.integers("kernel_shape")
    if not kernel or len(kernel) != len(x.shape) - 2:
        raise ctx.malformed(f"kernel_shape {kernel} for an input of shape {x.shape}")
    window = read_window(ctx, x.shape[2:], kernel)
    sizes = tuple(
        extent - before - after
        for extent, (before, after) in zip(window.transposed_extents(x.shape[2:]), window.pads, strict=True)
    )
    y = ctx.apply(MaxUnpool(sizes, per_plane=False), x, places)
    wanted = ctx.known_ints(2, "output_shape")
    if wanted is None or wanted == y.shape:
        return y
    if len(wanted) != len(y.shape) or any(want < have for want, have in zip(wanted, y.shape, strict=True)):
        raise ctx.malformed(f"output_shape {wanted}, where the window implies {y.shape}")
    return ctx.apply(Pad(tuple((0, want - have) for want, have in zip(wanted, y.shape, strict=True))), y)


def average_pool(ctx: Context) -> Value:
    return averaged(ctx, ctx[0])


def averaged(ctx: Context, x: Value) -> Value:
    """The average pool that the node describes, of a value of its input's shape."""
    window, ceil = _window(ctx)
    include = ctx.flag("count_include_pad")
    return ctx.apply(AveragePool(window.kernel, window.strides, window.pads, window.dilations, ceil, include), x)


def lp_pool(ctx: Context) -> Value:
    """(sum |x|^p)^(1/p), the sum being an average times the number of elements that it was taken of."""
    window, ceil = _window(ctx)
    p = float(ctx.integer("p", 2))
    x = ctx[0]
    dtype = x.type.dtype
    pool = AveragePool(window.kernel, window.strides, window.pads, window.dilations, ceil, True)
    counts = reduce(np.multiply.outer, map(np.array, pool.counts(x.shape[2:])))
    even = bool((counts == counts.flat[0]).all())  # windows that reach beyond the padding have fewer
    numbers = (p, float(counts.flat[0]) if even else counts, 1.0 / p)
    power, count, root = (ctx.constant(number, dtype) for number in numbers)
    return compositions.lp_pool(x, pool, power, count, root, ctx.part)


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
    "MaxUnpool": max_unpool,
    "AveragePool": average_pool,
    "LpPool": lp_pool,
    "GlobalAveragePool": global_pool("mean"),
    "GlobalMaxPool": global_pool("max"),
    "GlobalLpPool": global_lp_pool,
}
