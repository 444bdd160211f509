"""Which values are never below zero: zeros around them, or none, make no difference to a maximum."""

from __future__ import annotations

import math

from glulam.compiler.graph.graph import Node, Value
from glulam.compiler.graph.op import Trait
from glulam.compiler.loops import expr as ex
from glulam.compiler.ops import Concat, MaxPool, Split
from glulam.compiler.ops.pointwise import Pointwise
from glulam.compiler.ops.reorder import Reorder
from glulam.compiler.ops.subgraph import SubGraph


def is_nonnegative(value: Value) -> bool:
    """Whether no element can be below zero, so that zeros around it never win a maximum (NaN is let through anyway)."""
    seen, pending = {value}, [value]
    while pending:
        node = pending.pop().producer
        if node is not None and _hands_on(node):
            new = set(node.present_inputs()) - seen
            seen |= new
            pending += new
        elif node is None or not _makes_nonnegative(node):
            return False
    return True


def _hands_on(node: Node) -> bool:
    """Whether all elements are some of the inputs'."""
    if isinstance(node.op, MaxPool):
        return not node.op.has_empty_windows(next(node.present_inputs()).shape[2:])
    return isinstance(node.op, Concat | Split | Reorder) or Trait.VIEW in node.op.traits


def _makes_nonnegative(node: Node) -> bool:
    last: Node | None = node
    while last is not None and isinstance(last.op, SubGraph):
        last = last.op.result.producer
    if last is None or not isinstance(last.op, Pointwise):
        return False
    formula = last.op.expression(*(v.type for v in last.present_inputs()))
    return formula.dtype.is_float and _is_nonnegative(formula)


def _is_nonnegative(e: ex.Expr) -> bool:
    """Whether a float is never below zero; -0.0 is not."""
    match e:
        case ex.Binary("maximum", x, y):
            return _is_nonnegative(x) or _is_nonnegative(y)
        case ex.Const(constant):
            return constant >= 0
        case ex.Binary("minimum" | "add" | "mul", x, y):
            return _is_nonnegative(x) and _is_nonnegative(y)
        case ex.Binary("div", x, y):
            return _is_nonnegative(x) and _has_no_sign(y)
    return _has_no_sign(e)


def _has_no_sign(e: ex.Expr) -> bool:
    """Whether a float never has its sign bit set, so that not even division by it gives -inf."""
    match e:
        case ex.Unary("exp" | "abs"):
            return True
        case ex.Const(constant):
            return math.copysign(1, constant) > 0
        case ex.Binary("maximum", x, y):
            return any(isinstance(side, ex.Const) and side.value > 0 for side in (x, y))
        case ex.Binary("add", x, y):
            return (_has_no_sign(x) and _is_nonnegative(y)) or (_is_nonnegative(x) and _has_no_sign(y))
        case ex.Binary("minimum" | "mul" | "div", x, y):
            return _has_no_sign(x) and _has_no_sign(y)
    return False
