"""Maximum and average over sliding windows; global pools are `Reduce` over the spatial axes."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import product
from typing import ClassVar

import numpy as np

from glulam.compiler.graph.layout import IN_BLOCKS
from glulam.compiler.graph.op import Case, Op, Padding, Prefers, Trait
from glulam.compiler.graph.types import Array, DType, Ints, Pads, TensorType, f32
from glulam.compiler.kernels import pool
from glulam.compiler.kernels.context import Context, Lowered
from glulam.compiler.kernels.windows import PoolGeometry, Window
from glulam.compiler.ops.inputs import FLOATS, check_at_least, check_spatial, f64, required, same_dtype, wide
from glulam.compiler.targets import Target

_WIDE = 24  # pixels of a row from which on vectors along it are well filled
_SHRUNK, _NARROW = 2, 4  # a conversion of so many times the result's elements takes longer than rows of so many pixels

EDGES = np.array([[1, math.nan, -2, 3], [-math.inf, -math.inf, 4, math.inf], [-math.inf, -math.inf, 0, 5]], np.float32)[
    None, None
]


_BYTES = np.random.default_rng(0).integers(0, 256, (2, 17, 7, 13)).astype(np.uint8)


@dataclass(frozen=True)
class Pool(Op):
    """Base of the pools: x[N,C,*S] -> [N,C,*O].

    O = floor((S + before + after - dilation * (kernel - 1) - 1) / stride) + 1, or the ceiling with `ceil_mode`, where
    a last window that would start beyond the input and its left padding is dropped (PyTorch's rule, and ONNX's).
    """

    kernel: Ints
    strides: Ints
    pads: Pads
    dilations: Ints
    ceil_mode: bool = False

    traits = frozenset({Trait.ANCHOR, Trait.PER_SAMPLE})
    accepts: ClassVar[frozenset[DType]] = FLOATS

    def infer(self, *inputs: TensorType | None) -> tuple[TensorType, ...]:
        (x,) = required(self, inputs, 1)
        same_dtype(self, (x,), self.accepts)
        check_spatial(
            self, x.rank - 2, kernel=self.kernel, strides=self.strides, pads=self.pads, dilations=self.dilations
        )
        check_at_least(self, 1, kernel=self.kernel, strides=self.strides, dilations=self.dilations)
        check_at_least(self, 0, pads=[side for pad in self.pads for side in pad])
        return (x.with_shape((*x.shape[:2], *self.output_extents(x.shape[2:]))),)

    def preference(self, inputs: Sequence[TensorType | None], outputs: Sequence[TensorType]) -> Prefers:
        if outputs[0].dtype not in IN_BLOCKS:
            return Prefers.PLAIN
        return Prefers.EITHER if outputs[0].shape[-1] >= _WIDE else Prefers.BLOCKS

    def plain_suits(self, target: Target, inputs: Sequence[TensorType | None], outputs: Sequence[TensorType]) -> bool:
        (x,), (y,) = required(self, inputs, 1), outputs
        return x.size >= _SHRUNK * y.size and y.shape[-1] >= _NARROW

    def flops(self, inputs: Sequence[TensorType | None], outputs: Sequence[TensorType]) -> int:
        return outputs[0].size * math.prod(self.kernel)

    def spans(self, extents: Ints) -> Pads:
        """How far windows reach beyond the input on either side; those of ceil mode beyond its padding too."""
        spans = []
        for i, extent in enumerate(extents):
            last = (self._output_extent(i, extent) - 1) * self.strides[i] + self.dilations[i] * (self.kernel[i] - 1)
            spans.append((self.pads[i][0], max(0, last - self.pads[i][0] + 1 - extent)))
        return tuple(spans)

    def geometry(self) -> PoolGeometry:
        return PoolGeometry(self.kernel, self.strides, self.dilations, tuple(before for before, _ in self.pads))

    def output_extents(self, extents: Ints) -> Ints:
        """Spatial extents of the output."""
        return tuple(self._output_extent(i, extent) for i, extent in enumerate(extents))

    def _output_extent(self, i: int, extent: int) -> int:
        before, after = self.pads[i]
        stride = self.strides[i]
        room = extent + before + after - self.dilations[i] * (self.kernel[i] - 1) - 1
        count = (-(-room // stride) if self.ceil_mode else room // stride) + 1
        if count < 1:
            raise self.fail(
                f"kernel {self.kernel[i]} with dilation {self.dilations[i]} exceeds the padded extent of axis {i + 2}"
            )
        if not self.ceil_mode:
            return count
        return count - 1 if (count - 1) * stride >= extent + before else count

    def tap_counts(self, i: int, extent: int, *, padding: bool) -> Ints:
        """For each output place along spatial axis `i`: how many taps lie in the input, or in the padded input."""
        before, after = self.pads[i]
        first, last = (-before, extent + after) if padding else (0, extent)
        starts = np.arange(self._output_extent(i, extent)) * self.strides[i] - before
        # taps t with first <= start + t * dilation < last: from one rounded-up quotient to the other
        low, high = (np.clip(-((starts - edge) // self.dilations[i]), 0, self.kernel[i]) for edge in (first, last))
        return tuple((high - low).tolist())

    def has_empty_windows(self, extents: Ints) -> bool:
        """Whether some window lies wholly in the padding."""
        return any(0 in self.tap_counts(i, extent, padding=False) for i, extent in enumerate(extents))

    def _windows(self, x: Array, fill: float) -> Iterator[Array]:
        """For each tap, the elements it sees from every output place; outside the input it sees `fill`."""
        out = self.output_extents(x.shape[2:])
        padded = np.pad(x, ((0, 0), (0, 0), *self.spans(x.shape[2:])), constant_values=fill)
        for tap in product(*map(range, self.kernel)):
            window = []
            for i, index in enumerate(tap):
                start = index * self.dilations[i]
                window.append(slice(start, start + (out[i] - 1) * self.strides[i] + 1, self.strides[i]))
            yield padded[(slice(None), slice(None), *window)]


class MaxPool(Pool):
    """The largest element of each window; padding is -inf (so is a window of nothing else), NaN wins over all.

    Of bytes padding is 0.
    """

    name = "max_pool"
    accepts = FLOATS | {DType.U8}

    def padding(self, index: int, inputs: Sequence[TensorType | None]) -> Padding | None:
        (x,) = required(self, inputs, 1)
        return Padding(self.spans(x.shape[2:]), lowest(x.dtype), or_less=True, only_blocks=True)

    def as_window(self, x: TensorType) -> Window:
        """The windows that a kernel in front of this op folds, if it takes it over."""
        return Window(self.geometry())

    def lower(self, ctx: Context) -> Lowered:
        return pool.build(ctx, self.as_window(ctx.operand(0).type))

    def reference(self, *inputs: Array | None) -> tuple[Array, ...]:
        (x,) = required(self, inputs, 1)
        filler = lowest(DType.of(x.dtype))
        result = np.full((*x.shape[:2], *self.output_extents(x.shape[2:])), filler, x.dtype)
        for seen in self._windows(x, filler):
            np.maximum(result, seen, out=result)
        return (result,)

    @classmethod
    def cases(cls) -> Sequence[Case]:
        return (
            Case(cls((2, 2), (2, 2), ((0, 0), (0, 0)), (1, 1)), (f32(1, 3, 7, 8),)),
            Case(cls((3, 3), (2, 2), ((1, 1), (1, 1)), (1, 1)), (f32(1, 17, 7, 13),)),
            Case(cls((3, 3), (2, 2), ((0, 0), (0, 0)), (1, 1), True), (f32(1, 33, 6, 8),)),
            Case(cls((2, 2), (2, 2), ((1, 0), (0, 1)), (1, 1), True), (f32(2, 3, 7, 6),)),
            Case(cls((1, 1), (4, 4), ((0, 0), (0, 0)), (1, 1), True), (f32(1, 3, 7, 6),)),
            Case(cls((5, 5), (1, 1), ((2, 2), (2, 2)), (1, 1)), (f32(1, 16, 3, 4),)),
            Case(cls((3, 2), (1, 3), ((2, 2), (0, 0)), (2, 3)), (f32(1, 3, 7, 13),)),
            Case(cls((2,), (3,), ((0, 0),), (1,), True), (f32(2, 3, 13),)),
            Case(cls((2, 1, 3), (2, 1, 2), ((0, 0), (0, 0), (1, 1)), (1, 1, 1)), (f32(1, 3, 4, 3, 7),)),
            Case(cls((3, 3), (1, 1), ((4, 4), (0, 3)), (1, 1)), (f32(1, 3, 2, 5),)),
            Case(cls((2, 2), (2, 2), ((0, 0), (0, 0)), (1, 1)), (f32(0, 3, 4, 4),)),
            Case(cls((2, 2), (1, 1), ((1, 1), (1, 1)), (1, 1)), (EDGES,)),
            Case(cls((3,), (2,), ((1, 1),), (1,)), (f64(1, 3, 7),)),
            Case(cls((3, 3), (2, 2), ((1, 1), (1, 1)), (1, 1)), (_BYTES,)),
            Case(cls((3, 2), (1, 3), ((2, 2), (0, 0)), (2, 3)), (_BYTES,)),
            Case(cls((5, 5), (1, 1), ((2, 2), (2, 2)), (1, 1)), (_BYTES[:, :1],)),
            Case(cls((3, 3), (1, 1), ((1, 1), (1, 1)), (1, 1)), (f32(1, 17, 13, 25),)),
            Case(cls((2, 3, 3), (2, 2, 2), ((1, 0), (1, 1), (0, 1)), (1, 1, 1), True), (f32(1, 3, 3, 7, 53),)),
        )


def lowest(dtype: DType) -> float:
    """What is not larger than any element of this type: a max pool's padding."""
    return -math.inf if dtype.is_float else 0.0


@dataclass(frozen=True)
class AveragePool(Pool):
    """The mean of each window.

    It counts the elements of the input, with `count_include_pad` also those of the padding, but never the part of a
    ceil-mode window that reaches beyond the padded input.
    """

    count_include_pad: bool = False

    name = "average_pool"

    def infer(self, *inputs: TensorType | None) -> tuple[TensorType, ...]:
        types = super().infer(*inputs)
        (x,) = required(self, inputs, 1)
        for i, extent in enumerate(x.shape[2:]):
            if 0 in self.tap_counts(i, extent, padding=self.count_include_pad):
                raise self.fail(f"a window along axis {i + 2} has no element of the input: its mean is undefined")
        return types

    def padding(self, index: int, inputs: Sequence[TensorType | None]) -> Padding | None:
        (x,) = required(self, inputs, 1)
        return Padding(self.spans(x.shape[2:]), only_blocks=True)

    def as_window(self, x: TensorType) -> Window:
        """The windows that a kernel in front of this op folds, if it takes it over."""
        return Window(self.geometry(), self.counts(x.shape[2:]))

    def counts(self, extents: Ints) -> tuple[Ints, ...]:
        """Elements that count in a window, by its place along each spatial dimension."""
        return tuple(tuple(self.tap_counts(i, n, padding=self.count_include_pad)) for i, n in enumerate(extents))

    def lower(self, ctx: Context) -> Lowered:
        return pool.build(ctx, self.as_window(ctx.operand(0).type))

    def reference(self, *inputs: Array | None) -> tuple[Array, ...]:
        (x,) = required(self, inputs, 1)
        total = np.zeros((*x.shape[:2], *self.output_extents(x.shape[2:])))
        for seen in self._windows(wide(x), 0.0):
            total += seen
        counts = np.ones(())
        for i, extent in enumerate(x.shape[2:]):
            counts = np.multiply.outer(counts, np.array(self.tap_counts(i, extent, padding=self.count_include_pad)))
        return ((total / counts).astype(x.dtype),)

    @classmethod
    def cases(cls) -> Sequence[Case]:
        return (
            Case(cls((2, 2), (2, 2), ((0, 0), (0, 0)), (1, 1)), (f32(1, 3, 7, 8),)),
            Case(cls((3, 3), (2, 2), ((1, 1), (1, 1)), (1, 1)), (f32(1, 17, 7, 13),)),
            Case(cls((3, 3), (2, 2), ((1, 1), (1, 1)), (1, 1), False, True), (f32(1, 3, 7, 13),)),
            Case(cls((3, 3), (2, 2), ((1, 1), (1, 1)), (1, 1), True, True), (f32(1, 33, 6, 8),)),
            Case(cls((3, 3), (2, 2), ((0, 1), (1, 0)), (1, 1), True, False), (f32(2, 3, 6, 7),)),
            Case(cls((2, 2), (3, 3), ((0, 1), (0, 0)), (1, 1), True, True), (f32(1, 1, 7, 6),)),
            Case(cls((3, 4), (2, 3), ((0, 0), (1, 0)), (1, 1), True, True), (f32(1, 17, 2, 1),)),
            Case(cls((3, 2), (1, 2), ((2, 2), (1, 0)), (2, 3), False, True), (f32(1, 3, 7, 7),)),
            Case(cls((3,), (2,), ((1, 1),), (1,)), (f32(2, 3, 13),)),
            Case(cls((2, 3, 1), (1, 2, 1), ((0, 1), (1, 1), (0, 0)), (1, 1, 1)), (f32(1, 3, 3, 7, 2),)),
            Case(cls((2, 2), (1, 1), ((3, 3), (0, 2)), (1, 1), False, True), (f32(1, 3, 2, 3),)),
            Case(cls((7, 7), (1, 1), ((0, 0), (0, 0)), (1, 1)), (f32(1, 16, 7, 7),)),
            Case(cls((2, 2), (2, 2), ((0, 0), (0, 0)), (1, 1)), (f32(0, 3, 4, 4),)),
            Case(cls((3,), (2,), ((1, 1),), (1,)), (f64(1, 3, 7),)),
            Case(cls((3, 3), (1, 1), ((1, 1), (1, 1)), (1, 1)), (f32(1, 17, 13, 25),)),
            Case(cls((3, 3, 3), (1, 2, 2), ((1, 1), (1, 1), (2, 0)), (1, 1, 1), True), (f32(1, 1, 3, 7, 53),)),
        )
