"""A convolution that is computed by Winograd's minimal filtering. The algorithm pass puts it in; no frontend does."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from glulam.compiler.graph.op import Padding
from glulam.compiler.graph.types import TensorType
from glulam.compiler.kernels import conv_winograd
from glulam.compiler.kernels.context import Context, Lowered
from glulam.compiler.kernels.pool import Window
from glulam.compiler.ops.conv import Conv


@dataclass(frozen=True)
class WinogradConv(Conv):
    """A 3x3 convolution without stride, dilation or groups: the same meaning, other roundings."""

    name = "winograd_conv"
    tolerance = 1e-4

    def padding(self, index: int, inputs: Sequence[TensorType | None]) -> Padding | None:
        """Zeros as far as the tiles at the edges reach."""
        x = inputs[0]
        if index or x is None:
            return None
        spans = []
        for extent, (before, after) in zip(x.shape[2:], self.pads, strict=True):
            outputs = conv_winograd.tiles_along(extent + before + after - 2) * conv_winograd.OUTPUTS
            spans.append((before, outputs + 2 - before - extent))
        return Padding(tuple(spans))

    def reads_plain(self, index: int, inputs: Sequence[TensorType | None], block: int) -> bool:
        return False

    def pools(self, window: Window, result: TensorType, pooled: TensorType, block_bytes: int) -> str | None:
        return "the convolution computes tiles, not rows"

    def lower(self, ctx: Context) -> Lowered:
        return conv_winograd.build(ctx, self.geometry(ctx))
