"""What the kernels of Winograd's algorithm share: the products of a point, and the tiles of the result."""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import reduce

import numpy as np

from glulam.compiler.graph.types import Array, Shape
from glulam.compiler.kernels.context import Context
from glulam.compiler.kernels.fixed_point import UNPACK_CYCLES, Digits, FixedPoint, weight_bytes
from glulam.compiler.kernels.frames import each_tap
from glulam.compiler.kernels.minimal_filtering import Filtering
from glulam.compiler.kernels.packing import Packing
from glulam.compiler.kernels.ranges import unroll_factor
from glulam.compiler.kernels.rates import LINE, STREAM_BYTES, most_rows
from glulam.compiler.kernels.tiling import Tiling, row_cycles, tilings
from glulam.compiler.kernels.windows import Window
from glulam.compiler.loops import expr as ex
from glulam.compiler.loops.builder import Builder
from glulam.compiler.loops.expr import Expr, Fma
from glulam.compiler.loops.index import Affine, IndexLike, Var
from glulam.compiler.loops.ir import Buffer, Load, Tile, TileRead
from glulam.compiler.targets import Target

Pair = tuple[int, int]
Place = tuple[IndexLike, ...]

_TRANSFORM_REGISTERS = 32
_CHANNELS = 4  # of a round of the loop, at most
_DRAWN = 0.4  # of the time in which filters come from the second-level cache shows where the last-level one is slow


@dataclass(frozen=True)
class Products:
    """The matrix product of one point: tiles x channels of inputs, times the filters of `blocks` channel blocks.

    `pixels` tiles share a register tile. `inputs(tap, tile, channel)` are those of the frame that a tap meets, and add
    up over `taps`; the filters of all taps' channels lie one after the other in `filters[*place, channel, block,
    lane]`. The next product's lie at `following`, and `store(block, tile, lane, sum)` takes the results. If inputs
    `come_from_far`, a register tile asks for those of the next one, which lie behind its own.
    """

    b: Builder
    tiles: int
    channels: int
    pixels: int
    blocks: int
    lanes: int
    inputs: Callable[[Affine, Affine, Affine], Load]
    filters: Buffer | FixedPoint
    place: Place
    following: Place
    store: Callable[[Var, Affine, Var, Expr], None]
    come_from_far: bool = False
    taps: range = range(1)

    def emit(self) -> None:
        full, rest = divmod(self.tiles, self.pixels)
        if full:
            with self.b.serial("t", full) as t:
                self.register_tile(t, self.pixels)
        if rest:
            self.register_tile(full, rest)

    @property
    def unroll(self) -> int:
        """Channels of a round of the loop."""
        return _CHANNELS if isinstance(self.filters, FixedPoint) else unroll_factor(self.channels, _CHANNELS)

    def register_tile(self, step: IndexLike, pixels: int) -> None:
        """The `step`-th one, which asks for its share of the next filters."""
        b, start = self.b, Affine.of(step) * self.pixels
        with b.vector("v", self.lanes) as v:
            acc = b.tile("acc", pixels, self.blocks)
            with b.unrolled("j", self.blocks) as j, b.unrolled("t", pixels) as t:
                b.store(acc[t, j], 0.0)
            with each_tap(b, self.taps) as tap:
                self.add_frame(acc, start, step, tap, v)
            with b.unrolled("j", self.blocks) as j, b.unrolled("t", pixels) as t:
                self.store(j, start + t, v, self.total(acc[t, j], j, v))

    def add_frame(self, acc: Tile, start: Affine, step: IndexLike, tap: Affine, v: Var) -> None:
        """The products of the channels of a frame."""
        b, (pixels, _) = self.b, acc.shape
        full, rest = divmod(self.channels, self.unroll)
        lines = -(-pixels * self.unroll // self.lanes)
        if full:
            with b.serial("i", full) as i:
                self.ask_ahead(tap, i, step)
                if self.come_from_far:
                    with b.unrolled("n", lines) as n:
                        b.prefetch(self.inputs(tap, start + pixels, (i * lines + n) * self.lanes), level=2)
                self.add(acc, start, tap, i * self.unroll, self.unroll, v)
        if rest:
            self.add(acc, start, tap, Affine.of(full * self.unroll), rest, v)

    def ask_ahead(self, tap: Affine, i: Var, step: IndexLike) -> None:
        """For a share of the filters that the next product has for the channels of the i-th round."""
        b, frame, rows, buffer = self.b, self.channels, self.unroll, self.filters
        if isinstance(buffer, FixedPoint):
            frame, rows, buffer = buffer.digits.rows_of(frame), buffer.digits.rows_of(rows), buffer.numbers
        share = -(-rows // -(-self.tiles // self.pixels))
        blocks = max(1, LINE // (self.lanes * buffer.dtype.size))
        with b.unrolled("u", share) as u, b.unrolled("j", -(-self.blocks // blocks)) as j:
            row = tap * frame + i * rows + Affine.of(step) * share + u
            b.prefetch(buffer[(*self.following, row, j * blocks, 0)], level=2)

    def add(self, acc: Tile, start: Affine, tap: Affine, first: Affine, count: int, v: Var) -> None:
        """The products of some channels; of fixed-point filters it must be known which of those together they are."""
        b, (pixels, blocks) = self.b, acc.shape

        def multiply(channel: Affine) -> None:
            with b.unrolled("t", pixels) as t, b.unrolled("j", blocks) as j:
                x = self.inputs(tap, start + t, channel)
                w = self.filters[(*self.place, tap * self.channels + channel, j, v)]
                b.store(acc[t, j], Fma(x, w, acc[t, j]))

        if isinstance(self.filters, FixedPoint):
            for number in range(count):
                multiply(first + number)
            return
        with b.unrolled("u", count) as u:
            multiply(first + u)

    def total(self, sum_: TileRead, j: Var, v: Var) -> Expr:
        """The sum, multiplied by the scale of fixed-point filters."""
        if isinstance(self.filters, FixedPoint):
            return self.filters.scaled(sum_) * self.filters.scale(self.place, 0, j, v)
        return sum_


def by_tap(weights: Array) -> Array:
    """[OC, C, *taps], of volumes with the channels of a tap along the first axis together: [OC, taps, C, *others]."""
    return weights.swapaxes(1, 2) if weights.ndim > 4 else weights


def packed_filters(ctx: Context, packing: Packing, digits: Digits | None) -> Buffer | FixedPoint:
    """The kernel's constant of transformed filters [*groups, channels, blocks, lanes]."""
    return ctx.constant(packing, "u") if digits is None else FixedPoint.of(ctx, packing, (0,), "u", digits)


def product_cycles(
    target: Target, tiling: Tiling, tiles: int, blocks: int, channels: int, digits: Digits | None = None
) -> float:
    """Estimated cycles of the product of a point.

    Where the last-level cache is slow, the buffers through which its lines come, asked for ahead, are those of lines
    from the second-level one; so filters should come from there few times.
    """
    drawn = -(-tiles // tiling.pixels) * channels * blocks  # vectors of filters
    unpacking = 0.0 if digits is None else drawn * UNPACK_CYCLES * target.overhead**2
    cycles = row_cycles(target, tiling, tiles, blocks, channels, target.overhead) + unpacking
    if not target.l3_is_slow:
        return cycles
    return cycles + _DRAWN * drawn * target.lanes * weight_bytes(digits) / STREAM_BYTES


def product_tilings(
    target: Target, tiles: int, blocks: int, channels: int, digits: Digits | None = None
) -> list[tuple[float, Tiling]]:
    """For each number of channel blocks the best register tile of a point's product, and its estimated cycles.

    It has hardly more tiles than leave their channels, which lie a row of all blocks apart, in the first cache. On
    a Zen 4, 9 where it keeps 8 are no slower, 28 where it keeps 16 take 1.5 times as long.
    """
    kept = most_rows(target, -(-channels // target.lanes) * target.vector_bytes)
    size, found = (tiles, blocks, channels), tilings(target, tiles, blocks, channels, limit=kept + kept // 8)
    return [(product_cycles(target, tiling, *size, digits), tiling) for *_, tiling in found]


def product_tiling(target: Target, tiles: int, blocks: int, channels: int, digits: Digits | None = None) -> Tiling:
    """The best of them."""
    found = product_tilings(target, tiles, blocks, channels, digits)
    return min(found, key=lambda each: (each[0], -each[1].pixels))[1]


@dataclass(frozen=True)
class FinishedTiles:
    """Writes the tiles of a result of `extents` rows and columns: A^T m A, bias, epilogue, and a pool if there is one.

    Of tiles that stick out of the image what lies inside is written. The pool's windows lie side by side in the tiles,
    see `holds_windows`.
    """

    ctx: Context
    f: Filtering
    extents: Shape
    window: Window | None = None

    @property
    def wanted(self) -> Shape:
        """Rows and columns of the result that are needed: without those that no window of a pool reaches."""
        if self.window is None:
            return self.extents
        reach = zip(self.ctx.output.spatial, self.window.geometry.strides, strict=True)
        return tuple(min(extent, n * s) for extent, (n, s) in zip(self.extents, reach, strict=True))

    @property
    def inside(self) -> Pair:
        """Rows and columns of them in the last tiles that have any."""
        (rows, columns), (height, width) = self.f.tiles(self.wanted), self.wanted
        return height - (rows - 1) * self.f.outputs[0], width - (columns - 1) * self.f.outputs[1]

    def write(
        self, read: Callable[[Affine], Expr], bias: Expr, head: tuple[IndexLike, ...],
        place: tuple[Affine, Affine], inside: Pair, v: Var, residue: tuple[IndexLike, IndexLike] = (0, 0),
    ) -> None:  # fmt: skip
        """The tile of products read(point) that is `place` tiles from the corner of image, block, and frame: `head`.

        It has every dilation-th output, from the `residue`-th on.
        """
        lines, found = (self.f.down, self.f.across), dict[Pair, Expr]()

        def pixel(*inner: int) -> list[Affine]:
            each = zip(place, lines, inner, residue, strict=True)
            return [(at * line.outputs + k) * line.dilation + first for at, line, k, first in each]

        def finish(i: int, j: int, value: Expr) -> None:
            found[i, j] = self.ctx.finish(value + bias, (*head, *pixel(i, j), v))

        self.f.output_tile(self.ctx.builder, v, inside, read, finish)
        if self.window is None:
            for (i, j), value in found.items():
                self.ctx.write((*head, *pixel(i, j), v), value)
            return
        down, across = self.window.geometry.strides
        top, left = place[0] * (self.f.outputs[0] // down), place[1] * (self.f.outputs[1] // across)
        for (i, j), value in self._pooled(self.window, found, inside).items():
            self.ctx.write((*head, top + i, left + j, v), value)

    @staticmethod
    def _pooled(window: Window, found: Mapping[Pair, Expr], inside: Pair) -> dict[Pair, Expr]:
        """One value for each window; the last windows of the image may be cut off."""
        size = window.geometry.kernel
        fold = operator.add if window.counts else ex.maximum
        members: dict[Pair, list[Expr]] = {}
        for (i, j), value in found.items():
            members.setdefault((i // size[0], j // size[1]), []).append(value)
        folded = {place: reduce(fold, values) for place, values in members.items()}
        if not window.counts:
            return folded

        def count(d: int, at: int) -> int:
            return window.counts[d][-1 if (at + 1) * size[d] > inside[d] else 0]

        return {(i, j): total * (1.0 / (count(0, i) * count(1, j))) for (i, j), total in folded.items()}


def holds_windows(f: Filtering, window: Window, extents: Shape, pooled: Shape) -> str | None:
    """Why the tiles of an image do not hold the windows of a pool with so many results; None if they do."""
    geo = window.geometry
    if len(extents) != 2:
        return "it is no pool of images"
    if f.is_dilated:
        return "neighbours lie in different tiles of a dilated convolution"
    if geo.kernel != geo.strides or set(geo.dilations) != {1} or any(geo.before):
        return "its windows do not lie side by side from the corner on"
    if any(m % k for m, k in zip(f.outputs, geo.kernel, strict=True)):
        return f"the convolution computes tiles of {f.name}, which hold no whole windows"
    if any(not 0 < (n - 1) * k + 1 <= extent for n, k, extent in zip(pooled, geo.kernel, extents, strict=True)):
        return "there is no window, or one in the padding alone"
    return None


def transform_slowdown(target: Target) -> float:
    """How much longer transforms take than with AVX-512 on a Zen 4, for want of registers.

    Half of their time shows as much as that of other work beside products does.
    """
    return _TRANSFORM_REGISTERS / min(target.vector_registers, _TRANSFORM_REGISTERS) * (1 + target.overhead) / 2


def padded_bias(bias: Array | None, channels: int, blocks: int, lanes: int) -> Array:
    """[blocks, lanes], zeros where there is none."""
    if bias is not None and channels == blocks * lanes:
        return bias.reshape(blocks, lanes)
    padded = np.zeros(blocks * lanes, np.float32)
    padded[:channels] = 0.0 if bias is None else bias
    return padded.reshape(blocks, lanes)
