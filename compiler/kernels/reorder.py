"""Copies a tensor from one layout to another, writing the halo of the new one."""

from __future__ import annotations

from dataclasses import replace

from glulam.compiler.kernels import strided
from glulam.compiler.kernels.concat import box
from glulam.compiler.kernels.context import Context, Lowered
from glulam.compiler.kernels.strided import Dim, Side
from glulam.compiler.loops.ir import Partner


def build(ctx: Context) -> Lowered:
    """Input 0 to output 0: between plain and channel blocks, or within one kind to another halo."""
    x, y = ctx.operand(0), ctx.output
    into = y.layout.block
    block = max(x.layout.block, into)
    source, target = strided.source(ctx, 0, x.layout.block), strided.target(ctx)
    if x.layout.block == into:
        strided.copy(ctx, box(y.shape, block), source, target, ctx.rows)
        return ctx.finished()
    if into > 1:
        source = _in_lanes(source, block)
    else:
        target = _in_lanes(target, block)
    whole, rest = divmod(y.shape[1], block)
    batch, _, *spatial = y.shape
    strided.copy(ctx, (batch, whole, *spatial, block), source, target, ctx.rows)
    if rest and 0 not in y.shape:
        source, target = source.moved(1, whole), target.moved(1, whole)
        with ctx.builder.of_partner(Partner.BOTH if ctx.rows else None):
            _last_block(ctx, (batch, *spatial), _without_blocks(source), _without_blocks(target), rest)
    return ctx.finished()


def _in_lanes(plain: Side, block: int) -> Side:
    """A plain tensor's (n, c, *spatial) as (n, block, *spatial, lane)."""
    n, c, *spatial = plain.strides
    return replace(plain, strides=(n, c * block, *spatial, c))


def _without_blocks(side: Side) -> Side:
    return replace(side, strides=(side.strides[0], *side.strides[2:]))


def _last_block(ctx: Context, extents: tuple[int, ...], source: Side, target: Side, rest: int) -> None:
    """The channels that do not fill a block: (n, *spatial, lane), of which `rest` lanes are channels."""
    block = ctx.operand(0).layout.block * ctx.output.layout.block
    dims = strided.merged([Dim(*d) for d in zip(extents, source.strides, target.strides, strict=False)])
    pixels = dims[-1]
    lanes = Dim(block, source.strides[-1], target.strides[-1])
    if ctx.output.layout.block > 1:
        if strided.transpose_blocks(ctx, dims[:-1], pixels, lanes, source, target, real=rest):
            return
        zeros = target.moved(len(extents), rest)
        strided.fill(ctx, (*extents, block - rest), 0.0, zeros, ctx.output.type.dtype)
    elif strided.transpose_blocks(ctx, dims[:-1], lanes, pixels, source, target, kept=rest):
        return
    strided.copy(ctx, (*extents, rest), source, target)
