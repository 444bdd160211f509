"""What the convolution templates share: the geometry of a convolution, and conditions that several of them have."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from glulam.compiler.graph.types import Array, DType, Shape
from glulam.compiler.kernels.context import Context
from glulam.compiler.loops.ir import Affine, IndexLike


@dataclass(frozen=True)
class ConvGeometry:
    """Where output pixel o and kernel tap k meet the input: o * stride + k * dilation - pad, per spatial dimension."""

    kernel: Shape
    strides: Shape
    dilations: Shape
    pads: tuple[tuple[int, int], ...]
    groups: int = 1

    @property
    def is_pointwise(self) -> bool:
        """A 1x1 convolution that reads each input pixel once."""
        return all(k == 1 for k in self.kernel) and all(s == 1 for s in self.strides) and not any(map(any, self.pads))

    def input_place(self, output: Sequence[Affine], tap: Sequence[IndexLike]) -> list[Affine]:
        """Where a tap meets the input for an output pixel."""
        return [
            o * s + Affine.of(k) * d - before  # type: ignore[arg-type]
            for o, s, k, d, (before, _) in zip(output, self.strides, tap, self.dilations, self.pads, strict=True)
        ]


def not_packable(ctx: Context) -> str | None:
    """Why a template that packs float32 weights for blocked outputs cannot serve, None if it can."""
    if ctx.output.type.dtype is not DType.F32:
        return f"elements are {ctx.output.type.dtype.value}, not f32"
    if ctx.data(1) is None:
        return "the weights are not known at compile time"
    if ctx.has(2) and ctx.data(2) is None:
        return "the bias is not known at compile time"
    if ctx.output.layout.block == 1:
        return "the output is not in channel blocks"
    return None


def constant_weights(ctx: Context) -> Array:
    """The weights of a convolution that `not_packable` lets pass."""
    weights = ctx.data(1)
    assert weights is not None
    return weights
