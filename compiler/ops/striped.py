"""Transposed convolutions of large strides, on plain tensors. The choice of algorithms puts them in; no frontend
does."""

from __future__ import annotations

from collections.abc import Sequence

from glulam.compiler.graph.op import Prefers
from glulam.compiler.graph.types import TensorType
from glulam.compiler.kernels import conv_stripes
from glulam.compiler.kernels.context import Context, Lowered
from glulam.compiler.ops.conv import ConvTranspose


class StripedConvTranspose(ConvTranspose):
    """A transposed convolution with constant weights of float32: the same sums in the same order."""

    name = "striped_conv_transpose"

    def preference(self, inputs: Sequence[TensorType | None], outputs: Sequence[TensorType]) -> Prefers:
        return Prefers.PLAIN

    def lower(self, ctx: Context) -> Lowered:
        return conv_stripes.build(ctx, self.geometry(ctx.operand(1).spatial))
