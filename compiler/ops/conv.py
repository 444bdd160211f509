"""Convolution and transposed convolution, any number of spatial dimensions, grouped or depthwise."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import product

import numpy as np

from glulam.compiler.graph.graph import Value
from glulam.compiler.graph.op import Case, Op, Padding, Prefers, Trait
from glulam.compiler.graph.types import Array, DType, Ints, Pads, TensorType, f32
from glulam.compiler.kernels import conv_depthwise, conv_pool, conv_table
from glulam.compiler.kernels.context import Context, Lowered
from glulam.compiler.kernels.conv_geometry import ConvGeometry, TransposedGeometry
from glulam.compiler.kernels.operand import Operand
from glulam.compiler.kernels.windows import Window
from glulam.compiler.ops.inputs import (
    FLOATS,
    F64Array,
    check_at_least,
    check_shape,
    check_spatial,
    f64,
    optional,
    required,
    same_dtype,
    wide,
)


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
    traits = frozenset({Trait.ANCHOR, Trait.PER_SAMPLE, Trait.BLIND})

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
        return padding_around(x, self.geometry_of(w.shape[2:]), self.output_extents(x.shape[2:], w.shape[2:]))

    def reads_plain(self, index: int, inputs: Sequence[TensorType | None], block: int) -> bool:
        x = inputs[0]
        return index == 0 and self.groups == 1 and x is not None and x.shape[1] < block

    def flops(self, inputs: Sequence[TensorType | None], outputs: Sequence[TensorType]) -> int:
        w = inputs[1]
        return 0 if w is None else 2 * outputs[0].size * w.size // w.shape[0]

    def pools(self, window: Window, result: TensorType, pooled: TensorType, block_bytes: int) -> str | None:
        """Why the kernel should not fold these windows of its result, None if it should."""
        if self.groups > 1:
            return "the convolution is grouped"
        if result.dtype is not DType.F32:
            return f"the sums are {result.dtype.value}"
        return conv_pool.accepts(window, result.shape[2:], pooled.shape[2:], block_bytes)

    def lower_pooled(self, ctx: Context, window: Window, result: Operand) -> Lowered:
        """The kernel that folds windows of `result`, what `lower` would compute."""
        return conv_pool.build(ctx, self.geometry(ctx), window, result)

    def chunks(self, inputs: Sequence[Value | None], result: TensorType, block: int) -> int | str:
        """Into how many chunks of rows, with a mean each, the result falls, or why the kernel should give no means."""
        x, weights, *bias = inputs
        if not 1 < self.groups == result.shape[1] or x is None or x.shape[1] != self.groups:
            return "the convolution is not depthwise"
        if result.rank != 4 or not result.size or result.dtype is not DType.F32:
            return f"{result} are no float32 images"
        if weights is None or not all(v is None or v.is_constant for v in (weights, *bias)):
            return "the weights are not known at compile time"
        return conv_depthwise.chunks_with_means(result.shape, math.prod(weights.shape[2:]), block)

    def lower_averaged(self, ctx: Context) -> Lowered:
        """The kernel of `lower` with the means over chunks of rows as output 1."""
        return conv_table.lower_averaged(ctx, self.geometry(ctx))

    def geometry(self, ctx: Context) -> ConvGeometry:
        return self.geometry_of(ctx.operand(1).spatial)

    def geometry_of(self, kernel: Ints) -> ConvGeometry:
        """Where taps of a kernel of these extents meet the input."""
        return ConvGeometry(kernel, self.strides, self.dilations, self.pads, self.groups)

    def lower(self, ctx: Context) -> Lowered:
        return conv_table.lower_conv(ctx, self.geometry(ctx))

    def output_extents(self, extents: Ints, kernel: Ints) -> Ints:
        """Spatial extents of the output."""
        return output_extents(self, self.geometry_of(kernel), extents)

    def reference(self, *inputs: Array | None) -> tuple[Array, ...]:
        x, w = required(self, inputs, 2, 1)
        bias = optional(inputs, 2)
        out = self.output_extents(x.shape[2:], w.shape[2:])
        batch, groups, area = x.shape[0], self.groups, math.prod(out)
        padded = np.pad(wide(x), ((0, 0), (0, 0), *self.pads))
        weights = _by_tap(wide(w).reshape(groups, w.shape[0] // groups, w.shape[1], *w.shape[2:]))
        total = np.zeros((batch, groups, w.shape[0] // groups, area))
        with np.errstate(invalid="ignore"):  # infinities of both signs
            for tap in product(*map(range, w.shape[2:])):
                window = _tap_window(tap, self.dilations, self.strides, out)
                seen = padded[window].reshape(batch, groups, w.shape[1], area)
                total += weights[tap] @ seen
        return (_with_bias(total.reshape(batch, w.shape[0], *out), bias).astype(x.dtype),)

    @classmethod
    def cases(cls) -> Sequence[Case]:
        return (
            _conv((1, 3, 7, 7), (5, 3, 3, 3), pads=1),
            _conv((2, 3, 7, 13), (4, 3, 3, 3), strides=2, pads=1, bias=False),
            _conv((1, 1, 13, 7), (1, 1, 5, 3), pads=((0, 3), (2, 0))),
            _conv((1, 17, 5, 5), (17, 17, 1, 1)),
            _conv((1, 33, 3, 3), (3, 33, 3, 3), pads=1),
            _conv((1, 32, 2, 7), (33, 32, 1, 1), strides=(1, 2)),
            _conv((1, 3, 1, 1), (3, 3, 3, 3), pads=4),
            _conv((1, 3, 13, 13), (2, 3, 3, 3), pads=2, dilations=(2, 3)),
            _conv((2, 17, 7, 7), (17, 1, 3, 3), strides=2, pads=1, groups=17),
            _conv((1, 3, 7, 7), (6, 1, 3, 3), pads=1, groups=3),
            _conv((1, 34, 3, 3), (6, 17, 3, 3), pads=1, groups=2, bias=False),
            _conv((2, 3, 33), (5, 3, 7), strides=2, pads=3),
            _conv((1, 3, 4, 5, 3), (3, 3, 3, 2, 1), pads=((1, 1), (0, 1), (0, 0)), strides=(1, 2, 1)),
            _conv((0, 3, 7, 7), (5, 3, 3, 3), pads=1),
            Case(cls((1,), ((1, 1),), (1,)), (f64(1, 3, 7), f64(4, 3, 3), f64(4)), constants=frozenset({1, 2})),
            Case(cls((1, 1), ((0, 0), (0, 0)), (1, 1)), (f32(1, 3, 5, 5), f32(3, 3, 2, 2))),
        )


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
    traits = frozenset({Trait.ANCHOR, Trait.PER_SAMPLE, Trait.BLIND})

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

    def preference(self, inputs: Sequence[TensorType | None], outputs: Sequence[TensorType]) -> Prefers:
        return Prefers.BLOCKS

    def padding(self, index: int, inputs: Sequence[TensorType | None]) -> Padding | None:
        x, w = inputs[0], inputs[1]
        if index or x is None or w is None:
            return None
        outputs, geometry = self.output_extents(x.shape[2:], w.shape[2:]), self.geometry(w.shape[2:])
        spans = [geometry.reach(d, extent, outputs[d]) for d, extent in enumerate(x.shape[2:])]
        return Padding(tuple(spans))

    def flops(self, inputs: Sequence[TensorType | None], outputs: Sequence[TensorType]) -> int:
        x, w = inputs[0], inputs[1]
        return 0 if x is None or w is None else 2 * x.size * math.prod(w.shape[1:])

    def lower(self, ctx: Context) -> Lowered:
        return conv_table.lower_transposed(ctx, self.geometry(ctx.operand(1).spatial))

    def geometry(self, kernel: Ints) -> TransposedGeometry:
        """Where inputs and taps meet outputs."""
        return TransposedGeometry(kernel, self.strides, self.dilations, self.pads, self.groups)

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
        seen = wide(x).reshape(batch, groups, w.shape[0] // groups, math.prod(extents))
        weights = _by_tap(wide(w).reshape(groups, w.shape[0] // groups, *w.shape[1:]).swapaxes(1, 2))
        total = np.zeros((batch, groups * w.shape[1], *full))
        with np.errstate(invalid="ignore"):  # infinities of both signs
            for tap in product(*map(range, w.shape[2:])):
                window = _tap_window(tap, self.dilations, self.strides, extents)
                part = weights[tap] @ seen
                total[window] += part.reshape(batch, total.shape[1], *extents)
        kept = tuple(slice(before, extent - after) for extent, (before, after) in zip(full, self.pads, strict=True))
        return (_with_bias(total[(slice(None), slice(None), *kept)], bias).astype(x.dtype),)

    @classmethod
    def cases(cls) -> Sequence[Case]:
        return (
            _transposed((1, 3, 5, 5), (3, 4, 3, 3), strides=2, pads=1),
            _transposed((1, 3, 4, 7), (3, 5, 3, 3), strides=2, pads=1, output_padding=1),
            _transposed((1, 17, 3, 3), (17, 3, 2, 2), strides=2),
            _transposed((1, 33, 2, 2), (33, 17, 1, 1), bias=False),
            _transposed((2, 1, 7, 1), (1, 1, 3, 5), pads=((0, 2), (2, 1))),
            _transposed((1, 4, 3, 3), (4, 1, 4, 4), strides=2, pads=1, groups=4),
            _transposed((1, 6, 3, 3), (6, 2, 3, 3), strides=(1, 3), groups=3, output_padding=(0, 2)),
            _transposed((1, 2, 3, 3), (2, 3, 3, 3), dilations=2, pads=((1, 0), (0, 1))),
            _transposed((1, 2, 3, 3), (2, 3, 2, 2), strides=4),
            _transposed((1, 3, 13), (3, 2, 5), strides=3, pads=2),
            _transposed((1, 2, 2, 3, 2), (2, 3, 2, 3, 2), strides=2, pads=((0, 0), (1, 1), (0, 1))),
            _transposed((0, 3, 5, 5), (3, 4, 3, 3), strides=2),
        )


def output_extents(op: Op, geometry: ConvGeometry, extents: Ints) -> Ints:
    """Spatial extents of a convolution's output. Raises ShapeError if the kernel exceeds the padded input."""
    result = []
    for i, (extent, taps, dilation) in enumerate(zip(extents, geometry.kernel, geometry.dilations, strict=True)):
        room = extent + sum(geometry.pads[i]) - dilation * (taps - 1) - 1
        if room < 0:
            raise op.fail(f"kernel {taps} with dilation {dilation} exceeds the padded extent of axis {i + 2}")
        result.append(room // geometry.strides[i] + 1)
    return tuple(result)


def padding_around(x: TensorType, geometry: ConvGeometry, outputs: Ints) -> Padding:
    """What the kernels want around the input of a convolution."""
    extents = x.shape[2:]
    padding = window_padding(extents, geometry.kernel, geometry.strides, geometry.pads, geometry.dilations)
    if geometry.groups > 1 or x.dtype is not DType.F32:
        return padding
    return replace(padding, only_blocks=True, or_none=geometry.leaves_out_padding(outputs, extents))


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


def _tap_window(tap: Ints, dilations: Ints, strides: Ints, places: Ints) -> tuple[slice, ...]:
    """The part of the (padded) wider tensor that one kernel tap meets at all places of the narrower one."""
    starts = [index * dilation for index, dilation in zip(tap, dilations, strict=True)]
    return (
        slice(None),
        slice(None),
        *(slice(a, a + (n - 1) * step + 1, step) for a, n, step in zip(starts, places, strides, strict=True)),
    )


def _by_tap(weights: F64Array) -> F64Array:
    """[groups, out, in, *kernel] -> [*kernel, groups, out, in]."""
    return np.ascontiguousarray(weights.transpose(*range(3, weights.ndim), 0, 1, 2))


def _with_bias(total: F64Array, bias: Array | None) -> F64Array:
    if bias is None:
        return total
    return total + wide(bias).reshape(-1, *(1,) * (total.ndim - 2))


def _each(value: int | Ints, spatial: int) -> Ints:
    return (value,) * spatial if isinstance(value, int) else value


def _pads(value: int | Pads, spatial: int) -> Pads:
    return ((value, value),) * spatial if isinstance(value, int) else value


def _sample(op: Conv | ConvTranspose, x: Ints, w: Ints, channels: int, bias: bool) -> Case:
    return Case(op, (f32(*x), f32(*w), f32(channels) if bias else None), constants=frozenset({1, 2} if bias else {1}))


def _conv(
    x: Ints,
    w: Ints,
    *,
    strides: int | Ints = 1,
    pads: int | Pads = 0,
    dilations: int | Ints = 1,
    groups: int = 1,
    bias: bool = True,
) -> Case:
    n = len(x) - 2
    return _sample(Conv(_each(strides, n), _pads(pads, n), _each(dilations, n), groups), x, w, w[0], bias)


def _transposed(
    x: Ints,
    w: Ints,
    *,
    strides: int | Ints = 1,
    pads: int | Pads = 0,
    dilations: int | Ints = 1,
    output_padding: int | Ints = 0,
    groups: int = 1,
    bias: bool = True,
) -> Case:
    n = len(x) - 2
    op = ConvTranspose(_each(strides, n), _pads(pads, n), _each(dilations, n), _each(output_padding, n), groups)
    return _sample(op, x, w, w[1] * groups, bias)
