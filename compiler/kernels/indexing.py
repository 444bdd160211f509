"""Look-ups and their inverse: elements gathered from, or scattered to, places that are computed at run time.

Negative indices count from the end, and all are clamped into their axis: no access leaves a buffer. Tensors are plain.
Updates to one place are applied in the order of the indices, whatever the number of threads: an iteration owns all the
places that its updates may go to.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partial

import numpy as np

from glulam.compiler.graph.types import DType, Shape
from glulam.compiler.kernels.context import Context, Lowered, copied_as, vectors
from glulam.compiler.kernels.nest import Point, nest, overlapping_vectors, row_chunks
from glulam.compiler.kernels.ranges import pieces
from glulam.compiler.loops import expr as ex
from glulam.compiler.loops.expr import Cast, Expr, where
from glulam.compiler.loops.index import Affine, Bounded, IndexLike, Var
from glulam.compiler.loops.ir import Buffer

COMBINE: dict[str, Callable[[Expr, Expr], Expr]] = {
    "none": lambda old, new: new,
    "add": lambda old, new: old + new,
    "mul": lambda old, new: old * new,
    "max": ex.maximum,
    "min": ex.minimum,
}
"""What becomes of an element that an update meets."""


def dense(ctx: Context, i: int, shape: Shape) -> Buffer:
    """Input `i` as a dense array of another shape, in the weights if it is constant."""
    data = ctx.operand(i).data
    if data is None:
        return ctx.memory("input", i, shape)
    dtype = ctx.operand(i).type.dtype
    return ctx.constant(np.ascontiguousarray(data).reshape(shape).view(copied_as(dtype).numpy), "c")


def counted(index: Expr, extent: int) -> Expr:
    """The index as an I64 that counts from the front."""
    wide = index if index.dtype is DType.I64 else Cast(index, DType.I64)
    return where(wide < 0, wide + extent, wide)


# ---- gather


def gather(ctx: Context, axis: int) -> Lowered:
    """Rows of input 0 along the axis, chosen by input 1."""
    data, count = ctx.operand(0).shape, ctx.operand(1).type.size
    before, extent, row = math.prod(data[:axis]), data[axis], math.prod(data[axis + 1 :])
    return _gather_rows(ctx, before, (extent,), count, row)


def gather_nd(ctx: Context, batch_dims: int) -> Lowered:
    """Blocks of input 0, each named by an index tuple in the last axis of input 1; leading axes go in step."""
    data, indices = ctx.operand(0).shape, ctx.operand(1).shape
    last = batch_dims + indices[-1]
    batch, count = math.prod(indices[:batch_dims]), math.prod(indices[batch_dims:-1])
    return _gather_rows(ctx, batch, data[batch_dims:last], count, math.prod(data[last:]), apart=True)


def _gather_rows(ctx: Context, before: int, extents: Shape, count: int, row: int, *, apart: bool = False) -> Lowered:
    """y[n, m] = x[n, indices[m]], rows of `row` elements; with `apart`, every n has indices of its own."""
    if not before * count * row:
        return ctx.finished()
    depth = len(extents)
    x = dense(ctx, 0, (before, *extents, row))
    indices = dense(ctx, 1, (before if apart else 1, count, depth))
    y = ctx.memory("output", 0, (before, count, row))
    b, size = ctx.builder, y.dtype.size
    width = ctx.target.vector_bytes // size

    def places(n: IndexLike, m: IndexLike) -> list[Expr]:
        return [counted(indices[n if apart else 0, m, d], extent) for d, extent in enumerate(extents)]

    def element(n: Affine, m: Affine) -> None:
        b.store(y[n, m, 0], x[(n, *map(Bounded, places(n, m), extents), 0)])

    def rows(point: Point, first: int, piece: int) -> None:
        n, m, part = point
        chosen = b.tile("row", max(depth, 1), dtype=DType.I64)
        for d, place in enumerate(places(n, m)):
            b.store(chosen[d], place)
        bounded = [Bounded(chosen[d], extent) for d, extent in enumerate(extents)]

        def move(start: Affine, v: Var) -> None:
            at = part * piece + start + v + first
            b.store(y[n, m, at], x[(n, *bounded, at)])

        overlapping_vectors(b, piece, width, move)

    if row == 1:
        width = ctx.target.vector_bytes // max(size, 4)
        for first, parts, piece in row_chunks(before, count, width, 8 * size):

            def many(point: Point, first: int = first, piece: int = piece) -> None:
                n, part = point
                overlapping_vectors(b, piece, width, lambda start, v: element(n, part * piece + start + v + first))

            nest(b, [before, parts], 8 * size * piece, many)
        return ctx.finished()
    for first, parts, piece in row_chunks(before * count, row, width, 2 * size):
        nest(b, [before, count, parts], 2 * size * piece, partial(rows, first=first, piece=piece))
    return ctx.finished()


def gather_elements(ctx: Context, axis: int) -> Lowered:
    """y[..., i, ...] = x[..., indices[..., i, ...], ...]: one index for each element of the output."""
    data, shape = ctx.operand(0).shape, ctx.output.shape
    if not ctx.output.type.size:
        return ctx.finished()
    data, shape, axis = _merged(data, shape, axis)
    x, indices, y = dense(ctx, 0, data), dense(ctx, 1, shape), ctx.memory("output", 0, shape)
    b, size, extent = ctx.builder, y.dtype.size, data[axis]
    width = ctx.target.vector_bytes // max(size, 4)
    *outer, last = shape
    for first, parts, piece in row_chunks(math.prod(outer), last, width, 8 * size):

        def line(point: Point, first: int = first, piece: int = piece) -> None:
            *head, part = point

            def move(start: Affine, v: Var) -> None:
                at: list[IndexLike] = [*head, part * piece + start + v + first]
                source = list(at)
                source[axis] = Bounded(counted(indices[tuple(at)], extent), extent)
                b.store(y[tuple(at)], x[tuple(source)])

            overlapping_vectors(b, piece, width, move)

        nest(b, [*outer, parts], 8 * size * piece, line)
    return ctx.finished()


def _merged(data: Shape, shape: Shape, axis: int) -> tuple[Shape, Shape, int]:
    """Shapes of data and indices with few dimensions, if they differ along the axis only."""
    if data[:axis] != shape[:axis] or data[axis + 1 :] != shape[axis + 1 :]:
        return data, shape, axis
    before, after = math.prod(shape[:axis]), math.prod(shape[axis + 1 :])
    tail = (after,) if after > 1 else ()
    return (before, data[axis], *tail), (before, shape[axis], *tail), 1


# ---- scatter


def scatter_nd(ctx: Context, reduction: str) -> Lowered:
    """Input 0 with the blocks named by the index tuples of input 1 replaced by, or combined with, those of input 2."""
    data, indices = ctx.operand(0).shape, ctx.operand(1).shape
    if not ctx.output.type.size:
        return ctx.finished()
    depth, count = indices[-1], math.prod(indices[:-1])
    extents, row = data[:depth], math.prod(data[depth:])
    x, y = dense(ctx, 0, (*extents, row)), ctx.memory("output", 0, (*extents, row))
    b, size = ctx.builder, y.dtype.size
    width = ctx.target.vector_bytes // size
    updates = dense(ctx, 2, (count, row)) if count else y
    places = dense(ctx, 1, (count, depth)) if count and depth else y
    for first, parts, piece in row_chunks(1, row, width, size * (math.prod(extents) + 3 * count)):
        with b.section(p=parts) as (part,):
            start = part * piece + first
            _copy_box(ctx, x, y, (), (*extents, piece), start)
            if not count:
                continue
            with b.serial("k", count) as k:
                chosen = b.tile("place", max(depth, 1), dtype=DType.I64)
                for d, extent in enumerate(extents):
                    b.store(chosen[d], counted(places[k, d], extent))
                into = [Bounded(chosen[d], extent) for d, extent in enumerate(extents)]

                def update(at: Affine, k: Var = k, start: Affine = start, into: Sequence[Bounded] = into) -> None:
                    place = y[(*into, start + at)]
                    b.store(place, COMBINE[reduction](place, updates[k, start + at]))

                vectors(b, piece, width, update)
    return ctx.finished()


def _copy_box(
    ctx: Context, x: Buffer, y: Buffer, head: tuple[IndexLike, ...], rest: Shape, start: Affine | int = 0
) -> None:
    """A box of input to output, inside a section: `rest` elements along further axes, the last one from `start`."""
    b, width = ctx.builder, ctx.target.vector_bytes // y.dtype.size
    tail: tuple[IndexLike, ...] = ()
    if len(rest) > 1 and rest[-1] == 1 == y.shape[-1]:
        rest, tail = rest[:-1], (0,)
    if len(rest) > 1:
        with b.serial("c", rest[0]) as c:
            _copy_box(ctx, x, y, (*head, c), (*rest[1:], *(1 for _ in tail)), start)
        return

    def move(first: Affine, v: Var) -> None:
        at = (*head, first + v + (0 if tail else start), *tail)
        b.store(y[at], x[at])

    overlapping_vectors(b, rest[0], width, move)


def scatter_elements(ctx: Context, axis: int, reduction: str) -> Lowered:
    """Input 0 with y[..., indices[..., i, ...], ...] replaced by, or combined with, updates[..., i, ...]."""
    if not ctx.output.type.size:
        return ctx.finished()
    data, shape, axis = _merged(ctx.output.shape, ctx.operand(1).shape, axis)
    x, y = dense(ctx, 0, data), ctx.memory("output", 0, data)
    if 0 in shape:
        with ctx.builder.section(one=1):
            _copy_box(ctx, x, y, (), data)
        return ctx.finished()
    indices, updates = dense(ctx, 1, shape), dense(ctx, 2, shape)
    b, extent = ctx.builder, data[axis]

    def update(at: Sequence[IndexLike]) -> None:
        into = list(at)
        into[axis] = Bounded(counted(indices[tuple(at)], extent), extent)
        place = y[tuple(into)]
        b.store(place, COMBINE[reduction](place, updates[tuple(at)]))

    if len(data) == 3 and axis == 1 and data[::2] == shape[::2]:
        _scatter_across(ctx, x, y, shape[1], update)
        return ctx.finished()
    skip = int(axis > 0 and data[0] == shape[0])
    with b.section(o=data[0] if skip else 1) as (o,):
        head: tuple[IndexLike, ...] = (o,) * skip
        _copy_box(ctx, x, y, head, data[skip:])
        _each(ctx, head, shape[skip:], update)
    return ctx.finished()


def _scatter_across(
    ctx: Context, x: Buffer, y: Buffer, count: int, update: Callable[[Sequence[IndexLike]], None]
) -> None:
    """Each lane has a line along the axis of its own."""
    b = ctx.builder
    outer, extent, inner = y.shape
    lanes = ctx.target.vector_bytes // max(y.dtype.size, 4)
    for first, columns, width in pieces(inner, lanes):
        with b.section(o=outer, w=columns) as (o, w), b.vector("v", width) as v:
            column = w * lanes + v + first
            with b.serial("a", extent) as a:
                b.store(y[o, a, column], x[o, a, column])
            with b.serial("i", count) as i:
                update((o, i, column))


def _each(ctx: Context, head: tuple[IndexLike, ...], rest: Shape, body: Callable[[Sequence[IndexLike]], None]) -> None:
    """`body` at every point, one after the other."""
    if not rest:
        body(head)
        return
    with ctx.builder.serial("u", rest[0]) as u:
        _each(ctx, (*head, u), rest[1:], body)
