"""Normalisation over groups of channels: three passes over a group, which an iteration owns.

In channel blocks a group is a run of whole blocks, or a run of lanes in one block. In plain tensors the lanes run along
the innermost dimension.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from contextlib import ExitStack

import numpy as np

from glulam.compiler.kernels.context import Context, Lowered
from glulam.compiler.kernels.ranges import Pieces, pieces
from glulam.compiler.loops import expr as ex
from glulam.compiler.loops.expr import Const, Expr
from glulam.compiler.loops.index import Affine, Bounded, IndexLike, Var
from glulam.compiler.loops.ir import Buffer, IndexValue, LaneReduce, LaneShuffle

Element = Callable[[tuple[IndexLike, ...]], Expr]


def build(ctx: Context, groups: int, epsilon: float) -> Lowered:
    """Inputs x, scale?, bias? (one number per channel each); statistics over the channels of a group and all places."""
    if not ctx.output.type.size:
        return ctx.finished()
    ctx = (ctx.flattened() or ctx) if ctx.output.type.rank > 3 else ctx
    kind = _Blocked if ctx.output.layout.block > 1 else _Plain
    return kind(ctx, groups, epsilon).build()


class _GroupNorm:
    def __init__(self, ctx: Context, groups: int, epsilon: float) -> None:
        self.ctx, self.b, self.groups, self.epsilon = ctx, ctx.builder, groups, epsilon
        self.x, self.y = ctx.input_view(0), ctx.output_view()
        self.dtype = ctx.operand(0).type.dtype  # the epilogue may give another one
        self.channels = ctx.output.shape[1]
        self.width = self.channels // groups
        self.share = groups / math.prod(ctx.output.shape[1:])
        self.chains = ctx.target.vector_registers // 4

    def deviation(self, variance: Expr) -> Expr:
        return 1.0 / ex.sqrt(variance + self.epsilon)

    def total(self, outer: Sequence[int], inner: int, element: Element) -> Expr:
        """The sum of element((*outer places, i)) in one register, by several chains."""
        b, chains = self.b, min(self.chains, inner)
        acc = b.tile("acc", chains, dtype=self.dtype)
        for t in range(chains):
            b.store(acc[t], Const(0, self.dtype))
        with ExitStack() as loops:
            place: list[IndexLike] = [loops.enter_context(b.serial("r", extent)) for extent in outer]
            with b.serial("i", inner // chains) as i:
                for t in range(chains):
                    b.store(acc[t], acc[t] + element((*place, i * chains + t)))
            for t in range(inner % chains):
                b.store(acc[t], acc[t] + element((*place, inner - inner % chains + t)))
        parts: list[Expr] = [acc[t] for t in range(chains)]
        while len(parts) > 1:
            parts = [*(x + y for x, y in zip(parts[::2], parts[1::2], strict=False)), *parts[len(parts) & ~1 :]]
        return parts[0]


class _Blocked(_GroupNorm):
    """A lane is a channel."""

    def build(self) -> Lowered:
        block = self.ctx.output.layout.block
        span = max(self.width // block, 1)
        scale, bias = self.parameter(1), self.parameter(2)
        *outer, inner = self.ctx.output.spatial
        sizes = (span, *outer)
        units = self.ctx.output.blocks // span
        with self.b.section(n=self.ctx.output.shape[0], u=units) as (n, u), self.b.vector("v", block) as v:

            def at(place: Sequence[IndexLike]) -> tuple[IndexLike, ...]:
                return (n, u * span + Affine.of(place[0]), *place[1:], v)

            mean = self.b.kept(self.shared(self.total(sizes, inner, lambda p: self.x[at(p)])) * self.share)

            def squared(place: tuple[IndexLike, ...]) -> Expr:
                distance = self.b.kept(self.x[at(place)] - mean)
                return distance * distance

            variance = self.shared(self.total(sizes, inner, squared)) * self.share
            deviation = self.b.kept(self.deviation(variance))
            with self.b.serial("c", span) as c:
                block_index = u * span + c
                factor = deviation if scale is None else self.b.kept(deviation * scale(block_index, v))
                shift = None if bias is None else self.b.kept(bias(block_index, v))
                self.apply((n, block_index), outer, inner, v, lambda x: self.affine(x - mean, factor, shift))
        return self.ctx.finished()

    def affine(self, x: Expr, factor: Expr, shift: Expr | None) -> Expr:
        return x * factor if shift is None else ex.Fma(x, factor, shift)

    def apply(
        self, head: tuple[IndexLike, ...], outer: Sequence[int], inner: int, v: Var, formula: Callable[[Expr], Expr]
    ) -> None:
        chains = min(4, inner)
        with ExitStack() as loops:
            place = [loops.enter_context(self.b.serial("r", extent)) for extent in outer]

            def element(i: IndexLike) -> None:
                point = (*head, *place, i, v)
                self.ctx.write(point, self.ctx.finish(formula(self.x[point]), point))

            with self.b.serial("i", inner // chains) as i, self.b.unrolled("t", chains) as t:
                element(i * chains + t)
            for rest in range(inner % chains):
                element(inner - inner % chains + rest)

    def shared(self, value: Expr) -> Expr:
        """The sum over all lanes of the group, in each of them."""
        block = self.ctx.output.layout.block
        if self.width >= block:
            return LaneReduce("add", self.b.kept(value))
        step = 1
        while step < self.width:
            kept = self.b.kept(value)
            value = kept + LaneShuffle(kept, kept, tuple(lane ^ step for lane in range(block)))
            step *= 2
        return value

    def parameter(self, i: int) -> Callable[[Affine, Var], Expr] | None:
        """Reads input `i` for the lanes of a block."""
        if not self.ctx.has(i):
            return None
        block = self.ctx.output.layout.block
        data = self.ctx.data(i)
        if data is None:
            view = self.ctx.input_view(i).buffer
            return lambda c, v: view[Bounded(IndexValue(c * block + v), self.channels)]
        padded = np.zeros((self.ctx.output.blocks, block), data.dtype)
        padded.reshape(-1)[: self.channels] = data
        table = self.ctx.constant(padded, "c")
        return lambda c, v: table[c, v]


class _Plain(_GroupNorm):
    """The lanes run along the last dimension: places of one channel, or channels where there are no places."""

    def build(self) -> Lowered:
        ctx, b = self.ctx, self.b
        scale, bias = self.parameter(1), self.parameter(2)
        spatial = ctx.output.spatial
        *outer, inner = (self.width, *spatial)
        with b.section(n=ctx.output.shape[0], g=self.groups) as (n, g):

            def at(place: Sequence[IndexLike]) -> tuple[IndexLike, ...]:
                return (n, g * self.width + Affine.of(place[0]), *place[1:])

            mean = self.b.kept(self.summed(outer, inner, lambda p: self.x[at(p)]) * self.share)

            def squared(place: tuple[IndexLike, ...]) -> Expr:
                distance = self.b.kept(self.x[at(place)] - mean)
                return distance * distance

            deviation = self.b.kept(self.deviation(self.summed(outer, inner, squared) * self.share))
            with ExitStack() as loops:
                place = [loops.enter_context(b.serial("r", extent)) for extent in outer]
                for first, count, lanes in self.pieces(inner):
                    with b.serial("i", count) as i, b.vector("v", lanes) as v:
                        point = at((*place, i * lanes + v + first))
                        value = (self.x[point] - mean) * deviation
                        if scale is not None:
                            value = value * scale[point[1]]
                        if bias is not None:
                            value = value + bias[point[1]]
                        ctx.write(point, ctx.finish(value, point))
        return ctx.finished()

    def pieces(self, extent: int) -> list[Pieces]:
        """Vectors of so many lanes that cover a row."""
        lanes = self.ctx.target.vector_bytes // self.dtype.size
        return pieces(extent, lanes)

    def summed(self, outer: Sequence[int], inner: int, element: Element) -> Expr:
        total = self.b.tile("total", 1, dtype=self.dtype)
        self.b.store(total[0], Const(0, self.dtype))
        for first, count, lanes in self.pieces(inner):
            with self.b.vector("v", lanes) as v:

                def load(place: tuple[IndexLike, ...], first: int = first, lanes: int = lanes, v: Var = v) -> Expr:
                    return element((*place[:-1], Affine.of(place[-1]) * lanes + v + first))

                part = LaneReduce("add", self.b.kept(self.total(outer, count, load)))
                self.b.store(total[0], total[0] + part)
        return total[0]

    def parameter(self, i: int) -> Buffer | None:
        if not self.ctx.has(i):
            return None
        data = self.ctx.data(i)
        return self.ctx.input_view(i).buffer if data is None else self.ctx.constant(data)
