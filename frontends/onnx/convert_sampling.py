"""ONNX operators that read tensors between their elements: sums of gathered corners times weights."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import numpy as np

from glulam.compiler import ops
from glulam.compiler.graph.graph import Value
from glulam.compiler.graph.op import Op
from glulam.compiler.graph.types import DType
from glulam.frontends.onnx.context import Context, Converter

_MODES = {"bilinear": "linear", "bicubic": "cubic"}
_CUBIC = -0.75


def grid_sample(ctx: Context) -> Value:
    """x[N, C, *S] at the places grid[N, *T, rank], each within [-1, 1], the last spatial axis first."""
    x, grid = ctx[0], ctx[1]
    rank = len(x.shape) - 2
    mode = ctx.text("mode", "linear")
    mode = _MODES.get(mode, mode)
    padding, aligned = ctx.text("padding_mode", "zeros"), ctx.flag("align_corners")
    if mode not in ("nearest", "linear", "cubic") or padding not in ("zeros", "border", "reflection"):
        raise ctx.malformed(f"mode {mode!r} with padding {padding!r}")
    if rank < 1 or len(grid.shape) != rank + 2 or grid.shape[-1] != rank or 0 in x.shape:
        raise ctx.malformed(f"a grid {grid.type} for {x.type}")
    target = grid.shape[1:-1]
    sampler = _Sampler(ctx, x, padding, aligned)
    places = []
    for axis in range(rank):
        starts = (*[0] * (rank + 1), rank - 1 - axis)
        part = ctx.apply(ops.Slice(starts, (1,) * (rank + 2), (*grid.shape[:-1], 1)), grid)
        flat = ctx.apply(ops.Reshape((grid.shape[0], 1, int(np.prod(target)))), part)
        places.append(sampler.pixels(flat, axis))
    result = sampler.sample(places, mode)
    return ctx.apply(ops.Reshape((*x.shape[:2], *target)), result)


class _Sampler:
    """Reads x[N, C, *S] at places [N, 1, T] given in pixels, one such value for each spatial axis."""

    def __init__(self, ctx: Context, x: Value, padding: str, aligned: bool) -> None:
        self.ctx, self.x, self.padding, self.aligned = ctx, x, padding, aligned
        self.spatial = x.shape[2:]
        self.dtype = x.type.dtype
        self.flat = ctx.apply(ops.Reshape((*x.shape[:2], int(np.prod(self.spatial)))), x)

    def op(self, op: Op, x: Value, y: Value | float | int) -> Value:
        other = y if isinstance(y, Value) else self.ctx.constant(y, x.type.dtype)
        return self.ctx.apply(op, x, other)

    def pixels(self, place: Value, axis: int) -> Value:
        """From [-1, 1] to pixels."""
        extent = self.spatial[axis]
        scaled = self.op(ops.Add(), place, 1.0)
        if self.aligned:
            return self.op(ops.Mul(), scaled, (extent - 1) / 2)
        return self.op(ops.Div(), self.op(ops.Sub(), self.op(ops.Mul(), scaled, float(extent)), 1.0), 2.0)

    def sample(self, places: Sequence[Value], mode: str) -> Value:
        taps = {"nearest": self.nearest, "linear": self.linear, "cubic": self.cubic}[mode]
        if mode != "cubic":
            places = [self.folded(place, axis) for axis, place in enumerate(places)]
        axes = [taps(place) for place in places]
        total: Value | None = None
        for corner in itertools.product(*axes):
            weight: Value | None = None
            for _, factor in corner:
                if factor is not None:
                    weight = factor if weight is None else self.ctx.apply(ops.Mul(), weight, factor)
            value = self.at([index for index, _ in corner], fold=mode == "cubic")
            part = value if weight is None else self.ctx.apply(ops.Mul(), value, weight)
            total = part if total is None else self.ctx.apply(ops.Add(), total, part)
        assert total is not None
        return total

    def nearest(self, place: Value) -> list[tuple[Value, Value | None]]:
        return [(self.ctx.apply(ops.Round(), place), None)]

    def linear(self, place: Value) -> list[tuple[Value, Value | None]]:
        floor = self.ctx.apply(ops.Floor(), place)
        after = self.ctx.apply(ops.Sub(), place, floor)
        before = self.ctx.apply(ops.Sub(), self.ctx.constant(1, self.dtype), after)
        return [(floor, before), (self.op(ops.Add(), floor, 1.0), after)]

    def cubic(self, place: Value) -> list[tuple[Value, Value | None]]:
        """Keys' kernel over four neighbours."""
        floor = self.ctx.apply(ops.Floor(), place)
        t = self.ctx.apply(ops.Sub(), place, floor)
        a = _CUBIC

        def far(distance: Value) -> Value:  # 1 < |distance| < 2
            return self.polynomial(distance, (a, -5 * a, 8 * a, -4 * a))

        def near(distance: Value) -> Value:
            return self.polynomial(distance, (a + 2, -(a + 3), 0.0, 1.0))

        rest = self.ctx.apply(ops.Sub(), self.ctx.constant(1, self.dtype), t)
        weights = [far(self.op(ops.Add(), t, 1.0)), near(t), near(rest), far(self.op(ops.Add(), rest, 1.0))]
        return [(self.op(ops.Add(), floor, float(i - 1)), weight) for i, weight in enumerate(weights)]

    def polynomial(self, x: Value, coefficients: Sequence[float]) -> Value:
        total = self.op(ops.Mul(), x, coefficients[0])
        for coefficient in coefficients[1:-1]:
            total = self.ctx.apply(ops.Mul(), self.op(ops.Add(), total, coefficient), x)
        return self.op(ops.Add(), total, coefficients[-1])

    def folded(self, place: Value, axis: int) -> Value:
        """The place brought inside, for border and reflection."""
        extent = self.spatial[axis]
        if self.padding == "border":
            return self.ctx.apply(ops.Clip(0.0, float(extent - 1)), place)
        if self.padding == "zeros":
            return place
        low, high = (0.0, extent - 1.0) if self.aligned else (-0.5, extent - 0.5)
        span = high - low
        if span == 0:
            return self.op(ops.Mul(), place, 0.0)
        # a triangle wave with period 2 span
        offset = self.op(ops.Mod(False), self.op(ops.Sub(), place, low), 2 * span)
        mirrored = self.ctx.apply(ops.Sub(), self.ctx.constant(2 * span, self.dtype), offset)
        inside = self.op(ops.Add(), self.ctx.apply(ops.Minimum(), offset, mirrored), low)
        return self.ctx.apply(ops.Clip(0.0, float(extent - 1)), inside)

    def at(self, indices: Sequence[Value], *, fold: bool) -> Value:
        """The elements at whole places; outside they are zero, or those at the place brought inside."""
        ctx = self.ctx
        if fold:
            indices = [self.folded(index, axis) for axis, index in enumerate(indices)]
        flat: Value | None = None
        inside: Value | None = None
        for extent, index in zip(self.spatial, indices, strict=True):
            clipped = ctx.apply(ops.Clip(0.0, float(extent - 1)), index)
            if self.padding == "zeros":
                there = ctx.apply(ops.Equal(), clipped, index)
                inside = there if inside is None else ctx.apply(ops.And(), inside, there)
            whole = ctx.apply(ops.Cast(DType.I64), clipped)
            flat = whole if flat is None else ctx.apply(ops.Add(), self.op(ops.Mul(), flat, extent), whole)
        assert flat is not None
        wide = ctx.apply(ops.Expand((*self.x.shape[:2], flat.shape[-1])), flat)
        value = ctx.apply(ops.GatherElements(2), self.flat, wide)
        return value if inside is None else ctx.apply(ops.Where(), inside, value, ctx.constant(0, self.dtype))


def deform_conv(ctx: Context) -> Value:
    """A convolution whose taps are moved by offsets: each tap is sampled, then all are multiplied with the weights."""
    x, w, offset, bias, mask = ctx[0], ctx[1], ctx[2], ctx.optional(3), ctx.optional(4)
    rank = len(x.shape) - 2
    kernel = w.shape[2:]
    if ctx.integers("kernel_shape") not in (None, kernel):
        raise ctx.malformed(f"kernel_shape differs from weights of shape {w.shape}")
    strides, dilations = (ctx.integers(name) or (1,) * rank for name in ("strides", "dilations"))
    pads = ctx.integers("pads") or (0,) * (2 * rank)
    groups, parts = ctx.integer("group", 1), ctx.integer("offset_group", 1)
    taps, target = list(np.ndindex(*kernel)), offset.shape[2:]
    count, channels = int(np.prod(target)), x.shape[1] // parts
    samples = []
    for part in range(parts):
        image = _channels(ctx, x, part * channels, channels)
        sampler = _Sampler(ctx, image, "zeros", True)
        for number, tap in enumerate(taps):
            places = []
            for axis in range(rank):
                start = -pads[axis] + tap[axis] * dilations[axis]
                line = (np.arange(target[axis]) * strides[axis] + start).reshape(-1, *[1] * (rank - 1 - axis))
                base = np.broadcast_to(line, target).reshape(1, 1, count)
                moved = _channels(ctx, offset, ((part * len(taps)) + number) * rank + axis, 1)
                flat = ctx.apply(ops.Reshape((x.shape[0], 1, count)), moved)
                places.append(ctx.apply(ops.Add(), flat, ctx.constant(base, x.type.dtype)))
            value = sampler.sample(places, "linear")
            if mask is not None:
                factor = _channels(ctx, mask, part * len(taps) + number, 1)
                value = ctx.apply(ops.Mul(), value, ctx.apply(ops.Reshape((x.shape[0], 1, count)), factor))
            samples.append(ctx.apply(ops.Reshape((x.shape[0], channels, 1, count)), value))
    each = [ctx.apply(ops.Concat(2), *samples[i * len(taps) : (i + 1) * len(taps)]) for i in range(parts)] \
        if len(taps) > 1 else samples  # fmt: skip
    columns = each[0] if parts == 1 else ctx.apply(ops.Concat(1), *each)
    depth = x.shape[1] // groups * len(taps)
    columns = ctx.apply(ops.Reshape((x.shape[0], groups, depth, count)), columns)
    weights = ctx.apply(ops.Reshape((groups, w.shape[0] // groups, depth)), w)
    product = ctx.apply(ops.MatMul(), weights, columns)
    result = ctx.apply(ops.Reshape((x.shape[0], w.shape[0], *target)), product)
    if bias is None:
        return result
    return ctx.apply(ops.Add(), result, ctx.apply(ops.Reshape((w.shape[0], *[1] * rank)), bias))


def _channels(ctx: Context, x: Value, start: int, count: int) -> Value:
    rank = len(x.shape)
    return ctx.apply(ops.Slice((0, start, *[0] * (rank - 2)), (1,) * rank, (x.shape[0], count, *x.shape[2:])), x)


TABLE: dict[str, Converter] = {"GridSample": grid_sample, "DeformConv": deform_conv}
