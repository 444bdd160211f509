"""Transposed convolution of large strides on plain tensors: vectors lie along the kernel's columns.

An output row falls into stripes as long as the stride, each of which meets the same input pixels. So a vector of
neighbouring output columns is an input pixel times a vector of the kernel, for each tap and channel. A register tile is
such vectors of several stripes and output channels. Weights are read once: a thread takes all rows of outputs that need
the same ones.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass

import numpy as np

from glulam.compiler.errors import UnsupportedError
from glulam.compiler.graph.types import Array, Shape
from glulam.compiler.kernels.context import Context, Lowered, Point
from glulam.compiler.kernels.conv_geometry import ConvShape, Stripes, TransposedGeometry
from glulam.compiler.kernels.conv_template import constant_weights, not_constant
from glulam.compiler.kernels.partial_sums import PartialSums, parts
from glulam.compiler.kernels.ranges import pieces, unrolled_steps
from glulam.compiler.kernels.tiling import choose_tiling, row_cycles
from glulam.compiler.loops.expr import Fma
from glulam.compiler.loops.index import Affine, Var
from glulam.compiler.loops.ir import Buffer, Tile
from glulam.compiler.targets import Target

_MAX_NESTS = 64  # each has code of its own


def refuses(target: Target, geometry: TransposedGeometry, outputs: Shape) -> str | None:
    """Why no kernel should be built, None if one may."""
    nests = math.prod(map(len, _stripes(target, geometry, outputs)))
    return f"{nests} parts that differ are more than {_MAX_NESTS}" if nests > _MAX_NESTS else None


def cost(target: Target, batch: int, geometry: TransposedGeometry, shape: ConvShape) -> float:
    """Estimated cycles of the whole convolution on one core."""
    depth, per_group = shape.ins // geometry.groups, shape.outs // geometry.groups
    total = 0.0
    for stripes in itertools.product(*_stripes(target, geometry, shape.outputs)):
        *outer, last = stripes
        rows = math.prod(s.count * s.length for s in outer)
        taps = math.prod(s.taps.shape[1] for s in stripes)
        tiling = choose_tiling(target, last.count, per_group, depth * taps)
        for _, vectors, lanes in pieces(last.length, target.lanes):
            width = target.half_width if target.half_width is not None and lanes <= target.half_width.lanes else target
            total += rows * vectors * row_cycles(width, tiling, last.count, per_group, depth * taps)
    return batch * geometry.groups * total


def build(ctx: Context, geometry: TransposedGeometry) -> Lowered:
    """The kernel. Inputs: plain x[N,C,*S], constant w[C,OC/g,*K] and b?[OC], then what the epilogue reads."""
    if (why := not_constant(ctx)) is not None:
        raise UnsupportedError(f"{ctx.name}: {why}")
    if ctx.output.layout.block > 1 or ctx.operand(0).layout.block > 1:
        raise UnsupportedError(f"{ctx.name}: the tensors lie in channel blocks")
    kernel = _Striped(ctx, geometry)
    ctx.output_view()
    for stripes in itertools.product(*_stripes(ctx.target, geometry, ctx.output.spatial)):
        kernel.sections(stripes)
    return ctx.finished()


def _stripes(target: Target, geometry: TransposedGeometry, outputs: Shape) -> list[list[Stripes]]:
    """For each dimension; vectors lie along the last one."""
    lanes = [*(1 for _ in outputs[1:]), target.lanes]
    return [geometry.stripes(d, extent, lanes[d]) for d, extent in enumerate(outputs)]


@dataclass(frozen=True)
class _Part:
    """Some stripes of each dimension, some vectors of the last one's, and some of each group's output channels.

    `weights` [groups, channel groups, *offsets, vectors, ins, *taps, channels, lanes], none without taps; `bias`
    [groups, channel groups, channels].
    """

    stripes: tuple[Stripes, ...]
    column: int
    channel: int
    weights: Buffer | None
    bias: Buffer
    vectors: int
    lanes: int


@dataclass(frozen=True)
class _Place:
    """Where a register tile lies: batch, group, channel group, offsets in the outer stripes, vector, stripes, lanes."""

    n: Var
    q: Var
    g: Var
    offsets: tuple[Var, ...]
    u: Var
    at: tuple[Affine, ...]
    v: Var

    def moved(self, t: Var) -> tuple[Affine, ...]:
        """The stripes of the tile's `t`-th vectors."""
        return (*self.at[:-1], self.at[-1] + t)


class _Striped:
    def __init__(self, ctx: Context, geometry: TransposedGeometry) -> None:
        self.ctx, self.b, self.geometry = ctx, ctx.builder, geometry
        self.x = ctx.input_view(0)
        weights, groups, bias = constant_weights(ctx), geometry.groups, ctx.data(2)
        self.ins, self.outs = len(weights) // groups, weights.shape[1]
        self.weights = weights.reshape(groups, self.ins, *weights.shape[1:])
        self.bias = (np.zeros(groups * self.outs, np.float32) if bias is None else bias).reshape(groups, self.outs)
        self.sums: dict[tuple[int, ...], Buffer] = {}  # by the shape of the tile

    def sections(self, stripes: tuple[Stripes, ...]) -> None:
        """The pixels that lie in these stripes of all dimensions."""
        target, *_, last = self.ctx.target, *stripes
        depth = self.ins * math.prod(s.taps.shape[1] for s in stripes)
        tiling = choose_tiling(target, last.count, self.outs, depth)
        for column, vectors, lanes in pieces(last.length, target.lanes):
            for channel, count, together in tiling.channel_groups(self.outs):
                chosen = slice(channel, channel + together * count)
                bias = self.ctx.constant(self.bias[:, chosen].reshape(-1, count, together), "b")
                packed = self.packed(stripes, slice(column, column + vectors * lanes), chosen, (vectors, together))
                weights = self.ctx.constant(packed, "w") if packed.size else None
                self.section(_Part(stripes, column, channel, weights, bias, vectors, lanes), tiling.pixels)

    def packed(self, stripes: Sequence[Stripes], columns: slice, channels: slice, split: tuple[int, int]) -> Array:
        """The weights of some vectors and channels, see `_Part`."""
        *outer, last = (s.taps for s in stripes)
        weights = self.weights[:, :, channels]
        for d, taps in enumerate((*outer, last[columns])):
            weights = weights.take(taps, axis=3 + 2 * d)
        (vectors, together), (groups, ins, outs, *rest) = split, weights.shape
        lanes, taps = rest[-2:]
        weights = weights.reshape(groups, ins, outs // together, together, *rest[:-2], vectors, lanes // vectors, taps)
        # [q, c, g, j, o, k, o, k, ..., u, v, k] -> [q, g, *o, u, c, *k, j, v]
        end = weights.ndim
        order = (0, 2, *range(4, end - 3, 2), end - 3, 1, *range(5, end - 3, 2), end - 1, 3, end - 2)
        return weights.transpose(order)

    def section(self, part: _Part, most: int) -> None:
        """All vectors of a part, in tiles of that many stripes at most."""
        b, (*outer, last) = self.b, part.stripes
        groups, count, _ = part.bias.shape
        head = {"n": self.ctx.output.shape[0], "q": groups, "g": count}
        offsets = {f"o{d}": s.length for d, s in enumerate(outer)}
        with b.section(**head, **offsets, u=part.vectors) as (n, q, g, *rows, u), ExitStack() as stack:
            planes = [Affine.of(stack.enter_context(b.serial("h", s.count))) for s in outer]
            for first, times, length in pieces(last.count, most):
                with b.serial("s", times) as s, b.vector("v", part.lanes) as v:
                    self.tile(part, _Place(n, q, g, tuple(rows), u, (*planes, s * length + first), v), length)

    def tile(self, part: _Part, place: _Place, count: int) -> None:
        """Vectors of `count` stripes: start from the bias, add all taps of all channels of the group, finish, store."""
        b, where = self.b, (place.q, place.g)
        acc = b.tile("acc", count, part.bias.shape[2])
        steps = parts(self.ins, math.prod(s.taps.shape[1] for s in part.stripes) or 1)
        sums = PartialSums.of(b, self.sums, acc, place.v) if sum(times for _, times, _ in steps) > 1 else None
        if sums is not None:
            sums.start(lambda t, j: part.bias[(*where, j)])
        else:
            with b.unrolled("j", acc.shape[1]) as j, b.unrolled("t", count) as t:
                b.store(acc[t, j], part.bias[(*where, j)])
        for first, times, length in steps if part.weights is not None else []:
            with b.serial("p", times) as p:
                with b.serial("c", length) as c:
                    self.channel(part, place, acc, p * length + c + first)
                if sums is not None:
                    sums.flush()
        with b.unrolled("j", acc.shape[1]) as j, b.unrolled("t", count) as t:
            channel = place.q * self.outs + place.g * acc.shape[1] + j + part.channel
            point: Point = (place.n, channel, *self.outputs(part, place, t))
            self.ctx.write(point, self.ctx.finish(acc[t, j] if sums is None else sums.total(t, j), point))

    def channel(self, part: _Part, place: _Place, acc: Tile, c: Affine) -> None:
        """Add the products of all taps of an input channel."""
        b, v, weights = self.b, place.v, part.weights
        assert weights is not None
        *outer, last = (s.taps.shape[1] for s in part.stripes)
        unroll = unrolled_steps(last, math.prod(acc.shape))
        with ExitStack() as stack:
            taps = [Affine.of(stack.enter_context(b.serial("k", k))) for k in outer]
            taps.append(stack.enter_context(b.serial("i", last // unroll)) * unroll)
            taps[-1] += stack.enter_context(b.unrolled("k", unroll))
            t, j = (stack.enter_context(b.unrolled(name, n)) for name, n in zip("tj", acc.shape, strict=True))
            seen = [
                at + tap * s.dilation + s.first for at, tap, s in zip(place.moved(t), taps, part.stripes, strict=True)
            ]
            x = self.x[(place.n, place.q * self.ins + c, *seen)]
            weight = weights[(place.q, place.g, *place.offsets, place.u, c, *taps, j, v)]
            b.store(acc[t, j], Fma(x, weight, acc[t, j]))

    def outputs(self, part: _Part, place: _Place, t: Var) -> list[Affine]:
        """Where the output has the lanes of the tile's vector `t`."""
        inside = [*map(Affine.of, place.offsets), place.u * part.lanes + place.v + part.column]
        return [
            at * stride + o + s.start
            for at, o, s, stride in zip(place.moved(t), inside, part.stripes, self.geometry.strides, strict=True)
        ]
