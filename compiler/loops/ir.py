"""The loop IR: kernels as explicit loops over buffers, with register tiles and scalar expressions.

A kernel is a list of sections. A section is a perfect nest of parallel loops around a body; sections of one kernel are
independent of each other, so their iterations form one parallel space that threads share, each a piece of it. Of
sections that go over the same rows one after the other each `Partner` has a piece of its own, so that two threads have
half of the rows each.

A `vector` loop is run for all its iterations at once: everything inside it, serial loops included, happens in lockstep.
What depends on its variable is a vector, the rest is scalar, and where they meet the scalar is broadcast. A register
tile declared inside a vector loop holds vectors. `unrolled` loops are expanded, so their variables may index tiles.
"""

from __future__ import annotations

import enum
import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import groupby
from typing import NamedTuple

from glulam.compiler.errors import LoopError
from glulam.compiler.graph.types import DType
from glulam.compiler.loops.expr import Const, Expr, binary
from glulam.compiler.loops.index import Affine, Bounded, Index, IndexLike, Var, index_of


class Kind(enum.Enum):
    PARALLEL = "parallel"
    SERIAL = "serial"
    UNROLLED = "unrolled"
    VECTOR = "vector"


class Access(enum.Enum):
    READ = "read"
    WRITE = "write"
    UPDATE = "update"  # read and written
    SCRATCH = "scratch"  # private to the thread, undefined at the start of an iteration


@dataclass(frozen=True, eq=False)
class Buffer:
    """A strided array in memory. `strides` count elements; `align` is the alignment of the first element in bytes."""

    name: str
    dtype: DType
    shape: tuple[int, ...]
    strides: tuple[int, ...]
    access: Access
    align: int = 64

    def __getitem__(self, entries: IndexLike | tuple[IndexLike, ...]) -> Load:
        index = index_of(entries)
        if len(index) != len(self.shape):
            raise LoopError(f"buffer {self.name} has {len(self.shape)} dimensions, not {len(index)}")
        return Load(self, index)

    @property
    def span(self) -> int:
        """Elements from the first to the last one, both included."""
        if 0 in self.shape:
            return 0
        return sum((n - 1) * s for n, s in zip(self.shape, self.strides, strict=True)) + 1


@dataclass(frozen=True, eq=False)
class Tile:
    """A small array that lives in registers; its indices are constant once unrolled loops are expanded."""

    name: str
    shape: tuple[int, ...]
    dtype: DType = DType.F32

    def __getitem__(self, entries: IndexLike | tuple[IndexLike, ...]) -> TileRead:
        index = index_of(entries)
        if len(index) != len(self.shape) or any(isinstance(i, Bounded) for i in index):
            raise LoopError(f"tile {self.name} takes {len(self.shape)} constant indices")
        return TileRead(self, tuple(i for i in index if isinstance(i, Affine)))


@dataclass(frozen=True, eq=False)
class Load(Expr):
    buffer: Buffer
    index: tuple[Index, ...]

    @property
    def dtype(self) -> DType:  # type: ignore[override]
        return self.buffer.dtype

    def children(self) -> tuple[Expr, ...]:
        return ()


@dataclass(frozen=True, eq=False)
class TileRead(Expr):
    tile: Tile
    index: tuple[Affine, ...]

    @property
    def dtype(self) -> DType:  # type: ignore[override]
        return self.tile.dtype


@dataclass(frozen=True, eq=False)
class IndexValue(Expr):
    """The value of an affine index, as an I64."""

    index: Affine
    dtype: DType = DType.I64


@dataclass(frozen=True, eq=False)
class LaneReduce(Expr):
    """All lanes of a vector folded into one scalar by add, mul, maximum or minimum, pairwise from the halves."""

    op: str
    x: Expr

    @property
    def dtype(self) -> DType:  # type: ignore[override]
        return self.x.dtype

    def children(self) -> tuple[Expr, ...]:
        return (self.x,)


@dataclass(frozen=True, eq=False)
class LaneShuffle(Expr):
    """Lanes of two vectors in another order: lane `lanes[i]` of x, or, counting on, of y."""

    x: Expr
    y: Expr
    lanes: tuple[int, ...]

    @property
    def dtype(self) -> DType:  # type: ignore[override]
        return self.x.dtype

    def children(self) -> tuple[Expr, ...]:
        return (self.x, self.y)


@dataclass(frozen=True, eq=False)
class LanePick(Expr):
    """In each lane the lane of x that an I32 names, modulo the number of lanes, which is a power of two."""

    x: Expr
    lane: Expr

    @property
    def dtype(self) -> DType:  # type: ignore[override]
        return self.x.dtype

    def children(self) -> tuple[Expr, ...]:
        return (self.x, self.lane)


@dataclass(frozen=True, eq=False)
class ByteDot(Expr):
    """z plus the products of x's four bytes, each from 0 to 255, with y's, each from -128 to 127; all are I32."""

    x: Expr
    y: Expr
    z: Expr

    @property
    def dtype(self) -> DType:  # type: ignore[override]
        return self.z.dtype

    def children(self) -> tuple[Expr, ...]:
        return (self.x, self.y, self.z)

    def expansion(self) -> Expr:
        """The same by shifts and products."""
        total = self.z
        for byte in range(4):
            unsigned = binary("shr", self.x, 8 * byte) & Const(255, DType.I32)
            signed = binary("shr", binary("shl", self.y, 24 - 8 * byte), 24)
            total = total + unsigned * signed
        return total


@dataclass(frozen=True, eq=False)
class Span:
    """Some of a loop's iterations: from `first` on, up to `end`, which is not one of them, but none outside the loop.

    Both are I64 values, the same for all lanes, computed when the loop begins.
    """

    first: Expr
    end: Expr


@dataclass(frozen=True, eq=False)
class For:
    var: Var
    kind: Kind
    body: list[Stmt]
    span: Span | None = None
    """Of a serial loop, the iterations that take place; all of them without one."""


@dataclass(frozen=True, eq=False)
class Store:
    buffer: Buffer
    index: tuple[Index, ...]
    value: Expr


@dataclass(frozen=True, eq=False)
class Declare:
    """The tile exists from here to the end of the enclosing loop body; its elements are undefined at first."""

    tile: Tile


@dataclass(frozen=True, eq=False)
class TileWrite:
    tile: Tile
    index: tuple[Affine, ...]
    value: Expr


@dataclass(frozen=True, eq=False)
class Prefetch:
    """A hint that this place will be read soon. Nothing is accessed, so it may lie outside the buffer."""

    buffer: Buffer
    index: tuple[Affine, ...]
    level: int
    """The cache that the line shall reach: 1, or 2 for streams faster than the first level has misses in flight."""


Stmt = For | Store | Declare | TileWrite | Prefetch


class Partner(enum.Enum):
    """Of two threads that compute half of a tensor each, the one that a section's iterations are meant for."""

    FIRST = "first partner"
    SECOND = "second partner"
    BOTH = "both partners"  # the first half of the iterations is for the first, the rest for the second


@dataclass(frozen=True, eq=False)
class Section:
    """A perfect nest of parallel loops, outermost first, around a body.

    Of neighbouring sections for partners, all that is for the first comes before the rest in the parallel space.
    """

    vars: tuple[Var, ...]
    body: list[Stmt]
    partner: Partner | None = None

    @property
    def extent(self) -> int:
        return math.prod(v.extent for v in self.vars)

    def iterations(self, partner: Partner | None) -> range:
        """Those that are for a partner, first or second; for None, all of a section that is for nobody."""
        if self.partner is Partner.BOTH:
            middle = self.extent // 2
            return range(middle) if partner is Partner.FIRST else range(middle, self.extent)
        return range(self.extent) if self.partner is partner else range(0)


class Piece(NamedTuple):
    """Iterations of a section that are neighbours in the parallel space of its kernel, where they start at `first`."""

    section: Section
    iterations: range
    first: int


@dataclass(frozen=True, eq=False)
class Kernel:
    """A function over buffers. `params` are its pointer arguments in order; scratch buffers follow by themselves."""

    name: str
    params: tuple[Buffer, ...]
    scratch: tuple[Buffer, ...]
    sections: tuple[Section, ...]

    @property
    def extent(self) -> int:
        """Iterations of the parallel space."""
        return sum(section.extent for section in self.sections)

    def pieces(self) -> list[Piece]:
        """The parallel space, from its begin to its end."""
        found: list[Piece] = []
        end = 0
        for for_partners, sections in groupby(self.sections, lambda section: section.partner is not None):
            group = list(sections)
            for partner in (Partner.FIRST, Partner.SECOND) if for_partners else (None,):
                for section in group:
                    if iterations := section.iterations(partner):
                        found.append(Piece(section, iterations, end))
                        end += len(iterations)
        return found

    @property
    def scratch_bytes(self) -> int:
        """Private memory a thread needs, each buffer on a cache line of its own."""
        return sum(scratch_size(buffer) for buffer in self.scratch)


def scratch_size(buffer: Buffer) -> int:
    """Bytes of a scratch buffer, rounded up to cache lines."""
    return -(-buffer.span * buffer.dtype.size // 64) * 64


def statements(body: Iterable[Stmt]) -> Iterator[Stmt]:
    """All statements, those in loops included, outermost first."""
    for stmt in body:
        yield stmt
        if isinstance(stmt, For):
            yield from statements(stmt.body)
