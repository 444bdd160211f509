"""Resampling of any axes: nearest, linear and cubic, with every coordinate rule of ONNX."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from glulam.compiler.graph.op import Case, Op, Prefers, Trait
from glulam.compiler.graph.types import Array, DType, Shape, TensorType, f32
from glulam.compiler.kernels import resize
from glulam.compiler.kernels.context import Context, Lowered
from glulam.compiler.ops.inputs import ANY, FLOATS, check_at_least, check_dtype, i64, required, wide
from glulam.compiler.targets import Target

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


_CHANNELS = 8  # from which on it pays to convert to channel blocks and back, and gather no element of a row
_WIDE = 64  # elements of a row of the output, which make its own work small
_FEW = 4  # elements of the input to one of the output, where neighbours are rather gathered


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
    traits = frozenset({Trait.ANCHOR})

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

    def for_samples(self, count: int, inputs: Sequence[TensorType | None]) -> Op | None:
        (x,) = required(self, inputs, 1)
        alone = x.rank > 0 and not self.touches(0, x.shape[0])
        return replace(self, sizes=(count, *self.sizes[1:])) if alone else None

    def preference(self, inputs: Sequence[TensorType | None], outputs: Sequence[TensorType]) -> Prefers:
        (x,) = required(self, inputs, 1)
        spatial = x.rank > 2 and not any(self.touches(axis, x.shape[axis]) for axis in (0, 1))
        if not spatial or x.dtype is not DType.F32:
            return Prefers.PLAIN
        rows = self._axis_taps(x.rank - 1, x.shape[-1])
        gathered = (
            rows is not None and rows.step is None and (self.mode != "nearest" or _FEW * outputs[0].size >= x.size)
        )
        return Prefers.BLOCKS if gathered and x.shape[1] >= _CHANNELS else Prefers.EITHER

    def plain_suits(self, target: Target, inputs: Sequence[TensorType | None], outputs: Sequence[TensorType]) -> bool:
        (x,) = required(self, inputs, 1)
        rows = self._axis_taps(x.rank - 1, x.shape[-1])
        if rows is None or self.sizes[-1] < _WIDE:
            return False
        return resize.windows(target, rows, x.dtype) is not None

    def lower(self, ctx: Context) -> Lowered:
        axes = [self._axis_taps(axis, extent) for axis, extent in enumerate(ctx.operand(0).shape)]
        return resize.build(ctx, axes, self.extrapolation_value)

    def _axis_taps(self, axis: int, extent: int) -> resize.AxisTaps | None:
        if not self.touches(axis, extent):
            return None
        index, weights = self.taps(axis, extent)
        outside = self.outside(axis, extent)
        return resize.AxisTaps(index, None if self.mode == "nearest" else weights, outside if outside.any() else None)

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
        result: npt.NDArray[Any] = x if self.mode == "nearest" else wide(x)
        for axis, extent in enumerate(x.shape):
            if self.touches(axis, extent):
                result = self._resample(result, axis)
        result = np.array(result, x.dtype)
        for axis, extent in enumerate(x.shape):
            result[(slice(None),) * axis + (self.outside(axis, extent),)] = self.extrapolation_value
        return (result,)

    def _resample(self, x: npt.NDArray[Any], axis: int) -> npt.NDArray[Any]:
        index, weights = self.taps(axis, x.shape[axis])
        if self.mode == "nearest":
            return x.take(index[:, 0], axis)
        total = np.zeros((*x.shape[:axis], self.sizes[axis], *x.shape[axis + 1 :]))
        with np.errstate(invalid="ignore"):
            for tap in range(index.shape[1]):
                total += x.take(index[:, tap], axis) * weights[:, tap].reshape(-1, *(1,) * (x.ndim - axis - 1))
        return total

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
            return np.where(d < 1, 1 - d, 0)
        a = self.cubic_coeff
        near = ((a + 2) * d - (a + 3)) * d * d + 1
        far = ((a * d - 5 * a) * d + 8 * a) * d - 4 * a
        return np.where(d <= 1, near, np.where(d < 2, far, 0))

    @classmethod
    def cases(cls) -> Sequence[Case]:
        x = (1, 2, 4, 5)
        up, down, mixed = (1, 2, 8, 13), (1, 2, 2, 3), (1, 2, 1, 7)
        rules = [*((c, ROUNDINGS[0]) for c in COORDINATES[:6]), *(("half_pixel", r) for r in ROUNDINGS[1:])]
        nearest = [_resize(x, mixed, coordinates=c, rounding=r) for c, r in rules]
        linear = [_resize(x, sizes, "linear", coordinates=c) for c in COORDINATES[:5] for sizes in (up, mixed)]
        cubic = [_resize(x, up, "cubic", coordinates=c) for c in COORDINATES[:5]]
        antialias = [_resize(x, sizes, mode, antialias=True) for mode in ("linear", "cubic") for sizes in (down, mixed)]
        crop = [
            _resize(
                x,
                up,
                mode,
                coordinates="tf_crop_and_resize",
                roi=(0, 0, r, 0.1, 1, 1, 0.8, 1.3),
                extrapolation_value=9.0,
            )
            for mode, r in zip(MODES, (-0.2, 0.3, -0.2), strict=True)
        ]
        rows = [
            _resize((1, 2, 3, 9), (1, 2, 5, 41), "linear"),
            _resize((1, 2, 3, 70), (1, 2, 2, 33), "linear", coordinates="align_corners"),
            _resize((1, 1, 4, 50), (1, 1, 3, 37), "cubic"),
            _resize((1, 2, 3, 40), (1, 2, 5, 17)),
            _resize((1, 2, 3, 100), (1, 2, 3, 16)),
            _resize((2, 3, 17), (2, 3, 64), "linear"),
        ]
        return (
            *nearest,
            *linear,
            *cubic,
            *antialias,
            *crop,
            *rows,
            _resize((1, 17, 3, 3), (1, 17, 6, 6), coordinates="asymmetric", rounding="floor"),
            _resize((1, 33, 2, 3), (1, 33, 4, 6), "linear"),
            _resize((1, 3, 7), (1, 3, 13), "linear", coordinates="align_corners"),
            _resize((1, 3, 7), (1, 3, 1), "linear", coordinates="align_corners"),
            _resize((1, 2, 2, 3, 2), (1, 2, 4, 3, 5), "linear"),
            _resize((1, 1, 3, 4), (1, 1, 5, 7), "cubic", cubic_coeff=-0.5, exclude_outside=True),
            Case(cls((1, 1, 5), (1.0, 1.0, 0.8)), (f32(1, 1, 7),)),
            Case(cls((1, 1, 4), (1.0, 1.0, 0.6), "linear", "align_corners"), (f32(1, 1, 7),)),
            Case(cls((1, 1, 4), (1.0, 1.0, 0.6), "linear", "half_pixel_symmetric"), (f32(1, 1, 7),)),
            Case(cls((4, 3), (2.0, 1.0)), (i64(2, 3),)),
            Case(cls((0, 4), (1.0, 2.0)), (f32(0, 2),)),
        )


def _near_integer(length: float) -> float:
    """A length without the rounding error of extent * (size / extent)."""
    return float(round(length)) if abs(length - round(length)) < 1e-4 else length


def _resize(x: Shape, sizes: Shape, mode: str = "nearest", **attributes: Any) -> Case:
    scales = tuple(size / extent for size, extent in zip(sizes, x, strict=True))
    return Case(Resize(sizes, scales, mode, **attributes), (f32(*x),))
