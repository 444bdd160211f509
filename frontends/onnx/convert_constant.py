"""ONNX operators that are settled at import: constants, shapes, fillers."""

from __future__ import annotations

import math

import numpy as np

from glulam.compiler import ops
from glulam.compiler.graph.graph import Value
from glulam.compiler.graph.types import DType
from glulam.frontends.onnx.context import Context, Converter
from glulam.frontends.onnx.proto import dtype_of


def constant(ctx: Context) -> Value:
    forms = [name for name in _CONSTANT_FORMS if ctx.has(name)]
    refused = [name for name in ("sparse_value", "value_string", "value_strings") if ctx.has(name)]
    if refused:
        raise ctx.unsupported(f"a constant given as {refused[0]}")
    if len(forms) != 1:
        raise ctx.malformed("a Constant holds exactly one value")
    (form,) = forms
    array = ctx.tensor("value") if form == "value" else np.asarray(ctx.raw(form), dtype=_CONSTANT_FORMS[form])
    if array is None or (array.ndim != form.endswith("s") and form != "value"):
        raise ctx.malformed(f"attribute {form} has no such value")
    return ctx.builder.constant(array, ctx.base)


_CONSTANT_FORMS = {
    "value": None,
    "value_float": np.float32,
    "value_floats": np.float32,
    "value_int": np.int64,
    "value_ints": np.int64,
}


def constant_of_shape(ctx: Context) -> Value:
    shape = ctx.known_ints(0, "shape")
    if shape is None:
        raise ctx.malformed("the shape (input 0) is missing")
    value = ctx.tensor("value")
    if value is None:
        value = np.zeros((), np.float32)
    if value.size != 1:
        raise ctx.malformed("the value of ConstantOfShape is one element")
    return ctx.builder.filled(value, shape, ctx.base)


def shape(ctx: Context) -> Value:
    extents = np.asarray(ctx[0].shape, np.int64)
    start, end = ctx.integer("start", 0), ctx.integer("end", extents.size)
    return ctx.builder.constant(extents[start:end], ctx.base)


def size(ctx: Context) -> Value:
    return ctx.builder.constant(np.asarray(ctx[0].type.size, np.int64), ctx.base)


def arange(ctx: Context) -> Value:
    dtype = ctx[0].type.dtype
    start, limit, delta = (ctx.known_scalar(i, name) for i, name in enumerate(("start", "limit", "delta")))
    if start is None or limit is None or delta is None or delta == 0:
        raise ctx.malformed(f"Range from {start} to {limit} by {delta}")
    quotient = (limit - start) / delta
    if not math.isfinite(quotient):
        raise ctx.malformed(f"Range from {start} to {limit} by {delta}")
    count = max(math.ceil(quotient), 0)
    ctx.builder.claim((count,))
    return ctx.builder.constant((start + np.arange(count) * delta).astype(dtype.numpy), ctx.base)


def eye_like(ctx: Context) -> Value:
    x = ctx[0]
    if len(x.shape) != 2:
        raise ctx.malformed(f"EyeLike of {x.type}; it takes a matrix")
    ctx.builder.claim(x.shape)
    kind = ctx.integer("dtype", 0)
    dtype = dtype_of(kind, "attribute dtype") if kind else x.type.dtype
    return ctx.builder.constant(np.eye(*x.shape, k=ctx.integer("k", 0), dtype=dtype.numpy), ctx.base)


def trilu(ctx: Context) -> Value:
    """Zero outside a triangle: a choice by a constant mask."""
    x = ctx[0]
    if len(x.shape) < 2:
        raise ctx.malformed(f"Trilu of {x.type}; it takes matrices")
    offset = ctx.known_scalar(1, "k") or 0
    ctx.builder.claim(x.shape[-2:])
    rows, columns = (np.arange(n) for n in x.shape[-2:])
    distance = columns[None, :] - rows[:, None]
    mask = distance >= offset if ctx.flag("upper", True) else distance <= offset
    return ctx.apply(ops.Where(), ctx.constant(mask), x, ctx.constant(0, x.type.dtype))


def one_hot(ctx: Context) -> Value:
    """The depth must be constant; negative indices count from its end."""
    indices, values = ctx[0], ctx[2]
    depth = int(ctx.known_scalar(1, "depth") or 0)
    rank = len(indices.shape)
    axis = ctx.axis(ctx.integer("axis", -1), rank + 1)
    if depth < 1 or values.shape != (2,):
        raise ctx.malformed(f"OneHot of depth {depth} with values {values.type}")
    pair = ctx.known(2, "values")
    ctx.builder.claim((depth,))
    column = ctx.apply(ops.Reshape((*indices.shape[:axis], 1, *indices.shape[axis:])), indices)
    wide = ctx.cast(column, DType.I64)
    places = np.arange(depth, dtype=np.int64).reshape((depth,) + (1,) * (rank - axis))
    hot = ctx.apply(
        ops.Or(),
        ctx.apply(ops.Equal(), wide, ctx.constant(places)),
        ctx.apply(ops.Equal(), wide, ctx.constant(places - depth)),
    )
    return ctx.apply(ops.Where(), hot, ctx.constant(pair[1]), ctx.constant(pair[0]))


TABLE: dict[str, Converter] = {
    "Constant": constant,
    "ConstantOfShape": constant_of_shape,
    "Shape": shape,
    "Size": size,
    "Range": arange,
    "EyeLike": eye_like,
    "Trilu": trilu,
    "OneHot": one_hot,
}
