"""ONNX's Fourier transforms: products with constant matrices of sines and cosines."""

from __future__ import annotations

import math

import numpy as np

from glulam.compiler import ops
from glulam.compiler.graph.graph import Value
from glulam.compiler.graph.types import inverse_perm
from glulam.frontends.onnx.context import Context, Converter
from glulam.frontends.onnx.proto import dtype_of

_LARGEST = 4096  # points of a transform; its matrix has the square of that


def dft(ctx: Context) -> Value:
    """The discrete Fourier transform along one axis; the last axis holds real, or real and imaginary parts."""
    x = ctx[0]
    rank = len(x.shape)
    if ctx.opset >= 20:
        known = ctx.known_scalar(2, "axis")
        axis = -2 if known is None else int(known)
    else:
        axis = ctx.integer("axis", 1)
    axis = ctx.axis(axis, rank)
    inverse, onesided = ctx.flag("inverse"), ctx.flag("onesided")
    natural = 2 * (x.shape[axis] - 1) if inverse and onesided else x.shape[axis]
    length = int(ctx.known_scalar(1, "dft_length") or natural)
    return _transform(ctx, x, axis, length, inverse=inverse, onesided=onesided)


def _transform(ctx: Context, x: Value, axis: int, length: int, *, inverse: bool, onesided: bool) -> Value:
    """As one matrix product over (axis, part): inputs beyond `length` are cut off, those missing are zeros."""
    rank, parts = len(x.shape), x.shape[-1]
    if axis == rank - 1 or parts not in (1, 2) or not 0 < length <= _LARGEST:
        raise ctx.unsupported(f"a transform of {length} points along axis {axis} of {x.type}")
    to_real = inverse and onesided  # half a spectrum, whose other half mirrors it
    used = min(x.shape[axis], length // 2 + 1 if to_real else length)
    bins = length // 2 + 1 if onesided and not inverse else length
    matrix = _matrix(length, used, bins, parts, inverse=inverse, mirrored=to_real)
    kept = 1 if to_real else 2
    matrix = matrix[:, :, :, :kept].reshape(used * parts, bins * kept)
    perm = (*(a for a in range(rank - 1) if a != axis), axis, rank - 1)
    moved = ctx.apply(ops.Transpose(perm), x)
    sizes = (*moved.shape[:-2], used, parts)
    if moved.shape != sizes:
        moved = ctx.apply(ops.Slice((0,) * rank, (1,) * rank, sizes), moved)
    rows = ctx.apply(ops.Reshape((*sizes[:-2], used * parts)), moved)
    product = ctx.apply(ops.MatMul(), rows, ctx.constant(matrix, x.type.dtype))
    split = ctx.apply(ops.Reshape((*sizes[:-2], bins, kept)), product)
    return ctx.apply(ops.Transpose(inverse_perm(perm)), split)


def _matrix(length: int, used: int, bins: int, parts: int, *, inverse: bool, mirrored: bool) -> np.ndarray:  # type: ignore[type-arg]
    """[point, part, bin, part]: e ** (-2 pi i k n / length), or its inverse, as real 2 x 2 blocks."""
    turns = np.outer(np.arange(used), np.arange(bins)) % length
    angle = 2 * math.pi * turns / length * (1 if inverse else -1)
    cos, sin = np.cos(angle), np.sin(angle)
    if inverse:
        cos, sin = cos / length, sin / length
    if mirrored:  # every bin but the first, and the middle one, stands for two
        weight = np.full((used, 1), 2.0)
        weight[0] = 1
        if length % 2 == 0 and used == length // 2 + 1:
            weight[-1] = 1
        cos, sin = cos * weight, sin * weight
    blocks = np.stack([np.stack([cos, sin], -1), np.stack([-sin, cos], -1)], 1)
    return blocks[:, :parts]


def stft(ctx: Context) -> Value:
    """The transform of windows of a signal [batch, samples, 1 or 2], `frame_step` apart.

    Exporters leave the last axis of real signals out, and runtimes take that.
    """
    x, window = ctx[0], ctx.optional(2)
    if len(x.shape) == 2:
        x = ctx.apply(ops.Reshape((*x.shape, 1)), x)
    step = int(ctx.known_scalar(1, "frame_step") or 0)
    length = ctx.known_scalar(3, "frame_length")
    size = int(length) if length is not None else window.shape[0] if window is not None else 0
    if len(x.shape) != 3 or step < 1 or not 0 < size <= x.shape[1]:
        raise ctx.malformed(f"windows of {size}, {step} apart, of {x.type}")
    count = (x.shape[1] - size) // step + 1
    places = np.arange(count)[:, None] * step + np.arange(size)
    frames = ctx.apply(ops.Gather(1), x, ctx.constant(places.astype(np.int64)))
    if window is not None:
        frames = ctx.apply(ops.Mul(), frames, ctx.apply(ops.Reshape((size, 1)), window))
    return _transform(ctx, frames, 2, size, inverse=False, onesided=ctx.flag("onesided", True))


def mel_weight_matrix(ctx: Context) -> Value:
    """Triangles between frequencies that are equally far apart on the mel scale (the ONNX text)."""
    names = ("num_mel_bins", "dft_length", "sample_rate", "lower_edge_hertz", "upper_edge_hertz")
    bins, length, rate, low, high = (float(ctx.known_scalar(i, name) or 0) for i, name in enumerate(names))
    dtype = dtype_of(ctx.integer("output_datatype", 1), "attribute output_datatype")
    spectrum, count = int(length) // 2 + 1, int(bins)
    if count < 1 or rate <= 0 or not 0 <= low < high:
        raise ctx.malformed(f"{count} mel bins from {low} to {high} Hz at {rate} Hz")
    ctx.builder.claim((spectrum, count))
    edges = np.linspace(*(2595 * np.log10(1 + f / 700) for f in (low, high)), count + 2)[: count + 2]
    steps = (edges[-1] - edges[0]) / (count + 2)
    mels = edges[0] + np.arange(count + 2) * steps
    centres = ((length + 1) * (700 * (10 ** (mels / 2595) - 1)) // rate).astype(np.int64)
    weights = np.zeros((spectrum, count))
    for i in range(count):
        lower, centre, upper = centres[i : i + 3]
        if centre == lower:
            weights[centre, i] = 1
        else:
            rising = np.arange(lower, centre + 1)
            weights[rising, i] = (rising - lower) / (centre - lower)
        if upper > centre:
            falling = np.arange(centre, upper)
            weights[falling, i] = (upper - falling) / (upper - centre)
    return ctx.builder.constant(weights.astype(dtype.numpy), ctx.base)


TABLE: dict[str, Converter] = {"DFT": dft, "STFT": stft, "MelWeightMatrix": mel_weight_matrix}
