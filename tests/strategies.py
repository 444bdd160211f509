"""A hypothesis strategy of legal graphs: what networks are made of, put together in ways that no network is.

A graph grows from one or two inputs. Each step picks a value that is there (the newest by preference, so that chains
are long) and a block of layers for it; a block that does not suit the value becomes a plain activation. All decisions
are drawn, all constants follow from a counter, so a failing graph shrinks to few and small layers.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from hypothesis import strategies as st

from glulam.compiler import ops
from glulam.compiler.errors import ShapeError
from glulam.compiler.graph.graph import Graph, Value
from glulam.compiler.graph.types import f32

CHANNELS = (1, 3, 4, 8, 16, 17, 24, 32, 33, 48)
EXTENTS = (1, 2, 3, 4, 5, 6, 7, 8, 9, 13)
_LARGEST = 40_000  # elements of a tensor


@st.composite
def graphs(draw: st.DrawFn, layers: int = 8) -> Graph:
    """A graph of float32 feature maps [N, C, H, W] (and a few plain matrices), with one to `layers` blocks."""
    net = _Net(draw)
    for _ in range(draw(st.integers(1, layers))):
        net.grow()
    net.give_out()
    return net.graph


def feeds_for(graph: Graph, seed: int = 0) -> dict[str, np.ndarray]:
    """Random inputs of moderate size."""
    rng = np.random.default_rng(seed)
    return {name: rng.standard_normal(v.shape).astype(np.float32) for name, v in graph.inputs.items()}


@dataclass
class _Net:
    draw: st.DrawFn
    graph: Graph = field(default_factory=lambda: Graph("random"))
    maps: list[Value] = field(default_factory=list)
    rest: list[Value] = field(default_factory=list)  # results of other ranks, which nothing reads any more

    def __post_init__(self) -> None:
        self.rng = np.random.default_rng(7)
        self.input()

    # ---- drawing

    def pick(self, choices: Any) -> Any:
        """One of the choices; a failing example shrinks to the first."""
        return self.draw(st.sampled_from(choices))

    def flip(self) -> bool:
        return self.draw(st.booleans())

    def value(self) -> Value:
        """A feature map, most likely one of the last."""
        return self.maps[-1 - min(self.draw(st.integers(0, 5)) // 2, len(self.maps) - 1)]

    def like(self, x: Value) -> list[Value]:
        """Feature maps of the same shape, the newest first, itself among them."""
        return [v for v in reversed(self.maps) if v.shape == x.shape]

    def weights(self, *shape: int) -> Value:
        fan_in = math.prod(shape[1:]) if len(shape) > 1 else 1
        data = self.rng.uniform(-1, 1, shape) * math.sqrt(2 / max(fan_in, 1))
        return self.graph.constant(data.astype(np.float32), f"k{len(shape)}")

    def positive(self, *shape: int) -> Value:
        return self.graph.constant(self.rng.uniform(0.5, 1.5, shape).astype(np.float32), "p")

    # ---- growing

    def input(self) -> Value:
        shape = (self.pick((1, 2, 3)), self.pick(CHANNELS), self.pick(EXTENTS), self.pick(EXTENTS))
        if self.maps and self.flip():
            shape = self.maps[0].shape
        self.maps.append(self.graph.input(f"in{len(self.graph.inputs)}", f32(*shape)))
        return self.maps[-1]

    def grow(self) -> None:
        block = self.pick(BLOCKS)
        x = self.value()
        try:
            result = block(self, x)
        except ShapeError:
            result = self.apply(ops.Relu(), x)
        if result is not None:
            (self.maps if result.type.rank == 4 else self.rest).append(result)

    def apply(self, op: ops.Op, *inputs: Value | None) -> Value:
        return self.graph.apply(op, *inputs)

    def give_out(self) -> None:
        """The outputs: what nothing reads, and perhaps some of the rest, an input, or one value twice."""
        users = self.graph.users()
        unread = [v for v in (*self.maps, *self.rest) if not users.get(v)]
        extra = [v for v in self.maps if v not in unread]
        count = self.draw(st.integers(0, 2)) if extra else 0
        outputs = unread + [self.pick(extra) for _ in range(count)]
        if self.draw(st.integers(0, 9)) == 9:
            outputs.append(outputs[-1])
        for i, value in enumerate(outputs):
            self.graph.output(f"out{i}", value)

    # ---- layers that blocks are made of

    def conv(
        self, x: Value, channels: int, kernel: int = 1, stride: int = 1, groups: int = 1, **geometry: Any
    ) -> Value:
        pads = geometry.get("pads", ((kernel // 2, kernel // 2),) * 2)
        dilations = geometry.get("dilations", (1, 1))
        op = ops.Conv((stride, stride), pads, dilations, groups)
        bias = self.weights(channels) if self.flip() else None
        return self.apply(op, x, self.weights(channels, x.shape[1] // groups, kernel, kernel), bias)

    def activated(self, x: Value) -> Value:
        return self.apply(self.pick(ACTIVATIONS), x)

    def mean(self, x: Value) -> Value:
        return self.apply(ops.Reduce("mean", (2, 3), True), x)


ACTIVATIONS = (
    ops.Relu(),
    ops.Sigmoid(),
    ops.Clip(0.0, 6.0),
    ops.HardSwish(),
    ops.LeakyRelu(0.1),
    ops.Silu(),
    ops.Tanh(),
    ops.Gelu(),
    ops.Neg(),
    ops.Abs(),
    ops.HardSigmoid(),
    ops.Elu(),
)


# ---- blocks: each takes the net and a feature map and gives a new value


def conv(net: _Net, x: Value) -> Value:
    return net.conv(x, net.pick(CHANNELS), net.pick((1, 3)))


def conv_activation(net: _Net, x: Value) -> Value:
    return net.activated(conv(net, x))


def odd_conv(net: _Net, x: Value) -> Value:
    pad = st.integers(0, 3)
    pads = tuple((net.draw(pad), net.draw(pad)) for _ in range(2))
    dilations = (net.pick((1, 2)), net.pick((1, 2)))
    return net.conv(x, net.pick(CHANNELS), net.pick((2, 3, 5)), net.pick((1, 2, 3)), pads=pads, dilations=dilations)


def strided_pointwise(net: _Net, x: Value) -> Value:
    return net.conv(x, net.pick(CHANNELS), 1, 2)


def depthwise(net: _Net, x: Value) -> Value:
    channels = x.shape[1]
    return net.activated(net.conv(x, channels * net.pick((1, 1, 2)), net.pick((3, 5)), net.pick((1, 2)), channels))


def grouped_conv(net: _Net, x: Value) -> Value:
    groups = next(g for g in (4, 3, 2, 1) if x.shape[1] % g == 0)
    return net.conv(x, groups * net.pick((1, 3, 4, 8, 16)), net.pick((1, 3)), 1, groups)


def transposed_conv(net: _Net, x: Value) -> Value:
    stride, kernel = net.pick((1, 2)), net.pick((2, 3))
    op = ops.ConvTranspose((stride, stride), ((net.pick((0, 1)), 0), (0, 0)), (1, 1), (net.pick((0, 1)), 0), 1)
    return net.apply(op, x, net.weights(x.shape[1], net.pick(CHANNELS), kernel, kernel), None)


def batch_norm(net: _Net, x: Value) -> Value:
    c = x.shape[1]
    return net.apply(ops.BatchNorm(), x, net.weights(c), net.weights(c), net.weights(c), net.positive(c))


def conv_norm(net: _Net, x: Value) -> Value:
    return net.activated(batch_norm(net, net.conv(x, net.pick(CHANNELS), net.pick((3, 1)))))


def norm_conv(net: _Net, x: Value) -> Value:
    return net.conv(net.apply(ops.Relu(), batch_norm(net, x)), net.pick(CHANNELS), net.pick((3, 1)))


def activation(net: _Net, x: Value) -> Value:
    return net.activated(x)


def binary(net: _Net, x: Value) -> Value:
    op = net.pick((ops.Add(), ops.Mul(), ops.Sub(), ops.Maximum()))
    pair = (x, net.pick(net.like(x)))
    return net.apply(op, *(pair if net.flip() else pair[::-1]))


def with_constant(net: _Net, x: Value) -> Value:
    _, c, h, w = x.shape
    shape = net.pick(((), (c, 1, 1), (1, c, 1, 1), x.shape, (1, 1, h, w), (w,), (c, h, w)))
    op = net.pick((ops.Add(), ops.Mul(), ops.Sub(), ops.Minimum()))
    pair = (x, net.weights(*shape))
    return net.apply(op, *(pair if net.flip() else pair[::-1]))


def with_input(net: _Net, x: Value) -> Value:
    """An operand that comes at run time, of a shape that broadcasts."""
    n, c, h, w = x.shape
    if len(net.graph.inputs) > 3:
        return net.activated(x)
    shapes = ((c, 1, 1), (1, 1, w), (h, w), (w,), (n, c, 1, 1), (1, c, h, w), (n, 1, h, w), (c, h, 1), (h, 1), ())
    other = net.graph.input(f"in{len(net.graph.inputs)}", f32(*net.pick(shapes)))
    pair = (net.conv(x, c, net.pick((1, 3))) if net.flip() else x, other)
    return net.apply(net.pick((ops.Add(), ops.Mul(), ops.Sub())), *(pair if net.flip() else pair[::-1]))


def residual(net: _Net, x: Value) -> Value:
    y = net.conv(net.activated(net.conv(x, net.pick(CHANNELS), 1)), x.shape[1], 3)
    total = net.apply(ops.Add(), *((x, y) if net.flip() else (y, x)))
    return net.apply(ops.Relu(), total) if net.flip() else total


def gate(net: _Net, x: Value) -> Value:
    return net.apply(ops.Mul(), x, net.apply(ops.Sigmoid(), x))


def squeeze_excite(net: _Net, x: Value) -> Value:
    inner = net.apply(ops.Relu(), net.conv(net.mean(x), net.pick((4, 8, 17))))
    scale = net.apply(net.pick((ops.Sigmoid(), ops.HardSigmoid())), net.conv(inner, x.shape[1]))
    return net.apply(ops.Mul(), x, scale)


def spatial_gate(net: _Net, x: Value) -> Value:
    return net.apply(ops.Mul(), x, net.apply(ops.Sigmoid(), net.conv(x, 1, 3)))


def joinable(net: _Net, x: Value) -> list[Value]:
    return [v for v in reversed(net.maps) if (v.shape[0], v.shape[2:]) == (x.shape[0], x.shape[2:])]


def concat(net: _Net, x: Value) -> Value:
    count = net.draw(st.integers(1, 3))
    return net.apply(ops.Concat(1), x, *(net.pick(joinable(net, x)) for _ in range(count)))


def concat_elsewhere(net: _Net, x: Value) -> Value:
    return net.apply(ops.Concat(net.pick((0, 2, 3))), x, net.pick(net.like(x)))


def inception(net: _Net, x: Value) -> Value:
    branches = [net.activated(net.conv(x, net.pick(CHANNELS), net.pick((1, 3)))) for _ in range(net.pick((2, 3)))]
    pool = net.pick((ops.AveragePool, ops.MaxPool))((3, 3), (1, 1), ((1, 1), (1, 1)), (1, 1))
    branches.append(net.apply(pool, x))
    return net.apply(ops.Concat(1), *branches)


def dense(net: _Net, x: Value) -> Value:
    growth = net.pick((16, 4, 8, 17))
    for _ in range(net.draw(st.integers(1, 3))):
        x = net.apply(ops.Concat(1), x, net.activated(net.conv(x, growth, net.pick((3, 1)))))
    return x


def split(net: _Net, x: Value) -> Value:
    channels = x.shape[1]
    cut = net.pick([c for c in (16, 4, 8, channels // 2, 1) if 0 < c < channels] or [channels])
    sizes = (cut, channels - cut) if cut < channels else (cut,)
    parts = list(net.graph.add(ops.Split(1, sizes), x))
    net.maps += parts
    if net.flip():
        parts[0] = net.activated(parts[0])
    if net.flip():
        parts[-1] = net.conv(parts[-1], parts[-1].shape[1], 3)
    order = parts if net.flip() else parts[::-1]
    return net.apply(ops.Concat(1), *order) if net.flip() else order[0]


def split_sum(net: _Net, x: Value) -> Value:
    half = x.shape[1] // 2
    if not half:
        return net.activated(x)
    one, two, *_ = net.graph.add(ops.Split(1, (half, half, x.shape[1] - 2 * half)), x)
    return net.apply(ops.Mul(), one, net.apply(ops.Sigmoid(), two))


def shuffle(net: _Net, x: Value) -> Value:
    n, c, h, w = x.shape
    groups = next(g for g in (2, 3, 4, 1) if c % g == 0)
    y = net.apply(ops.Reshape((n, groups, c // groups, h, w)), x)
    return net.apply(ops.Reshape(x.shape), net.apply(ops.Transpose((0, 2, 1, 3, 4)), y))


def pool(net: _Net, x: Value) -> Value:
    kernel = (net.pick((2, 3, 1, 5)), net.pick((2, 3, 1)))
    strides = (net.pick((2, 1, 3)), net.pick((2, 1)))
    pads = tuple((net.draw(st.integers(0, k - 1)), net.draw(st.integers(0, k - 1))) for k in kernel)
    ceil = net.flip()
    if net.flip():
        return net.apply(ops.MaxPool(kernel, strides, pads, (1, 1), ceil), x)
    return net.apply(ops.AveragePool(kernel, strides, pads, (1, 1), ceil, net.flip()), x)


def conv_pool(net: _Net, x: Value) -> Value:
    return pool(net, net.activated(net.conv(x, net.pick(CHANNELS), 3, net.pick((1, 2)))))


def global_pool(net: _Net, x: Value) -> Value:
    y = net.apply(ops.Reduce(net.pick(("mean", "max")), (2, 3), True), x)
    return net.activated(y) if net.flip() else y


def head(net: _Net, x: Value) -> Value:
    flat = net.apply(ops.Reshape((x.shape[0], math.prod(x.shape[1:]))), net.mean(x) if net.flip() else x)
    y = net.apply(ops.Linear(), flat, net.weights(10, flat.shape[1]), net.weights(10))
    return net.apply(ops.Softmax(1), y) if net.flip() else y


def upsample(net: _Net, x: Value) -> Value:
    n, c, h, w = x.shape
    mode = net.pick(("nearest", "linear"))
    return net.apply(ops.Resize((n, c, 2 * h, 2 * w), (1.0, 1.0, 2.0, 2.0), mode, "asymmetric", "floor"), x)


def upsample_add(net: _Net, x: Value) -> Value:
    down = net.activated(net.conv(x, x.shape[1], 3, 2))
    scales = (1.0, 1.0, x.shape[2] / down.shape[2], x.shape[3] / down.shape[3])
    up = net.apply(ops.Resize(x.shape, scales, net.pick(("nearest", "linear"))), down)
    return net.apply(ops.Add(), x, up)


def upsample_concat(net: _Net, x: Value) -> Value:
    down = net.activated(net.conv(x, net.pick(CHANNELS), 3, 2))
    scales = (1.0, 1.0, x.shape[2] / down.shape[2], x.shape[3] / down.shape[3])
    up = net.apply(ops.Resize((*down.shape[:2], *x.shape[2:]), scales), down)
    return net.apply(ops.Concat(1), up, x)


def pad(net: _Net, x: Value) -> Value:
    side = st.integers(0, 2)
    spatial = ((net.draw(side), net.draw(side)), (net.draw(side), net.draw(side)))
    value = net.pick((0.0, 1.5))
    return net.apply(ops.Pad(((0, 0), (0, net.pick((0, 3))), *spatial), net.pick(("constant", "edge")), value), x)


def pad_conv(net: _Net, x: Value) -> Value:
    padded = net.apply(ops.Pad(((0, 0), (0, 0), (1, 1), (0, 2))), x)
    return net.conv(padded, net.pick(CHANNELS), 3, net.pick((1, 2)), pads=((0, 0), (0, net.pick((0, 1)))))


def crop(net: _Net, x: Value) -> Value:
    starts, steps, sizes = [0], [1], [x.shape[0]]
    for extent in x.shape[1:]:
        start = net.draw(st.integers(0, min(extent - 1, 17)))
        starts.append(start)
        steps.append(net.pick((1, 1, 2)))
        sizes.append(-(-(extent - start) // steps[-1]))
    return net.apply(ops.Slice(tuple(starts), tuple(steps), tuple(sizes)), x)


def channel_slice(net: _Net, x: Value) -> Value:
    start = min(net.pick((0, 16, 1, 8)), x.shape[1] - 1)
    size = net.draw(st.integers(1, x.shape[1] - start))
    return net.apply(ops.Slice((0, start, 0, 0), (1, 1, 1, 1), (x.shape[0], size, *x.shape[2:])), x)


def transposed(net: _Net, x: Value) -> Value:
    y = net.apply(ops.Transpose((0, 2, 3, 1)), x)
    if net.flip():
        y = net.apply(ops.LayerNorm(3), y, net.positive(x.shape[1]), net.weights(x.shape[1]))
    return net.apply(ops.Transpose((0, 3, 1, 2)), y) if net.flip() else y


def reshaped(net: _Net, x: Value) -> Value:
    n, c, h, w = x.shape
    y = net.apply(ops.Reshape((n, c, h * w)), x)
    y = net.pick((lambda v: v, net.activated, lambda v: net.apply(ops.Softmax(2), v)))(y)
    return net.apply(ops.Reshape((n, c, w, h)), y)


def softmax(net: _Net, x: Value) -> Value:
    return net.apply(net.pick((ops.Softmax, ops.LogSoftmax))(net.pick((1, 2, 3))), x)


def reduced(net: _Net, x: Value) -> Value:
    kind = net.pick(("sum", "max", "mean", "min"))
    y = net.apply(ops.Reduce(kind, net.pick(((1,), (2,), (3,), (1, 2, 3), (0,))), True), x)
    return net.apply(ops.Sub(), x, y) if net.flip() else y


def pyramid(net: _Net, x: Value) -> Value:
    """Readers of one tensor that reach differently far beyond its edges, as DeepLab has them."""
    x = net.activated(net.conv(x, net.pick(CHANNELS))) if net.flip() else x
    branches = []
    for _ in range(net.pick((2, 3))):
        kernel, rate = net.pick((3, 1, 5)), net.pick((1, 2, 6, 12))
        reach = rate * (kernel // 2)
        branches.append(net.conv(x, net.pick(CHANNELS), kernel, pads=((reach, reach),) * 2, dilations=(rate, rate)))
    if net.flip():
        branches.append(net.apply(ops.MaxPool((3, 3), (1, 1), ((1, 1), (1, 1)), (1, 1)), x))
    return net.apply(ops.Concat(1), *branches)


def given_at_run_time(net: _Net, x: Value) -> Value:
    """A convolution whose weights or bias are inputs, and a pool or an activation behind it."""
    if len(net.graph.inputs) > 3:
        return net.activated(x)
    (channels, groups), kernel = net.pick(((net.pick(CHANNELS), 1), (x.shape[1], x.shape[1]))), net.pick((1, 3))
    parameters = [net.weights(channels, x.shape[1] // groups, kernel, kernel), net.weights(channels)]
    for i in net.pick(((1,), (0,), (0, 1))):
        name = f"in{len(net.graph.inputs)}"
        parameters[i] = net.graph.input(name, parameters[i].type)
    y = net.apply(ops.Conv((1, 1), ((kernel // 2, kernel // 2),) * 2, (1, 1), groups), x, *parameters)
    return pool(net, y) if net.flip() else net.activated(y)


def wide_steps(net: _Net, x: Value) -> Value:
    """What first layers look like, wherever it stands."""
    kernel, stride = net.pick(((7, 2), (5, 2), (11, 4), (3, 2)))
    few = net.conv(x, net.pick((3, 1, 4)), 1) if net.flip() else x
    return net.conv(few, net.pick((16, 32, 17)), kernel, stride)


def twins(net: _Net, x: Value) -> Value:
    """The same layer twice, with the same weights."""
    weight = net.weights(16, x.shape[1], 3, 3)
    op = ops.Conv((1, 1), ((1, 1), (1, 1)), (1, 1), 1)
    one, two = net.apply(op, x, weight, None), net.apply(op, x, weight, None)
    return net.apply(ops.Add(), net.activated(one), two)


def nothing(net: _Net, x: Value) -> Value:
    return net.apply(net.pick((ops.Identity(), ops.Dropout(), ops.Reshape(x.shape))), x)


def another_input(net: _Net, x: Value) -> None:
    if len(net.graph.inputs) < 3:
        net.input()


def keep_small(block: Any) -> Any:
    """The block, or an activation where its result would be large."""

    def bounded(net: _Net, x: Value) -> Value | None:
        if x.type.size > _LARGEST:
            return net.apply(ops.MaxPool((3, 3), (3, 3), ((0, 0), (0, 0)), (1, 1), True), x)
        return block(net, x)

    return bounded


BLOCKS = tuple(
    keep_small(block)
    for block in (
        activation, conv, conv_activation, odd_conv, strided_pointwise, depthwise, grouped_conv, transposed_conv,
        batch_norm, conv_norm, norm_conv, binary, with_constant, with_input, residual, gate, squeeze_excite,
        spatial_gate, concat, concat_elsewhere, inception, dense, split, split_sum, shuffle, pool, conv_pool,
        global_pool, head, upsample, upsample_add, upsample_concat, pad, pad_conv, crop, channel_slice, transposed,
        reshaped, softmax, reduced, pyramid, given_at_run_time, wide_steps, twins, nothing, another_input,
    )
)  # fmt: skip
