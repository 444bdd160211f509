"""Resampling of the spatial axes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from glulam.compiler import ops
from glulam.compiler.errors import ShapeError
from glulam.frontends.layers.arguments import Extents, extents
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
        if mode not in MODES:
            raise ShapeError(f"{label}: mode is {mode!r}; it must be one of {list(MODES)}")
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
        if self.size is not None:
            sizes = extents(self.size, spatial, f"{label}: size")
        else:
            factors = _factors(self.scale_factor, spatial, f"{label}: scale_factor")
            sizes = tuple(math.floor(extent * f) for extent, f in zip(x.shape[2:], factors, strict=True))
            if min(sizes) < 1:
                raise ShapeError(f"{label}: scale_factor {factors} leaves nothing of {x.name!r}: {x.type}")
            if not self.recompute:
                return sizes, factors
        return sizes, tuple(size / extent for size, extent in zip(sizes, x.shape[2:], strict=True))


class Resize(Upsample):
    """Upsample under the name that suits shrinking too."""


def _factors(value: Any, rank: int, what: str) -> tuple[float, ...]:
    given = tuple(value) if isinstance(value, Sequence) else (value,) * rank
    if len(given) != rank:
        raise ShapeError(f"{what} is {given}; give one number, or {rank}, one per spatial axis")
    if not all(isinstance(entry, int | float) and entry > 0 and math.isfinite(entry) for entry in given):
        raise ShapeError(f"{what} is {given}; factors are positive numbers")
    return tuple(float(entry) for entry in given)
