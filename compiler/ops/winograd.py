"""Convolution by Winograd's minimal filtering, as one op or in three stages. Passes put these in; no frontend does."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product

import numpy as np

from glulam.compiler.graph.op import Op, Padding, Prefers, Trait
from glulam.compiler.graph.types import Array, Shape, TensorType
from glulam.compiler.kernels import conv_winograd, winograd_stages
from glulam.compiler.kernels.context import Context, Lowered, Operand
from glulam.compiler.kernels.minimal_filtering import Filtering, filtering
from glulam.compiler.kernels.windows import Window
from glulam.compiler.kernels.winograd import FinishedTiles, holds_windows
from glulam.compiler.ops.conv import Conv, Pads
from glulam.compiler.ops.inputs import optional, required, wide

Pair = tuple[int, int]


@dataclass(frozen=True)
class WinogradConv(Conv):
    """A convolution of images without stride, dilation or groups: the same meaning, other roundings.

    `outputs` are the rows and columns of a tile, `taps` those of the filters. With `staged`, the pass `split_winograd`
    makes three ops of it.
    """

    outputs: Pair = (4, 4)
    taps: Pair = (3, 3)
    staged: bool = False

    name = "winograd_conv"
    tolerance = 1e-4

    @property
    def filtering(self) -> Filtering:
        return filtering(self.outputs, self.taps)

    def infer(self, *inputs: TensorType | None) -> tuple[TensorType, ...]:
        types = super().infer(*inputs)
        _, w = required(self, inputs, 2, 1)
        if w.shape[2:] != self.taps:
            raise self.fail(f"weights {w} are no filters of {'x'.join(map(str, self.taps))} taps")
        return types

    def padding(self, index: int, inputs: Sequence[TensorType | None]) -> Padding | None:
        x = inputs[0]
        return None if index or x is None else tile_padding(self.filtering, x.shape[2:], self.pads)

    def reads_plain(self, index: int, inputs: Sequence[TensorType | None], block: int) -> bool:
        return False

    def pools(self, window: Window, result: TensorType, pooled: TensorType, block_bytes: int) -> str | None:
        return holds_windows(self.filtering, window, result.shape[2:], pooled.shape[2:])

    def lower_pooled(self, ctx: Context, window: Window, result: Operand) -> Lowered:
        finished = FinishedTiles(ctx, self.filtering, result.spatial, window)
        return conv_winograd.build(ctx, self.geometry(ctx), finished)

    def lower(self, ctx: Context) -> Lowered:
        return conv_winograd.build(ctx, self.geometry(ctx), FinishedTiles(ctx, self.filtering, ctx.output.spatial))


@dataclass(frozen=True)
class WinogradInput(Op):
    """B^T d B of all tiles of x[N,C,H,W] -> [points, tiles * C' + lanes], C' being C in whole blocks of `lanes`.

    The tiles of all images count on. The last `lanes` of each row are zeros: without them the rows would begin at
    places that share the sets of a cache.
    """

    pads: Pads
    outputs: Pair
    taps: Pair
    lanes: int

    name = "winograd_input"
    tolerance = 1e-5

    @property
    def filtering(self) -> Filtering:
        return filtering(self.outputs, self.taps)

    def tiles(self, x: TensorType) -> Shape:
        """Tiles along height and width."""
        zipped = zip(x.shape[2:], self.pads, self.taps, strict=True)
        return self.filtering.tiles(tuple(n + sum(pad) - taps + 1 for n, pad, taps in zipped))

    def infer(self, *inputs: TensorType | None) -> tuple[TensorType, ...]:
        (x,) = required(self, inputs, 1)
        row = x.shape[0] * math.prod(self.tiles(x)) * -(-x.shape[1] // self.lanes) + 1
        return (x.with_shape((self.filtering.points, row * self.lanes)),)

    def preference(self, inputs: Sequence[TensorType | None], outputs: Sequence[TensorType]) -> Prefers:
        return Prefers.BLOCKS

    def padding(self, index: int, inputs: Sequence[TensorType | None]) -> Padding | None:
        x = inputs[0]
        return None if x is None else tile_padding(self.filtering, x.shape[2:], self.pads)

    def reference(self, *inputs: Array | None) -> tuple[Array, ...]:
        (x,) = required(self, inputs, 1)
        f, (batch, channels, *_) = self.filtering, x.shape
        type = TensorType.of(x)
        rows, columns = self.tiles(type)
        halo = tile_padding(f, x.shape[2:], self.pads).spans
        padded = np.pad(wide(x), ((0, 0), (0, -channels % self.lanes), *halo))
        result = np.zeros((*f.inputs, batch, rows, columns, padded.shape[1]))
        for a, e in product(range(rows), range(columns)):
            tile = padded[:, :, a * f.outputs[0] :, e * f.outputs[1] :][:, :, : f.inputs[0], : f.inputs[1]]
            both = np.einsum("pi,ncij,qj->pqnc", f.down.input_transform, tile, f.across.input_transform)
            result[:, :, :, a, e] = both
        flat = np.pad(result.reshape(f.points, -1), ((0, 0), (0, self.lanes)))
        return (flat.astype(x.dtype),)

    def lower(self, ctx: Context) -> Lowered:
        return winograd_stages.build_input(ctx, self.filtering, self.pads)


@dataclass(frozen=True)
class WinogradProducts(Op):
    """For each point the product of the tiles' channels, as WinogradInput gives them, and of w[OC,C,*taps]'s.

    The result is [OC / lanes, tiles * points * lanes], channels in whole blocks; `shape` is that of the convolution's.
    """

    shape: Shape
    outputs: Pair
    taps: Pair
    lanes: int

    name = "winograd_products"
    tolerance = 1e-4

    @property
    def filtering(self) -> Filtering:
        return filtering(self.outputs, self.taps)

    @property
    def tiles(self) -> int:
        return self.shape[0] * math.prod(self.filtering.tiles(self.shape[2:]))

    def infer(self, *inputs: TensorType | None) -> tuple[TensorType, ...]:
        v, w = required(self, inputs, 2)
        row = self.tiles * -(-w.shape[1] // self.lanes) * self.lanes + self.lanes
        if v.shape != (self.filtering.points, row) or w.shape[0] != self.shape[1] or w.shape[2:] != self.taps:
            raise self.fail(f"tiles {v} and weights {w} do not go with {list(self.shape)}")
        return (v.with_shape((-(-w.shape[0] // self.lanes), self.tiles * self.filtering.points * self.lanes)),)

    def flops(self, inputs: Sequence[TensorType | None], outputs: Sequence[TensorType]) -> int:
        """Of the definition, not of the algorithm."""
        w = inputs[1]
        return 0 if w is None else 2 * math.prod(self.shape) * math.prod(w.shape[1:])

    def reference(self, *inputs: Array | None) -> tuple[Array, ...]:
        v, w = required(self, inputs, 2)
        f, lanes = self.filtering, self.lanes
        blocks, channels = -(-w.shape[0] // lanes), w.shape[1]
        tiles = wide(v)[:, :-lanes].reshape(f.points, self.tiles, -1)[..., :channels]
        filters = np.einsum("pi,ocij,qj->pqco", f.down.filter_transform, wide(w), f.across.filter_transform)
        filters = np.pad(filters.reshape(f.points, channels, -1), ((0, 0), (0, 0), (0, -w.shape[0] % lanes)))
        products = (tiles @ filters).reshape(f.points, self.tiles, blocks, lanes)
        return (products.transpose(2, 1, 0, 3).reshape(blocks, -1).astype(v.dtype),)

    def lower(self, ctx: Context) -> Lowered:
        return winograd_stages.build_products(ctx, self.filtering, self.tiles, self.lanes)


@dataclass(frozen=True)
class WinogradOutput(Op):
    """A^T m A of the tiles that WinogradProducts gives, plus bias?[OC] -> `shape`, which is [N,OC,H,W]."""

    shape: Shape
    outputs: Pair
    taps: Pair
    lanes: int

    name = "winograd_output"
    traits = frozenset({Trait.ANCHOR})
    tolerance = 1e-5

    @property
    def filtering(self) -> Filtering:
        return filtering(self.outputs, self.taps)

    def infer(self, *inputs: TensorType | None) -> tuple[TensorType, ...]:
        (m,) = required(self, inputs, 1, 1)
        f, (batch, channels, *spatial) = self.filtering, self.shape
        tiles = batch * math.prod(f.tiles(tuple(spatial)))
        if m.shape != (-(-channels // self.lanes), tiles * f.points * self.lanes):
            raise self.fail(f"tiles {m} do not go with {list(self.shape)}")
        return (m.with_shape(self.shape),)

    def preference(self, inputs: Sequence[TensorType | None], outputs: Sequence[TensorType]) -> Prefers:
        return Prefers.BLOCKS

    def reference(self, *inputs: Array | None) -> tuple[Array, ...]:
        (m,) = required(self, inputs, 1, 1)
        bias = optional(inputs, 1)
        f, (batch, channels, height, width) = self.filtering, self.shape
        rows, columns = f.tiles((height, width))
        tiles = wide(m).reshape(-1, batch, rows, columns, *f.inputs, self.lanes)
        both = np.einsum("ip,bnaepql,jq->nblaiej", f.down.output_transform, tiles, f.across.output_transform)
        image = both.reshape(batch, -1, rows * f.outputs[0], columns * f.outputs[1])[:, :channels, :height, :width]
        return ((image if bias is None else image + wide(bias)[:, None, None]).astype(m.dtype),)

    def pools(self, window: Window, result: TensorType, pooled: TensorType, block_bytes: int) -> str | None:
        """Why the kernel should not fold these windows of its result, None if it should."""
        return holds_windows(self.filtering, window, result.shape[2:], pooled.shape[2:])

    def lower_pooled(self, ctx: Context, window: Window, result: Operand) -> Lowered:
        """The kernel that folds windows of `result`, what `lower` would compute."""
        return winograd_stages.build_output(ctx, FinishedTiles(ctx, self.filtering, result.spatial, window))

    def lower(self, ctx: Context) -> Lowered:
        return winograd_stages.build_output(ctx, FinishedTiles(ctx, self.filtering, ctx.output.spatial))


def tile_padding(f: Filtering, extents: Shape, pads: Pads) -> Padding:
    """Zeros as far as the tiles at the edges reach."""
    spans = []
    for extent, (before, after), line in zip(extents, pads, (f.down, f.across), strict=True):
        tiles = line.tiles_along(extent + before + after - line.taps + 1)
        spans.append((before, tiles * line.outputs + line.taps - 1 - before - extent))
    return Padding(tuple(spans))
