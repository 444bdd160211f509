"""Long sums in parts: what a register tile has summed is added to a copy in memory, and the tile starts from zero.

A sum of n products, one after the other, is off by about n times the rounding of its last step; in parts of m products
by sqrt(m / n + 1 / m) of that, if the products are random (compare N. Higham, Accuracy and Stability of Numerical
Algorithms, 2002, section 4.2). Which products make a part follows from the sum alone, whatever the tile.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from glulam.compiler.kernels.tiling import pieces
from glulam.compiler.loops.expr import Expr
from glulam.compiler.loops.ir import Buffer, Builder, IndexLike, Tile, TileRead, Var

PART = 384  # products of a part, about


def parts(rounds: int, products: int) -> list[tuple[int, int, int]]:
    """(first, count, length) of equal parts, and perhaps a shorter one, of `rounds` that add so many products each.

    A sum of less than two parts is one.
    """
    length = max(1, PART // products)
    if rounds < 2 * length:
        return [(0, 1, rounds)]
    even = [d for d in range(-(-length // 2), 2 * length) if rounds % d == 0]
    return pieces(rounds, min(even, key=lambda d: abs(d - length), default=length))


@dataclass(frozen=True)
class PartialSums:
    """The copy of a tile of rows x blocks of vectors in memory; `tile(row, block)` is the part of a sum in hand."""

    b: Builder
    buffer: Buffer
    tile: Callable[[IndexLike, IndexLike], TileRead]
    lane: Var

    @classmethod
    def of(cls, b: Builder, buffers: dict[tuple[int, ...], Buffer], tile: Tile, lane: Var) -> PartialSums:
        """Those of a tile; tiles of the same shape share one of the `buffers`, which are made when they are needed."""
        shape = (*tile.shape, lane.extent)
        if shape not in buffers:
            buffers[shape] = b.scratch(f"sums{len(buffers)}", shape)
        return cls(b, buffers[shape], lambda row, block: tile[row, block], lane)

    def start(self, value: Callable[[Var, Var], Expr]) -> None:
        """Begin with `value(row, block)`."""
        with self.b.unrolled("t", self.buffer.shape[0]) as t, self.b.unrolled("j", self.buffer.shape[1]) as j:
            self.b.store(self.buffer[t, j, self.lane], value(t, j))
            self.b.store(self.tile(t, j), 0.0)

    def flush(self) -> None:
        """End a part."""
        with self.b.unrolled("t", self.buffer.shape[0]) as t, self.b.unrolled("j", self.buffer.shape[1]) as j:
            self.b.store(self.buffer[t, j, self.lane], self.total(t, j) + self.tile(t, j))
            self.b.store(self.tile(t, j), 0.0)

    def total(self, t: IndexLike, j: IndexLike) -> Expr:
        """The sum of all parts that have ended."""
        return self.buffer[t, j, self.lane]
