"""Convolution by Winograd's minimal filtering, as one op or in three stages. Passes put these in; no frontend does."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from typing import TypeVar

import numpy as np

from glulam.compiler.graph.op import Op, Padding, Prefers, Trait
from glulam.compiler.graph.types import Array, Pads, Shape, TensorType
from glulam.compiler.kernels import conv_winograd, winograd_plan, winograd_stages
from glulam.compiler.kernels.context import Context, Lowered
from glulam.compiler.kernels.conv_geometry import ConvGeometry
from glulam.compiler.kernels.fixed_point import DIGITS, Digits
from glulam.compiler.kernels.frames import Frames
from glulam.compiler.kernels.minimal_filtering import Filtering, filtering
from glulam.compiler.kernels.operand import Operand
from glulam.compiler.kernels.windows import Window
from glulam.compiler.kernels.winograd import FinishedTiles, holds_windows
from glulam.compiler.ops.conv import Conv
from glulam.compiler.ops.inputs import optional, required, wide

Pair = tuple[int, int]
T = TypeVar("T")

_MOST_LANES = 16  # of a vector of any target


@dataclass(frozen=True)
class WinogradConv(Conv):
    """A convolution of sequences, images, or volumes: the same meaning, other roundings.

    `outputs` are the rows and columns of a tile, `taps` those of the filters; a sequence is an image of one row, and of
    a volume the frames along the first axis are images, whose products add up. The channels of groups fill whole
    blocks. With `staged`, which groups rule out and dilation requires, the pass `split_winograd` makes three ops of it.
    With `added`, which few channels allow, the phases of strides are added up before the tiles are transformed back.
    The transformed filters are kept in 32 `bits`, or 24 or 20 as `kernels.fixed_point` says.
    """

    outputs: Pair = (4, 4)
    taps: Pair = (3, 3)
    staged: bool = False
    bits: int = 32
    added: bool = False

    name = "winograd_conv"
    tolerance = 1e-4

    @property
    def filtering(self) -> Filtering:
        return filtering(self.outputs, self.taps, *moves(self.taps, self.strides, self.dilations), self.added)

    @property
    def digits(self) -> Digits | None:
        return DIGITS.get(self.bits)

    def frames(self, x: Shape, weights: Shape) -> Frames:
        """Of inputs and filters of these shapes."""
        extents, kernel = x[2:], weights[2:]
        return Frames.of(self.geometry_of(kernel), extents, self.output_extents(extents, kernel))

    def stages(self, lanes: int, shape: Shape) -> tuple[WinogradInput, WinogradProducts, WinogradOutput]:
        """The three ops that do the same for channel blocks of `lanes` and a result of `shape`."""
        common = (self.outputs, self.taps, self.strides, self.dilations, lanes)
        products = WinogradProducts(*common, shape, self.pads, self.bits)
        return WinogradInput(*common, self.pads), products, WinogradOutput(*common, shape)

    def infer(self, *inputs: TensorType | None) -> tuple[TensorType, ...]:
        types = super().infer(*inputs)
        _, w = required(self, inputs, 2, 1)
        if self.bits not in (32, *DIGITS):
            raise self.fail(f"filters of {self.bits} bits: they are kept in 20, 24 or 32")
        if as_pair(w.shape[2:], 1) != self.taps:
            raise self.fail(f"weights {w} are no filters of {'x'.join(map(str, self.taps))} taps")
        return types

    def padding(self, index: int, inputs: Sequence[TensorType | None]) -> Padding | None:
        x, weights = inputs[0], inputs[1]
        if index or x is None or weights is None:
            return None
        results = self.output_extents(x.shape[2:], weights.shape[2:])
        padding = tile_padding(self.filtering, x.shape[2:], self.pads, results)
        if not winograd_plan.has_few_channels(x.shape[1], _MOST_LANES):
            return padding
        *rows, (before, after) = padding.spans
        return Padding((*rows, (before, after + -self.filtering.inputs[1] % _MOST_LANES)))

    def reads_plain(self, index: int, inputs: Sequence[TensorType | None], block: int) -> bool:
        x = inputs[0]
        few = x is not None and winograd_plan.has_few_channels(x.shape[1], block)
        return few and not self.staged and super().reads_plain(index, inputs, block)

    def needs_plain(self, index: int) -> bool:
        return self.added and index == 0

    def pools(self, window: Window, result: TensorType, pooled: TensorType, block_bytes: int) -> str | None:
        return holds_windows(self.filtering, window, result.shape[2:], pooled.shape[2:])

    def lower_pooled(self, ctx: Context, window: Window, result: Operand) -> Lowered:
        finished = FinishedTiles(ctx, self.filtering, result.spatial, window)
        return conv_winograd.build(ctx, self.pads, finished, self.digits)

    def lower(self, ctx: Context) -> Lowered:
        image = ctx.image()
        finished = FinishedTiles(image, self.filtering, image.output.spatial[-2:])
        frames = self.frames(ctx.operand(0).shape, ctx.operand(1).shape)
        return conv_winograd.build(image, as_pair(self.pads, (0, 0)), finished, self.digits, frames)


@dataclass(frozen=True)
class _Stage(Op):
    """What the three share: tiles, filters with their strides and dilations, and the lanes of a channel block.

    Strides and dilations are the convolution's along all its axes, `taps` those of rows and columns.
    """

    outputs: Pair
    taps: Pair
    strides: Shape
    dilations: Shape
    lanes: int

    @property
    def filtering(self) -> Filtering:
        return filtering(self.outputs, self.taps, *moves(self.taps, self.strides, self.dilations))


@dataclass(frozen=True)
class WinogradInput(_Stage):
    """B^T d B of all tiles of x[N,C,*S] -> [points, tiles * C' + lanes], C' being C in whole blocks of `lanes`.

    The tiles of all images count on; of volumes, a tile of all frames comes before the next one. The last `lanes` of
    each row are zeros: without them the rows would begin at places that share the sets of a cache.
    """

    pads: Pads

    name = "winograd_input"
    tolerance = 1e-5

    def extents(self, x: TensorType) -> Shape:
        """Rows and columns of the convolution's result."""
        f, pads = self.filtering, as_pair(self.pads, (0, 0))
        return tuple(
            (extent + sum(pad) - line.dilation * (line.taps - 1) - 1) // line.stride + 1
            for extent, pad, line in zip(as_pair(x.shape[2:], 1), pads, (f.down, f.across), strict=True)
        )

    def infer(self, *inputs: TensorType | None) -> tuple[TensorType, ...]:
        (x,) = required(self, inputs, 1)
        frames = x.shape[0] * math.prod(x.shape[2:-2])
        row = frames * math.prod(self.filtering.tiles(self.extents(x))) * -(-x.shape[1] // self.lanes) + 1
        return (x.with_shape((self.filtering.points, row * self.lanes)),)

    def preference(self, inputs: Sequence[TensorType | None], outputs: Sequence[TensorType]) -> Prefers:
        return Prefers.BLOCKS

    def padding(self, index: int, inputs: Sequence[TensorType | None]) -> Padding | None:
        x = inputs[0]
        return None if x is None else tile_padding(self.filtering, x.shape[2:], self.pads, self.extents(x))

    def reference(self, *inputs: Array | None) -> tuple[Array, ...]:
        (x,) = required(self, inputs, 1)
        f, extents, (height, width) = self.filtering, self.extents(TensorType.of(x)), as_pair(x.shape[2:], 1)
        halo = tile_padding(f, (height, width), as_pair(self.pads, (0, 0)), extents).spans
        x = x.reshape(*x.shape[:2], -1, height, width)  # [N, C, frames, H, W]
        padded = np.pad(wide(x), ((0, 0), (0, -x.shape[1] % self.lanes), (0, 0), *halo))
        (rows, _), (columns, _) = f.down.places(extents[0]), f.across.places(extents[1])
        tiles = padded[:, :, :, rows[:, None, :, None], columns[None, :, None, :]]
        result = np.einsum("pi,nctaeij,qj->pqnaetc", f.down.input_transform, tiles, f.across.input_transform)
        flat = np.pad(result.reshape(f.points, -1), ((0, 0), (0, self.lanes)))
        return (flat.astype(x.dtype),)

    def lower(self, ctx: Context) -> Lowered:
        extents = self.extents(ctx.operand(0).type)
        return winograd_stages.build_input(ctx.image(), self.filtering, as_pair(self.pads, (0, 0)), extents)


@dataclass(frozen=True)
class WinogradProducts(_Stage):
    """For each point the product of the tiles' channels, as WinogradInput gives them, and of w[OC,C,*taps]'s.

    The result is [OC / lanes, tiles * slots * lanes], channels in whole blocks, zeros in a slot behind the points;
    `shape` and `pads` are those of the convolution. The filters are kept in 32 `bits`, or as `kernels.fixed_point`
    says.
    """

    shape: Shape
    pads: Pads
    bits: int = 32

    name = "winograd_products"
    traits = frozenset({Trait.BLIND})
    tolerance = 1e-4

    @property
    def tiles(self) -> int:
        """Of one frame."""
        return self.shape[0] * math.prod(self.filtering.tiles(as_pair(self.shape[2:], 1)))

    def frames(self, row: int, weights: Shape) -> Frames:
        """Of inputs with rows of so many elements, and filters of a shape."""
        inputs = (row // self.lanes - 1) // max(1, self.tiles * -(-weights[1] // self.lanes))
        geometry = ConvGeometry(weights[2:], self.strides, self.dilations, self.pads)
        return Frames.of(geometry, (inputs,), self.shape[2:])

    def infer(self, *inputs: TensorType | None) -> tuple[TensorType, ...]:
        v, w = required(self, inputs, 2)
        frames = self.frames(v.shape[1], w.shape)
        row = (self.tiles * frames.inputs * -(-w.shape[1] // self.lanes) + 1) * self.lanes
        if (
            v.shape != (self.filtering.points, row)
            or w.shape[0] != self.shape[1]
            or as_pair(w.shape[2:], 1) != self.taps
        ):
            raise self.fail(f"tiles {v} and weights {w} do not go with {list(self.shape)}")
        width = self.tiles * frames.outputs * self.filtering.slots * self.lanes
        return (v.with_shape((-(-w.shape[0] // self.lanes), width)),)

    def flops(self, inputs: Sequence[TensorType | None], outputs: Sequence[TensorType]) -> int:
        """Of the definition, not of the algorithm."""
        w = inputs[1]
        return 0 if w is None else 2 * math.prod(self.shape) * math.prod(w.shape[1:])

    def reference(self, *inputs: Array | None) -> tuple[Array, ...]:
        v, w = required(self, inputs, 2)
        f, lanes, frames = self.filtering, self.lanes, self.frames(v.shape[1], w.shape)
        blocks, channels = -(-w.shape[0] // lanes), w.shape[1]
        w = wide(w).reshape(*w.shape[:2], -1, *self.taps)  # [OC, C, taps of frames, rows, columns]
        tiles = wide(v)[:, :-lanes].reshape(f.points, self.tiles, frames.inputs, -1)[..., :channels]
        filters = np.einsum("pi,octij,qj->tpqco", f.down.filter_transform, w, f.across.filter_transform)
        filters = filters.reshape(frames.taps, f.points, channels, -1)
        filters = np.pad(filters, ((0, 0), (0, 0), (0, 0), (0, -w.shape[0] % lanes)))
        products = np.zeros((f.points, self.tiles, frames.outputs, blocks * lanes))
        for frame, tap in product(range(frames.outputs), range(frames.taps)):
            place = frames.place(frame, tap).const
            if 0 <= place < frames.inputs:
                products[:, :, frame] += tiles[:, :, place] @ filters[tap]
        products = products.reshape(f.points, -1, blocks, lanes)
        products = np.pad(products, ((0, f.slots - f.points), (0, 0), (0, 0), (0, 0)))
        return (products.transpose(2, 1, 0, 3).reshape(blocks, -1).astype(v.dtype),)

    def lower(self, ctx: Context) -> Lowered:
        digits, frames = DIGITS.get(self.bits), self.frames(ctx.operand(0).shape[1], ctx.operand(1).shape)
        return winograd_stages.build_products(ctx.image(), self.filtering, self.tiles, self.lanes, digits, frames)


@dataclass(frozen=True)
class WinogradOutput(_Stage):
    """A^T m A of the tiles that WinogradProducts gives, plus bias?[OC] -> `shape`, [N,OC,*S]."""

    shape: Shape

    name = "winograd_output"
    traits = frozenset({Trait.ANCHOR, Trait.BLIND})
    tolerance = 1e-5

    def infer(self, *inputs: TensorType | None) -> tuple[TensorType, ...]:
        (m,) = required(self, inputs, 1, 1)
        f, (batch, channels, *spatial) = self.filtering, self.shape
        tiles = batch * math.prod(spatial[:-2]) * math.prod(f.tiles(as_pair(tuple(spatial), 1)))
        if m.shape != (-(-channels // self.lanes), tiles * f.slots * self.lanes):
            raise self.fail(f"tiles {m} do not go with {list(self.shape)}")
        return (m.with_shape(self.shape),)

    def preference(self, inputs: Sequence[TensorType | None], outputs: Sequence[TensorType]) -> Prefers:
        return Prefers.BLOCKS

    def reference(self, *inputs: Array | None) -> tuple[Array, ...]:
        (m,) = required(self, inputs, 1, 1)
        bias = optional(inputs, 1)
        f, (batch, channels), (height, width) = self.filtering, self.shape[:2], as_pair(self.shape[2:], 1)
        tiles = wide(m).reshape(-1, f.slots, self.lanes)[:, : f.points]
        tiles = tiles.reshape(-1, batch, *f.tiles((height, width)), math.prod(self.shape[2:-2]), *f.inputs, self.lanes)
        both = np.einsum("ip,bnaetpql,jq->nbltaiej", f.down.output_transform, tiles, f.across.output_transform)
        (_, rows), (_, columns) = f.down.places(height), f.across.places(width)
        image = np.zeros((*both.shape[:4], rows.max() + 1, columns.max() + 1))
        image[:, :, :, :, rows[:, :, None, None], columns] = both
        image = image.reshape(batch, -1, *image.shape[3:])[:, :channels, :, :height, :width]
        image = image if bias is None else image + wide(bias)[:, None, None, None]
        return (image.reshape(self.shape).astype(m.dtype),)

    def pools(self, window: Window, result: TensorType, pooled: TensorType, block_bytes: int) -> str | None:
        """Why the kernel should not fold these windows of its result, None if it should."""
        return holds_windows(self.filtering, window, result.shape[2:], pooled.shape[2:])

    def lower_pooled(self, ctx: Context, window: Window, result: Operand) -> Lowered:
        """The kernel that folds windows of `result`, what `lower` would compute."""
        return winograd_stages.build_output(ctx, FinishedTiles(ctx, self.filtering, result.spatial, window))

    def lower(self, ctx: Context) -> Lowered:
        image = ctx.image()
        return winograd_stages.build_output(image, FinishedTiles(image, self.filtering, image.output.spatial[-2:]))


def as_pair(along: tuple[T, ...], missing: T) -> tuple[T, T]:
    """What rows and columns have of what there is along a convolution's axes; a sequence is one row."""
    down, across = (missing, *along)[-2:]
    return down, across


def moves(taps: Pair, strides: Shape, dilations: Shape) -> tuple[Pair, Pair]:
    """Strides and dilations of rows and columns; a single tap has no distance to others."""
    down, across = as_pair(dilations, 1)
    return as_pair(strides, 1), (down if taps[0] > 1 else 1, across if taps[1] > 1 else 1)


def tile_padding(f: Filtering, inputs: Shape, pads: Pads, outputs: Shape) -> Padding:
    """Zeros as far as the tiles at the edges reach, along the axes that there are; none before and after volumes."""
    axes = min(len(inputs), 2)
    spans, lines = [(0, 0)] * (len(inputs) - axes), (f.down, f.across)[-axes:]
    for extent, (before, _), results, line in zip(inputs[-axes:], pads[-axes:], outputs[-axes:], lines, strict=True):
        spans.append((before, max(0, line.reach(results) - before - extent)))
    return Padding(tuple(spans))
