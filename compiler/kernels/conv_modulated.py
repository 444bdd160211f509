"""A 1x1 convolution with weights of its own for each sample, and the kernel that makes these weights.

Both work on channel blocks: the weights w[N,OC,C,*1] lie as [N, OC / lanes, C, *1, lanes], so that a vector of them is
one input channel's for a block of output channels. They were written a moment ago, and are few: nobody asks for them
ahead.
"""

from __future__ import annotations

import numpy as np

from glulam.compiler.errors import UnsupportedError
from glulam.compiler.graph.types import DType
from glulam.compiler.kernels.context import Context, Lowered
from glulam.compiler.kernels.conv_direct import DirectConv
from glulam.compiler.kernels.conv_geometry import ConvGeometry
from glulam.compiler.kernels.conv_tile import Where
from glulam.compiler.kernels.tiling import Tiling, unrolled_steps
from glulam.compiler.loops.expr import Expr
from glulam.compiler.loops.index import Affine, Var
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


def build(ctx: Context, tiling: Tiling | None = None) -> Lowered:
    """x[N,C,*S], w[N,OC,C,*1], constant b?[OC], then what the epilogue reads; the best tile if none is given."""
    if ctx.has(2) and ctx.data(2) is None:
        raise UnsupportedError(f"{ctx.name}: the bias is no constant")
    _check_blocks(ctx)
    flat = ctx.flattened(apart=(1,)) or ctx
    _Modulated(flat).sections(tiling)
    return flat.finished()


def _check_blocks(ctx: Context) -> None:
    """Raises UnsupportedError unless all is float32 in channel blocks."""
    inputs = [o for i, o in enumerate(ctx.inputs) if ctx.has(i) and o is not None and o.data is None]
    if any(o.type.dtype is not DType.F32 or o.layout.block != ctx.target.lanes for o in (*inputs, ctx.output)):
        raise UnsupportedError(f"{ctx.name}: the tensors are no float32 in channel blocks of {ctx.target.lanes}")


class _Modulated(DirectConv):
    """The direct convolution, of whose weights only the shape is known at compile time."""

    def __init__(self, ctx: Context) -> None:
        outs, channels = ctx.output.shape[1], ctx.operand(0).shape[1]
        ones = (1,) * len(ctx.output.spatial)
        super().__init__(
            ctx, ConvGeometry.pointwise(len(ones)), np.broadcast_to(np.float32(0.0), (outs, channels, *ones))
        )
        self.own = ctx.input_view(1)

    def packed(self, first: int, per_group: int, count: int, lanes: int) -> Buffer:
        return self.own.buffer

    def weight(self, where: Where, place: tuple[Affine, ...], j: Var, v: Var) -> Expr:
        (group, n, _, g), (block, *taps, lane) = where, place
        outs = Affine.of(g) * group.blocks + j + group.first
        return self.own[(n, outs, block * self.in_block + lane, *taps[1:], v)]

    def streams_weights(self) -> bool:
        return False
