"""The slow interpreter of kernels, which defines the loop IR: each statement as it stands, lanes as numpy vectors."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping
from typing import Any, assert_never

import numpy as np

from glulam.compiler.errors import LoopError
from glulam.compiler.graph.types import Array, DType
from glulam.compiler.loops.expr import BINARY, Const, Expr, apply
from glulam.compiler.loops.index import Affine, Bounded, Index, Var
from glulam.compiler.loops.ir import (
    Buffer,
    Declare,
    For,
    IndexValue,
    Kernel,
    Kind,
    LanePick,
    LaneReduce,
    LaneShuffle,
    Load,
    Prefetch,
    Span,
    Stmt,
    Store,
    Tile,
    TileRead,
    TileWrite,
)


def interpret(kernel: Kernel, arguments: Mapping[str, Array]) -> None:
    """Run the kernel on flat arrays, one for each parameter by name, holding at least the buffer's span of elements."""
    memory = {b: arguments[b.name] for b in kernel.params}
    for buffer in kernel.params:
        if memory[buffer].ndim != 1 or memory[buffer].size < buffer.span:
            raise LoopError(f"argument {buffer.name} must be flat with at least {buffer.span} elements")
    for section in kernel.sections:
        for point in itertools.product(*(range(v.extent) for v in section.vars)):
            scratch = {b: np.full(b.span, np.nan, b.dtype.numpy) for b in kernel.scratch}
            run = _Run(memory | scratch, dict(zip(section.vars, point, strict=True)))
            with np.errstate(all="ignore"):
                run.body(section.body)


class _Run:
    """One iteration of a section. A variable of a vector loop is bound to all its values at once."""

    def __init__(self, memory: dict[Buffer, Array], env: dict[Var, Any]) -> None:
        self.memory = memory
        self.env = env
        self.lanes = 1
        self.tiles: dict[Tile, dict[tuple[int, ...], Any]] = {}

    def body(self, body: Iterable[Stmt]) -> None:
        for stmt in body:
            match stmt:
                case For(var, Kind.VECTOR, inner):
                    self.env[var], self.lanes = np.arange(var.extent), var.extent
                    self.body(inner)
                    del self.env[var]
                case For(var, _, inner, span):
                    for i in self.iterations(var, span):
                        self.env[var] = i
                        self.body(inner)
                    self.env.pop(var, None)
                case Store(buffer, index, value):
                    result = self.value(value, {})
                    self.memory[buffer][self.offset(buffer, index)] = result
                case Prefetch():
                    pass
                case Declare(tile):
                    self.tiles[tile] = {}
                case TileWrite(tile, index, value):
                    self.tiles[tile][self.place(index)] = self.value(value, {})
                case _:
                    assert_never(stmt)

    def iterations(self, var: Var, span: Span | None) -> range:
        if span is None:
            return range(var.extent)
        first, end = (int(self.value(bound, {})) for bound in (span.first, span.end))
        return range(max(0, first), min(var.extent, end))

    def place(self, index: tuple[Affine, ...]) -> tuple[int, ...]:
        return tuple(int(self.affine(i)) for i in index)

    def affine(self, index: Affine) -> Any:
        total: Any = index.const
        for var, k in index.terms.items():
            total = total + self.env[var] * k
        return total

    def offset(self, buffer: Buffer, index: tuple[Index, ...]) -> Any:
        total: Any = 0
        for entry, stride, extent in zip(index, buffer.strides, buffer.shape, strict=True):
            if isinstance(entry, Bounded):
                place = np.clip(self.value(entry.value, {}), 0, entry.extent - 1)
            else:
                place = self.affine(entry)
            first, last = (place, place) if isinstance(place, int) else (place.min(), place.max())
            if first < 0 or last >= extent:
                raise LoopError(f"an access leaves buffer {buffer.name}")
            total = total + place * stride
        return total

    def value(self, e: Expr, memo: dict[int, Any]) -> Any:
        if id(e) not in memo:
            memo[id(e)] = self.compute(e, memo)
        return memo[id(e)]

    def compute(self, e: Expr, memo: dict[int, Any]) -> Any:
        match e:
            case Const(value, dtype):
                return dtype.numpy.type(value)
            case Load(buffer, index):
                return self.memory[buffer][self.offset(buffer, index)]
            case TileRead(tile, index):
                try:
                    return self.tiles[tile][self.place(index)]
                except KeyError:
                    raise LoopError(f"tile {tile.name} is read before it is written") from None
            case IndexValue(index):
                return np.asarray(self.affine(index)).astype(DType.I64.numpy)
            case LaneReduce(op, x):
                return _fold(op, np.broadcast_to(self.value(x, memo), self.lanes))
            case LaneShuffle(x, y, lanes):
                both = [np.broadcast_to(self.value(side, memo), len(lanes)) for side in (x, y)]
                return np.concatenate(both)[list(lanes)]
            case LanePick(x, lane):
                source, which = (np.broadcast_to(self.value(side, memo), self.lanes) for side in (x, lane))
                return source[which % self.lanes]
        return apply(e, [self.value(child, memo) for child in e.children()])


def _fold(op: str, lanes: Array) -> Any:
    """Pairwise from the halves, like the emitted code, so that float sums have the same bits."""
    while lanes.size > 1:
        half = lanes.size // 2
        folded = BINARY[op](lanes[:half], lanes[half : 2 * half])
        lanes = np.concatenate([folded, lanes[2 * half :]])
    return lanes[0]
