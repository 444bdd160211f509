"""Volumes as the frames that they have along their first axis: which of them a frame of a convolution's result sees."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property

from glulam.compiler.graph.types import Shape
from glulam.compiler.kernels.conv_geometry import ConvGeometry, Met
from glulam.compiler.kernels.operand import Operand
from glulam.compiler.loops.builder import Builder
from glulam.compiler.loops.index import Affine, IndexLike

_ONE_TAP = ConvGeometry.pointwise(1)


@dataclass(frozen=True)
class Frames:
    """A frame of the result has the channels of those of the input that taps along the first axis meet.

    `axis` is the geometry of that axis alone, which images do not have: one is a frame that sees one.
    """

    inputs: int = 1
    outputs: int = 1
    axis: ConvGeometry = _ONE_TAP

    @classmethod
    def of(cls, geometry: ConvGeometry, inputs: Shape, outputs: Shape) -> Frames:
        """Of a convolution of sequences, images, or volumes of these spatial extents."""
        if geometry.rank < 3:
            return IMAGE
        first = ConvGeometry(geometry.kernel[:1], geometry.strides[:1], geometry.dilations[:1], geometry.pads[:1])
        return cls(inputs[0], outputs[0], first)

    @property
    def taps(self) -> int:
        return self.axis.kernel[0]

    @cached_property
    def parts(self) -> list[Met]:
        """The frames of the result, by the taps that meet the input and not only the padding."""
        return self.axis.met(0, self.outputs, self.inputs)

    @cached_property
    def met(self) -> float:
        """How many frames of the input one of the result sees on average."""
        return sum(part.count * len(part.taps) for part in self.parts) / self.outputs if self.outputs else 1.0

    def place(self, frame: IndexLike, tap: IndexLike) -> Affine:
        """The frame of the input that a tap meets for one of the result."""
        return self.axis.input_place([Affine.of(frame)], [tap])[0]


IMAGE = Frames()
"""The only frame."""


@contextmanager
def each_tap(b: Builder, taps: range) -> Iterator[Affine]:
    """A loop over taps, if there are several."""
    if len(taps) == 1:
        yield Affine.of(taps.start)
    else:
        with b.serial("d", len(taps)) as tap:
            yield tap + taps.start


def indices(operand: Operand, frame: IndexLike) -> tuple[IndexLike, ...]:
    """What stands for a frame between channels and rows in a point of the operand: nothing in one of images."""
    return (frame,) if len(operand.spatial) > 2 else ()
