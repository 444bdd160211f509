"""ONNX's deformable convolution: the taps are sampled where offsets move them, then multiplied with the weights."""

from __future__ import annotations

import numpy as np

from glulam.compiler import ops
from glulam.compiler.graph.graph import Value
from glulam.frontends.onnx.context import Context, Converter


def deform_conv(ctx: Context) -> Value:
    """x[N, C, *S], w[O, C / groups, *K], offsets[N, parts * taps * rank, *T], bias?, mask?[N, parts * taps, *T]."""
    x, w, bias = ctx[0], ctx[1], ctx.optional(3)
    rank, kernel = len(x.shape) - 2, w.shape[2:]
    if ctx.integers("kernel_shape") not in (None, kernel):
        raise ctx.malformed(f"kernel_shape differs from weights of shape {w.shape}")
    groups, parts = ctx.integer("group", 1), ctx.integer("offset_group", 1)
    taps, target = int(np.prod(kernel)), ctx[2].shape[2:]
    if ctx[2].shape[1] != parts * taps * rank or x.shape[1] % parts or x.shape[1] % groups or 0 in x.shape:
        raise ctx.malformed(
            f"offsets {ctx[2].type} for {x.type}, kernel {kernel}, offset_group {parts}, group {groups}"
        )
    count, channels = int(np.prod(target)), x.shape[1] // parts
    columns = []
    for part in range(parts):
        image = _channels(ctx, x, part * channels, channels)
        sampled = ctx.apply(ops.GridSample("linear", "zeros", False), image, _grid(ctx, x, kernel, part))
        value = ctx.apply(ops.Reshape((x.shape[0], channels, taps, count)), sampled)
        if (mask := ctx.optional(4)) is not None:
            factor = ctx.apply(ops.Reshape((x.shape[0], 1, taps, count)), _channels(ctx, mask, part * taps, taps))
            value = ctx.apply(ops.Mul(), value, factor)
        columns.append(value)
    joined = columns[0] if parts == 1 else ctx.apply(ops.Concat(1), *columns)
    depth = x.shape[1] // groups * taps
    rows = ctx.apply(ops.Reshape((groups, w.shape[0] // groups, depth)), w)
    product = ctx.apply(ops.MatMul(), rows, ctx.apply(ops.Reshape((x.shape[0], groups, depth, count)), joined))
    result = ctx.apply(ops.Reshape((x.shape[0], w.shape[0], *target)), product)
    if bias is None:
        return result
    return ctx.apply(ops.Add(), result, ctx.apply(ops.Reshape((w.shape[0], *[1] * rank)), bias))


def _grid(ctx: Context, x: Value, kernel: tuple[int, ...], part: int) -> Value:
    """[N, taps, (1,) count, rank]: where each tap lies for each output, as GridSample wants it, last axis first."""
    rank, offset = len(kernel), ctx[2]
    strides, dilations = (ctx.integers(name) or (1,) * rank for name in ("strides", "dilations"))
    pads = ctx.integers("pads") or (0,) * (2 * rank)
    taps, target = int(np.prod(kernel)), offset.shape[2:]
    count = int(np.prod(target))
    moved = _channels(ctx, offset, part * taps * rank, taps * rank)
    table = ctx.apply(ops.Reshape((x.shape[0], taps, rank, count)), moved)
    points = ctx.apply(ops.Transpose((0, 1, 3, 2)), table)
    points = ctx.apply(ops.Slice((0, 0, 0, rank - 1), (1, 1, 1, -1), points.shape), points)
    starts = np.indices(target).reshape(rank, 1, count) * np.reshape(strides, (rank, 1, 1))
    places = starts + np.indices(kernel).reshape(rank, taps, 1) * np.reshape(dilations, (rank, 1, 1))
    places = places - np.reshape(pads[:rank], (rank, 1, 1))
    extents = np.array(x.shape[2:], np.float64)
    base = (2 * np.moveaxis(places, 0, -1) + 1) / extents - 1
    scaled = ctx.apply(ops.Mul(), points, ctx.constant((2 / extents)[::-1], x.type.dtype))
    grid = ctx.apply(ops.Add(), scaled, ctx.constant(base[..., ::-1], x.type.dtype))
    return ctx.apply(ops.Reshape((x.shape[0], taps, *[1] * (rank - 2), count, rank)), grid) if rank != 2 else grid


def _channels(ctx: Context, x: Value, start: int, count: int) -> Value:
    rank = len(x.shape)
    return ctx.apply(ops.Slice((0, start, *[0] * (rank - 2)), (1,) * rank, (x.shape[0], count, *x.shape[2:])), x)


TABLE: dict[str, Converter] = {"DeformConv": deform_conv}
