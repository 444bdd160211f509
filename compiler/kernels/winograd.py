"""Winograd's minimal filtering, F(m x m, 3 x 3): m * m outputs from (m + 2)^2 multiplications instead of 9 * m * m.

A tile of m x m outputs comes from (m + 2) x (m + 2) inputs d and filters g as A^T [(G g G^T) * (B^T d B)] A (A. Lavin,
S. Gray: Fast Algorithms for Convolutional Neural Networks, 2015). Larger tiles multiply less and round more, and they
blow the filters up: each becomes (m + 2)^2 numbers instead of nine.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import reduce
from itertools import product

import numpy as np
import numpy.typing as npt

from glulam.compiler.graph.types import Array
from glulam.compiler.kernels.tiling import unroll_factor
from glulam.compiler.loops.expr import Const, Expr, Fma
from glulam.compiler.loops.ir import Affine, Builder, IndexLike, Load, TileRead, Var
from glulam.compiler.targets import Target

Matrix = npt.NDArray[np.float64]

_TRANSFORMED = 64  # input channels whose filters are transformed at a time, in the second-level cache


@dataclass(frozen=True, eq=False)
class Filtering:
    """One of the algorithms: the matrices B^T, G and A^T."""

    input_transform: Matrix
    filter_transform: Matrix
    output_transform: Matrix
    input_cycles: float  # to transform one tile of a block of channels on AVX-512: measured for F4, scaled for F2
    output_cycles: float

    @property
    def outputs(self) -> int:
        """Extent of a tile of outputs on either side."""
        return len(self.output_transform)

    @property
    def inputs(self) -> int:
        """Extent of a tile of inputs on either side."""
        return len(self.input_transform)

    @property
    def points(self) -> int:
        """Numbers that a tile, or a filter, becomes."""
        return self.inputs**2

    def tiles_along(self, extent: int) -> int:
        """Tiles that cover an extent; the last one may stick out."""
        return -(-extent // self.outputs)

    def ragged(self, tiles: int, extent: int) -> list[tuple[int, int, int]]:
        """(first tile, tiles, outputs inside) along one side; `extent` is 0 if no tile sticks out."""
        rest = extent % self.outputs
        if not rest:
            return [(0, tiles, self.outputs)]
        whole = [(0, tiles - 1, self.outputs)] if tiles > 1 else []
        return [*whole, (tiles - 1, 1, rest)]

    def transform_filters(self, out: Array, weights: Array) -> None:
        """G g G^T of [OC, C, 3, 3] into [groups, points, C, blocks, lanes], zeros for channels beyond the last."""
        groups, points, in_channels, blocks, lanes = out.shape
        for group, first in product(range(groups), range(0, in_channels, _TRANSFORMED)):
            start, some = group * blocks * lanes, slice(first, first + _TRANSFORMED)
            filters = weights[start : start + blocks * lanes, some]
            wide = np.zeros((*filters.shape[2:], filters.shape[1], blocks * lanes))
            wide[..., : len(filters)] = filters.transpose(2, 3, 1, 0)
            rows = np.einsum("ai,ijcv->ajcv", self.filter_transform, wide)
            both = np.einsum("bj,ajcv->abcv", self.filter_transform, rows)
            out[group, :, some] = both.reshape(points, -1, blocks, lanes)

    # ---- in kernels

    def input_tile(self, b: Builder, read: Callable[[int, int], Expr], write: Callable[[int, Expr], None]) -> None:
        """B^T d B of the inputs read(row, column); write(point, value) takes the result."""
        half = b.tile("half", self.inputs, self.inputs)
        for j in range(self.inputs):
            seen = [read(i, j) for i in range(self.inputs)]
            for i, value in enumerate(combine(self.input_transform, seen)):
                b.store(half[i, j], value)
        for i in range(self.inputs):
            seen = [half[i, k] for k in range(self.inputs)]
            for j, value in enumerate(combine(self.input_transform, seen)):
                write(i * self.inputs + j, value)

    def output_tile(
        self, b: Builder, inside: tuple[int, int], read: Callable[[int], Expr], write: Callable[[int, int, Expr], None]
    ) -> None:
        """A^T m A of the products read(point), of which the first `inside` rows and columns are written."""
        half = b.tile("half", self.outputs, self.inputs)
        for j in range(self.inputs):
            seen = [read(i * self.inputs + j) for i in range(self.inputs)]
            for i, value in enumerate(combine(self.output_transform[: inside[0]], seen)):
                b.store(half[i, j], value)
        for i in range(inside[0]):
            seen = [half[i, k] for k in range(self.inputs)]
            for j, value in enumerate(combine(self.output_transform[: inside[1]], seen)):
                write(i, j, value)


F2 = Filtering(
    np.array([[1, 0, -1, 0], [0, 1, 1, 0], [0, -1, 1, 0], [0, -1, 0, 1]], np.float64),
    np.array([[1, 0, 0], [1 / 2, 1 / 2, 1 / 2], [1 / 2, -1 / 2, 1 / 2], [0, 0, 1]], np.float64),
    np.array([[1, 1, 1, 0], [0, 1, -1, 1]], np.float64),
    input_cycles=50.0,
    output_cycles=40.0,
)
"""F(2x2, 3x3): interpolation points 0, 1, -1 and infinity."""

F4 = Filtering(
    np.array(
        [
            [4, 0, -5, 0, 1, 0],
            [0, -4, -4, 1, 1, 0],
            [0, 4, -4, -1, 1, 0],
            [0, -2, -1, 2, 1, 0],
            [0, 2, -1, -2, 1, 0],
            [0, 4, 0, -5, 0, 1],
        ],
        np.float64,
    ),
    np.array(
        [
            [1 / 4, 0, 0],
            [-1 / 6, -1 / 6, -1 / 6],
            [-1 / 6, 1 / 6, -1 / 6],
            [1 / 24, 1 / 12, 1 / 6],
            [1 / 24, -1 / 12, 1 / 6],
            [0, 0, 1],
        ],
        np.float64,
    ),
    np.array([[1, 1, 1, 1, 1, 0], [0, 1, -1, 2, -2, 0], [0, 1, 1, 4, 4, 0], [0, 1, -1, 8, -8, 1]], np.float64),
    input_cycles=150.0,
    output_cycles=130.0,
)
"""F(4x4, 3x3): interpolation points 0, 1, -1, 2, -2 and infinity."""

_TRANSFORM_REGISTERS = 32

FILTERINGS = {each.outputs: each for each in (F2, F4)}


@dataclass(frozen=True)
class Products:
    """The matrix product of one point: tiles x channels of inputs, times the filters of `blocks` channel blocks.

    `pixels` tiles share a register tile. `inputs(tile, channel)` and `filters(channel, block, lane)` are the operands,
    `ahead(channel, block)` is a filter of the next product, and `store(block, tile, lane, sum)` takes the results.
    """

    b: Builder
    tiles: int
    channels: int
    pixels: int
    blocks: int
    lanes: int
    inputs: Callable[[Affine, Affine], Load]
    filters: Callable[[Affine, Var, Var], Load]
    ahead: Callable[[Affine, Var], Load]
    store: Callable[[Var, Affine, Var, TileRead], None]

    def emit(self) -> None:
        full, rest = divmod(self.tiles, self.pixels)
        if full:
            with self.b.serial("t", full) as t:
                self.register_tile(t, self.pixels)
        if rest:
            self.register_tile(full, rest)

    def register_tile(self, step: IndexLike, pixels: int) -> None:
        """The `step`-th one, which asks for its share of the next filters."""
        b, unroll, start = self.b, unroll_factor(self.channels, 4), Affine.of(step) * self.pixels
        share = -(-unroll // -(-self.tiles // self.pixels))
        with b.vector("v", self.lanes) as v:
            acc = b.tile("acc", pixels, self.blocks)
            with b.unrolled("j", self.blocks) as j, b.unrolled("t", pixels) as t:
                b.store(acc[t, j], 0.0)
            with b.serial("i", self.channels // unroll) as i:
                with b.unrolled("u", share) as u, b.unrolled("j", self.blocks) as j:
                    b.prefetch(self.ahead(i * unroll + Affine.of(step) * share + u, j), level=2)
                with b.unrolled("u", unroll) as u, b.unrolled("t", pixels) as t, b.unrolled("j", self.blocks) as j:
                    channel = i * unroll + u
                    b.store(acc[t, j], Fma(self.inputs(start + t, channel), self.filters(channel, j, v), acc[t, j]))
            with b.unrolled("j", self.blocks) as j, b.unrolled("t", pixels) as t:
                self.store(j, start + t, v, acc[t, j])


def transform_slowdown(target: Target) -> float:
    """How much longer transforms take than on AVX-512, for want of registers."""
    return _TRANSFORM_REGISTERS / min(target.vector_registers, _TRANSFORM_REGISTERS)


def combine(matrix: Matrix, xs: Sequence[Expr]) -> list[Expr]:
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
