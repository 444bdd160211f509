"""ONNX operators that move elements without computing: shapes, slices, joins, padding."""

from __future__ import annotations

import math

import numpy as np

from glulam.compiler import ops
from glulam.compiler.graph.graph import Value
from glulam.compiler.graph.types import DType
from glulam.frontends import compositions
from glulam.frontends.onnx.context import Context, Converter, Held, Places, Repeated


def reshape(ctx: Context) -> Held:
    """0 keeps the extent of the same place (unless allowzero), one -1 takes what is left."""
    repeated = ctx.held(0)
    if isinstance(repeated, Repeated):
        ctx.ignore("allowzero")
        return repeated
    x = ctx[0]
    wanted = ctx.ints_from("shape", 1, 5)
    ctx.ignore("consumed_inputs")
    if wanted is None:
        raise ctx.malformed("the shape is missing")
    keep = not ctx.flag("allowzero")
    shape = list(wanted)
    for i, extent in enumerate(shape):
        if extent == 0 and keep:
            if i >= len(x.shape):
                raise ctx.malformed(f"shape {wanted} copies dimension {i} of {x.type}")
            shape[i] = x.shape[i]
    if shape.count(-1) > 1 or min(shape, default=0) < -1:
        raise ctx.malformed(f"shape {wanted}")
    if -1 in shape:
        rest = -math.prod(shape)
        if rest == 0 or x.type.size % rest:
            raise ctx.malformed(f"{x.type} does not divide into shape {wanted}")
        shape[shape.index(-1)] = x.type.size // rest
    return _reshaped(ctx, x, tuple(shape))


def _reshaped(ctx: Context, x: Value, shape: tuple[int, ...]) -> Value:
    if math.prod(shape) != x.type.size:
        raise ctx.malformed(f"{x.type} does not fit into shape {shape}")
    return x if shape == x.shape else ctx.apply(ops.Reshape(shape), x)


def flatten(ctx: Context) -> Value:
    x = ctx[0]
    axis = ctx.axis(ctx.integer("axis", 1), len(x.shape), end=True)
    return _reshaped(ctx, x, (math.prod(x.shape[:axis]), math.prod(x.shape[axis:])))


def squeeze(ctx: Context) -> Value:
    x = ctx[0]
    wanted = ctx.ints_from("axes", 1, 13)
    if wanted is None:
        axes = {i for i, extent in enumerate(x.shape) if extent == 1}
    else:
        axes = set(ctx.axes(wanted, len(x.shape)))
    if any(x.shape[axis] != 1 for axis in axes):
        raise ctx.malformed(f"axes {sorted(axes)} of {x.type} are not all of extent 1")
    return _reshaped(ctx, x, tuple(extent for i, extent in enumerate(x.shape) if i not in axes))


def unsqueeze(ctx: Context) -> Value:
    x = ctx[0]
    wanted = ctx.ints_from("axes", 1, 13)
    if wanted is None:
        raise ctx.malformed("axes are missing")
    axes = ctx.axes(wanted, len(x.shape) + len(wanted))
    extents = iter(x.shape)
    return _reshaped(ctx, x, tuple(1 if i in axes else next(extents) for i in range(len(x.shape) + len(axes))))


def transpose(ctx: Context) -> Held:
    perm = ctx.integers("perm")
    places = ctx.held(0)
    if isinstance(places, Places) and perm in (None, (1, 0)):
        return Places(places.tensor, not places.rows)
    x = ctx[0]
    rank = len(x.shape)
    perm = tuple(reversed(range(rank))) if perm is None else ctx.axes(perm, rank)
    if len(perm) != rank:
        raise ctx.malformed(f"perm {perm} for {x.type}")
    return x if perm == tuple(range(rank)) else ctx.apply(ops.Transpose(perm), x)


def concat(ctx: Context) -> Value:
    inputs = [ctx[i] for i in range(len(ctx.inputs))]
    axis = ctx.axis(ctx.integer("axis", 1), len(ctx[0].shape))
    return inputs[0] if len(inputs) == 1 else ctx.apply(ops.Concat(axis), *inputs)


def split(ctx: Context) -> tuple[Value, ...]:
    """Sizes are given, or the axis is cut into equal parts of which the last one may be smaller."""
    x = ctx[0]
    axis = ctx.axis(ctx.integer("axis", 0), len(x.shape))
    sizes = ctx.ints_from("split", 1, 13)
    count = ctx.integer("num_outputs", ctx.output_count)
    if sizes is None:
        if not 0 < count == ctx.output_count:
            raise ctx.malformed(f"num_outputs is {count}, but there are {ctx.output_count} outputs")
        part = -(-x.shape[axis] // count)
        sizes = (*(part,) * (count - 1), x.shape[axis] - part * (count - 1))
    if len(sizes) != ctx.output_count or min(sizes) < 0 or sum(sizes) != x.shape[axis]:
        raise ctx.malformed(f"parts {sizes} of axis {axis} of {x.type} into {ctx.output_count} outputs")
    return (x,) if len(sizes) == 1 else ctx.add(ops.Split(axis, sizes), x)


def slice_(ctx: Context) -> Value:
    x = ctx[0]
    rank = len(x.shape)
    if ctx.opset >= 10:
        if (sizes := _sizes_behind_starts(ctx)) is not None:
            return _slice_from_computed(ctx, sizes)
        starts, ends = ctx.known_ints(1, "starts"), ctx.known_ints(2, "ends")
        axes, steps = ctx.known_ints(3, "axes"), ctx.known_ints(4, "steps")
    else:
        starts, ends, axes, steps = ctx.integers("starts"), ctx.integers("ends"), ctx.integers("axes"), None
    if starts is None or ends is None:
        raise ctx.malformed("starts and ends are missing")
    axes = tuple(range(len(starts))) if axes is None else axes
    steps = (1,) * len(starts) if steps is None else steps
    if not len(starts) == len(ends) == len(axes) == len(steps) or 0 in steps:
        raise ctx.malformed(f"starts {starts}, ends {ends}, axes {axes}, steps {steps}")
    ranges = [range(extent) for extent in x.shape]
    for axis, start, end, step in zip(ctx.axes(axes, rank), starts, ends, steps, strict=True):
        extent = x.shape[axis]
        first = max(start, -extent) if step < 0 else start  # numpy would begin before the first element
        ranges[axis] = range(*slice(first, end, step).indices(extent))
    return compositions.sliced(x, ranges, ctx.part)


def _sizes_behind_starts(ctx: Context) -> tuple[int, ...] | None:
    """What is added to computed starts to get the ends, if that is known, so that only places depend on a run."""
    starts, ends = ctx.optional(1), ctx.optional(2)
    if starts is None or ends is None or ctx.builder.demanded(starts) is not None:
        return None
    added = ends.producer
    if added is None or not isinstance(added.op, ops.Add) or starts not in added.inputs:
        return None
    others = [value for value in added.present_inputs() if value is not starts]
    sizes = ctx.builder.demanded(others[0]) if others else None
    return None if sizes is None else tuple(int(size) for size in np.broadcast_to(sizes, starts.shape).reshape(-1))


def _slice_from_computed(ctx: Context, sizes: tuple[int, ...]) -> Value:
    """So many neighbours along each axis, from places that a run knows; the last ones, if a run starts behind them."""
    x, starts = ctx[0], ctx.cast(ctx[1], DType.I64)
    axes = ctx.known_ints(3, "axes")
    axes = tuple(range(len(sizes))) if axes is None else ctx.axes(axes, len(x.shape))
    steps = ctx.known_ints(4, "steps") or (1,) * len(sizes)
    if not len(axes) == len(sizes) == len(steps) == starts.type.size:
        raise ctx.malformed(f"starts {starts.type}, axes {axes}, steps {steps}")
    if set(steps) != {1}:
        raise ctx.unsupported(f"steps {steps} from starts that are computed")
    for i, (axis, size) in enumerate(zip(axes, sizes, strict=True)):
        extent = x.shape[axis]
        if not 0 <= size <= extent:
            raise ctx.unsupported(f"{size} elements from a computed start on, of the {extent} along axis {axis}")
        start = ctx.apply(ops.Reshape((1,)), ctx.apply(ops.Slice((i,), (1,), (1,)), starts))
        behind = ctx.apply(ops.Add(), start, ctx.constant(extent, DType.I64))
        start = ctx.apply(ops.Where(), ctx.apply(ops.Less(), start, ctx.constant(0, DType.I64)), behind, start)
        for limit, bound in ((ops.Maximum(), 0), (ops.Minimum(), extent - size)):
            start = ctx.apply(limit, start, ctx.constant(bound, DType.I64))
        places = ctx.apply(ops.Add(), start, ctx.constant(np.arange(size), DType.I64))
        x = ctx.apply(ops.Gather(axis), x, places)
    return x


def pad(ctx: Context) -> Value:
    x = ctx[0]
    rank = len(x.shape)
    mode = ctx.text("mode", "constant")
    if mode not in ("constant", "reflect", "edge", "wrap"):
        raise ctx.malformed(f"mode={mode!r}")
    axes: tuple[int, ...] | None = None
    if ctx.opset >= 11:
        flat = ctx.known_ints(1, "pads")
        value = ctx.known_scalar(2, "constant_value")
        axes = ctx.known_ints(3, "axes")
    else:
        flat = ctx.integers("pads") or ctx.integers("paddings")
        value = ctx.number("value", 0.0)
    axes = tuple(range(rank)) if axes is None else ctx.axes(axes, rank)
    if flat is None or len(flat) != 2 * len(axes):
        raise ctx.malformed(f"pads {flat} for {len(axes)} axes of {x.type}")
    pads = [(0, 0)] * rank
    for i, axis in enumerate(axes):
        pads[axis] = (flat[i], flat[i + len(axes)])
    if not any(b or a for b, a in pads):
        return x
    return ctx.apply(ops.Pad(tuple(pads), mode, 0.0 if value is None else value), x)


def expand(ctx: Context) -> Held:
    x = ctx[0]
    if x.type.size == 1 and ctx.builder.demanded(ctx[1]) is None:
        return Repeated(x)
    wanted = ctx.known_ints(1, "shape")
    if wanted is None or min(wanted, default=0) < 0:
        raise ctx.malformed(f"shape {wanted}")
    rank = max(len(wanted), len(x.shape))
    ours, theirs = (1,) * (rank - len(x.shape)) + x.shape, (1,) * (rank - len(wanted)) + wanted
    if any(a != b and 1 not in (a, b) for a, b in zip(ours, theirs, strict=True)):
        raise ctx.malformed(f"{x.type} does not broadcast with shape {wanted}")
    shape = tuple(b if a == 1 else a for a, b in zip(ours, theirs, strict=True))
    return x if shape == x.shape else ctx.apply(ops.Expand(shape), x)


def tile(ctx: Context) -> Value:
    x = ctx[0]
    repeats = ctx.known_ints(1, "repeats")
    if repeats is None or len(repeats) != len(x.shape) or min(repeats, default=0) < 0:
        raise ctx.malformed(f"repeats {repeats} for {x.type}")
    return ctx.apply(ops.Tile(repeats), x)


def gather(ctx: Context) -> Value:
    """Evenly spaced constant indices are a slice; all else stays a gather."""
    data, indices = ctx[0], ctx[1]
    axis = ctx.axis(ctx.integer("axis", 0), len(data.shape))
    places = ctx.builder.known(indices)
    if places is None or data.is_constant:
        return ctx.apply(ops.Gather(axis), data, indices)
    extent = data.shape[axis]
    if places.dtype.kind not in "iu":
        raise ctx.malformed(f"indices of type {indices.type}")
    flat = places.reshape(-1).astype(np.int64)
    if np.any(flat < -extent) or np.any(flat >= extent):
        raise ctx.malformed(f"indices leave axis {axis} of {data.type}")
    flat = np.where(flat < 0, flat + extent, flat)
    step = int(flat[1] - flat[0]) if flat.size > 1 else 1
    if flat.size == 0 or step == 0 or places.ndim > 1 or np.any(np.diff(flat) != step):
        return ctx.apply(ops.Gather(axis), data, indices)
    ranges = [range(extent) for extent in data.shape]
    ranges[axis] = range(int(flat[0]), int(flat[-1]) + (1 if step > 0 else -1), step)
    part = compositions.sliced(data, ranges, ctx.part)
    return _reshaped(ctx, part, data.shape[:axis] + places.shape + data.shape[axis + 1 :])


def identity(ctx: Context) -> Held:
    return ctx.held(0)


def dropout(ctx: Context) -> tuple[Value, ...]:
    """Inference form: nothing is dropped, and the mask is all true (before opset 10: all ones)."""
    ctx.ignore("ratio", "seed", "consumed_inputs", "is_test")
    if ctx.opset >= 12 and ctx.known_scalar(2, "training_mode") and ctx.known_scalar(1, "ratio") != 0:
        raise ctx.refused("Dropout in training mode")
    x = ctx[0]
    if not ctx.uses_output(1):
        return (x,)
    one = np.asarray(True) if ctx.opset >= 10 else np.ones((), x.type.dtype.numpy)
    return x, ctx.builder.filled(one, x.shape, ctx.base)


def depth_to_space(ctx: Context) -> Value:
    x, block = _block(ctx)
    mode = ctx.text("mode", "DCR")
    if x.shape[1] % (block * block) or mode not in ("DCR", "CRD"):
        raise ctx.malformed(f"blocks of {block} from {x.type}, mode {mode}")
    return compositions.depth_to_space(x, block, ctx.part, channels_first=mode == "CRD")


def space_to_depth(ctx: Context) -> Value:
    x, block = _block(ctx)
    if x.shape[2] % block or x.shape[3] % block:
        raise ctx.malformed(f"blocks of {block} in {x.type}")
    mode = ctx.text("mode", "DCR")
    if mode not in ("DCR", "CRD"):
        raise ctx.malformed(f"mode {mode!r}")
    return compositions.space_to_depth(x, block, ctx.part, channels_first=mode == "CRD")


def _block(ctx: Context) -> tuple[Value, int]:
    x, block = ctx[0], ctx.integer("blocksize", 0)
    if len(x.shape) != 4 or block < 1:
        raise ctx.malformed(f"blocksize {block} for {x.type}; the input is [N, C, H, W]")
    return x, block


TABLE: dict[str, Converter] = {
    "Reshape": reshape,
    "Flatten": flatten,
    "Squeeze": squeeze,
    "Unsqueeze": unsqueeze,
    "Transpose": transpose,
    "Concat": concat,
    "Split": split,
    "Slice": slice_,
    "Pad": pad,
    "Expand": expand,
    "Tile": tile,
    "Gather": gather,
    "Identity": identity,
    "Dropout": dropout,
    "DepthToSpace": depth_to_space,
    "SpaceToDepth": space_to_depth,
}
