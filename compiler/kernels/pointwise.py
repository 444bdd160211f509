"""Pointwise kernels: each element of the output is a formula of the inputs' elements at the same (broadcast) place."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace

from glulam.compiler.graph.types import Shape
from glulam.compiler.kernels.context import Context, Lowered, Operand, Point, vectors
from glulam.compiler.kernels.tiling import unroll_factor
from glulam.compiler.loops.expr import Expr, substitute

Body = Callable[[Point], None]


def build(ctx: Context, formula: Expr, operands: Sequence[int]) -> Lowered:
    """A kernel for `formula` over the elements of the context inputs `operands`, followed by the epilogue."""
    ctx = _simplified(ctx)

    def element(point: Point) -> None:
        shape, block = ctx.output.shape, ctx.output.layout.block
        values = [ctx.read(i, point, shape, block) for i in operands]
        ctx.write(point, ctx.finish(substitute(formula, values), point))

    each_element(ctx, element)
    return ctx.finished()


def each_element(ctx: Context, body: Body) -> None:
    """Loops over all elements of output 0, vectorised along the lanes of a block or the last dimension."""
    operand = ctx.output
    if operand.layout.block > 1:
        _blocked(ctx, operand, body)
    elif operand.type.rank == 0:
        with ctx.builder.section(one=1):
            body(())
    else:
        _plain(ctx, operand, body)


def _blocked(ctx: Context, operand: Operand, body: Body) -> None:
    b, block = ctx.builder, operand.layout.block
    *outer, width = operand.spatial
    head = {"n": operand.shape[0], "c": operand.blocks} | {f"s{d}": e for d, e in enumerate(outer)}
    unroll = unroll_factor(width, 4) if width else 1
    chunk = width
    if not outer and width > 64:
        chunk = 16 * unroll
    for first, count, length in _chunks(width, chunk):
        with b.section(**head, w=count) as (*coords, w):
            with b.serial("i", length // unroll_factor(length, unroll)) as i, b.vector("v", block) as v:
                with b.unrolled("u", unroll_factor(length, unroll)) as u:
                    column = w * length + i * u.extent + u + first
                    body((*coords, column, v))


def _chunks(extent: int, length: int) -> list[tuple[int, int, int]]:
    """(first, number of chunks, chunk length) covering `extent`."""
    if not extent:
        return []
    full, rest = divmod(extent, length)
    parts = [(0, full, length)] if full else []
    return [*parts, (full * length, 1, rest)] if rest else parts


def _plain(ctx: Context, operand: Operand, body: Body) -> None:
    b, width = ctx.builder, ctx.target.lanes
    *outer, last = operand.shape
    if len(outer) == 0:
        lanes = 4 * width
        for first, count, length in _chunks(last, lanes):
            with b.section(w=count) as (w,):
                vectors(b, length, width, lambda p, w=w, n=length, first=first: body((w * n + p + first,)))  # type: ignore[misc]
        return
    with b.section(**{f"d{d}": e for d, e in enumerate(outer)}) as coords:
        vectors(b, last, width, lambda p: body((*coords, p)))


def _simplified(ctx: Context) -> Context:
    """The same problem with as few dimensions as can be, so that the innermost loop is long."""
    if ctx.output.layout.block > 1:
        return (ctx.flattened() or ctx) if ctx.output.type.rank > 3 else ctx
    if any(o is not None and not (o.layout.is_plain and o.strides is None) for o in (*ctx.inputs, *ctx.outputs)):
        return ctx
    shape = ctx.output.shape
    if 0 in shape or any(o.shape != shape for o in ctx.outputs):
        return ctx
    groups = _merged_dimensions(shape, [o.shape for o in ctx.inputs if o is not None])
    inputs = [o if o is None else _merge(o, shape, groups) for o in ctx.inputs]
    outputs = [_merge(o, shape, groups) for o in ctx.outputs]
    return Context(ctx.name, ctx.target, inputs, outputs, ctx.epilogue)


def _merged_dimensions(shape: Shape, operands: Sequence[Shape]) -> list[list[int]]:
    """Runs of neighbouring dimensions that every operand has either whole or not at all."""

    def kinds(d: int) -> tuple[bool, ...]:
        found = []
        for s in operands:
            at = d - (len(shape) - len(s))
            found.append(at >= 0 and s[at] != 1)
        return tuple(found)

    groups: list[list[int]] = []
    for d in range(len(shape)):
        if shape[d] == 1:
            continue
        if groups and kinds(groups[-1][-1]) == kinds(d):
            groups[-1].append(d)
        else:
            groups.append([d])
    return groups


def _merge(operand: Operand, shape: Shape, groups: Sequence[Sequence[int]]) -> Operand:
    extents = (1,) * (len(shape) - operand.type.rank) + operand.shape
    merged = tuple(math.prod(extents[d] for d in group) for group in groups)
    data = None if operand.data is None else operand.data.reshape(merged)
    return replace(operand, type=operand.type.with_shape(merged), data=data)

