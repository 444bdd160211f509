"""Vectors made of other vectors' lanes: picked one by one, or a square of rows transposed in registers.

Everything here stands inside a vector loop; `lanes` is its extent.
"""

from __future__ import annotations

from collections.abc import Sequence

from glulam.compiler.graph.types import DType
from glulam.compiler.loops.builder import Builder
from glulam.compiler.loops.expr import Const, Expr
from glulam.compiler.loops.ir import LaneShuffle

Pick = tuple[int, int] | None


def assembled(sources: Sequence[Expr], picks: Sequence[Pick]) -> Expr:
    """A vector whose lane i is lane `picks[i][1]` of source `picks[i][0]`, or 0 where the pick is None."""
    lanes = len(picks)
    used = [k for k in range(len(sources)) if any(pick is not None and pick[0] == k for pick in picks)]
    zero = Const(0.0 if sources[0].dtype.is_float else 0, sources[0].dtype)
    parts = [(k, sources[k]) for k in used]
    if None in picks:
        parts.append((-1, zero))
    first, *rest = parts
    result, done = first[1], {first[0]}
    if not rest and any(pick is not None and pick[1] != i for i, pick in enumerate(picks)):
        rest = [first]
    for number, (k, part) in enumerate(rest):
        mask = []
        for i, pick in enumerate(picks):
            source, lane = (-1, i) if pick is None else pick
            if source == k:
                mask.append(lanes + lane)
            else:
                mask.append(lane if number == 0 and source in done else i)
        result, done = LaneShuffle(result, part, tuple(mask)), done | {k}
    return result


def transposed(b: Builder, rows: Sequence[Expr | None], dtype: DType) -> list[Expr]:
    """The columns of a square: lane i of vector j is lane j of rows[i]. A row that is None holds zeros.

    The number of rows is the number of lanes, a power of two. Four rows at a time are interleaved within quarters of
    their lanes, which every vector unit has instructions for; then ever larger parts change places (Eklundh's scheme).
    """
    lanes = len(rows)
    stage = _kept(b, rows, dtype)
    if lanes == 2:
        stage = _kept(b, [_shuffle(mask, stage[0], stage[1]) for mask in ((0, 2), (1, 3))], dtype)
    else:
        quads = range(0, lanes, 4)
        low = tuple(q + lane for q in quads for lane in (0, lanes, 1, lanes + 1))
        high = tuple(q + lane for q in quads for lane in (2, lanes + 2, 3, lanes + 3))
        stage = _kept(
            b, [_shuffle(mask, stage[i], stage[i + 1]) for i in range(0, lanes, 2) for mask in (low, high)], dtype
        )
        low = tuple(q + lane for q in quads for lane in (0, 1, lanes, lanes + 1))
        high = tuple(q + lane for q in quads for lane in (2, 3, lanes + 2, lanes + 3))
        stage = _kept(
            b, [_shuffle(m, stage[q + i], stage[q + i + 2]) for q in quads for i in (0, 1) for m in (low, high)], dtype
        )
    distance = 4
    while distance < lanes:
        stage = _exchanged(b, stage, distance, dtype)
        distance *= 2
    zero = Const(0.0 if dtype.is_float else 0, dtype)
    return [zero if column is None else column for column in stage]


def _exchanged(b: Builder, stage: Sequence[Expr | None], distance: int, dtype: DType) -> list[Expr | None]:
    """Row pairs `distance` apart swap the off-diagonal parts of that size."""
    lanes = range(len(stage))
    upper = tuple(i if not i & distance else len(stage) + i - distance for i in lanes)
    lower = tuple(i + distance if not i & distance else len(stage) + i for i in lanes)
    return _kept(
        b,
        [
            _shuffle(upper, stage[i], stage[i + distance])
            if not i & distance
            else _shuffle(lower, stage[i - distance], stage[i])
            for i in lanes
        ],
        dtype,
    )


def _shuffle(lanes: tuple[int, ...], x: Expr | None, y: Expr | None) -> Expr | None:
    some = x if x is not None else y
    if some is None:
        return None
    zero = Const(0.0 if some.dtype.is_float else 0, some.dtype)
    return LaneShuffle(zero if x is None else x, zero if y is None else y, lanes)


def _kept(b: Builder, values: Sequence[Expr | None], dtype: DType) -> list[Expr | None]:
    """The values in registers, so that each is computed once however often it is read."""
    tile = b.tile("r", len(values), dtype=dtype)
    result: list[Expr | None] = []
    for i, value in enumerate(values):
        if value is not None:
            b.store(tile[i], value)
        result.append(None if value is None else tile[i])
    return result
