"""Loop programs as text, for people and for golden tests. Equal kernels print equal text."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, assert_never
from weakref import WeakKeyDictionary

from glulam.compiler.errors import LoopError
from glulam.compiler.graph.types import DType
from glulam.compiler.loops import expr as ex
from glulam.compiler.loops.expr import Expr
from glulam.compiler.loops.index import Affine, Index
from glulam.compiler.loops.ir import (
    Buffer,
    Declare,
    For,
    IndexValue,
    Kernel,
    LanePick,
    LaneReduce,
    LaneShuffle,
    Load,
    Prefetch,
    Section,
    Stmt,
    Store,
    TileRead,
    TileWrite,
)

_INFIX = {"add": "+", "sub": "-", "mul": "*", "div": "/", "and": "&", "or": "|", "xor": "^", "shl": "<<"}
_INFIX |= {"lt": "<", "le": "<=", "gt": ">", "ge": ">=", "eq": "==", "ne": "!="}


def show_kernel(kernel: Kernel) -> str:
    """The whole kernel."""
    lines = [f"kernel {kernel.name} {{"]
    for buffer in (*kernel.params, *kernel.scratch):
        lines.append(f"  {_buffer(buffer)}")
    return "\n".join([*lines, *map(_section, kernel.sections), "}"]) + "\n"


_SECTIONS: WeakKeyDictionary[Section, str] = WeakKeyDictionary()
"""Texts of finished sections: a kernel is printed to be compared with others, and again under its name."""


def _section(section: Section) -> str:
    text = _SECTIONS.get(section)
    if text is None:
        head = ", ".join(f"{v.name} < {v.extent}" for v in section.vars)
        half = "" if section.half is None else f" of half {section.half.value}"
        text = "\n".join([f"  parallel {head}{half} {{", *_body(section.body, 2), "  }"])
        _SECTIONS[section] = text
    return text


def _buffer(b: Buffer) -> str:
    shape = ",".join(map(str, b.shape))
    strides = ",".join(map(str, b.strides))
    return f"{b.access.value} {b.name}: {b.dtype.value}[{shape}] strides [{strides}] align {b.align}"


def _body(body: Iterable[Stmt], depth: int) -> Iterable[str]:
    pad = "  " * depth
    for stmt in body:
        match stmt:
            case For(var, kind, inner, span):
                some = "" if span is None else f" from {show(span.first)} to {show(span.end)}"
                yield f"{pad}{kind.value} {var.name} < {var.extent}{some} {{"
                yield from _body(inner, depth + 1)
                yield f"{pad}}}"
            case Store(buffer, index, value):
                yield f"{pad}{buffer.name}{_index(index)} = {show(value)}"
            case Prefetch(buffer, index, level):
                yield f"{pad}prefetch {buffer.name}{_index(index)} to L{level}"
            case Declare(tile):
                yield f"{pad}tile {tile.name}: {tile.dtype.value}[{','.join(map(str, tile.shape))}]"
            case TileWrite(tile, index, value):
                yield f"{pad}{tile.name}{_index(index)} = {show(value)}"
            case _:
                assert_never(stmt)


def _index(index: Iterable[Index]) -> str:
    entries = [str(i) if isinstance(i, Affine) else f"clamp({show(i.value)}, {i.extent})" for i in index]
    return f"[{', '.join(entries)}]"


def show(e: Expr) -> str:
    """An expression, fully parenthesised."""
    shown = _SHOWN.get(type(e))
    if shown is None:
        raise LoopError(f"no text for {type(e).__name__}")
    return shown(e)


def _pair(e: ex.Binary | ex.Compare) -> str:
    if e.op in _INFIX:
        return f"({show(e.x)} {_INFIX[e.op]} {show(e.y)})"
    return f"{e.op}({show(e.x)}, {show(e.y)})"


def _const(e: ex.Const) -> str:
    text = repr(float(e.value) if e.dtype.is_float else e.value)
    return text if e.dtype in (DType.F32, DType.BOOL) else f"{e.dtype.value}({text})"


_SHOWN: dict[type[Expr], Callable[[Any], str]] = {
    ex.Fma: lambda e: f"fma({show(e.x)}, {show(e.y)}, {show(e.z)})",
    Load: lambda e: f"{e.buffer.name}{_index(e.index)}",
    TileRead: lambda e: f"{e.tile.name}{_index(e.index)}",
    ex.Const: _const,
    ex.Binary: _pair,
    ex.Compare: _pair,
    ex.Unary: lambda e: f"{e.op}({show(e.x)})",
    ex.Select: lambda e: f"select({show(e.condition)}, {show(e.yes)}, {show(e.no)})",
    LaneReduce: lambda e: f"lanes_{e.op}({show(e.x)})",
    LaneShuffle: lambda e: f"shuffle({show(e.x)}, {show(e.y)}, {list(e.lanes)})",
    LanePick: lambda e: f"pick({show(e.x)}, {show(e.lane)})",
    ex.Cast: lambda e: f"{e.dtype.value}({show(e.x)})",
    ex.Bitcast: lambda e: f"bits_{e.dtype.value}({show(e.x)})",
    ex.Param: lambda e: f"${e.index}",
    IndexValue: lambda e: f"index({e.index})",
}
"""The text of each class of expressions: by a table, since kernels have very many."""
