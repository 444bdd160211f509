"""The verifier of kernels: every affine access is proved in bounds before any code is emitted."""

from __future__ import annotations

from collections.abc import Iterable

from glulam.compiler.errors import LoopError
from glulam.compiler.graph.types import DType
from glulam.compiler.loops.expr import Expr
from glulam.compiler.loops.ir import (
    Affine,
    Bounded,
    Buffer,
    Declare,
    For,
    Index,
    IndexValue,
    Kernel,
    Kind,
    LaneReduce,
    Load,
    Stmt,
    Store,
    Tile,
    TileRead,
    TileWrite,
    Var,
)
from glulam.compiler.loops.printer import show


def verify_kernel(kernel: Kernel) -> None:
    """Raise LoopError unless each access stays in its buffer, variables and tiles are in scope, and types agree."""
    _Verifier(kernel).run()


class _Verifier:
    def __init__(self, kernel: Kernel) -> None:
        self.kernel = kernel
        self.buffers = {*kernel.params, *kernel.scratch}
        self.kinds: dict[Var, Kind] = {}
        self.tiles: set[Tile] = set()
        self.seen: set[int] = set()

    def run(self) -> None:
        for section in self.kernel.sections:
            self.kinds = dict.fromkeys(section.vars, Kind.PARALLEL)
            self.tiles = set()
            self.body(section.body)

    def body(self, body: Iterable[Stmt]) -> None:
        outer = set(self.tiles)
        for stmt in body:
            match stmt:
                case For(var, kind, inner):
                    self.enter(var, kind)
                    self.body(inner)
                    del self.kinds[var]
                case Declare(tile):
                    self.tiles.add(tile)
                case Store(buffer, index, value):
                    self.place(buffer, index)
                    self.value(value)
                case TileWrite(tile, index, value):
                    self.tile(tile, index)
                    self.value(value)
        self.tiles = outer

    def enter(self, var: Var, kind: Kind) -> None:
        if var.extent < 1:
            self.fail(f"loop {var.name} has no iteration")
        if var in self.kinds:
            self.fail(f"loop variable {var.name} is in use already")
        if kind is Kind.PARALLEL:
            self.fail(f"parallel loop {var.name} inside a section's body")
        if kind is Kind.VECTOR and Kind.VECTOR in self.kinds.values():
            self.fail(f"vector loop {var.name} inside another vector loop")
        self.kinds[var] = kind

    def place(self, buffer: Buffer, index: tuple[Index, ...]) -> None:
        if buffer not in self.buffers:
            self.fail(f"buffer {buffer.name} is not a parameter of this kernel")
        for position, (entry, extent) in enumerate(zip(index, buffer.shape, strict=True)):
            if isinstance(entry, Bounded):
                self.value(entry.value)
                if entry.value.dtype is not DType.I64:
                    self.fail(f"index {position} of {buffer.name} is {entry.value.dtype.value}, not i64")
                low, high = 0, entry.extent - 1
            else:
                self.scope(entry)
                low, high = entry.bounds()
            if low < 0 or high >= extent:
                self.fail(f"index {position} of {buffer.name} runs over [{low}, {high}], outside [0, {extent - 1}]")

    def tile(self, tile: Tile, index: tuple[Affine, ...]) -> None:
        if tile not in self.tiles:
            self.fail(f"tile {tile.name} is not declared here")
        for entry, extent in zip(index, tile.shape, strict=True):
            self.scope(entry)
            low, high = entry.bounds()
            if low < 0 or high >= extent:
                self.fail(f"an index of tile {tile.name} runs over [{low}, {high}], outside [0, {extent - 1}]")
            if any(self.kinds[v] is not Kind.UNROLLED for v in entry.terms):
                self.fail(f"index {entry} of tile {tile.name} is not constant; unroll its loop")

    def scope(self, index: Affine) -> None:
        for var in index.terms:
            if var not in self.kinds:
                self.fail(f"loop variable {var.name} is used outside its loop")

    def value(self, e: Expr) -> None:
        match e:
            case Load(buffer, index):
                self.place(buffer, index)
            case TileRead(tile, index):
                self.tile(tile, index)
            case IndexValue(index):
                self.scope(index)
            case LaneReduce() if Kind.VECTOR not in self.kinds.values():
                self.fail(f"{show(e)} stands outside any vector loop")
        for child in e.children():
            self.value(child)

    def fail(self, why: str) -> None:
        raise LoopError(f"kernel {self.kernel.name}: {why}")
