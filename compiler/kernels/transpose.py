"""Orders of axes, and channels shuffled between groups."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

from glulam.compiler.kernels import strided
from glulam.compiler.kernels.concat import select_channels
from glulam.compiler.kernels.context import Context, Lowered


def transpose(ctx: Context, perm: Sequence[int]) -> Lowered:
    """Axis i of the output is axis perm[i] of input 0."""
    source = strided.source(ctx, 0)
    turned = replace(source, strides=tuple(source.strides[axis] for axis in perm))
    strided.copy(ctx, ctx.output.shape, turned, strided.target(ctx))
    return ctx.finished()


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
