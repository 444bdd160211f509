"""Builds kernels: loops are context managers, and what is stored in them are their statements."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

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
    Half,
    Kernel,
    Kind,
    Load,
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
