"""ONNX nodes for a formula: its expression, operation by operation."""

from __future__ import annotations

from glulam.compiler import ops
from glulam.compiler.errors import UnsupportedError
from glulam.compiler.graph.graph import Node
from glulam.compiler.graph.op import Op
from glulam.compiler.graph.types import DType
from glulam.compiler.loops import expr as ex
from glulam.compiler.loops.expr import Expr
from glulam.frontends.onnx.proto import elem_type_of
from glulam.frontends.onnx.writer import Export, Writer

_UNARY = {
    "neg": "Neg", "abs": "Abs", "not": "Not", "sqrt": "Sqrt", "exp": "Exp", "log": "Log", "tanh": "Tanh", "erf": "Erf",
    "sin": "Sin", "cos": "Cos", "floor": "Floor", "ceil": "Ceil", "round": "Round",
}  # fmt: skip
_BINARY = {
    "add": "Add", "sub": "Sub", "mul": "Mul", "div": "Div", "pow": "Pow", "maximum": "Max", "minimum": "Min",
    "and": "And", "or": "Or", "xor": "Xor",
}  # fmt: skip
_COMPARE = {"lt": "Less", "le": "LessOrEqual", "gt": "Greater", "ge": "GreaterOrEqual", "eq": "Equal"}


def formula(w: Writer, node: Node) -> None:
    """One node for each operation; the last one gives the output's name."""
    assert isinstance(node.op, ops.Formula)
    types = [value.type for value in node.present_inputs()]
    names = w.inputs(node)
    memo: dict[Expr, str] = {}

    def name(e: Expr) -> str:
        if e not in memo:
            memo[e] = _emit(w, e, names, [name(child) for child in e.children()])
        return memo[e]

    result = node.op.expression(*types)
    w.emit("Identity", [name(result)], w.outputs(node))


def _emit(w: Writer, e: Expr, operands: list[str], args: list[str]) -> str:
    match e:
        case ex.Param(index):
            return operands[index]
        case ex.Const(value, dtype):
            return w.constant(value, dtype)
        case ex.Unary(op) if op in _UNARY:
            return w.call(_UNARY[op], *args)
        case ex.Binary("fmod"):
            return w.call("Mod", *args, fmod=1)
        case ex.Binary(op) if op in _BINARY and (op not in ("and", "or", "xor") or e.dtype is DType.BOOL):
            return w.call(_BINARY[op], *args)
        case ex.Compare("ne"):
            return w.call("Not", w.call("Equal", *args))
        case ex.Compare(op):
            return w.call(_COMPARE[op], *args)
        case ex.Select():
            return w.call("Where", *args)
        case ex.Fma():
            return w.call("Add", w.call("Mul", args[0], args[1]), args[2])
        case ex.Cast(_, dtype):
            return w.call("Cast", args[0], to=elem_type_of(dtype))
    raise UnsupportedError(f"ONNX has no counterpart of {e!r}")


TABLE: dict[type[Op], Export] = {ops.Formula: formula}
