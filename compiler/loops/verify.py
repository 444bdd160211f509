"""The verifier of kernels: every affine access is proved in bounds before any code is emitted."""

from __future__ import annotations

from collections.abc import Iterable
from typing import assert_never

from glulam.compiler.errors import LoopError
from glulam.compiler.graph.types import DType
from glulam.compiler.loops.expr import Expr
from glulam.compiler.loops.index import Affine, Bounded, Index, Var
from glulam.compiler.loops.ir import (
    Access,
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
from glulam.compiler.loops.printer import show
from glulam.compiler.loops.rules import type_error


def verify_kernel(kernel: Kernel) -> None:
    """Raise LoopError unless each access stays in its buffer, variables and tiles are in scope, and types agree."""
    _Verifier(kernel).run()


class _Verifier:
    def __init__(self, kernel: Kernel) -> None:
        self.kernel = kernel
        self.buffers = {*kernel.params, *kernel.scratch}
        self.kinds: dict[Var, Kind] = {}
        self.vector: Var | None = None
        self.tiles: dict[Tile, bool] = {}
        """Tiles in scope, and whether they hold vectors."""

    def run(self) -> None:
        for section in self.kernel.sections:
            self.kinds = {}
            for var in section.vars:
                self.enter(var, Kind.PARALLEL)
            self.body(section.body)

    def body(self, body: Iterable[Stmt]) -> None:
        outer = dict(self.tiles)
        for stmt in body:
            match stmt:
                case For():
                    self.loop(stmt)
                case Declare(tile):
                    self.tiles[tile] = self.vector is not None
                case Store(buffer, index, value):
                    self.store(buffer, index, value)
                case Prefetch(buffer, index, _):
                    self.known(buffer)
                    for entry in index:
                        if self.affine(entry):
                            self.fail("a prefetch is of one place, not of lanes")
                case TileWrite(tile, index, value):
                    self.tile(tile, index)
                    if self.value(value, {}) and not self.tiles[tile]:
                        self.fail(f"a vector is kept in tile {tile.name}, declared outside the vector loop")
                    self.same(value, tile.dtype, tile.name)
                case _:
                    assert_never(stmt)
        self.tiles = outer

    def loop(self, loop: For) -> None:
        if loop.kind is Kind.PARALLEL:
            self.fail(f"parallel loop {loop.var.name} inside a section's body")
        if loop.kind is Kind.VECTOR and self.vector is not None:
            self.fail(f"vector loop {loop.var.name} inside another vector loop")
        if loop.span is not None:
            self.span(loop.span, loop)
        self.enter(loop.var, loop.kind)
        outer, self.vector = self.vector, loop.var if loop.kind is Kind.VECTOR else self.vector
        self.body(loop.body)
        self.vector = outer
        del self.kinds[loop.var]

    def span(self, span: Span, loop: For) -> None:
        if loop.kind is not Kind.SERIAL:
            self.fail(f"{loop.kind.value} loop {loop.var.name} has a span; only serial loops may")
        for bound in (span.first, span.end):
            if self.value(bound, {}):
                self.fail(f"the span of loop {loop.var.name} differs between lanes")
            self.same(bound, DType.I64, f"the span of loop {loop.var.name}")

    def enter(self, var: Var, kind: Kind) -> None:
        if var.extent < 1:
            self.fail(f"loop {var.name} has no iteration")
        if any(var.name == other.name for other in self.kinds):
            self.fail(f"the name of loop variable {var.name} is in use already")
        self.kinds[var] = kind

    def store(self, buffer: Buffer, index: tuple[Index, ...], value: Expr) -> None:
        if buffer.access is Access.READ:
            self.fail(f"buffer {buffer.name} is read-only")
        memo: dict[Expr, bool] = {}
        varies = self.place(buffer, index, memo)
        if self.value(value, memo) and not varies:
            self.fail(f"a vector is stored to one place of {buffer.name}")
        self.same(value, buffer.dtype, buffer.name)

    def same(self, value: Expr, dtype: DType, name: str) -> None:
        if value.dtype is not dtype:
            self.fail(f"a {value.dtype.value} is stored into {name}, which holds {dtype.value}")

    def known(self, buffer: Buffer) -> None:
        if buffer not in self.buffers:
            self.fail(f"buffer {buffer.name} is not a parameter of this kernel")

    def place(self, buffer: Buffer, index: tuple[Index, ...], memo: dict[Expr, bool]) -> bool:
        """Whether the place differs between lanes."""
        self.known(buffer)
        varies = False
        for position, (entry, extent) in enumerate(zip(index, buffer.shape, strict=True)):
            if isinstance(entry, Bounded):
                varies |= self.value(entry.value, memo)
                if entry.value.dtype is not DType.I64:
                    self.fail(f"index {position} of {buffer.name} is {entry.value.dtype.value}, not i64")
                low, high = 0, entry.extent - 1
            else:
                varies |= self.affine(entry)
                low, high = entry.bounds()
            if low < 0 or high >= extent:
                self.fail(f"index {position} of {buffer.name} runs over [{low}, {high}], outside [0, {extent - 1}]")
        return varies

    def tile(self, tile: Tile, index: tuple[Affine, ...]) -> None:
        if tile not in self.tiles:
            self.fail(f"tile {tile.name} is not declared here")
        for entry, extent in zip(index, tile.shape, strict=True):
            self.affine(entry)
            low, high = entry.bounds()
            if low < 0 or high >= extent:
                self.fail(f"an index of tile {tile.name} runs over [{low}, {high}], outside [0, {extent - 1}]")
            if any(self.kinds[v] is not Kind.UNROLLED for v in entry.terms):
                self.fail(f"index {entry} of tile {tile.name} is not constant; unroll its loop")

    def affine(self, index: Affine) -> bool:
        """Whether the index differs between lanes."""
        for var in index.terms:
            if var not in self.kinds:
                self.fail(f"loop variable {var.name} is used outside its loop")
        return self.vector is not None and self.vector in index.terms

    def value(self, e: Expr, memo: dict[Expr, bool]) -> bool:
        """Whether the value differs between lanes."""
        if e not in memo:
            operands = [self.value(child, memo) for child in e.children()]
            if (wrong := type_error(e)) is not None:
                self.fail(f"no operation {wrong}")
            memo[e] = self.leaf(e, memo) or (any(operands) and not isinstance(e, LaneReduce))
        return memo[e]

    def leaf(self, e: Expr, memo: dict[Expr, bool]) -> bool:
        match e:
            case Load(buffer, index):
                return self.place(buffer, index, memo)
            case TileRead(tile, index):
                self.tile(tile, index)
                return self.tiles[tile]
            case IndexValue(index):
                return self.affine(index)
            case LaneReduce() if self.vector is None:
                self.fail(f"{show(e)} stands outside any vector loop")
            case LaneShuffle(_, _, lanes):
                if self.vector is None or len(lanes) != self.vector.extent:
                    self.fail(f"{show(e)} does not name one lane for each of a vector loop")
                if not all(0 <= lane < 2 * len(lanes) for lane in lanes):
                    self.fail(f"{show(e)} names a lane beyond its two vectors")
                return True
            case LanePick():
                if self.vector is None or self.vector.extent & (self.vector.extent - 1):
                    self.fail(f"{show(e)} stands in no vector loop of a power of two lanes")
                return True
        return False

    def fail(self, why: str) -> None:
        raise LoopError(f"kernel {self.kernel.name}: {why}")
