"""Frames of a volume as images and back: copies of planes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from glulam.compiler.errors import LoopError
from glulam.compiler.kernels import strided
from glulam.compiler.kernels.context import Context, Lowered, Point
from glulam.compiler.kernels.strided import Side
from glulam.compiler.kernels.tiling import unroll_factor

_UNROLL = 8  # pixels in one round of the loop


def stack(ctx: Context, images: Sequence[Sequence[int]]) -> Lowered:
    """Input 0, [N,C,T,H,W], as images of the frames that `images` names, -1 being zeros; C fills its blocks."""
    x, block = ctx.operand(0), ctx.output.layout.block
    batch, channels, _, *extents = x.shape
    if channels % block:
        raise LoopError(f"{ctx.name}: {channels} channels do not fill blocks of {block}")
    source, target = strided.source(ctx, 0, block), strided.target(ctx)
    blocks = channels // block
    plane = (batch, blocks, *extents, *([block] if block > 1 else []))
    n, c, *inner = target.strides
    apart = replace(target, strides=(n * len(images), c, *inner))
    for t, image in enumerate(images):
        for k, frame in enumerate(image):
            place = Side(apart.buffer, apart.start + t * n + k * blocks * c, apart.strides)
            if frame < 0:
                strided.fill(ctx, plane, 0.0, place, ctx.output.type.dtype)
            else:
                strided.copy(ctx, plane, _without_frames(source.moved(2, frame)), place)
    return ctx.finished()


def _without_frames(side: Side) -> Side:
    return replace(side, strides=(*side.strides[:2], *side.strides[3:]))


def unstack(ctx: Context) -> Lowered:
    """Input 0, [N * T,C,H,W], as [N,C,T,H,W], with the epilogue."""
    b, y = ctx.builder, ctx.output
    x, block = ctx.input_view(0), y.layout.block
    frames, height, width = y.shape[2:]
    ctx.output_view()
    unrolled = unroll_factor(width, _UNROLL) if width else 1
    with (
        ctx.image_section(y.blocks, (frames, height)) as (n, c, (t, h)),
        b.serial("w", width // unrolled) as w,
        b.vector("v", block) as v,
        b.unrolled("u", unrolled) as u,
    ):
        column = w * unrolled + u
        point: Point = (n, c, t, h, column, v)
        ctx.write(point, ctx.finish(x[(n * frames + t, c, h, column, v)], point))
    return ctx.finished()
