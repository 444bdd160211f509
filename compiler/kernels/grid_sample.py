"""Sampling of images at places that are computed at run time: coordinates, weights and indices of taps, then channels.

A lane is an output place; what it reads is gathered, once per channel and tap. Tensors are plain.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import product

from glulam.compiler.graph.types import DType
from glulam.compiler.kernels.context import Context, Lowered
from glulam.compiler.kernels.indexing import dense
from glulam.compiler.kernels.nest import tasks
from glulam.compiler.kernels.ranges import pieces
from glulam.compiler.loops import expr as ex
from glulam.compiler.loops.expr import Cast, Const, Expr
from glulam.compiler.loops.index import Bounded


@dataclass(frozen=True)
class Sampling:
    """How a place becomes a value: mode nearest, linear or cubic; padding zeros, border or reflection."""

    mode: str
    padding: str
    align_corners: bool
    cubic_coeff: float

    def place(self, normal: Expr, extent: int) -> Expr:
        """The coordinate along an axis of a place in [-1, 1], brought into the image as the padding wants it."""
        aligned = self.align_corners
        place = (normal + 1.0) * ((extent - 1) / 2) if aligned else ((normal + 1.0) * extent - 1.0) * 0.5
        if self.mode == "nearest":
            place = ex.unary("round", place)
        return place if self.mode == "cubic" else self.inside(place, extent)

    def inside(self, place: Expr, extent: int) -> Expr:
        match self.padding:
            case "border":
                return ex.minimum(ex.maximum(place, 0.0), float(extent - 1))
            case "reflection":
                low, high = (0.0, extent - 1.0) if self.align_corners else (-0.5, extent - 0.5)
                if low == high:
                    return place * 0.0
                period = 2 * (high - low)
                away = ex.absolute(place - low)
                away = away - ex.unary("floor", away * (1 / period)) * period
                folded = ex.where(away > high - low, period - away, away) + low
                return ex.where((place < low) | (place > high), folded, place)
        return place

    @property
    def taps(self) -> range:
        """Offsets of the elements that are read along an axis, from the one at or before the place."""
        return {"nearest": range(1), "linear": range(2), "cubic": range(-1, 3)}[self.mode]

    def weights(self, fraction: Expr) -> list[Expr]:
        """The weight of each tap for a place so far behind an element."""
        one = Const(1.0, fraction.dtype)
        if self.mode == "nearest":
            return [one]
        if self.mode == "linear":
            return [one - fraction, fraction]
        a = self.cubic_coeff

        def near(d: Expr) -> Expr:
            return ((d * (a + 2) - (a + 3)) * d) * d + 1.0

        def far(d: Expr) -> Expr:
            return ((d * a - 5 * a) * d + 8 * a) * d - 4 * a

        rest = one - fraction
        return [far(fraction + 1.0), near(fraction), near(rest), far(rest + 1.0)]


@dataclass(frozen=True)
class _Tap:
    """Registers that say what one tap reads along one axis, or along all of them."""

    index: Expr
    weight: Expr
    inside: Expr


def build(ctx: Context, sampling: Sampling) -> Lowered:
    """Inputs x[N, C, *S] and grid[N, *O, rank], whose last axis starts with the innermost coordinate; y[N, C, *O]."""
    if not ctx.output.type.size:
        return ctx.finished()
    n, channels, *extents = ctx.operand(0).shape
    count, rank = math.prod(ctx.output.spatial), len(extents)
    x, grid = dense(ctx, 0, (n, channels, math.prod(extents))), dense(ctx, 1, (n, count, rank))
    y = ctx.memory("output", 0, (n, channels, count))
    b, lanes = ctx.builder, ctx.target.vector_bytes // y.dtype.size
    sampler = _Sampler(ctx, sampling, extents, y.dtype)
    chunks = max(min(tasks(n * count, 64 * channels) // n, -(-count // lanes)), 1)
    for first, parts, size in pieces(count, -(-count // chunks // lanes) * lanes):
        for start, vectors, width in pieces(size, lanes):
            with b.section(n=n, p=parts) as (image, p), b.serial("i", vectors) as i, b.vector("v", width) as v:
                at = p * size + i * width + v + (first + start)
                places = [grid[image, at, rank - 1 - d] for d in range(rank)]
                taps = sampler.taps([g if g.dtype is y.dtype else Cast(g, y.dtype) for g in places])
                with b.serial("c", channels) as c:
                    total = b.tile("total", 1, dtype=y.dtype)
                    b.store(total[0], Const(0.0, y.dtype))
                    for tap in taps:
                        value: Expr = x[image, c, Bounded(tap.index, math.prod(extents))]
                        if sampling.padding == "zeros":
                            value = ex.where(tap.inside, value, 0.0)
                        b.store(total[0], total[0] + value * tap.weight)
                    b.store(y[image, c, at], total[0])
    return ctx.finished()


class _Sampler:
    """Writes the computation of taps, inside a vector loop."""

    def __init__(self, ctx: Context, sampling: Sampling, extents: list[int], dtype: DType) -> None:
        self.b, self.sampling, self.extents, self.dtype = ctx.builder, sampling, extents, dtype

    def taps(self, normal: list[Expr]) -> list[_Tap]:
        """All combinations of the axes' taps; an index counts elements of one channel's image."""
        axes = [self.along(value, extent) for value, extent in zip(normal, self.extents, strict=True)]
        found = []
        for combination in product(*axes):
            first, *others = combination
            index, weight, inside = first.index, first.weight, first.inside
            for tap, extent in zip(others, self.extents[1:], strict=True):
                index, weight, inside = index * extent + tap.index, weight * tap.weight, inside & tap.inside
            found.append(_Tap(self.b.kept(index), self.b.kept(weight), self.b.kept(inside)))
        return found

    def along(self, normal: Expr, extent: int) -> list[_Tap]:
        place = self.b.kept(self.sampling.place(normal, extent))
        base = self.b.kept(ex.unary("floor", place))
        fraction = self.b.kept(place - base)
        found = []
        for offset, weight in zip(self.sampling.taps, self.sampling.weights(fraction), strict=True):
            element = base + float(offset)
            inside = (element >= 0.0) & (element <= float(extent - 1))
            reached = ex.minimum(ex.maximum(self.sampling.inside(element, extent), 0.0), float(extent - 1))
            found.append(_Tap(self.b.kept(Cast(reached, DType.I64)), self.b.kept(weight), self.b.kept(inside)))
        return found
