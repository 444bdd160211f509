"""Where the taps of a convolution, or of a transposed one, meet the input; and which output pixels a nest computes."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from glulam.compiler.graph.types import Shape
from glulam.compiler.loops.ir import Affine, IndexLike

Indices = npt.NDArray[np.int64]


@dataclass(frozen=True)
class ConvGeometry:
    """Where output pixel o and kernel tap k meet the input: o * stride + k * dilation - pad, per spatial dimension."""

    kernel: Shape
    strides: Shape
    dilations: Shape
    pads: tuple[tuple[int, int], ...]
    groups: int = 1

    @property
    def rank(self) -> int:
        """Number of spatial dimensions."""
        return len(self.kernel)

    @property
    def is_pointwise(self) -> bool:
        """A 1x1 convolution that reads each input pixel once."""
        return all(k == 1 for k in self.kernel) and all(s == 1 for s in self.strides) and not any(map(any, self.pads))

    def input_place(self, output: Sequence[Affine], tap: Sequence[IndexLike]) -> list[Affine]:
        """Where a tap meets the input for an output pixel."""
        return [
            o * s + Affine.of(k) * d - before
            for o, s, k, d, (before, _) in zip(output, self.strides, tap, self.dilations, self.pads, strict=True)
        ]


@dataclass(frozen=True)
class Phase:
    """Along one dimension, output pixels `offset`, `offset` + stride, ...: a convolution with some of the taps.

    Tap t of the `taps` meets input j + t * dilation + first for the j-th of the `count` pixels.
    """

    offset: int
    count: int
    taps: tuple[int, ...]
    first: int
    dilation: int


@dataclass(frozen=True)
class TransposedGeometry:
    """Input i and kernel tap k add to output pixel i * stride + k * dilation - pad, per spatial dimension."""

    kernel: Shape
    strides: Shape
    dilations: Shape
    pads: tuple[tuple[int, int], ...]
    groups: int = 1

    @property
    def rank(self) -> int:
        """Number of spatial dimensions."""
        return len(self.kernel)

    def phases(self, d: int, outputs: int) -> list[Phase]:
        """The phases along dimension `d`, which together have all `outputs` pixels once."""
        stride, dilation, (before, _) = self.strides[d], self.dilations[d], self.pads[d]
        found = []
        for offset in range(min(stride, outputs)):
            taps = [k for k in range(self.kernel[d]) if (offset + before - k * dilation) % stride == 0]
            taps.reverse()
            first = (offset + before - taps[0] * dilation) // stride if taps else 0
            step = dilation // math.gcd(stride, dilation)
            found.append(Phase(offset, -(-(outputs - offset) // stride), tuple(taps), first, step))
        return found

    def reach(self, d: int, inputs: int, outputs: int) -> tuple[int, int]:
        """Elements before and after the `inputs` of dimension `d` that the phases read."""
        phases = [p for p in self.phases(d, outputs) if p.taps]
        before = max((-p.first for p in phases), default=0)
        after = max((p.count - 1 + p.first + (len(p.taps) - 1) * p.dilation - inputs + 1 for p in phases), default=0)
        return max(0, before), max(0, after)

    def table(self, d: int, inputs: Shape, outputs: Shape) -> tuple[Indices, Indices, Indices]:
        """[O, T] along dimension `d`: the input and kernel elements that meet for each output, and whether they do."""
        met: list[list[tuple[int, int]]] = [[] for _ in range(outputs[d])]
        for place, tap in itertools.product(range(inputs[d]), range(self.kernel[d])):
            output = place * self.strides[d] + tap * self.dilations[d] - self.pads[d][0]
            if 0 <= output < outputs[d]:
                met[output].append((place, tap))
        width = max(1, *map(len, met)) if met else 1
        places, taps, valid = (np.zeros((len(met), width), np.int64) for _ in range(3))
        for output, pairs in enumerate(met):
            for t, (place, tap) in enumerate(pairs):
                places[output, t], taps[output, t], valid[output, t] = place, tap, 1
        return places, taps, valid


@dataclass(frozen=True)
class Grid:
    """The output pixels that a nest of loops computes: `extents` of them, `strides` apart, from `offsets` on."""

    extents: Shape
    strides: Shape
    offsets: Shape

    @classmethod
    def whole(cls, extents: Shape) -> Grid:
        """Every pixel."""
        return cls(extents, (1,) * len(extents), (0,) * len(extents))

    def place(self, pixel: Sequence[IndexLike]) -> list[Affine]:
        """Where the output has a pixel of the grid."""
        return [Affine.of(p) * s + o for p, s, o in zip(pixel, self.strides, self.offsets, strict=True)]
