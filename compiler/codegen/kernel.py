"""One kernel of the loop IR as LLVM IR text. No decisions: each loop and statement has one translation.

Register tiles become SSA values: a serial loop carries the elements its body writes as phis. Unrolled bodies stay small
because addresses are numbered per scope. Expressions, memory and instructions have files of their own.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import assert_never

from glulam.compiler.codegen.expressions import Expressions
from glulam.compiler.codegen.function import Function
from glulam.compiler.codegen.indices import Indices
from glulam.compiler.codegen.llvm_types import Val
from glulam.compiler.loops.index import Var
from glulam.compiler.loops.ir import (
    Declare,
    For,
    Kernel,
    Kind,
    Piece,
    Prefetch,
    Section,
    Span,
    Stmt,
    Store,
    Tile,
    TileWrite,
    scratch_size,
    statements,
)
from glulam.compiler.targets import Target


def emit_kernel(kernel: Kernel, target: Target) -> tuple[str, set[str]]:
    """LLVM text of the function, and the declarations it needs."""
    emitter = _Emitter(kernel, target)
    return emitter.text(), emitter.function.declarations


class _Emitter:
    def __init__(self, kernel: Kernel, target: Target) -> None:
        self.kernel, self.target = kernel, target
        self.function = Function()
        self.indices = Indices(self.function, target.lanes)
        self.expressions = Expressions(self.function, self.indices, target, f"kernel {kernel.name}")
        self.tile_lanes: dict[Tile, int] = {}

    def text(self) -> str:
        pointers = self.expressions.pointers
        pointers.update({buffer: f"%a{i}" for i, buffer in enumerate(self.kernel.params)})
        head = ", ".join([*(f"ptr {p}" for p in pointers.values()), "ptr %scratch", "i64 %begin", "i64 %end"])
        offset = 0
        for buffer in self.kernel.scratch:
            pointers[buffer] = self.function.let(f"getelementptr i8, ptr %scratch, i64 {offset}")
            offset += scratch_size(buffer)
        pieces = self.kernel.pieces()
        for section in self.kernel.sections:
            self.section(section, [piece for piece in pieces if piece.section is section])
        body = "\n".join(self.function.lines)
        return f"define void @{self.kernel.name}({head}) #0 {{\nentry:\n{body}\n  ret void\n}}\n"

    # ---- loops

    def section(self, section: Section, pieces: Sequence[Piece]) -> None:
        """The iterations of the section that lie in [begin, end) of the parallel space."""
        f, i64 = self.function, "i64"
        low, high, busy, skip = self.bounds(pieces)
        head, exit_, before = f.label("section"), f.label("sectionend"), f.block
        f.do(f"br i1 {busy}, label %{head}, label %{exit_}")
        f.open_block(head)
        p, slot = f.name("p"), f.slots(1)
        f.push()
        self.decompose(section.vars, p)
        self.body(section.body)
        f.pop()
        following = f.let(f"add nuw nsw i64 {p}, 1")
        if skip is not None:
            at_end = f.let(f"icmp eq i64 {following}, {skip[0]}")
            following = f.let(f"select i1 {at_end}, i64 {skip[1]}, i64 {following}")
        f.phi(slot, p, i64, (low, before), (following, f.block))
        more = f.let(f"icmp slt i64 {following}, {high}")
        f.do(f"br i1 {more}, label %{head}, label %{exit_}")
        f.open_block(exit_)

    def bounds(self, pieces: Sequence[Piece]) -> tuple[str, str, str, tuple[str, str] | None]:
        """Of a section of one or two pieces: its first iteration in [begin, end), the end of the last one, whether
        there are any, and between two pieces the end of the first one with what follows it.
        """
        f = self.function
        (low, high, busy), *second = map(self.piece, pieces)
        if not second:
            return low, high, busy, None
        ((low2, high2, busy2),) = second
        skip = high, f.let(f"select i1 {busy2}, i64 {low2}, i64 {high}")
        low, high = (
            f.let(f"select i1 {busy}, i64 {low}, i64 {low2}"),
            f.let(f"select i1 {busy2}, i64 {high2}, i64 {high}"),
        )
        return low, high, f.let(f"or i1 {busy}, {busy2}"), skip

    def piece(self, piece: Piece) -> tuple[str, str, str]:
        """The first iteration in [begin, end), the end of the last one, and whether there are any."""
        f, (_, iterations, first) = self.function, piece
        before = first - iterations.start  # iterations of others that come earlier than number 0 would
        low = self.clamped("smax", "%begin", before, iterations.start)
        high = self.clamped("smin", "%end", before, iterations.stop)
        return low, high, f.let(f"icmp slt i64 {low}, {high}")

    def clamped(self, function: str, bound: str, before: int, limit: int) -> str:
        number = self.function.let(f"sub i64 {bound}, {before}")
        return self.function.call(f"llvm.{function}.i64", "i64", [("i64", number), ("i64", str(limit))])

    def decompose(self, loops: tuple[Var, ...], p: str) -> None:
        """The variables of the parallel loops from the number of the iteration."""
        f, rest = self.function, p
        outermost = next((var for var in loops if var.extent > 1), None)
        for var in reversed(loops):
            if var.extent == 1:
                self.indices.bound[var] = 0
            elif var is outermost:
                self.indices.bound[var] = rest
            else:
                self.indices.bound[var] = f.let(f"urem i64 {rest}, {var.extent}", var.name)
                rest = f.let(f"udiv i64 {rest}, {var.extent}")

    def body(self, body: Iterable[Stmt]) -> None:
        for stmt in body:
            match stmt:
                case For():
                    self.loop(stmt)
                case Store(buffer, index, value):
                    self.expressions.memory.store(buffer, index, self.expressions.evaluate(value))
                case Prefetch(buffer, index, level):
                    self.expressions.memory.prefetch(buffer, index, 1 if self.target.asks_nearest else level)
                case Declare(tile):
                    self.declare(tile)
                case TileWrite(tile, index, value):
                    result = self.expressions.evaluate(value)
                    result = self.expressions.instructions.splat(result, self.tile_lanes[tile])
                    self.expressions.tiles[tile, self.indices.constant(index)] = result
                case _:
                    assert_never(stmt)

    def declare(self, tile: Tile) -> None:
        self.tile_lanes[tile] = self.indices.lanes
        tiles = self.expressions.tiles
        for known in [key for key in tiles if key[0] is tile]:
            del tiles[known]

    def loop(self, loop: For) -> None:
        var = loop.var
        if loop.kind is Kind.VECTOR:
            self.indices.vector = var
            self.body(loop.body)
            self.indices.vector = None
        elif loop.span is not None:
            self.spanned(var, loop.span, loop.body)
        elif loop.kind is Kind.UNROLLED or var.extent == 1:
            for i in range(var.extent):
                self.indices.bound[var] = i
                self.body(loop.body)
        else:
            self.serial(var, loop.body)

    def serial(self, var: Var, body: list[Stmt]) -> None:
        """All iterations, of which there is at least one: tested at the end of each."""
        f, head = self.function, self.head(var, body)
        following = self.iteration(head, "0")
        more = f.let(f"icmp ult i64 {following}, {var.extent}")
        exit_ = f.label("end")
        f.do(f"br i1 {more}, label %{head.label}, label %{exit_}")
        f.open_block(exit_)

    def spanned(self, var: Var, span: Span, body: list[Stmt]) -> None:
        """The iterations of a span, perhaps none: tested before each. Tiles first written in them are lost."""
        f, tiles = self.function, self.expressions.tiles
        first, end = (self.expressions.evaluate(bound).text for bound in (span.first, span.end))
        first = f.call("llvm.smax.i64", "i64", [("i64", first), ("i64", "0")])
        end = f.call("llvm.smin.i64", "i64", [("i64", end), ("i64", str(var.extent))])
        head, inside, exit_ = self.head(var, body), f.label("inside"), f.label("end")
        more = f.let(f"icmp slt i64 {head.index}, {end}")
        f.do(f"br i1 {more}, label %{inside}, label %{exit_}")
        f.open_block(inside)
        known = dict(tiles)
        self.iteration(head, first)
        f.do(f"br label %{head.label}")
        f.open_block(exit_)
        tiles.clear()
        tiles.update(known)

    def head(self, var: Var, body: list[Stmt]) -> _Head:
        """Open the block that a loop's iterations begin with, which carry the elements of tiles they write."""
        f, tiles = self.function, self.expressions.tiles
        written = {stmt.tile for stmt in statements(body) if isinstance(stmt, TileWrite)}
        entering = {key: value for key, value in tiles.items() if key[0] in written}
        before, label = f.block, f.label(var.name)
        f.do(f"br label %{label}")
        f.open_block(label)
        index, slot = f.name(var.name), f.slots(1 + len(entering))
        phis = {key: Val(f.name("acc"), value.dtype, value.lanes) for key, value in entering.items()}
        tiles.update(phis)
        self.indices.bound[var] = index
        return _Head(body, before, label, index, slot, entering, phis)

    def iteration(self, head: _Head, first: str) -> str:
        """Write an iteration, where `first` is the number of the first one; the number of the next one is returned."""
        f, tiles = self.function, self.expressions.tiles
        f.push()
        self.body(head.body)
        f.pop()
        following, latch = f.let(f"add nuw nsw i64 {head.index}, 1"), f.block
        f.phi(head.slot, head.index, "i64", (first, head.before), (following, latch))
        for i, (key, phi) in enumerate(head.phis.items(), head.slot + 1):
            f.phi(i, phi.text, phi.type, (head.entering[key].text, head.before), (tiles[key].text, latch))
        return following


_Elements = dict[tuple[Tile, tuple[int, ...]], Val]


@dataclass(frozen=True)
class _Head:
    """Of a serial loop: its body, the blocks before it and at its begin, its number, and room for its phis.

    `entering` are the elements of tiles that it carries, as they are before it; in it they are the `phis`.
    """

    body: list[Stmt]
    before: str
    label: str
    index: str
    slot: int
    entering: _Elements
    phis: _Elements
