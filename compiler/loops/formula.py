"""The text of a formula: an expression over operands x0, x1, ... printed in Python's notation, and read back.

    t0 = exp(-x0); x0 / (1.0 + t0)

Numbers without a type have that of the formula's own floats (the first operand that is one); `float(...)` converts to
it. What is used more than once has a name of its own, so the text is as long as the expression is large.
"""

from __future__ import annotations

import ast
import math
from collections import Counter
from collections.abc import Container, Sequence
from functools import lru_cache

from glulam.compiler.errors import LoopError
from glulam.compiler.graph.types import DType
from glulam.compiler.loops import expr as ex
from glulam.compiler.loops.expr import Expr

MAX_TEXT = 100_000  # characters; a longer one is no formula that anybody wrote
_DEEP = 12  # levels after which a part gets a name, so that brackets stay readable (and parsers content)
_INFIX = {"add": "+", "sub": "-", "mul": "*", "div": "/", "pow": "**", "and": "&", "or": "|", "xor": "^", "shl": "<<"}
_COMPARE = {"lt": "<", "le": "<=", "gt": ">", "ge": ">=", "eq": "==", "ne": "!="}
_BINARY_NODES: dict[type[ast.operator], str] = {
    ast.Add: "add",
    ast.Sub: "sub",
    ast.Mult: "mul",
    ast.Div: "div",
    ast.Pow: "pow",
    ast.BitAnd: "and",
    ast.BitOr: "or",
    ast.BitXor: "xor",
    ast.LShift: "shl",
}
_COMPARE_NODES: dict[type[ast.cmpop], str] = {
    ast.Lt: "lt",
    ast.LtE: "le",
    ast.Gt: "gt",
    ast.GtE: "ge",
    ast.Eq: "eq",
    ast.NotEq: "ne",
}
_DTYPES = {dtype.value: dtype for dtype in DType}


def own_float(dtypes: Sequence[DType]) -> DType:
    """The type that numbers in a formula over operands of these types have."""
    return next((dtype for dtype in dtypes if dtype.is_float), DType.F32)


# ---- printing


def show_formula(expr: Expr, own: DType = DType.F32) -> str:
    """The text of an expression over `Param`s. Raises LoopError for one that reads memory."""
    return _Printer(expr, own).text()


class _Printer:
    def __init__(self, expr: Expr, own: DType) -> None:
        self.expr = expr
        self.own = own
        self.lines: list[str] = []
        self.names: dict[Expr, str] = {}
        self.depth: dict[Expr, int] = {}
        self.uses = Counter[Expr]()

    def text(self) -> str:
        order = postorder(self.expr)
        for e in order:
            self.uses.update(e.children())
        shown = ""
        for e in order:
            shown = self.show(e)
            deep = 1 + max((self.depth[child] for child in e.children()), default=0)
            leaf = not e.children()
            if e is not self.expr and not leaf and (self.uses[e] > 1 or deep > _DEEP):
                name = f"t{len(self.lines)}"
                self.lines.append(f"{name} = {shown}")
                self.names[e], self.depth[e] = name, 0
            else:
                self.names[e], self.depth[e] = shown, 0 if leaf else deep
        return "; ".join([*self.lines, shown])

    def show(self, e: Expr) -> str:
        args = [self.names[child] for child in e.children()]
        match e:
            case ex.Const(value, dtype):
                return self.number(value, dtype)
            case ex.Param(index):
                return f"x{index}"
            case ex.Unary("neg"):
                return f"(-{args[0]})"
            case ex.Binary(op) if op in _INFIX:
                return f"({args[0]} {_INFIX[op]} {args[1]})"
            case ex.Unary(op) | ex.Binary(op):
                return f"{op if op != 'not' else 'invert'}({', '.join(args)})"
            case ex.Compare(op):
                return f"({args[0]} {_COMPARE[op]} {args[1]})"
            case ex.Select():
                return f"where({', '.join(args)})"
            case ex.Fma():
                return f"fma({', '.join(args)})"
            case ex.Cast(_, dtype):
                return f"{self.type_name(dtype)}({args[0]})"
            case ex.Bitcast(_, dtype):
                return f"bits_{dtype.value}({args[0]})"
        raise LoopError(f"{type(e).__name__} cannot stand in a formula")

    def number(self, value: ex.Scalar, dtype: DType) -> str:
        if dtype is DType.BOOL:
            return str(bool(value))
        shown = repr(float(value)) if dtype.is_float else repr(int(value))
        return shown if dtype is self.own else f"{dtype.value}({shown})"

    def type_name(self, dtype: DType) -> str:
        return "float" if dtype is self.own else dtype.value


def postorder(expr: Expr, known: Container[Expr] = ()) -> list[Expr]:
    """The expression and all that it is made of, each once and behind its own parts; what is known is left out."""
    order: list[Expr] = []
    seen: set[Expr] = set()
    stack = [(expr, False)]
    while stack:
        e, done = stack.pop()
        if done:
            order.append(e)
        elif e not in seen and e not in known:
            seen.add(e)
            stack.append((e, True))
            stack.extend((child, False) for child in reversed(e.children()))
    return order


# ---- reading


@lru_cache(maxsize=512)
def parse_formula(text: str, dtypes: tuple[DType, ...]) -> Expr:
    """The expression that a text stands for, over `Param`s of these types. Raises LoopError with the place."""
    if len(text) > MAX_TEXT:
        raise LoopError(f"a formula of {len(text)} characters; the limit is {MAX_TEXT}")
    try:
        module = ast.parse(text)
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        raise LoopError(f"{text[:200]!r} is no formula: {error}") from error
    reader = _Reader(text, dtypes)
    *lines, last = module.body or [ast.Pass()]
    for line in lines:
        match line:
            case ast.Assign([ast.Name(name)], value) if name not in reader.names:
                reader.names[name] = reader.read(value)
            case _:
                raise reader.fail(line, "expected `name = formula`, each name once")
    if not isinstance(last, ast.Expr):
        raise reader.fail(last, "the last part is the result, a formula")
    return reader.result(last.value)


def operand_count(text: str) -> int:
    """How many operands a formula's text takes: one more than the highest that it names. Raises LoopError."""
    try:
        names = {node.id for node in ast.walk(ast.parse(text)) if isinstance(node, ast.Name)}
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        raise LoopError(f"{text[:200]!r} is no formula: {error}") from error
    indices = [int(name[1:]) for name in names if name[0] == "x" and name[1:].isascii() and name[1:].isdecimal()]
    return max(indices, default=-1) + 1


_Node = Expr | ex.Scalar  # a number takes the type of what it meets


class _Reader:
    def __init__(self, text: str, dtypes: Sequence[DType]) -> None:
        self.text = text
        self.own = own_float(dtypes)
        self.names: dict[str, _Node] = {f"x{i}": ex.Param(i, dtype) for i, dtype in enumerate(dtypes)}
        self.names |= {"inf": math.inf, "nan": math.nan}

    def fail(self, node: ast.AST, why: str) -> LoopError:
        part = ast.get_source_segment(self.text, node) if hasattr(node, "lineno") else None
        return LoopError(f"formula {self.text[:200]!r}: {why}{f', not `{part[:80]}`' if part else ''}")

    def result(self, node: ast.expr) -> Expr:
        return self.typed(self.read(node))

    def typed(self, value: _Node) -> Expr:
        if isinstance(value, Expr):
            return value
        return ex.Const(value, DType.BOOL if isinstance(value, bool) else self.own)

    def read(self, node: ast.expr) -> _Node:
        match node:
            case ast.Name(name) if name in self.names:
                return self.names[name]
            case ast.Constant(value) if isinstance(value, bool | int | float):
                return value
            case ast.UnaryOp(ast.USub(), operand):
                inner = self.read(operand)
                return -inner if isinstance(inner, Expr) or not isinstance(inner, bool) else self.typed(inner)
            case ast.BinOp(left, operator, right) if type(operator) in _BINARY_NODES:
                return ex.binary(_BINARY_NODES[type(operator)], *self.pair(left, right))
            case ast.Compare(left, [operator], [right]) if type(operator) in _COMPARE_NODES:
                return ex.compare(_COMPARE_NODES[type(operator)], *self.pair(left, right))
            case ast.Call(ast.Name(name), args, []):
                return self.call(node, name, args)
        raise self.fail(node, "expected operands, numbers, operators and calls of known functions")

    def pair(self, left: ast.expr, right: ast.expr) -> tuple[Expr, Expr]:
        x, y = self.read(left), self.read(right)
        known = next((side.dtype for side in (x, y) if isinstance(side, Expr)), self.own)
        return ex.lift(x, known), ex.lift(y, known)

    def call(self, node: ast.expr, name: str, args: list[ast.expr]) -> Expr:
        match name, len(args):
            case "invert", 1:
                return ex.unary("not", self.result(args[0]))
            case _, 1 if name in ex.UNARY:
                return ex.unary(name, self.result(args[0]))
            case _, 2 if name in ex.BINARY:
                return ex.binary(name, *self.pair(*args))
            case "where", 3:
                return ex.Select(self.result(args[0]), *self.pair(args[1], args[2]))
            case "fma", 3:
                return ex.Fma(self.result(args[0]), self.result(args[1]), self.result(args[2]))
            case "float", 1:
                return self.convert(self.read(args[0]), self.own)
            case _, 1 if name in _DTYPES:
                return self.convert(self.read(args[0]), _DTYPES[name])
            case _, 1 if name.removeprefix("bits_") in _DTYPES:
                return ex.Bitcast(self.result(args[0]), _DTYPES[name.removeprefix("bits_")])
        raise self.fail(node, "unknown function, or another number of arguments")

    @staticmethod
    def convert(value: _Node, dtype: DType) -> Expr:
        return ex.Cast(value, dtype) if isinstance(value, Expr) else ex.Const(value, dtype)
