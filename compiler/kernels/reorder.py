"""Copies a tensor from one layout to another, writing the halo of the new one."""

from __future__ import annotations

from glulam.compiler.kernels import pointwise
from glulam.compiler.kernels.context import Context, Lowered, vectors
from glulam.compiler.loops.expr import Param
from glulam.compiler.loops.ir import Affine


def build(ctx: Context) -> Lowered:
    """Input 0 to output 0: between plain and channel blocks, or within one kind to another halo."""
    source, target = ctx.operand(0).layout.block, ctx.output.layout.block
    if source == target:
        return _same(ctx)
    return _into_blocks(ctx) if target > 1 else _out_of_blocks(ctx)


def _same(ctx: Context) -> Lowered:
    if ctx.output.layout.block == 1 and ctx.output.layout.has_halo:
        x, y = ctx.input_view(0), ctx.output_view()
        *outer, width = ctx.output.shape
        with ctx.builder.section(**{f"d{d}": e for d, e in enumerate(outer)}) as place:
            vectors(ctx.builder, width, ctx.target.lanes, lambda p: ctx.builder.store(y[(*place, p)], x[(*place, p)]))
        return ctx.finished()
    return pointwise.build(ctx, Param(0, ctx.output.type.dtype), (0,))


def _into_blocks(ctx: Context) -> Lowered:
    """Lanes gather one pixel's channels. Each block is a section of its own where the last one is narrower."""
    b, block = ctx.builder, ctx.output.layout.block
    x, y = ctx.input_view(0), ctx.output_view()
    batch, channels, *spatial = ctx.output.shape
    *outer, width = spatial
    rows = {f"s{d}": extent for d, extent in enumerate(outer)}
    full, rest = divmod(channels, block)
    for first, count, lanes in ((0, full, block), (full, min(rest, 1), rest)):
        if not count:
            continue
        with b.section(n=batch, c=count, **rows) as (n, c, *row), b.serial("w", width) as w:
            with b.vector("v", lanes) as v:
                channel = (c + first) * block + v
                b.store(y[(n, c + first, *row, w, v)], x[(n, channel, *row, w)])
            if lanes < block:
                with b.vector("z", block - lanes) as z:
                    b.store(y[(n, c + first, *row, w, z + lanes)], 0 if not ctx.output.type.dtype.is_float else 0.0)
    return ctx.finished()


def _out_of_blocks(ctx: Context) -> Lowered:
    """Vectors run along the pixels of a row, a lane apart in the source."""
    b = ctx.builder
    block = ctx.operand(0).layout.block
    x, y = ctx.input_view(0), ctx.output_view()
    batch, channels, *spatial = ctx.output.shape
    *outer, width = spatial
    rows = {f"s{d}": extent for d, extent in enumerate(outer)}
    full, rest = divmod(channels, block)
    for first, count, lanes in ((0, full, block), (full, min(rest, 1), rest)):
        if not count:
            continue
        with b.section(n=batch, c=count, **rows) as (n, c, *row), b.serial("lane", lanes) as lane:

            def copy(p: Affine, n=n, c=c, row=tuple(row), lane=lane, first=first) -> None:  # type: ignore[no-untyped-def]
                b.store(y[(n, (c + first) * block + lane, *row, p)], x[(n, c + first, *row, p, lane)])

            vectors(b, width, ctx.target.lanes, copy)
    return ctx.finished()
