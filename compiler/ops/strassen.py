"""1x1 convolutions and linear layers by one step of Strassen's algorithm. Passes put these in; no frontend does."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from glulam.compiler.graph.op import Case, Op, Prefers, Trait
from glulam.compiler.graph.types import Array, Shape, TensorType, f32
from glulam.compiler.kernels import strassen, strassen_products
from glulam.compiler.kernels.context import Context, Lowered
from glulam.compiler.ops.conv import Conv
from glulam.compiler.ops.inputs import F64Array, check_shape, optional, required, wide
from glulam.compiler.ops.matmul import Linear


class StrassenConv(Conv):
    """A 1x1 convolution that the pass `split_strassen` makes two ops of: the same meaning, other roundings."""

    name = "strassen_conv"
    tolerance = 1e-4


class StrassenLinear(Linear):
    """A linear layer that the pass `split_strassen` makes two ops of: the same meaning, other roundings."""

    name = "strassen_linear"
    tolerance = 1e-4


@dataclass(frozen=True)
class _Halved(Op):
    """What is halved besides the channels are the pixels of x[N,C,*S], or with `channels_last` those of x[N,*S,C].

    See `strassen.pairs_neighbours`: the even and the odd ones along the last of *S, or the top and bottom ones along
    the first. With `strides`, one for each of *S, only every so many-th pixel is taken.
    """

    channels_last: bool = False
    strides: tuple[int, ...] = ()

    def _channels(self, rank: int) -> int:
        """The axis of the channels."""
        return rank - 1 if self.channels_last else 1

    def _taken(self, shape: Shape) -> Shape:
        """The shape of what is taken of x."""
        if not self.strides:
            return shape
        return (*shape[:2], *(-(-n // step) for n, step in zip(shape[2:], self.strides, strict=True)))

    def _neighbours(self, shape: Shape) -> bool:
        spatial = shape[1:-1] if self.channels_last else shape[2:]
        return strassen.pairs_neighbours(spatial)

    def _form(self, x: TensorType) -> strassen.Halving:
        return strassen.Halving(self.channels_last, self._neighbours(self._taken(x.shape)), self.strides)

    def _pixels(self, shape: Shape) -> int:
        """The axis of the pixels that is halved."""
        axes = [axis for axis in range(1, len(shape)) if axis != self._channels(len(shape))]
        return axes[-1] if self._neighbours(shape) else axes[0]

    def preference(self, inputs: Sequence[TensorType | None], outputs: Sequence[TensorType]) -> Prefers:
        return Prefers.PLAIN if self.channels_last else Prefers.BLOCKS

    def _sums_shape(self, x: TensorType) -> Shape:
        channels = self._channels(x.rank)
        if x.rank < 3 or x.shape[channels] % 2:
            raise self.fail(f"the pixels and channels of {x} cannot be halved")
        if self.strides and (self.channels_last or len(self.strides) != x.rank - 2):
            raise self.fail(f"strides {self.strides} are not for the axes of {x}, which come after the channels")
        taken = self._taken(x.shape)
        shape, pixels = list(taken), self._pixels(taken)
        shape[pixels], shape[channels] = math.ceil(shape[pixels] / 2), 2 * shape[channels]
        return tuple(shape)

    def _quarters(self, x: Array) -> tuple[F64Array, F64Array, F64Array, F64Array]:
        """A11, A12, A21 and A22 of x in float64, zeros where the bottom half has no pixel."""
        x = x[(slice(None), slice(None), *(slice(None, None, step) for step in self.strides))]
        channels, pixels = self._channels(x.ndim), self._pixels(x.shape)
        spans = [(0, 0)] * x.ndim
        spans[pixels] = (0, x.shape[pixels] % 2)
        padded = np.moveaxis(np.pad(wide(x), spans), pixels, 0)
        if self._neighbours(x.shape):
            top, bottom = padded[0::2], padded[1::2]
        else:
            top, bottom = np.split(padded, 2)
        a11, a12 = np.split(np.moveaxis(top, 0, pixels), 2, axis=channels)
        a21, a22 = np.split(np.moveaxis(bottom, 0, pixels), 2, axis=channels)
        return a11, a12, a21, a22

    def _whole(self, top: F64Array, bottom: F64Array, shape: Shape) -> F64Array:
        """The pixels of both halves as they lie in x of this shape."""
        axis = self._pixels(shape)
        if self._neighbours(shape):
            whole = np.stack([top, bottom], axis=axis + 1).reshape(*top.shape[:axis], -1, *top.shape[axis + 1 :])
        else:
            whole = np.concatenate([top, bottom], axis=axis)
        return np.take(whole, np.arange(shape[axis]), axis=axis)


class StrassenSums(_Halved):
    """The sums S1 to S4 of x's quarters, one after the other along the channels.

    x[N,C,*S,W] -> [N, 2 C, *S, ceil(W / 2)] if neighbours are paired, else x[N,C,H,*S] -> [N, 2 C, ceil(H / 2), *S];
    with `channels_last` the channels come behind these. With strides these are the extents of what is taken.
    """

    name = "strassen_sums"

    def infer(self, *inputs: TensorType | None) -> tuple[TensorType, ...]:
        (x,) = required(self, inputs, 1)
        return (x.with_shape(self._sums_shape(x)),)

    def reference(self, *inputs: Array | None) -> tuple[Array, ...]:
        (x,) = required(self, inputs, 1)
        a11, a12, a21, a22 = self._quarters(x)
        s1 = a21 + a22
        s2 = s1 - a11
        sums = (s1, s2, a11 - a21, a12 - s2)
        return (np.concatenate(sums, axis=self._channels(x.ndim)).astype(x.dtype),)

    @classmethod
    def cases(cls) -> Sequence[Case]:
        return (
            Case(cls(), (f32(2, 64, 7, 3),)),
            Case(cls(), (f32(1, 32, 2),)),
            Case(cls(), (f32(1, 64, 3, 14),)),
            Case(cls(strides=(2, 2)), (f32(1, 32, 5, 28),)),
            Case(cls(strides=(3,)), (f32(2, 32, 13),)),
            Case(cls(channels_last=True), (f32(2, 13, 64),)),
            Case(cls(channels_last=True), (f32(1, 7, 3, 32),)),
            Case(cls(channels_last=True), (f32(2, 3, 14, 32),)),
            Case(cls(channels_last=True), (f32(1, 16, 64),)),
            Case(cls(channels_last=True), (f32(2, 17, 32),)),
            Case(cls(), (f32(2, 32, 17),)),
        )

    def lower(self, ctx: Context) -> Lowered:
        return strassen.build_sums(ctx, self._form(ctx.operand(0).type))


class StrassenProducts(_Halved):
    """x, its StrassenSums, w and bias?[OC] -> the 1x1 convolution, or with `channels_last` the linear layer, of x.

    w is [OC, C, *1] or [OC, C].
    """

    name = "strassen_products"
    traits = frozenset({Trait.ANCHOR, Trait.BLIND})
    tolerance = 1e-4

    def infer(self, *inputs: TensorType | None) -> tuple[TensorType, ...]:
        x, s, w = required(self, inputs, 3, 1)
        channels = self._channels(x.rank)
        fits = s.shape == self._sums_shape(x) and w.shape[1:] == (x.shape[channels], *(1,) * (w.rank - 2))
        if not fits or w.shape[0] % 2:
            raise self.fail(f"{x}, sums {s} and weights {w} do not go together")
        check_shape(self, "the bias", optional(inputs, 3), (w.shape[0],))
        shape = list(self._taken(x.shape))
        shape[channels] = w.shape[0]
        return (x.with_shape(tuple(shape)),)

    def flops(self, inputs: Sequence[TensorType | None], outputs: Sequence[TensorType]) -> int:
        """Of the definition, not of the algorithm."""
        w = inputs[2]
        return 0 if w is None else 2 * outputs[0].size * w.shape[1]

    def reference(self, *inputs: Array | None) -> tuple[Array, ...]:
        x, s, w = required(self, inputs, 3, 1)
        bias = optional(inputs, 3)
        channels = self._channels(x.ndim)
        a11, a12, _, a22 = (np.moveaxis(a, channels, -1) for a in self._quarters(x))
        s1, s2, s3, s4 = np.split(np.moveaxis(wide(s), channels, -1), 4, axis=-1)
        left, right = np.split(wide(w).reshape(w.shape[:2]).T, 2, axis=1)
        (b11, b21), (b12, b22) = np.split(left, 2), np.split(right, 2)
        t1 = b12 - b11
        t2 = b22 - t1
        first = a11 @ b11
        shared = first + s2 @ t2
        lower = shared + s3 @ (b22 - b12)
        top = np.concatenate([first + a12 @ b21, shared + s1 @ t1 + s4 @ b22], axis=-1)
        bottom = np.concatenate([lower - a22 @ (t2 - b21), lower + s1 @ t1], axis=-1)
        total = self._whole(np.moveaxis(top, -1, channels), np.moveaxis(bottom, -1, channels), self._taken(x.shape))
        if bias is not None:
            total = total + wide(bias).reshape(-1, *(1,) * (x.ndim - 1 - channels))
        return (total.astype(x.dtype),)

    def lower(self, ctx: Context) -> Lowered:
        return strassen_products.build(ctx, self._form(ctx.operand(0).type))
