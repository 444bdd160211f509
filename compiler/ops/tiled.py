"""Convolutions and linear layers whose register tile is given. Tuning puts them in; no frontend does."""

from __future__ import annotations

from dataclasses import dataclass, fields

from glulam.compiler.kernels import conv_direct, gemm
from glulam.compiler.kernels.context import Context, Lowered
from glulam.compiler.kernels.tiling import Tiling
from glulam.compiler.ops.conv import Conv
from glulam.compiler.ops.matmul import Linear


@dataclass(frozen=True)
class TiledConv(Conv):
    """A direct convolution in tiles of `pixels` x `blocks` of output channels; the same sums in the same order."""

    pixels: int = 1
    blocks: int = 1

    name = "tiled_conv"

    @classmethod
    def of(cls, op: Conv, tiling: Tiling) -> TiledConv:
        same = {field.name: getattr(op, field.name) for field in fields(Conv)}
        return cls(**same, pixels=tiling.pixels, blocks=tiling.blocks)

    def lower(self, ctx: Context) -> Lowered:
        return conv_direct.build(ctx, self.geometry(ctx), Tiling(self.pixels, self.blocks))


@dataclass(frozen=True)
class TiledLinear(Linear):
    """A linear layer in tiles of `rows` x `blocks` of columns; the same sums in the same order."""

    rows: int = 1
    blocks: int = 1

    name = "tiled_linear"

    def lower(self, ctx: Context) -> Lowered:
        return gemm.linear(ctx, Tiling(self.rows, self.blocks))
