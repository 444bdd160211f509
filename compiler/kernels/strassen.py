"""Strassen's matrix product in Winograd's form, once: seven products of halves instead of eight.

The rows of x (of an image, or the tokens of a sample) fall into a top and a bottom half, its channels into a left and a
right one, and so do the outputs; A are the quarters of x, B those of the weights. With

    S1 = A21 + A22    S2 = S1 - A11     S3 = A11 - A21    S4 = A12 - S2
    T1 = B12 - B11    T2 = B22 - T1     T3 = B22 - B12    T4 = T2 - B21

the quarters of the result are (N. Higham, Accuracy and Stability of Numerical Algorithms, 2002, section 23.1)

    C11 = A11 B11 + A12 B21                  C12 = A11 B11 + S2 T2 + S1 T1 + S4 B22
    C21 = A11 B11 + S2 T2 + S3 T3 - A22 T4   C22 = A11 B11 + S2 T2 + S3 T3 + S1 T1

A kernel of its own makes S; T is known at compile time. One register tile after the other computes the products for the
same place of all four quarters, so that what they share never leaves the first-level cache. If the number of rows is
odd, the last one of the top half has no partner, and zeros stand for it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass

import numpy as np

from glulam.compiler.errors import UnsupportedError
from glulam.compiler.graph.types import Array, DType, Shape
from glulam.compiler.kernels import gemm
from glulam.compiler.kernels.context import Context, Lowered, Operand, Point, View
from glulam.compiler.kernels.packing import Packing
from glulam.compiler.kernels.tiling import (
    Parts,
    Tiling,
    choose_tiling,
    memory_rate,
    overlapped,
    pieces,
    row_cycles,
    run_length,
    stream_rate,
    unrolled_steps,
)
from glulam.compiler.loops.expr import Const, Expr, Fma
from glulam.compiler.loops.ir import Affine, IndexLike, Var
from glulam.compiler.targets import Target

PRODUCTS, SUMS = 7, 4
_OF_BOTTOM = 3  # products that only the bottom half needs
_A11, _A12, _A22, _S1, _S2, _S3, _S4 = range(PRODUCTS)  # products by their left factor

_KEEP_CYCLES = 4.0  # to put a vector of a product aside and to take it up again
_SUM_CYCLES = 12.0  # to make the four sums of a vector of each quarter
_FEW_TILES = 8  # that share the time in which the next weights have to arrive
_LEFT, _RIGHT = 0, 1


def cost(target: Target, batch: int, spatial: Shape, in_channels: int, out_channels: int) -> float:
    """Estimated cycles of both kernels on one core."""
    lanes, (height, *rest) = target.lanes, spatial
    bottom, top = (half * math.prod(rest) for half in (height // 2, height - height // 2))
    blocks, depth = out_channels // lanes // 2, in_channels // 2
    weights = PRODUCTS * depth * blocks * lanes * 4
    tiling = choose_tiling(target, bottom, blocks, depth)
    products = sum(
        times * row_cycles(target, tiling, pixels, blocks, depth)
        for times, pixels in ((PRODUCTS - _OF_BOTTOM, top), (_OF_BOTTOM, bottom))
    )
    products += PRODUCTS * top * blocks * _KEEP_CYCLES
    image = SUMS * top * depth * 4
    sums = top * depth / lanes * _SUM_CYCLES + 2 * image / stream_rate(target, 2 * image)
    return batch * (sums + overlapped(products, weights / memory_rate(target, weights)))


@dataclass(frozen=True)
class _Form:
    """Where elements lie: in channel blocks, [N, C / lanes, H, *S, lanes], or with the channels last, [N, H, *S, C].

    `rows` is the extent that is halved, `top` that of its top half, `inner` are the extents behind it; `blocks` are the
    channel blocks of half of x.
    """

    channels_last: bool
    lanes: int
    batch: int
    blocks: int
    rows: int
    top: int
    inner: tuple[int, ...]

    @classmethod
    def of(cls, ctx: Context, halves: Operand, channels_last: bool) -> _Form:
        """The form of x, where `halves` is S. Raises UnsupportedError for other layouts and types."""
        x, lanes = ctx.operand(0), ctx.target.lanes
        block = 1 if channels_last else lanes
        if x.type.dtype is not DType.F32 or any(o.layout.block != block for o in (x, halves, ctx.output)):
            raise UnsupportedError(f"{ctx.name}: the tensors are no float32 in channel blocks of {block}")
        batch, *extents = x.shape
        channels = extents.pop(-1 if channels_last else 0)
        top = halves.shape[1] if channels_last else halves.spatial[0]
        return cls(channels_last, lanes, batch, channels // lanes // 2, extents[0], top, tuple(extents[1:]))

    @property
    def bottom(self) -> int:
        return self.rows - self.top

    def point(self, n: IndexLike, block: Affine, place: Sequence[IndexLike], lane: IndexLike) -> Point:
        return (n, *place, block * self.lanes + lane) if self.channels_last else (n, block, *place, lane)

    def below(self, place: Sequence[IndexLike]) -> list[IndexLike]:
        """The place in the bottom half."""
        first, *inner = place
        return [Affine.of(first) + self.top, *inner]


def build_sums(ctx: Context, channels_last: bool) -> Lowered:
    """x to S1, S2, S3, S4, one after the other along the channels."""
    form, b = _Form.of(ctx, ctx.output, channels_last), ctx.builder
    x, s = ctx.input_view(0), ctx.output_view()
    for begin, count, paired in ((0, form.bottom, True), (form.bottom, form.top - form.bottom, False)):
        with b.section(n=form.batch, r=count, c=form.blocks) as (n, r, c), ExitStack() as stack:
            inner = [stack.enter_context(b.serial(f"i{d}", extent)) for d, extent in enumerate(form.inner)]
            v = stack.enter_context(b.vector("v", form.lanes))
            place: list[IndexLike] = [r + begin, *inner]
            a11, a12 = (x[form.point(n, c + half * form.blocks, place, v)] for half in (_LEFT, _RIGHT))
            sums: tuple[Expr, ...] = (Const(0.0), -a11, a11, a12 + a11)
            if paired:
                below = form.below(place)
                a21, a22 = (x[form.point(n, c + half * form.blocks, below, v)] for half in (_LEFT, _RIGHT))
                s1 = a21 + a22
                s2 = s1 - a11
                sums = (s1, s2, a11 - a21, a12 - s2)
            for i, value in enumerate(sums):
                b.store(s[form.point(n, c + i * form.blocks, place, v)], value)
    return ctx.finished()


def build_products(ctx: Context, channels_last: bool) -> Lowered:
    """x, S and constant w[OC, C, *1] and bias?[OC] to the convolution's, or linear layer's, result."""
    weights = ctx.data(2)
    if weights is None or (ctx.has(3) and ctx.data(3) is None):
        raise UnsupportedError(f"{ctx.name}: weights or bias are no constants")
    flat = None if channels_last else ctx.flattened(apart=(1,))
    return _Products(flat or ctx, weights.reshape(weights.shape[:2]), channels_last).build()


class _Products:
    """The nest of loops over column groups and register tiles."""

    def __init__(self, ctx: Context, weights: Array, channels_last: bool) -> None:
        self.ctx, self.b, self.weights = ctx, ctx.builder, weights
        self.form = _Form.of(ctx, ctx.operand(1), channels_last)
        self.x, self.s = ctx.input_view(0), ctx.input_view(1)
        self.lanes = ctx.target.lanes
        self.out_blocks = len(weights) // self.lanes // 2
        data = ctx.data(3)
        self.bias = np.zeros(len(weights), np.float32) if data is None else data

    def build(self) -> Lowered:
        form, depth = self.form, self.form.blocks * self.lanes
        self.ctx.output_view()
        width = form.inner[-1] if form.inner else max(1, form.bottom)
        limit = gemm.row_limit(self.ctx.target, 2 * depth, DType.F32) if form.channels_last else None

        def parts(tiling: Tiling) -> Parts:
            rows = form.batch * -(-self.out_blocks // tiling.blocks)
            if form.inner:
                return Parts(rows * form.bottom * math.prod(form.inner[:-1]))
            return Parts.of(rows, width, tiling.pixels)

        tiling = choose_tiling(self.ctx.target, width, self.out_blocks, depth, limit=limit, parts=parts)
        for first, per_group, count in tiling.channel_groups(self.out_blocks):
            group = _Group(self, first, per_group, count, tiling.pixels)
            if form.inner:
                group.rows()
            else:
                group.flat()
        return self.ctx.finished()

    def pack(self, first: int, per_group: int, count: int) -> Packing:
        """[group, product, channel, block, lane] of the weights' quarters and their sums, in the order of use."""
        shape = (count, PRODUCTS, self.form.blocks * self.lanes, per_group, self.lanes)
        part = slice(first * self.lanes, (first + per_group * count) * self.lanes)
        halves = self.weights.reshape(2, -1, self.weights.shape[1])[:, part]
        return Packing(halves, shape, DType.F32, _pack)

    def pack_bias(self, first: int, per_group: int, count: int) -> Array:
        """[half, group, block, lane]."""
        blocks = self.bias.reshape(2, self.out_blocks, self.lanes)[:, first : first + per_group * count]
        return np.ascontiguousarray(blocks.reshape(2, count, per_group, self.lanes))


def _pack(out: Array, halves: Array) -> None:
    """Fills [group, product, channel, block, lane] from the weights [half, outputs, channels] of some columns."""
    count, _, depth, per_group, lanes = out.shape
    split = halves.reshape(2, count, per_group, lanes, 2, depth).transpose(1, 0, 4, 5, 2, 3)
    for packed, quarters in zip(out, split, strict=True):  # group by group, which the caches hold
        (b11, b21), (b12, b22) = quarters.astype(np.float64, order="C")
        t1 = b12 - b11
        t2 = b22 - t1
        products = {_A11: b11, _A12: b21, _A22: b21 - t2, _S1: t1, _S2: t2, _S3: b22 - b12, _S4: b22}
        for number, product in products.items():
            packed[number] = product


class _Group:
    """Some column groups of `per_group` blocks in either half of the outputs, from block `first` on."""

    def __init__(self, products: _Products, first: int, per_group: int, count: int, pixels: int) -> None:
        self.ctx, self.b, self.form, self.products = products.ctx, products.b, products.form, products
        self.first, self.per_group, self.count, self.pixels = first, per_group, count, pixels
        self.packed = self.ctx.constant(products.pack(first, per_group, count), "w")
        self.bias = self.ctx.constant(products.pack_bias(first, per_group, count), "b")
        self.kept = self.b.scratch(f"kept{first}", (PRODUCTS, pixels, per_group, products.lanes))
        self.head: Sequence[Var] = ()  # of the tile in hand: image and group
        self.lane: IndexLike = 0
        self.share = Affine.of(0)  # which share of the next group's weights it asks for

    # ---- which tiles

    def flat(self) -> None:
        """Tiles along one dimension; the last one may have rows of the top half that lack a partner."""
        form, pixels = self.form, self.pixels
        full, rest = divmod(form.bottom, pixels)
        left = form.top - form.bottom
        for first, parts, each in pieces(full, self.run(full)):
            with self.b.section(n=form.batch, h=parts, g=self.count, s=each) as (n, h, g, s):
                self.head, self.share = (n, g), Affine.of(s)
                self.tile([(h * each + s + first) * pixels], pixels, pixels)
        begin = full * pixels
        if 0 < rest + left <= pixels:
            ends = [(begin, 1, rest + left, rest)]
        else:
            ends = [(begin, 1, rest, rest)] if rest else []
            ends += [(first + begin + rest, count, length, 0) for first, count, length in pieces(left, pixels)]
        for start, count, top, bottom in ends:
            with self.b.section(n=form.batch, g=self.count, s=count) as (n, g, s):
                self.head, self.share = (n, g), Affine.of(full)
                self.tile([s * top + start], top, bottom)

    def rows(self) -> None:
        """Tiles along the last of several dimensions."""
        form = self.form
        *middle, width = form.inner
        extents = {f"m{d}": extent for d, extent in enumerate(middle)}
        for begin, count, paired in ((0, form.bottom, True), (form.bottom, form.top - form.bottom, False)):
            with self.b.section(n=form.batch, g=self.count, r=count, **extents) as (n, g, r, *mid):
                self.head, self.share = (n, g), Affine.of(r)
                for first, times, length in pieces(width, self.pixels):
                    with self.b.serial("s", times) as s:
                        self.tile([r + begin, *mid, s * length + first], length, length if paired else 0)

    def run(self, count: int) -> int:
        """How many of `count` rows, or tiles, go through all groups before the next ones do."""
        ctx = self.ctx
        pixels = sum(operand.type.nbytes for operand in (ctx.operand(0), ctx.operand(1), ctx.output))
        return run_length(ctx.target, count, pixels, self.products.weights.nbytes * PRODUCTS // 4)

    @property
    def tiles(self) -> int:
        """Of one group in one run, about."""
        return -(-self.run(self.form.top * math.prod(self.form.inner)) // self.pixels)

    # ---- a tile

    def tile(self, place: list[IndexLike], top: int, bottom: int) -> None:
        """All four quarters at `top` pixels from a place on; in the bottom half there are only `bottom` of them."""
        x, s = self.products.x, self.products.s
        below = self.form.below(place)
        with self.b.vector("v", self.products.lanes) as self.lane:
            with self.b.serial("e", 2) as e:
                self.product(top, Affine.of(e), x, Affine.of(e), place)
            if bottom:
                self.product(bottom, Affine.of(_A22), x, Affine.of(1), below)
            first, step = (0, 1) if bottom else (1, 2)  # without a partner S1 is zero, and S3 is for the bottom half
            with self.b.serial("e", SUMS // step) as e:
                self.product(top, e * step + (first + _S1), s, e * step + first, place)
            self.finish(_LEFT, top, place, (_A11, _A12))
            if bottom:
                self.finish(_RIGHT, top, place, (_A11, _S2, _S1, _S4))
                self.finish(_LEFT, bottom, below, (_A11, _S2, _S3, _A22))
                self.finish(_RIGHT, bottom, below, (_A11, _S2, _S3, _S1))
            else:
                self.finish(_RIGHT, top, place, (_A11, _S2, _S4))

    def product(self, pixels: int, number: Affine, view: View, half: Affine, place: list[IndexLike]) -> None:
        """The `number`-th one: of channels of `view`, so many halves of x's on, and of as many of the weights."""
        b, (n, g), lanes = self.b, self.head, self.products.lanes
        unroll = unrolled_steps(lanes, pixels * self.per_group)
        *outer, last = place
        acc = b.tile("acc", pixels, self.per_group)
        with b.unrolled("t", pixels) as t, b.unrolled("j", self.per_group) as j:
            b.store(acc[t, j], 0.0)
        with b.serial("c", self.form.blocks) as c:
            block = c + half * self.form.blocks
            if self.tiles <= _FEW_TILES:
                self.fetch_weights(number, c * lanes)
            if self.fetches_pixels:
                with b.unrolled("t", pixels) as t:
                    b.prefetch(view[self.form.point(n, block, [*outer, t + last + pixels], 0)], level=2)
            with (
                b.serial("i", lanes // unroll) as i, b.unrolled("u", unroll) as u,
                b.unrolled("t", pixels) as t, b.unrolled("j", self.per_group) as j,
            ):  # fmt: skip
                value = view[self.form.point(n, block, [*outer, t + last], i * unroll + u)]
                weight = self.packed[g, number, c * lanes + i * unroll + u, j, self.lane]
                b.store(acc[t, j], Fma(value, weight, acc[t, j]))
        with b.unrolled("t", pixels) as t, b.unrolled("j", self.per_group) as j:
            b.store(self.kept[number, t, j, self.lane], acc[t, j])

    def fetch_weights(self, number: Affine, channel: Affine) -> None:
        """Ask for a share of the next group's weights for the channels of one block."""
        _, g = self.head
        share = -(-self.products.lanes // self.tiles)
        with self.b.unrolled("u", share) as u, self.b.unrolled("j", self.per_group) as j:
            self.b.prefetch(self.packed[g + 1, number, channel + self.share * share + u, j, 0], level=2)

    @property
    def fetches_pixels(self) -> bool:
        """Whether to ask for the next tile's pixels: short runs in many places, which no hardware foresees."""
        return not self.form.channels_last and self.ctx.operand(0).type.nbytes > self.ctx.target.l2_bytes // 2

    def finish(self, half: int, pixels: int, place: list[IndexLike], numbers: Sequence[int]) -> None:
        """Add up products for one quarter, and bias and epilogue."""
        b, (n, g) = self.b, self.head
        *outer, last = place
        with b.serial("t", pixels) as t, b.unrolled("j", self.per_group) as j:
            total: Expr = self.bias[half, g, j, self.lane]
            for number in numbers:
                total = total + self.kept[number, t, j, self.lane]
            block = Affine.of(g) * self.per_group + j + (self.first + half * self.products.out_blocks)
            point = self.form.point(n, block, [*outer, t + last], self.lane)
            self.ctx.write(point, self.ctx.finish(total, point))
