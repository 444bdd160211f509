"""What a convolution template offers, and the conditions that several of them have."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from glulam.compiler.graph.types import Array, DType
from glulam.compiler.kernels.context import Context, Lowered
from glulam.compiler.kernels.conv_geometry import ConvGeometry, Grid


@dataclass(frozen=True)
class ConvTemplate:
    """A way to compute a convolution.

    `accepts` says why not, None for yes. `build` makes the kernel; `sections`, if there is one, only the loops for the
    pixels of a grid, from weights [OC, C/g, *K], so that several convolutions can make up one kernel. `too_long` says
    why so many of them, each with rows of so many pixels, should not.
    """

    name: str
    accepts: Callable[[Context, ConvGeometry], str | None]
    build: Callable[[Context, ConvGeometry], Lowered]
    sections: Callable[[Context, ConvGeometry, Array, Grid], None] | None = None
    too_long: Callable[[Context, ConvGeometry, int, int], str | None] = lambda ctx, geometry, width, times: None


def not_packable(ctx: Context) -> str | None:
    """Why a template that packs float32 weights for blocked outputs cannot serve, None if it can."""
    if (why := not_constant(ctx)) is not None:
        return why
    return "the output is not in channel blocks" if ctx.output.layout.block == 1 else None


def not_constant(ctx: Context) -> str | None:
    """Why a template that packs float32 weights cannot serve, None if it can."""
    if ctx.data(0) is not None:
        return "the input is known at compile time"
    if ctx.output.type.dtype is not DType.F32:
        return f"elements are {ctx.output.type.dtype.value}, not f32"
    if ctx.data(1) is None:
        return "the weights are not known at compile time"
    if ctx.has(2) and ctx.data(2) is None:
        return "the bias is not known at compile time"
    return None


def in_one_row(ctx: Context, geometry: ConvGeometry, weights: Array) -> tuple[Context, ConvGeometry, Array]:
    """A 1x1 convolution on all pixels as one row, if its tensors lie so, and one of a single row or column as that.

    Any other as it is.
    """
    only = geometry.only_dimension(ctx.output.spatial, ctx.operand(0).spatial)
    if only is not None and (line := ctx.along(only)) is not None:
        return line, geometry.along(only), weights.reshape(*weights.shape[:2], -1)
    if geometry.is_pointwise and geometry.rank > 1 and (flat := ctx.flattened()) is not None:
        return flat, ConvGeometry.pointwise(1, geometry.groups), weights.reshape(*weights.shape[:2], 1)
    return ctx, geometry, weights


def constant_weights(ctx: Context) -> Array:
    """The weights of a convolution that `not_packable` lets pass."""
    weights = ctx.data(1)
    assert weights is not None
    return weights
