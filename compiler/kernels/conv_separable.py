"""Depthwise convolution with the 1x1 convolution behind it, as one kernel: its rows go into scratch memory.

An iteration makes a band of output rows of an image: the depthwise convolution of all channels, with its epilogue, and
then the 1x1 convolution of those pixels, with its own. So the tensor between the two never leaves the second-level
cache. The depthwise part waits for pixels, the 1x1 part for its multiply-adds; so the latter asks for the pixels that
the next band needs.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from glulam.compiler.graph.types import Shape
from glulam.compiler.kernels.context import Context, Lowered, Point, View
from glulam.compiler.kernels.conv_depthwise import Depthwise
from glulam.compiler.kernels.conv_direct import whole_blocks
from glulam.compiler.kernels.conv_geometry import ConvGeometry, Grid
from glulam.compiler.kernels.conv_template import constant_weights
from glulam.compiler.kernels.conv_tile import ChannelGroups, ConvTile, Spot, Where
from glulam.compiler.kernels.operand import Operand
from glulam.compiler.kernels.ranges import Parts, Pieces, pieces
from glulam.compiler.kernels.tiling import choose_tiling
from glulam.compiler.loops.expr import Expr
from glulam.compiler.loops.index import Affine, Var
from glulam.compiler.loops.ir import Load
from glulam.compiler.targets import Target

_BAND = 8  # part of the second-level cache that the rows of an iteration may take
_WEIGHTS = 4  # part of it that the 1x1 convolution's weights, which each band reads, may take


def accepts(target: Target, image_bytes: int, middle: Shape, weight_bytes: int) -> str | None:
    """None if one kernel is better than two, else why not. `middle` is the shape of the depthwise result."""
    room = 2 if target.l3_is_slow else 1  # times the image's, since its result must stay as well
    if room * image_bytes <= target.l2_bytes:
        return "an image that it reads stays in the second-level cache"
    if weight_bytes > target.l2_bytes // _WEIGHTS:
        return "the 1x1 convolution has too many weights to read them again for some rows"
    if _row_bytes(middle, target.lanes) > target.l2_bytes // _BAND:
        return "a row of all channels is too large to be kept in the second-level cache"
    return None


def build(ctx: Context, geometry: ConvGeometry, parts: Sequence[Context], numbers: Sequence[Sequence[int]]) -> Lowered:
    """The kernel of two parts, whose inputs have these `numbers` among those of `ctx`; the rows between have none.

    Inputs of the depthwise part: x[N,C,H,W], w[C,1,KH,KW], b?[C], then what its epilogue reads; of the other part: what
    the first one gives, w[OC,C,1,1], b?[OC], then what its epilogue reads.
    """
    first, second = parts
    middle = first.output
    band = _band_rows(ctx, middle)
    shape = (middle.blocks, band * middle.spatial[-1], middle.layout.block)
    rows = _Rows(middle, ctx.builder.scratch("rows", shape))
    second = second.flattened() or second
    first.join(ctx, numbers[0])
    second.join(ctx, numbers[1], rows)
    second.output_view()
    _bands(_Depthwise(first, geometry, rows), _Pointwise(second), band)
    return second.finished()


def _row_bytes(middle: Shape, lanes: int) -> int:
    """Of a row of the depthwise result, with all channels."""
    return -(-middle[1] // lanes) * lanes * middle[-1] * 4


def _band_rows(ctx: Context, middle: Operand) -> int:
    """Rows of an iteration: as many as stay in the cache and leave each thread its share."""
    target, images, height = ctx.target, ctx.output.shape[0], middle.spatial[0]
    most = target.l2_bytes // _BAND // max(1, _row_bytes(middle.shape, middle.layout.block))
    most = max(1, min(height, most))

    def late(rows: int) -> tuple[float, bool, int]:
        count, rest = divmod(height, rows)
        parts = Parts(images * count, images if rest else 0, rest / rows)
        return parts.busiest(target.threads), rest > 0, -rows

    return min(range(1 if target.threads > 1 else -(-most // 2), most + 1), key=late)


def _bands(first: _Depthwise, second: _Pointwise, band: int) -> None:
    """The sections, each iteration of which makes a band of rows."""
    b, middle = first.b, first.rows.operand
    height, width = middle.spatial
    shape = first.tile_shape(band, width)
    groups, pixels = second.cut(band * width if second.is_flat else width)
    for begin, times, length in pieces(height, band):
        with b.section(n=middle.shape[0], h=times, q=1) as (n, h, q):
            row = h * length + begin
            first.rows = second.x = replace(first.rows, start=row)
            with b.serial("c", middle.blocks) as c, b.vector("v", middle.layout.block) as v:
                first.some_rows((n, c), (row,), v, length, shape)
            second.next_pixels = first.first_unread(n, row + length)
            for group in groups:
                with b.serial("g", group.count) as g:
                    second.band(Where(group, n, q, g), row, length, width, pixels)


@dataclass(frozen=True)
class _Rows(View):
    """Some rows of a tensor, from row `start` of the image in hand on, as [blocks, pixels, lanes]."""

    start: Affine = field(default_factory=lambda: Affine.of(0))

    def __getitem__(self, point: Point) -> Load:
        """The spatial place may be given as one, as in `Context.flattened`."""
        _, block, *place, lane = point
        width = self.operand.spatial[-1]
        pixel = Affine.of(place[-1]) - self.start * width
        return self.buffer[block, pixel + Affine.of(place[0]) * width if len(place) > 1 else pixel, lane]


class _Depthwise(Depthwise):
    def __init__(self, ctx: Context, geometry: ConvGeometry, rows: _Rows) -> None:
        super().__init__(ctx, geometry, constant_weights(ctx), Grid.whole(ctx.output.spatial))
        self.rows = rows
        self.streams, self.far = self.far, False  # the 1x1 convolution asks for the pixels

    def put(self, point: Point, value: Expr) -> None:
        self.b.store(self.rows[point], value)

    def first_unread(self, n: Var, row: Affine) -> _Ahead | None:
        """The input pixels that output row `row` is the first to read, if they come from afar."""
        if not self.streams:
            return None
        last, _ = self.geometry.input_place((row - 1, Affine.of(0)), [k - 1 for k in self.geometry.kernel])
        return _Ahead(self.x, n, last + 1, math.prod(self.geometry.strides))


@dataclass(frozen=True)
class _Ahead:
    """Pixels of image `n` from row `row` on, `share` of which are needed for each pixel that is computed from them."""

    x: View
    n: Var
    row: Affine
    share: int


class _Pointwise(ConvTile):
    """The 1x1 convolution of bands of rows, with the spatial extents as one where its other tensors lie so."""

    def __init__(self, ctx: Context) -> None:
        rank = ctx.output.type.rank - 2
        ones, weights = (1,) * rank, constant_weights(ctx)
        super().__init__(ctx, ConvGeometry.pointwise(rank), weights.reshape(*weights.shape[:2], *ones))
        self.is_flat = rank == 1
        self.next_pixels: _Ahead | None = None
        self.done = Affine.of(0)  # pixels of the band that come before the tile in hand

    def cut(self, pixels: int) -> tuple[list[ChannelGroups], int]:
        """The groups of channel blocks, and the pixels of a register tile."""
        target = self.ctx.target
        blocks, narrow = whole_blocks(target, len(self.weights))
        tiling = choose_tiling(target, pixels, blocks, self.in_channels)
        groups = [self.group(each) for each in tiling.channel_groups(blocks)]
        if narrow is not None:
            groups.append(self.group(Pieces(blocks, 1, 1), narrow.lanes))
        return groups, tiling.pixels

    def band(self, where: Where, row: Affine, rows: int, width: int, pixels: int) -> None:
        """All tiles of so many rows from row `row` on."""
        times, length = (1, rows * width) if self.is_flat else (rows, width)
        with self.b.serial("y", times) as y:
            for first, count, wide in pieces(length, pixels):
                with self.b.serial("s", count) as s:
                    start = s * wide + first
                    self.done = y * width + start
                    outer = () if self.is_flat else (row + y,)
                    self.tile(Spot(where, outer, row * width + start if self.is_flat else start, wide))

    def prefetch_image(self, spot: Spot, n: Var, block: Affine, part: Var, parts: int) -> None:
        """Ask for a tile's share of the pixels that the next band reads, about as they lie in memory."""
        ahead, group = self.next_pixels, spot.where.group
        if ahead is None or group.first:
            return
        layout, blocks = ahead.x.operand.layout, ahead.x.operand.blocks
        fresh = ahead.share * spot.pixels
        count = -(-fresh // (parts * group.count))
        place = spot.where.g * (parts * count) + part * count
        if layout.rows_first:
            place = place + self.done * (ahead.share * blocks) + block * fresh
        else:
            place = place + self.done * ahead.share
        with self.b.unrolled("a", count) as a:
            self.b.prefetch(ahead.x[ahead.n, 0 if layout.rows_first else block, ahead.row, place + a, 0], level=2)

    def streams_image(self) -> bool:
        return self.next_pixels is not None

    def streams_weights(self) -> bool:
        return False
