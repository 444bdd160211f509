"""Builds kernels: loops are context managers, and what is stored in them are their statements."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence, Set
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import count

from glulam.compiler.errors import LoopError
from glulam.compiler.graph.layout import dense_strides
from glulam.compiler.graph.types import DType
from glulam.compiler.loops.expr import Expr, Scalar, lift
from glulam.compiler.loops.index import Affine, Var
from glulam.compiler.loops.ir import (
    Access,
    Buffer,
    Declare,
    For,
    Kernel,
    Kind,
    Load,
    Partner,
    Prefetch,
    Section,
    Span,
    Stmt,
    Store,
    Tile,
    TileRead,
    TileWrite,
)


@dataclass
class Builder:
    """Writes a kernel: buffers first, then sections with loops as context managers."""

    name: str
    params: list[Buffer] = field(default_factory=list)
    scratch_buffers: list[Buffer] = field(default_factory=list)
    sections: list[Section] = field(default_factory=list)
    partner: Partner | None = None
    """Of the sections that come next."""
    _stack: list[list[Stmt]] = field(default_factory=list)
    _names: list[set[str]] = field(default_factory=list)
    """Of the loop variables and tiles that exist in each body of the stack."""
    _buffers: set[str] = field(default_factory=set)
    """Names of all buffers."""
    _tiles: set[str] = field(default_factory=set)
    """Names of all tiles."""

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
        strides = tuple(strides or dense_strides(shape))
        buffer = Buffer(self._of_buffer(name), dtype, tuple(shape), strides, access, align)
        self.params.append(buffer)
        return buffer

    def scratch(
        self, name: str, shape: Sequence[int], dtype: DType = DType.F32, *, strides: Sequence[int] | None = None
    ) -> Buffer:
        strides = tuple(strides or dense_strides(shape))
        buffer = Buffer(self._of_buffer(name), dtype, tuple(shape), strides, Access.SCRATCH)
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
        return _SectionScope(self, extents, leading)

    @contextmanager
    def of_partner(self, partner: Partner | None) -> Iterator[None]:
        """What comes in this context are sections of that partner; None leaves it to what is around."""
        before, self.partner = self.partner, partner or self.partner
        yield
        self.partner = before

    def serial(self, name: str, extent: int, span: Span | None = None) -> _LoopScope:
        return _LoopScope(self, name, extent, Kind.SERIAL, span)

    def unrolled(self, name: str, extent: int) -> _LoopScope:
        return _LoopScope(self, name, extent, Kind.UNROLLED)

    def vector(self, name: str, extent: int) -> _LoopScope:
        return _LoopScope(self, name, extent, Kind.VECTOR)

    def tile(self, name: str, *shape: int, dtype: DType = DType.F32) -> Tile:
        tile = Tile(_unlike(name, *self._names, self._buffers), shape, dtype)
        self._tiles.add(tile.name)
        self._emit(Declare(tile))
        self._names[-1].add(tile.name)
        return tile

    def kept(self, value: Expr) -> TileRead:
        """The value in a register, so that it is computed once however often it is read."""
        tile = self.tile("kept", dtype=value.dtype)
        self.store(tile[()], value)
        return tile[()]

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

    def _of_buffer(self, wanted: str) -> str:
        name = _unlike(wanted, self._buffers, self._tiles)
        self._buffers.add(name)
        return name

    def _enter(self, variables: Mapping[str, int]) -> tuple[Var, ...]:
        """A new body, with loop variables of these names and extents."""
        made = tuple(Var(_unlike(name, *self._names), extent) for name, extent in variables.items())
        self._stack.append([])
        self._names.append({var.name for var in made})
        return made

    def _leave(self) -> list[Stmt]:
        self._names.pop()
        return self._stack.pop()

    def _emit(self, stmt: Stmt) -> None:
        if not self._stack:
            raise LoopError(f"{self.name}: a statement outside any section")
        self._stack[-1].append(stmt)


def _unlike(name: str, *known: Set[str]) -> str:
    """The name, numbered if it means something else already, so that kernels with the same text are the same."""
    numbers, made = count(1), name
    while any(made in names for names in known):
        made = f"{name}_{next(numbers)}"
    return made


class _SectionScope:
    def __init__(self, builder: Builder, extents: Mapping[str, int], leading: bool) -> None:
        self.builder, self.extents, self.leading = builder, extents, leading

    def __enter__(self) -> tuple[Var, ...]:
        self.vars = self.builder._enter(self.extents)
        return self.vars

    def __exit__(self, *exc: object) -> None:
        body = self.builder._leave()
        if exc[0] is None and all(v.extent for v in self.vars):
            sections = self.builder.sections
            sections.insert(0 if self.leading else len(sections), Section(self.vars, body, self.builder.partner))


class _LoopScope:
    def __init__(self, builder: Builder, name: str, extent: int, kind: Kind, span: Span | None = None) -> None:
        self.builder, self.name, self.extent, self.kind, self.span = builder, name, extent, kind, span

    def __enter__(self) -> Var:
        (self.var,) = self.builder._enter({self.name: self.extent})
        return self.var

    def __exit__(self, *exc: object) -> None:
        body = self.builder._leave()
        if exc[0] is None and self.var.extent:
            self.builder._emit(For(self.var, self.kind, body, self.span))
