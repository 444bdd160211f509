"""Pointwise kernels: each element of the output is a formula of the inputs' elements at the same (broadcast) place."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from glulam.compiler.graph.types import DType, Shape
from glulam.compiler.kernels.context import Context, Lowered, Point, vectors
from glulam.compiler.kernels.nest import nest, row_chunks
from glulam.compiler.kernels.operand import Operand
from glulam.compiler.kernels.ranges import unroll_factor
from glulam.compiler.loops.expr import Const, Expr, substitute
from glulam.compiler.loops.index import Affine
from glulam.compiler.loops.ir import IndexValue

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


def build_indexed(
    ctx: Context, formula: Callable[[Expr, Expr, Expr], Expr], number: int | None, leading: int | None
) -> Lowered:
    """formula(x, index, number): input 0, the index of its element in row-major order, and input `number`, an int64.

    The index is that along the `leading` dimensions only, if they are given. Without an input `number` it is 0.
    """
    if leading is None:
        ctx = _simplified(ctx)

    def element(point: Point) -> None:
        shape, block = ctx.output.shape, ctx.output.layout.block
        logical = [*point[:-1]] if block > 1 else [*point]
        if block > 1:
            logical[1] = Affine.of(point[1]) * block + point[-1]
        place = Affine.of(0)
        for extent, coordinate in list(zip(shape, logical, strict=True))[:leading]:
            place = place * extent + coordinate
        run = Const(0, DType.I64) if number is None else ctx.read(number, point, shape, block)
        value = formula(ctx.read(0, point, shape, block), IndexValue(place), run)
        ctx.write(point, ctx.finish(value, point))

    each_element(ctx, element)
    return ctx.finished()


def each_element(ctx: Context, body: Body) -> None:
    """Loops over all elements of output 0, vectorised along the lanes of a block or the last dimension.

    Each element is computed once, so that an output may lie where an input does.
    """
    operand = ctx.output
    if operand.layout.block > 1:
        _blocked(ctx, operand, body)
    elif operand.type.rank == 0:
        with ctx.builder.section(one=1):
            body(())
    else:
        _plain(ctx, operand, body)


def _cost(ctx: Context) -> int:
    """Bytes that are moved for one element of the output."""
    return sum(o.type.dtype.size for o in (*ctx.inputs, *ctx.outputs) if o is not None and o.type.size > 1)


def _blocked(ctx: Context, operand: Operand, body: Body) -> None:
    b, block = ctx.builder, operand.layout.block
    *outer, width = operand.spatial
    halves = 1 if outer else ctx.parts(width)
    unroll = unroll_factor(width // halves, 4) if width else 1
    first, *rest = [*outer, width // unroll]
    parts = ctx.parts(first)

    def pixels(place: Sequence[Affine]) -> None:
        n, h, c, row, *others = place
        *head, start = [h * (first // parts) + row, *others]
        with b.vector("v", block) as v, b.unrolled("u", unroll) as u:
            body((n, c, *head, start * unroll + u, v))

    extents = [operand.shape[0], parts, operand.blocks, first // parts, *rest]
    nest(b, extents, _cost(ctx) * unroll * block, pixels)


def _plain(ctx: Context, operand: Operand, body: Body) -> None:
    *outer, last = operand.shape
    widest = max(o.type.dtype.size for o in (*ctx.inputs, *ctx.outputs) if o is not None)
    width = min(ctx.target.vector_bytes // widest, 4 * ctx.target.lanes)
    for first, count, piece in row_chunks(math.prod(outer), last, width, _cost(ctx)):

        def rows(place: Sequence[Affine], first: int = first, piece: int = piece) -> None:
            *head, part = place
            vectors(ctx.builder, piece, width, lambda p: body((*head, part * piece + p + first)))

        nest(ctx.builder, [*outer, count], _cost(ctx) * piece, rows)


def _simplified(ctx: Context) -> Context:
    """The same problem with as few dimensions as can be, so that the innermost loop is long."""
    if ctx.output.layout.block > 1:
        present = [i for i, operand in enumerate(ctx.inputs) if operand is not None]
        return (ctx.flattened(present) or ctx) if ctx.output.type.rank > 3 else ctx
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
    return operand.reshaped(tuple(math.prod(extents[d] for d in group) for group in groups))
