"""1x1 convolution of chosen channels of several tensors, as the direct convolution computes that of one tensor.

Where a channel lies in its tensor is looked up, once for all pixels of a register tile. So tensors need not be joined,
interleaved or taken apart before they are convolved.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from glulam.compiler.graph.types import Array, Shape
from glulam.compiler.kernels.context import Context, Lowered
from glulam.compiler.kernels.conv_direct import DirectConv
from glulam.compiler.kernels.conv_geometry import ConvGeometry
from glulam.compiler.kernels.conv_template import constant_weights
from glulam.compiler.kernels.conv_tile import Ahead, Part, Spot
from glulam.compiler.kernels.partial_sums import parts
from glulam.compiler.kernels.tiling import Tiling
from glulam.compiler.loops.expr import Fma
from glulam.compiler.loops.index import Affine, Bounded, Var
from glulam.compiler.loops.ir import Buffer, Tile


def build(ctx: Context, channels: Sequence[Sequence[int]], tiling: Tiling | None = None) -> Lowered:
    """The kernel. Inputs: x0[N,C0,*S], w[OC,C,*1], b?[OC], x1[N,C1,*S], ..., then what the epilogue reads.

    The input channels of the weights are those `channels` of x0, then those of x1, and so on. The tile is the one with
    the fewest estimated cycles if none is given.
    """
    inner = ctx.flattened() or ctx
    rank = inner.output.type.rank - 2
    geometry = ConvGeometry.pointwise(rank)
    weights = constant_weights(ctx).reshape(ctx.output.shape[1], -1, *(1,) * rank)
    _ChannelsConv(inner, geometry, weights, channels).sections(tiling)
    return inner.finished()


@dataclass(frozen=True)
class _Source:
    """A tensor, and which input channels of the weights are channels of it: so many from channel `first` on.

    `origin` is where its first pixel lies within its padding.
    """

    x: Buffer
    origin: Shape
    first: int
    count: int


class _ChannelsConv(DirectConv):
    """Goes through the input channels one by one, each tensor's in a loop of its own."""

    def __init__(self, ctx: Context, geometry: ConvGeometry, weights: Array, channels: Sequence[Sequence[int]]) -> None:
        super().__init__(ctx, geometry, weights)
        self.in_block = 1  # as the weights are packed
        self.sources: list[_Source] = []
        offsets: list[int] = []
        for k, chosen in enumerate(channels):
            number = k + 2 if k else 0
            operand = ctx.operand(number)
            origin = tuple(before for before, _ in operand.layout.halo) or (0,) * len(operand.spatial)
            self.sources.append(_Source(ctx.by_offset(number), origin, len(offsets), len(chosen)))
            offsets += map(operand.channel_offset, chosen)
        self.offsets = ctx.constant(np.array(offsets, np.int64), "i", table=True)

    def runs(self) -> list[tuple[int, int, int, int]]:
        return [
            (source.first + first, count, length, 1)
            for source in self.sources
            for first, count, length in parts(source.count, 1)
        ]

    def has_parts(self) -> bool:
        return sum(count for _, count, _ in parts(self.in_channels, 1)) > 1

    def streams_image(self) -> bool:
        return False

    def add_part(self, spot: Spot, part: Part, acc: Tile, v: Var, ahead: Ahead) -> None:
        b, (group, n, q, g) = self.b, spot.where
        begin, _ = part.first.bounds()
        source = next(each for each in self.sources if each.first <= begin < each.first + each.count)
        with b.serial("c", part.blocks) as serial:
            c = part.first + serial
            for met, taps in self.tap_loops(spot):
                if self.streams_weights():
                    self.prefetch_weights(group, (Affine.of(q), g + ahead.groups, *taps), c + ahead.blocks, 1)
                channel = Bounded(self.offsets[c], source.x.shape[1])
                with b.unrolled("t", met.count) as pixel, b.unrolled("j", group.blocks) as j:
                    t, (*outer, start) = pixel + met.first, spot.place
                    place = self.geometry.input_place([*outer, start + t], taps)
                    x = source.x[(n, channel, *(p + before for p, before in zip(place, source.origin, strict=True)))]
                    b.store(acc[t, j], Fma(x, group.packed[(q, g, *taps, c, j, v)], acc[t, j]))
