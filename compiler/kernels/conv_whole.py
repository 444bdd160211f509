"""Convolution of images so small that one register tile has all their pixels, and each weight is read once.

Taps are told apart when the code is written: a pixel for which a tap meets only padding is left out.
"""

from __future__ import annotations

import itertools
import math

from glulam.compiler.graph.types import Shape
from glulam.compiler.kernels import conv_direct
from glulam.compiler.kernels.context import Context, Lowered, Point
from glulam.compiler.kernels.conv_geometry import ConvGeometry
from glulam.compiler.kernels.conv_template import constant_weights
from glulam.compiler.kernels.conv_tile import ChannelGroups, ConvTile
from glulam.compiler.kernels.partial_sums import PartialSums
from glulam.compiler.kernels.ranges import Parts, unrolled_steps
from glulam.compiler.kernels.tiling import Tiling, row_cycles
from glulam.compiler.loops.expr import Fma
from glulam.compiler.loops.index import Affine, Var
from glulam.compiler.loops.ir import Tile

_MOST_TAPS = 50  # each has code of its own


def accepts(ctx: Context, geometry: ConvGeometry) -> str | None:
    """None if the template serves this convolution, else why not."""
    if (why := conv_direct.accepts(ctx, geometry)) is not None:
        return why
    *outer, width = ctx.output.spatial
    pixels = math.prod(ctx.output.spatial)
    if ctx.operand(0).layout.block == 1 or math.prod(outer) < 2 or not width:
        return "the input is plain, or the image has less than two rows"
    if pixels > (most := ctx.target.vector_registers // 2):
        return f"an image of {pixels} pixels is more than {most}"
    if (taps := math.prod(geometry.kernel)) == 1 or taps > _MOST_TAPS:
        return f"{taps} taps are one, or more than {_MOST_TAPS}"
    if constant_weights(ctx).nbytes <= ctx.target.l2_bytes // 2:
        return "the weights stay in the second-level cache"
    return None


def build(ctx: Context, geometry: ConvGeometry) -> Lowered:
    """The kernel. Inputs: x[N,C,*S], w[OC,C/g,*K], b?[OC], then what the epilogue reads."""
    _Whole(ctx, geometry, constant_weights(ctx)).whole_sections()
    return ctx.finished()


class _Whole(ConvTile):
    def whole_sections(self) -> None:
        """All output channels of all pixels."""
        ctx, b = self.ctx, self.b
        ctx.output_view()
        for each in self.choose_blocks().channel_groups(self.group_blocks):
            group = self.group(each)
            space = b.section(n=ctx.output.shape[0], q=self.groups, g=group.count)
            with space as (n, q, g), b.vector("v", self.block) as v:
                self.image(group, (n, q, g), v)

    def choose_blocks(self) -> Tiling:
        """All pixels, and as many channel blocks as cost least."""
        target, pixels = self.ctx.target, math.prod(self.grid.extents)
        depth, images = self.in_channels * math.prod(self.geometry.kernel), self.ctx.output.shape[0] * self.groups

        def cycles(tiling: Tiling) -> float:
            parts = Parts(images * -(-self.group_blocks // tiling.blocks))
            busiest = parts.busiest(target.threads) if target.many_threads and images else 1.0
            return row_cycles(target, tiling, pixels, self.group_blocks, depth) * busiest

        most = max(1, min((target.vector_registers - 2) // pixels, self.group_blocks))
        return min((Tiling(pixels, blocks) for blocks in range(1, most + 1)), key=cycles)

    def image(self, group: ChannelGroups, where: tuple[Var, Var, Var], v: Var) -> None:
        """One register tile: start from the bias, reduce, finish, store."""
        b, (n, q, g), extents = self.b, where, self.grid.extents
        acc = b.tile("acc", math.prod(extents), group.blocks)
        sums = PartialSums.of(b, self.sums, acc, v) if self.has_parts() else None
        if sums is not None:
            sums.start(lambda t, j: group.bias[q, g, j, v])
        else:
            with b.unrolled("j", group.blocks) as j, b.unrolled("t", acc.shape[0]) as u:
                b.store(acc[u, j], group.bias[q, g, j, v])
        blocks = self.in_channels // self.in_block if self.groups > 1 else 0
        for first, count, length, lanes in self.runs():
            with b.serial("p", count) as p:
                with b.serial("c", length) as c:
                    for tap in itertools.product(*map(range, self.geometry.kernel)):
                        block = c + p * length + first
                        self.add_tap(group, where, acc, (block, q * blocks + block), tap, lanes, v)
                if sums is not None:
                    sums.flush()
        for t, place in enumerate(itertools.product(*map(range, extents))):
            with b.unrolled("j", group.blocks) as j:
                block = q * self.group_blocks + g * group.blocks + j + group.first
                point: Point = (n, block, *place, v)
                self.put(point, j, self.ctx.finish(acc[t, j] if sums is None else sums.total(t, j), point))

    def add_tap(
        self, group: ChannelGroups, where: tuple[Var, Var, Var], acc: Tile, block: tuple[Affine, Affine], tap: Shape,
        lanes: int, v: Var,
    ) -> None:  # fmt: skip
        """Add the products of one tap with a channel block; `block` counts in the group and in all of the input."""
        b, (n, q, g) = self.b, where
        spatial, met = self.x.operand.spatial, []
        for t, pixel in enumerate(itertools.product(*map(range, self.grid.extents))):
            place = [p.const for p in self.geometry.input_place([*map(Affine.of, pixel)], tap)]
            if all(0 <= at < extent for at, extent in zip(place, spatial, strict=True)):
                met.append((t, place))
        if not met:
            return
        unroll = unrolled_steps(lanes, len(met) * group.blocks)
        with b.serial("i", lanes // unroll) as i, b.unrolled("u", unroll) as u:
            channel = i * unroll + u
            for t, place in met:
                with b.unrolled("j", group.blocks) as j:
                    weight = group.packed[(q, g, block[0], *tap, channel, j, v)]
                    b.store(acc[t, j], Fma(self.x[(n, block[1], *place, channel)], weight, acc[t, j]))
