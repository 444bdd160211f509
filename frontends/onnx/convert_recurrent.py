"""ONNX LSTM, GRU and RNN."""

from __future__ import annotations

from typing import TypeVar

from glulam.compiler.graph.graph import Value
from glulam.compiler.ops.movement import Transpose
from glulam.compiler.ops.recurrent import ACTIVATIONS, DIRECTIONS, Activation, Gru, Lstm, Recurrent, Rnn, activation
from glulam.frontends.onnx.context import Context, Converter

R = TypeVar("R", bound=Recurrent)

_SPELT = {name.lower(): name for name in ACTIVATIONS}


def _activations(ctx: Context, op: type[Recurrent], direction: str) -> tuple[Activation, ...]:
    """Names without regard to case; alphas and betas are handed out in order to those activations that take them."""
    given = ctx.raw("activations")
    count = len(op.default_activations) * len(DIRECTIONS[direction])
    alphas, betas = list(ctx.numbers("activation_alpha")), list(ctx.numbers("activation_beta"))
    names = [n.decode("utf-8", "replace") if isinstance(n, bytes) else str(n) for n in given or ()]
    names = names or [*op.default_activations] * len(DIRECTIONS[direction])
    if len(names) != count:
        raise ctx.malformed(f"{len(names)} activations where {count} are needed")
    chosen = []
    for name in names:
        spelt = _SPELT.get(name.lower())
        if spelt is None:
            raise ctx.unsupported(f"activation {name}")
        alpha = alphas.pop(0) if alphas and ACTIVATIONS[spelt][3] else None
        beta = betas.pop(0) if betas and ACTIVATIONS[spelt][3] > 1 else None
        chosen.append(activation(spelt, alpha, beta))
    return tuple(chosen)


def _common(ctx: Context, op: type[R]) -> tuple[R, bool]:
    """The op with the attributes that all cells have, and whether the batch comes first."""
    direction = ctx.text("direction", "forward").lower()
    if direction not in DIRECTIONS:
        raise ctx.malformed(f"direction {direction!r}")
    ctx.integer("hidden_size", 0)  # the weights say it too
    ctx.ignore("output_sequence")
    clip = ctx.number("clip", 0.0)
    return op(direction, _activations(ctx, op, direction), clip), ctx.flag("layout")


def _apply(ctx: Context, op: Recurrent, batch_first: bool) -> tuple[Value, ...]:
    inputs: list[Value | None] = [ctx[0], ctx[1], ctx[2], *(ctx.optional(i) for i in range(3, op.most_inputs))]
    if not batch_first:
        return ctx.add(op, *inputs)
    for i in (0, 5, 6):
        value = ctx.optional(i)
        if value is not None and i < op.most_inputs:
            if len(value.shape) != 3:
                raise ctx.malformed(f"input {i} is {value.type}; it has three axes")
            inputs[i] = ctx.apply(Transpose((1, 0, 2)), value)
    y, *states = ctx.add(op, *inputs)
    return ctx.apply(Transpose((2, 0, 1, 3)), y), *(ctx.apply(Transpose((1, 0, 2)), state) for state in states)


def lstm(ctx: Context) -> tuple[Value, ...]:
    op, batch_first = _common(ctx, Lstm)
    return _apply(ctx, Lstm(op.direction, op.activations, op.clip, False, ctx.flag("input_forget")), batch_first)


def gru(ctx: Context) -> tuple[Value, ...]:
    op, batch_first = _common(ctx, Gru)
    after = ctx.flag("linear_before_reset")
    return _apply(ctx, Gru(op.direction, op.activations, op.clip, False, after), batch_first)


def rnn(ctx: Context) -> tuple[Value, ...]:
    return _apply(ctx, *_common(ctx, Rnn))


TABLE: dict[str, Converter] = {"LSTM": lstm, "GRU": gru, "RNN": rnn}
