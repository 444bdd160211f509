"""Loops over boxes of points, cut into parallel tasks that are worth a thread's while."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from glulam.compiler.kernels.ranges import Pieces, pieces
from glulam.compiler.loops.builder import Builder
from glulam.compiler.loops.index import Affine, Var

_TASK_BYTES = 32 << 10  # what a task should move at least
_MAX_TASKS = 64

Point = list[Affine]
VectorBody = Callable[[Affine, Var], None]


def tasks(points: int, cost: int) -> int:
    """How many parallel tasks `points` points are worth, if each moves `cost` bytes."""
    return min(max(points * cost // _TASK_BYTES, 1), _MAX_TASKS)


def nest(b: Builder, extents: Sequence[int], cost: int, body: Callable[[Point], None]) -> None:
    """Sections with `body` at each point, the outer dimensions in parallel; `cost` bytes are moved at a point.

    `body` may be called more than once, for dimensions that are not cut evenly.
    """
    if 0 in extents:
        return
    wanted = tasks(math.prod(extents), cost)
    heads: list[int] = []
    rest = list(extents)
    while rest and math.prod(heads) * rest[0] <= wanted:
        heads.append(rest.pop(0))
    parts = wanted // math.prod(heads)
    if not rest or parts == 1:
        _section(b, heads, rest, body)
        return
    cut, length = len(heads), even_length(rest[0], -(-rest[0] // parts))
    for first, count, size in pieces(rest[0], length):

        def shifted(point: Point, first: int = first, size: int = size) -> None:
            *outer, w, s = point[: cut + 2]
            body([*outer, w * size + s + first, *point[cut + 2 :]])

        _section(b, [*heads, count], [size, *rest[1:]], shifted)


def _section(b: Builder, parallel: Sequence[int], serial: Sequence[int], body: Callable[[Point], None]) -> None:
    with b.section(**{f"p{d}": e for d, e in enumerate(parallel or (1,))}) as coords:
        _serial(b, serial, [Affine.of(c) for c in coords[: len(parallel)]], body)


def _serial(b: Builder, extents: Sequence[int], point: Point, body: Callable[[Point], None]) -> None:
    if not extents:
        body(point)
    elif extents[0] == 1:
        _serial(b, extents[1:], [*point, Affine.of(0)], body)
    else:
        with b.serial(f"s{len(point)}", extents[0]) as s:
            _serial(b, extents[1:], [*point, Affine.of(s)], body)


def even_length(extent: int, least: int) -> int:
    """A length of chunks of at least that many, twice as many at most: one that divides `extent` if there is any."""
    return next((n for n in range(least, min(2 * least, extent) + 1) if extent % n == 0), least)


def row_chunks(rows: int, length: int, width: int, cost: int) -> list[Pieces]:
    """Rows of vectors in chunks of several vectors, as far as the number of rows does not make tasks enough."""
    wanted = -(-tasks(rows * length, cost) // max(rows, 1))
    unit = 4 * width
    piece = -(-length // wanted // unit) * unit if wanted > 1 else length
    return pieces(length, min(piece, length)) if length else []


def overlapping_vectors(b: Builder, length: int, width: int, body: VectorBody) -> None:
    """`body(start, v)` for 0 .. length - 1 in vectors; the last one goes over what an earlier one did already.

    A row shorter than a vector is one narrower vector. The extent of `v` is the number of lanes.
    """
    full, rest = divmod(length, width)
    fours, ones = divmod(full, 4)
    if fours > 1:
        with b.serial("i", fours) as i, b.vector("v", width) as v, b.unrolled("u", 4) as u:
            body((i * 4 + u) * width, v)
    else:
        ones, fours = full, 0
    if ones:
        with b.vector("v", width) as v, b.unrolled("u", ones) as u:
            body((u + fours * 4) * width, v)
    if rest and full:
        with b.vector("v", width) as v:
            body(Affine.of(length - width), v)
    elif rest:
        with b.vector("v", rest) as v:
            body(Affine.of(0), v)
