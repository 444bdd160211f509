"""Winograd's minimal filtering in three kernels: all tiles in, the products of one point after the other, all out.

So the filters, which are many where channels are many, are read once. The tiles of a small image wait in the caches
meanwhile.
"""

from __future__ import annotations

import math

import numpy as np

from glulam.compiler.errors import UnsupportedError
from glulam.compiler.graph.types import DType, Shape
from glulam.compiler.kernels.context import Context, Lowered
from glulam.compiler.kernels.packing import Packing
from glulam.compiler.kernels.tiling import choose_tiling, memory_rate, overlapped, row_cycles, stream_rate
from glulam.compiler.kernels.winograd import Filtering, Products, transform_slowdown
from glulam.compiler.loops.expr import Expr
from glulam.compiler.loops.ir import Affine, Buffer, Load, Var
from glulam.compiler.targets import Target

_MOVES = 3  # what it costs to write a tensor and to read it in the next kernel, in readings


def cost(target: Target, batch: int, spatial: Shape, in_channels: int, out_channels: int, f: Filtering) -> float:
    """Estimated cycles of all three on one core."""
    lanes = target.lanes
    in_blocks, out_blocks = -(-in_channels // lanes), -(-out_channels // lanes)
    tiles = batch * math.prod(map(f.tiles_along, spatial))
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
    rows, columns = f.tiles_along(height + top + bottom - 2), f.tiles_along(width + left + right - 2)
    blocks = ctx.operand(0).blocks
    with b.section(n=batch, a=rows, c=blocks) as (n, a, c), b.serial("e", columns) as e, b.vector("v", block) as v:
        place = (((n * rows + a) * columns + e) * blocks + c) * block + v
        y, z = a * f.outputs - top, e * f.outputs - left
        f.input_tile(
            b,
            lambda i, j: x[n, c, y + i, z + j, v],
            lambda point, value: b.store(v_buffer[point, place], value),
        )
    with b.section(p=points) as (p,), b.vector("v", block) as v:
        b.store(v_buffer[p, v + row - block], 0.0)
    return ctx.finished()


def build_products(ctx: Context, f: Filtering, tiles: int, lanes: int) -> Lowered:
    """v and constant w[OC,C,3,3] to m[OC / lanes, tiles * points * lanes], one point after the other."""
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


def build_output(ctx: Context, f: Filtering) -> Lowered:
    """m and a constant bias?[OC] to y in channel blocks, with what the epilogue reads."""
    b, block = ctx.builder, ctx.output.layout.block
    batch, channels, height, width = ctx.output.shape
    blocks = ctx.operand(0).shape[0]
    if block == 1 or (ctx.has(1) and ctx.data(1) is None):
        raise UnsupportedError(f"{ctx.name}: the output lies in no channel blocks, or the bias varies")
    rows, columns = f.tiles_along(height), f.tiles_along(width)
    products = ctx.memory("input", 0, (blocks, batch * rows * columns, f.points, block))
    padded, data = np.zeros(blocks * block, np.float32), ctx.data(1)
    padded[:channels] = 0.0 if data is None else data
    bias = ctx.constant(padded.reshape(blocks, block), "b")
    ctx.output_view()
    for first_row, count, inside in f.ragged(rows, height):
        with b.section(n=batch, c=blocks, a=count) as (n, c, a):
            for first_column, across, inside_across in f.ragged(columns, width):
                with b.serial("e", across) as e, b.vector("v", block) as v:
                    at, tile = (a + first_row, e + first_column), (a + first_row) * columns + e + first_column
                    source = products[c, n * (rows * columns) + tile, 0, v]
                    _output_tile(ctx, f, source, bias[c, v], (n, c), at, (inside, inside_across))
    return ctx.finished()


def _output_tile(
    ctx: Context, f: Filtering, source: Load, bias: Expr, head: tuple[Var, Var], at: tuple[Affine, Affine],
    inside: tuple[int, int],
) -> None:  # fmt: skip
    """The tile whose products begin at `source`, to the place that is `at` tiles from the corner."""
    row, column = (place * f.outputs for place in at)
    (*tile, _, v) = source.index

    def write(i: int, j: int, value: Expr) -> None:
        point = (*head, row + i, column + j, v)
        ctx.write(point, ctx.finish(value + bias, point))

    f.output_tile(ctx.builder, inside, lambda point: source.buffer[(*tile, point, v)], write)
