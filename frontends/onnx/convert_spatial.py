"""ONNX operators on images: crops about the centre, column layouts, sampling grids, regions."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np

from glulam.compiler import ops
from glulam.compiler.graph.graph import Value
from glulam.frontends.onnx.context import Context, Converter
from glulam.frontends.padding import halves


def center_crop_pad(ctx: Context) -> Value:
    """Cut or fill up to a size, equally on both sides; the odd element goes to the end."""
    x = ctx[0]
    wanted = ctx.known_ints(1, "shape")
    axes = ctx.integers("axes")
    places = tuple(range(len(x.shape))) if axes is None else ctx.axes(axes, len(x.shape))
    if wanted is None or len(wanted) != len(places) or min(wanted, default=0) < 0:
        raise ctx.malformed(f"shape {wanted} for the axes {places} of {x.type}")
    starts, sizes, pads = [0] * len(x.shape), list(x.shape), [(0, 0)] * len(x.shape)
    for axis, size in zip(places, wanted, strict=True):
        extra = size - x.shape[axis]
        if extra > 0:
            pads[axis] = halves(extra, behind=True)
        else:
            starts[axis], sizes[axis] = -extra // 2, size
    if tuple(sizes) != x.shape:
        x = ctx.apply(ops.Slice(tuple(starts), (1,) * len(sizes), tuple(sizes)), x)
    return ctx.apply(ops.Pad(tuple(pads)), x) if any(b or a for b, a in pads) else x


def col2im(ctx: Context) -> Value:
    """Columns [N, C * kernel, places] added up where they overlap: a transposed convolution with one-hot weights."""
    x = ctx[0]
    image, kernel = ctx.known_ints(1, "image_shape"), ctx.known_ints(2, "block_shape")
    if not image or not kernel or len(image) != len(kernel) or len(x.shape) != 3 or min(*image, *kernel) < 1:
        raise ctx.malformed(f"image_shape {image} and block_shape {kernel} for {x.type}")
    rank = len(image)
    strides = ctx.integers("strides") or (1,) * rank
    dilations = ctx.integers("dilations") or (1,) * rank
    flat = ctx.integers("pads") or (0,) * (2 * rank)
    if (len(strides), len(dilations), len(flat)) != (rank, rank, 2 * rank) or min(strides) < 1:
        raise ctx.malformed(f"strides {strides}, dilations {dilations}, pads {flat} for {rank} dimensions")
    pads = tuple(zip(flat[:rank], flat[rank:], strict=True))
    rooms = [n + sum(pad) - d * (k - 1) - 1 for n, pad, k, d in zip(image, pads, kernel, dilations, strict=True)]
    places = tuple(room // s + 1 for room, s in zip(rooms, strides, strict=True))
    taps = math.prod(kernel)
    if min(rooms) < 0 or x.shape[2] != math.prod(places) or x.shape[1] % taps:
        raise ctx.malformed(f"{x.type} does not hold the columns of {image} by {kernel}")
    channels = x.shape[1] // taps
    ctx.builder.claim((channels, taps, taps))
    one_hot = np.tile(np.eye(taps).reshape(taps, 1, *kernel), (channels, *(1,) * (rank + 1)))
    left = tuple(room % s for room, s in zip(rooms, strides, strict=True))
    op = ops.ConvTranspose(strides, pads, dilations, left, channels)
    spread = ctx.apply(ops.Reshape((*x.shape[:2], *places)), x)
    return ctx.apply(op, spread, ctx.constant(one_hot, x.type.dtype), None)


def affine_grid(ctx: Context) -> Value:
    """Normalised coordinates of every output place, moved by theta; the last axis runs from x to the outermost."""
    theta = ctx[0]
    size = ctx.known_ints(1, "size")
    if size is None or len(size) < 3 or theta.shape != (size[0], len(size) - 2, len(size) - 1):
        raise ctx.malformed(f"size {size} for theta {theta.type}")
    extents = size[2:]
    ctx.builder.claim((len(size) - 1, *extents))
    aligned = ctx.flag("align_corners")
    lines = [
        np.linspace(-1, 1, n) if aligned and n > 1 else (2 * np.arange(n) + 1) / n - 1 if not aligned else np.zeros(n)
        for n in extents
    ]
    grid = np.meshgrid(*lines, indexing="ij")[::-1]
    base = np.stack([axis.reshape(-1) for axis in (*grid, np.ones(extents))], 1)
    turned = ctx.apply(ops.Transpose((0, 2, 1)), theta)
    moved = ctx.apply(ops.MatMul(), ctx.constant(base, theta.type.dtype), turned)
    return ctx.apply(ops.Reshape((size[0], *extents, len(extents))), moved)


_MOST_SAMPLES = 64
_SAMPLING = {"bilinear": "linear", "linear": "linear", "nearest": "nearest", "bicubic": "cubic", "cubic": "cubic"}


def grid_sample(ctx: Context) -> Value:
    """The modes lost their prefix bi- with opset 20."""
    mode, padding = ctx.text("mode", "linear"), ctx.text("padding_mode", "zeros")
    if mode not in _SAMPLING or padding not in ("zeros", "border", "reflection"):
        raise ctx.malformed(f"mode={mode!r}, padding_mode={padding!r}")
    return ctx.apply(ops.GridSample(_SAMPLING[mode], padding, ctx.flag("align_corners")), ctx[0], ctx[1])


def roi_align(ctx: Context) -> Value:
    """Before opset 16, element centres lay at whole numbers."""
    transform = ctx.text("coordinate_transformation_mode", "half_pixel" if ctx.opset >= 16 else "output_half_pixel")
    mode = ctx.text("mode", "avg")
    if transform not in ("half_pixel", "output_half_pixel") or mode not in ("avg", "max"):
        raise ctx.malformed(f"coordinate_transformation_mode={transform!r}, mode={mode!r}")
    samples = ctx.integer("sampling_ratio", 0)
    size = (ctx.integer("output_height", 1), ctx.integer("output_width", 1))
    if min(size) < 1 or not 0 <= samples <= _MOST_SAMPLES:
        raise ctx.malformed(f"output size {size}, sampling_ratio {samples}")
    op = ops.RoiAlign(size, (samples, samples), ctx.number("spatial_scale", 1.0), transform == "half_pixel", mode)
    return ctx.apply(op, ctx[0], ctx[1], ctx[2]) if samples else _by_size(ctx, op)


def _by_size(ctx: Context, op: ops.RoiAlign) -> Value:
    """With sampling_ratio=0 a bin has a sample per element and axis, rounded up; like boxes are pooled together."""
    boxes = ctx.known(1, "sampling_ratio=0: the boxes")
    if boxes.ndim != 2 or boxes.shape[1] != 4:
        raise ctx.malformed(f"boxes of shape {boxes.shape}")
    lengths = (boxes[:, [3, 2]] - boxes[:, [1, 0]]) * boxes.dtype.type(op.scale)
    if not op.half_pixel:
        lengths = np.maximum(lengths, 1)
    wanted = np.ceil(lengths / np.array(op.size, boxes.dtype))
    if not ((wanted >= 1) & (wanted <= _MOST_SAMPLES)).all():
        raise ctx.unsupported(f"sampling_ratio=0 with a box of no size, or over {_MOST_SAMPLES} elements to a bin")
    kinds: dict[tuple[int, ...], list[int]] = {}
    for r, (down, across) in enumerate(wanted.astype(int).tolist()):
        kinds.setdefault((down, across), []).append(r)
    if not kinds:
        return ctx.apply(replace(op, samples=(1, 1)), ctx[0], ctx[1], ctx[2])
    parts = []
    for (down, across), members in kinds.items():
        image = ctx.apply(ops.Gather(0), ctx[2], ctx.constant(np.array(members, np.int64)))
        parts.append(ctx.apply(replace(op, samples=(down, across)), ctx[0], ctx.constant(boxes[members]), image))
    if len(parts) == 1:
        return parts[0]
    places = np.argsort(np.concatenate(list(kinds.values())))
    return ctx.apply(ops.Gather(0), ctx.apply(ops.Concat(0), *parts), ctx.constant(places.astype(np.int64)))


def max_roi_pool(ctx: Context) -> Value:
    size = ctx.integers("pooled_shape")
    if size is None or len(size) != 2 or min(size) < 1:
        raise ctx.malformed(f"pooled_shape {size}")
    return ctx.apply(ops.MaxRoiPool((size[0], size[1]), ctx.number("spatial_scale", 1.0)), ctx[0], ctx[1])


TABLE: dict[str, Converter] = {
    "CenterCropPad": center_crop_pad,
    "Col2Im": col2im,
    "AffineGrid": affine_grid,
    "GridSample": grid_sample,
    "RoiAlign": roi_align,
    "MaxRoiPool": max_roi_pool,
}
