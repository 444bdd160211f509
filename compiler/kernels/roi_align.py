"""Regions of images pooled to a fixed size; a lane is a bin, and taps are worked out once for all channels."""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import product

from glulam.compiler.graph.types import DType
from glulam.compiler.kernels.context import Context, Lowered
from glulam.compiler.kernels.indexing import counted, dense
from glulam.compiler.kernels.ranges import pieces
from glulam.compiler.loops import expr as ex
from glulam.compiler.loops.expr import Cast, Const, Expr
from glulam.compiler.loops.index import Affine, Bounded, Var
from glulam.compiler.loops.ir import Buffer, IndexValue


@dataclass(frozen=True)
class Regions:
    """How a box becomes bins and samples: `samples` per bin (rows, columns), `offset` of element centres."""

    maximum: bool
    samples: tuple[int, int]
    scale: float
    offset: float
    least: float
    """Boxes are made at least that long."""


def build(ctx: Context, regions: Regions) -> Lowered:
    """Inputs x[N, C, H, W], boxes[R, 4] (x1, y1, x2, y2) and the image index of each box; y[R, C, *bins]."""
    if not ctx.output.type.size:
        return ctx.finished()
    return _RoiAlign(ctx, regions).build()


class _RoiAlign:
    def __init__(self, ctx: Context, regions: Regions) -> None:
        self.ctx, self.b, self.regions = ctx, ctx.builder, regions
        self.images, self.channels, self.height, self.width = ctx.operand(0).shape
        self.count, _, self.rows, self.columns = ctx.output.shape
        bins = self.rows * self.columns
        self.x = dense(ctx, 0, (self.images, self.channels, self.height * self.width))
        self.boxes, self.batch = dense(ctx, 1, (self.count, 4)), dense(ctx, 2, (self.count,))
        self.y = ctx.memory("output", 0, (self.count, self.channels, bins))
        self.dtype = self.y.dtype
        self.lanes = ctx.target.vector_bytes // self.dtype.size
        self.taps = 4 * math.prod(regions.samples)

    def build(self) -> Lowered:
        b, bins = self.b, self.rows * self.columns
        places = b.scratch("places", (self.taps, self.lanes), DType.I64)
        weights = b.scratch("weights", (self.taps, self.lanes), self.dtype)
        for first, count, lanes in pieces(bins, self.lanes):
            with b.section(r=self.count, w=count) as (r, w), b.vector("v", lanes) as v:
                bin_ = w * self.lanes + v + first
                self.plan(Affine.of(r), bin_, v, places, weights)
                image = b.tile("image", 1, dtype=DType.I64)
                b.store(image[0], counted(self.batch[r], self.images))
                with b.serial("c", self.channels) as c:
                    total = self.pooled(Bounded(image[0], self.images), c, v, places, weights)
                    b.store(self.y[r, c, bin_], total)
        return self.ctx.finished()

    def plan(self, r: Affine, bin_: Affine, v: Var, places: Buffer, weights: Buffer) -> None:
        """Index and weight of every tap of a bin's samples."""
        index = self.b.kept(IndexValue(bin_))
        row = self.b.kept(ex.binary("div", index, self.columns))
        column = self.b.kept(index - row * self.columns)
        counts = self.regions.samples
        for sample, (i, j) in enumerate(product(*map(range, counts))):
            down = self.axis(r, 1, row, self.rows, (i + 0.5) / counts[0], self.height)
            across = self.axis(r, 0, column, self.columns, (j + 0.5) / counts[1], self.width)
            for t in range(4):
                (line, share), (place, part) = down[t // 2], across[t % 2]
                self.b.store(places[4 * sample + t, v], line * self.width + place)
                self.b.store(weights[4 * sample + t, v], share * part)

    def axis(self, r: Affine, which: int, bin_: Expr, bins: int, part: float, extent: int) -> list[tuple[Expr, Expr]]:
        """The two elements around a sample at `part` of a bin along one axis, with their weights; none outside."""
        rule = self.regions
        start = self.b.kept(self.boxes[r, which] * rule.scale - rule.offset)
        length = self.b.kept(self.boxes[r, which + 2] * rule.scale - rule.offset - start)
        if rule.least:
            length = self.b.kept(ex.maximum(length, rule.least))
        size = length * (1 / bins)
        place = self.b.kept(start + size * (Cast(bin_, self.dtype) + part))
        inside = (place >= -1.0) & (place <= float(extent))
        clamped = self.b.kept(ex.minimum(ex.maximum(place, 0.0), float(extent - 1)))
        low = self.b.kept(ex.unary("floor", clamped))
        fraction = self.b.kept(ex.where(inside, clamped - low, 0.0))
        near = self.b.kept(ex.where(inside, 1.0 - fraction, 0.0))
        high = ex.minimum(low + 1.0, float(extent - 1))
        return [(self.b.kept(Cast(low, DType.I64)), near), (self.b.kept(Cast(high, DType.I64)), fraction)]

    def pooled(self, image: Bounded, c: Var, v: Var, places: Buffer, weights: Buffer) -> Expr:
        b, maximum = self.b, self.regions.maximum
        total = b.tile("total", 1, dtype=self.dtype)
        b.store(total[0], Const(-math.inf if maximum else 0.0, self.dtype))
        with b.serial("t", self.taps) as t:
            value = self.x[image, c, Bounded(places[t, v], self.height * self.width)] * weights[t, v]
            b.store(total[0], ex.maximum(total[0], value) if maximum else total[0] + value)
        return total[0] if maximum else total[0] * (1 / math.prod(self.regions.samples))
