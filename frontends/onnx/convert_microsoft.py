"""Operators of ONNX Runtime's own domain that its optimisers put in place of standard ones: what they stand for.

Those of its internal layouts (com.microsoft.nchwc) and of generation loops are not offered.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from glulam.compiler import ops
from glulam.compiler.graph.graph import Value
from glulam.compiler.graph.op import Op
from glulam.compiler.graph.types import DType
from glulam.frontends.onnx.context import Context, Converter
from glulam.frontends.onnx.convert_conv import conv
from glulam.frontends.onnx.convert_matmul import gemm
from glulam.frontends.onnx.convert_pointwise import softplus

DOMAIN = "com.microsoft"


def fused_matmul(ctx: Context) -> Value:
    a, b = (_turned(ctx, ctx[i], name) for i, name in enumerate(("A", "B")))
    return _scaled(ctx, ctx.apply(ops.MatMul(), a, b), ctx.number("alpha", 1.0))


def _turned(ctx: Context, x: Value, name: str) -> Value:
    """Transposed as the attributes for this operand say; a vector stays one.

    With transBatch the first axis is not of the batch but the matrices' first: it goes behind the batch's axes.
    """
    rank = len(x.shape)
    first, last = rank - 2, rank - 1
    order = list(range(rank))
    if ctx.flag(f"transBatch{name}") and rank > 2:
        order = [*range(1, last), 0, last]
    if ctx.flag(f"trans{name}") and rank > 1:
        order[first], order[last] = order[last], order[first]
    return x if order == sorted(order) else ctx.apply(ops.Transpose(tuple(order)), x)


def _scaled(ctx: Context, x: Value, factor: float) -> Value:
    return x if factor == 1.0 else ctx.apply(ops.Mul(), x, ctx.constant(factor, x.type.dtype))


def gelu(form: str) -> Converter:
    """Of the sum with the second input, where there is one."""

    def convert(ctx: Context) -> Value:
        return ctx.apply(ops.Gelu(form), _sum(ctx, ctx[0], ctx.optional(1)))

    return convert


def quick_gelu(ctx: Context) -> Value:
    x = ctx[0]
    return ctx.apply(ops.Mul(), x, ctx.apply(ops.Sigmoid(), _scaled(ctx, x, ctx.number("alpha", 1.702))))


def _sum(ctx: Context, x: Value, *others: Value | None) -> Value:
    for other in others:
        x = x if other is None else ctx.apply(ops.Add(), x, other)
    return x


def skip_layer_norm(ctx: Context) -> tuple[Value, ...]:
    """The normalised sum of input, skip and bias; the fourth output is the sum."""
    total = _sum(ctx, ctx[0], ctx[1], ctx.optional(4))
    op = ops.LayerNorm(len(total.shape) - 1, ctx.number("epsilon", 1e-12))
    return _with_sum(ctx, ctx.apply(op, total, ctx[2], ctx.optional(3)), total)


def skip_rms_norm(ctx: Context) -> tuple[Value, ...]:
    total = _sum(ctx, ctx[0], ctx[1], ctx.optional(3))
    op = ops.RMSNorm(len(total.shape) - 1, ctx.number("epsilon", 1e-12))
    return _with_sum(ctx, ctx.apply(op, total, ctx[2]), total)


def _with_sum(ctx: Context, normal: Value, total: Value) -> tuple[Value, ...]:
    if ctx.uses_output(1) or ctx.uses_output(2):
        raise ctx.unsupported("the outputs mean and inv_std_var are not offered")
    return (normal, total, total, total)


def embed_layer_norm(ctx: Context) -> tuple[Value, ...]:
    """The normalised sum of words', places' and segments' vectors; how many places of each row the mask keeps."""
    ids, segments, words, places, kinds = ctx[0], ctx.optional(1), ctx[2], ctx[3], ctx.optional(4)
    mask, given = ctx.optional(7), ctx.optional(8)
    ctx.ignore("mask_index_type")
    batch, length = ids.shape
    at = ctx.constant(np.arange(length)) if given is None else given
    total = _sum(ctx, ctx.apply(ops.Gather(0), words, ids), ctx.apply(ops.Gather(0), places, at))
    if segments is not None and kinds is not None:
        total = _sum(ctx, total, ctx.apply(ops.Gather(0), kinds, segments))
    normal = ctx.apply(ops.LayerNorm(2, ctx.number("epsilon", 1e-12)), total, ctx[5], ctx[6])
    if mask is None:
        kept = ctx.constant(np.zeros(batch), DType.I32)
    else:
        kept = ctx.cast(ctx.apply(ops.Reduce("sum", (1,), False), ctx.cast(mask, DType.F32)), DType.I32)
    return (normal, kept, total)


def activated(convert: Converter) -> Converter:
    """The operator, then the activation that an attribute names; its numbers are a list, or have attributes each."""

    def then(ctx: Context) -> Value:
        name = ctx.text("activation", "")
        listed = ctx.numbers("activation_params")
        named = {key: ctx.number(f"activation_{key}", math.nan) for key in ("alpha", "beta", "gamma")}
        y = convert(ctx)
        assert isinstance(y, Value)
        if not name:
            return y
        if name not in _ACTIVATIONS:
            raise ctx.unsupported(f"activation {name!r}")
        op, keys = _ACTIVATIONS[name]
        if len(listed) > len(keys):
            raise ctx.malformed(f"{len(listed)} activation_params for {name}, which has {len(keys)}")
        numbers = {key: number for key, number in named.items() if key in keys and not math.isnan(number)}
        return ctx.apply(op(**numbers, **dict(zip(keys, listed, strict=False))), y)

    return then


_ACTIVATIONS: Mapping[str, tuple[Callable[..., Op], tuple[str, ...]]] = {
    "Relu": (ops.Relu, ()),
    "Tanh": (ops.Tanh, ()),
    "Sigmoid": (ops.Sigmoid, ()),
    "Softsign": (ops.Softsign, ()),
    "Softplus": (softplus, ()),
    "LeakyRelu": (ops.LeakyRelu, ("alpha",)),
    "Elu": (ops.Elu, ("alpha",)),
    "ThresholdedRelu": (ops.ThresholdedRelu, ("alpha",)),
    "HardSigmoid": (ops.HardSigmoid, ("alpha", "beta")),
    "Selu": (ops.Selu, ("alpha", "gamma")),
    "Clip": (ops.Clip, ("low", "high")),
}


def conv_and_sum(ctx: Context) -> Value:
    y = conv(ctx)
    return _sum(ctx, y, ctx.optional(3))


def attention(ctx: Context) -> tuple[Value, ...]:
    """Self-attention of [B, S, D] by joint weights [D, 3 H]; past and present hold keys and values, [2, B, N, T, d]."""
    x, weights, bias, past = ctx[0], ctx[1], ctx.optional(2), ctx.optional(4)
    if ctx.flag("do_rotary") or ctx.optional(6) is not None:
        raise ctx.unsupported("rotary embeddings and shared buffers of past and present are not offered")
    ctx.ignore("rotary_embedding_dim")
    third = weights.shape[1] // 3
    sizes = ctx.integers("qkv_hidden_sizes") or (third, third, third)
    joint = _sum(ctx, ctx.apply(ops.MatMul(), x, weights), bias)
    q, k, v = (_heads(ctx, part) for part in ctx.add(ops.Split(2, sizes), joint))
    if past is not None:
        pasts = [ctx.apply(ops.Reshape(part.shape[1:]), part) for part in ctx.add(ops.Split(0, (1, 1)), past)]
        k, v = (ctx.apply(ops.Concat(2), old, new) for old, new in zip(pasts, (k, v), strict=True))
    y = _attended(ctx, (q, k, v), ctx.optional(3), ctx.optional(5), past=k.shape[2] - q.shape[2])
    if not ctx.uses_output(1):
        return (y,)
    return y, ctx.apply(ops.Concat(0), *(ctx.apply(ops.Reshape((1, *part.shape)), part) for part in (k, v)))


def multi_head_attention(ctx: Context) -> tuple[Value, ...]:
    """Attention of query, key and value [B, length, H] (these two also as heads, [B, N, length, d])."""
    operands = [ctx[0], ctx.optional(1), ctx.optional(2)]
    if any(x is None for x in operands) or len(ctx[0].shape) != 3 or len(ctx[1].shape) > 4:
        raise ctx.unsupported("packed queries, keys and values are not offered")
    if any(ctx.optional(i) is not None for i in (8, 9)):
        raise ctx.unsupported("shared buffers of past and present are not offered")
    bias = ctx.optional(3)
    heads = []
    start = 0
    for x in operands:
        assert x is not None
        if len(x.shape) == 3 and bias is not None:
            part = ctx.apply(ops.Slice((start,), (1,), (x.shape[2],)), bias)
            start += x.shape[2]
            x = _sum(ctx, x, part)
        heads.append(x if len(x.shape) == 4 else _heads(ctx, x))
    q, k, v = heads
    past = ctx.optional(6)
    if past is not None:
        k, v = (ctx.apply(ops.Concat(2), ctx[i], new) for i, new in ((6, k), (7, v)))
    before = 0 if past is None else past.shape[2]
    return _attended(ctx, (q, k, v), ctx.optional(4), ctx.optional(5), past=before), k, v


def _heads(ctx: Context, x: Value) -> Value:
    """[B, length, N d] as [B, N, length, d]."""
    batch, length, width = x.shape
    count = ctx.integer("num_heads", 0)
    if count < 1 or width % count:
        raise ctx.malformed(f"{count} heads of {x.type}")
    parts = ctx.apply(ops.Reshape((batch, length, count, width // count)), x)
    return ctx.apply(ops.Transpose((0, 2, 1, 3)), parts)


def _attended(ctx: Context, heads: Sequence[Value], mask: Value | None, bias: Value | None, *, past: int) -> Value:
    """softmax(q k' scale + bias + mask) v, with the heads side by side.

    past: how many keys are before the first query's own. With `unidirectional`, a query sees those up to its own, but
    the last one sees all, as ONNX Runtime has it (it tells where keys are more than past and queries).
    """
    q, k, v = heads
    batch, count, length, width = q.shape
    scale = ctx.number("scale", 0.0) or 1 / math.sqrt(width)
    scores = ctx.apply(ops.MatMul(), _scaled(ctx, q, scale), ctx.apply(ops.Transpose((0, 1, 3, 2)), k))
    scores = _sum(ctx, scores, bias, _hidden(ctx, mask, scores))
    if ctx.flag("unidirectional"):
        later = np.triu(np.full(scores.shape[2:], -np.inf), past + 1)
        later[-1:] = 0
        scores = _sum(ctx, scores, ctx.constant(later, scores.type.dtype))
    y = ctx.apply(ops.Transpose((0, 2, 1, 3)), ctx.apply(ops.MatMul(), ctx.apply(ops.Softmax(3), scores), v))
    return ctx.apply(ops.Reshape((batch, length, count * v.shape[3])), y)


def _hidden(ctx: Context, mask: Value | None, scores: Value) -> Value | None:
    """What the mask adds to scores [B, N, S, T]: it is [B] (so many are seen), [B, T] or [B, S, T] (those not 0)."""
    value = ctx.number("mask_filter_value", -10000.0)
    if mask is None:
        return None
    batch, _, length, total = scores.shape
    if mask.shape == (batch,):
        ends = ctx.apply(ops.Reshape((batch, 1, 1, 1)), ctx.cast(mask, DType.I64))
        seen = ctx.apply(ops.Less(), ctx.constant(np.arange(total)), ends)
    elif mask.shape in ((batch, total), (batch, length, total)):
        wide = ctx.apply(ops.Reshape((batch, 1, mask.type.size // batch // total, total)), mask)
        seen = ctx.apply(ops.Greater(), wide, ctx.constant(0, mask.type.dtype))
    else:
        raise ctx.unsupported(f"a mask of shape {mask.shape} for scores {scores.shape}")
    dtype = scores.type.dtype
    return ctx.apply(ops.Where(), seen, ctx.constant(0, dtype), ctx.constant(value, dtype))


_OWN: Mapping[str, Converter] = {
    "FusedMatMul": fused_matmul,
    "FusedGemm": activated(gemm),
    "FusedConv": activated(conv_and_sum),
    "Gelu": gelu("none"),
    "BiasGelu": gelu("none"),
    "FastGelu": gelu("tanh"),
    "QuickGelu": quick_gelu,
    "SkipLayerNormalization": skip_layer_norm,
    "SkipSimplifiedLayerNormalization": skip_rms_norm,
    "EmbedLayerNormalization": embed_layer_norm,
    "Attention": attention,
    "MultiHeadAttention": multi_head_attention,
}
TABLE: dict[str, Converter] = {f"{DOMAIN}.{name}": convert for name, convert in _OWN.items()}
