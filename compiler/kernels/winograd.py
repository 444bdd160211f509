"""What the kernels of Winograd's algorithm share: the products of a point, and the tiles of the result."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from glulam.compiler.graph.types import Array, Shape
from glulam.compiler.kernels.context import Context
from glulam.compiler.kernels.minimal_filtering import Filtering
from glulam.compiler.kernels.tiling import unroll_factor
from glulam.compiler.loops.expr import Expr, Fma
from glulam.compiler.loops.ir import Affine, Builder, IndexLike, Load, TileRead, Var
from glulam.compiler.targets import Target

_TRANSFORM_REGISTERS = 32


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


@dataclass(frozen=True)
class FinishedTiles:
    """Writes the tiles of a result of `extents` rows and columns: A^T m A, bias, epilogue.

    Tiles that stick out of the image store what lies inside.
    """

    ctx: Context
    f: Filtering
    extents: Shape

    @property
    def inside(self) -> tuple[int, int]:
        """Rows and columns of outputs that the last tiles of the image have inside."""
        outputs, tiles = self.f.outputs, self.f.tiles(self.extents)
        rows, columns = (n - (count - 1) * m for n, count, m in zip(self.extents, tiles, outputs, strict=True))
        return rows, columns

    def write(
        self, read: Callable[[int], Expr], bias: Expr, head: tuple[IndexLike, IndexLike], place: tuple[Affine, Affine],
        inside: tuple[int, int], v: Var,
    ) -> None:  # fmt: skip
        """The tile of products read(point) that is `place` tiles from the corner of image and block `head`."""
        top, left = (at * m for at, m in zip(place, self.f.outputs, strict=True))

        def write(i: int, j: int, value: Expr) -> None:
            point = (*head, top + i, left + j, v)
            self.ctx.write(point, self.ctx.finish(value + bias, point))

        self.f.output_tile(self.ctx.builder, inside, read, write)


def transform_slowdown(target: Target) -> float:
    """How much longer transforms take than on AVX-512, for want of registers."""
    return _TRANSFORM_REGISTERS / min(target.vector_registers, _TRANSFORM_REGISTERS)


def padded_bias(bias: Array | None, channels: int, blocks: int, lanes: int) -> Array:
    """[blocks, lanes], zeros where there is none."""
    padded = np.zeros(blocks * lanes, np.float32)
    padded[:channels] = 0.0 if bias is None else bias
    return padded.reshape(blocks, lanes)
