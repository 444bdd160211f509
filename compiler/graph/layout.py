"""Where the elements of a tensor lie: channel blocks, the halo of padding around the spatial extents, their order."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from glulam.compiler.graph.types import DType, Shape

IN_BLOCKS = frozenset({DType.F32, DType.U8})
"""Types of the elements that pointwise kernels find in channel blocks: numbers, and codes of quantised networks."""


@dataclass(frozen=True)
class Layout:
    """Physical arrangement of a tensor [N, C, *spatial].

    block: channels kept together innermost (NCHW16c for 16); 1 is plain NCHW.
    halo: (before, after) elements of padding around each spatial extent, () for none.
    halo_value: what those elements hold; a consumer that pads may then read past the edge.
    rows_first: the first spatial extent lies outside the channel blocks, [N, H, C / block, W, block] for an image, so
    that each part of an image is one piece of memory.
    Plain tensors of any rank have `PLAIN`.
    """

    block: int = 1
    halo: tuple[tuple[int, int], ...] = ()
    halo_value: float = 0.0
    rows_first: bool = False

    @property
    def is_plain(self) -> bool:
        return self.block == 1 and not self.has_halo

    @property
    def has_halo(self) -> bool:
        return any(before or after for before, after in self.halo)

    def physical_shape(self, shape: Shape) -> Shape:
        """Extents by which elements are found: [N, ceil(C / block), *spatial with halo, block]."""
        if self.block == 1 and not self.halo:
            return shape
        spatial = [
            extent + before + after
            for extent, (before, after) in zip(shape[2:], self.halo or ((0, 0),) * len(shape[2:]), strict=True)
        ]
        if self.block == 1:
            return (*shape[:2], *spatial)
        return (shape[0], -(-shape[1] // self.block), *spatial, self.block)

    def strides(self, shape: Shape) -> tuple[int, ...]:
        """How many elements apart neighbours are, for each physical extent."""
        physical = self.physical_shape(shape)
        if not self.rows_first:
            return dense_strides(physical)
        batch, blocks, rows, *rest = physical
        n, row, block, *inner = dense_strides((batch, rows, blocks, *rest))
        return (n, block, row, *inner)

    def size(self, shape: Shape) -> int:
        """Elements in memory, padding included."""
        return math.prod(self.physical_shape(shape))

    def __str__(self) -> str:
        text = "plain" if self.block == 1 else f"c{self.block}"
        if self.rows_first:
            text += " rows"
        if self.has_halo:
            text += " halo " + ",".join(f"{before}+{after}" for before, after in self.halo)
            if self.halo_value:
                text += f" of {self.halo_value}"
        return text


PLAIN = Layout()


def dense_strides(shape: Sequence[int]) -> tuple[int, ...]:
    """Strides of a row-major array."""
    return tuple(math.prod(shape[i + 1 :]) for i in range(len(shape)))
