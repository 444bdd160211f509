"""Loop programs as text, for people and for golden tests. Equal kernels print equal text."""

from __future__ import annotations

from collections.abc import Iterable
from weakref import WeakKeyDictionary

from glulam.compiler.errors import LoopError
from glulam.compiler.graph.types import DType
from glulam.compiler.loops import expr as ex
from glulam.compiler.loops.expr import Expr
from glulam.compiler.loops.ir import (
    Bounded,
    Buffer,
    Declare,
    For,
    Index,
    IndexValue,
    Kernel,
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
        text = "\n".join([f"  parallel {head} {{", *_body(section.body, 2), "  }"])
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
            case For(var, kind, inner):
                yield f"{pad}{kind.value} {var.name} < {var.extent} {{"
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


def _index(index: Iterable[Index]) -> str:
    entries = [f"clamp({show(i.value)}, {i.extent})" if isinstance(i, Bounded) else str(i) for i in index]
    return f"[{', '.join(entries)}]"


def show(e: Expr) -> str:
    """An expression, fully parenthesised."""
    match e:
        case ex.Fma(x, y, z):
            return f"fma({show(x)}, {show(y)}, {show(z)})"
        case Load() | TileRead() | ex.Const():
            return _leaf(e)
        case ex.Binary(op, x, y) | ex.Compare(op, x, y):
            return f"({show(x)} {_INFIX[op]} {show(y)})" if op in _INFIX else f"{op}({show(x)}, {show(y)})"
        case ex.Unary(op, x):
            return f"{op}({show(x)})"
        case ex.Select(c, yes, no):
            return f"select({show(c)}, {show(yes)}, {show(no)})"
        case LaneReduce(op, x):
            return f"lanes_{op}({show(x)})"
        case LaneShuffle(x, y, lanes):
            return f"shuffle({show(x)}, {show(y)}, {list(lanes)})"
        case ex.Cast(x, dtype):
            return f"{dtype.value}({show(x)})"
        case ex.Bitcast(x, dtype):
            return f"bits_{dtype.value}({show(x)})"
    return _leaf(e)


def _leaf(e: Expr) -> str:
    match e:
        case Load(buffer, index):
            return f"{buffer.name}{_index(index)}"
        case TileRead(tile, index):
            return f"{tile.name}{_index(index)}"
        case ex.Const(value, dtype):
            text = repr(float(value) if dtype.is_float else value)
            return text if dtype in (DType.F32, DType.BOOL) else f"{dtype.value}({text})"
        case ex.Param(index):
            return f"${index}"
        case IndexValue(index):
            return f"index({index})"
    raise LoopError(f"no text for {type(e).__name__}")
