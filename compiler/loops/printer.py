"""Loop programs as text, for people, for golden tests, and as the key of a kernel's code.

Kernels that print equal text compute the same, since no name means two things where it stands (see `builder`). What a
statement uses more than once has a name, so the text is as long as the expressions are large.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, assert_never
from weakref import WeakKeyDictionary

from glulam.compiler.errors import LoopError
from glulam.compiler.graph.types import DType
from glulam.compiler.loops import expr as ex
from glulam.compiler.loops.expr import Expr
from glulam.compiler.loops.index import Bounded, Index
from glulam.compiler.loops.ir import (
    Buffer,
    ByteDot,
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
_LEAVES = frozenset({ex.Const, ex.Param, IndexValue, TileRead})
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
        partner = "" if section.partner is None else f" of {section.partner.value}"
        text = "\n".join([f"  parallel {head}{partner} {{", *_body(section.body, 2), "  }"])
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
                text = _Text(() if span is None else (span.first, span.end))
                some = "" if span is None else f" from {text.of(span.first)} to {text.of(span.end)}"
                yield from text.lines(pad)
                yield f"{pad}{kind.value} {var.name} < {var.extent}{some} {{"
                yield from _body(inner, depth + 1)
                yield f"{pad}}}"
            case Store(buffer, index, value):
                text = _Text((value, *_computed(index)))
                line = f"{pad}{buffer.name}{text.index(index)} = {text.of(value)}"
                yield from text.lines(pad)
                yield line
            case Prefetch(buffer, index, level):
                yield f"{pad}prefetch {buffer.name}{_Text(()).index(index)} to L{level}"
            case Declare(tile):
                yield f"{pad}tile {tile.name}: {tile.dtype.value}[{','.join(map(str, tile.shape))}]"
            case TileWrite(tile, index, value):
                text = _Text((value,))
                line = f"{pad}{tile.name}{text.index(index)} = {text.of(value)}"
                yield from text.lines(pad)
                yield line
            case _:
                assert_never(stmt)


class _Text:
    """Of the expressions of one statement, fully parenthesised."""

    def __init__(self, expressions: Iterable[Expr]) -> None:
        self.shared = _shared(expressions)
        self.names: dict[Expr, str] = {}
        self.named: list[str] = []

    def of(self, e: Expr) -> str:
        if e in self.names:
            return self.names[e]
        shown = _SHOWN.get(type(e))
        if shown is None:
            raise LoopError(f"no text for {type(e).__name__}")
        text = shown(e, self)
        if e not in self.shared:
            return text
        name = self.names[e] = f"%{len(self.named)}"
        self.named.append(f"{name} = {text}")
        return name

    def index(self, index: Iterable[Index]) -> str:
        entries = [f"clamp({self.of(i.value)}, {i.extent})" if isinstance(i, Bounded) else str(i) for i in index]
        return f"[{', '.join(entries)}]"

    def lines(self, pad: str) -> list[str]:
        """What has a name, in the order in which it is computed."""
        return [f"{pad}{line}" for line in self.named]


def _computed(index: Iterable[Index]) -> list[Expr]:
    return [entry.value for entry in index if type(entry) is Bounded]


def _shared(expressions: Iterable[Expr]) -> set[Expr]:
    """What has operands and is used more than once."""
    pending, seen, shared = list(expressions), set[Expr](), set[Expr]()
    while pending:
        e = pending.pop()
        if type(e) in _LEAVES:
            continue
        if e in seen:
            shared.add(e)
        elif operands := _computed(e.index) if type(e) is Load else e.children():
            seen.add(e)
            pending += operands
    return shared


def show(e: Expr) -> str:
    """An expression, with what it uses more than once in front of it."""
    text = _Text((e,))
    last = text.of(e)
    return "; ".join([*text.named, last])


def _pair(e: ex.Binary | ex.Compare, text: _Text) -> str:
    if e.op in _INFIX:
        return f"({text.of(e.x)} {_INFIX[e.op]} {text.of(e.y)})"
    return f"{e.op}({text.of(e.x)}, {text.of(e.y)})"


def _const(e: ex.Const, _: _Text) -> str:
    text = repr(float(e.value) if e.dtype.is_float else e.value)
    return text if e.dtype in (DType.F32, DType.BOOL) else f"{e.dtype.value}({text})"


_SHOWN: dict[type[Expr], Callable[[Any, _Text], str]] = {
    ex.Fma: lambda e, text: f"fma({text.of(e.x)}, {text.of(e.y)}, {text.of(e.z)})",
    Load: lambda e, text: f"{e.buffer.name}{text.index(e.index)}",
    TileRead: lambda e, text: f"{e.tile.name}{text.index(e.index)}",
    ex.Const: _const,
    ex.Binary: _pair,
    ex.Compare: _pair,
    ex.Unary: lambda e, text: f"{e.op}({text.of(e.x)})",
    ex.Select: lambda e, text: f"select({text.of(e.condition)}, {text.of(e.yes)}, {text.of(e.no)})",
    LaneReduce: lambda e, text: f"lanes_{e.op}({text.of(e.x)})",
    LaneShuffle: lambda e, text: f"shuffle({text.of(e.x)}, {text.of(e.y)}, {list(e.lanes)})",
    ByteDot: lambda e, text: f"byte_dot({text.of(e.x)}, {text.of(e.y)}, {text.of(e.z)})",
    LanePick: lambda e, text: f"pick({text.of(e.x)}, {text.of(e.lane)})",
    ex.Cast: lambda e, text: f"{e.dtype.value}({text.of(e.x)})",
    ex.Bitcast: lambda e, text: f"bits_{e.dtype.value}({text.of(e.x)})",
    ex.Lookup: lambda e, text: f"lookup({text.of(e.x)}, {e.table.hex()})",
    ex.Param: lambda e, _: f"${e.index}",
    IndexValue: lambda e, _: f"index({e.index})",
}
"""The text of each class of expressions: by a table, since kernels have very many."""
