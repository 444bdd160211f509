"""Resampling of the spatial axes."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from glulam.compiler import ops
from glulam.compiler.errors import ShapeError
from glulam.compiler.ops.resize import COORDINATES, ROUNDINGS
from glulam.frontends.layers.arguments import Extents, choice, extents, flag, real
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
ANY_RANK = {"linear": ("linear", None), "cubic": ("cubic", None)}
MAX_EXTENT = 2**31 - 1


class _Resampling(Layer):
    """A mode, and a size or a factor."""

    def __init__(
        self,
        size: Extents | None,
        scale_factor: float | Sequence[float] | None,
        mode: str,
        align_corners: bool | None,
        recompute: bool | None,
        modes: Mapping[str, tuple[str, int | None]],
        name: str | None,
    ) -> None:
        super().__init__(name)
        self.label = type(self).__name__
        choice(mode, modes, f"{self.label}: mode")
        if scale_factor is not None:
            axes = len(scale_factor) if isinstance(scale_factor, Sequence) else 1
            _factors(scale_factor, axes, f"{self.label}: scale_factor")
        self.size, self.scale_factor, self.mode = size, scale_factor, mode
        self.align_corners = align_corners is not None and flag(align_corners, f"{self.label}: align_corners")
        recomputes = recompute is not None and flag(recompute, f"{self.label}: recompute_scale_factor")
        self.recompute = recomputes or self.align_corners  # corners are those of the extents that there are
        self.kind, self.needs = modes[mode]

    def _rules(self) -> tuple[str, str]:
        """The operator's coordinates and rounding that do what torch.nn.functional.interpolate does."""
        if self.mode == "nearest":
            return "asymmetric", "floor"
        if self.mode == "nearest-exact":
            return "half_pixel", "round_prefer_ceil"
        return "align_corners" if self.align_corners else "half_pixel", "round_prefer_floor"

    def _spatial(self, x: Tensor) -> int:
        """How many spatial axes x has. Raises ShapeError if the mode needs others."""
        spatial = x.rank - 2
        if spatial < 1 or (self.needs is not None and spatial != self.needs):
            raise ShapeError(f"{self.label}: mode {self.mode!r} does not fit {x.name!r}: {x.type}")
        return spatial

    def _sizes(self, x: Tensor) -> tuple[tuple[int, ...], tuple[float, ...]]:
        """The spatial extents of the result, and the factors that enter the coordinates."""
        if 0 in x.shape[2:]:
            raise ShapeError(f"{self.label}: there is nothing to resample in {x.name!r}: {x.type}")
        if self.size is not None:
            sizes = extents(self.size, x.rank - 2, f"{self.label}: size")
        else:
            factors = _factors(self.scale_factor, x.rank - 2, f"{self.label}: scale_factor")
            wanted = [extent * f for extent, f in zip(x.shape[2:], factors, strict=True)]
            if not 1 <= min(wanted) <= max(wanted) <= MAX_EXTENT:
                much = "leaves nothing" if min(wanted) < 1 else "makes too much"
                raise ShapeError(f"{self.label}: scale_factor {factors} {much} of {x.name!r}: {x.type}")
            sizes = tuple(map(math.floor, wanted))
            if not self.recompute:
                return sizes, factors
        return sizes, tuple(size / extent for size, extent in zip(sizes, x.shape[2:], strict=True))


class Upsample(_Resampling):
    """[N, C, *spatial] resampled to a size or by a factor, with torch.nn.functional.interpolate's coordinates.

    mode: nearest, nearest-exact, linear, bilinear, trilinear, bicubic. By a factor, the extent becomes
    floor(extent * factor), and the factor itself enters the coordinates unless recompute_scale_factor or align_corners.
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
        super().__init__(size, scale_factor, mode, align_corners, recompute_scale_factor, MODES, name)
        if (size is None) == (scale_factor is None):
            raise ShapeError(f"{self.label}: give either size or scale_factor")
        if self.align_corners and self.kind == "nearest":
            raise ShapeError(f"{self.label}: align_corners has no meaning for mode {mode!r}")

    def forward(self, x: Tensor) -> Tensor:
        self._spatial(x)
        (sizes, scales), (coordinates, rounding) = self._sizes(x), self._rules()
        op = ops.Resize((*x.shape[:2], *sizes), (1.0, 1.0, *scales), self.kind, coordinates, rounding)
        return apply(op, x, name=self.path(x.scope))


class Resize(_Resampling):
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
        super().__init__(size, scale_factor, mode, align_corners, recompute_scale_factor, {**MODES, **ANY_RANK}, name)
        if size is not None and scale_factor is not None:
            raise ShapeError("Resize: give a size or a scale_factor, not both")
        if self.align_corners and (self.kind == "nearest" or coordinates is not None):
            raise ShapeError(f"Resize: align_corners has no meaning for mode {mode!r} and coordinates {coordinates!r}")
        if (roi is None) == (coordinates == "tf_crop_and_resize"):
            raise ShapeError("Resize: coordinates 'tf_crop_and_resize' and a roi go together")
        own_coordinates, own_rounding = self._rules()
        if rounding is None:
            rounding = own_rounding if coordinates is None else "round_prefer_floor"
        if coordinates is None:
            coordinates = own_coordinates
        self.roi = None if roi is None else _reals(roi, "Resize: roi")
        self.settings: dict[str, Any] = {
            "mode": self.kind,
            "coordinates": choice(coordinates, COORDINATES, "Resize: coordinates"),
            "rounding": choice(rounding, ROUNDINGS, "Resize: rounding"),
            "cubic_coeff": real(cubic_coeff, "Resize: cubic_coeff"),
            "exclude_outside": flag(exclude_outside, "Resize: exclude_outside"),
            "extrapolation_value": real(extrapolation_value, "Resize: extrapolation_value"),
            "antialias": flag(antialias, "Resize: antialias"),
        }

    def forward(self, x: Tensor, reference: Tensor | None = None) -> Tensor:
        spatial = self._spatial(x)
        if reference is not None:
            if reference.rank != x.rank:
                raise ShapeError(f"Resize: the reference {reference.name!r} has rank {reference.rank}, not {x.rank}")
            sizes = reference.shape[2:]
            scales = tuple(size / max(extent, 1) for size, extent in zip(sizes, x.shape[2:], strict=True))
        elif self.size is None and self.scale_factor is None:
            raise ShapeError("Resize: give a size or a scale_factor, or call it on two tensors")
        else:
            sizes, scales = self._sizes(x)
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
