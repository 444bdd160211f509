"""Which forms of Winograd's minimal filtering a convolution may take: the sizes of its tiles."""

from __future__ import annotations

from itertools import permutations

from glulam.compiler.graph.types import Shape
from glulam.compiler.kernels.minimal_filtering import Filtering, filtering
from glulam.compiler.kernels.winograd_plan import has_few_channels
from glulam.compiler.ops.conv import Conv
from glulam.compiler.ops.winograd import as_pair, moves
from glulam.compiler.targets import Target

_TILES = {
    (3, 1): (2, 4, 6), (5, 1): (3, 4), (7, 1): (4, 6), (3, 2): (2, 4), (5, 2): (2, 4), (7, 2): (2, 4), (11, 4): (2, 4),
}  # fmt: skip
"""Outputs of Winograd's tiles along an axis, by the taps and the stride along it."""

_ADDED = 4
"""Outputs along each axis of tiles whose phases are added up.

5 take 0.93 of the time of a first layer of 7x7 on a Zen 4 and round 1.4 times as much; 6 take as long as 5 and round 15
times as much.
"""

_SMALL = 16  # rows and columns of results for which oblong tiles are considered

_MOST_POINTS = 9  # besides infinity, in two dimensions: the 11 of F(6x6, 7x7) would round seven times as much


def filterings(op: Conv, taps: Shape) -> list[Filtering]:
    """Of square tiles, or of tiles in a line where the filters have one row or column; of volumes, of their frames.

    None for other taps, nor where taps that are apart move by more than one.
    """
    if len(taps) > 3:
        return []
    taps, strides, dilations = as_pair(taps, 1), as_pair(op.strides, 1), as_pair(op.dilations, 1)
    if max(strides) > 1 and max(dilations) > 1:
        return []
    lines = list(zip(taps, strides, strict=True))
    long = [line for line in lines if line != (1, 1)]
    if not long or any(line not in _TILES for line in long):
        return []
    sizes = [m for m in _TILES[max(long)] if all(m in _TILES[line] for line in long)]
    sides = [(m if taps[0] > 1 else 1, m if taps[1] > 1 else 1) for m in sizes]
    found = [filtering(each, taps, *moves(taps, strides, dilations)) for each in sides]
    return [f for f in found if 1 in f.taps or max(f.down.most_points, f.across.most_points) <= _MOST_POINTS]


def added_filtering(target: Target, op: Conv, weights: Shape) -> Filtering | None:
    """Of tiles whose phases are added up: for strides along both axes, and channels so few that it is cheaper."""
    strides, taps = as_pair(op.strides, 1), as_pair(weights[2:], 1)
    if min(strides) < 2 or op.groups > 1 or max(op.dilations) > 1 or not has_few_channels(weights[1], target.lanes):
        return None
    phases = [-(-count // stride) for count, stride in zip(taps, strides, strict=True)]
    if min(phases) < 2 or max(phases) + _ADDED - 2 > _MOST_POINTS:
        return None
    return filtering((_ADDED, _ADDED), taps, strides, added=True)


def oblong_filterings(op: Conv, weights: Shape, extents: Shape) -> list[Filtering]:
    """Of tiles whose sides are the two smaller ones, for results so small that there are few tiles of any size.

    They have fewer products than small squares and fewer filters than large ones, which take as long to read as to
    multiply then.
    """
    if max(extents) > _SMALL or len(weights) != 4 or max(op.dilations) > 1:
        return []
    sizes = [m.outputs[0] for m in filterings(op, weights[2:]) if 1 not in m.taps][:2]
    return [filtering(sides, weights[2:], op.strides) for sides in permutations(sizes, 2)]
