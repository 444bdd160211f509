"""The loop IR: kernels as explicit loops over buffers, with register tiles and scalar expressions.

A kernel is a list of sections. A section is a perfect nest of parallel loops around a body; sections of one kernel are
independent of each other, so their iterations form one parallel space that threads share, each a piece of it. Of
sections that go over the same rows one after the other each `Half` is a piece of its own, so that two threads have half
of the rows each.

A `vector` loop is run for all its iterations at once: everything inside it, serial loops included, happens in lockstep.
What depends on its variable is a vector, the rest is scalar, and where they meet the scalar is broadcast. A register
tile declared inside a vector loop holds vectors. `unrolled` loops are expanded, so their variables may index tiles.
"""

from __future__ import annotations

import enum
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import groupby
from typing import NamedTuple

from glulam.compiler.errors import LoopError
from glulam.compiler.graph.layout import dense_strides
from glulam.compiler.graph.types import DType
from glulam.compiler.loops.expr import Expr, Scalar, lift


class Kind(enum.Enum):
    PARALLEL = "parallel"
    SERIAL = "serial"
    UNROLLED = "unrolled"
    VECTOR = "vector"


class Affine:
    """A sum of loop variables times integers, plus an integer."""

    __slots__ = ("const", "terms")

    def __init__(self, terms: Mapping[Var, int] | None = None, const: int = 0) -> None:
        self.terms: dict[Var, int] = {v: k for v, k in terms.items() if k} if terms else {}
        self.const = const

    @staticmethod
    def of(x: IndexLike) -> Affine:
        """Raises LoopError for an index that is computed at run time."""
        if isinstance(x, Affine):
            return x
        if isinstance(x, Var):
            return _affine({x: 1}, 0)
        if isinstance(x, int):
            return _affine({}, x)
        if isinstance(x, Bounded):
            raise LoopError("an index that is computed at run time is not affine")
        return Affine(None, int(x))

    def __add__(self, other: IndexLike) -> Affine:
        o = Affine.of(other)
        if not (self.terms and o.terms):
            return _affine(self.terms or o.terms, self.const + o.const)
        terms = dict(self.terms)
        for v, k in o.terms.items():
            terms[v] = terms.get(v, 0) + k
        return Affine(terms, self.const + o.const)

    __radd__ = __add__

    def __sub__(self, other: IndexLike) -> Affine:
        return self + Affine.of(other) * -1

    def __rsub__(self, other: int) -> Affine:
        return self * -1 + other

    def __mul__(self, k: int) -> Affine:
        return Affine({v: c * k for v, c in self.terms.items()}, self.const * k)

    __rmul__ = __mul__

    def __divmod__(self, n: int) -> tuple[Affine, int]:
        """Raises LoopError if the remainder is not the same in every iteration."""
        if any(k % n for k in self.terms.values()):
            raise LoopError(f"the remainder of {self} by {n} is not constant")
        whole, rest = divmod(self.const, n)
        return _affine({v: k // n for v, k in self.terms.items()}, whole), rest

    def bounds(self) -> tuple[int, int]:
        """Smallest and largest value over all iterations."""
        low = high = self.const
        for v, k in self.terms.items():
            reach = k * (v.extent - 1)
            low, high = (low, high + reach) if k > 0 else (low + reach, high)
        return low, high

    def __str__(self) -> str:
        if not self.terms:
            return str(self.const)
        text = " + ".join([v.name if k == 1 else f"{v.name}*{k}" for v, k in self.terms.items()])
        if self.const:
            text = f"{text} + {self.const}"
        return text.replace("+ -", "- ") if "+ -" in text else text


def _affine(terms: dict[Var, int], const: int) -> Affine:
    """The sum of these terms, none of which is zero; the table is shared, since nobody changes one."""
    made = object.__new__(Affine)
    made.terms = terms
    made.const = const
    return made


class Var:
    """A loop variable: 0, 1, ..., extent - 1."""

    __slots__ = ("extent", "name")

    def __init__(self, name: str, extent: int) -> None:
        self.name = name
        self.extent = extent

    def __add__(self, other: IndexLike) -> Affine:
        return Affine.of(self) + other

    __radd__ = __add__

    def __sub__(self, other: IndexLike) -> Affine:
        return Affine.of(self) - other

    def __rsub__(self, other: int) -> Affine:
        return Affine.of(self) * -1 + other

    def __mul__(self, k: int) -> Affine:
        return Affine.of(self) * k

    __rmul__ = __mul__

    def __repr__(self) -> str:
        return f"{self.name}<{self.extent}"


@dataclass(frozen=True, eq=False)
class Bounded:
    """An index computed at run time; it is clamped into [0, extent)."""

    value: Expr
    extent: int


IndexLike = Affine | Var | int | Bounded
Index = Affine | Bounded


def _index(entries: IndexLike | tuple[IndexLike, ...]) -> tuple[Index, ...]:
    entries = entries if isinstance(entries, tuple) else (entries,)
    return tuple(e if isinstance(e, Bounded) else Affine.of(e) for e in entries)


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
        index = _index(entries)
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
        index = _index(entries)
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


class Half(enum.Enum):
    """To which half of what a kernel computes the iterations of a section belong."""

    FIRST = "first"
    SECOND = "second"
    BOTH = "both"  # the first ones to the first, the others to the second


@dataclass(frozen=True, eq=False)
class Section:
    """A perfect nest of parallel loops, outermost first, around a body.

    Of neighbouring sections with a `half` all first halves come before all second ones in the parallel space.
    """

    vars: tuple[Var, ...]
    body: list[Stmt]
    half: Half | None = None

    @property
    def extent(self) -> int:
        return math.prod(v.extent for v in self.vars)

    def in_half(self, half: Half) -> range:
        """Those of its iterations that belong to the first, or the second, half."""
        if self.half is Half.BOTH:
            middle = self.extent // 2
            return range(middle) if half is Half.FIRST else range(middle, self.extent)
        return range(self.extent) if self.half is half else range(0)


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
        for halved, sections in groupby(self.sections, lambda section: section.half is not None):
            group = list(sections)
            for half in (Half.FIRST, Half.SECOND) if halved else (None,):
                for section in group:
                    iterations = range(section.extent) if half is None else section.in_half(half)
                    if iterations:
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


@dataclass
class Builder:
    """Writes a kernel: buffers first, then sections with loops as context managers."""

    name: str
    params: list[Buffer] = field(default_factory=list)
    scratch_buffers: list[Buffer] = field(default_factory=list)
    sections: list[Section] = field(default_factory=list)
    half: Half | None = None
    """Of the sections that come next."""
    _stack: list[list[Stmt]] = field(default_factory=list)

    def param(
        self,
        name: str,
        shape: Sequence[int],
        access: Access = Access.READ,
        *,
        dtype: DType = DType.F32,
        strides: Sequence[int] | None = None,
        align: int = 64,
    ) -> Buffer:
        buffer = Buffer(name, dtype, tuple(shape), tuple(strides or dense_strides(shape)), access, align)
        self.params.append(buffer)
        return buffer

    def scratch(
        self, name: str, shape: Sequence[int], dtype: DType = DType.F32, *, strides: Sequence[int] | None = None
    ) -> Buffer:
        buffer = Buffer(name, dtype, tuple(shape), tuple(strides or dense_strides(shape)), Access.SCRATCH)
        self.scratch_buffers.append(buffer)
        return buffer

    def scratch_once(self, name: str, shape: Sequence[int]) -> Buffer:
        """The scratch memory of this name and shape, which the kernel may have already."""
        known = [each for each in self.scratch_buffers if (each.name, each.shape) == (name, tuple(shape))]
        return known[0] if known else self.scratch(name, shape)

    def section(self, leading: bool = False, /, **extents: int) -> _SectionScope:
        """Parallel loops around what follows; `with b.section(n=N, oh=OH) as (n, oh):`.

        A `leading` section is put before those that are there already.
        """
        return _SectionScope(self, tuple(Var(name, extent) for name, extent in extents.items()), leading)

    @contextmanager
    def of_half(self, half: Half | None) -> Iterator[None]:
        """What comes in this context are sections of that half; None leaves it to what is around."""
        before, self.half = self.half, half or self.half
        yield
        self.half = before

    def serial(self, name: str, extent: int, span: Span | None = None) -> _LoopScope:
        return _LoopScope(self, Var(name, extent), Kind.SERIAL, span)

    def unrolled(self, name: str, extent: int) -> _LoopScope:
        return _LoopScope(self, Var(name, extent), Kind.UNROLLED)

    def vector(self, name: str, extent: int) -> _LoopScope:
        return _LoopScope(self, Var(name, extent), Kind.VECTOR)

    def tile(self, name: str, *shape: int, dtype: DType = DType.F32) -> Tile:
        tile = Tile(name, shape, dtype)
        self._emit(Declare(tile))
        return tile

    def store(self, place: Load | TileRead, value: Expr | Scalar) -> None:
        """Assign to an element of a buffer or of a tile."""
        value = lift(value, place.dtype)
        if value.dtype is not place.dtype:
            raise LoopError(f"{self.name}: a {value.dtype.value} stored into {place.dtype.value}; cast it")
        if isinstance(place, Load):
            if place.buffer.access is Access.READ:
                raise LoopError(f"{self.name}: buffer {place.buffer.name} is read-only")
            self._emit(Store(place.buffer, place.index, value))
        else:
            self._emit(TileWrite(place.tile, place.index, value))

    def prefetch(self, place: Load, level: int = 1) -> None:
        """Have the cache line of the place brought into the cache of this level."""
        index = tuple(entry for entry in place.index if isinstance(entry, Affine))
        if len(index) < len(place.index):
            raise LoopError(f"{self.name}: only places known before the loop runs can be prefetched")
        self._emit(Prefetch(place.buffer, index, level))

    def kernel(self) -> Kernel:
        return Kernel(self.name, tuple(self.params), tuple(self.scratch_buffers), tuple(self.sections))

    def _emit(self, stmt: Stmt) -> None:
        if not self._stack:
            raise LoopError(f"{self.name}: a statement outside any section")
        self._stack[-1].append(stmt)


class _SectionScope:
    def __init__(self, builder: Builder, vars: tuple[Var, ...], leading: bool) -> None:
        self.builder, self.vars, self.leading = builder, vars, leading

    def __enter__(self) -> tuple[Var, ...]:
        self.builder._stack.append([])
        return self.vars

    def __exit__(self, *exc: object) -> None:
        body = self.builder._stack.pop()
        if exc[0] is None and all(v.extent for v in self.vars):
            sections = self.builder.sections
            sections.insert(0 if self.leading else len(sections), Section(self.vars, body, self.builder.half))


class _LoopScope:
    def __init__(self, builder: Builder, var: Var, kind: Kind, span: Span | None = None) -> None:
        self.builder, self.var, self.kind, self.span = builder, var, kind, span

    def __enter__(self) -> Var:
        self.builder._stack.append([])
        return self.var

    def __exit__(self, *exc: object) -> None:
        body = self.builder._stack.pop()
        if exc[0] is None and self.var.extent:
            self.builder._emit(For(self.var, self.kind, body, self.span))
