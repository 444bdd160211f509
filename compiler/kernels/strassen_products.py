"""The seven products of Strassen's algorithm, see `strassen`, and the result from them.

One register tile after the other computes the products for the same place of all four quarters, so that what they share
never leaves the first-level cache. Where there are many tiles and the weights for seven products are more than stays
near, each product is computed for a number of tiles instead.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from itertools import accumulate

import numpy as np

from glulam.compiler.errors import UnsupportedError
from glulam.compiler.graph.types import Array, DType
from glulam.compiler.kernels import gemm
from glulam.compiler.kernels.context import Context, Lowered, View
from glulam.compiler.kernels.packing import Packing
from glulam.compiler.kernels.ranges import Parts, Pieces, Run, pieces, runs, unrolled_steps
from glulam.compiler.kernels.strassen import LEFT, PRODUCTS, RIGHT, SUMS, Form, Halving, Where
from glulam.compiler.kernels.tiling import Tiling, choose_tiling
from glulam.compiler.loops.builder import Builder
from glulam.compiler.loops.expr import Expr, Fma
from glulam.compiler.loops.index import Affine, IndexLike
from glulam.compiler.loops.ir import Partner

_A11, _A12, _A22, _S1, _S2, _S3, _S4 = range(PRODUCTS)  # by their left factor
_MANY_GROUPS = 8  # of columns, which threads can share
_FEW_TILES = 8  # that share the time in which the next weights have to arrive
_LARGE = 4  # a group's weights are, if that times they fill the second-level cache
_KEPT = 2  # of that cache, products that wait for others may fill such a part


def build(ctx: Context, halving: Halving) -> Lowered:
    """x, S and constant w[OC, C, *1] and bias?[OC] to the convolution's, or linear layer's, result."""
    weights = ctx.data(2)
    if weights is None or (ctx.has(3) and ctx.data(3) is None):
        raise UnsupportedError(f"{ctx.name}: weights or bias are no constants")
    flat = None if halving.channels_last or halving.strides else ctx.flattened(apart=(1,))
    return _Products(flat or ctx, weights.reshape(weights.shape[:2]), halving).build()


class _Products:
    """The nest of loops over column groups and register tiles."""

    def __init__(self, ctx: Context, weights: Array, halving: Halving) -> None:
        self.ctx, self.b, self.weights = ctx, ctx.builder, weights
        self.form = Form.of(ctx, ctx.operand(1), halving)
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
        groups = [_Group(self, each, tiling.pixels) for each in tiling.channel_groups(self.out_blocks)]
        units = groups[0].full
        if self.reads_groups_once(groups):
            self.groups_once(groups, units)
        else:
            self.groups_in_runs(groups, units)
        return self.ctx.finished()

    def groups_in_runs(self, groups: Sequence[_Group], units: int) -> None:
        """Some units go through all groups before the next ones do."""
        for run in runs(units, self.run(units), together=len(groups) == 1):
            with self.b.of_partner(run.partner):
                for group in groups:
                    group.runs(run)
        for group in groups:
            group.ends()

    def reads_groups_once(self, groups: Sequence[_Group]) -> bool:
        """Whether an iteration takes all units for a group of weights that would have to come from afar again."""
        far = self.weights.nbytes * PRODUCTS // 4 > self.ctx.target.l2_bytes
        if not far or self.ctx.target.many_threads or max(group.count for group in groups) < _MANY_GROUPS:
            return False
        return not self.form.inner or groups[0].together > 1

    def groups_once(self, groups: Sequence[_Group], units: int) -> None:
        """All of the units and what is behind them, or the half that each of two threads has.

        If one is left over, either thread takes it for half of the groups.
        """
        count = units + bool(groups[0].rest())
        if self.run(units) >= units:
            for group in groups:
                group.whole(range(group.count), range(count))
            return
        middle, rest = divmod(count, 2)
        first = Partner.FIRST, range(middle + rest), range(middle)
        second = Partner.SECOND, range(middle + rest, count), range(middle, count)
        for partner, of_some, of_others in (first, second):
            with self.b.of_partner(partner):
                for group in groups:
                    group.whole(range(group.count // 2), of_some)
                    group.whole(range(group.count // 2, group.count), of_others)

    def run(self, count: int) -> int:
        """How many of `count` rows, or tiles, go through all groups before the next ones do."""
        return self.ctx.run(count, self.weights.nbytes * PRODUCTS // 4, self.ctx.operand(1).type.nbytes)

    def pack(self, blocks: Pieces) -> Packing:
        """[group, product, channel, block, lane] of the weights' quarters and their sums, in the order of use."""
        shape = (blocks.times, PRODUCTS, self.form.blocks * self.lanes, blocks.length, self.lanes)
        part = slice(blocks.first * self.lanes, blocks.stop * self.lanes)
        halves = self.weights.reshape(2, -1, self.weights.shape[1])[:, part]
        return Packing(halves, shape, DType.F32, _pack)

    def pack_bias(self, blocks: Pieces) -> Array:
        """[half, group, block, lane]."""
        part = self.bias.reshape(2, self.out_blocks, self.lanes)[:, blocks.first : blocks.stop]
        return part.reshape(2, blocks.times, blocks.length, self.lanes)


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


@dataclass(frozen=True)
class _Span:
    """Tiles of `top` pixels: `count` of them along the last dimension, in each of `rows` rows, from a place on.

    The bottom half has `bottom` pixels of each.
    """

    rows: int
    count: int
    place: Sequence[IndexLike]
    top: int
    bottom: int

    @contextmanager
    def each(self, b: Builder) -> Iterator[tuple[Affine, list[IndexLike]]]:
        """Loops over the tiles: (which one, its place)."""
        place, number = list(self.place), Affine.of(0)
        with ExitStack() as stack:
            if self.rows > 1:
                r = stack.enter_context(b.serial("r", self.rows))
                place[0], number = r + place[0], r * self.count
            if self.count > 1:
                s = stack.enter_context(b.serial("s", self.count))
                place[-1], number = s * self.top + place[-1], s + number
            yield number, place


class _Group:
    """Some column groups of `per_group` blocks in either half of the outputs, from block `first` on.

    Their units are tiles along the only dimension, or rows of tiles.
    """

    def __init__(self, products: _Products, blocks: Pieces, pixels: int) -> None:
        self.ctx, self.b, self.form, self.products = products.ctx, products.b, products.form, products
        (self.first, self.count, self.per_group), self.pixels = blocks, pixels
        self.packed = self.ctx.constant(products.pack(blocks), "w")
        self.bias = self.ctx.constant(products.pack_bias(blocks), "b", table=products.ctx.data(3) is None)
        self.kept = self.b.scratch(f"kept{blocks.first}", (self.slots, PRODUCTS, pixels, blocks.length, products.lanes))
        self.head: Sequence[IndexLike] = ()  # of the tile in hand: image and group
        self.lane: IndexLike = 0
        self.share = Affine.of(0)  # which share of the next group's weights it asks for

    # ---- which tiles

    @property
    def full(self) -> int:
        """Units that have partners."""
        return self.form.bottom if self.form.inner else self.form.bottom // self.pixels

    def units(self, first: Affine, count: int, middle: Sequence[IndexLike] = ()) -> list[_Span]:
        """Such units from the first on."""
        if not self.form.inner:
            return [_Span(1, count, [first * self.pixels], self.pixels, self.pixels)]
        return self.rows(first, count, middle, paired=True)

    def rest(self, middle: Sequence[IndexLike] = ()) -> list[_Span]:
        """What fills no unit, and rows without a partner."""
        form, pixels = self.form, self.pixels
        left = form.top - form.bottom
        if form.inner:
            return self.rows(Affine.of(form.bottom), left, middle, paired=False) if left else []
        full, rest = divmod(form.bottom, pixels)
        begin = full * pixels
        if 0 < rest + left <= pixels:
            return [_Span(1, 1, [begin], rest + left, rest)]
        ends = [_Span(1, 1, [begin], rest, rest)] if rest else []
        return ends + [_Span(1, count, [first + begin + rest], n, 0) for first, count, n in pieces(left, pixels)]

    def rows(self, first: Affine, count: int, middle: Sequence[IndexLike], paired: bool) -> list[_Span]:
        """Rows of pixels, in tiles."""
        return [
            _Span(count, tiles, [first, *middle, start], pixels, pixels if paired else 0)
            for start, tiles, pixels in pieces(self.form.inner[-1], self.pixels)
        ]

    def runs(self, run: Run) -> None:
        """Runs of units, tile by tile."""
        first, times, length, _ = run
        with self.b.section(n=self.form.batch, h=times, g=self.count, s=length, **self.middle) as (n, h, g, s, *middle):
            self.head, self.share = (n, g), Affine.of(s)
            self.one_by_one(self.units(h * length + s + first, 1, middle))

    def ends(self) -> None:
        """What is behind the units."""
        if self.rest():
            with self.b.section(n=self.form.batch, g=self.count, **self.middle) as (n, g, *middle):
                self.head, self.share = (n, g), Affine.of(self.full)
                self.one_by_one(self.rest(middle))

    @property
    def middle(self) -> dict[str, int]:
        """Dimensions between the first and the last one."""
        return {f"m{d}": extent for d, extent in enumerate(self.form.inner[:-1])}

    def whole(self, groups: range, units: range) -> None:
        """Some of the units for each of some groups; the one behind the last is all that is behind it."""
        if not groups or not units:
            return
        with self.b.section(n=self.form.batch, g=len(groups)) as (n, g):
            self.head = (n, g + groups.start)
            for start, times, length in pieces(min(units.stop, self.full) - units.start, self.together):
                with self.b.serial("h", times) as h:
                    self.share = Affine.of(h)
                    spans = self.units(h * length + (start + units.start), length)
                    if self.together > 1:
                        self.tiles(spans)
                    else:
                        self.one_by_one(spans)
            if units.stop > self.full:
                self.share = Affine.of(self.full - units.start)
                self.one_by_one(self.rest())

    def one_by_one(self, spans: Sequence[_Span]) -> None:
        """Each tile by itself."""
        for span in spans:
            with span.each(self.b) as (_, place):
                self.tiles([_Span(1, 1, place, span.top, span.bottom)])

    @property
    def tiles_in_unit(self) -> int:
        return -(-self.form.inner[-1] // self.pixels) if self.form.inner else 1

    @property
    def together(self) -> int:
        """How many units are computed product by product, if their weights would not stay near, nor are asked for."""
        machine = self.ctx.target
        column = PRODUCTS * self.per_group * machine.vector_bytes
        near = column * self.form.blocks * self.products.lanes * _LARGE < machine.l2_bytes
        if near or self.asks_for_weights or len(self.form.inner) > 1:
            return 1
        return max(1, min(self.full, machine.l2_bytes // _KEPT // (column * self.pixels * self.tiles_in_unit)))

    @property
    def slots(self) -> int:
        """For the products of tiles that are computed together."""
        return self.together * self.tiles_in_unit if self.together > 1 else 1

    @property
    def asks_for_weights(self) -> bool:
        """Whether tiles ask for those of the next group."""
        return self.tiles_in_run <= _FEW_TILES or self.ctx.target.asks_ahead

    @property
    def tiles_in_run(self) -> int:
        """Of one group, about."""
        return -(-self.products.run(self.form.top * math.prod(self.form.inner)) // self.pixels)

    # ---- the products

    def tiles(self, spans: Sequence[_Span]) -> None:
        """All four quarters of tiles, product by product. All of them have pixels of the bottom half, or none has."""
        x, s, form = self.products.x, self.products.s, self.form
        slots = accumulate((span.rows * span.count for span in spans[:-1]), initial=0)
        placed, paired = [*zip(slots, spans, strict=True)], all(span.bottom for span in spans)
        with self.b.vector("v", self.products.lanes) as self.lane:
            with self.b.serial("e", 2) as e:
                for slot, span in placed:
                    self.product(slot, span, span.top, Affine.of(e), x, Affine.of(e), form.taken(form.above))
            if paired:
                for slot, span in placed:
                    self.product(slot, span, span.bottom, Affine.of(_A22), x, Affine.of(1), form.taken(form.below))
            first, step = (0, 1) if paired else (1, 2)  # unpaired, S1 is zero, and S3 is for the bottom half
            with self.b.serial("e", SUMS // step) as e:
                for slot, span in placed:
                    self.product(slot, span, span.top, e * step + (first + _S1), s, e * step + first, list)
            for slot, span in placed:
                self.finish(slot, span)

    def product(
        self, slot: int, span: _Span, pixels: int, number: Affine, view: View, half: Affine, where: Where
    ) -> None:
        """The `number`-th one: of channels of `view`, so many halves of x's on, and of as many of the weights."""
        b, (n, g), lanes = self.b, self.head, self.products.lanes
        unroll = unrolled_steps(lanes, pixels * self.per_group)
        with span.each(b) as (tile, (*outer, last)):
            acc = b.tile("acc", pixels, self.per_group)
            with b.unrolled("t", pixels) as t, b.unrolled("j", self.per_group) as j:
                b.store(acc[t, j], 0.0)
            with b.serial("c", self.form.blocks) as c:
                block = c + half * self.form.blocks
                if self.asks_for_weights:
                    self.fetch_weights(number, c * lanes)
                if self.fetches_pixels:
                    with b.unrolled("t", pixels) as t:
                        b.prefetch(view[self.form.point(n, block, where([*outer, t + last + pixels]), 0)], level=2)
                with (
                    b.serial("i", lanes // unroll) as i, b.unrolled("u", unroll) as u,
                    b.unrolled("t", pixels) as t, b.unrolled("j", self.per_group) as j,
                ):  # fmt: skip
                    value = view[self.form.point(n, block, where([*outer, t + last]), i * unroll + u)]
                    weight = self.packed[g, number, c * lanes + i * unroll + u, j, self.lane]
                    b.store(acc[t, j], Fma(value, weight, acc[t, j]))
            with b.unrolled("t", pixels) as t, b.unrolled("j", self.per_group) as j:
                b.store(self.kept[tile + slot, number, t, j, self.lane], acc[t, j])

    def fetch_weights(self, number: Affine, channel: Affine) -> None:
        """Ask for a share of the next group's weights for the channels of one block."""
        group = Affine.of(self.head[1]) + 1
        share = -(-self.products.lanes // self.tiles_in_run)
        with self.b.unrolled("u", share) as u, self.b.unrolled("j", self.per_group) as j:
            self.b.prefetch(self.packed[group, number, channel + self.share * share + u, j, 0], level=2)

    @property
    def fetches_pixels(self) -> bool:
        """Whether to ask for the next tile's pixels: short runs in many places, which no hardware foresees."""
        return not self.form.channels_last and self.ctx.operand(0).type.nbytes > self.ctx.target.l2_bytes // 2

    def finish(self, slot: int, span: _Span) -> None:
        """The quarters from the products."""
        above, below = self.form.above, self.form.below
        self.quarter(slot, span, LEFT, span.top, above, (_A11, _A12))
        if span.bottom:
            self.quarter(slot, span, RIGHT, span.top, above, (_A11, _S2, _S1, _S4))
            self.quarter(slot, span, LEFT, span.bottom, below, (_A11, _S2, _S3, _A22))
            self.quarter(slot, span, RIGHT, span.bottom, below, (_A11, _S2, _S3, _S1))
        else:
            self.quarter(slot, span, RIGHT, span.top, above, (_A11, _S2, _S4))

    def quarter(self, slot: int, span: _Span, half: int, pixels: int, where: Where, numbers: Sequence[int]) -> None:
        """Add up products for one quarter, and bias and epilogue."""
        b, (n, g) = self.b, self.head
        with span.each(b) as (tile, (*outer, last)), b.serial("t", pixels) as t, b.unrolled("j", self.per_group) as j:
            total: Expr = self.bias[half, g, j, self.lane]
            for number in numbers:
                total = total + self.kept[tile + slot, number, t, j, self.lane]
            block = Affine.of(g) * self.per_group + j + (self.first + half * self.products.out_blocks)
            point = self.form.point(n, block, where([*outer, t + last]), self.lane)
            self.ctx.write(point, self.ctx.finish(total, point))
