"""ONNX normalisations; those without an op of their own are composed of reductions and pointwise ops."""

from __future__ import annotations

import numpy as np

from glulam.compiler.graph.graph import Value
from glulam.compiler.graph.types import DType
from glulam.compiler.ops.group_norm import GroupNorm
from glulam.compiler.ops.local_response import LocalResponseNorm
from glulam.compiler.ops.movement import Expand, Reshape
from glulam.compiler.ops.norm import BatchNorm, LayerNorm
from glulam.compiler.ops.pointwise import Add, Div, Mul, Reciprocal, ScaleShift, Sqrt, Sub
from glulam.compiler.ops.reduce import Reduce
from glulam.compiler.ops.vector_norm import LpNormalize, RMSNorm
from glulam.frontends import compositions
from glulam.frontends.onnx.context import Context, Converter
from glulam.frontends.onnx.proto import dtype_of


def batch_norm(ctx: Context) -> Value | tuple[Value, ...]:
    """Inference form. Before opset 9, spatial=0 keeps one statistic per element."""
    epsilon = ctx.number("epsilon", 1e-5)
    ctx.ignore("momentum", "consumed_inputs", "is_test")
    if ctx.flag("training_mode"):
        return _batch_statistics(ctx, epsilon)
    ctx.only_first_output("running_mean", "running_var", "saved_mean", "saved_var")
    x = ctx[0]
    scale, bias, mean, var = (_like(ctx, ctx[i], x) for i in range(1, 5))
    if ctx.flag("spatial", True):
        return ctx.apply(BatchNorm(epsilon), x, scale, bias, mean, var)
    deviation = ctx.apply(Sqrt(), ctx.apply(Add(), var, ctx.constant(epsilon, var.type.dtype)))
    normal = ctx.apply(Div(), ctx.apply(Sub(), x, mean), deviation)
    return ctx.apply(ScaleShift(), normal, scale, bias)


def _like(ctx: Context, value: Value, x: Value) -> Value:
    """Statistics and scales may have another float type than the data; with float16 all are computed in float32."""
    return value if x.type.dtype is DType.F16 else ctx.cast(value, x.type.dtype)


def _batch_statistics(ctx: Context, epsilon: float) -> tuple[Value, ...]:
    """Training form: normalised by the batch's own mean and variance, with which the running ones are updated."""
    x, scale, bias, mean, var = (ctx[i] for i in range(5))
    momentum = ctx.number("momentum", 0.9)
    axes = (0, *range(2, len(x.shape)))
    own_mean = ctx.apply(Reduce("mean", axes, False), x)
    wide = ctx.apply(Reshape((x.shape[1], *[1] * (len(x.shape) - 2))), own_mean)
    centred = ctx.apply(Sub(), x, wide)
    own_var = ctx.apply(Reduce("mean", axes, False), ctx.apply(Mul(), centred, centred))
    running = []
    for old, new in ((mean, own_mean), (var, own_var)):
        kept = ctx.apply(Mul(), old, ctx.constant(momentum, old.type.dtype))
        running.append(ctx.apply(Add(), kept, ctx.apply(Mul(), new, ctx.constant(1 - momentum, new.type.dtype))))
    return (ctx.apply(BatchNorm(epsilon), x, scale, bias, own_mean, own_var), *running)


def layer_norm(ctx: Context) -> tuple[Value, ...]:
    """The type that the mean and the inverse deviation have is given by stash_type; computing is in x's own."""
    x, scale, bias = ctx[0], ctx[1], ctx.optional(2)
    stash = dtype_of(ctx.integer("stash_type", 1), "attribute stash_type")
    axis = ctx.axis(ctx.integer("axis", -1), len(x.shape))
    op = LayerNorm(axis, ctx.number("epsilon", 1e-5))
    own = x.shape[axis:]
    wanted = ctx.uses_output(1) or ctx.uses_output(2)
    statistics = tuple(ctx.cast(value, stash) for value in _statistics(ctx, x, op)) if wanted else ()
    if scale.shape == own and (bias is None or bias.shape == own):
        return (ctx.apply(op, x, scale, bias), *statistics)
    normal = ctx.apply(Mul(), ctx.apply(op, x, None, None), scale)
    return (normal if bias is None else ctx.apply(Add(), normal, bias), *statistics)


def _statistics(ctx: Context, x: Value, op: LayerNorm) -> tuple[Value, Value]:
    """The mean, and one over the standard deviation, of each sample."""
    mean, _, variance = compositions.moments(x, range(op.axis, len(x.shape)), ctx.part)
    deviation = ctx.apply(Sqrt(), ctx.apply(Add(), variance, ctx.constant(op.epsilon, x.type.dtype)))
    return mean, ctx.apply(Reciprocal(), deviation)


def _channel_parameters(ctx: Context, channels: int) -> tuple[Value, Value]:
    scale, bias = ctx[1], ctx[2]
    if scale.shape != (channels,) or bias.shape != (channels,):
        raise ctx.malformed(f"scale and bias of shapes {scale.shape} and {bias.shape}, where ({channels},) is needed")
    return scale, bias


def instance_norm(ctx: Context) -> Value:
    x = ctx[0]
    if len(x.shape) < 3:
        raise ctx.malformed(f"InstanceNormalization of {x.type}; it takes [N, C, ...]")
    ctx.ignore("consumed_inputs")
    scale, bias = _channel_parameters(ctx, x.shape[1])
    return ctx.apply(GroupNorm(max(x.shape[1], 1), ctx.number("epsilon", 1e-5)), x, scale, bias)


def group_norm(ctx: Context) -> Value:
    """From opset 21 scale and bias are per channel; at 18 they are per group."""
    x = ctx[0]
    ctx.ignore("stash_type")
    groups = ctx.integer("num_groups", 0)
    if len(x.shape) < 2 or groups < 1 or x.shape[1] % groups:
        raise ctx.malformed(f"{groups} groups of the channels of {x.type}")
    scale, bias = _channel_parameters(ctx, x.shape[1] if ctx.opset >= 21 else groups)
    if ctx.opset < 21:
        scale, bias = (_repeated(ctx, value, x.shape[1]) for value in (scale, bias))
    return ctx.apply(GroupNorm(groups, ctx.number("epsilon", 1e-5)), x, scale, bias)


def _repeated(ctx: Context, value: Value, channels: int) -> Value:
    """A number per group as one per channel."""
    groups = value.shape[0]
    wide = ctx.apply(Expand((groups, channels // groups)), ctx.apply(Reshape((groups, 1)), value))
    return ctx.apply(Reshape((channels,)), wide)


def rms_norm(ctx: Context) -> Value:
    x = ctx[0]
    scale = _like(ctx, ctx[1], x)
    ctx.ignore("stash_type")
    op = RMSNorm(ctx.axis(ctx.integer("axis", -1), len(x.shape)), ctx.number("epsilon", 1e-5))
    if scale.shape == x.shape[op.axis :]:
        return ctx.apply(op, x, scale)
    return ctx.apply(Mul(), ctx.apply(op, x, None), scale)


def lp_norm(ctx: Context) -> Value:
    x = ctx[0]
    p = ctx.integer("p", 2)
    if p not in (1, 2):
        raise ctx.malformed(f"p={p}; LpNormalization is defined for 1 and 2")
    axis = ctx.axis(ctx.integer("axis", -1), len(x.shape))
    return ctx.apply(LpNormalize(axis, float(p), float(np.finfo(np.float32).tiny)), x)


def local_response_norm(ctx: Context) -> Value:
    x = ctx[0]
    size = ctx.integer("size", 0)
    if size < 1 or len(x.shape) < 2:
        raise ctx.malformed(f"LRN with size={size} of {x.type}")
    before = (size - 1) // 2
    numbers = (ctx.number(name, default) for name, default in (("alpha", 1e-4), ("beta", 0.75), ("bias", 1.0)))
    return ctx.apply(LocalResponseNorm(before, size - 1 - before, *numbers), x)


def mean_variance_norm(ctx: Context) -> Value:
    """The standard's own composition, with its 1e-9 that keeps the divisor from 0."""
    x = ctx[0]
    axes = ctx.integers("axes", (0, 2, 3))
    assert axes is not None
    epsilon = ctx.constant(1e-9, x.type.dtype)
    return compositions.mean_variance_norm(x, sorted(ctx.axes(axes, len(x.shape))), epsilon, ctx.part)


TABLE: dict[str, Converter] = {
    "BatchNormalization": batch_norm,
    "LayerNormalization": layer_norm,
    "InstanceNormalization": instance_norm,
    "GroupNormalization": group_norm,
    "RMSNormalization": rms_norm,
    "SimplifiedLayerNormalization": rms_norm,  # so ONNX Runtime calls it in files that it optimised
    "LpNormalization": lp_norm,
    "LRN": local_response_norm,
    "MeanVarianceNormalization": mean_variance_norm,
}
