"""ONNX Resize and Upsample through their versions."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from glulam.compiler.graph.graph import Value
from glulam.compiler.graph.types import DType
from glulam.compiler.ops.resize import COORDINATES, ROUNDINGS, Resize
from glulam.frontends.onnx.context import Context, Converter

_PYTORCH = "pytorch"
"""Its exporters write a scale where the corners are those of so many whole elements, which is what runtimes compute.

The operator's own tests take the corners of extent * scale elements, of which the last may be a fraction.
"""

_MODES = {"nearest": "nearest", "linear": "linear", "bilinear": "linear", "cubic": "cubic"}


def _sizes(ctx: Context, x: Value, scales: Sequence[float]) -> tuple[int, ...]:
    """floor(extent * scale) in float32, as ONNX's own shape inference has it."""
    if len(scales) != len(x.shape) or not all(0 < s < math.inf for s in scales):
        raise ctx.malformed(f"scales {tuple(scales)} for {x.type}")
    extents = [np.float32(n) * np.float32(s) for n, s in zip(x.shape, scales, strict=True)]
    if not all(np.isfinite(extents)):
        raise ctx.malformed(f"scales {tuple(scales)} for {x.type}")
    return tuple(math.floor(extent) for extent in extents)


def _mode(ctx: Context) -> str:
    mode = ctx.text("mode", "nearest")
    if mode not in _MODES:
        raise ctx.malformed(f"mode={mode!r}")
    return _MODES[mode]


def _choice(ctx: Context, name: str, default: str, choices: Sequence[str]) -> str:
    value = ctx.text(name, default)
    if value not in choices:
        raise ctx.malformed(f"{name}={value!r}")
    return value


def _known_floats(ctx: Context, index: int, what: str) -> tuple[float, ...]:
    """The entries of an optional input; empty if it is left out.

    A float32 is taken for the shortest decimal that it stands for: 0.6 is meant where 0.60000002 is stored, and which
    element is nearest can depend on it.
    """
    if ctx.optional(index) is None:
        return ()
    array = ctx.known(index, what)
    if array.ndim != 1 or array.size > 64:
        raise ctx.malformed(f"{what} (input {index}) is not a short list")
    return tuple(float(str(v)) for v in array)


def simple(ctx: Context) -> Value:
    """Upsample and Resize-10: a scale per axis, position = index / scale.

    The nearest element lies below the position, but above it along an axis that shrinks (the operator's own tests).
    """
    x = ctx[0]
    mode = _mode(ctx)
    if ctx.op_type == "Upsample" and ctx.opset < 9:
        scales: Sequence[float] = ctx.numbers("scales")
    else:
        scales = _known_floats(ctx, 1, "scales")
    sizes = _sizes(ctx, x, scales)
    down = tuple(min(scale, 1.0) for scale in scales)
    if mode == "nearest" and down != (1.0,) * len(down):
        shrunk = tuple(min(size, extent) for size, extent in zip(sizes, x.shape, strict=True))
        x = ctx.apply(Resize(shrunk, down, mode, "asymmetric", "ceil"), x)
        scales = tuple(max(scale, 1.0) for scale in scales)
    return _applied(ctx, Resize(sizes, tuple(scales), mode, "asymmetric", "floor"), x)


def resize(ctx: Context) -> Value:
    if ctx.opset < 11:
        return simple(ctx)
    x = ctx[0]
    rank = len(x.shape)
    axes = ctx.integers("axes")
    axes = tuple(range(rank)) if axes is None else ctx.axes(axes, rank)
    coordinates = _choice(ctx, "coordinate_transformation_mode", "half_pixel", COORDINATES)
    rounding = _choice(ctx, "nearest_mode", "round_prefer_floor", ROUNDINGS)
    policy = _choice(ctx, "keep_aspect_ratio_policy", "stretch", ("stretch", "not_larger", "not_smaller"))
    roi = _known_floats(ctx, 1, "roi") if coordinates == "tf_crop_and_resize" else ()
    sizes, scales = _extents(ctx, x, axes, policy)
    if coordinates == "align_corners" and ctx.producer == _PYTORCH:
        scales = tuple(size / extent if extent else 1.0 for size, extent in zip(sizes, x.shape, strict=True))
    op = Resize(
        sizes,
        scales,
        _mode(ctx),
        coordinates,
        rounding,
        ctx.number("cubic_coeff_a", -0.75),
        ctx.flag("exclude_outside"),
        ctx.number("extrapolation_value", 0.0),
        ctx.flag("antialias"),
        roi=_full_roi(ctx, roi, axes, rank) if roi else (),
    )
    return _applied(ctx, op, x)


def _applied(ctx: Context, op: Resize, x: Value) -> Value:
    """Integers are interpolated as floats and lose their fraction, as runtimes do it; ONNX does not say."""
    dtype = x.type.dtype
    if dtype.is_float or dtype is DType.BOOL or op.mode != "linear" or op.antialias:
        return ctx.apply(op, x)
    return ctx.cast(ctx.apply(op, ctx.cast(x, DType.F32 if dtype.size < 4 else DType.F64)), dtype)


def _extents(ctx: Context, x: Value, axes: Sequence[int], policy: str) -> tuple[tuple[int, ...], tuple[float, ...]]:
    """Output shape and scale of every axis, from the scales or the sizes of `axes`."""
    given_scales = _known_floats(ctx, 2, "scales")
    given_sizes = ctx.known_ints(3, "sizes") or ()
    if bool(given_scales) == bool(given_sizes):
        raise ctx.malformed("exactly one of scales and sizes must be given")
    if len(given_scales or given_sizes) != len(axes):
        raise ctx.malformed(f"{len(given_scales or given_sizes)} scales or sizes for {len(axes)} axes")
    scales, sizes = [1.0] * len(x.shape), list(x.shape)
    if given_scales:
        for axis, scale in zip(axes, given_scales, strict=True):
            scales[axis] = scale
        return _sizes(ctx, x, scales), tuple(scales)
    if min(given_sizes) < 0 or any(x.shape[axis] == 0 for axis in axes):
        raise ctx.malformed(f"sizes {given_sizes} for {x.type}")
    ratios = [size / x.shape[axis] for axis, size in zip(axes, given_sizes, strict=True)]
    if policy != "stretch":
        common = min(ratios) if policy == "not_larger" else max(ratios)
        ratios = [common] * len(ratios)
    for axis, ratio, size in zip(axes, ratios, given_sizes, strict=True):
        scales[axis] = ratio
        sizes[axis] = size if policy == "stretch" else math.floor(ratio * x.shape[axis] + 0.5)
    return tuple(sizes), tuple(scales)


def _full_roi(ctx: Context, roi: Sequence[float], axes: Sequence[int], rank: int) -> tuple[float, ...]:
    """The region of all axes, starts first; axes that are not named keep their whole extent."""
    if len(roi) != 2 * len(axes):
        raise ctx.malformed(f"roi has {len(roi)} entries for {len(axes)} axes")
    starts, ends = [0.0] * rank, [1.0] * rank
    for i, axis in enumerate(axes):
        starts[axis], ends[axis] = roi[i], roi[i + len(axes)]
    return (*starts, *ends)


TABLE: dict[str, Converter] = {"Resize": resize, "Upsample": simple}
