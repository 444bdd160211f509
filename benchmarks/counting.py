"""How often loops of the loop IR go round, for those who count what kernels do."""

from __future__ import annotations

from typing import Any

import numpy as np

from glulam.compiler.loops.expr import Const, Expr, operation
from glulam.compiler.loops.index import Var
from glulam.compiler.loops.ir import For, IndexValue


def rounds(loop: For) -> float:
    """Iterations of the loop each time that it is entered, on average over the loops and sections around it."""
    if loop.span is None:
        return float(loop.var.extent)
    bounds = loop.span.first, loop.span.end
    variables = list(dict.fromkeys(var for bound in bounds for var in _variables(bound)))
    places = dict(zip(variables, np.meshgrid(*(np.arange(v.extent) for v in variables), indexing="ij"), strict=True))
    first, end = (np.clip(_value(bound, places), 0, loop.var.extent) for bound in bounds)
    return float(np.mean(np.maximum(end - first, 0)))


def _variables(e: Expr) -> list[Var]:
    if isinstance(e, IndexValue):
        return list(e.index.terms)
    return [var for child in e.children() for var in _variables(child)]


def _value(e: Expr, places: dict[Var, Any]) -> Any:
    match e:
        case IndexValue(index):
            return index.const + sum(places[var] * k for var, k in index.terms.items())
        case Const(value):
            return value
    return operation(e)(*[np.asarray(_value(child, places)) for child in e.children()])
