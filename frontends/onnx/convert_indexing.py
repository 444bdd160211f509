"""ONNX operators that look elements up, put them somewhere, or order them."""

from __future__ import annotations

import numpy as np

from glulam.compiler import ops
from glulam.compiler.errors import ShapeError
from glulam.compiler.graph.graph import Value
from glulam.compiler.graph.types import DType, inverse_perm
from glulam.frontends.einsum import einsum as decomposed
from glulam.frontends.onnx.context import Context, Converter, Held, Places, Repeated


def gather_elements(ctx: Context) -> Value:
    axis = ctx.axis(ctx.integer("axis", 0), len(ctx[0].shape))
    return ctx.apply(ops.GatherElements(axis), ctx[0], ctx[1])


def gather_nd(ctx: Context) -> Value:
    return ctx.apply(ops.GatherND(ctx.integer("batch_dims", 0)), ctx[0], ctx[1])


def scatter_elements(ctx: Context) -> Value:
    axis = ctx.axis(ctx.integer("axis", 0), len(ctx[0].shape))
    return ctx.apply(ops.ScatterElements(axis, ctx.text("reduction", "none")), ctx[0], ctx[1], ctx[2])


def scatter_nd(ctx: Context) -> Value:
    places, updates = ctx.held(1), ctx.held(2)
    if isinstance(places, Places) and places.rows and isinstance(updates, Repeated):
        return _put(ctx, ctx[0], places.tensor, updates.number)
    return ctx.apply(ops.ScatterND(ctx.text("reduction", "none")), ctx[0], ctx[1], ctx[2])


def _put(ctx: Context, x: Value, mask: Value, number: Value) -> Value:
    """x[mask] = number, for a mask over leading axes."""
    rank = len(mask.shape)
    if mask.shape != x.shape[:rank] or ctx.text("reduction", "none") != "none":
        raise ctx.unsupported(f"places in {mask.type} for elements of {x.type}, as many as its inputs decide")
    wide = ctx.apply(ops.Reshape((*mask.shape, *[1] * (len(x.shape) - rank))), ctx.cast(mask, DType.BOOL))
    return ctx.apply(ops.Where(), wide, ctx.apply(ops.Reshape(()), number), x)


def top_k(ctx: Context) -> tuple[Value, ...]:
    """k was an attribute until opset 10. Sorted results serve those who do not ask for an order."""
    x = ctx[0]
    axis = ctx.axis(ctx.integer("axis", -1), len(x.shape))
    k = ctx.known_scalar(1, "K") if ctx.opset >= 10 else ctx.integer("k", -1)
    ctx.ignore("sorted")
    if k is None or not 0 <= k <= x.shape[axis]:
        raise ctx.malformed(f"k = {k} of the {x.shape[axis]} elements along axis {axis} of {x.type}")
    return ctx.add(ops.TopK(int(k), axis, ctx.flag("largest", True)), x)


def cumulative(kind: str) -> Converter:
    def convert(ctx: Context) -> Value:
        axis = ctx.known_scalar(1, "axis")
        place = ctx.axis(0 if axis is None else int(axis), len(ctx[0].shape))
        return ctx.apply(ops.Cumulative(kind, place, ctx.flag("exclusive"), ctx.flag("reverse")), ctx[0])

    return convert


def compress(ctx: Context) -> Value:
    """How many elements are kept must be known, so the condition is."""
    x = ctx[0]
    condition = ctx.known(1, "condition")
    if condition.ndim != 1:
        raise ctx.malformed("the condition is not a list")
    if not ctx.has("axis"):
        x = ctx.apply(ops.Reshape((x.type.size,)), x)
    axis = ctx.axis(ctx.integer("axis", 0), len(x.shape))
    kept = np.flatnonzero(condition).astype(np.int64)
    if kept.size and kept[-1] >= x.shape[axis]:
        raise ctx.malformed(f"the condition is longer than axis {axis} of {x.type}")
    return ctx.apply(ops.Gather(axis), x, ctx.constant(kept))


def non_zero(ctx: Context) -> Held:
    """A scalar's places have no coordinates. Of what is not known, a Where may be made in the end."""
    array = ctx.builder.demanded(ctx[0])
    if array is None:
        return Places(ctx[0])
    places = np.argwhere(array).T if array.ndim else np.empty((0, np.count_nonzero(array)))
    return ctx.constant(places, DType.I64)


def unique(ctx: Context) -> tuple[Value, ...]:
    """Of what is known; the elements in ascending order, or in that of where they first are."""
    array = ctx.builder.demanded(ctx[0])
    if array is None:
        raise ctx.refused("Unique of what is computed")
    axis = ctx.axis(ctx.integer("axis", 0), array.ndim) if ctx.has("axis") else None
    found = np.unique(array, return_index=True, return_inverse=True, return_counts=True, axis=axis)
    values, first, inverse, counts = found[0], found[1], found[2].reshape(-1), found[3]
    if not ctx.flag("sorted", True):
        order = np.argsort(first)
        place = np.argsort(order)
        values = np.take(values, order, axis=0 if axis is None else axis)
        first, inverse, counts = first[order], place[inverse], counts[order]
    places = tuple(ctx.constant(each, DType.I64) for each in (first, inverse, counts))
    return (ctx.constant(values, ctx[0].type.dtype), *places)[: ctx.output_count]


def hardmax(ctx: Context) -> Value:
    """1 at the first largest element along the axis; before opset 13, along all axes from `axis` on together."""
    x = ctx[0]
    rank = len(x.shape)
    axis = ctx.axis(ctx.integer("axis", -1 if ctx.opset >= 13 else 1), rank)
    if x.type.size == 0:
        return x
    flat = x
    if ctx.opset < 13:
        size = int(np.prod(x.shape[axis:]))
        flat, axis = ctx.apply(ops.Reshape((x.type.size // size, size)), x), 1
    best = ctx.apply(ops.ArgReduce("max", axis), flat)
    places = np.arange(flat.shape[axis]).reshape(-1, *(1,) * (len(flat.shape) - axis - 1))
    hot = ctx.apply(ops.Cast(x.type.dtype), ctx.apply(ops.Equal(), best, ctx.constant(places)))
    return hot if hot.shape == x.shape else ctx.apply(ops.Reshape(x.shape), hot)


def reverse_sequence(ctx: Context) -> Value:
    """The first elements of each sequence backwards; the rest stays."""
    x, lengths = ctx[0], ctx[1]
    rank = len(x.shape)
    batch, time = (ctx.axis(ctx.integer(f"{name}_axis", i), rank) for name, i in (("batch", 1), ("time", 0)))
    if batch == time or lengths.shape != (x.shape[batch],):
        raise ctx.malformed(f"batch_axis {batch}, time_axis {time} and lengths {lengths.type} for {x.type}")
    perm = (batch, time, *(axis for axis in range(rank) if axis not in (batch, time)))
    steps = ctx.constant(np.arange(x.shape[time], dtype=np.int64)[None, :])
    count = ctx.apply(ops.Reshape((x.shape[batch], 1)), ctx.cast(lengths, DType.I64))
    mirrored = ctx.apply(ops.Sub(), ctx.apply(ops.Sub(), count, ctx.constant(1, DType.I64)), steps)
    places = ctx.apply(ops.Where(), ctx.apply(ops.Less(), steps, count), mirrored, steps)
    indices = ctx.apply(ops.Reshape((*places.shape, 1)), places)
    ordered = ctx.apply(ops.GatherND(1), ctx.apply(ops.Transpose(perm), x), indices)
    return ctx.apply(ops.Transpose(inverse_perm(perm)), ordered)


def einsum(ctx: Context) -> Value:
    operands = [ctx[i] for i in range(len(ctx.inputs))]
    try:
        return decomposed(ctx.text("equation", ""), operands, ctx.apply)
    except ShapeError as error:
        raise ctx.malformed(str(error)) from error


def det(ctx: Context) -> Value:
    return ctx.apply(ops.Det(), ctx[0])


TABLE: dict[str, Converter] = {
    "GatherElements": gather_elements,
    "GatherND": gather_nd,
    "Scatter": scatter_elements,
    "ScatterElements": scatter_elements,
    "ScatterND": scatter_nd,
    "TopK": top_k,
    "CumSum": cumulative("sum"),
    "CumProd": cumulative("prod"),
    "Compress": compress,
    "NonZero": non_zero,
    "Unique": unique,
    "Hardmax": hardmax,
    "ReverseSequence": reverse_sequence,
    "Einsum": einsum,
    "Det": det,
}
