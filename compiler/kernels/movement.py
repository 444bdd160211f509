"""Slices, padding, repetition and plain copies: boxes of one tensor copied into boxes of another."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import product

import numpy as np
import numpy.typing as npt

from glulam.compiler.graph.types import Array, DType
from glulam.compiler.kernels import strided
from glulam.compiler.kernels.concat import box, select_channels
from glulam.compiler.kernels.context import Context, Lowered
from glulam.compiler.kernels.nest import Point, nest
from glulam.compiler.kernels.strided import Side
from glulam.compiler.loops.expr import Const, Expr, where
from glulam.compiler.loops.index import Bounded

_MAX_BOXES = 32
"""Above this, padding looks each element's place up."""


def identity(ctx: Context) -> Lowered:
    """The input's elements in order, whatever the shape; in blocks if the output is."""
    block = ctx.output.layout.block
    source, target = strided.source(ctx, 0, block), strided.target(ctx)
    if ctx.operand(0).shape == ctx.output.shape:
        strided.copy(ctx, box(ctx.output.shape, block), source, target, ctx.rows)
    else:
        strided.copy(ctx, (ctx.output.type.size,), replace(source, strides=(1,)), replace(target, strides=(1,)))
    return ctx.finished()


def constant(ctx: Context, data: Array) -> Lowered:
    """Stores values that are known at compile time."""
    strided.copy(ctx, data.shape, strided.constant(ctx, data), strided.target(ctx))
    return ctx.finished()


def slice(ctx: Context, starts: Sequence[int], steps: Sequence[int]) -> Lowered:
    """Every step-th element from the start on, along each axis; of blocks either channels or spatial extents."""
    block, shape = ctx.output.layout.block, ctx.output.shape
    if block > 1 and (starts[1], steps[1], shape[1]) != (0, 1, ctx.operand(0).shape[1]):
        return select_channels(ctx, [[(0, starts[1] + steps[1] * c) for c in range(shape[1])]])
    source = strided.source(ctx, 0, block)
    for axis, start in enumerate(starts):
        source = source.moved(axis, start)
    lane = (1,) if block > 1 else ()
    strided.copy(ctx, box(shape, block), source.scaled((*steps, *lane)), strided.target(ctx), ctx.rows)
    return ctx.finished()


def expand(ctx: Context) -> Lowered:
    """Input 0 broadcast to the output's shape."""
    source, shape = strided.source(ctx, 0), ctx.output.shape
    extents = ctx.operand(0).shape
    steps = (0,) * (len(shape) - len(extents)) + tuple(
        0 if extent == 1 else stride for extent, stride in zip(extents, source.strides, strict=True)
    )
    strided.copy(ctx, shape, replace(source, strides=steps), strided.target(ctx))
    return ctx.finished()


def tile(ctx: Context, repeats: Sequence[int]) -> Lowered:
    """Input 0 so many times along each axis."""
    source, target = strided.source(ctx, 0), strided.target(ctx)
    extents = ctx.operand(0).shape
    per_axis = zip(repeats, extents, source.strides, target.strides, strict=True)
    dims = [pair for r, e, s, t in per_axis for pair in ((r, 0, e * t), (e, s, t))]
    strided.copy(
        ctx,
        [extent for extent, _, _ in dims],
        replace(source, strides=tuple(s for _, s, _ in dims)),
        replace(target, strides=tuple(t for _, _, t in dims)),
    )
    return ctx.finished()


# ---- padding


@dataclass(frozen=True)
class _Segment:
    """A part of an output axis whose elements are evenly spaced ones of the input, or (start -1) the constant."""

    first: int
    length: int
    start: int
    step: int = 0


def pad(ctx: Context, places: Sequence[npt.NDArray[np.int64]], filler: Array) -> Lowered:
    """Element p of output axis d shows input element places[d][p], or `filler`, a scalar of the type, where that is -1.

    In channel blocks, batch and channels must be left as they are.
    """
    block, shape = ctx.output.layout.block, ctx.output.shape
    axes = [_segments(p) for p in places]
    if block > 1:
        axes[1] = [_Segment(0, ctx.output.blocks, 0, 1)]
        axes.append([_Segment(0, block, 0, 1)])
    target, outside = strided.target(ctx), _outside(ctx, filler, block)
    if not ctx.operand(0).type.size:
        strided.copy(ctx, box(shape, block), outside, target)
        return ctx.finished()
    source = strided.source(ctx, 0, block)
    if math.prod(len(axis) for axis in axes) > _MAX_BOXES:
        tables = [*places[:1], np.arange(ctx.output.blocks), *places[2:], np.arange(block)] if block > 1 else places
        return _look_up(ctx, tables, source, outside)
    for segments in product(*axes):
        inside = all(s.start >= 0 for s in segments)
        x, y = source if inside else outside, target
        for axis, segment in enumerate(segments):
            y = y.moved(axis, segment.first)
            if inside:
                x = x.moved(axis, segment.start)
        x = x.scaled([s.step for s in segments]) if inside else x
        strided.copy(ctx, [s.length for s in segments], x, y)
    return ctx.finished()


def _segments(places: npt.NDArray[np.int64]) -> list[_Segment]:
    found = []
    first = 0
    while first < len(places):
        last, start = first + 1, int(places[first])
        following = int(places[last]) if last < len(places) else -1
        step = 0 if min(start, following) < 0 else following - start
        while last < len(places) and abs(step) <= 1 and places[last] == start + step * (last - first):
            last += 1
        found.append(_Segment(first, last - first, start, step))
        first = last
    return found


def _outside(ctx: Context, filler: Array, block: int) -> Side:
    """The constant everywhere; lanes beyond the channels are zero."""
    shape, filler = ctx.output.shape, filler.reshape(1)
    if block == 1 or shape[1] % block == 0:
        side = strided.constant(ctx, filler)
        return replace(side, strides=(0,) * (len(shape) + (block > 1)))
    lanes = np.where(np.arange(ctx.output.blocks * block) < shape[1], filler, np.zeros_like(filler))
    return replace(strided.constant(ctx, lanes), strides=(0, block, *(0,) * (len(shape) - 2), 1))


_FAR = 1 << 40
"""More than any tensor has elements."""


def _look_up(ctx: Context, places: Sequence[npt.NDArray[np.int64]], source: Side, outside: Side) -> Lowered:
    """Padding element by element, by a table for each axis of how far from the start its elements come from."""
    target = strided.target(ctx)
    tables = [
        ctx.constant(np.where(p < 0, -_FAR, p * stride + (source.start if axis == 0 else 0)), "t")
        for axis, (p, stride) in enumerate(zip(places, source.strides, strict=True))
    ]

    def element(point: Point) -> None:
        offset: Expr = Const(0, DType.I64)
        for table, at in zip(tables, point, strict=True):
            offset = offset + table[at]
        inside = source.buffer[Bounded(offset, source.buffer.shape[0])]
        value = where(offset < 0, outside.buffer[outside.at(*point)], inside)
        ctx.builder.store(target.buffer[target.at(*point)], value)

    nest(ctx.builder, [len(p) for p in places], 64, element)
    return ctx.finished()
