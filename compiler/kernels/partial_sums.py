"""Long sums in parts: what a register tile has summed is added to a copy in memory, and the tile starts from zero.

A sum of n products, one after the other, is off by about n times the rounding of its last step; in parts of m products
by sqrt(m / n + 1 / m) of that, if the products are random (compare N. Higham, Accuracy and Stability of Numerical
Algorithms, 2002, section 4.2). Which products make a part follows from the sum alone, whatever the tile.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from glulam.compiler.kernels.ranges import Pieces, pieces
from glulam.compiler.loops.builder import Builder
from glulam.compiler.loops.expr import Expr, Fma
from glulam.compiler.loops.index import Affine, IndexLike, Var
from glulam.compiler.loops.ir import Buffer, Load, Tile, TileRead

PART = 384  # products of a part, about


def parts(rounds: int, products: int) -> list[Pieces]:
    """Equal parts, and perhaps a shorter one, of `rounds` that add so many products each.

    A sum of less than two parts is one.
    """
    length = max(1, PART // products)
    if rounds < 2 * length:
        return [Pieces(0, 1, rounds)]
    even = [d for d in range(-(-length // 2), 2 * length) if rounds % d == 0]
    return pieces(rounds, min(even, key=lambda d: abs(d - length), default=length))


@dataclass(frozen=True)
class PartialSums:
    """The copy of a tile of `rows` x blocks of vectors in memory; `tile(row, block)` is the part of a sum in hand.

    The buffer may be that of many tiles, [..., rows, blocks, lanes], in which this one begins `at` a row.
    """

    b: Builder
    buffer: Buffer
    tile: Callable[[IndexLike, IndexLike], TileRead]
    lane: Var
    rows: int
    at: tuple[IndexLike, ...] = (0,)

    @classmethod
    def of(cls, b: Builder, buffers: dict[tuple[int, ...], Buffer], tile: Tile, lane: Var) -> PartialSums:
        """Those of a tile; tiles of the same shape share one of the `buffers`, which are made when they are needed."""
        shape = (*tile.shape, lane.extent)
        if shape not in buffers:
            buffers[shape] = b.scratch(f"sums{len(buffers)}", shape, tile.dtype)
        return cls(b, buffers[shape], lambda row, block: tile[row, block], lane, tile.shape[0])

    def start(self, value: Callable[[Var, Var], Expr]) -> None:
        """Begin with `value(row, block)`."""
        with self._elements() as (t, j):
            self.b.store(self.total(t, j), value(t, j))
        self.clear()

    def clear(self) -> None:
        """Begin a part."""
        with self._elements() as (t, j):
            self.b.store(self.tile(t, j), 0.0)

    def add(self, factor: Callable[[Var], Expr] | None = None) -> None:
        """Add a part that has ended to the sum, times the `factor(block)` if there is one."""
        with self._elements() as (t, j):
            part: Expr = self.tile(t, j)
            total = self.total(t, j)
            self.b.store(total, total + part if factor is None else Fma(part, factor(j), total))

    def flush(self, factor: Callable[[Var], Expr] | None = None) -> None:
        """End a part and begin the next one."""
        self.add(factor)
        self.clear()

    def total(self, t: IndexLike, j: IndexLike) -> Load:
        """The sum of all parts that have ended."""
        *outer, first = self.at
        return self.buffer[(*outer, Affine.of(first) + t, j, self.lane)]

    @contextmanager
    def _elements(self) -> Iterator[tuple[Var, Var]]:
        with self.b.unrolled("t", self.rows) as t, self.b.unrolled("j", self.buffer.shape[-2]) as j:
            yield t, j
