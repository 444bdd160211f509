"""Grouped convolution for groups of any size: each group by itself in vectors that begin with its own first channel.

These vectors do not lie as channel blocks do, so the sums of a register tile's pixels are put side by side in scratch
memory, each group's over what the last vector of the one before it has too many, and are finished and stored from there
block by block. Where an input channel lies is looked up, once for all pixels of the tile.
"""

from __future__ import annotations

import math
from contextlib import ExitStack
from dataclasses import dataclass

import numpy as np

from glulam.compiler.graph.types import Array, DType
from glulam.compiler.kernels.context import Context, Lowered, Point
from glulam.compiler.kernels.conv_geometry import ConvGeometry, Grid
from glulam.compiler.kernels.conv_template import constant_weights, in_one_row, not_packable
from glulam.compiler.kernels.partial_sums import PartialSums, parts
from glulam.compiler.kernels.ranges import Pieces, pieces, unrolled_steps
from glulam.compiler.kernels.tiling import Tiling, choose_tiling
from glulam.compiler.loops.expr import Fma
from glulam.compiler.loops.index import Affine, Bounded, Var
from glulam.compiler.loops.ir import Buffer, Tile


def accepts(ctx: Context, geometry: ConvGeometry) -> str | None:
    """None if the template serves this convolution, else why not."""
    if (why := not_packable(ctx)) is not None:
        return why
    if ctx.operand(0).layout.block != ctx.output.layout.block:
        return "the input is not in channel blocks"
    return None


def build(ctx: Context, geometry: ConvGeometry) -> Lowered:
    """The kernel. Inputs: x[N,C,*S], w[OC,C/g,*K], b?[OC], then what the epilogue reads."""
    ctx, geometry, weights = in_one_row(ctx, geometry, constant_weights(ctx))
    sections(ctx, geometry, weights, Grid.whole(ctx.output.spatial))
    return ctx.finished()


def sections(ctx: Context, geometry: ConvGeometry, weights: Array, grid: Grid) -> None:
    """The sections that compute the pixels of a grid; weights are [OC, C/g, *K]."""
    _Apart(ctx, geometry, weights, grid).sections()


@dataclass(frozen=True)
class _Run:
    """`count` times so many groups, from group `first` on, whose channels fill whole blocks, or are the last ones."""

    first: int
    count: int
    groups: int


@dataclass(frozen=True)
class _Vectors:
    """Vectors `first`, ... of each group: `count` times as many as a register tile has."""

    first: int
    count: int
    weights: Buffer
    """[groups, count, rounds, *K, steps, vectors, lanes]"""
    bias: Buffer
    """[groups, count, vectors, lanes]"""


@dataclass(frozen=True)
class _Place:
    """Where a register tile lies: batch, first output place in each spatial dimension, lanes.

    `source` are the blocks and lanes of the channels that are unrolled together.
    """

    n: Var
    start: tuple[Affine, ...]
    lane: Var
    source: Tile


class _Apart:
    def __init__(self, ctx: Context, geometry: ConvGeometry, weights: Array, grid: Grid) -> None:
        self.ctx, self.b, self.geometry, self.grid = ctx, ctx.builder, geometry, grid
        self.weights, self.lanes = weights, ctx.output.layout.block
        self.x = ctx.input_view(0)
        self.ins, self.outs = weights.shape[1], len(weights) // geometry.groups
        self.tiling = self.choose_tiling()
        self.steps = unrolled_steps(self.ins, self.tiling.pixels * self.tiling.blocks)
        self.parts = parts(self.ins // self.steps, self.steps * math.prod(geometry.kernel))
        self.vectors = [self.packed(found) for found in self.tiling.channel_groups(-(-self.outs // self.lanes))]
        channel = np.arange(geometry.groups * self.ins, dtype=np.int64).reshape(geometry.groups, self.ins)
        self.block, self.within = (ctx.constant(table, "i") for table in np.divmod(channel, self.lanes))
        self.sums: dict[tuple[int, ...], Buffer] = {}  # by the shape of the tile
        self.row = self.b.scratch("row", (self.tiling.pixels, self.most_channels()))

    def sections(self) -> None:
        """All output channels at the pixels of the grid."""
        ctx, b = self.ctx, self.b
        *outer, width = self.grid.extents
        tiles = pieces(width, self.tiling.pixels)
        ctx.output_view()
        for run in self.runs():
            for first, count, length in [] if outer else tiles:
                with b.section(n=ctx.output.shape[0], c=run.count, s=count) as (n, c, s):
                    self.tile(run, (n, c), (s * length + first,), length)
            if outer:
                space = ctx.image_section(run.count, outer, self.weights.nbytes)
                with space as (n, c, rows):
                    for first, count, length in tiles:
                        with b.serial("s", count) as s:
                            self.tile(run, (n, c), (*rows, s * length + first), length)

    # ---- shapes

    def choose_tiling(self) -> Tiling:
        width, vectors = self.grid.extents[-1], -(-self.outs // self.lanes)
        return choose_tiling(self.ctx.target, max(1, width), vectors, self.weights[0].size)

    def runs(self) -> list[_Run]:
        """All groups: runs that threads can share, and what is left."""
        together = math.lcm(self.outs, self.lanes) // self.outs
        return [_Run(*found) for found in pieces(self.geometry.groups, together)]

    def most_channels(self) -> int:
        """Of the groups of a run, with all lanes of the last vector."""
        groups = max(run.groups for run in self.runs())
        return -(-groups * self.outs // self.lanes) * self.lanes + self.lanes

    # ---- constants

    def packed(self, chosen: Pieces) -> _Vectors:
        """Weights and bias of some vectors of each group."""
        ctx, groups, lanes, (first, count, vectors) = self.ctx, self.geometry.groups, self.lanes, chosen
        outs = slice(first * lanes, chosen.stop * lanes)
        bias = np.zeros(len(self.weights), np.float32) if (given := ctx.data(2)) is None else given
        weights = self.widened(self.weights)[:, outs]
        split = weights.reshape(groups, count, vectors, lanes, -1, self.steps, *self.geometry.kernel)
        # [q, g, j, v, i, u, *k] -> [q, g, i, *k, u, j, v]
        order = (0, 1, 4, *range(6, split.ndim), 5, 2, 3)
        start = self.widened(bias)[:, outs].reshape(groups, count, vectors, lanes)
        return _Vectors(first, count, ctx.constant(split.transpose(order), "w"), ctx.constant(start, "b"))

    def widened(self, data: Array) -> Array:
        """[OC, ...] as [groups, lanes of all vectors, ...], zero beyond a group's channels."""
        full = np.zeros((self.geometry.groups, -(-self.outs // self.lanes) * self.lanes, *data.shape[1:]), np.float32)
        full[:, : self.outs] = data.reshape(self.geometry.groups, self.outs, *data.shape[1:])
        return full

    # ---- code

    def tile(self, run: _Run, head: tuple[Var, Var], start: tuple[Affine, ...], pixels: int) -> None:
        """So many pixels of all groups of a run: their sums side by side, then block by block to the output."""
        b, (n, member) = self.b, head
        source = b.tile("source", 2, self.steps, dtype=DType.I64)  # outside the vector loop: the same for all lanes
        with b.vector("v", self.lanes) as v:
            with b.serial("q", run.groups) as q:
                for vectors in self.vectors:
                    with b.serial("g", vectors.count) as g:
                        acc = b.tile("acc", pixels, vectors.bias.shape[2])
                        at = (member * run.groups + q + run.first, Affine.of(g))
                        sums = self.summed(vectors, _Place(n, start, v, source), acc, at)
                        with b.unrolled("t", pixels) as t, b.unrolled("j", acc.shape[1]) as j:
                            channel = q * self.outs + (g * acc.shape[1] + j + vectors.first) * self.lanes
                            b.store(self.row[t, channel + v], acc[t, j] if sums is None else sums.total(t, j))
            blocks = -(-run.groups * self.outs // self.lanes)
            with b.serial("k", blocks) as k, b.unrolled("t", pixels) as t:
                block = member * blocks + k + run.first * self.outs // self.lanes
                point: Point = (n, block, *self.grid.place([*start[:-1], start[-1] + t]), v)
                self.ctx.write(point, self.ctx.finish(self.row[t, k * self.lanes + v], point))

    def summed(self, vectors: _Vectors, place: _Place, acc: Tile, at: tuple[Affine, Affine]) -> PartialSums | None:
        """Start from the bias, and add all taps of all channels of a group; where the sums are, if not in the tile."""
        b, v, source, (pixels, together) = self.b, place.lane, place.source, acc.shape
        bias, several = vectors.bias, sum(count for _, count, _ in self.parts) > 1
        sums = PartialSums.of(b, self.sums, acc, v) if several else None
        if sums is not None:
            sums.start(lambda t, j: bias[(*at, j, v)])
        else:
            with b.unrolled("j", together) as j, b.unrolled("t", pixels) as t:
                b.store(acc[t, j], bias[(*at, j, v)])
        for first, count, length in self.parts:
            with b.serial("p", count) as p:
                with ExitStack() as stack:
                    i = stack.enter_context(b.serial("i", length)) + p * length + first
                    with b.unrolled("u", self.steps) as u:
                        for part, table in enumerate((self.block, self.within)):
                            b.store(source[part, u], table[at[0], i * self.steps + u])
                    taps = self.geometry.tap_loops(b, stack, place.start[:-1], self.x.operand.spatial)
                    taps.append(Affine.of(stack.enter_context(b.serial("k", self.geometry.kernel[-1]))))
                    u = stack.enter_context(b.unrolled("u", self.steps))
                    t, j = (stack.enter_context(b.unrolled(name, n)) for name, n in (("t", pixels), ("j", together)))
                    where = self.geometry.input_place(place.start, taps)
                    where[-1] = where[-1] + t * self.geometry.strides[-1]
                    block, lane = Bounded(source[0, u], self.x.operand.blocks), source[1, u]
                    x = self.x[(place.n, block, *where, Bounded(lane, self.lanes))]
                    b.store(acc[t, j], Fma(x, vectors.weights[(*at, i, *taps, u, j, v)], acc[t, j]))
                if sums is not None:
                    sums.flush()
        return sums
