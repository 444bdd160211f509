"""Resampling of the spatial axes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from glulam.compiler import ops
from glulam.compiler.errors import ShapeError
from glulam.compiler.ops.resize import COORDINATES, ROUNDINGS
from glulam.frontends.layers.arguments import Extents, choice, extents, real
from glulam.frontends.layers.module import Layer
from glulam.frontends.layers.tensor import Tensor, apply

# mode -> (operator's mode, spatial axes it needs or None)
MODES = {
    "nearest": ("nearest", None),
    "nearest-exact": ("nearest", None),
    "linear": ("linear", 1),
    "bilinear": ("linear", 2),
    "trilinear": ("linear", 3),
    "bicubic": ("cubic", 2),
}
MAX_EXTENT = 2**31 - 1


class Upsample(Layer):
    """[N, C, *spatial] resampled to a size or by a factor, with torch.nn.functional.interpolate's coordinates.

    mode: nearest, nearest-exact, linear, bilinear, trilinear, bicubic. By a factor, the extent becomes
    floor(extent * factor), and the factor itself enters the coordinates unless recompute_scale_factor.
    """

    def __init__(
        self,
        size: Extents | None = None,
        scale_factor: float | Sequence[float] | None = None,
        mode: str = "nearest",
        align_corners: bool | None = None,
        recompute_scale_factor: bool | None = None,
        *,
        name: str | None = None,
    ) -> None:
        super().__init__(name)
        label = type(self).__name__
        if (size is None) == (scale_factor is None):
            raise ShapeError(f"{label}: give either size or scale_factor")
        choice(mode, MODES, f"{label}: mode")
        if align_corners and MODES[mode][0] == "nearest":
            raise ShapeError(f"{label}: align_corners has no meaning for mode {mode!r}")
        if scale_factor is not None:
            axes = len(scale_factor) if isinstance(scale_factor, Sequence) else 1
            _factors(scale_factor, axes, f"{label}: scale_factor")
        self.size = size
        self.scale_factor = scale_factor
        self.mode = mode
        self.align_corners = bool(align_corners)
        self.recompute = bool(recompute_scale_factor)

    def forward(self, x: Tensor) -> Tensor:
        label = type(self).__name__
        kind, rank = MODES[self.mode]
        spatial = x.rank - 2
        if spatial < 1 or (rank is not None and spatial != rank):
            raise ShapeError(f"{label}: mode {self.mode!r} does not fit {x.name!r}: {x.type}")
        sizes, scales = self._sizes(x, spatial, label)
        coordinates, rounding = "half_pixel", "round_prefer_floor"
        if self.mode == "nearest":
            coordinates, rounding = "asymmetric", "floor"
        elif self.mode == "nearest-exact":
            rounding = "round_prefer_ceil"
        elif self.align_corners:
            coordinates = "align_corners"
        op = ops.Resize(
            sizes=(*x.shape[:2], *sizes),
            scales=(1.0, 1.0, *scales),
            mode=kind,
            coordinates=coordinates,
            rounding=rounding,
            cubic_coeff=-0.75,
            exclude_outside=False,
            extrapolation_value=0.0,
            antialias=False,
        )
        return apply(op, x, name=self.path(x.scope))

    def _sizes(self, x: Tensor, spatial: int, label: str) -> tuple[tuple[int, ...], tuple[float, ...]]:
        if 0 in x.shape[2:]:
            raise ShapeError(f"{label}: there is nothing to resample in {x.name!r}: {x.type}")
        if self.size is not None:
            sizes = extents(self.size, spatial, f"{label}: size")
        else:
            factors = _factors(self.scale_factor, spatial, f"{label}: scale_factor")
            wanted = [extent * f for extent, f in zip(x.shape[2:], factors, strict=True)]
            if not 1 <= min(wanted) <= max(wanted) <= MAX_EXTENT:
                much = "leaves nothing" if min(wanted) < 1 else "makes too much"
                raise ShapeError(f"{label}: scale_factor {factors} {much} of {x.name!r}: {x.type}")
            sizes = tuple(map(math.floor, wanted))
            if not self.recompute:
                return sizes, factors
        return sizes, tuple(size / extent for size, extent in zip(sizes, x.shape[2:], strict=True))


class Resize(Upsample):
    """[N, C, *spatial] resampled to a size, by a factor, or, called on two tensors, to the second's spatial size.

    mode: "nearest", "linear" or "cubic" for any number of spatial axes, or one of Upsample's modes. Then the further
    arguments are those of ONNX Resize: `coordinates` is its coordinate_transformation_mode, by default that of
    torch.nn.functional.interpolate, and `rounding` its nearest_mode. `roi` (for tf_crop_and_resize) gives all starts
    and then all ends of the spatial axes, as fractions.
    """

    def __init__(
        self,
        size: Extents | None = None,
        scale_factor: float | Sequence[float] | None = None,
        mode: str = "nearest",
        align_corners: bool | None = None,
        recompute_scale_factor: bool | None = None,
        *,
        coordinates: str | None = None,
        rounding: str | None = None,
        cubic_coeff: float = -0.75,
        exclude_outside: bool = False,
        extrapolation_value: float = 0.0,
        antialias: bool = False,
        roi: Sequence[float] | None = None,
        name: str | None = None,
    ) -> None:
        Layer.__init__(self, name)
        kinds = {**MODES, "linear": ("linear", None), "cubic": ("cubic", None)}
        choice(mode, kinds, "Resize: mode")
        if size is not None and scale_factor is not None:
            raise ShapeError("Resize: give a size or a scale_factor, not both")
        self.kind, self.needs = kinds[mode]
        if align_corners and (self.kind == "nearest" or coordinates is not None):
            raise ShapeError(f"Resize: align_corners has no meaning for mode {mode!r} and coordinates {coordinates!r}")
        if scale_factor is not None:
            axes = len(scale_factor) if isinstance(scale_factor, Sequence) else 1
            _factors(scale_factor, axes, "Resize: scale_factor")
        own = "align_corners" if align_corners else "asymmetric" if mode == "nearest" else "half_pixel"
        own_rounding = {"nearest": "floor", "nearest-exact": "round_prefer_ceil"}.get(mode, "round_prefer_floor")
        if coordinates is not None:
            own_rounding = "round_prefer_floor"
        for what, value, known in (("coordinates", coordinates, COORDINATES), ("rounding", rounding, ROUNDINGS)):
            if value is not None:
                choice(value, known, f"Resize: {what}")
        if (roi is None) == (coordinates == "tf_crop_and_resize"):
            raise ShapeError("Resize: coordinates 'tf_crop_and_resize' and a roi go together")
        self.size, self.scale_factor, self.mode = size, scale_factor, mode
        self.recompute = bool(recompute_scale_factor)
        self.roi = None if roi is None else _reals(roi, "Resize: roi")
        self.settings: dict[str, Any] = {
            "mode": self.kind,
            "coordinates": coordinates or own,
            "rounding": rounding or own_rounding,
            "cubic_coeff": real(cubic_coeff, "Resize: cubic_coeff"),
            "exclude_outside": bool(exclude_outside),
            "extrapolation_value": real(extrapolation_value, "Resize: extrapolation_value"),
            "antialias": bool(antialias),
        }

    def forward(self, x: Tensor, reference: Tensor | None = None) -> Tensor:
        spatial = x.rank - 2
        if spatial < 1 or (self.needs is not None and spatial != self.needs):
            raise ShapeError(f"Resize: mode {self.mode!r} does not fit {x.name!r}: {x.type}")
        if reference is not None:
            if reference.rank != x.rank:
                raise ShapeError(f"Resize: the reference {reference.name!r} has rank {reference.rank}, not {x.rank}")
            sizes = reference.shape[2:]
            scales = tuple(size / max(extent, 1) for size, extent in zip(sizes, x.shape[2:], strict=True))
        elif self.size is None and self.scale_factor is None:
            raise ShapeError("Resize: give a size or a scale_factor, or call it on two tensors")
        else:
            sizes, scales = self._sizes(x, spatial, "Resize")
        roi: tuple[float, ...] = ()
        if self.roi is not None:
            if len(self.roi) != 2 * spatial:
                raise ShapeError(f"Resize: roi has {len(self.roi)} entries; give {spatial} starts and as many ends")
            roi = (0.0, 0.0, *self.roi[:spatial], 1.0, 1.0, *self.roi[spatial:])
        op = ops.Resize((*x.shape[:2], *sizes), (1.0, 1.0, *scales), roi=roi, **self.settings)
        return apply(op, x, name=self.path(x.scope))


def _factors(value: Any, rank: int, what: str) -> tuple[float, ...]:
    given = _reals(value, what) if isinstance(value, Sequence) else (real(value, what),) * rank
    if len(given) != rank:
        raise ShapeError(f"{what} is {given}; give one number, or {rank}, one per spatial axis")
    if not all(entry > 0 and math.isfinite(entry) for entry in given):
        raise ShapeError(f"{what} is {given}; factors are positive numbers")
    return given


def _reals(value: Any, what: str) -> tuple[float, ...]:
    if isinstance(value, str) or not isinstance(value, Sequence | np.ndarray):
        raise ShapeError(f"{what} is {value!r}; it must be a sequence of numbers")
    return tuple(real(entry, what) for entry in value)
