"""Winograd's minimal filtering in three kernels: all tiles in, the products of one point after the other, all out.

So the filters, which are many where channels are many, are read once. The tiles of a small image wait in the caches
meanwhile.
"""

from __future__ import annotations

import math
from functools import partial

from glulam.compiler.errors import UnsupportedError
from glulam.compiler.graph.types import DType, Shape
from glulam.compiler.kernels.context import Context, Lowered
from glulam.compiler.kernels.minimal_filtering import Filtering
from glulam.compiler.kernels.packing import Packing
from glulam.compiler.kernels.tiling import choose_tiling, memory_rate, overlapped, row_cycles, stream_rate
from glulam.compiler.kernels.winograd import FinishedTiles, Products, padded_bias, transform_slowdown
from glulam.compiler.loops.ir import Buffer, IndexLike, Load, Var
from glulam.compiler.targets import Target

_MOVES = 3  # what it costs to write a tensor and to read it in the next kernel, in readings


def cost(target: Target, batch: int, spatial: Shape, in_channels: int, out_channels: int, f: Filtering) -> float:
    """Estimated cycles of all three on one core."""
    lanes = target.lanes
    in_blocks, out_blocks = -(-in_channels // lanes), -(-out_channels // lanes)
    tiles = batch * math.prod(f.tiles(spatial))
    filters = f.points * in_channels * out_blocks * lanes * 4
    tensors = [f.points * tiles * blocks * lanes * 4 for blocks in (in_blocks, out_blocks)]
    transforms = tiles * (in_blocks * f.input_cycles + out_blocks * f.output_cycles) * transform_slowdown(target)
    tiling = choose_tiling(target, tiles, out_blocks, in_channels)
    products = f.points * row_cycles(target, tiling, tiles, out_blocks, in_channels)
    moves = sum(_MOVES * size / stream_rate(target, size) for size in tensors)
    return transforms + moves + overlapped(products, filters / memory_rate(target, filters))


def build_input(ctx: Context, f: Filtering, pads: tuple[tuple[int, int], ...]) -> Lowered:
    """x in channel blocks, with zeros around it as far as the last tile reaches, to v[points, tiles * C' + lanes]."""
    b, x, block = ctx.builder, ctx.input_view(0), ctx.operand(0).layout.block
    points, row = ctx.output.shape
    if block == 1 or ctx.output.type.dtype is not DType.F32:
        raise UnsupportedError(f"{ctx.name}: the input lies in no channel blocks of float32")
    v_buffer = ctx.memory("output", 0, (points, row))
    (top, bottom), (left, right) = pads
    batch, _, height, width = ctx.operand(0).shape
    rows, columns = f.tiles((height + top + bottom - f.taps[0] + 1, width + left + right - f.taps[1] + 1))
    blocks = ctx.operand(0).blocks
    with b.section(n=batch, a=rows, c=blocks) as (n, a, c), b.serial("e", columns) as e, b.vector("v", block) as v:
        place = (((n * rows + a) * columns + e) * blocks + c) * block + v
        y, z = a * f.outputs[0] - top, e * f.outputs[1] - left
        f.input_tile(
            b,
            lambda i, j: x[n, c, y + i, z + j, v],
            lambda point, value: b.store(v_buffer[point, place], value),
        )
    with b.section(p=points) as (p,), b.vector("v", block) as v:
        b.store(v_buffer[p, v + row - block], 0.0)
    return ctx.finished()


def build_products(ctx: Context, f: Filtering, tiles: int, lanes: int) -> Lowered:
    """v and constant w[OC,C,*taps] to m[OC / lanes, tiles * points * lanes], one point after the other."""
    weights = ctx.data(1)
    if weights is None or ctx.output.type.dtype is not DType.F32 or lanes != ctx.target.lanes:
        raise UnsupportedError(f"{ctx.name}: the weights are not float32 constants")
    in_channels, blocks = weights.shape[1], ctx.output.shape[0]
    row = -(-in_channels // lanes) * lanes
    inputs = ctx.memory("input", 0, (f.points, ctx.operand(0).shape[1]))
    outputs = ctx.memory("output", 0, (blocks, tiles, f.points, lanes))
    tiling = choose_tiling(ctx.target, tiles, blocks, in_channels)
    for first, per_group, count in tiling.channel_groups(blocks):
        part = weights[first * lanes : (first + per_group * count) * lanes]
        shape = (count, f.points, in_channels, per_group, lanes)
        packed = ctx.constant(Packing(part, shape, DType.F32, f.transform_filters, per_group * lanes), "u")
        _products(ctx, inputs, packed, outputs, first, tiling.pixels, row)
    return ctx.finished()


def _products(ctx: Context, inputs: Buffer, packed: Buffer, outputs: Buffer, first: int, pixels: int, row: int) -> None:
    """The section for channel blocks from `first` on: one point after the other, all groups of blocks for each."""
    b, (count, points, channels, per_group, lanes), tiles = ctx.builder, packed.shape, outputs.shape[1]
    with b.section(p=points, g=count) as (p, g):
        block = g * per_group + first
        Products(
            b, tiles, channels, pixels, per_group, lanes,
            inputs=lambda tile, channel: inputs[p, tile * row + channel],
            filters=lambda channel, j, v: packed[g, p, channel, j, v],
            ahead=lambda channel, j: packed[g + 1, p, channel, j, 0],
            store=lambda j, tile, v, total: b.store(outputs[block + j, tile, p, v], total),
        ).emit()  # fmt: skip


def build_output(ctx: Context, finished: FinishedTiles) -> Lowered:
    """m and a constant bias?[OC] to y in channel blocks, with what the epilogue reads."""
    b, block, f = ctx.builder, ctx.output.layout.block, finished.f
    batch, channels = ctx.output.shape[:2]
    blocks = ctx.operand(0).shape[0]
    if block == 1 or (ctx.has(1) and ctx.data(1) is None):
        raise UnsupportedError(f"{ctx.name}: the output lies in no channel blocks, or the bias varies")
    rows, columns = f.tiles(finished.extents)
    products = ctx.memory("input", 0, (blocks, batch * rows * columns, f.points, block))
    bias = ctx.constant(padded_bias(ctx.data(1), channels, blocks, block), "b")
    ctx.output_view()
    down, across = [
        line.runs(tiles, inside)
        for line, tiles, inside in zip((f.down, f.across), f.tiles(finished.wanted), finished.inside, strict=True)
    ]
    for top, count, height in down:
        with b.section(n=batch, c=blocks, a=count) as (n, c, a):
            for left, length, width in across:
                with b.serial("e", length) as e, b.vector("v", block) as v:
                    tile = n * (rows * columns) + (a + top) * columns + e + left
                    read = partial(_product, products, c, tile, v)
                    finished.write(read, bias[c, v], (n, c), (a + top, e + left), (height, width), v)
    return ctx.finished()


def _product(products: Buffer, block: Var, tile: IndexLike, v: Var, point: int) -> Load:
    return products[block, tile, point, v]
