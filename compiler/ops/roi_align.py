"""Regions of images pooled to a fixed size."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product

import numpy as np

from glulam.compiler.graph.op import Case, Op
from glulam.compiler.graph.types import Array, TensorType, f32
from glulam.compiler.kernels import roi_align
from glulam.compiler.kernels.context import Context, Lowered
from glulam.compiler.ops.inputs import FLOATS, INDICES, check_at_least, check_dtype, f64, required, same_dtype, wide


@dataclass(frozen=True)
class RoiAlign(Op):
    """x[N,C,H,W], boxes[R,4] (x1, y1, x2, y2), image[R] -> [R,C,*size] (He et al., 2017; ONNX RoiAlign).

    Each bin is the average ("avg") of bilinear samples, as many rows and columns as `samples` says, or the largest
    weighted element ("max"). Boxes are multiplied by `scale`; with `half_pixel` element centres lie at .5, else boxes
    are at least 1 long. Samples more than one element outside the image count as zero.
    """

    size: tuple[int, int]
    samples: tuple[int, int]
    scale: float = 1.0
    half_pixel: bool = True
    mode: str = "avg"

    name = "roi_align"

    def infer(self, *inputs: TensorType | None) -> tuple[TensorType, ...]:
        x, boxes, image = required(self, inputs, 3)
        same_dtype(self, (x, boxes), FLOATS)
        check_dtype(self, image.dtype, INDICES)
        check_at_least(self, 1, size=self.size, samples=self.samples)
        if self.mode not in ("avg", "max"):
            raise self.fail(f"mode {self.mode!r} is unknown; there are avg and max")
        if x.rank != 4 or boxes.rank != 2 or boxes.shape[1] != 4 or image.shape != boxes.shape[:1]:
            raise self.fail(f"{x} is not [N, C, H, W], or boxes {boxes} not [R, 4], or images {image} not [R]")
        if not x.size and boxes.size:
            raise self.fail(f"{x} has no element to pool")
        return (x.with_shape((boxes.shape[0], x.shape[1], *self.size)),)

    def flops(self, inputs: Sequence[TensorType | None], outputs: Sequence[TensorType]) -> int:
        return 8 * math.prod(self.samples) * outputs[0].size

    def lower(self, ctx: Context) -> Lowered:
        offset, least = (0.5, 0.0) if self.half_pixel else (0.0, 1.0)
        return roi_align.build(ctx, roi_align.Regions(self.mode == "max", self.samples, self.scale, offset, least))

    def reference(self, *inputs: Array | None) -> tuple[Array, ...]:
        x, boxes, image = required(self, inputs, 3)
        result = np.zeros((len(boxes), x.shape[1], *self.size))
        for r, (box, at) in enumerate(zip(wide(boxes), image.astype(np.int64), strict=True)):
            for bin_ in product(range(self.size[0]), range(self.size[1])):
                result[(r, slice(None), *bin_)] = self._bin(wide(x[np.clip(at, 0, len(x) - 1)]), box, bin_)
        return (result.astype(x.dtype),)

    def _bin(self, x: Array, box: Array, bin_: tuple[int, int]) -> Array:
        """The pooled channels of one bin."""
        values = []
        for sample in product(*map(range, self.samples)):
            down, across = (
                self._axis(box[[1 - d, 3 - d]].astype(np.float64), d, bin_[d], sample[d], x.shape[1 + d])
                for d in (0, 1)
            )
            values.append([x[:, i, j].astype(np.float64) * (u * v) for i, u in down for j, v in across])
        if self.mode == "max":
            return np.max(values, axis=(0, 1))  # type: ignore[no-any-return]
        return np.sum(values, axis=(0, 1)) / math.prod(self.samples)  # type: ignore[no-any-return]

    def _axis(self, ends: Array, axis: int, bin_: int, sample: int, extent: int) -> list[tuple[int, float]]:
        """The elements around a sample, with their weights."""
        start, end = (float(end) * self.scale - (0.5 if self.half_pixel else 0.0) for end in ends)
        length = end - start if self.half_pixel else max(end - start, 1.0)
        place = start + (bin_ + (sample + 0.5) / self.samples[axis]) * length / self.size[axis]
        if place < -1 or place > extent:
            return [(0, 0.0), (0, 0.0)]
        place = min(max(place, 0.0), extent - 1)
        low = int(place)
        return [(low, 1 - (place - low)), (min(low + 1, extent - 1), place - low)]

    @classmethod
    def cases(cls) -> Sequence[Case]:
        boxes = np.array([[0, 0, 6, 5], [2.2, 1.1, 3.4, 8.7], [-9, -3, 2, 1], [5, 5, 5, 5]], np.float32)
        image = np.array([0, 1, 1, 0])
        x = f32(2, 3, 7, 8)
        return (
            Case(cls((3, 2), (2, 2)), (x, boxes, image)),
            Case(cls((3, 7), (1, 1), 0.5, False), (x, boxes, image.astype(np.int32))),
            Case(cls((5, 5), (3, 2), 1.5, True, "max"), (x, boxes, image)),
            Case(cls((2, 2), (2, 2)), (f64(2, 1, 3, 3), boxes.astype(np.float64), image)),
            Case(cls((2, 2), (2, 2)), (x, boxes, image), constants=frozenset({1, 2})),
            Case(cls((2, 2), (2, 2)), (x, boxes[:0], image[:0])),
        )
