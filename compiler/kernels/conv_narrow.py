"""Convolutions with few output channels: vectors lie along the last dimension of plain tensors.

In channel blocks most lanes would be empty. A register tile is some vectors of neighbouring pixels for all output
channels; each tap adds one input vector, shifted by its place, times a weight of each channel.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from contextlib import ExitStack

import numpy as np

from glulam.compiler.errors import UnsupportedError
from glulam.compiler.graph.types import DType, Shape
from glulam.compiler.kernels.context import Context, Lowered, Point
from glulam.compiler.kernels.conv_geometry import ConvGeometry
from glulam.compiler.kernels.tiling import pieces, unroll_factor
from glulam.compiler.loops.expr import Fma
from glulam.compiler.loops.ir import Affine, Buffer, IndexLike, Var
from glulam.compiler.targets import Target

MOST_STRIDE = 4  # along the vectors; further apart, elements are gathered one by one

_UNROLLED_TAPS = 4
_REORDERED = 5.0  # bytes a cycle that are brought from channel blocks into plain order
_CROSSING = 1.5  # loads that a vector across cache lines counts for
_PICKING = 2.0  # loads that the elements of one with a stride count for, besides the vectors they lie in
_ENOUGH = 16  # iterations of the parallel space that need no finer split


def cost(
    target: Target, batch: int, spatial: Shape, in_channels: int, out_channels: int, taps: int, stride: int
) -> float:
    """Estimated cycles of the whole convolution on one core, an input that comes in channel blocks included."""
    *outer, width = spatial
    lanes = target.lanes
    vectors = -(-width // lanes)
    together = tile_vectors(target, vectors, out_channels)
    load = _CROSSING if stride == 1 else stride + _PICKING
    fmas = together * out_channels / target.fmas_per_cycle
    loads = together * load / target.loads_per_cycle + out_channels / 2
    steps = batch * math.prod(outer) * -(-vectors // together) * in_channels * taps
    plain = batch * in_channels * math.prod(spatial) * 4 / _REORDERED if in_channels >= lanes else 0.0
    return steps * max(fmas, loads, 4.0) + plain


def tile_vectors(target: Target, vectors: int, out_channels: int) -> int:
    """Vectors of pixels in a register tile."""
    most = (target.vector_registers - 4) // (out_channels + 1)
    return max(1, min(vectors, most, 8))


def build(ctx: Context, geometry: ConvGeometry) -> Lowered:
    """The kernel. Inputs: plain x[N,C,*S], constant w[OC,C,*K] and b?[OC], then what the epilogue reads."""
    weights, bias = ctx.data(1), ctx.data(2)
    if weights is None or (ctx.has(2) and bias is None) or ctx.output.type.dtype is not DType.F32:
        raise UnsupportedError(f"{ctx.name}: weights or bias are no constants of float32")
    if ctx.output.layout.block > 1 or ctx.operand(0).layout.block > 1 or geometry.groups > 1:
        raise UnsupportedError(f"{ctx.name}: the tensors lie in channel blocks, or there are groups")
    packed = ctx.constant(np.moveaxis(weights, 0, -1), "w")  # [C, *K, OC]
    start = ctx.constant(np.zeros(len(weights), np.float32) if bias is None else bias, "b")
    _Narrow(ctx, geometry, packed, start).sections()
    return ctx.finished()


class _Narrow:
    def __init__(self, ctx: Context, geometry: ConvGeometry, weights: Buffer, bias: Buffer) -> None:
        self.ctx, self.b, self.geometry, self.weights, self.bias = ctx, ctx.builder, geometry, weights, bias
        self.x = ctx.input_view(0)
        self.channels = bias.shape[0]
        self.lanes = ctx.target.lanes

    def sections(self) -> None:
        """All pixels: whole tiles, the vectors that are left, and a narrower vector for the last few."""
        self.ctx.output_view()
        batch, _, *outer, width = self.ctx.output.shape
        vectors, rest = divmod(width, self.lanes)
        together = tile_vectors(self.ctx.target, max(1, vectors), self.channels)
        runs = [(first * self.lanes, count, length, self.lanes) for first, count, length in pieces(vectors, together)]
        if rest:
            runs.append((vectors * self.lanes, 1, 1, rest))
        extents = {"n": batch, **{f"o{d}": extent for d, extent in enumerate(outer)}}
        if math.prod(extents.values()) >= _ENOUGH:
            with self.b.section(**extents) as (n, *rows):
                for first, count, length, lanes in runs:
                    with self.b.serial("s", count) as s:
                        self.tile(n, rows, s * (length * lanes) + first, length, lanes)
            return
        for first, count, length, lanes in runs:
            with self.b.section(**extents, s=count) as (n, *rows, s):
                self.tile(n, rows, s * (length * lanes) + first, length, lanes)

    def tile(self, n: Var, rows: Sequence[Var], column: Affine, vectors: int, lanes: int) -> None:
        """`vectors` of so many lanes from a column on, for all output channels."""
        b, channels, (*kernel, last) = self.b, self.channels, self.geometry.kernel
        with b.vector("v", lanes) as v:
            acc = b.tile("acc", vectors, channels)
            with b.unrolled("t", vectors) as t, b.unrolled("j", channels) as j:
                b.store(acc[t, j], self.bias[j])
            with ExitStack() as stack:
                c = stack.enter_context(b.serial("c", self.weights.shape[0]))
                taps = [stack.enter_context(b.serial("k", k)) for k in kernel]
                unroll = unroll_factor(last, _UNROLLED_TAPS)
                i = stack.enter_context(b.serial("i", last // unroll))
                u = stack.enter_context(b.unrolled("u", unroll))
                t, j = stack.enter_context(b.unrolled("t", vectors)), stack.enter_context(b.unrolled("j", channels))
                tap: list[IndexLike] = [*taps, i * unroll + u]
                place = self.geometry.input_place([*map(Affine.of, rows), column + t * lanes + v], tap)
                b.store(acc[t, j], Fma(self.x[n, c, *place], self.weights[c, *tap, j], acc[t, j]))
            with b.unrolled("t", vectors) as t, b.unrolled("j", channels) as j:
                point: Point = (n, j, *rows, column + t * lanes + v)
                self.ctx.write(point, self.ctx.finish(acc[t, j], point))
