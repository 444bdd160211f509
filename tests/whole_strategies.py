"""A hypothesis strategy of graphs on whole numbers, of several types and ranks, whose results are exact.

What quantised networks are made of, put together in ways that no network is: bytes that become floats and bytes again,
layers of small whole weights on either side of a bias, and what moves numbers in between. Numbers are cut to 255 before
they are multiplied, and stay below what float32 has all whole numbers of.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from hypothesis import strategies as st

from glulam.compiler import ops
from glulam.compiler.errors import ShapeError
from glulam.compiler.graph.evaluate import evaluate
from glulam.compiler.graph.graph import Graph, Value
from glulam.compiler.graph.types import Array, DType, TensorType

SHAPES = ((1, 8, 9, 9), (2, 16, 5, 8), (1, 32, 6, 6), (3, 24), (1, 40), (2, 5, 16), (8,), (1, 3, 7, 12), (1, 16, 1, 1))
_DEEPEST = 288  # products of a sum: 255 * 128 * 288 is below 2**24
_MOST = 1 << 22
_LARGEST = 30_000  # elements of a tensor


@st.composite
def whole_graphs(draw: st.DrawFn, layers: int = 7) -> Graph:
    """A graph with one to `layers` blocks, whose unread values are its outputs."""
    net = _Net(draw)
    for _ in range(draw(st.integers(1, layers))):
        net.grow()
    users = net.graph.users()
    for number, value in enumerate(value for value in net.values if value.producer is not None):
        if not users.get(value) or draw(st.integers(0, 9)) == 9:
            net.graph.output(f"out{number}", value)
    if not net.graph.outputs:
        net.graph.output("out", net.graph.apply(ops.Cast(DType.I32), net.values[0]))
    return net.graph


def whole_feeds(graph: Graph, seed: int) -> dict[str, Array]:
    """Random bytes."""
    rng = np.random.default_rng(seed)
    limits = {name: np.iinfo(value.type.dtype.numpy.name) for name, value in graph.inputs.items()}
    return {
        name: rng.integers(limits[name].min, limits[name].max + 1, value.shape).astype(value.type.dtype.numpy)
        for name, value in graph.inputs.items()
    }


def stays_exact(graph: Graph, feeds: dict[str, Array]) -> bool:
    """Whether no float on the way is too large to be followed by the next whole number."""
    every = graph.copy()
    for number, value in enumerate(list(every.values())):
        if value.type.dtype.is_float and not value.is_constant:
            every.output(f"float{number}", value)
    found = evaluate(every, feeds)
    return all(np.abs(array).max(initial=0) < _MOST for array in found.values() if array.dtype.kind == "f")


class _Net:
    def __init__(self, draw: st.DrawFn) -> None:
        self.draw = draw
        self.graph = Graph("whole")
        self.rng = np.random.default_rng(11)
        self.floats = self.pick((DType.F32, DType.F32, DType.F64))
        self.values: list[Value] = []
        self.input()

    def pick(self, choices: Any) -> Any:
        return self.draw(st.sampled_from(choices))

    def flip(self) -> bool:
        return self.draw(st.booleans())

    def input(self) -> None:
        type_ = TensorType(self.pick((DType.U8, DType.I8)), self.pick(SHAPES))
        self.values.append(self.graph.input(f"in{len(self.graph.inputs)}", type_))

    def grow(self) -> None:
        x = self.values[-1 - min(self.draw(st.integers(0, 5)) // 2, len(self.values) - 1)]
        try:
            result = self.pick(BLOCKS)(self, x)
        except ShapeError:
            result = None
        if result is not None and result.type.rank and 0 < result.type.size <= _LARGEST:
            self.values.append(result)

    def apply(self, op: ops.Op, *inputs: Value | None) -> Value:
        return self.graph.apply(op, *inputs)

    def numbers(self, dtype: DType, *shape: int, most: int = 127) -> Value:
        return self.graph.constant(self.rng.integers(-most, most + 1, shape).astype(dtype.numpy), "k")

    def float(self, x: Value) -> Value:
        return x if x.type.dtype.is_float else self.apply(ops.Cast(self.floats), x)

    def codes(self, x: Value) -> Value:
        """Floats that are whole numbers from -128 to 255."""
        return x if not x.type.dtype.is_float and x.type.dtype.size == 1 else self.apply(ops.Clip(-128.0, 255.0), x)


def convolution(net: _Net, x: Value) -> Value | None:
    rank = x.type.rank - 2
    if rank < 1:
        return None
    x, groups, taps = net.float(net.codes(x)), net.pick((1, 1, 1, x.shape[1])), net.pick((1, 3))
    outs = groups * net.pick((1, 2)) if groups > 1 else net.pick((1, 5, 16, 33))
    if x.shape[1] // groups * taps**rank > _DEEPEST:
        return None
    op = ops.Conv((net.pick((1, 1, 2)),) * rank, ((taps // 2,) * 2,) * rank, (1,) * rank, groups)
    bias = net.numbers(x.type.dtype, outs, most=999) if net.flip() else None
    return net.apply(op, x, net.numbers(x.type.dtype, outs, x.shape[1] // groups, *(taps,) * rank), bias)


def product(net: _Net, x: Value) -> Value:
    x, columns = net.codes(x), net.pick((1, 4, 17, 64))
    if net.flip():
        x = net.float(x)
    total = net.apply(ops.MatMul(), x, net.numbers(x.type.dtype, x.shape[-1], columns, most=net.pick((3, 127))))
    if net.flip():
        return total
    bias = net.numbers(x.type.dtype, *net.pick(((), (columns,), (1,) * (total.type.rank - 1) + (columns,))), most=99)
    return net.apply(ops.Add(), *((total, bias) if net.flip() else (bias, total)))


def with_constant(net: _Net, x: Value) -> Value:
    x = net.float(x)
    shapes = ((), x.shape[-1:], (1,) * x.type.rank, (x.shape[1], *(1,) * (x.type.rank - 2)) if x.type.rank > 2 else ())
    pair = x, net.numbers(x.type.dtype, *net.pick(shapes), most=3)
    return net.apply(net.pick((ops.Add(), ops.Sub(), ops.Mul())), *(pair if net.flip() else pair[::-1]))


def with_another(net: _Net, x: Value) -> Value:
    other = net.pick([value for value in reversed(net.values) if value.type == x.type])
    choice = (ops.Add(), ops.Sub(), ops.Maximum()) if x.type.dtype.is_float else (ops.Maximum(), ops.Minimum())
    return net.apply(net.pick(choice), x, other)


def quantised(net: _Net, x: Value) -> Value:
    x = net.float(x)
    low, high, dtype = net.pick(
        ((0, 255, DType.U8), (-128, 127, DType.I8), (0, 127, DType.U8), (-999, 999, DType.I16), (-999, 999, DType.I32))
    )
    if net.flip():  # powers of two, so that nothing is rounded but to whole numbers
        x = net.apply(ops.Mul(), x, net.graph.constant(np.asarray(net.pick((0.25, 1 / 64)), x.type.dtype.numpy)))
        x = net.apply(net.pick((ops.Round(), ops.Floor())), x)
    x = net.apply(ops.Clip(float(low), float(high)), x)
    return net.apply(ops.Cast(dtype), x) if net.flip() else x


def activation(net: _Net, x: Value) -> Value:
    return net.apply(net.pick((ops.Clip(-20.0, 90.0), ops.Clip(0.0, 100.0), ops.Abs(), ops.Relu(), ops.Neg())), x)


def pool(net: _Net, x: Value) -> Value:
    rank = x.type.rank - 2
    return net.apply(ops.MaxPool((3,) * rank, (net.pick((1, 2)),) * rank, ((1, 1),) * rank, (1,) * rank), x)


def transposed(net: _Net, x: Value) -> Value:
    return net.apply(ops.Transpose(tuple(net.draw(st.permutations(range(x.type.rank))))), x)


def reshaped(net: _Net, x: Value) -> Value:
    size, shape = x.type.size, x.shape
    return net.apply(ops.Reshape(net.pick(((size,), (1, size), (size // shape[-1], shape[-1]), (1, *shape)))), x)


def sliced(net: _Net, x: Value) -> Value | None:
    axis = net.draw(st.integers(0, x.type.rank - 1))
    if x.shape[axis] < 2:
        return None
    first, step = net.pick((0, 1)), net.pick((1, 1, 2))
    starts, steps, sizes = [0] * x.type.rank, [1] * x.type.rank, list(x.shape)
    starts[axis], steps[axis], sizes[axis] = first, step, math.ceil((x.shape[axis] - first) / step)
    return net.apply(ops.Slice(tuple(starts), tuple(steps), tuple(sizes)), x)


def joined(net: _Net, x: Value) -> Value:
    return net.apply(ops.Concat(net.draw(st.integers(0, x.type.rank - 1))), x, x)


def reduced(net: _Net, x: Value) -> Value:
    kinds = ("sum", "max", "min") if x.type.dtype.is_float else ("max", "min")
    return net.apply(ops.Reduce(net.pick(kinds), (x.type.rank - 1,), net.flip()), x)


def read_again(net: _Net, x: Value) -> None:
    """A second input, for what takes two."""
    if len(net.graph.inputs) < 2:
        net.input()


BLOCKS = (
    *(convolution, convolution, product, product, with_constant, with_another, quantised, quantised, quantised),
    *(activation, pool, transposed, reshaped, sliced, joined, reduced, read_again),
)
