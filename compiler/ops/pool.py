"""Maximum and average over sliding windows; global pools are `Reduce` over the spatial axes."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product

import numpy as np
from glulam.compiler.graph.op import Op, Trait
from glulam.compiler.graph.types import Array, TensorType
from glulam.compiler.ops.inputs import FLOATS, check_at_least, check_spatial, required, same_dtype, wide

Ints = tuple[int, ...]
Pads = tuple[tuple[int, int], ...]


@dataclass(frozen=True)
class Pool(Op):
    """Base of the pools: x[N,C,*S] -> [N,C,*O].

    O = floor((S + before + after - dilation * (kernel - 1) - 1) / stride) + 1, or the ceiling with `ceil_mode`, in which
    a last window that would start beyond the input and its left padding is dropped (PyTorch's rule, and ONNX's).
    """

    kernel: Ints
    strides: Ints
    pads: Pads
    dilations: Ints
    ceil_mode: bool = False

    traits = frozenset({Trait.ANCHOR})

    def infer(self, *inputs: TensorType | None) -> tuple[TensorType, ...]:
        (x,) = required(self, inputs, 1)
        same_dtype(self, (x,), FLOATS)
        check_spatial(
            self, x.rank - 2, kernel=self.kernel, strides=self.strides, pads=self.pads, dilations=self.dilations
        )
        check_at_least(self, 1, kernel=self.kernel, strides=self.strides, dilations=self.dilations)
        check_at_least(self, 0, pads=[side for pad in self.pads for side in pad])
        return (x.with_shape((*x.shape[:2], *self.output_extents(x.shape[2:]))),)

    def output_extents(self, extents: Ints) -> Ints:
        """Spatial extents of the output."""
        return tuple(self._output_extent(i, extent) for i, extent in enumerate(extents))

    def _output_extent(self, i: int, extent: int) -> int:
        before, after = self.pads[i]
        stride = self.strides[i]
        room = extent + before + after - self.dilations[i] * (self.kernel[i] - 1) - 1
        if room < 0:
            raise self.fail(
                f"kernel {self.kernel[i]} with dilation {self.dilations[i]} exceeds the padded extent of axis {i + 2}"
            )
        if not self.ceil_mode:
            return room // stride + 1
        count = -(-room // stride) + 1
        return count - 1 if (count - 1) * stride >= extent + before else count

    def tap_counts(self, i: int, extent: int, *, padding: bool) -> Ints:
        """For each output place along spatial axis `i`: how many taps lie in the input, or in the padded input."""
        before, after = self.pads[i]
        first, last = (-before, extent + after) if padding else (0, extent)
        starts = np.arange(self._output_extent(i, extent)) * self.strides[i] - before
        # taps t with first <= start + t * dilation < last: from one rounded-up quotient to the other
        low, high = (np.clip(-((starts - edge) // self.dilations[i]), 0, self.kernel[i]) for edge in (first, last))
        return tuple((high - low).tolist())

    def _windows(self, x: Array, fill: float) -> Iterator[Array]:
        """For each tap, the elements it sees from every output place; outside the input it sees `fill`."""
        out = self.output_extents(x.shape[2:])
        pads = []
        for i, extent in enumerate(x.shape[2:]):
            reach = (out[i] - 1) * self.strides[i] + self.dilations[i] * (self.kernel[i] - 1) + 1
            pads.append((self.pads[i][0], max(reach - extent - self.pads[i][0], 0)))
        padded = np.pad(x, ((0, 0), (0, 0), *pads), constant_values=fill)
        for tap in product(*map(range, self.kernel)):
            window = []
            for i, index in enumerate(tap):
                start = index * self.dilations[i]
                window.append(slice(start, start + (out[i] - 1) * self.strides[i] + 1, self.strides[i]))
            yield padded[(slice(None), slice(None), *window)]


@dataclass(frozen=True)
class MaxPool(Pool):
    """The largest element of each window; padding is -inf, NaN wins over everything."""

    name = "max_pool"

    def reference(self, *inputs: Array | None) -> tuple[Array, ...]:
        (x,) = required(self, inputs, 1)
        result = np.full((*x.shape[:2], *self.output_extents(x.shape[2:])), -math.inf, x.dtype)
        for seen in self._windows(x, -math.inf):
            np.maximum(result, seen, out=result)
        return (result,)


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

    def reference(self, *inputs: Array | None) -> tuple[Array, ...]:
        (x,) = required(self, inputs, 1)
        total = np.zeros((*x.shape[:2], *self.output_extents(x.shape[2:])))
        for seen in self._windows(wide(x), 0.0):
            total += seen
        counts = np.ones(())
        for i, extent in enumerate(x.shape[2:]):
            counts = np.multiply.outer(counts, np.array(self.tap_counts(i, extent, padding=self.count_include_pad)))
        return ((total / counts).astype(x.dtype),)
