"""The padding around a tensor as boxes, and which of them which thread writes."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

from glulam.compiler.graph.layout import Layout
from glulam.compiler.graph.types import Shape
from glulam.compiler.targets import PARTNERS

Span = tuple[int, int]
"""(start, length)"""
Slab = Sequence[Span]
"""A box: a span per spatial dimension, in physical coordinates."""


@dataclass(frozen=True)
class Share:
    """Boxes around some images' channel blocks, to be written before (`leading`) or after all else."""

    images: Span
    blocks: Span
    slabs: Sequence[Slab]
    leading: bool = False


def shares(layout: Layout, shape: Shape, threads: int) -> list[Share]:
    """All padding of a tensor. Of two threads, each writes what lies around its half of the tensor."""
    slabs, images, blocks = _slabs(shape[2:], layout.halo), (0, shape[0]), (0, -(-shape[1] // layout.block))
    if threads != PARTNERS:
        return [Share(images, blocks, slabs)]
    if shape[0] > 1:
        return [Share(_half(shape[0], first), blocks, slabs, first) for first in (True, False)]
    if not layout.rows_first:
        return [Share(images, _half(blocks[1], first), slabs, first) for first in (True, False)]
    middle = layout.halo[0][0] + _half(shape[2], True)[1]
    found = [
        Share(images, blocks, [part for slab in slabs for part in _clipped(slab, middle, first)], first)
        for first in (True, False)
    ]
    return [share for share in found if share.slabs]


def _half(extent: int, first: bool) -> Span:
    """The first half, which is the larger one, or the second."""
    middle = -(-extent // 2)
    return (0, middle) if first else (middle, extent - middle)


def _clipped(slab: Slab, middle: int, above: bool) -> list[Slab]:
    """What of the box lies above the middle row, or what does not; nothing if it is empty."""
    (start, length), *rest = slab
    begin, end = (start, min(start + length, middle)) if above else (max(start, middle), start + length)
    return [[(begin, end - begin), *rest]] if begin < end else []


def _slabs(spatial: Shape, halo: Sequence[tuple[int, int]]) -> list[Slab]:
    """The padding as disjoint boxes."""
    slabs: list[Slab] = []
    for d in range(len(spatial)):
        inner = [(before, extent) for extent, (before, _) in zip(spatial[:d], halo[:d], strict=True)]
        outer = [
            (0, extent + before + after)
            for extent, (before, after) in zip(spatial[d + 1 :], halo[d + 1 :], strict=True)
        ]
        before, after = halo[d]
        for start, length in ((0, before), (before + spatial[d], after)):
            if length and all(n for _, n in itertools.chain(inner, outer)):
                slabs.append([*inner, (start, length), *outer])
    return slabs
