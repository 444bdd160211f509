"""Direct convolution of bytes: four input channels are multiplied and added up by one instruction.

The input holds codes from 0 to 255, the weights numbers from -128 to 127, and sums are exact in I32. Around the image
lies the code that stands for zero, so all taps are added up everywhere, and what that code adds is in the bias. Else
the loops are those of `conv_direct`, whose lanes of an input block are words of four channels here.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack

import numpy as np

from glulam.compiler.graph.types import Array, DType
from glulam.compiler.kernels.byte_words import start_of_sums, summands, words
from glulam.compiler.kernels.context import Context, Lowered, View
from glulam.compiler.kernels.conv_depthwise import Depthwise
from glulam.compiler.kernels.conv_direct import DirectConv
from glulam.compiler.kernels.conv_geometry import ConvGeometry, Grid, Met
from glulam.compiler.kernels.conv_template import constant_weights, in_one_row
from glulam.compiler.kernels.conv_tile import Columns, Spot
from glulam.compiler.kernels.ranges import pieces
from glulam.compiler.kernels.tiling import Tiling
from glulam.compiler.loops.expr import Cast, Expr, binary
from glulam.compiler.loops.index import Affine
from glulam.compiler.loops.ir import ByteDot

_BYTE = 0xFF


def build(ctx: Context, geometry: ConvGeometry, zero_point: int) -> Lowered:
    """The kernel. Inputs: codes[N,C,*S] in channel blocks, w[OC,C/g,*K], b?[OC], then what the epilogue reads."""
    weights = constant_weights(ctx)
    if geometry.groups > 1 and weights.shape[1] == 1:
        ByteDepthwise(ctx, geometry, weights, zero_point).sections()
        return ctx.finished()
    ctx, geometry, weights = in_one_row(ctx, geometry, weights)
    ByteConv(ctx, geometry, weights, zero_point).sections()
    return ctx.finished()


class ByteConv(DirectConv):
    """The direct convolution with words of four channels in place of channels."""

    dtype = DType.I32

    def __init__(self, ctx: Context, geometry: ConvGeometry, weights: Array, zero_point: int) -> None:
        super().__init__(ctx, geometry, words(weights), Grid.whole(ctx.output.spatial))
        self.has_bias, self.bias = True, start_of_sums(weights, ctx.data(2), zero_point)

    def source(self) -> View:
        return self.ctx.words(0)

    def multiply_add(self, x: Expr, weight: Expr, total: Expr) -> Expr:
        return ByteDot(x, weight, total)

    def meets_edges(self) -> bool:
        return False

    def has_lanes(self) -> bool:
        return True  # even if a block is a single word

    def has_parts(self) -> bool:
        return False  # nothing is rounded

    def columns(self, width: int, tiling: Tiling) -> list[Columns]:
        every = range(self.geometry.kernel[-1])
        return [Columns(first, n, wide, (Met(0, wide, every),)) for first, n, wide in pieces(width, tiling.pixels)]

    def tap_loops(self, spot: Spot) -> Iterator[tuple[Met, list[Affine]]]:
        with ExitStack() as stack:
            taps = [stack.enter_context(self.b.serial("k", extent)) for extent in self.geometry.kernel]
            yield Met(0, spot.pixels, range(self.geometry.kernel[-1])), [Affine.of(k) for k in taps]


class ByteDepthwise(Depthwise):
    """The depthwise convolution: a lane has one channel, and a byte of its words, or a few that add up to a weight."""

    dtype = DType.I32

    def __init__(self, ctx: Context, geometry: ConvGeometry, weights: Array, zero_point: int) -> None:
        self.zero_point, self.codes = zero_point, weights
        self.summands = summands(weights)
        alone = np.zeros(weights.shape, np.int32)
        for place, summand in enumerate(self.summands):
            alone |= (summand & _BYTE) << 8 * place
        super().__init__(ctx, geometry, alone, Grid.whole(ctx.output.spatial))

    def start_of_sums(self) -> Array:
        return start_of_sums(self.codes, self.ctx.data(2), self.zero_point)

    def multiply_add(self, x: Expr, weight: Expr, total: Expr) -> Expr:
        alone = Cast(x, DType.I32)
        code: Expr = alone
        for place in range(1, len(self.summands)):
            code = code | binary("shl", alone, 8 * place)
        return ByteDot(code, weight, total)


def fits(groups: int, ins: int, outs: int, block: int) -> bool:
    """Whether convolutions of groups of so many channels have such a kernel."""
    return groups == 1 or ins == outs == 1 or (ins % block == 0 and outs % block == 0)
