"""Recurrent layers over sequences: LSTM, GRU, RNN, with PyTorch's parameter names and gate orders."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, ClassVar

import numpy.typing as npt

from glulam.compiler import ops
from glulam.compiler.errors import GraphError, ShapeError
from glulam.compiler.graph.graph import Value
from glulam.compiler.graph.op import Op
from glulam.compiler.ops.recurrent import activation
from glulam.frontends.layers.arguments import integer
from glulam.frontends.layers.initial import uniform
from glulam.frontends.layers.module import Layer
from glulam.frontends.layers.tensor import Tensor, apply, apply_all, require_rank, reshape, slice_axis


class _Recurrent(Layer):
    """The state is carried along the axis of time: [T, N, features] becomes [T, N, D * hidden_size].

    D is 2 with `bidirectional`, else 1. batch_first: [N, T, features] instead. num_layers: so many, each on the outputs
    of the one before; `dropout` between them does nothing at inference. Parameters have PyTorch's names, shapes and
    order of gates (weight_ih_l0, weight_hh_l0, bias_ih_l0, bias_hh_l0, weight_ih_l0_reverse, ...); `weights` gives some
    of them by name.

    Called on a sequence, or on a sequence and its initial states, each [num_layers * D, N, hidden_size]. With `lengths`
    the second input is integers [N]: sequences that end before the others; their later outputs are 0, as those of a
    packed sequence padded again. The result is the sequence of outputs, with `return_state` followed by the last
    states, each [num_layers * D, N, hidden_size].
    """

    gates: ClassVar[tuple[int, ...]]  # where ONNX's gates are in PyTorch's order
    states: ClassVar[int] = 1

    def __init__(
        self,
        hidden_size: int,
        num_layers: int = 1,
        bias: bool = True,
        batch_first: bool = False,
        dropout: float = 0.0,
        bidirectional: bool = False,
        *,
        lengths: bool = False,
        return_state: bool = False,
        weights: Mapping[str, npt.ArrayLike] | None = None,
        name: str | None = None,
    ) -> None:
        super().__init__(name)
        label = type(self).__name__
        self.hidden_size = integer(hidden_size, f"{label}: hidden_size", low=1)
        self.num_layers = integer(num_layers, f"{label}: num_layers", low=1)
        self.has_bias, self.batch_first, self.bidirectional = bool(bias), bool(batch_first), bool(bidirectional)
        self.lengths, self.return_state = bool(lengths), bool(return_state)
        if not 0.0 <= dropout <= 1.0:
            raise ShapeError(f"{label}: dropout is {dropout}; it is a probability")
        self.dropout = float(dropout)
        self._given = dict(weights or {})

    def op(self, direction: str) -> Op:
        """The operator of one layer."""
        raise GraphError(f"{type(self).__name__} has no operator")

    def forward(self, x: Tensor, *more: Tensor) -> Tensor | tuple[Tensor, ...]:
        require_rank(x, 3, type(self).__name__)
        path = self.path(x.scope)
        rest = list(more)
        lengths = rest.pop(0) if self.lengths and rest else None
        if (self.lengths and lengths is None) or len(rest) not in (0, self.states):
            wanted = f"a sequence{', its lengths' if self.lengths else ''}, and no or {self.states} initial states"
            raise ShapeError(f"{type(self).__name__} {path!r} takes {wanted}, not {1 + len(more)} inputs")
        if self.batch_first:
            x = apply(ops.Transpose((1, 0, 2)), x, name=f"{path}.time_first")
        finals = []
        for layer in range(self.num_layers):
            if layer and self.dropout:
                x = apply(ops.Dropout(self.dropout), x, name=f"{path}.dropout")
            x, *last = self._layer(x, layer, lengths, rest, path)
            finals.append(last)
        if self.batch_first:
            x = apply(ops.Transpose((1, 0, 2)), x, name=f"{path}.batch_first")
        if not self.return_state:
            return x
        stacked = [
            last[0] if len(last) == 1 else apply(ops.Concat(0), *last, name=f"{path}.state")
            for last in zip(*finals, strict=True)
        ]
        return (x, *stacked)

    def _layer(self, x: Tensor, layer: int, lengths: Tensor | None, states: list[Tensor], path: str) -> list[Tensor]:
        """The outputs [T, N, D * H] of a layer, and its last states."""
        ways = ("", "_reverse") if self.bidirectional else ("",)
        steps, batch, features = x.shape
        count, rows = len(ways), len(self.gates) * self.hidden_size
        bound = 1.0 / math.sqrt(self.hidden_size)

        def weight(kind: str, way: str, shape: tuple[int, ...]) -> Value:
            key = f"{kind}_l{layer}{way}"
            found = self.parameter(key, shape, self._given.get(key), uniform(-bound, bound), x)
            return self._in_order(found, x, path)

        def both(kind: str, columns: int) -> Value:
            parts = [weight(kind, way, (rows, columns)) for way in ways]
            joined = parts[0] if count == 1 else apply(ops.Concat(0), *parts, name=f"{path}.weight", scope=x.scope)
            return apply(ops.Reshape((count, rows, columns)), joined, name=f"{path}.weight", scope=x.scope)

        bias = None
        if self.has_bias:
            parts = [weight(kind, way, (rows,)) for way in ways for kind in ("bias_ih", "bias_hh")]
            joined = apply(ops.Concat(0), *parts, name=f"{path}.bias", scope=x.scope)
            bias = reshape(joined, (count, 2 * rows), f"{path}.bias")
        initial = [slice_axis(state, 0, layer * count, count, f"{path}.initial") for state in states]
        operands = [x, both("weight_ih", features), both("weight_hh", self.hidden_size), bias, lengths, *initial]
        while operands[-1] is None:
            operands.pop()
        label = path if self.num_layers == 1 else f"{path}.l{layer}"
        y, *last = apply_all(self.op("bidirectional" if self.bidirectional else "forward"), *operands, name=label)
        y = apply(ops.Transpose((0, 2, 1, 3)), y, name=f"{path}.directions")
        return [reshape(y, (steps, batch, count * self.hidden_size), f"{path}.output"), *last]

    def _in_order(self, weight: Value, like: Tensor, path: str) -> Value:
        """The rows of PyTorch's gates in ONNX's order."""
        if self.gates == tuple(sorted(self.gates)):
            return weight
        sizes = (self.hidden_size,) * len(self.gates)
        parts = apply_all(ops.Split(0, sizes), weight, name=f"{path}.gates", scope=like.scope)
        return apply(ops.Concat(0), *(parts[g] for g in self.gates), name=f"{path}.gates", scope=like.scope)


class LSTM(_Recurrent):
    __doc__ = f"""Long short-term memory.

    {_Recurrent.__doc__}
    There are two states, the hidden one and the cell's.
    """

    gates = (0, 3, 1, 2)
    states = 2

    def op(self, direction: str) -> Op:
        return ops.Lstm.plain(direction)


class GRU(_Recurrent):
    __doc__ = f"""Gated recurrent units, the reset gate applied after the product as in PyTorch.

    {_Recurrent.__doc__}"""

    gates = (1, 0, 2)

    def op(self, direction: str) -> Op:
        return ops.Gru.plain(direction, linear_before_reset=True)


class RNN(_Recurrent):
    __doc__ = f"""An Elman network; `nonlinearity` is "tanh" or "relu".

    {_Recurrent.__doc__}"""

    gates = (0,)

    def __init__(self, hidden_size: int, num_layers: int = 1, nonlinearity: str = "tanh", *args: Any, **kwargs: Any):
        super().__init__(hidden_size, num_layers, *args, **kwargs)
        if nonlinearity not in ("tanh", "relu"):
            raise ShapeError(f"RNN: nonlinearity is {nonlinearity!r}; it must be 'tanh' or 'relu'")
        self.nonlinearity = nonlinearity

    def op(self, direction: str) -> Op:
        chosen = activation(self.nonlinearity.capitalize())
        return ops.Rnn(direction, (chosen,) * (2 if self.bidirectional else 1))
