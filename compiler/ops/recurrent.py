"""LSTM, GRU and RNN over whole sequences, with ONNX's equations, gate orders and inputs.

A pass takes the product with the input weights out of the recurrence, for it serves all time steps at once: the op is
then `projected`, its input 0 holds the gates' contributions [T, N, D * gates * H], its weights are gone, and its
recurrent weights are [D, H, gates * H].
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Any, ClassVar, NamedTuple, Self

import numpy as np

from glulam.compiler.graph.op import Case, Op
from glulam.compiler.graph.types import Array, DType, Shape, TensorType, f32
from glulam.compiler.kernels import recurrence
from glulam.compiler.kernels.context import Context, Lowered
from glulam.compiler.loops import expr as ex
from glulam.compiler.loops.expr import Expr
from glulam.compiler.ops.activation import (
    Clip,
    Elu,
    HardSigmoid,
    LeakyRelu,
    Relu,
    Sigmoid,
    Softplus,
    Softsign,
    Tanh,
    ThresholdedRelu,
)
from glulam.compiler.ops.inputs import FLOATS, INDICES, F64Array, check_dtype, check_shape, f64, same_dtype, wide

Formula = Callable[[Expr], Expr]
Activation = tuple[str, float, float]  # name, alpha, beta

DIRECTIONS: Mapping[str, tuple[bool, ...]] = MappingProxyType(
    {"forward": (False,), "reverse": (True,), "bidirectional": (False, True)}
)
"""Whether each direction runs backwards."""

Maker = Callable[[float, float], Formula]

ACTIVATIONS: Mapping[str, tuple[Maker, float, float, int]] = MappingProxyType(
    {
        "Relu": (lambda alpha, beta: Relu().formula, 0.0, 0.0, 0),
        "Tanh": (lambda alpha, beta: Tanh().formula, 0.0, 0.0, 0),
        "Sigmoid": (lambda alpha, beta: Sigmoid().formula, 0.0, 0.0, 0),
        "Affine": (lambda alpha, beta: lambda x: x * alpha + beta, 1.0, 0.0, 2),
        "LeakyRelu": (lambda alpha, beta: LeakyRelu(alpha).formula, 0.01, 0.0, 1),
        "ThresholdedRelu": (lambda alpha, beta: ThresholdedRelu(alpha).formula, 1.0, 0.0, 1),
        "ScaledTanh": (lambda alpha, beta: lambda x: ex.tanh(x * beta) * alpha, 1.0, 1.0, 2),
        "HardSigmoid": (lambda alpha, beta: HardSigmoid(alpha, beta).formula, 0.2, 0.5, 2),
        "Elu": (lambda alpha, beta: Elu(alpha).formula, 1.0, 0.0, 1),
        "Softsign": (lambda alpha, beta: Softsign().formula, 0.0, 0.0, 0),
        "Softplus": (lambda alpha, beta: Softplus().formula, 0.0, 0.0, 0),
    }
)
"""ONNX's names of activations, how the formula is made of alpha and beta, their defaults, how many of them it takes."""


def activation(name: str, alpha: float | None = None, beta: float | None = None) -> Activation:
    """An activation with ONNX's default parameters. Raises KeyError for an unknown name."""
    _, default_alpha, default_beta, _ = ACTIVATIONS[name]
    return name, default_alpha if alpha is None else alpha, default_beta if beta is None else beta


class Inputs(NamedTuple):
    """The inputs in ONNX's order, here as types or as arrays."""

    x: Any
    w: Any
    r: Any
    b: Any = None
    lengths: Any = None
    h: Any = None
    c: Any = None
    p: Any = None


@dataclass(frozen=True)
class Recurrent(Op):
    """Base of the three: x[T,N,I], w[D,G*H,I], r[D,G*H,H], b?[D,2*G*H], lengths?[N], initial_h?[D,N,H].

    Outputs: y[T,D,N,H], which is 0 after the end of a sequence, and the last state of each direction, [D,N,H].
    activations: those of one direction after the other. clip: bound of what the activations of gates and candidates
    are applied to, 0 for none; like ONNX Runtime, the cell state of an LSTM is not bounded where its output is made.
    """

    direction: str = "forward"
    activations: tuple[Activation, ...] = ()
    clip: float = 0.0
    projected: bool = False

    tolerance = 1e-4
    gates: ClassVar[int]
    states: ClassVar[int] = 1
    most_inputs: ClassVar[int] = 6
    default_activations: ClassVar[tuple[str, ...]]

    @property
    def directions(self) -> int:
        return len(DIRECTIONS[self.direction])

    # ---- types

    def named(self, inputs: Sequence[Any]) -> Inputs:
        """The inputs by name; the op may be given fewer than it could take."""
        return Inputs(*inputs)

    def hidden(self, r: TensorType) -> int:
        return r.shape[1] if self.projected else r.shape[2]

    def infer(self, *inputs: TensorType | None) -> tuple[TensorType, ...]:
        if not 3 <= len(inputs) <= self.most_inputs:
            raise self.fail(f"takes 3 to {self.most_inputs} inputs, not {len(inputs)}")
        x, w, r, b, lengths, h, c, p = self.named(inputs)
        self._check_attributes()
        if x is None or r is None or (w is None) != self.projected:
            raise self.fail("the sequence and the weights must be there, and once projected no input weights")
        dtype = same_dtype(self, (x, w, r, b, h, c, p), FLOATS)
        if x.rank != 3 or r.rank != 3:
            raise self.fail(f"takes a sequence [T, N, features] and recurrent weights of rank 3, not {x} and {r}")
        d, n, units = self.directions, x.shape[1], self.hidden(r)
        if units < 1:
            raise self.fail("there are no hidden units")
        rows = self.gates * units
        if self.projected:
            check_shape(self, "the sequence of gates", x, (x.shape[0], n, d * rows))
            check_shape(self, "the recurrent weight", r, (d, units, rows))
        else:
            check_shape(self, "the weight", w, (d, rows, x.shape[2]))
            check_shape(self, "the recurrent weight", r, (d, rows, units))
        check_shape(self, "the bias", b, self.bias_shape(d, units))
        check_shape(self, "the lengths", lengths, (n,))
        if lengths is not None:
            check_dtype(self, lengths.dtype, INDICES)
        check_shape(self, "the initial state", h, (d, n, units))
        check_shape(self, "the initial cell state", c, (d, n, units))
        check_shape(self, "the peepholes", p, (d, 3 * units))
        state = TensorType(dtype, (d, n, units))
        return (TensorType(dtype, (x.shape[0], d, n, units)), *(state,) * self.states)

    def bias_shape(self, directions: int, hidden: int) -> Shape:
        return (directions, 2 * self.gates * hidden)

    def _check_attributes(self) -> None:
        if self.direction not in DIRECTIONS:
            raise self.fail(f"direction {self.direction!r} is unknown; there are {', '.join(DIRECTIONS)}")
        if len(self.activations) != self.directions * len(self.default_activations):
            raise self.fail(f"{len(self.activations)} activations for {self.directions} directions")
        for name, _, _ in self.activations:
            if name not in ACTIVATIONS:
                raise self.fail(f"activation {name!r} is unknown; there are {', '.join(ACTIVATIONS)}")

    def flops(self, inputs: Sequence[TensorType | None], outputs: Sequence[TensorType]) -> int:
        x, w, r = self.named(inputs)[:3]
        per_row = r.size + (0 if w is None else w.size)
        return int(2 * x.shape[0] * x.shape[1] * per_row)

    # ---- meaning

    def formulas(self, direction: int) -> tuple[Formula, ...]:
        """The activations of a direction; those of gates and candidate clip what they are applied to."""
        count = len(self.default_activations)
        chosen = self.activations[direction * count : (direction + 1) * count]
        made = [ACTIVATIONS[name][0](alpha, beta) for name, alpha, beta in chosen]
        return (*map(self._clipped, made[:2]), *made[2:])

    def _clipped(self, formula: Formula) -> Formula:
        if not self.clip:
            return formula
        bound = Clip(-self.clip, self.clip).formula
        return lambda x: formula(bound(x))

    def reference(self, *inputs: Array | None) -> tuple[Array, ...]:
        given = self.named(inputs)
        dtype = given.x.dtype
        floats = {k: wide(v) for k, v in given._asdict().items() if v is not None and k != "lengths"}
        given = given._replace(**floats)
        runs = [self._run(given, d, reverse) for d, reverse in enumerate(DIRECTIONS[self.direction])]
        y = np.stack([outputs for outputs, _ in runs], axis=1)
        states = [np.stack([run[1][s] for run in runs]) for s in range(self.states)]
        return tuple(array.astype(dtype) for array in (y, *states))

    def _run(self, given: Inputs, d: int, reverse: bool) -> tuple[F64Array, list[F64Array]]:
        """One direction: outputs [T, N, H], and the last states."""
        x, units = given.x, self.hidden(given.r)
        steps, batch = x.shape[:2]
        rows = self.gates * units
        if self.projected:
            gates, r = x[..., d * rows : (d + 1) * rows], given.r[d].T
            bias = np.zeros(rows)
            if given.b is not None:
                bias[-given.b.shape[1] :] = given.b[d]
        else:
            both = np.zeros(2 * rows) if given.b is None else given.b[d]
            gates, r, bias = x @ given.w[d].T + both[:rows], given.r[d], both[rows:]
        states = [np.zeros((batch, units)) if s is None else s[d] for s in (given.h, given.c)][: self.states]
        peepholes = None if given.p is None else given.p[d].reshape(3, units)
        activations = [_evaluated(formula) for formula in self.formulas(d)]
        lengths = np.full(batch, steps) if given.lengths is None else np.clip(given.lengths, 0, steps)
        y = np.zeros((steps, batch, units))
        for t in range(steps):
            time = np.where(t < lengths, lengths - 1 - t, t) if reverse else np.full(batch, t)
            new = self.step(gates[time, np.arange(batch)], states, r, bias, peepholes, activations)
            inside = (t < lengths)[:, None]
            states = [np.where(inside, after, before) for after, before in zip(new, states, strict=True)]
            y[time, np.arange(batch)] = np.where(inside, new[0], 0.0)
        return y, states

    @abstractmethod
    def step(
        self,
        gates: F64Array,
        states: list[F64Array],
        r: F64Array,
        bias: F64Array,
        peepholes: F64Array | None,
        activations: list[Callable[[F64Array], F64Array]],
    ) -> list[F64Array]:
        """The states after a step, the hidden one first. `gates` lack r times the hidden state, and the bias."""

    def sides(self) -> list[recurrence.Direction]:
        return [
            recurrence.Direction(d, reverse, self.formulas(d)) for d, reverse in enumerate(DIRECTIONS[self.direction])
        ]

    # ---- samples

    @classmethod
    def plain(cls, direction: str = "forward", **attributes: Any) -> Self:
        """The op with its default activations."""
        names = cls.default_activations * len(DIRECTIONS[direction])
        return cls(direction, tuple(activation(name) for name in names), **attributes)

    @classmethod
    def sample(
        cls, op: Recurrent, t: int, n: int, i: int, h: int, optional: str = "", lengths: Sequence[int] = (),
        *, make: Callable[..., TensorType] = f32, constants: bool = True,
    ) -> Case:  # fmt: skip
        """A case; `optional` names the inputs that are there: b, h, c, p."""
        d, rows = op.directions, op.gates * h
        shapes = {"b": (d, 2 * rows), "h": (d, n, h), "c": (d, n, h), "p": (d, 3 * h)}
        more: list[TensorType | Array | None] = [make(*shapes["b"]) if "b" in optional else None]
        more.append(np.array(lengths, np.int32) if len(lengths) else None)
        more += [make(*shapes[k]) if k in optional else None for k in "hcp"]
        inputs = (make(t, n, i), make(d, rows, i), make(d, rows, h), *more)[: cls.most_inputs]
        return Case(op, inputs, frozenset({1, 2, 3} if constants else ()), low=-0.7, high=0.7)

    @classmethod
    def cases(cls) -> Sequence[Case]:
        odd = {
            1: ("Affine",), 2: ("HardSigmoid", "ScaledTanh"), 3: ("HardSigmoid", "Softsign", "Elu"),
        }[len(cls.default_activations)]  # fmt: skip
        other = cls("reverse", tuple(activation(name) for name in odd), 0.3)
        every = "bhcp"
        return (
            cls.sample(cls.plain(), 5, 1, 3, 17, "b"),
            cls.sample(cls.plain("bidirectional"), 4, 3, 5, 33, every, (2, 4, 0)),
            cls.sample(cls.plain("reverse"), 3, 5, 1, 16, "h"),
            cls.sample(other, 3, 2, 4, 7, every, (3, 1)),
            cls.sample(cls.plain(), 2, 1, 3, 1),
            cls.sample(cls.plain("bidirectional"), 3, 2, 3, 5, every, (1, 3), make=f64),
            cls.sample(cls.plain(), 2, 7, 3, 70, "b"),
            cls.sample(cls.plain("bidirectional"), 3, 2, 3, 18, every, constants=False),
            cls.sample(cls.plain(), 0, 2, 3, 4, "bh"),
            cls.sample(cls.plain(), 2, 0, 3, 4, "b"),
        )


def _evaluated(formula: Formula) -> Callable[[F64Array], F64Array]:
    traced = formula(ex.Param(0, DType.F64))
    return lambda x: ex.evaluate(traced, [x]).astype(np.float64)


@dataclass(frozen=True)
class Lstm(Recurrent):
    """Gates i, o, f, c: Ct = ft Ct-1 + it ct, Ht = ot h(Ct). More inputs: initial_c?[D,N,H], p?[D,3*H] (for i, o, f).

    input_forget: ft is 1 - it. The third output is the last cell state.
    """

    input_forget: bool = False

    name = "lstm"
    gates, states, most_inputs = 4, 2, 8
    default_activations = ("Sigmoid", "Tanh", "Tanh")

    def step(self, gates, states, r, bias, peepholes, activations):  # type: ignore[no-untyped-def]
        h, c = states
        gate, candidate, shown = activations
        i, o, f, g = np.split(gates + h @ r.T + bias, 4, axis=1)
        pi, po, pf = np.zeros((3, h.shape[1])) if peepholes is None else peepholes
        i = gate(i + pi * c)
        f = 1.0 - i if self.input_forget else gate(f + pf * c)
        new = f * c + i * candidate(g)
        return [gate(o + po * new) * shown(new), new]

    def lower(self, ctx: Context) -> Lowered:
        return recurrence.lstm(ctx, self.sides(), input_forget=self.input_forget)

    @classmethod
    def cases(cls) -> Sequence[Case]:
        coupled = replace(cls.plain(), input_forget=True)
        return (*super().cases(), cls.sample(coupled, 3, 2, 3, 19, "bc"))


@dataclass(frozen=True)
class Gru(Recurrent):
    """Gates z, r, h: Ht = (1 - zt) ht + zt Ht-1, where ht is g(Wx + R(rt Ht-1) + biases).

    linear_before_reset: ht is g(Wx + Wb + rt (R Ht-1 + Rb)) instead, as in PyTorch. Projected, the bias is the Rb of
    ht [D,H] alone, and only with linear_before_reset.
    """

    linear_before_reset: bool = False

    name = "gru"
    gates = 3
    default_activations = ("Sigmoid", "Tanh")

    def bias_shape(self, directions: int, hidden: int) -> Shape:
        return (directions, hidden) if self.projected else super().bias_shape(directions, hidden)

    def step(self, gates, states, r, bias, peepholes, activations):  # type: ignore[no-untyped-def]
        (h,) = states
        gate, candidate = activations
        units = h.shape[1]
        update, reset = np.split(gate(gates[:, : 2 * units] + h @ r[: 2 * units].T + bias[: 2 * units]), 2, axis=1)
        own, r, bias = gates[:, 2 * units :], r[2 * units :].T, bias[2 * units :]
        if self.linear_before_reset:
            new = candidate(own + reset * (h @ r + bias))
        else:
            new = candidate(own + (reset * h) @ r + bias)
        return [(1.0 - update) * new + update * h]

    def lower(self, ctx: Context) -> Lowered:
        return recurrence.gru(ctx, self.sides(), linear_before_reset=self.linear_before_reset)

    @classmethod
    def cases(cls) -> Sequence[Case]:
        after, both = (replace(cls.plain(way), linear_before_reset=True) for way in ("forward", "bidirectional"))
        return (
            *super().cases(),
            cls.sample(after, 3, 2, 3, 19, "bh"),
            cls.sample(after, 3, 1, 3, 33),
            cls.sample(both, 4, 3, 5, 20, "bh", (4, 1, 2), constants=False),
        )


class Rnn(Recurrent):
    """Ht = f(Wx + R Ht-1 + biases)."""

    name = "rnn"
    gates = 1
    default_activations = ("Tanh",)

    def step(self, gates, states, r, bias, peepholes, activations):  # type: ignore[no-untyped-def]
        return [activations[0](gates + states[0] @ r.T + bias)]

    def lower(self, ctx: Context) -> Lowered:
        return recurrence.rnn(ctx, self.sides())
