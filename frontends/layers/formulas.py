"""Formulas: layers written as a Python formula over symbolic values, traced once into ops that fuse like the built-in.

    @gl.layer
    def scaled_swish(x, *, beta=1.0, gain=gl.Weight("channels", init=1.0)):
        return gain * x * gl.math.sigmoid(beta * x)

    net = gl.Sequential([gl.layers.Input((3, 32, 32)), gl.layers.Conv2d(16, 3), scaled_swish(beta=1.5)])

Positional arguments are the tensors that the layer is called on. Keyword-only arguments are settings (plain Python
values that may steer the trace) or weights (`gl.Weight`), which state dicts name. Sums and the like over axes become
reductions, with pointwise formulas before and after them.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from glulam.compiler import ops
from glulam.compiler.errors import ShapeError, TraceError
from glulam.compiler.graph.graph import Value
from glulam.compiler.graph.types import DType, Shape
from glulam.compiler.loops import expr as ex
from glulam.compiler.loops.expr import Expr
from glulam.compiler.loops.formula import own_float, show_formula
from glulam.frontends.layers import initial
from glulam.frontends.layers.arguments import real
from glulam.frontends.layers.module import Layer
from glulam.frontends.layers.symbol import Reduction, Symbol, Trace
from glulam.frontends.layers.tensor import Tensor, apply, normal_axis


@dataclass(frozen=True)
class Weight:
    """A trained parameter of a formula.

    shape: a tuple, () for one number, or "channels": one number for each channel (axis 1) of the first input, shaped
    to broadcast along it. init: a number, or an initialiser of `layers.initial`, for what is not given.
    """

    shape: Shape | str = ()
    init: float | initial.Initializer = 0.0

    def for_input(self, shape: Shape) -> Shape:
        if not isinstance(self.shape, str):
            return tuple(self.shape)
        if self.shape != "channels" or len(shape) < 2:
            raise ShapeError(
                f'a weight of shape {self.shape!r} for an input of shape {shape}; give a tuple or "channels"'
            )
        return (shape[1], *[1] * (len(shape) - 2))

    @property
    def initializer(self) -> initial.Initializer:
        return self.init if callable(self.init) else initial.constant(real(self.init, "Weight: init"))


class FormulaLayer(Layer):
    """Base of the layers that `layer` makes. `evaluate` is the same formula by numpy."""

    function: ClassVar[Callable[..., Any]]
    inputs: ClassVar[tuple[str, ...]]
    weights: ClassVar[Mapping[str, Weight]]
    defaults: ClassVar[Mapping[str, Any]]

    def __init__(self, *args: Any, name: str | None = None, **given: Any) -> None:
        """Settings and weights by name; weights not given are drawn by their initialiser."""
        label = type(self).__name__
        if args:
            raise TraceError(f"{label} is a layer: make one, then call it on tensors: {label}()(x)")
        super().__init__(name)
        if unknown := sorted(set(given) - set(self.weights) - set(self.defaults)):
            has = [*self.defaults, *self.weights]
            raise TraceError(f"{label} has no setting or weight {', '.join(unknown)}; it has {has}")
        self.settings = {key: given.get(key, default) for key, default in self.defaults.items()}
        self.given: dict[str, npt.ArrayLike | None] = {key: given.get(key) for key in self.weights}
        self._traces: dict[tuple[DType, ...], tuple[Trace, tuple[Expr, ...], bool]] = {}

    def forward(self, *xs: Tensor) -> Any:
        """The results of the formula on tensors: one, or a tuple if the formula gives a tuple."""
        if len(xs) != len(self.inputs):
            raise ShapeError(
                f"{type(self).__name__} takes {len(self.inputs)} tensors ({', '.join(self.inputs)}), not {len(xs)}"
            )
        values: list[Value] = list(xs)
        for key, weight in self.weights.items():
            shape = weight.for_input(xs[0].shape)
            values.append(self.parameter(key, shape, self.given[key], weight.initializer, xs[0]))
        trace, results, several = self.traced(values)
        for reduction in trace.reductions:
            operand = self.pointwise(reduction.operand, values, xs[0], None)
            values.append(self.reduced(reduction, operand, xs[0]))
        path = self.path(xs[0].scope)
        outputs = [self.pointwise(each, values, xs[0], path) for each in results]
        tensors = [v if isinstance(v, Tensor) else apply(ops.Identity(), v, scope=xs[0].scope) for v in outputs]
        return tuple(tensors) if several else tensors[0]

    def traced(self, values: list[Value]) -> tuple[Trace, tuple[Expr, ...], bool]:
        """The formula over operands of these types, traced at the first call with them."""
        dtypes = tuple(value.type.dtype for value in values)
        if dtypes not in self._traces:
            trace = Trace(type(self).__name__, len(values), own_float(dtypes))
            symbols = [Symbol(ex.Param(i, dtype), trace) for i, dtype in enumerate(dtypes)]
            weights = dict(zip(self.weights, symbols[len(self.inputs) :], strict=True))
            made = type(self).function(*symbols[: len(self.inputs)], **weights, **self.settings)
            several = isinstance(made, tuple | list)
            results = tuple(_result(trace, each) for each in (made if several else [made]))
            self._traces[dtypes] = (trace, results, several)
        return self._traces[dtypes]

    def pointwise(self, expr: Expr, values: list[Value], like: Tensor, name: str | None) -> Value:
        """A node for the expression over the values; nothing if it is one of them."""
        if isinstance(expr, ex.Param):
            return values[expr.index]
        order = _first_uses(expr)
        if not order:
            raise TraceError(
                f"formula {type(self).__name__!r}: a result is the same for every input; return a tensor's"
            )
        renumbered = ex.substitute(expr, {old: ex.Param(new, values[old].type.dtype) for new, old in enumerate(order)})
        own = own_float([values[i].type.dtype for i in order])
        op = ops.Formula(show_formula(renumbered, own), type(self).__name__)
        return apply(op, *(values[i] for i in order), name=name, scope=like.scope)

    def reduced(self, reduction: Reduction, x: Value, like: Tensor) -> Tensor:
        """A node for the reduction of x, a tensor or a weight."""
        label = f"formula {type(self).__name__!r}"
        chosen = range(x.type.rank) if reduction.axes is None else reduction.axes
        axes = tuple(sorted({normal_axis(axis, x.type.rank, label) for axis in chosen}))
        return apply(ops.Reduce(reduction.kind, axes, reduction.keepdims), x, scope=like.scope)

    def evaluate(self, *arrays: npt.ArrayLike) -> Any:
        """The formula by numpy on arrays, with the weights of this layer: what the compiled layer has to agree with."""
        first = np.asarray(arrays[0])
        weights: dict[str, Any] = {}
        for key, weight in self.weights.items():
            built, given = self._parameters.get(key), self.given[key]
            shape = weight.for_input(first.shape)
            drawn = weight.initializer(shape, 0, key) if given is None and built is None else given
            weights[key] = np.asarray(drawn if built is None else built.data, first.dtype).reshape(shape)
        with np.errstate(all="ignore"):
            return type(self).function(*map(np.asarray, arrays), **weights, **self.settings)


def layer(function: Callable[..., Any]) -> type[FormulaLayer]:
    """The layer class of a formula; see the module's text. Raises TraceError for a signature it cannot serve."""
    inputs: list[str] = []
    weights: dict[str, Weight] = {}
    defaults: dict[str, Any] = {}
    for key, parameter in inspect.signature(function).parameters.items():
        match parameter.kind:
            case inspect.Parameter.POSITIONAL_ONLY | inspect.Parameter.POSITIONAL_OR_KEYWORD:
                if parameter.default is not inspect.Parameter.empty:
                    raise TraceError(
                        f"formula {function.__name__!r}: put `*` in front of {key!r}: positional arguments are tensors"
                    )
                inputs.append(key)
            case inspect.Parameter.KEYWORD_ONLY if key != "name":
                if parameter.default is inspect.Parameter.empty:
                    raise TraceError(
                        f"formula {function.__name__!r}: {key!r} needs a default: a setting or a gl.Weight"
                    )
                (weights if isinstance(parameter.default, Weight) else defaults)[key] = parameter.default
            case _:
                raise TraceError(f"formula {function.__name__!r}: argument {key!r} is not possible in a layer")
    if not inputs:
        raise TraceError(f"formula {function.__name__!r} takes no tensor")
    members = {
        "__doc__": function.__doc__,
        "__module__": function.__module__,
        "function": staticmethod(function),
        "inputs": tuple(inputs),
        "weights": weights,
        "defaults": defaults,
    }
    return type(function.__name__, (FormulaLayer,), members)


def _result(trace: Trace, made: Any) -> Expr:
    if not isinstance(made, Symbol):
        raise TraceError(
            f"formula {trace.label!r} returned {type(made).__name__}; return a value computed from the arguments"
        )
    return made._expr


def _first_uses(expr: Expr) -> list[int]:
    """Indices of the operands in the order in which the text names them, so that equal formulas have equal texts."""
    order: dict[int, None] = {}
    seen: set[Expr] = set()
    stack = [expr]
    while stack:
        e = stack.pop()
        if e in seen:
            continue
        seen.add(e)
        if isinstance(e, ex.Param):
            order.setdefault(e.index)
        stack.extend(reversed(e.children()))
    return list(order)
