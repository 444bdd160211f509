"""Joining and taking apart along an axis: copies of boxes, and channel blocks put together lane by lane."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate

from glulam.compiler.graph.types import Shape
from glulam.compiler.kernels import strided
from glulam.compiler.kernels.context import Context, Lowered
from glulam.compiler.kernels.nest import Point, nest
from glulam.compiler.kernels.ranges import unroll_factor
from glulam.compiler.kernels.rates import LINE
from glulam.compiler.kernels.shuffles import assembled
from glulam.compiler.kernels.strided import Side
from glulam.compiler.loops.expr import Expr
from glulam.compiler.loops.index import Affine, Var
from glulam.compiler.loops.ir import Partner

_SHORT = 2 * LINE  # bytes of pieces that are copied together

Channel = tuple[int, int]
"""The number of an input, and a channel of it."""


def concat(ctx: Context, axis: int) -> Lowered:
    """All inputs behind each other along the axis; in channel blocks if the output is."""
    block = ctx.output.layout.block
    shapes = [ctx.operand(i).shape for i in range(len(ctx.inputs))]
    if block > 1 and axis == 1:
        return select_channels(ctx, [[(i, c) for i, shape in enumerate(shapes) for c in range(shape[1])]])
    target = strided.target(ctx)
    lengths = [math.prod(shape[axis:]) for shape in shapes]
    if block == 1 and _are_short(ctx, lengths):
        sources = [strided.source(ctx, i) for i in range(len(shapes))]
        strided.interleave(ctx, math.prod(shapes[0][:axis]), sources, lengths, target)
        return ctx.finished()
    for i, first in enumerate(accumulate((shape[axis] for shape in shapes[:-1]), initial=0)):
        strided.copy(
            ctx, box(shapes[i], block), strided.source(ctx, i, block), target.moved(axis, first), rows(ctx, axis)
        )
    return ctx.finished()


def _are_short(ctx: Context, lengths: Sequence[int]) -> bool:
    """Whether the pieces of dense tensors that come one after the other share cache lines."""
    dense = all(o is not None and o.layout.is_plain for o in ctx.inputs) and ctx.output.layout.is_plain
    return dense and 0 < min(lengths) * ctx.output.type.dtype.size < _SHORT


def split(ctx: Context, axis: int) -> Lowered:
    """Consecutive pieces of input 0, as long as the outputs are; in channel blocks if the outputs are."""
    block = ctx.output.layout.block
    starts = list(accumulate((o.shape[axis] for o in ctx.outputs[:-1]), initial=0))
    if block > 1 and axis == 1:
        pieces = zip(starts, ctx.outputs, strict=True)
        return select_channels(ctx, [[(0, first + c) for c in range(o.shape[1])] for first, o in pieces])
    source = strided.source(ctx, 0, block)
    for i, operand in enumerate(ctx.outputs):
        strided.copy(
            ctx, box(operand.shape, block), source.moved(axis, starts[i]), strided.target(ctx, i), rows(ctx, axis)
        )
    return ctx.finished()


def rows(ctx: Context, axis: int) -> int | None:
    """The axis of rows that two threads take half of each, unless it is what images are joined along."""
    return None if axis == ctx.rows else ctx.rows


def box(shape: Shape, block: int) -> Shape:
    """The extents of a copy of a whole tensor: (n, block, *spatial, lane) in channel blocks."""
    return shape if block == 1 else (shape[0], -(-shape[1] // block), *shape[2:], block)


# ---- channels of blocks

Pick = tuple[int, int, int] | None
"""Where a lane comes from: input, block, lane; None for zero."""


@dataclass(frozen=True)
class _Run:
    """Blocks of an output that are put together alike: each a step further than the one before, in every tensor."""

    picks: tuple[Pick, ...]  # with blocks relative to `block`
    first: int
    block: int
    steps: tuple[int, int] = (0, 0)  # of the output's blocks, and of the inputs'
    count: int = 1


def select_channels(ctx: Context, channels: Sequence[Sequence[Channel]]) -> Lowered:
    """The channels of each output are these channels of the inputs. Outputs are in channel blocks.

    So are the inputs, except that one with a single channel may be plain.
    """
    block = ctx.output.layout.block
    for number, chosen in enumerate(channels):
        for run in _runs([_picks(chosen[c : c + block], block) for c in range(0, len(chosen), block)]):
            _Selection(ctx, number, run).build()
    return ctx.finished()


def _picks(chosen: Sequence[Channel], block: int) -> list[Pick]:
    picks: list[Pick] = [(i, c // block, c % block) for i, c in chosen]
    return picks + [None] * (block - len(chosen))


def _runs(blocks: Sequence[Sequence[Pick]]) -> list[_Run]:
    """The blocks in order of their first like, as few runs as evenly spaced likes allow."""
    alike: dict[tuple[Pick, ...], list[tuple[int, int]]] = {}
    for number, picks in enumerate(blocks):
        base = next(pick[1] for pick in picks if pick is not None)
        key = tuple(None if pick is None else (pick[0], pick[1] - base, pick[2]) for pick in picks)
        alike.setdefault(key, []).append((number, base))
    runs: list[_Run] = []
    for key, places in alike.items():
        run: _Run | None = None
        for number, base in places:
            if run is not None:
                steps = run.steps if run.count > 1 else (number - run.first, base - run.block)
                if (number, base) == (run.first + steps[0] * run.count, run.block + steps[1] * run.count):
                    run = _Run(key, run.first, run.block, steps, run.count + 1)
                    continue
                runs.append(run)
            run = _Run(key, number, base)
        if run is not None:
            runs.append(run)
    return runs


class _Selection:
    """The sections for one run of blocks."""

    def __init__(self, ctx: Context, number: int, run: _Run) -> None:
        self.ctx, self.b, self.run = ctx, ctx.builder, run
        self.operand = ctx.outputs[number]
        self.block = self.operand.layout.block
        self.reads = list({(pick[0], pick[1]): None for pick in run.picks if pick is not None})
        """Input and relative block of each vector that is read."""
        self.single = {i for i, _ in self.reads if ctx.operand(i).shape[1] == 1}
        sources = {i: strided.source(ctx, i, self.read_block(i)) for i, _ in self.reads}
        self.extents, sides = _merged_pixels(self.operand.spatial, [strided.target(ctx, number), *sources.values()])
        self.target, self.sources = sides[0], dict(zip(sources, sides[1:], strict=True))

    def read_block(self, i: int) -> int:
        return self.ctx.operand(i).layout.block if i in self.single else self.block

    def build(self) -> None:
        parts, length = self.parts()
        *outer, last = length, *self.extents[1:]
        unroll = unroll_factor(last, 4) if last else 1

        def pixels(point: Point) -> None:
            part, n, q, *row, start = point
            with self.b.vector("v", self.block) as v, self.b.unrolled("u", unroll) as u:
                first, *others = *row, start * unroll + u
                pixel = (part * length + first, *others)
                place = self.target.at(n, q * self.run.steps[0] + self.run.first, *pixel, v)
                self.b.store(self.target.buffer[place], self.value(n, q, pixel, v))

        cost = 2 * unroll * self.block * self.operand.type.dtype.size
        with self.b.of_partner(Partner.BOTH if parts > 1 else None):
            nest(self.b, [parts, self.operand.shape[0], self.run.count, *outer, last // unroll], cost, pixels)

    def parts(self) -> tuple[int, int]:
        """Parts of the first extent that come before the channels, so that two threads have half each, and how long."""
        first = self.extents[0]
        if not self.ctx.rows or (first % 2 and len(self.extents) == 1):
            return 1, first
        return strided.row_parts(first)

    def value(self, n: Affine, q: Affine, pixel: tuple[Affine, ...], v: Var) -> Expr:
        vectors: list[Expr] = []
        for i, relative in self.reads:
            side = self.sources[i]
            block = q * self.run.steps[1] + (self.run.block + relative)
            lane = 0 if i in self.single else v
            vectors.append(side.buffer[side.at(n, block, *pixel, lane)])
        picks = [None if p is None else (self.reads.index((p[0], p[1])), p[2]) for p in self.run.picks]
        return assembled(vectors, picks)


def _merged_pixels(spatial: Shape, sides: Sequence[Side]) -> tuple[list[int], list[Side]]:
    """Spatial extents with neighbours made one where all sides allow it, and the sides with strides to match."""
    extents: list[int] = []
    kept: list[int] = []
    for d in reversed(range(len(spatial))):
        inner = kept[0] if kept else None
        if spatial[d] == 1 and (kept or d):
            continue
        if inner is not None and all(s.strides[d + 2] == s.strides[inner + 2] * extents[0] for s in sides):
            extents[0] *= spatial[d]
        else:
            extents.insert(0, spatial[d])
            kept.insert(0, d)
    lane = len(spatial) + 2
    return extents, [
        Side(s.buffer, s.start, (*s.strides[:2], *(s.strides[d + 2] for d in kept), *(s.strides[lane:] or (0,))))
        for s in sides
    ]
