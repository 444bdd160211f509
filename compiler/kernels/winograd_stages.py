"""Winograd's minimal filtering in three kernels: all tiles in, the products of one point after the other, all out.

So the filters, which are many where channels are many, are read once. The tiles of a small image wait in the caches
meanwhile.
"""

from __future__ import annotations

import enum
import math
from collections.abc import Iterable, Iterator
from functools import partial
from itertools import product
from typing import NamedTuple

from glulam.compiler.errors import UnsupportedError
from glulam.compiler.graph.types import DType, Shape
from glulam.compiler.kernels.context import Context, Lowered, View
from glulam.compiler.kernels.fixed_point import Digits, FixedPoint, weight_bytes
from glulam.compiler.kernels.frames import IMAGE, Frames, indices
from glulam.compiler.kernels.minimal_filtering import Filtering, Line, Residues
from glulam.compiler.kernels.packing import Packing
from glulam.compiler.kernels.ranges import Pieces
from glulam.compiler.kernels.rates import FAR_RATE, OFTEN, SHOWS, memory_rate, overlapped, stream_rate
from glulam.compiler.kernels.winograd import (
    FinishedTiles,
    Products,
    by_tap,
    packed_filters,
    padded_bias,
    product_cycles,
    product_tiling,
    transform_slowdown,
)
from glulam.compiler.loops.expr import Expr
from glulam.compiler.loops.index import Affine, IndexLike, Var
from glulam.compiler.loops.ir import Buffer, Load, Partner
from glulam.compiler.targets import Target

Pads = tuple[tuple[int, int], ...]

_CACHED = 0.33  # of the last-level cache that the tensors may fill before most of them go to memory and come back
_MOVES = 3  # what it costs to write a tensor and to read it in the next kernel, in readings


def cost(
    target: Target, images: int, spatial: Shape, in_channels: int, out_channels: int, f: Filtering,
    digits: Digits | None = None, frames: Frames = IMAGE,
) -> float:  # fmt: skip
    """Estimated cycles of all three on one core.

    Of volumes, all `frames` of the result are images, and `in_channels` those of a frame of the input.
    """
    lanes, depth = target.lanes, round(frames.met * in_channels)
    in_blocks, out_blocks = -(-in_channels // lanes), -(-out_channels // lanes)
    tiles = images * math.prod(f.tiles(spatial))  # of the result
    read = tiles // frames.outputs * frames.inputs
    filters = round(f.points * frames.taps * in_channels * out_blocks * lanes * weight_bytes(digits))
    tensors = [f.points * count * blocks * lanes * 4 for count, blocks in ((read, in_blocks), (tiles, out_blocks))]
    transforms = (read * in_blocks * f.input_cycles + tiles * out_blocks * f.output_cycles) * transform_slowdown(target)
    size = (tiles // frames.outputs, out_blocks, depth)
    tiling = product_tiling(target, *size, digits)
    products = frames.outputs * f.points * product_cycles(target, tiling, *size, digits)
    far = sum(tensors) > _CACHED * target.l3_bytes
    moves = target.overhead * sum(_MOVES * size / (FAR_RATE if far else stream_rate(target, size)) for size in tensors)
    fetched = overlapped(products, filters / memory_rate(target, filters), SHOWS * target.overhead)
    return f.margin * (transforms + moves + fetched)


def build_input(ctx: Context, f: Filtering, pads: Pads, extents: Shape) -> Lowered:
    """x in channel blocks, with zeros around it as far as the last tile reaches, to v[points, tiles * C' + lanes].

    The last lanes are zeros, see `ops.winograd.WinogradInput`. `pads` and `extents`, of the convolution's result, are
    those of rows and columns. A place in all the frames of a volume comes before the next one.
    """
    b, x, block = ctx.builder, ctx.input_view(0), ctx.operand(0).layout.block
    points, row = ctx.output.shape
    if block == 1 or ctx.output.type.dtype is not DType.F32:
        raise UnsupportedError(f"{ctx.name}: the input lies in no channel blocks of float32")
    v_buffer = ctx.memory("output", 0, (points, row))
    for high, wide in product(f.down.residues(extents[0]), f.across.residues(extents[1])):
        _input_tiles(ctx, x, v_buffer, f, pads, (high, wide), f.tiles(extents))
    with b.section(z=1), b.serial("p", points) as p, b.vector("v", block) as v:
        b.store(v_buffer[p, v + row - block], 0.0)
    return ctx.finished()


def _input_tiles(
    ctx: Context, x: View, tiles: Buffer, f: Filtering, pads: Pads, residues: tuple[Residues, Residues],
    counts: tuple[int, int],
) -> None:  # fmt: skip
    """Transform those of some residues, of all the tiles along rows and columns that `counts` says."""
    b, blocks, block = ctx.builder, x.operand.blocks, x.operand.layout.block
    (high, wide), (rows, columns), ((top, _), (left, _)) = residues, counts, pads
    far, frames = 4 * math.prod(tiles.shape) > ctx.target.l2_bytes, math.prod(x.operand.spatial[:-2])
    with (
        b.section(n=x.operand.shape[0], q=high.count, a=high.tiles, t=frames, c=blocks) as (n, q, a, t, c),
        b.serial("p", wide.count) as p, b.serial("e", wide.tiles) as e, b.vector("v", block) as v,
    ):  # fmt: skip
        row, column = q * high.tiles + a + high.begin, p * wide.tiles + e + wide.begin
        place = ((((n * rows + row) * columns + column) * frames + t) * blocks + c) * block
        image = (n, c, *indices(x.operand, t))
        y, z = a * f.down.step + q + (high.first - top), e * f.across.step + p + (wide.first - left)

        def write(point: Affine, value: Expr) -> None:
            b.store(tiles[point, place + v], value)
            if far:  # room for the tile to the right
                b.prefetch(tiles[point, place + frames * blocks * block], level=2)

        def pixel(i: Affine, j: Affine) -> Expr:
            return x[(*image, y + i * f.down.dilation, z + j * f.across.dilation, v)]

        f.input_tile(b, v, pixel, write)


def build_products(
    ctx: Context, f: Filtering, tiles: int, lanes: int, digits: Digits | None = None, frames: Frames = IMAGE
) -> Lowered:
    """v and constant w[OC,C,*taps] to m[OC / lanes, tiles * slots * lanes], one point after the other.

    Of volumes, `tiles` are those of one frame of the result; the same one of all frames comes before the next.
    """
    weights = ctx.data(1)
    if weights is None or ctx.output.type.dtype is not DType.F32 or lanes != ctx.target.lanes:
        raise UnsupportedError(f"{ctx.name}: the weights are not float32 constants")
    in_channels, blocks = weights.shape[1], ctx.output.shape[0]
    depth = frames.taps * in_channels
    inputs = ctx.memory("input", 0, (f.points, ctx.operand(0).shape[1]))
    outputs = ctx.memory("output", 0, (blocks, tiles * frames.outputs, f.slots, lanes))
    tiling = product_tiling(ctx.target, tiles, blocks, round(frames.met * in_channels), digits)
    shared = _shared(ctx.target, tiles, frames.outputs, blocks * lanes)
    if shared is _Shared.TILES and tiles <= tiling.pixels:
        shared = _Shared.POINTS
    parts = list(_parts(shared, tiling.channel_groups(blocks), f.points, tiles))
    filters: dict[Pieces, Buffer | FixedPoint] = {}
    for channels in dict.fromkeys(part.channels for part in parts):
        first, count, per_group = channels
        some, rows = by_tap(weights)[first * lanes : channels.stop * lanes], per_group * lanes
        shape = (f.points, count, depth, per_group, lanes)
        packing = Packing(some, shape, DType.F32, f.transform_filters_by_point, rows, axis=1)
        filters[channels] = packed_filters(ctx, packing, digits)
    b = ctx.builder
    for part in parts:
        with b.of_partner(part.partner), b.section(p=len(part.points), g=part.channels.times) as (p, g):
            _products(ctx, inputs, filters[part.channels], outputs, part, (p, g), tiling.pixels, frames)
    if f.slots > f.points:
        with (
            b.of_partner(parts[0].partner and Partner.BOTH), b.section(j=blocks) as (j,),
            b.serial("t", outputs.shape[1]) as t, b.vector("v", lanes) as v,
        ):  # fmt: skip
            b.store(outputs[j, t, f.points, v], 0.0)
    return ctx.finished()


class _Part(NamedTuple):
    """Products of some points, channels and tiles, for one of two partners if they share the work."""

    partner: Partner | None
    channels: Pieces
    """Groups of channel blocks."""
    points: range
    tiles: range


def _parts(shared: _Shared, groups: Iterable[Pieces], points: int, tiles: int) -> Iterator[_Part]:
    """All products. Either partner takes half of the points of a group in the middle of an odd number of them."""
    for channels in groups:
        if shared is _Shared.POINTS:
            yield _Part(None, channels, range(points), range(tiles))
        elif shared is _Shared.TILES:
            for partner, some in _by_partner(tiles):
                yield _Part(partner, channels, range(points), some)
        else:
            first, count, per_group = channels
            middle = count // 2
            behind = first + (count - middle) * per_group
            for partner, begin in ((Partner.FIRST, first), (Partner.SECOND, behind)) if middle else ():
                yield _Part(partner, Pieces(begin, middle, per_group), range(points), range(tiles))
            for partner, some in _by_partner(points) if count % 2 else ():
                yield _Part(partner, Pieces(first + middle * per_group, 1, per_group), some, range(tiles))


def _by_partner(count: int) -> list[tuple[Partner, range]]:
    middle = -(-count // 2)
    found = [(Partner.FIRST, range(middle)), (Partner.SECOND, range(middle, count))]
    return [(partner, part) for partner, part in found if part]


class _Shared(enum.Enum):
    """What two threads take half of, so that they find in their own caches what they wrote there in the step before."""

    POINTS = "points"
    TILES = "tiles"
    CHANNELS = "channels"


def _shared(target: Target, tiles: int, frames: int, out_channels: int) -> _Shared:
    """Half of the tiles if filters are not much more than tiles, since both threads then read all filters.

    Else half of the channels; where a slow cache sends the filters, of the points. So where several frames have so
    many `tiles` each, since the filters have several taps along them.
    """
    if not target.for_partners:
        return _Shared.POINTS
    if frames == 1 and OFTEN * 2 * tiles >= out_channels:
        return _Shared.TILES
    return _Shared.POINTS if target.l3_is_slow else _Shared.CHANNELS


def _products(
    ctx: Context, inputs: Buffer, filters: Buffer | FixedPoint, outputs: Buffer, part: _Part, place: tuple[Var, Var],
    pixels: int, frames: Frames,
) -> None:  # fmt: skip
    """Those of the place (point, group of channel blocks) in a part, in register tiles of `pixels`.

    Two threads ask for the next inputs, of which the other one has made some.
    """
    (first, _, per_group), tiles, (_, _, depth, _, lanes) = part.channels, part.tiles, filters.shape
    channels = depth // frames.taps
    row = -(-channels // lanes) * lanes  # of a tile of a frame
    point, block = place[0] + part.points.start, place[1] * per_group + first

    def input(frame: Affine, tap: Affine, tile: Affine, channel: Affine) -> Load:
        at = (tile + tiles.start) * frames.inputs + frames.place(frame, tap)
        return inputs[point, at * row + channel]

    def store(frame: Affine, j: Var, tile: Affine, v: Var, total: Expr) -> None:
        at = (tile + tiles.start) * frames.outputs + frame
        ctx.builder.store(outputs[block + j, at, point, v], total)

    for met in frames.parts:
        with ctx.builder.serial("f", met.count) as t:
            Products(
                ctx.builder, len(tiles), channels, pixels, per_group, lanes,
                inputs=partial(input, t + met.first), store=partial(store, t + met.first),
                filters=filters, place=(point, place[1]), following=(point, place[1] + 1),
                come_from_far=part.partner is not None and not ctx.target.l3_is_slow, taps=met.taps,
            ).emit()  # fmt: skip


def build_output(ctx: Context, finished: FinishedTiles) -> Lowered:
    """m and a constant bias?[OC] to y in channel blocks, with what the epilogue reads."""
    b, block, f = ctx.builder, ctx.output.layout.block, finished.f
    (batch, channels), frames = ctx.output.shape[:2], math.prod(ctx.output.spatial[:-2])
    blocks = ctx.operand(0).shape[0]
    if block == 1 or (ctx.has(1) and ctx.data(1) is None):
        raise UnsupportedError(f"{ctx.name}: the output lies in no channel blocks, or the bias varies")
    rows, columns = f.tiles(finished.extents)
    tiles = batch * rows * columns  # of a frame
    products = ctx.memory("input", 0, (blocks, tiles * frames, f.slots, block))
    bias = ctx.constant(padded_bias(ctx.data(1), channels, blocks, block), "b", table=not ctx.has(1))
    ctx.output_view()
    by_tiles = _shared(ctx.target, tiles, frames, blocks * block) is _Shared.TILES
    for high, top, count, height in _along(f.down, finished.wanted[0]):
        tiled = {"q": high.count, "a": count, "t": frames}
        order = {**tiled, "c": blocks} if by_tiles else {"c": blocks, **tiled}
        with b.section(n=batch, **order) as (n, *vars):
            q, a, t, c = vars if by_tiles else (*vars[1:], vars[0])
            row, image = n * rows + q * high.tiles + a + (top + high.begin), (n, c, *indices(ctx.output, t))
            for wide, left, length, width in _along(f.across, finished.wanted[1]):
                with b.serial("p", wide.count) as p, b.serial("e", length) as e, b.vector("v", block) as v:
                    tile = (row * columns + p * wide.tiles + e + (left + wide.begin)) * frames + t
                    read = partial(_product, products, c, tile, v)
                    place, residue = (a + top, e + left), (q + high.first, p + wide.first)
                    finished.write(read, bias[c, v], image, place, (height, width), v, residue)
    return ctx.finished()


def _along(line: Line, extent: int) -> list[tuple[Residues, int, int, int]]:
    """Runs of equal tiles for each kind of residue: with their first tile, how many, and the outputs of each."""
    return [
        (each, *run)
        for each in line.residues(extent)
        for run in line.runs(each.tiles, each.outputs - (each.tiles - 1) * line.outputs)
    ]


def _product(products: Buffer, block: Var, tile: IndexLike, v: Var, point: Affine) -> Load:
    return products[block, tile, point, v]
