"""Winograd's minimal filtering for 3x3 convolutions: F(4x4, 3x3), four multiplications instead of sixteen.

A tile of 4x4 outputs comes from 6x6 inputs d and filters g as A^T [(G g G^T) * (B^T d B)] A, with the interpolation
points 0, 1, -1, 2, -2 and infinity (A. Lavin, S. Gray: Fast Algorithms for Convolutional Neural Networks, 2015). The
filters are transformed at compile time in float64. One iteration takes a block of tiles: it transforms their inputs
into scratch memory that stays in the second-level cache, multiplies the 36 matrices for one group of channel blocks
after the other, and transforms each result back with the epilogue on the way out.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import reduce
from itertools import product

import numpy as np

from glulam.compiler.graph.types import Array, DType, Shape
from glulam.compiler.kernels.context import Context, Lowered, View
from glulam.compiler.kernels.conv_geometry import ConvGeometry
from glulam.compiler.kernels.conv_template import constant_weights
from glulam.compiler.kernels.packing import Packing
from glulam.compiler.kernels.tiling import Tiling, row_cycles, stream_rate, tilings, unroll_factor
from glulam.compiler.loops.expr import Const, Expr, Fma
from glulam.compiler.loops.ir import Affine, Buffer, Builder, IndexLike, Var
from glulam.compiler.targets import Target

_TRANSFORMED = 64  # input channels whose filters are transformed at a time, in the second-level cache
_PARTS = 4  # iterations that a convolution should have at least
_INPUT_CYCLES, _OUTPUT_CYCLES = 150.0, 130.0  # to transform one tile of a block of channels, measured on AVX-512
_TRANSFORM_REGISTERS = 32
_L2_SHARE = 0.35  # of the second-level cache that the inputs of a block of tiles may fill

OUTPUTS, INPUTS = 4, 6  # extent of a tile on either side
POINTS = INPUTS * INPUTS

INPUT_TRANSFORM = np.array(
    [
        [4, 0, -5, 0, 1, 0],
        [0, -4, -4, 1, 1, 0],
        [0, 4, -4, -1, 1, 0],
        [0, -2, -1, 2, 1, 0],
        [0, 2, -1, -2, 1, 0],
        [0, 4, 0, -5, 0, 1],
    ],
    np.float64,
)
FILTER_TRANSFORM = np.array(
    [
        [1 / 4, 0, 0],
        [-1 / 6, -1 / 6, -1 / 6],
        [-1 / 6, 1 / 6, -1 / 6],
        [1 / 24, 1 / 12, 1 / 6],
        [1 / 24, -1 / 12, 1 / 6],
        [0, 0, 1],
    ],
    np.float64,
)
OUTPUT_TRANSFORM = np.array(
    [[1, 1, 1, 1, 1, 0], [0, 1, -1, 2, -2, 0], [0, 1, 1, 4, 4, 0], [0, 1, -1, 8, -8, 1]], np.float64
)


@dataclass(frozen=True)
class Plan:
    """How an image is cut: blocks of `rows` x `columns` tiles, the channel blocks in `splits` parts for the threads."""

    rows: int
    columns: int
    splits: int
    tiling: Tiling

    @property
    def tiles(self) -> int:
        return self.rows * self.columns


def tiles_along(extent: int) -> int:
    """Tiles that cover an extent; the last one may stick out."""
    return -(-extent // OUTPUTS)


def choose_plan(target: Target, batch: int, spatial: Shape, in_channels: int, out_channels: int) -> Plan:
    """The cheapest way to cut the image that still gives several threads something to do."""
    height, width = map(tiles_along, spatial)
    blocks = -(-out_channels // target.lanes)
    candidates = []
    for rows, columns in _cuts(height, width):
        iterations = batch * (height // rows) * (width // columns)
        for _, _, tiling in tilings(target, rows * columns, blocks, in_channels):
            groups = -(-blocks // tiling.blocks)
            enough = (s for s in range(1, groups + 1) if groups % s == 0 and (iterations * s >= _PARTS or s == groups))
            plan = Plan(rows, columns, next(enough), tiling)
            candidates.append((iterations * _block_cycles(target, plan, in_channels, out_channels), plan))
    return min(candidates, key=lambda candidate: candidate[0])[1]


def cost(target: Target, batch: int, spatial: Shape, in_channels: int, out_channels: int) -> float:
    """Estimated cycles of the whole convolution on one core."""
    plan = choose_plan(target, batch, spatial, in_channels, out_channels)
    height, width = map(tiles_along, spatial)
    iterations = batch * (height // plan.rows) * (width // plan.columns)
    return iterations * _block_cycles(target, plan, in_channels, out_channels)


def _cuts(height: int, width: int) -> list[tuple[int, int]]:
    """Blocks of whole rows of tiles, or of parts of one row."""
    rows = [(r, width) for r in range(1, height + 1) if height % r == 0]
    return rows + [(1, c) for c in range(1, width) if width % c == 0]


def _block_cycles(target: Target, plan: Plan, in_channels: int, out_channels: int) -> float:
    """Cycles for one block of tiles and all output channels."""
    lanes, tiles = target.lanes, plan.tiles
    in_blocks, out_blocks = -(-in_channels // lanes), -(-out_channels // lanes)
    slow = _TRANSFORM_REGISTERS / min(target.vector_registers, _TRANSFORM_REGISTERS)
    inputs = POINTS * tiles * in_blocks * lanes * 4
    filters = POINTS * in_channels * out_blocks * lanes * 4
    transforms = tiles * (plan.splits * in_blocks * _INPUT_CYCLES + out_blocks * _OUTPUT_CYCLES) * slow
    products = POINTS * row_cycles(target, plan.tiling, tiles, out_blocks, in_channels)
    passes = -(-out_blocks // plan.tiling.blocks)
    stream = filters / stream_rate(target, filters + inputs)
    if inputs > _L2_SHARE * target.l2_bytes:  # they come and go between caches, and not all of it is hidden
        transforms += (1 + passes) * inputs / stream_rate(target, inputs)
    return transforms + max(products, stream) + 0.25 * min(products, stream)


def build(ctx: Context, geometry: ConvGeometry) -> Lowered:
    """The kernel. Inputs as for the direct convolution; x carries zeros around it as far as the last tile reaches."""
    return _Winograd(ctx, geometry).build()


class _Winograd:
    def __init__(self, ctx: Context, geometry: ConvGeometry) -> None:
        self.ctx, self.geometry = ctx, geometry
        self.b: Builder = ctx.builder
        self.block = ctx.output.layout.block
        self.x: View = ctx.input_view(0)
        self.weights = constant_weights(ctx)
        self.out_channels, self.in_channels = self.weights.shape[:2]
        bias = ctx.data(2)
        self.bias = np.zeros(self.out_channels, np.float32) if bias is None else bias
        self.in_blocks = -(-self.in_channels // self.block)
        spatial = ctx.output.spatial
        self.plan = choose_plan(ctx.target, ctx.output.shape[0], spatial, self.in_channels, self.out_channels)

    def build(self) -> Lowered:
        ctx, plan = self.ctx, self.plan
        ctx.output_view()
        blocks = ctx.output.blocks
        self.inputs = self.b.scratch("v", (POINTS, plan.tiles, self.in_blocks * self.block))
        self.products = self.b.scratch("m", (plan.tiling.blocks, plan.tiles, POINTS, self.block))
        for first, per_group, count in plan.tiling.channel_groups(blocks):
            splits = math.gcd(plan.splits, count)
            packed = ctx.constant(self.filters(first, per_group, count), "u")
            bias = ctx.constant(self.pack_bias(first, per_group, count), "b")
            for below, rows, right, columns in self.classes():
                extents = {"q": splits, "n": ctx.output.shape[0], "a": rows, "e": columns}
                with self.b.section(**extents) as (q, n, a, e):
                    corner = ((a + below) * plan.rows, (e + right) * plan.columns)
                    self.transform_inputs(n, corner)
                    with self.b.serial("g", count // splits) as g:
                        group = q * (count // splits) + g
                        self.multiply(packed, group, per_group)
                        last = (below + rows) * plan.rows == tiles_along(ctx.output.spatial[0])
                        edge = (right + columns) * plan.columns == tiles_along(ctx.output.spatial[1])
                        self.transform_outputs(n, corner, bias, group, first, per_group, (last, edge))
        return ctx.finished()

    def classes(self) -> list[tuple[int, int, int, int]]:
        """(first row of blocks, rows, first column, columns); blocks at a ragged edge stand by themselves."""

        def cut(extent: int, size: int) -> list[tuple[int, int]]:
            count = tiles_along(extent) // size
            if extent % OUTPUTS == 0 or count == 1:
                return [(0, count)]
            return [(0, count - 1), (count - 1, 1)]

        height, width = self.ctx.output.spatial
        return [
            (row, rows, column, columns)
            for row, rows in cut(height, self.plan.rows)
            for column, columns in cut(width, self.plan.columns)
        ]

    # ---- the three stages

    def transform_inputs(self, n: Var, corner: tuple[Affine, Affine]) -> None:
        """B^T d B of each tile, for each block of input channels."""
        b, plan = self.b, self.plan
        (top, _), (left, _) = self.geometry.pads
        with (
            b.serial("r", plan.rows) as r, b.serial("s", plan.columns) as s,
            b.serial("c", self.in_blocks) as c, b.vector("v", self.block) as v,
        ):  # fmt: skip
            half = b.tile("half", INPUTS, INPUTS)
            row, column = (corner[0] + r) * OUTPUTS - top, (corner[1] + s) * OUTPUTS - left
            for j in range(INPUTS):
                seen = [self.x[n, c, row + i, column + j, v] for i in range(INPUTS)]
                for i, value in enumerate(combine(INPUT_TRANSFORM, seen)):
                    b.store(half[i, j], value)
            for i in range(INPUTS):
                for j, value in enumerate(combine(INPUT_TRANSFORM, [half[i, k] for k in range(INPUTS)])):
                    b.store(self.inputs[i * INPUTS + j, r * plan.columns + s, c * self.block + v], value)

    def multiply(self, packed: Buffer, group: Affine, per_group: int) -> None:
        """For each of the 36 points, the tiles' channels times the filters' of one group of blocks."""
        b, pixels = self.b, self.plan.tiling.pixels
        full, rest = divmod(self.plan.tiles, pixels)
        steps = full + (rest > 0)
        with b.serial("p", POINTS) as p:
            if full:
                with b.serial("t", full) as t:
                    self.product(packed, group, p, t, pixels, per_group, steps)
            if rest:
                self.product(packed, group, p, Affine.of(full), rest, per_group, steps)

    def product(
        self, packed: Buffer, group: Affine, p: Var, step: IndexLike, pixels: int, per_group: int, steps: int
    ) -> None:
        """One register tile, the `step`-th of `steps`, each of which asks for its share of the next point's filters."""
        b, unroll, start = self.b, unroll_factor(self.in_channels, 4), Affine.of(step) * self.plan.tiling.pixels
        share = -(-unroll // steps)
        with b.vector("v", self.block) as v:
            acc = b.tile("acc", pixels, per_group)
            with b.unrolled("j", per_group) as j, b.unrolled("t", pixels) as t:
                b.store(acc[t, j], 0.0)
            with b.serial("i", self.in_channels // unroll) as i:
                with b.unrolled("u", share) as u, b.unrolled("j", per_group) as j:
                    b.prefetch(packed[group, p + 1, i * unroll + Affine.of(step) * share + u, j, 0])
                with b.unrolled("u", unroll) as u, b.unrolled("t", pixels) as t, b.unrolled("j", per_group) as j:
                    channel = i * unroll + u
                    value = Fma(self.inputs[p, start + t, channel], packed[group, p, channel, j, v], acc[t, j])
                    b.store(acc[t, j], value)
            with b.unrolled("j", per_group) as j, b.unrolled("t", pixels) as t:
                b.store(self.products[j, start + t, p, v], acc[t, j])

    def transform_outputs(
        self, n: Var, corner: tuple[Affine, Affine], bias: Buffer, group: Affine, first: int, per_group: int,
        ragged: tuple[bool, bool],
    ) -> None:  # fmt: skip
        """A^T m A of each tile, with bias and epilogue; tiles that stick out of the image store what lies inside."""
        plan, (height, width) = self.plan, self.ctx.output.spatial
        rows = _parts(plan.rows, height if ragged[0] else 0)
        columns = _parts(plan.columns, width if ragged[1] else 0)
        for first_row, count, inside in rows:
            for first_column, across, inside_across in columns:
                with (
                    self.b.serial("j", per_group) as j,
                    self.b.serial("r", count) as r, self.b.serial("s", across) as s,
                    self.b.vector("v", self.block) as v,
                ):  # fmt: skip
                    place = (r + first_row, s + first_column)
                    tile = (r + first_row) * plan.columns + s + first_column
                    block = group * per_group + j + first
                    at = tuple((c + p) * OUTPUTS for c, p in zip(corner, place, strict=True))
                    start = bias[group, j, v]
                    self.output_tile(self.products, (j, tile), start, (n, block), at, (inside, inside_across), v)

    def output_tile(
        self, source: Buffer, where: tuple[IndexLike, ...], bias: Expr, head: tuple[IndexLike, ...],
        at: Sequence[Affine], inside: tuple[int, int], v: Var,
    ) -> None:  # fmt: skip
        b = self.b
        half = b.tile("half", OUTPUTS, INPUTS)
        for j in range(INPUTS):
            seen = [source[(*where, i * INPUTS + j, v)] for i in range(INPUTS)]
            for i, value in enumerate(combine(OUTPUT_TRANSFORM[: inside[0]], seen)):
                b.store(half[i, j], value)
        for i in range(inside[0]):
            results = combine(OUTPUT_TRANSFORM[: inside[1]], [half[i, k] for k in range(INPUTS)])
            for j, value in enumerate(results):
                point = (*head, at[0] + i, at[1] + j, v)
                self.ctx.write(point, self.ctx.finish(value + bias, point))

    # ---- weights

    def filters(self, first: int, per_group: int, count: int) -> Packing:
        """Transformed filters as [group, point, in channel, block of the group, lane]."""
        lanes = slice(first * self.block, (first + per_group * count) * self.block)
        shape = (count, POINTS, self.in_channels, per_group, self.block)
        return Packing(self.weights[lanes], shape, DType.F32, transform_filters)

    def pack_bias(self, first: int, per_group: int, count: int) -> Array:
        padded = np.zeros(self.ctx.output.blocks * self.block, np.float32)
        padded[: self.out_channels] = self.bias
        part = padded[first * self.block : (first + per_group * count) * self.block]
        return np.ascontiguousarray(part.reshape(count, per_group, self.block))


def transform_filters(out: Array, weights: Array) -> None:
    """G g G^T of filters [OC, C, 3, 3] into [groups, points, C, blocks, lanes], zeros for channels beyond the last."""
    groups, points, in_channels, blocks, lanes = out.shape
    for group, first in product(range(groups), range(0, in_channels, _TRANSFORMED)):
        start, some = group * blocks * lanes, slice(first, first + _TRANSFORMED)
        filters = weights[start : start + blocks * lanes, some]
        wide = np.zeros((*filters.shape[2:], filters.shape[1], blocks * lanes))
        wide[..., : len(filters)] = filters.transpose(2, 3, 1, 0)
        rows = np.einsum("ai,ijcv->ajcv", FILTER_TRANSFORM, wide)
        both = np.einsum("bj,ajcv->abcv", FILTER_TRANSFORM, rows)
        out[group, :, some] = both.reshape(points, -1, blocks, lanes)


def _parts(tiles: int, extent: int) -> list[tuple[int, int, int]]:
    """(first tile, tiles, outputs inside) along one side; `extent` is 0 if no tile sticks out."""
    rest = extent % OUTPUTS
    if not rest:
        return [(0, tiles, OUTPUTS)]
    whole = [(0, tiles - 1, OUTPUTS)] if tiles > 1 else []
    return [*whole, (tiles - 1, 1, rest)]


def combine(matrix: np.ndarray[tuple[int, ...], np.dtype[np.float64]], xs: Sequence[Expr]) -> list[Expr]:
    """The matrix times a vector of expressions."""
    return [_dot(row, xs) for row in matrix.tolist()]


def _dot(row: Sequence[float], xs: Sequence[Expr]) -> Expr:
    terms = sorted(((float(k), x) for k, x in zip(row, xs, strict=True) if k), key=lambda term: abs(term[0]) != 1)
    (k, x), *rest = terms
    start = x if k == 1 else -x if k == -1 else x * k
    return reduce(_add_term, rest, start)


def _add_term(total: Expr, term: tuple[float, Expr]) -> Expr:
    k, x = term
    if k == 1:
        return total + x
    if k == -1:
        return total - x
    return Fma(x, Const(k), total)
