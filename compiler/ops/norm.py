"""Normalisations with statistics given (BatchNorm) or taken from each sample (LayerNorm)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from glulam.compiler.graph.op import Case, Op, Prefers, Trait
from glulam.compiler.graph.types import Array, TensorType, f32
from glulam.compiler.kernels import pointwise, rows
from glulam.compiler.kernels.context import Context, Lowered, Point
from glulam.compiler.kernels.operand import Operand
from glulam.compiler.loops import expr as ex
from glulam.compiler.loops.index import Bounded
from glulam.compiler.loops.ir import IndexValue
from glulam.compiler.ops.inputs import FLOATS, check_axis, check_shape, f64, optional, required, same_dtype, wide


@dataclass(frozen=True)
class BatchNorm(Op):
    """Per channel (x - mean) / sqrt(var + epsilon) * scale + bias: x[N,C,...]; scale, bias, mean, var, each [C]."""

    epsilon: float = 1e-5

    name = "batch_norm"
    traits = frozenset({Trait.PER_SAMPLE})

    def infer(self, *inputs: TensorType | None) -> tuple[TensorType, ...]:
        x, *statistics = required(self, inputs, 5)
        same_dtype(self, (x, *statistics), FLOATS)
        if x.rank < 2:
            raise self.fail(f"the input {x} has no channel axis")
        for what, type in zip(("scale", "bias", "mean", "var"), statistics, strict=True):
            check_shape(self, f"the {what}", type, (x.shape[1],))
        return (x,)

    def preference(self, inputs: Sequence[TensorType | None], outputs: Sequence[TensorType]) -> Prefers:
        return Prefers.EITHER

    def flops(self, inputs: Sequence[TensorType | None], outputs: Sequence[TensorType]) -> int:
        return 2 * outputs[0].size

    def lower(self, ctx: Context) -> Lowered:
        """One multiply-add per element if the statistics are known, else the definition."""
        x = ctx.operand(0)
        statistics = [ctx.data(i) for i in range(1, 5)]
        known = [wide(s) for s in statistics if s is not None]
        if len(known) < 4:
            return self._lower_unknown(ctx)
        scale, bias, mean, var = known
        with np.errstate(all="ignore"):
            factor = scale / np.sqrt(var + self.epsilon)
            shift = bias - mean * factor
        extents = (len(factor), *(1,) * (x.type.rank - 2))
        tables = [table.astype(x.type.dtype.numpy).reshape(extents) for table in (factor, shift)]
        operands = [Operand(TensorType.of(table), data=table) for table in tables]
        inner = Context(ctx.name, ctx.target, [x, *operands, None, None, *ctx.inputs[5:]], ctx.outputs, ctx.epilogue)
        element, a, b = (ex.Param(i, x.type.dtype) for i in range(3))
        return pointwise.build(inner, ex.Fma(element, a, b), (0, 1, 2))

    def _lower_unknown(self, ctx: Context) -> Lowered:
        shape, block = ctx.output.shape, ctx.output.layout.block
        buffers = []
        for i in range(1, 5):
            data = ctx.data(i)
            buffers.append(ctx.input_view(i).buffer if data is None else ctx.constant(data))

        def element(point: Point) -> None:
            place = point[1]
            if block > 1:
                # The lanes beyond the channels read the last channel; `write` clears them.
                place = Bounded(IndexValue(point[1] * block + point[-1]), shape[1])  # type: ignore[operator, arg-type]
            scale, bias, mean, var = (buffer[place] for buffer in buffers)
            value = (ctx.read(0, point, shape, block) - mean) * (scale / ex.sqrt(var + self.epsilon)) + bias
            ctx.write(point, ctx.finish(value, point))

        pointwise.each_element(ctx, element)
        return ctx.finished()

    def reference(self, *inputs: Array | None) -> tuple[Array, ...]:
        x, *statistics = required(self, inputs, 5)
        scale, bias, mean, var = (wide(s).reshape(-1, *(1,) * (x.ndim - 2)) for s in statistics)
        with np.errstate(all="ignore"):
            result = (wide(x) - mean) / np.sqrt(var + self.epsilon) * scale + bias
        return (result.astype(x.dtype),)

    @classmethod
    def cases(cls) -> Sequence[Case]:
        return (
            _batch_norm(f32(2, 3, 7, 13), cls()),
            _batch_norm(f32(1, 17, 3, 3), cls(1e-3)),
            _batch_norm(f32(3, 33), cls()),
            _batch_norm(f32(2, 1, 7), cls()),
            _batch_norm(f32(1, 3, 2, 3, 4), cls(0.1)),
            _batch_norm(f32(0, 3, 7), cls()),
            _batch_norm(f64(2, 3, 7), cls()),
        )


@dataclass(frozen=True)
class LayerNorm(Op):
    """x, scale?, bias?: (x - mean) / sqrt(var + epsilon) * scale + bias.

    Mean and (biased) variance are over the axes [axis, rank); scale and bias have the shape x.shape[axis:].
    """

    axis: int
    epsilon: float = 1e-5

    name = "layer_norm"
    traits = frozenset({Trait.BLIND})

    def infer(self, *inputs: TensorType | None) -> tuple[TensorType, ...]:
        (x,) = required(self, inputs, 1, 2)
        scale, bias = optional(inputs, 1), optional(inputs, 2)
        same_dtype(self, (x, scale, bias), FLOATS)
        check_axis(self, self.axis, x.rank)
        check_shape(self, "the scale", scale, x.shape[self.axis :])
        check_shape(self, "the bias", bias, x.shape[self.axis :])
        return (x,)

    def for_samples(self, count: int, inputs: Sequence[TensorType | None]) -> Op | None:
        return self if self.axis and not any(inputs[1:]) else None

    def flops(self, inputs: Sequence[TensorType | None], outputs: Sequence[TensorType]) -> int:
        return 7 * outputs[0].size

    def lower(self, ctx: Context) -> Lowered:
        return rows.layer_norm(ctx, self.axis, self.epsilon)

    def reference(self, *inputs: Array | None) -> tuple[Array, ...]:
        (x,) = required(self, inputs, 1, 2)
        scale, bias = optional(inputs, 1), optional(inputs, 2)
        if x.size == 0:
            return (x.copy(),)
        axes = tuple(range(self.axis, x.ndim))
        with np.errstate(all="ignore"):
            centred = wide(x) - wide(x).mean(axes, keepdims=True)
            result = centred / np.sqrt(np.square(centred).mean(axes, keepdims=True) + self.epsilon)
            if scale is not None:
                result = result * scale
            if bias is not None:
                result = result + bias
        return (result.astype(x.dtype),)

    @classmethod
    def cases(cls) -> Sequence[Case]:
        return (
            Case(cls(2), (f32(2, 7, 33), f32(33), f32(33)), constants=frozenset({1, 2})),
            Case(cls(1, 1e-6), (f32(2, 3, 7), f32(3, 7), f32(3, 7)), constants=frozenset({1, 2})),
            Case(cls(1), (f32(3, 16), f32(16), None), constants=frozenset({1})),
            Case(cls(1, 0.5), (f32(3, 13), None, None)),
            Case(cls(0), (f32(17), f32(17), f32(17)), constants=frozenset({1, 2})),
            Case(cls(3), (f32(1, 3, 7, 1), f32(1), f32(1)), constants=frozenset({1, 2})),
            Case(cls(1), (f32(0, 7), f32(7), f32(7)), constants=frozenset({1, 2})),
            Case(cls(1), (f64(3, 7), f64(7), f64(7))),
            Case(cls(1), (np.full((2, 5), 1e4, np.float32), None, None)),
        )


def _batch_norm(x: TensorType, op: BatchNorm) -> Case:
    rng = np.random.default_rng(7)
    channel = (x.shape[1],)
    scale, bias, mean = (rng.uniform(-2, 2, channel).astype(x.dtype.numpy) for _ in range(3))
    var = rng.uniform(0.1, 3, channel).astype(x.dtype.numpy)
    return Case(op, (x, scale, bias, mean, var), constants=frozenset({1, 2, 3, 4}))
