"""Recurrent layers over sequences: LSTM, GRU, RNN, with PyTorch's parameter names and gate orders."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from glulam.compiler import ops
from glulam.compiler.errors import GraphError, ShapeError
from glulam.compiler.graph.graph import Value
from glulam.compiler.graph.op import Op
from glulam.compiler.ops.recurrent import activation
from glulam.frontends.layers.arguments import choice, flag, integer, named_arrays, real
from glulam.frontends.layers.initial import uniform
from glulam.frontends.layers.module import Layer
from glulam.frontends.layers.tensor import Tensor, apply, apply_all, literal, require_rank, reshape, slice_axis


class _Recurrent(Layer):
    """The state is carried along the axis of time: [T, N, features] becomes [T, N, D * hidden_size].

    PyTorch's first argument, input_size, is inferred from the input and left out: hidden_size comes first.
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
    inferred = "input_size"

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
        if not isinstance(bias, bool | np.bool_):
            raise ShapeError(
                f"{label}: bias is {bias!r}; it is True or False ({self.inferred} is inferred: leave it out)"
            )
        self.has_bias = bool(bias)
        self.batch_first = flag(batch_first, f"{label}: batch_first")
        self.bidirectional = flag(bidirectional, f"{label}: bidirectional")
        self.lengths = flag(lengths, f"{label}: lengths")
        self.return_state = flag(return_state, f"{label}: return_state")
        self.dropout = real(dropout, f"{label}: dropout", low=0.0, high=1.0)
        self._given = named_arrays(weights, f"{label}: weights")

    @property
    def state_size(self) -> int:
        """Elements of the hidden state."""
        return self.hidden_size

    @property
    def ways(self) -> tuple[str, ...]:
        """How the parameters of each direction end."""
        return ("", "_reverse") if self.bidirectional else ("",)

    def op(self, direction: str) -> Op:
        """The operator of one layer."""
        raise GraphError(f"{type(self).__name__} has no operator")

    def forward(self, x: Tensor, *more: Tensor) -> Tensor | tuple[Tensor, ...]:
        axes = "[N, T, features] (batch_first)" if self.batch_first else "[T, N, features]"
        require_rank(x, 3, type(self).__name__, axes)
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
        self.check_names(self._given)
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
        ways = self.ways
        count, rows = len(ways), len(self.gates) * self.hidden_size
        own, recurrent = (
            self._stacked([self._weight(f"{kind}_l{layer}{way}", (rows, columns), x) for way in ways], x, path)
            for kind, columns in (("weight_ih", x.shape[2]), ("weight_hh", self.state_size))
        )
        bias = None
        if self.has_bias:
            kinds = [f"{kind}_l{layer}{way}" for way in ways for kind in ("bias_ih", "bias_hh")]
            joined = apply(
                ops.Concat(0), *(self._weight(key, (rows,), x) for key in kinds), name=f"{path}.bias", scope=x.scope
            )
            bias = reshape(joined, (count, 2 * rows), f"{path}.bias")
        initial = [slice_axis(state, 0, layer * count, count, f"{path}.initial") for state in states]
        y, *last = self._run(layer, path, [x, own, recurrent, bias, lengths, *initial])
        y = apply(ops.Transpose((0, 2, 1, 3)), y, name=f"{path}.directions")
        return [reshape(y, (*x.shape[:2], count * self.state_size), f"{path}.output"), *last]

    def _run(self, layer: int, path: str, operands: list[Tensor | None]) -> tuple[Tensor, ...]:
        """The operator on its operands, the last of which may be missing: outputs [T, D, N, H], and the last states."""
        while operands[-1] is None:
            operands.pop()
        label = path if self.num_layers == 1 else f"{path}.l{layer}"
        return apply_all(self.op("bidirectional" if self.bidirectional else "forward"), *operands, name=label)

    def _weight(self, key: str, shape: tuple[int, ...], like: Tensor, *, gates: bool = True) -> Value:
        """A parameter by its name, the rows of its gates in ONNX's order."""
        bound = 1.0 / math.sqrt(self.hidden_size)
        found = self.parameter(key, shape, self._given.get(key), uniform(-bound, bound), like)
        return self._in_order(found, like, self.path(like.scope)) if gates else found

    def _stacked(self, parts: Sequence[Value], like: Tensor, path: str) -> Tensor:
        """One matrix for each direction as [D, rows, columns]."""
        joined = apply(ops.Concat(0), *parts, name=f"{path}.weight", scope=like.scope) if len(parts) > 1 else parts[0]
        shape = (len(parts), *parts[0].shape)
        return apply(ops.Reshape(shape), joined, name=f"{path}.weight", scope=like.scope)

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
    There are two states, the hidden one and the cell's. With proj_size (below hidden_size) the hidden state and the
    outputs are projected to so many elements, by weight_hr_l0 and so on.
    """

    gates = (0, 3, 1, 2)
    states = 2

    def __init__(
        self,
        hidden_size: int,
        num_layers: int = 1,
        bias: bool = True,
        batch_first: bool = False,
        dropout: float = 0.0,
        bidirectional: bool = False,
        proj_size: int = 0,
        **options: Any,
    ) -> None:
        super().__init__(hidden_size, num_layers, bias, batch_first, dropout, bidirectional, **options)
        self.proj_size = integer(proj_size, "LSTM: proj_size", low=0)
        if self.proj_size >= self.hidden_size:
            raise ShapeError(f"LSTM: proj_size {proj_size} is not below hidden_size {hidden_size}")

    @property
    def state_size(self) -> int:
        return self.proj_size or self.hidden_size

    def op(self, direction: str) -> Op:
        return ops.Lstm.plain(direction)

    def _run(self, layer: int, path: str, operands: list[Any]) -> tuple[Tensor, ...]:
        """With a projection: a plain LSTM over what is projected, since R (P m) = (R P) m for recurrent weights R."""
        if not self.proj_size:
            return super()._run(layer, path, operands)
        x, own, recurrent, bias, lengths, *states = operands
        shape = (self.proj_size, self.hidden_size)
        names = [f"weight_hr_l{layer}{way}" for way in self.ways]
        down = self._stacked([self._weight(name, shape, x, gates=False) for name in names], x, path)
        if states:
            x, own = self._begun(x, own, recurrent, states[0], lengths, path)
            states[0] = literal(np.zeros((*states[0].shape[:2], self.hidden_size)), x, f"{path}.initial")
        recurrent = apply(ops.MatMul(), recurrent, down, name=f"{path}.weight")
        y, hidden, cell = super()._run(layer, path, [x, own, recurrent, bias, lengths, *states])
        turned = apply(ops.Transpose((0, 2, 1)), down, name=f"{path}.projection")
        y, hidden = (apply(ops.MatMul(), each, turned, name=f"{path}.projected") for each in (y, hidden))
        return y, hidden, cell

    def _begun(
        self, x: Tensor, own: Tensor, recurrent: Tensor, hidden: Tensor, lengths: Tensor | None, path: str
    ) -> tuple[Tensor, Tensor]:
        """Input and its weights with the first hidden state [D, N, proj_size] as further features of the first step."""
        steps, size, count = x.shape[0], self.proj_size, len(self.ways)
        features, columns = [x], []
        for d in range(count):
            first = slice_axis(hidden, 0, d, 1, f"{path}.initial")
            if d and lengths is not None:
                place = literal(np.arange(1, steps + 1).reshape(steps, 1, 1), lengths, f"{path}.steps")
                begins = apply(ops.Equal(), place, reshape(lengths, (1, lengths.shape[0], 1)), name=f"{path}.begins")
                first = apply(ops.Where(), begins, first, literal(0, x), name=f"{path}.initial")
            else:
                later = (steps - 1, 0) if d else (0, steps - 1)
                first = apply(ops.Pad((later, (0, 0), (0, 0))), first, name=f"{path}.initial")
            features.append(first)
            part = slice_axis(recurrent, 0, d, 1, f"{path}.weight")
            others = (d * size, (count - 1 - d) * size)
            columns.append(apply(ops.Pad(((0, 0), (0, 0), others)), part, name=f"{path}.weight"))
        more = columns[0] if count == 1 else apply(ops.Concat(0), *columns, name=f"{path}.weight")
        joined = apply(ops.Concat(2), *features, name=f"{path}.begun")
        return joined, apply(ops.Concat(2), own, more, name=f"{path}.weight")


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
        self.nonlinearity = choice(nonlinearity, ("tanh", "relu"), "RNN: nonlinearity")

    def op(self, direction: str) -> Op:
        chosen = activation(self.nonlinearity.capitalize())
        return ops.Rnn(direction, (chosen,) * (2 if self.bidirectional else 1))
