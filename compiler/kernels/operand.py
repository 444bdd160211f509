"""Tensors as kernels meet them, and the same memory seen as a tensor of another rank."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np

from glulam.compiler.graph.layout import PLAIN, Layout
from glulam.compiler.graph.types import Array, Shape, TensorType


@dataclass(frozen=True)
class Operand:
    """A tensor as a kernel meets it. `strides` are the physical ones, in elements; None means dense.

    `data` is set if the value is known at compile time; such an operand is packed by the template that reads it.
    `by_channel` says that the kernels around it had better all go through it channel by channel. A scalar `differs` if
    other nodes share the kernel that have another one, so that it is read from memory.
    """

    type: TensorType
    layout: Layout = PLAIN
    strides: tuple[int, ...] | None = None
    data: Array | None = None
    by_channel: bool = False
    differs: bool = False

    @property
    def shape(self) -> Shape:
        return self.type.shape

    @property
    def spatial(self) -> Shape:
        return self.type.shape[2:]

    @property
    def blocks(self) -> int:
        """Channel blocks."""
        return -(-self.type.shape[1] // self.layout.block)

    def channel_offset(self, channel: int) -> int:
        """Elements from a place of channel 0 to the same one of another channel, in channel blocks."""
        block, lane = divmod(channel, self.layout.block)
        return block * self.physical_strides[1] + lane

    @property
    def physical_shape(self) -> Shape:
        return self.layout.physical_shape(self.type.shape)

    @property
    def physical_strides(self) -> tuple[int, ...]:
        return self.strides if self.strides is not None else self.layout.strides(self.shape)

    @property
    def span(self) -> int:
        """Elements from the first to the last one in memory."""
        extents = self.physical_shape
        if 0 in extents:
            return 0
        return 1 + sum((n - 1) * s for n, s in zip(extents, self.physical_strides, strict=True))

    @property
    def is_one_row(self) -> bool:
        """Whether the spatial places of a channel lie as if they were in one row."""
        extents, strides = self.spatial, self.physical_strides[2 : self.type.rank]
        return not self.layout.has_halo and all(
            extents[d] == 1 or strides[d] == extents[d + 1] * strides[d + 1] for d in range(len(extents) - 1)
        )

    # ---- the same memory as another tensor

    def reshaped(self, shape: Shape, strides: tuple[int, ...] | None = None) -> Operand:
        """The elements in the same order as a tensor of this shape, dense if no `strides` are given."""
        data = None if self.data is None else self.data.reshape(shape)
        return replace(self, type=self.type.with_shape(shape), strides=strides, data=data)

    def of_rank(self, rank: int) -> Operand:
        """A plain operand with leading extents of 1, as numpy broadcasts it."""
        missing = rank - self.type.rank
        if missing <= 0:
            return self
        strides = None if self.strides is None else (0,) * missing + self.strides
        return self.reshaped((1,) * missing + self.shape, strides)

    def as_image(self) -> Operand:
        """[N, C, L] as [N, C, 1, L]."""
        n, c, length = self.shape
        shape, strides = (n, c, 1, length), self.strides
        if strides is not None:
            strides = (*strides[:2], 0, *strides[2:])
        halo = self.layout.halo
        layout = replace(self.layout, halo=((0, 0), *halo) if halo else ())
        return replace(self.reshaped(shape, strides), layout=layout)

    def along(self, d: int) -> Operand | None:
        """[N, C, *S] as [N, C, S[d]], if there is one place in the other dimensions, and no halo around it."""
        layout, rank = self.layout, len(self.spatial)
        others = [e for e in range(rank) if e != d]
        if any(self.spatial[e] != 1 or (layout.halo and any(layout.halo[e])) for e in others):
            return None
        strides = self.strides
        if strides is not None:
            strides = (*strides[:2], strides[2 + d], *strides[2 + rank :])
        halo = (layout.halo[d],) if layout.halo else ()
        return replace(self.reshaped((*self.shape[:2], self.spatial[d]), strides), layout=replace(layout, halo=halo))

    def flattened(self) -> Operand:
        """All spatial dimensions, which are one row, as one."""
        shape = (*self.shape[:2], math.prod(self.spatial))
        strides = self.strides
        if strides is not None:
            lane = strides[-1:] if self.layout.block > 1 else ()
            last = strides[len(self.shape) - 1]
            strides = (*strides[:2], last, *lane)
        layout = Layout(self.layout.block, ((0, 0),) if self.layout.block > 1 else ())
        return replace(self.reshaped(shape, strides), layout=layout)


def pack_channels(data: Array, block: int) -> Array:
    """[N, C, *S] as [N, ceil(C / block), *S, block] with zeros in the lanes beyond C; C = 1 stays one lane."""
    if data.shape[1] == 1:
        return data[..., None]
    blocks = -(-data.shape[1] // block)
    padded = np.zeros((data.shape[0], blocks * block, *data.shape[2:]), data.dtype)
    padded[:, : data.shape[1]] = data
    split = padded.reshape(data.shape[0], blocks, block, *data.shape[2:])
    return np.ascontiguousarray(np.moveaxis(split, 2, -1))
