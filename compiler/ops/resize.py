"""Resampling of any axes: nearest, linear and cubic, with every coordinate rule of ONNX."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from glulam.compiler.graph.op import Op
from glulam.compiler.graph.types import Array, Shape, TensorType
from glulam.compiler.ops.inputs import ANY, FLOATS, check_at_least, check_dtype, required, wide

Floats = tuple[float, ...]
F64Array = npt.NDArray[np.float64]
I64Array = npt.NDArray[np.int64]

MODES = ("nearest", "linear", "cubic")
COORDINATES = (
    "half_pixel",
    "pytorch_half_pixel",
    "align_corners",
    "asymmetric",
    "half_pixel_symmetric",
    "tf_half_pixel_for_nn",
    "tf_crop_and_resize",
)
ROUNDINGS = ("round_prefer_floor", "round_prefer_ceil", "floor", "ceil")


@dataclass(frozen=True)
class Resize(Op):
    """Resamples x to the shape `sizes`, each axis by itself (ONNX Resize).

    scales: output / input extent per axis, as the coordinate rule uses it; it may be other than sizes / extents where
    the size was rounded down. An axis of unchanged size and scale 1 is never touched.
    coordinates: how an output index becomes a place in the input. rounding: how "nearest" picks the element there.
    cubic_coeff: a of Keys' kernel. exclude_outside: taps beyond the edge get no weight instead of the edge's value.
    antialias: "linear" and "cubic" widen their kernel when they shrink an axis.
    roi: for tf_crop_and_resize, all starts, then all ends, as fractions of the axis; places outside the input
    give `extrapolation_value`.
    """

    sizes: Shape
    scales: Floats
    mode: str = "nearest"
    coordinates: str = "half_pixel"
    rounding: str = "round_prefer_floor"
    cubic_coeff: float = -0.75
    exclude_outside: bool = False
    extrapolation_value: float = 0.0
    antialias: bool = False
    roi: Floats = ()

    name = "resize"

    def infer(self, *inputs: TensorType | None) -> tuple[TensorType, ...]:
        (x,) = required(self, inputs, 1)
        for what, value, known in (
            ("mode", self.mode, MODES),
            ("coordinates", self.coordinates, COORDINATES),
            ("rounding", self.rounding, ROUNDINGS),
        ):
            if value not in known:
                raise self.fail(f"{what} {value!r} is unknown; there are {', '.join(known)}")
        check_dtype(self, x.dtype, ANY if self.mode == "nearest" else FLOATS)
        if len(self.sizes) != x.rank or len(self.scales) != x.rank:
            raise self.fail(f"sizes and scales need one entry per axis of {x}")
        if self.coordinates == "tf_crop_and_resize" and len(self.roi) != 2 * x.rank:
            raise self.fail(f"tf_crop_and_resize needs a roi of {2 * x.rank} numbers, not {len(self.roi)}")
        check_at_least(self, 0, sizes=self.sizes)
        for axis, (extent, size) in enumerate(zip(x.shape, self.sizes, strict=True)):
            if extent == 0 and size:
                raise self.fail(f"axis {axis} of {x} is empty: there is nothing to resample")
            if not (math.isfinite(self.scales[axis]) and self.scales[axis] > 0):
                raise self.fail(f"scale {self.scales[axis]} of axis {axis} is not a positive number")
        return (x.with_shape(self.sizes),)

    def touches(self, axis: int, extent: int) -> bool:
        """Whether the axis is resampled at all."""
        if self.coordinates == "tf_crop_and_resize":
            return self.sizes[axis] != extent or self._region(axis) != (0.0, 1.0)
        return self.sizes[axis] != extent or self.scales[axis] != 1

    def places(self, axis: int, extent: int) -> F64Array:
        """For each index along an axis of the output, its place in the input, not clamped to the axis."""
        size, scale = self.sizes[axis], self.scales[axis]
        i = np.arange(size, dtype=np.float64)
        match self.coordinates:
            case "half_pixel":
                return (i + 0.5) / scale - 0.5
            case "pytorch_half_pixel":
                return (i + 0.5) / scale - 0.5 if size > 1 else i * 0
            case "align_corners":
                length = _near_integer(extent * scale)
                return i * ((extent - 1) / (length - 1)) if length != 1 else i * 0
            case "asymmetric":
                return i / scale
            case "half_pixel_symmetric":
                shift = extent / 2 * (1 - size / _near_integer(extent * scale))
                return shift + (i + 0.5) / scale - 0.5
            case "tf_half_pixel_for_nn":
                return (i + 0.5) / scale
        start, end = self._region(axis)
        if size == 1:
            return i * 0 + 0.5 * (start + end) * (extent - 1)
        return start * (extent - 1) + i * ((end - start) * (extent - 1) / (size - 1))

    def taps(self, axis: int, extent: int) -> tuple[I64Array, F64Array]:
        """Input indices [size, taps] (clamped to the axis) and weights [size, taps] for one axis of the output."""
        places = self.places(axis, extent)
        if self.mode == "nearest":
            nearest = np.clip(self._round(places), 0, extent - 1).astype(np.int64)[:, None]
            return nearest, np.ones(nearest.shape)
        shrink = min(self.scales[axis], 1.0) if self.antialias else 1.0
        radius = 1 if self.mode == "linear" else 2
        first = math.floor(-radius / shrink) + 1
        base = np.floor(places)
        index = base[:, None] + np.arange(first, 2 - first if self.antialias else radius + 1)
        weights = self._kernel((index - places[:, None]) * shrink)
        if self.exclude_outside:
            weights = np.where((index >= 0) & (index < extent), weights, 0)
        if self.exclude_outside or self.antialias:
            weights = weights / weights.sum(1, keepdims=True)
        return np.clip(index, 0, extent - 1).astype(np.int64), weights

    def outside(self, axis: int, extent: int) -> npt.NDArray[np.bool_]:
        """For each index along an axis of the output, whether it shows `extrapolation_value`."""
        if self.coordinates != "tf_crop_and_resize":
            return np.zeros(self.sizes[axis], np.bool_)
        places = self.places(axis, extent)
        return (places < 0) | (places > extent - 1)

    def reference(self, *inputs: Array | None) -> tuple[Array, ...]:
        (x,) = required(self, inputs, 1)
        if 0 in self.sizes:
            return (np.empty(self.sizes, x.dtype),)
        result = x if self.mode == "nearest" else wide(x)
        for axis, extent in enumerate(x.shape):
            if not self.touches(axis, extent):
                continue
            index, weights = self.taps(axis, extent)
            if self.mode == "nearest":
                result = result.take(index[:, 0], axis)
                continue
            along = (-1, *(1,) * (x.ndim - axis - 1))
            with np.errstate(invalid="ignore"):
                parts = [result.take(index[:, t], axis) * weights[:, t].reshape(along) for t in range(index.shape[1])]
                result = np.sum(parts, 0)
        result = result.astype(x.dtype)
        for axis, extent in enumerate(x.shape):
            result[(slice(None),) * axis + (self.outside(axis, extent),)] = self.extrapolation_value
        return (result,)

    def _region(self, axis: int) -> tuple[float, float]:
        return self.roi[axis], self.roi[axis + len(self.sizes)]

    def _round(self, places: F64Array) -> F64Array:
        match self.rounding:
            case "round_prefer_floor":
                return np.ceil(places - 0.5)
            case "round_prefer_ceil":
                return np.floor(places + 0.5)
            case "floor":
                return np.floor(places)
        return np.ceil(places)

    def _kernel(self, distance: F64Array) -> F64Array:
        """Weight of a tap at a distance: a triangle, or Keys' piecewise cubic."""
        d = np.abs(distance)
        if self.mode == "linear":
            return np.maximum(1 - d, 0)
        a = self.cubic_coeff
        near = ((a + 2) * d - (a + 3)) * d * d + 1
        far = ((a * d - 5 * a) * d + 8 * a) * d - 4 * a
        return np.where(d <= 1, near, np.where(d < 2, far, 0))


def _near_integer(length: float) -> float:
    """A length without the rounding error of extent * (size / extent)."""
    return float(round(length)) if abs(length - round(length)) < 1e-4 else length
