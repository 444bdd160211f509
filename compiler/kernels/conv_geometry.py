"""Where the taps of a convolution, or of a transposed one, meet the input; and which output pixels a nest computes."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from typing import Self

import numpy as np
import numpy.typing as npt

from glulam.compiler.graph.types import Shape
from glulam.compiler.loops.builder import Builder
from glulam.compiler.loops.index import Affine, IndexLike
from glulam.compiler.loops.ir import IndexValue, Span

Indices = npt.NDArray[np.int64]

_MET = 0.75  # of the taps, at most, where columns that meet different ones have code of their own in any case


@dataclass(frozen=True)
class Met:
    """`count` output pixels of a dimension, from `first` on, for which no other than these `taps` meet the input."""

    first: int
    count: int
    taps: range


@dataclass(frozen=True)
class ConvGeometry:
    """Where output pixel o and kernel tap k meet the input: o * stride + k * dilation - pad, per spatial dimension."""

    kernel: Shape
    strides: Shape
    dilations: Shape
    pads: tuple[tuple[int, int], ...]
    groups: int = 1

    @classmethod
    def pointwise(cls, rank: int, groups: int = 1) -> Self:
        """Of a 1x1 convolution."""
        ones = (1,) * rank
        return cls(ones, ones, ones, ((0, 0),) * rank, groups)

    @property
    def rank(self) -> int:
        """Number of spatial dimensions."""
        return len(self.kernel)

    @property
    def has_one_tap(self) -> bool:
        """Whether each output pixel depends on one input pixel."""
        return all(k == 1 for k in self.kernel) and not any(map(any, self.pads))

    @property
    def is_pointwise(self) -> bool:
        """A 1x1 convolution that reads each input pixel once."""
        return self.has_one_tap and all(s == 1 for s in self.strides)

    def along(self, d: int) -> ConvGeometry:
        """What it is in one dimension, if there is a single place and a single tap in the others."""
        return ConvGeometry((self.kernel[d],), (self.strides[d],), (self.dilations[d],), (self.pads[d],), self.groups)

    def only_dimension(self, outputs: Shape, inputs: Shape) -> int | None:
        """The one of several dimensions that has more than a single place and a single tap; None if it is not one."""
        places = zip(outputs, inputs, self.kernel, self.pads, strict=True)
        longer = [d for d, (o, i, k, pads) in enumerate(places) if (o, i, k) != (1, 1, 1) or any(pads)]
        return longer[0] if self.rank > 1 and len(longer) == 1 else None

    def met(self, d: int, outputs: int, inputs: int) -> list[Met]:
        """All output pixels of dimension `d`, by the taps that meet some of its `inputs` and not only the padding."""
        taps, stride, dilation, (before, _) = self.kernel[d], self.strides[d], self.dilations[d], self.pads[d]

        def meet(output: int) -> range:
            place = output * stride - before
            first = min(max(0, -(place // dilation)), taps)
            return range(first, max(first, min(taps, -((place - inputs) // dilation))))

        # Between the first output that needs nothing before the input and the last that needs nothing behind it, all
        # taps meet something.
        first = min(max(0, -(-before // stride)), outputs)
        end = max(first, min(outputs, (inputs - 1 - (taps - 1) * dilation + before) // stride + 1))
        some = [*range(first), *range(first, end)[:1], *range(end, outputs)]
        begins = [(next(each), alike) for alike, each in itertools.groupby(some, meet)]
        ends = [begin for begin, _ in begins[1:]] + [outputs] * bool(begins)
        return [Met(begin, end - begin, alike) for (begin, alike), end in zip(begins, ends, strict=True)]

    def met_in_tile(self, d: int, first: int, count: int, inputs: int) -> tuple[Met, ...]:
        """The taps of dimension `d`, by those of `count` outputs from `first` on, numbered from 0, that they meet.

        Taps that meet inputs for none of them are left out.
        """
        stride, dilation, (before, _) = self.strides[d], self.dilations[d], self.pads[d]

        def outputs(tap: int) -> range:
            place = tap * dilation - before  # of output 0
            return range(max(first, -(place // stride)), min(first + count, (inputs - 1 - place) // stride + 1))

        alike = [(met, list(taps)) for met, taps in itertools.groupby(range(self.kernel[d]), outputs)]
        return tuple(Met(met[0] - first, len(met), range(taps[0], taps[-1] + 1)) for met, taps in alike if met)

    def leaves_out_padding(self, outputs: Shape, inputs: Shape) -> bool:
        """Whether so many taps meet only padding that the direct kernel needs none.

        It goes through the pixels of a row by the taps that they meet then.
        """
        if self.rank == 1 or 0 in outputs:
            return False
        met = sum(part.count * len(part.taps) for part in self.met(-1, outputs[-1], inputs[-1]))
        return met <= _MET * outputs[-1] * self.kernel[-1]

    def overhang(self, outputs: Shape, inputs: Shape) -> list[tuple[int, int]]:
        """How far, before and after the inputs, the taps of so many output pixels reach, per spatial dimension."""
        spans = zip(outputs, inputs, self.strides, self.kernel, self.dilations, self.pads, strict=True)
        return [
            (max(0, before), max(0, (n - 1) * stride + (taps - 1) * dilation - before + 1 - extent))
            for n, extent, stride, taps, dilation, (before, _) in spans
        ]

    def met_taps(self, d: int, output: Affine, inputs: int) -> Span | None:
        """The taps for which an output pixel of dimension `d` meets some of its `inputs`; None if all always do."""
        dilation, place = self.dilations[d], output * self.strides[d] - self.pads[d][0]
        low, high = place.bounds()
        if low >= 0 and high + (self.kernel[d] - 1) * dilation < inputs:
            return None
        ends = [IndexValue(end - place + (dilation - 1)) for end in (0, inputs)]
        # What is negative, and so rounded the wrong way, lies outside the loop anyhow.
        first, end = ends if dilation == 1 else [each / dilation for each in ends]
        return Span(first, end)

    def tap_loops(self, b: Builder, stack: ExitStack, rows: Sequence[Affine], inputs: Shape) -> list[Affine]:
        """Loops, opened on the stack, over the rows of taps that meet the input for an output row at these places.

        `rows` are the places in all dimensions but the last, along which a tile's pixels may meet different taps.
        """
        found = []
        for d, row in enumerate(rows):
            met = self.met_taps(d, row, inputs[d])
            found.append(Affine.of(stack.enter_context(b.serial("k", self.kernel[d], met))))
        return found

    def input_place(self, output: Sequence[Affine], tap: Sequence[IndexLike]) -> list[Affine]:
        """Where a tap meets the input for an output pixel."""
        return [
            o * s + Affine.of(k) * d - before
            for o, s, k, d, (before, _) in zip(output, self.strides, tap, self.dilations, self.pads, strict=True)
        ]


@dataclass(frozen=True)
class ConvShape:
    """Channels of input and output, and the spatial extents of the output."""

    ins: int
    outs: int
    outputs: Shape


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
class Stripes:
    """Along one dimension, `count` times `length` neighbouring output pixels, a stride apart, from `start` on.

    All of a stripe meet the same inputs. `taps[i, t]` is the t-th tap of its pixel i; in the first stripe it meets
    input `first` + t * `dilation`, in each further one the input after that.
    """

    start: int
    count: int
    length: int
    taps: Indices
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

    def phase_count(self, outputs: Shape) -> int:
        """Phases of all dimensions together."""
        return math.prod(min(s, o) for s, o in zip(self.strides, outputs, strict=True))

    def stripes(self, d: int, outputs: int, lanes: int) -> list[Stripes]:
        """Stripes that together have all `outputs` pixels of dimension `d` once, cut where they take fewest vectors."""
        shifts = {0, self.pads[d][0] % self.strides[d]}
        found = [self._shifted_stripes(d, outputs, shift) for shift in sorted(shifts)]
        return min(found, key=lambda stripes: (sum(s.count * -(-s.length // lanes) for s in stripes), len(stripes)))

    def _shifted_stripes(self, d: int, outputs: int, shift: int) -> list[Stripes]:
        """The first whole stripe begins at pixel `stride` - `shift`, or at pixel 0 without a shift."""
        stride, (before, after) = self.strides[d], self.pads[d]
        pads = (*self.pads[:d], (before - shift, after), *self.pads[d + 1 :])
        phases = replace(self, pads=pads).phases(d, stride)
        (last, rest), begin = divmod(outputs + shift, stride), 1 if shift else 0
        edges = [(0, 1, shift, stride if last else rest)] if shift else []
        if last > begin:
            edges.append((begin, last - begin, 0, stride))
        if rest and last >= begin:
            edges.append((last, 1, 0, rest))
        found = []
        for number, count, low, high in edges:
            for (_, first, dilation), each in itertools.groupby(
                phases[low:high], lambda p: (len(p.taps), p.first, p.dilation)
            ):
                run = list(each)
                taps = np.array([p.taps for p in run], np.int64)
                start = number * stride + run[0].offset - shift
                found.append(Stripes(start, count, len(run), taps, number + first, dilation))
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
