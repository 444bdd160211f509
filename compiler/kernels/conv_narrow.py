"""Convolutions whose output channels, or those of a group, fill no blocks: vectors lie along rows of plain tensors.

In channel blocks many lanes would be empty. A register tile is some vectors of neighbouring pixels for some output
channels; each tap adds one input vector, shifted by its place, times a weight of each channel. Where a row is no more
than a vector, those of a tile lie below each other, so that weights are read for several rows.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import product

import numpy as np

from glulam.compiler.errors import UnsupportedError
from glulam.compiler.graph.types import Array, DType, Shape
from glulam.compiler.kernels.context import Context, Lowered, Point
from glulam.compiler.kernels.conv_geometry import ConvGeometry
from glulam.compiler.kernels.conv_template import in_one_row
from glulam.compiler.kernels.ranges import ENOUGH, pieces, unroll_factor
from glulam.compiler.kernels.tiling import LATENCY
from glulam.compiler.loops.expr import Fma
from glulam.compiler.loops.index import Affine, IndexLike, Var
from glulam.compiler.loops.ir import Buffer
from glulam.compiler.targets import Target

MOST_STRIDE = 4  # along the vectors; further apart, elements are gathered one by one

_UNROLLED_TAPS = 4
_CROSSING = 1.5  # loads that a vector across cache lines counts for
_PICKING = 2.0  # loads that the elements of one with a stride count for, besides the vectors they lie in
_MOST_VECTORS = 8


@dataclass(frozen=True)
class Tile:
    """So many vectors of pixels of so many output channels."""

    vectors: int
    channels: int

    @property
    def accumulators(self) -> int:
        return self.vectors * self.channels


def cost(
    target: Target, batch: int, spatial: Shape, in_channels: int, out_channels: int, taps: int, stride: int
) -> float:
    """Estimated cycles of the whole convolution on one core."""
    *outer, width = spatial
    rows, vectors = math.prod(outer), -(-width // target.lanes)
    if _goes_down(target, spatial):
        rows, vectors = rows // outer[-1], outer[-1]
    tile = choose_tile(target, vectors, out_channels, stride)
    return batch * rows * in_channels * taps * _row_cycles(target, tile, vectors, out_channels, stride)


def _goes_down(target: Target, spatial: Shape) -> bool:
    """Whether the vectors of a tile are below each other, since a row has no more than one."""
    return len(spatial) > 1 and 0 < spatial[-1] <= target.lanes and spatial[-2] > 1


def choose_tile(target: Target, vectors: int, out_channels: int, stride: int) -> Tile:
    """The one with the fewest estimated cycles; of several the largest."""
    registers = target.vector_registers - 4
    tiles = [
        Tile(together, channels)
        for channels in range(1, min(out_channels, registers - 1) + 1)
        for together in range(1, max(1, min(vectors, registers // (channels + 1), _MOST_VECTORS)) + 1)
    ]
    cycles = {tile: _row_cycles(target, tile, vectors, out_channels, stride) for tile in tiles}
    return min(tiles, key=lambda tile: (cycles[tile], -tile.accumulators))


def _row_cycles(target: Target, tile: Tile, vectors: int, out_channels: int, stride: int) -> float:
    """To add one tap to all `vectors` of a row, for all output channels.

    To pick lanes out of several vectors is work for the units that multiply.
    """
    load = _CROSSING if stride == 1 else stride + _PICKING
    total = 0.0
    for _, groups, channels in pieces(out_channels, tile.channels):
        for _, times, together in pieces(vectors, tile.vectors):
            fmas = together * (channels + stride - 1) / target.fmas_per_cycle
            loads = together * load / target.loads_per_cycle + channels / 2
            total += groups * times * max(fmas, loads, LATENCY)
    return total


def build(ctx: Context, geometry: ConvGeometry) -> Lowered:
    """The kernel. Inputs: plain x[N,C,*S], constant w[OC,C,*K] and b?[OC], then what the epilogue reads."""
    weights, bias = ctx.data(1), ctx.data(2)
    if weights is None or (ctx.has(2) and bias is None) or ctx.output.type.dtype is not DType.F32:
        raise UnsupportedError(f"{ctx.name}: weights or bias are no constants of float32")
    if ctx.output.layout.block > 1 or ctx.operand(0).layout.block > 1:
        raise UnsupportedError(f"{ctx.name}: the tensors lie in channel blocks")
    bias = np.zeros(len(weights), np.float32) if bias is None else bias
    ctx, geometry, weights = in_one_row(ctx, geometry, weights)
    _Narrow(ctx, geometry, weights, bias).sections()
    return ctx.finished()


@dataclass(frozen=True)
class _Part:
    """`count` times so many output channels of each group, from `first` on: weights [group, part, C, *K, channel]."""

    first: int
    count: int
    channels: int
    weights: Buffer
    bias: Buffer


@dataclass(frozen=True)
class _Run:
    """`count` tiles of so many vectors of pixels, from `first` on: side by side in a row, or below each other."""

    first: int
    count: int
    vectors: int
    lanes: int
    goes_down: bool = False

    def pixel(self, s: Var, t: Var, v: Var) -> list[Affine]:
        """Where lane `v` of vector `t` of tile `s` lies: its column, below each other its row and column."""
        if self.goes_down:
            return [s * self.vectors + self.first + t, Affine.of(v)]
        return [s * (self.vectors * self.lanes) + self.first + t * self.lanes + v]


class _Narrow:
    def __init__(self, ctx: Context, geometry: ConvGeometry, weights: Array, bias: Array) -> None:
        self.ctx, self.b, self.geometry = ctx, ctx.builder, geometry
        self.x, self.lanes, self.in_channels = ctx.input_view(0), ctx.target.lanes, weights.shape[1]
        self.out_channels = len(weights) // geometry.groups
        spatial = ctx.output.spatial
        self.goes_down = _goes_down(ctx.target, spatial)
        vectors = spatial[-2] if self.goes_down else max(1, spatial[-1] // self.lanes)
        tile = choose_tile(ctx.target, vectors, self.out_channels, geometry.strides[-1])
        self.vectors = tile.vectors
        self.parts = []
        grouped, biases = (each.reshape(geometry.groups, -1, *each.shape[1:]) for each in (weights, bias))
        for first, count, channels in pieces(self.out_channels, tile.channels):
            part, shape = slice(first, first + count * channels), (geometry.groups, count, channels)
            packed = np.moveaxis(grouped[:, part].reshape(*shape, *weights.shape[1:]), 2, -1)
            kept = ctx.constant(packed, "w"), ctx.constant(biases[:, part].reshape(shape), "b")
            self.parts.append(_Part(first, count, channels, *kept))

    def runs(self) -> list[_Run]:
        """Of a row: whole tiles, the vectors that are left, and a narrower one for the last few pixels."""
        width = self.ctx.output.shape[-1]
        if self.goes_down:
            height = self.ctx.output.shape[-2]
            return [_Run(*each, width, goes_down=True) for each in pieces(height, self.vectors)]
        vectors, rest = divmod(width, self.lanes)
        found = [
            _Run(first * self.lanes, count, length, self.lanes)
            for first, count, length in pieces(vectors, self.vectors)
        ]
        return [*found, _Run(vectors * self.lanes, 1, 1, rest)] if rest else found

    def sections(self) -> None:
        """All pixels. Where rows are too few for threads, tiles of a row are parallel too, then parts of channels."""
        self.ctx.output_view()
        b, runs = self.b, self.runs()
        batch, _, *spatial = self.ctx.output.shape
        rows = {f"o{d}": extent for d, extent in enumerate(spatial[: -2 if self.goes_down else -1])}
        space = {"n": batch, "q": self.geometry.groups, **rows}
        iterations = math.prod(space.values())
        if self.goes_down:
            for run, part in product(runs, self.parts):
                with b.section(**space, r=run.count, g=part.count) as (n, q, *row, r, g):
                    self.tile(part, (n, q, g), row, run, r)
        elif iterations >= ENOUGH:
            with b.section(**space) as (n, q, *row):
                for part in self.parts:
                    with b.serial("g", part.count) as g:
                        for run in runs:
                            with b.serial("s", run.count) as s:
                                self.tile(part, (n, q, g), row, run, s)
        elif iterations * runs[0].count >= ENOUGH:
            for run in runs:
                with b.section(**space, s=run.count) as (n, q, *row, s):
                    for part in self.parts:
                        with b.serial("g", part.count) as g:
                            self.tile(part, (n, q, g), row, run, s)
        else:
            for part, run in product(self.parts, runs):
                with b.section(**space, g=part.count, s=run.count) as (n, q, *row, g, s):
                    self.tile(part, (n, q, g), row, run, s)

    def tile(self, part: _Part, head: tuple[Var, Var, Var], row: Sequence[Var], run: _Run, s: Var) -> None:
        """The `s`-th of a run in a row (of an image if it goes down), for one part of the channels of a group."""
        b, (n, q, g), channels, (*kernel, last) = self.b, head, part.channels, self.geometry.kernel

        def pixel(t: Var, v: Var) -> list[Affine]:
            return [*map(Affine.of, row), *run.pixel(s, t, v)]

        with b.vector("v", run.lanes) as v:
            acc = b.tile("acc", run.vectors, channels)
            with b.unrolled("t", run.vectors) as t, b.unrolled("j", channels) as j:
                b.store(acc[t, j], part.bias[q, g, j])
            with ExitStack() as stack:
                c = stack.enter_context(b.serial("c", self.in_channels))
                taps = [stack.enter_context(b.serial("k", k)) for k in kernel]
                unroll = unroll_factor(last, _UNROLLED_TAPS)
                i = stack.enter_context(b.serial("i", last // unroll))
                u = stack.enter_context(b.unrolled("u", unroll))
                j, t = stack.enter_context(b.unrolled("j", channels)), stack.enter_context(b.unrolled("t", run.vectors))
                tap: list[IndexLike] = [*taps, i * unroll + u]
                place = self.geometry.input_place(pixel(t, v), tap)
                value = self.x[n, q * self.in_channels + c, *place]
                b.store(acc[t, j], Fma(value, part.weights[q, g, c, *tap, j], acc[t, j]))
            with b.unrolled("t", run.vectors) as t, b.unrolled("j", channels) as j:
                channel = q * self.out_channels + g * channels + j + part.first
                point: Point = (n, channel, *pixel(t, v))
                self.ctx.write(point, self.ctx.finish(acc[t, j], point))
