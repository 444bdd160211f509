"""Convolutions on plain tensors, for output channels that fill no blocks. The choice of algorithms puts them in; no
frontend does."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from glulam.compiler.graph.op import Padding, Prefers
from glulam.compiler.graph.types import TensorType
from glulam.compiler.kernels import conv_narrow
from glulam.compiler.kernels.context import Context, Lowered
from glulam.compiler.kernels.windows import Window
from glulam.compiler.ops.conv import Conv


class NarrowConv(Conv):
    """A convolution with constant weights, whose groups are of several channels if there are any: the same sums."""

    name = "narrow_conv"

    def preference(self, inputs: Sequence[TensorType | None], outputs: Sequence[TensorType]) -> Prefers:
        return Prefers.PLAIN

    def padding(self, index: int, inputs: Sequence[TensorType | None]) -> Padding | None:
        padding = super().padding(index, inputs)
        return None if padding is None else replace(padding, only_blocks=False, or_none=False)

    def reads_plain(self, index: int, inputs: Sequence[TensorType | None], block: int) -> bool:
        return False

    def pools(self, window: Window, result: TensorType, pooled: TensorType, block_bytes: int) -> str | None:
        return "the convolution's result is no channel blocks"

    def lower(self, ctx: Context) -> Lowered:
        return conv_narrow.build(ctx, self.geometry(ctx))
