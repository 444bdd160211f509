"""Strassen's matrix product in Winograd's form, once: seven products of halves instead of eight.

The pixels of an image, or the tokens of a sample, fall into two halves, here called top and bottom, the channels into a
left and a right one, and so do the outputs; A are the quarters of x, B those of the weights. With

    S1 = A21 + A22    S2 = S1 - A11     S3 = A11 - A21    S4 = A12 - S2
    T1 = B12 - B11    T2 = B22 - T1     T3 = B22 - B12    T4 = T2 - B21

the quarters of the result are (N. Higham, Accuracy and Stability of Numerical Algorithms, 2002, section 23.1)

    C11 = A11 B11 + A12 B21                  C12 = A11 B11 + S2 T2 + S1 T1 + S4 B22
    C21 = A11 B11 + S2 T2 + S3 T3 - A22 T4   C22 = A11 B11 + S2 T2 + S3 T3 + S1 T1

A kernel of its own makes S, before that of the products (`strassen_products`); T is known at compile time.

A convolution with strides takes only some pixels of x, and it is these that are halved.

Where the rows of an image have an even number of pixels, and not few, neighbours are partners: the even ones make up
the top half. A thread that works on one part of an image reads and writes no other. So are the tokens of a sample, if
there are not few, or the pixels of any single row. Else the rows above the middle are the top half. If the number of
what is halved is odd, the last one has no partner, and zeros stand for it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import KW_ONLY, dataclass

from glulam.compiler.errors import UnsupportedError
from glulam.compiler.graph.types import DType, Shape
from glulam.compiler.kernels.context import Context, Lowered, Point
from glulam.compiler.kernels.operand import Operand
from glulam.compiler.kernels.rates import memory_rate, overlapped, stays_near, stream_rate
from glulam.compiler.kernels.tiling import choose_tiling, row_cycles
from glulam.compiler.loops.expr import Const, Expr
from glulam.compiler.loops.index import Affine, IndexLike
from glulam.compiler.targets import Target

PRODUCTS, SUMS = 7, 4
_OF_BOTTOM = 3  # products that only the bottom half needs

_KEEP_CYCLES = 4.0  # to put a vector of a product aside and to take it up again
_KEEP_CYCLES_OF_TOKENS = 12.0  # the same of few tokens, fitted to networks whose linear layers read 64 of them
_SUM_CYCLES = 12.0  # to make the four sums of a vector of each quarter
_LEAST_PIXELS = 7  # of a register tile in half a row; with fewer, weights are read too often
_SHOWS = 0.75  # of what a slow cache sends
_SLOW_MARGIN = 1.1  # of estimates for such a cache
LEFT, RIGHT = 0, 1

Where = Callable[[Sequence[IndexLike]], Sequence[IndexLike]]
"""A place in S to where something lies."""


def pairs_neighbours(spatial: Shape) -> bool:
    """Whether the even and the odd pixels of the rows are the halves, and not what is above and below the middle."""
    *outer, width = spatial
    return width >= 2 * _LEAST_PIXELS and (width % 2 == 0 or not outer)


def halves(spatial: Shape) -> tuple[int, int]:
    """Pixels of the top and of the bottom half."""
    if pairs_neighbours(spatial):
        return -(-math.prod(spatial) // 2), math.prod(spatial) // 2
    height, *rest = spatial
    return (height - height // 2) * math.prod(rest), height // 2 * math.prod(rest)


def cost(
    target: Target, batch: int, spatial: Shape, in_channels: int, out_channels: int, by_rows: bool = False,
    tokens: bool = False,
) -> float:  # fmt: skip
    """Estimated cycles of both kernels on one core; with `by_rows` tiles end with the rows of pixels.

    Products of `tokens`, the rows of a single matrix, cost more to put aside.
    """
    lanes, (top, bottom) = target.lanes, halves(spatial)
    blocks, depth = out_channels // lanes // 2, in_channels // 2
    weights = PRODUCTS * depth * blocks * lanes * 4
    halves_of_rows = [(1, top), (1, bottom)]  # (rows, pixels of each)
    if by_rows:
        width = spatial[-1] // (2 if pairs_neighbours(spatial) else 1)
        halves_of_rows = [(top // width, width), (bottom // width, width)]
    tiling = choose_tiling(target, halves_of_rows[1][1], blocks, depth)
    products = sum(
        times * rows * row_cycles(target, tiling, pixels, blocks, depth)
        for times, (rows, pixels) in zip((PRODUCTS - _OF_BOTTOM, _OF_BOTTOM), halves_of_rows, strict=True)
    )
    products += PRODUCTS * top * blocks * (_KEEP_CYCLES_OF_TOKENS if tokens else _KEEP_CYCLES)
    image = SUMS * top * depth * 4
    sums = top * depth / lanes * _SUM_CYCLES + 2 * image / stream_rate(target, 2 * image)
    fetching = weights / memory_rate(target, weights)
    if target.l3_is_slow:
        operands = image + (top + bottom) * in_channels * 4
        if not stays_near(target, operands):  # they are read for each group of columns
            fetching += (-(-blocks // tiling.blocks) - 1) * operands / stream_rate(target, operands)
        return _SLOW_MARGIN * batch * (sums + overlapped(products, fetching, _SHOWS))
    return batch * (sums + overlapped(products, fetching))


@dataclass(frozen=True)
class Halving:
    """Which pixels of x are taken, all or by strides, which of them are partners, and where the channels are."""

    channels_last: bool
    neighbours: bool
    strides: tuple[int, ...] = ()


@dataclass(frozen=True)
class Form(Halving):
    """Where elements lie: in channel blocks, [N, C / lanes, H, *S, lanes], or with the channels last, [N, H, *S, C].

    A place is one in the sums S: `top` is the first extent of these, `inner` are the others; at the first `bottom` of
    the `top` there is a pixel in either half. `blocks` are the channel blocks of half of x.
    """

    _: KW_ONLY
    lanes: int
    batch: int
    blocks: int
    top: int
    bottom: int
    inner: tuple[int, ...]

    @classmethod
    def of(cls, ctx: Context, halves: Operand, halving: Halving) -> Form:
        """The form of x, where `halves` is S. Raises UnsupportedError for other layouts and types."""
        x, lanes = ctx.operand(0), ctx.target.lanes
        block = 1 if halving.channels_last else lanes
        if x.type.dtype is not DType.F32 or any(o.layout.block != block for o in (x, halves, ctx.output)):
            raise UnsupportedError(f"{ctx.name}: the tensors are no float32 in channel blocks of {block}")
        channels, rows = (x.shape[-1], x.shape[1]) if halving.channels_last else (x.shape[1], x.shape[2])
        top, *inner = halves.shape[1:-1] if halving.channels_last else halves.shape[2:]
        bottom = top if halving.neighbours and inner else -(-rows // (halving.strides or (1,))[0]) - top
        return cls(
            halving.channels_last, halving.neighbours, halving.strides, lanes=lanes, batch=x.shape[0],
            blocks=channels // lanes // 2, top=top, bottom=bottom, inner=tuple(inner),
        )  # fmt: skip

    def point(self, n: IndexLike, block: Affine, place: Sequence[IndexLike], lane: IndexLike) -> Point:
        return (n, *place, block * self.lanes + lane) if self.channels_last else (n, block, *place, lane)

    def taken(self, where: Where) -> Where:
        """Where the pixel of the result comes from in x."""
        if not self.strides:
            return where
        return lambda place: [Affine.of(i) * step for i, step in zip(where(place), self.strides, strict=True)]

    def above(self, place: Sequence[IndexLike]) -> list[IndexLike]:
        """Where the top half's pixel lies in the result."""
        *outer, last = place
        return [*outer, Affine.of(last) * 2] if self.neighbours else [*outer, last]

    def below(self, place: Sequence[IndexLike]) -> list[IndexLike]:
        """Where the bottom half's pixel lies in the result."""
        if self.neighbours:
            *outer, last = place
            return [*outer, Affine.of(last) * 2 + 1]
        first, *inner = place
        return [Affine.of(first) + self.top, *inner]


def build_sums(ctx: Context, halving: Halving) -> Lowered:
    """x to S1, S2, S3, S4, one after the other along the channels."""
    form, b = Form.of(ctx, ctx.output, halving), ctx.builder
    x, s = ctx.input_view(0), ctx.output_view()
    for begin, count, paired in ((0, form.bottom, True), (form.bottom, form.top - form.bottom, False)):
        with b.section(n=form.batch, r=count, c=form.blocks) as (n, r, c), ExitStack() as stack:
            inner = [stack.enter_context(b.serial(f"i{d}", extent)) for d, extent in enumerate(form.inner)]
            v = stack.enter_context(b.vector("v", form.lanes))
            place: list[IndexLike] = [r + begin, *inner]
            above = form.taken(form.above)(place)
            a11, a12 = (x[form.point(n, c + half * form.blocks, above, v)] for half in (LEFT, RIGHT))
            sums: tuple[Expr, ...] = (Const(0.0), -a11, a11, a12 + a11)
            if paired:
                below = form.taken(form.below)(place)
                a21, a22 = (x[form.point(n, c + half * form.blocks, below, v)] for half in (LEFT, RIGHT))
                s1 = a21 + a22
                s2 = s1 - a11
                sums = (s1, s2, a11 - a21, a12 - s2)
            for i, value in enumerate(sums):
                b.store(s[form.point(n, c + i * form.blocks, place, v)], value)
    return ctx.finished()
