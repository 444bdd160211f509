"""The largest elements of regions of images (Fast R-CNN)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product

import numpy as np

from glulam.compiler.graph.op import Case, Op
from glulam.compiler.graph.types import Array, TensorType, f32
from glulam.compiler.kernels import roi_pool
from glulam.compiler.kernels.context import Context, Lowered
from glulam.compiler.ops.inputs import FLOATS, check_at_least, f64, required, same_dtype


@dataclass(frozen=True)
class MaxRoiPool(Op):
    """x[N,C,H,W], boxes[R,5] (image, x1, y1, x2, y2) -> [R,C,*size] (Girshick, 2015; ONNX MaxRoiPool).

    Corners are multiplied by `scale` and rounded, halves away from 0; a box holds both of its corners and is cut into
    bins that overlap where they do not come out even. A bin with no element of the image is 0.
    """

    size: tuple[int, int]
    scale: float = 1.0

    name = "max_roi_pool"

    def infer(self, *inputs: TensorType | None) -> tuple[TensorType, ...]:
        x, boxes = required(self, inputs, 2)
        same_dtype(self, (x, boxes), FLOATS)
        check_at_least(self, 1, size=self.size)
        if x.rank != 4 or boxes.rank != 2 or boxes.shape[1] != 5:
            raise self.fail(f"{x} is not [N, C, H, W], or boxes {boxes} not [R, 5]")
        if not x.size and boxes.size:
            raise self.fail(f"{x} has no element to pool")
        return (x.with_shape((boxes.shape[0], x.shape[1], *self.size)),)

    def flops(self, inputs: Sequence[TensorType | None], outputs: Sequence[TensorType]) -> int:
        x, boxes = required(self, inputs, 2)
        return boxes.shape[0] * math.prod(x.shape[1:]) * self.size[0]

    def lower(self, ctx: Context) -> Lowered:
        return roi_pool.build(ctx, self.scale)

    def reference(self, *inputs: Array | None) -> tuple[Array, ...]:
        x, boxes = required(self, inputs, 2)
        result = np.zeros((len(boxes), x.shape[1], *self.size), x.dtype)
        for r, box in enumerate(boxes):
            rows, columns = (self._bins(box[[2 - d, 4 - d]], self.size[d], x.shape[2 + d]) for d in (0, 1))
            image = x[int(np.clip(box[0], 0, len(x) - 1))]
            for (i, across), (j, along) in product(enumerate(rows), enumerate(columns)):
                if (part := image[:, across, along]).size:
                    result[r, :, i, j] = part.max((1, 2))
        return (result,)

    def _bins(self, ends: Array, count: int, extent: int) -> list[slice]:
        """The elements of each bin along one axis."""
        scaled = np.multiply(ends, self.scale, dtype=ends.dtype)
        start, end = np.copysign(np.floor(np.abs(scaled)) + (np.abs(scaled) % 1 >= 0.5), scaled)
        size = np.maximum(end - start + 1, 1) / ends.dtype.type(count)
        edges = [(start + np.floor(i * size), start + np.ceil((i + 1) * size)) for i in range(count)]
        return [slice(*(int(np.clip(edge, 0, extent)) for edge in pair)) for pair in edges]

    @classmethod
    def cases(cls) -> Sequence[Case]:
        boxes = np.array(
            [[0, 0, 0, 6, 5], [1, 2.5, 1.1, 3.4, 8.7], [1, -9, -3, 2, 1], [0, 5, 5, 5, 5], [0, 9, 9, 20, 30]],
            np.float32,
        )
        x = f32(2, 3, 7, 8)
        return (
            Case(cls((3, 2)), (x, boxes)),
            Case(cls((3, 7), 0.5), (f32(2, 17, 13, 33), boxes)),
            Case(cls((1, 33)), (x, boxes[:3])),
            Case(cls((2, 2)), (f64(2, 1, 3, 3), boxes.astype(np.float64))),
            Case(cls((2, 2)), (x, boxes), constants=frozenset({1})),
            Case(cls((2, 2)), (x, boxes[:0])),
        )
