"""How large the register tile of a depthwise convolution is, and what the convolution costs with it."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

from glulam.compiler.graph.types import Shape
from glulam.compiler.kernels.conv_geometry import ConvGeometry
from glulam.compiler.kernels.ranges import pieces
from glulam.compiler.kernels.rates import memory_rate, overlapped
from glulam.compiler.targets import Target

UNROLLED_TAPS = 9  # larger kernels are loops over the rows of taps: as fast, and compiled in a third of the time
_MAX_PIXELS = 14


@dataclass(frozen=True)
class TileShape:
    """Output rows and pixels of a register tile, and whether all weights of a block stay in registers with it."""

    rows: int
    pixels: int
    resident: bool


@dataclass(frozen=True)
class Tiles:
    """The tiles that there may be; taps are `unrolled` or looped over, and `spare` registers are in use otherwise."""

    target: Target
    geometry: ConvGeometry
    unrolled: bool
    spare: int = 0

    def best(self, height: int, width: int) -> TileShape:
        """The tile with the fewest estimated cycles for so many output rows of so many pixels."""
        return min(self._fitting(height, width), key=lambda shape: self.cycles(shape, height, width))

    def cycles(self, shape: TileShape, height: int, width: int) -> float:
        """Of one plane: what its multiply-adds, loads and stores take."""
        target, taps = self.target, math.prod(self.geometry.kernel)
        total = 0.0
        for _, tile_rows, high in pieces(height, shape.rows):
            for _, count, wide in pieces(width, shape.pixels):
                loads = self._loads(high, wide) + (0 if shape.resident else taps)
                work = max(taps * high * wide / target.fmas_per_cycle, loads / target.loads_per_cycle)
                total += tile_rows * count * (work + high * wide / 2 + 2)
        return total

    def _fitting(self, height: int, width: int) -> Iterator[TileShape]:
        for rows in (1, 2) if self.unrolled and height > 1 else (1,):
            for pixels in range(1, max(min(width, _MAX_PIXELS), 1) + 1):
                yield from (shape for kept in (True, False) if self._fits(shape := TileShape(rows, pixels, kept)))

    def _fits(self, shape: TileShape) -> bool:
        accumulators, taps = shape.rows * shape.pixels, math.prod(self.geometry.kernel)
        needed = accumulators + shape.pixels + 2 + (taps if shape.resident else 1) + self.spare
        room = self.target.vector_registers + (0 if accumulators > 1 else 4)
        return needed <= room and (self.unrolled or not shape.resident)

    def _loads(self, rows: int, pixels: int) -> float:
        """Input vectors that a tile loads."""
        geo = self.geometry
        wide = len({t * geo.strides[-1] + k * geo.dilations[-1] for t in range(pixels) for k in range(geo.kernel[-1])})
        high, deep = 1, 1
        if len(geo.kernel) > 1:
            places = {r * geo.strides[-2] + k * geo.dilations[-2] for r in range(rows) for k in range(geo.kernel[-2])}
            high, deep = len(places), math.prod(geo.kernel[:-2])
        return float(deep * high * wide)


def cost(target: Target, batch: int, blocks: int, read: int, spatial: Shape, geometry: ConvGeometry) -> float:
    """Estimated cycles on one core, of results of so many `blocks` of channels; `read` is the input's size in bytes."""
    *planes, height, width = (1, *spatial)
    tiles = Tiles(target, geometry, math.prod(geometry.kernel) <= UNROLLED_TAPS)
    each = tiles.cycles(tiles.best(height, width), height, width)
    return overlapped(batch * blocks * math.prod(planes) * each, read / memory_rate(target, read))
