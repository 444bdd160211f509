"""Sampling of images at places given by a grid of coordinates."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product

import numpy as np
import numpy.typing as npt

from glulam.compiler.graph.op import Case, Op
from glulam.compiler.graph.types import Array, TensorType, f32
from glulam.compiler.kernels import grid_sample
from glulam.compiler.kernels.context import Context, Lowered
from glulam.compiler.ops.inputs import FLOATS, F64Array, check_dtype, f64, required, wide

MODES = ("linear", "nearest", "cubic")
_Tap = tuple[npt.NDArray[np.int64], F64Array, npt.NDArray[np.bool_]]
OUTSIDE = ("zeros", "border", "reflection")
_FIRST = {"nearest": 0, "linear": 0, "cubic": -1}


@dataclass(frozen=True)
class GridSample(Op):
    """x[N, C, *S], grid[N, *O, rank] -> y[N, C, *O]: x at the places that the grid names (ONNX GridSample).

    The last axis of the grid is a place, innermost coordinate first; -1 and 1 are the centres of the outermost elements
    (`align_corners`), or their outer edges. mode: linear, nearest or cubic (Keys' kernel). outside: zeros, the nearest
    element ("border"), or the image mirrored ("reflection"). That is said of places, but for cubic of the elements
    around them, as in PyTorch and ONNX Runtime.
    """

    mode: str = "linear"
    outside: str = "zeros"
    align_corners: bool = False
    cubic_coeff: float = -0.75

    name = "grid_sample"

    def infer(self, *inputs: TensorType | None) -> tuple[TensorType, ...]:
        x, grid = required(self, inputs, 2)
        for what, value, known in (("mode", self.mode, MODES), ("outside", self.outside, OUTSIDE)):
            if value not in known:
                raise self.fail(f"{what} {value!r} is unknown; there are {', '.join(known)}")
        check_dtype(self, x.dtype, FLOATS)
        check_dtype(self, grid.dtype, FLOATS)
        if x.rank < 3 or grid.rank != x.rank or grid.shape[0] != x.shape[0] or grid.shape[-1] != x.rank - 2:
            raise self.fail(f"the grid {grid} does not fit {x}: it is [N, *output, {x.rank - 2}]")
        if 0 in x.shape[2:] and grid.size:
            raise self.fail(f"{x} has no element to sample")
        return (x.with_shape((*x.shape[:2], *grid.shape[1:-1])),)

    def flops(self, inputs: Sequence[TensorType | None], outputs: Sequence[TensorType]) -> int:
        taps = {"nearest": 1, "linear": 2, "cubic": 4}[self.mode]
        every: int = taps ** (outputs[0].rank - 2)
        return 2 * every * outputs[0].size

    def lower(self, ctx: Context) -> Lowered:
        sampling = grid_sample.Sampling(self.mode, self.outside, self.align_corners, self.cubic_coeff)
        return grid_sample.build(ctx, sampling)

    def reference(self, *inputs: Array | None) -> tuple[Array, ...]:
        x, grid = required(self, inputs, 2)
        rank = x.ndim - 2
        result = np.zeros((*x.shape[:2], *grid.shape[1:-1]))
        if not result.size:
            return (result.astype(x.dtype),)
        axes = [self._axis_taps(wide(grid[..., rank - 1 - d]), x.shape[2 + d]) for d in range(rank)]
        batch = np.arange(x.shape[0]).reshape(-1, *(1,) * rank)
        channels_last = np.moveaxis(wide(x), 1, -1)
        with np.errstate(invalid="ignore"):
            for taps in product(*axes):
                value = channels_last[(batch, *(index for index, _, _ in taps))]
                weight, inside = np.ones(grid.shape[:-1]), np.ones(grid.shape[:-1], np.bool_)
                for _, each, within in taps:
                    weight, inside = weight * each, inside & within
                shown = np.where(inside[..., None], value, 0) if self.outside == "zeros" else value
                result += np.moveaxis(shown * weight[..., None], -1, 1)
        return (result.astype(x.dtype),)

    def _axis_taps(self, normal: F64Array, extent: int) -> list[_Tap]:
        """Index, weight, and whether it lies in the image, of each element that is read along an axis."""
        place = (normal + 1) / 2 * (extent - 1) if self.align_corners else ((normal + 1) * extent - 1) / 2
        if self.mode == "nearest":
            place = np.rint(place)
        if self.mode != "cubic":
            place = self._padded(place, extent)
        base = np.floor(place)
        found = []
        for offset, weight in enumerate(self._weights(place - base), start=_FIRST[self.mode]):
            element = base + offset
            index = np.clip(self._padded(element, extent), 0, extent - 1).astype(np.int64)
            found.append((index, weight, (element >= 0) & (element < extent)))
        return found

    def _padded(self, place: F64Array, extent: int) -> F64Array:
        if self.outside == "border":
            return np.clip(place, 0, extent - 1)
        if self.outside == "zeros":
            return place
        low, high = (0.0, extent - 1.0) if self.align_corners else (-0.5, extent - 0.5)
        if low == high:
            return np.zeros_like(place)
        away = np.mod(np.abs(place - low), 2 * (high - low))
        folded = np.where(away > high - low, 2 * (high - low) - away, away) + low
        return np.where((place < low) | (place > high), folded, place)

    def _weights(self, fraction: F64Array) -> list[F64Array]:
        if self.mode == "nearest":
            return [np.ones_like(fraction)]
        if self.mode == "linear":
            return [1 - fraction, fraction]
        found = []
        for offset in (-1, 0, 1, 2):
            d, a = np.abs(fraction - offset), self.cubic_coeff
            near = (a + 2) * d**3 - (a + 3) * d**2 + 1
            found.append(np.where(d <= 1, near, a * d**3 - 5 * a * d**2 + 8 * a * d - 4 * a))
        return found

    @classmethod
    def cases(cls) -> Sequence[Case]:
        every = product(MODES, OUTSIDE, (False, True))
        flat = (f32(2, 3, 5, 4), f32(2, 3, 7, 2))
        return (
            *(Case(cls(*choice), flat, low=-1.7, high=1.7) for choice in every),
            *(Case(cls(mode, "reflection"), (f32(1, 2, 3, 4, 2), f32(1, 2, 3, 2, 3))) for mode in MODES[:2]),
            Case(cls("linear", "zeros", True), (f32(1, 2, 3, 4, 2), f32(1, 2, 3, 2, 3))),
            Case(cls("linear", "border"), (f32(2, 17, 9), f32(2, 33, 1)), low=-4.0, high=4.0),
            Case(cls("cubic", "reflection", True), (f32(1, 1, 1, 5), f32(1, 3, 3, 2))),
            Case(cls(), (f32(1, 33, 7, 7), f32(1, 17, 3, 2)), constants=frozenset({1})),
            Case(cls(), (f64(1, 2, 3, 3), f32(1, 4, 5, 2))),
            Case(cls(), (f32(1, 2, 3, 3), f32(1, 0, 5, 2))),
            Case(cls(), (np.full((1, 1, 2, 2), np.inf, np.float32), np.full((1, 1, 1, 2), 5, np.float32))),
        )
