"""Convolution with weights that are computed at run time, and the kernel that scales weights for each sample.

All work on channel blocks. The weights w[M,OC,R] lie as [M, OC / lanes, R, lanes], R going through the input channels
of a group and the taps, so that a vector of them is one product's for a block of output channels. They were written a
moment ago, and are few: nobody asks for them ahead.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import reduce

import numpy as np

from glulam.compiler.errors import UnsupportedError
from glulam.compiler.graph.types import DType
from glulam.compiler.kernels.context import Context, Lowered, View
from glulam.compiler.kernels.conv_depthwise import Depthwise
from glulam.compiler.kernels.conv_direct import DirectConv
from glulam.compiler.kernels.conv_geometry import ConvGeometry, Grid
from glulam.compiler.kernels.conv_tile import Where
from glulam.compiler.kernels.ranges import Pieces, unrolled_steps
from glulam.compiler.kernels.tiling import Tiling
from glulam.compiler.loops.expr import Expr
from glulam.compiler.loops.index import Affine, IndexLike, Var
from glulam.compiler.loops.ir import Buffer


def build_weights(ctx: Context) -> Lowered:
    """factor[N,C,*1] and constant w[OC,C,*1] to their products [N,OC,C,*1]."""
    weights = ctx.data(1)
    if weights is None:
        raise UnsupportedError(f"{ctx.name}: the weights are no constants")
    _check_blocks(ctx)
    y, b, block = ctx.output, ctx.builder, ctx.output.layout.block
    outs, channels, *ones = weights.shape
    full = np.zeros((y.blocks * block, channels), np.float32)
    full[:outs] = weights.reshape(outs, channels)
    packed = ctx.constant(full.reshape(y.blocks, block, channels).swapaxes(1, 2), "w")
    factor, zeros = ctx.input_view(0), (0,) * len(ones)
    ctx.output_view()
    whole, rest = divmod(channels, block)
    with b.section(n=y.shape[0], o=y.blocks) as (n, o), b.vector("v", block) as v:
        for first, count, lanes in ((0, whole, block), (whole, 1, rest)):
            unroll = unrolled_steps(lanes, 1) if lanes else 1
            with b.serial("c", count) as c, b.serial("i", lanes // unroll) as i, b.unrolled("u", unroll) as u:
                lane = i * unroll + u
                channel = (c + first) * block + lane
                product = factor[(n, c + first, *zeros, lane)] * packed[o, channel, v]
                ctx.write((n, o, channel, *zeros[1:], v), product)
    return ctx.finished()


def build(ctx: Context, geometry: ConvGeometry, tiling: Tiling | None = None) -> Lowered:
    """x[N,C,*S], w[M,OC,R,*1] with M = 1 or N, constant b?[OC], then what the epilogue reads.

    The best tile if none is given; groups are of one channel each.
    """
    if ctx.has(2) and ctx.data(2) is None:
        raise UnsupportedError(f"{ctx.name}: the bias is no constant")
    _check_blocks(ctx)
    if geometry.groups > 1:
        _DynamicDepthwise(ctx, geometry).sections()
        return ctx.finished()
    if geometry.is_pointwise and (flat := ctx.flattened(apart=(1,))) is not None:
        ctx, geometry = flat, ConvGeometry.pointwise(1)
    _DynamicConv(ctx, geometry).sections(tiling)
    return ctx.finished()


def _check_blocks(ctx: Context) -> None:
    """Raises UnsupportedError unless all is float32 in channel blocks."""
    inputs = [o for i, o in enumerate(ctx.inputs) if ctx.has(i) and o is not None and o.data is None]
    if any(o.type.dtype is not DType.F32 or o.layout.block != ctx.target.lanes for o in (*inputs, ctx.output)):
        raise UnsupportedError(f"{ctx.name}: the tensors are no float32 in channel blocks of {ctx.target.lanes}")


class _Weights:
    """The weights in memory."""

    def __init__(self, ctx: Context, geometry: ConvGeometry) -> None:
        self.view: View = ctx.input_view(1)
        self.kernel = geometry.kernel

    def __getitem__(self, at: tuple[Var, IndexLike, IndexLike, Sequence[IndexLike], Var]) -> Expr:
        """A vector for a sample, a block of output channels, an input channel of the group and a tap."""
        n, block, channel, taps, v = at
        steps = zip(self.kernel, taps, strict=True)
        product = reduce(lambda so_far, step: so_far * step[0] + Affine.of(step[1]), steps, Affine.of(channel))
        sample = n if self.view.operand.shape[0] > 1 else 0
        ones = (0,) * (self.view.operand.type.rank - 3)
        return self.view[(sample, block, product, *ones, v)]


class _DynamicConv(DirectConv):
    """The direct convolution, of whose weights only the shape is known at compile time."""

    def __init__(self, ctx: Context, geometry: ConvGeometry) -> None:
        shape = (ctx.output.shape[1], ctx.operand(0).shape[1], *geometry.kernel)
        super().__init__(ctx, geometry, np.broadcast_to(np.float32(0.0), shape))
        self.own = _Weights(ctx, geometry)

    def packed(self, blocks: Pieces, lanes: int) -> Buffer:
        return self.own.view.buffer

    def weight(self, where: Where, place: tuple[Affine, ...], j: Var, v: Var) -> Expr:
        (group, n, _, g), (block, *taps, lane) = where, place
        outs = Affine.of(g) * group.blocks + j + group.first
        return self.own[n, outs, block * self.in_block + lane, taps, v]

    def streams_weights(self) -> bool:
        return False


class _DynamicDepthwise(Depthwise):
    """The depthwise convolution, of whose weights only the shape is known at compile time."""

    def __init__(self, ctx: Context, geometry: ConvGeometry) -> None:
        self.own = _Weights(ctx, geometry)
        shape = (ctx.output.shape[1], 1, *geometry.kernel)
        super().__init__(ctx, geometry, np.broadcast_to(np.float32(0.0), shape), Grid.whole(ctx.output.spatial))

    def packed(self, weights: object) -> Buffer:
        return self.own.view.buffer

    def weight(self, head: tuple[Var, Var], tap: Sequence[IndexLike], v: Var) -> Expr:
        n, c = head
        return self.own[n, c, 0, tap, v]
