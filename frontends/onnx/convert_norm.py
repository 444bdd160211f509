"""ONNX normalisations; those without an op of their own are composed of reductions and pointwise ops."""

from __future__ import annotations

import math

import numpy as np

from glulam.compiler.graph.graph import Value
from glulam.compiler.ops.movement import Reshape
from glulam.compiler.ops.norm import BatchNorm, LayerNorm
from glulam.compiler.ops.pointwise import Add, Div, Maximum, Mul, Pow, Reciprocal, ScaleShift, Sqrt, Sub
from glulam.compiler.ops.pool import AveragePool
from glulam.compiler.ops.reduce import Reduce
from glulam.frontends.onnx.context import Context, Converter


def batch_norm(ctx: Context) -> Value:
    """Inference form. Before opset 9, spatial=0 keeps one statistic per element."""
    epsilon = ctx.number("epsilon", 1e-5)
    ctx.ignore("momentum", "consumed_inputs", "is_test")
    if ctx.flag("training_mode"):
        raise ctx.unsupported("training_mode=1")
    ctx.only_first_output("running_mean", "running_var", "saved_mean", "saved_var")
    x, scale, bias, mean, var = (ctx[i] for i in range(5))
    if ctx.flag("spatial", True):
        return ctx.apply(BatchNorm(epsilon), x, scale, bias, mean, var)
    deviation = ctx.apply(Sqrt(), ctx.apply(Add(), var, ctx.constant(epsilon, var.type.dtype)))
    normal = ctx.apply(Div(), ctx.apply(Sub(), x, mean), deviation)
    return ctx.apply(ScaleShift(), normal, scale, bias)


def layer_norm(ctx: Context) -> tuple[Value, ...]:
    ctx.ignore("stash_type")
    x, scale, bias = ctx[0], ctx[1], ctx.optional(2)
    axis = ctx.axis(ctx.integer("axis", -1), len(x.shape))
    op = LayerNorm(axis, ctx.number("epsilon", 1e-5))
    own = x.shape[axis:]
    statistics = _statistics(ctx, x, op) if ctx.uses_output(1) or ctx.uses_output(2) else ()
    if scale.shape == own and (bias is None or bias.shape == own):
        return (ctx.apply(op, x, scale, bias), *statistics)
    normal = ctx.apply(Mul(), ctx.apply(op, x, None, None), scale)
    return (normal if bias is None else ctx.apply(Add(), normal, bias), *statistics)


def _statistics(ctx: Context, x: Value, op: LayerNorm) -> tuple[Value, Value]:
    """The mean, and one over the standard deviation, of each sample."""
    mean_of = Reduce("mean", tuple(range(op.axis, len(x.shape))), True)
    mean = ctx.apply(mean_of, x)
    centred = ctx.apply(Sub(), x, mean)
    variance = ctx.apply(mean_of, ctx.apply(Mul(), centred, centred))
    deviation = ctx.apply(Sqrt(), ctx.apply(Add(), variance, ctx.constant(op.epsilon, x.type.dtype)))
    return mean, ctx.apply(Reciprocal(), deviation)


def _per_channel(ctx: Context, value: Value, channels: int, rank: int) -> Value:
    if value.shape != (channels,):
        raise ctx.malformed(f"scale and bias of shape {value.shape}, where ({channels},) is needed")
    return ctx.apply(Reshape((channels,) + (1,) * (rank - 2)), value)


def _grouped(ctx: Context, x: Value, groups: int, epsilon: float) -> Value:
    """Mean 0 and variance 1 in each of `groups` runs of channels."""
    if len(x.shape) < 2 or groups < 1 or x.shape[1] % groups:
        raise ctx.malformed(f"{groups} groups of the channels of {x.type}")
    size = math.prod(x.shape[1:]) // groups
    return ctx.apply(LayerNorm(2, epsilon), ctx.apply(Reshape((x.shape[0], groups, size)), x), None, None)


def instance_norm(ctx: Context) -> Value:
    x = ctx[0]
    rank = len(x.shape)
    if rank < 3:
        raise ctx.malformed(f"InstanceNormalization of {x.type}; it takes [N, C, ...]")
    ctx.ignore("consumed_inputs")
    normal = ctx.apply(Reshape(x.shape), _grouped(ctx, x, x.shape[1], ctx.number("epsilon", 1e-5)))
    scale, bias = (_per_channel(ctx, ctx[i], x.shape[1], rank) for i in (1, 2))
    return ctx.apply(ScaleShift(), normal, scale, bias)


def group_norm(ctx: Context) -> Value:
    """From opset 21 scale and bias are per channel; at 18 they are per group."""
    x = ctx[0]
    rank = len(x.shape)
    ctx.ignore("stash_type")
    groups = ctx.integer("num_groups", 0)
    normal = _grouped(ctx, x, groups, ctx.number("epsilon", 1e-5))
    if ctx.opset < 21:
        scale, bias = (_per_channel(ctx, ctx[i], groups, 3) for i in (1, 2))
        return ctx.apply(Reshape(x.shape), ctx.apply(ScaleShift(), normal, scale, bias))
    scale, bias = (_per_channel(ctx, ctx[i], x.shape[1], rank) for i in (1, 2))
    return ctx.apply(ScaleShift(), ctx.apply(Reshape(x.shape), normal), scale, bias)


def rms_norm(ctx: Context) -> Value:
    x, scale = ctx[0], ctx[1]
    ctx.ignore("stash_type")
    rank = len(x.shape)
    axes = tuple(range(ctx.axis(ctx.integer("axis", -1), rank), rank))
    mean = ctx.apply(Reduce("mean", axes, True), ctx.apply(Mul(), x, x))
    root = ctx.apply(Sqrt(), ctx.apply(Add(), mean, ctx.constant(ctx.number("epsilon", 1e-5), x.type.dtype)))
    return ctx.apply(Mul(), ctx.apply(Div(), x, root), scale)


def lp_norm(ctx: Context) -> Value:
    x = ctx[0]
    p = ctx.integer("p", 2)
    if p not in (1, 2):
        raise ctx.malformed(f"p={p}; LpNormalization is defined for 1 and 2")
    axis = ctx.axis(ctx.integer("axis", -1), len(x.shape))
    norm = ctx.apply(Reduce(f"l{p}", (axis,), True), x)
    tiny = np.finfo(np.float32).tiny
    return ctx.apply(Div(), x, ctx.apply(Maximum(), norm, ctx.constant(tiny, x.type.dtype)))


def local_response_norm(ctx: Context) -> Value:
    """x / (bias + alpha * mean of squares over `size` neighbour channels) ^ beta; the mean is a pool over channels."""
    x = ctx[0]
    size = ctx.integer("size", 0)
    if size < 1 or len(x.shape) < 2:
        raise ctx.malformed(f"LRN with size={size} of {x.type}")
    dtype = x.type.dtype
    planes = (x.shape[0], 1, x.shape[1], math.prod(x.shape[2:]))
    pads = (((size - 1) // 2, size - 1 - (size - 1) // 2), (0, 0))
    pool = AveragePool((size, 1), (1, 1), pads, (1, 1), False, True)
    mean = ctx.apply(pool, ctx.apply(Reshape(planes), ctx.apply(Mul(), x, x)))
    alpha, bias = ctx.constant(ctx.number("alpha", 1e-4), dtype), ctx.constant(ctx.number("bias", 1.0), dtype)
    base = ctx.apply(ScaleShift(), ctx.apply(Reshape(x.shape), mean), alpha, bias)
    return ctx.apply(Div(), x, ctx.apply(Pow(), base, ctx.constant(ctx.number("beta", 0.75), dtype)))


TABLE: dict[str, Converter] = {
    "BatchNormalization": batch_norm,
    "LayerNormalization": layer_norm,
    "InstanceNormalization": instance_norm,
    "GroupNormalization": group_norm,
    "RMSNormalization": rms_norm,
    "LpNormalization": lp_norm,
    "LRN": local_response_norm,
}
