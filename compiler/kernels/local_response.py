"""Local response normalisation: each element divided by a power of the squares in neighbouring channels."""

from __future__ import annotations

from glulam.compiler.graph.types import DType
from glulam.compiler.kernels import pointwise
from glulam.compiler.kernels.context import Context, Lowered, Point
from glulam.compiler.loops import expr as ex
from glulam.compiler.loops.expr import Const, Expr
from glulam.compiler.loops.index import Affine, Bounded, IndexLike, Var
from glulam.compiler.loops.ir import IndexValue, LaneShuffle

_UNROLLED = 16


def build(ctx: Context, before: int, after: int, alpha: float, beta: float, bias: float) -> Lowered:
    """x / (bias + alpha * mean of squares over channels c - before ... c + after) ** beta; outside are zeros."""
    ctx = (ctx.flattened() or ctx) if ctx.output.type.rank > 3 else ctx
    x = ctx.input_view(0)
    share = alpha / (before + after + 1)
    window = _in_blocks if ctx.output.layout.block > 1 else _plain

    def element(point: Point) -> None:
        value = x[point] / _power(window(ctx, point, before, after) * share + bias, beta)
        ctx.write(point, ctx.finish(value, point))

    if ctx.output.type.size:
        pointwise.each_element(ctx, element)
    return ctx.finished()


def _power(base: Expr, beta: float) -> Expr:
    """base ** beta; the usual exponents are made of square roots."""
    if beta == 1:
        return base
    if beta in (0.5, 0.75):
        root = ex.sqrt(base)
        return root if beta == 0.5 else root * ex.sqrt(root)
    return ex.exp(ex.log(base) * beta) if base.dtype is DType.F32 else base**beta


def _in_blocks(ctx: Context, point: Point, before: int, after: int) -> Expr:
    """A window that reaches no farther than the neighbouring blocks; lanes beyond the channels hold zeros."""
    x, block, blocks = ctx.input_view(0), ctx.output.layout.block, ctx.output.blocks
    n, c, *rest = point
    assert isinstance(c, Affine | Var)

    def square(step: int) -> Expr:
        if blocks == 1 and step:
            return Const(0.0, x.buffer.dtype)
        place: IndexLike = c if not step else Bounded(IndexValue(c + step), blocks)
        value = ctx.builder.kept(x[(n, place, *rest)])
        value = ctx.builder.kept(value * value)
        if not step:
            return value
        inside = IndexValue(Affine.of(c)) > 0 if step < 0 else IndexValue(Affine.of(c)) < blocks - 1
        return ctx.builder.kept(ex.where(inside, value, 0.0))

    here = square(0)
    total = here
    for step, reach in ((-1, before), (1, after)):
        if not reach:
            continue
        beside = square(step)
        for distance in range(1, reach + 1):
            first = block - distance if step < 0 else distance
            pair = (beside, here) if step < 0 else (here, beside)
            total = total + LaneShuffle(*pair, tuple(range(first, first + block)))
    return total


def _plain(ctx: Context, point: Point, before: int, after: int) -> Expr:
    x, channels, b = ctx.input_view(0), ctx.output.shape[1], ctx.builder
    n, c, *rest = point
    total = b.tile("squares", 1, dtype=x.buffer.dtype)
    b.store(total[0], Const(0.0, x.buffer.dtype))

    def tap(t: IndexLike) -> None:
        channel = IndexValue(Affine.of(c) + t - before)
        value = ctx.builder.kept(x[(n, Bounded(channel, channels), *rest)])
        inside = (channel >= 0) & (channel < channels)
        b.store(total[0], total[0] + ex.where(inside, value * value, 0.0))

    if before + after < _UNROLLED:
        for step in range(before + after + 1):
            tap(step)
    else:
        with b.serial("t", before + after + 1) as t:
            tap(t)
    return total[0]
