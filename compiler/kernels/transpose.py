"""Orders of axes, and channels shuffled between groups."""

from __future__ import annotations

import itertools
import math
import operator
from collections.abc import Sequence
from dataclasses import replace

from glulam.compiler.kernels import strided
from glulam.compiler.kernels.concat import select_channels
from glulam.compiler.kernels.context import Context, Lowered
from glulam.compiler.kernels.strided import Side


def transpose(ctx: Context, perm: Sequence[int]) -> Lowered:
    """Axis i of the output is axis perm[i] of input 0.

    One side may be in channel blocks, if the other one has the channels last and all else is in order.
    """
    if ctx.output.layout.block > 1 or ctx.operand(0).layout.block > 1:
        return _channels_moved(ctx)
    source = strided.source(ctx, 0)
    turned = replace(source, strides=tuple(source.strides[axis] for axis in perm))
    strided.copy(ctx, ctx.output.shape, turned, strided.target(ctx))
    return ctx.finished()


def _channels_moved(ctx: Context) -> Lowered:
    """Between channel blocks (n, block, *spatial, lane) and plain pixels (n, *spatial, channel)."""
    source, target = strided.source(ctx, 0, ctx.operand(0).layout.block), strided.target(ctx)
    if ctx.output.layout.block > 1:
        blocked, block = ctx.output, ctx.output.layout.block
        target, source = _lanes_last(target), _channels_in_blocks(source, block)
    else:
        blocked, block = ctx.operand(0), ctx.operand(0).layout.block
        source, target = _lanes_last(source), _channels_in_blocks(target, block)
    whole, rest = divmod(blocked.shape[1], block)
    pixels = (blocked.shape[0], *blocked.spatial)
    strided.copy(ctx, (*pixels, whole, block), source, target)
    if rest:
        source, target = source.moved(len(pixels), whole), target.moved(len(pixels), whole)
        strided.copy(ctx, (*pixels, 1, rest), source, target)
        if ctx.output.layout.block > 1:
            zeros = target.moved(len(pixels) + 1, rest)
            strided.fill(ctx, (*pixels, 1, block - rest), 0.0, zeros, ctx.output.type.dtype)
    return ctx.finished()


def _lanes_last(blocks: Side) -> Side:
    """(n, block, *spatial, lane) as (n, *spatial, block, lane)."""
    n, c, *spatial, lane = blocks.strides
    return replace(blocks, strides=(n, *spatial, c, lane))


def _channels_in_blocks(pixels: Side, block: int) -> Side:
    """(n, *spatial, channel) as (n, *spatial, block, lane)."""
    *head, channel = pixels.strides
    return replace(pixels, strides=(*head, channel * block, channel))


def shuffle_channels(ctx: Context, groups: int) -> Lowered:
    """Channel i * groups + g of the output is the i-th channel of group g of input 0; in blocks if the output is."""
    batch, channels, *spatial = ctx.output.shape
    each = channels // groups
    if ctx.output.layout.block > 1:
        return select_channels(ctx, [[(0, g * each + i) for i in range(each) for g in range(groups)]])
    source, target = strided.source(ctx, 0), strided.target(ctx)
    n, c = source.strides[:2]
    rest = math.prod(spatial)
    strided.copy(
        ctx,
        (batch, each, groups, rest),
        replace(source, strides=(n, c, each * c, 1)),
        replace(target, strides=(n, groups * c, c, 1)),
    )
    return ctx.finished()


def depth_to_space(ctx: Context, strides: tuple[int, ...]) -> Lowered:
    """The phases of input 0, one behind the other along its channels, as pixels `strides` apart; in blocks if it is."""
    y, rank = ctx.output, len(strides)
    block = y.layout.block
    source, target = strided.source(ctx, 0, block), strided.target(ctx)
    batch, channels, *outputs = (y.shape[0], y.blocks, *y.spatial) if block > 1 else y.shape
    lane = (block,) if block > 1 else ()
    pixels = target.strides[2 : 2 + rank]
    phases = [channels * source.strides[1] * math.prod(strides[d + 1 :]) for d in range(rank)]
    apart = [stride * step for stride, step in zip(pixels, strides, strict=True)]
    behind = target.strides[2 + rank :]
    if all(extent % step == 0 for extent, step in zip(outputs, strides, strict=True)):
        extents = [extent // step for extent, step in zip(outputs, strides, strict=True)]
        moved = replace(source, strides=(*source.strides[: 2 + rank], *phases, *source.strides[2 + rank :]))
        places = replace(target, strides=(*target.strides[:2], *apart, *pixels, *behind))
        strided.copy(ctx, (batch, channels, *extents, *strides, *lane), moved, places, ctx.rows)
        return ctx.finished()
    spread = replace(target, strides=(*target.strides[:2], *apart, *behind))
    for phase in itertools.product(*map(range, strides)):
        extents = [-(-(extent - p) // step) for extent, p, step in zip(outputs, phase, strides, strict=True)]
        moved = replace(source, start=source.start + sum(map(operator.mul, phase, phases)))
        places = replace(spread, start=spread.start + sum(map(operator.mul, phase, pixels)))
        strided.copy(ctx, (batch, channels, *extents, *lane), moved, places)
    return ctx.finished()
