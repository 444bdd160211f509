"""ONNX's sequences, settled at import: how many tensors they hold is known wherever the graph's shapes are."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from glulam.compiler import ops
from glulam.compiler.graph.graph import Value
from glulam.frontends.onnx.context import Context, Converter, Held, Tensors
from glulam.frontends.onnx.convert_control import element, stacked

MAX_PARTS = 10_000  # tensors in one sequence


def construct(ctx: Context) -> Tensors:
    return Tensors(tuple(ctx[i] for i in range(len(ctx.inputs))))


def empty(ctx: Context) -> Tensors:
    ctx.ignore("dtype")
    return Tensors(())


def length(ctx: Context) -> Value:
    return ctx.constant(np.asarray(len(ctx.sequence(0)), np.int64))


def at(ctx: Context) -> Value:
    values = ctx.sequence(0)
    return values[_position(ctx, 1, values)]


def insert(ctx: Context) -> Tensors:
    """Before the element at the position; at the end without one."""
    values = ctx.sequence(0)
    place = len(values) if ctx.optional(2) is None else _position(ctx, 2, values, end=True)
    return Tensors((*values[:place], ctx[1], *values[place:]))


def erase(ctx: Context) -> Tensors:
    """The element at the position; the last without one."""
    values = ctx.sequence(0)
    if not values:
        raise ctx.malformed("the sequence is empty")
    place = len(values) - 1 if ctx.optional(1) is None else _position(ctx, 1, values)
    return Tensors((*values[:place], *values[place + 1 :]))


def split(ctx: Context) -> Tensors:
    """Into parts of one size, of which the last may be smaller, or of given sizes; else into single elements."""
    x = ctx[0]
    axis = ctx.axis(ctx.integer("axis", 0), len(x.shape))
    extent, keep = x.shape[axis], ctx.flag("keepdims", True)
    if ctx.optional(1) is None and not keep:
        _check_count(ctx, extent)
        return Tensors(tuple(element(ctx, x, axis, i) for i in range(extent)))
    sizes = _sizes(ctx, extent)
    if min(sizes, default=0) < 0 or sum(sizes) != extent:
        raise ctx.malformed(f"parts {sizes} of axis {axis} of {x.type}")
    return Tensors((x,) if len(sizes) == 1 else ctx.add(ops.Split(axis, sizes), x))


def _sizes(ctx: Context, extent: int) -> tuple[int, ...]:
    given = np.asarray(1) if ctx.optional(1) is None else ctx.known(1, "split")
    if given.ndim:
        _check_count(ctx, given.size)
        return tuple(int(size) for size in given.reshape(-1))
    part = int(given)
    if part < 1:
        raise ctx.malformed(f"parts of {part} elements")
    _check_count(ctx, -(-extent // part))
    return tuple(min(part, extent - start) for start in range(0, extent, part))


def _check_count(ctx: Context, parts: int) -> None:
    if parts > MAX_PARTS:
        raise ctx.unsupported(f"a sequence of {parts} tensors; up to {MAX_PARTS} are offered")


def concat(ctx: Context) -> Value:
    values = ctx.sequence(0)
    if not values:
        raise ctx.unsupported("an empty sequence has no element type or shape that could be put together")
    rank = len(values[0].shape)
    axis = ctx.integer("axis", 0)
    if ctx.flag("new_axis"):
        return stacked(ctx, values, axis)
    return values[0] if len(values) == 1 else ctx.apply(ops.Concat(ctx.axis(axis, rank)), *values)


def mapped(ctx: Context) -> tuple[Held, ...]:
    """The body for the elements of sequences at the same place; tensors go into every round as they are."""
    body = ctx.branch("body")
    operands = [ctx.held(i) for i in range(len(ctx.inputs))]
    count = len(ctx.sequence(0))
    results: list[tuple[Value, ...]] = []
    for i in range(count):
        parts = [value.values[i] if isinstance(value, Tensors) else value for value in operands]
        results.append(tuple(ctx.tensor_of(value) for value in ctx.inline(body, parts)))
    return tuple(Tensors(tuple(result[k] for result in results)) for k in range(len(body.output)))


def _position(ctx: Context, index: int, values: Sequence[Value], *, end: bool = False) -> int:
    """A place in a sequence, which may count from its end. `end`: one past the last is one too."""
    place = int(ctx.known_scalar(index, "position") or 0)
    count = len(values)
    if not -count <= place < count + end:
        raise ctx.malformed(f"position {place} in a sequence of {count}")
    return place + count if place < 0 else place


TABLE: dict[str, Converter] = {
    "SequenceConstruct": construct,
    "SequenceEmpty": empty,
    "SequenceLength": length,
    "SequenceAt": at,
    "SequenceInsert": insert,
    "SequenceErase": erase,
    "SplitToSequence": split,
    "ConcatFromSequence": concat,
    "SequenceMap": mapped,
}
