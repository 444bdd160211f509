"""Convolution and transposed convolution, any number of spatial dimensions, grouped or depthwise."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product

import numpy as np
from glulam.compiler.graph.op import Op, Padding, Prefers, Trait
from glulam.compiler.graph.types import Array, TensorType
from glulam.compiler.kernels import conv_direct, conv_depthwise
from glulam.compiler.kernels.conv_geometry import ConvGeometry
from glulam.compiler.kernels.context import Context, Lowered
from glulam.compiler.ops.inputs import (
    FLOATS,
    check_at_least,
    check_shape,
    check_spatial,
    optional,
    required,
    same_dtype,
    wide,
)

Ints = tuple[int, ...]
Pads = tuple[tuple[int, int], ...]


@dataclass(frozen=True)
class Conv(Op):
    """Cross-correlation: x[N,C,*S], w[OC,C/groups,*K], bias?[OC] -> [N,OC,*O].

    O = floor((S + before + after - dilation * (K - 1) - 1) / stride) + 1. Padding holds zeros and may be wider than
    the kernel.
    """

    strides: Ints
    pads: Pads
    dilations: Ints
    groups: int = 1

    name = "conv"
    traits = frozenset({Trait.ANCHOR})

    def infer(self, *inputs: TensorType | None) -> tuple[TensorType, ...]:
        x, w = required(self, inputs, 2, 1)
        bias = optional(inputs, 2)
        dtype = same_dtype(self, (x, w, bias), FLOATS)
        _check_window(self, x, w)
        if x.shape[1] != w.shape[1] * self.groups or w.shape[0] % self.groups:
            raise self.fail(
                f"{x.shape[1]} input channels and weights {list(w.shape)} do not go with groups={self.groups}: "
                "the weights are [out, in / groups, *kernel], and groups divides out"
            )
        check_shape(self, "the bias", bias, (w.shape[0],))
        return (TensorType(dtype, (x.shape[0], w.shape[0], *self.output_extents(x.shape[2:], w.shape[2:]))),)

    def preference(self, inputs: Sequence[TensorType | None], outputs: Sequence[TensorType]) -> Prefers:
        return Prefers.BLOCKS

    def padding(self, index: int, inputs: Sequence[TensorType | None]) -> Padding | None:
        x, w = inputs[0], inputs[1]
        if index or x is None or w is None:
            return None
        return window_padding(x.shape[2:], w.shape[2:], self.strides, self.pads, self.dilations)

    def lower(self, ctx: Context) -> Lowered:
        kernel = ctx.operand(1).spatial
        geometry = ConvGeometry(kernel, self.strides, self.dilations, self.pads, self.groups)
        if conv_depthwise.accepts(ctx, geometry) is None: return conv_depthwise.build(ctx, geometry)
        return conv_direct.build(ctx, geometry)

    def output_extents(self, extents: Ints, kernel: Ints) -> Ints:
        """Spatial extents of the output."""
        result = []
        for i, (extent, taps) in enumerate(zip(extents, kernel, strict=True)):
            room = extent + sum(self.pads[i]) - self.dilations[i] * (taps - 1) - 1
            if room < 0:
                raise self.fail(
                    f"kernel {taps} with dilation {self.dilations[i]} exceeds the padded extent of axis {i + 2}"
                )
            result.append(room // self.strides[i] + 1)
        return tuple(result)

    def reference(self, *inputs: Array | None) -> tuple[Array, ...]:
        x, w = required(self, inputs, 2, 1)
        bias = optional(inputs, 2)
        out = self.output_extents(x.shape[2:], w.shape[2:])
        batch, groups, spatial = x.shape[0], self.groups, len(out)
        padded = np.pad(wide(x), ((0, 0), (0, 0), *self.pads))
        weights = wide(w).reshape(groups, w.shape[0] // groups, w.shape[1], *w.shape[2:])
        total = np.zeros((batch, groups, w.shape[0] // groups, int(np.prod(out))))
        for tap in product(*map(range, w.shape[2:])):
            window = tuple(
                slice(
                    tap[i] * self.dilations[i],
                    tap[i] * self.dilations[i] + (out[i] - 1) * self.strides[i] + 1,
                    self.strides[i],
                )
                for i in range(spatial)
            )
            seen = padded[(slice(None), slice(None), *window)].reshape(batch, groups, w.shape[1], -1)
            total += weights[(..., *tap)] @ seen
        return (_with_bias(total.reshape(batch, w.shape[0], *out), bias).astype(x.dtype),)


@dataclass(frozen=True)
class ConvTranspose(Op):
    """The adjoint of Conv: x[N,C,*S], w[C,OC/groups,*K], bias?[OC] -> [N,OC,*O].

    O = (S - 1) * stride - before - after + dilation * (K - 1) + 1 + output_padding. The pads are cut from the full
    result; output_padding appends to its end (what no input reaches holds the bias alone) and has no upper limit.
    """

    strides: Ints
    pads: Pads
    dilations: Ints
    output_padding: Ints
    groups: int = 1

    name = "conv_transpose"
    traits = frozenset({Trait.ANCHOR})

    def infer(self, *inputs: TensorType | None) -> tuple[TensorType, ...]:
        x, w = required(self, inputs, 2, 1)
        bias = optional(inputs, 2)
        dtype = same_dtype(self, (x, w, bias), FLOATS)
        _check_window(self, x, w)
        check_spatial(self, x.rank - 2, output_padding=self.output_padding)
        check_at_least(self, 0, output_padding=self.output_padding)
        if x.shape[1] != w.shape[0] or w.shape[0] % self.groups:
            raise self.fail(
                f"{x.shape[1]} input channels and weights {list(w.shape)} do not go with groups={self.groups}: "
                "the weights are [in, out / groups, *kernel], and groups divides in"
            )
        check_at_least(self, 1, spatial_extents=x.shape[2:])
        channels = w.shape[1] * self.groups
        check_shape(self, "the bias", bias, (channels,))
        extents = self.output_extents(x.shape[2:], w.shape[2:])
        if min(extents) < 1:
            raise self.fail(f"the pads {self.pads} leave nothing of the output: extents {list(extents)}")
        return (TensorType(dtype, (x.shape[0], channels, *extents)),)

    def full_extents(self, extents: Ints, kernel: Ints) -> Ints:
        """Spatial extents before the pads are cut off."""
        return tuple(
            (extent - 1) * self.strides[i] + self.dilations[i] * (kernel[i] - 1) + 1 + self.output_padding[i]
            for i, extent in enumerate(extents)
        )

    def output_extents(self, extents: Ints, kernel: Ints) -> Ints:
        """Spatial extents of the output."""
        full = self.full_extents(extents, kernel)
        return tuple(extent - sum(pad) for extent, pad in zip(full, self.pads, strict=True))

    def reference(self, *inputs: Array | None) -> tuple[Array, ...]:
        x, w = required(self, inputs, 2, 1)
        bias = optional(inputs, 2)
        batch, groups, extents = x.shape[0], self.groups, x.shape[2:]
        full = self.full_extents(extents, w.shape[2:])
        seen = wide(x).reshape(batch, groups, w.shape[0] // groups, int(np.prod(extents)))
        weights = np.swapaxes(wide(w).reshape(groups, w.shape[0] // groups, *w.shape[1:]), 1, 2)
        total = np.zeros((batch, groups * w.shape[1], *full))
        for tap in product(*map(range, w.shape[2:])):
            window = tuple(
                slice(
                    tap[i] * self.dilations[i],
                    tap[i] * self.dilations[i] + (extent - 1) * self.strides[i] + 1,
                    self.strides[i],
                )
                for i, extent in enumerate(extents)
            )
            part = weights[(..., *tap)] @ seen
            total[(slice(None), slice(None), *window)] += part.reshape(batch, -1, *extents)
        kept = tuple(slice(before, extent - after) for extent, (before, after) in zip(full, self.pads, strict=True))
        return (_with_bias(total[(slice(None), slice(None), *kept)], bias).astype(x.dtype),)


def window_padding(extents: Ints, kernel: Ints, strides: Ints, pads: Pads, dilations: Ints) -> Padding:
    """The zeros that windows read around a tensor: none after the end where no window reaches it."""
    spans = []
    for i, extent in enumerate(extents):
        before, after = pads[i]
        reach = dilations[i] * (kernel[i] - 1)
        count = (extent + before + after - reach - 1) // strides[i] + 1
        spans.append((before, max(0, (count - 1) * strides[i] + reach + 1 - before - extent)))
    return Padding(tuple(spans))


def _check_window(op: Conv | ConvTranspose, x: TensorType, w: TensorType) -> None:
    if x.rank != w.rank:
        raise op.fail(f"input {x} and weights {w} differ in rank")
    check_spatial(op, x.rank - 2, strides=op.strides, pads=op.pads, dilations=op.dilations)
    check_at_least(op, 1, strides=op.strides, dilations=op.dilations, kernel=w.shape[2:], groups=(op.groups,))
    check_at_least(op, 0, pads=[side for pad in op.pads for side in pad])


def _with_bias(total: Array, bias: Array | None) -> Array:
    if bias is None:
        return total
    return np.add(total, bias.reshape(-1, *(1,) * (total.ndim - 2)), dtype=np.float64)
