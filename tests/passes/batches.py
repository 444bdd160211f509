"""A network whose layers have few or many weights for their tensors."""

import numpy as np

from glulam.compiler.graph.graph import Graph
from glulam.compiler.graph.types import TensorType
from glulam.compiler.ops import Add, Conv, MaxPool, Reduce, Relu


def residual(batch, channels=8, side=12):
    """Two convolutions with a shortcut, a pool, a convolution with many weights, and a global pool."""
    rng = np.random.default_rng(0)
    graph = Graph("net")
    x = graph.input("x", TensorType.of(np.zeros((batch, channels, side, side), np.float32)))

    def conv(value, outs, kernel, name):
        weights = rng.standard_normal((outs, value.shape[1], kernel, kernel), dtype=np.float32) / 8
        pad = kernel // 2
        op = Conv(strides=(1, 1), pads=((pad, pad), (pad, pad)), dilations=(1, 1))
        return graph.apply(op, value, graph.constant(weights, f"{name}.w"), None, name=name)

    a = graph.apply(Relu(), conv(x, channels, 3, "a"))
    b = graph.apply(Relu(), graph.apply(Add(), conv(a, channels, 3, "b"), a))
    c = graph.apply(MaxPool((3, 3), (2, 2), ((1, 1), (1, 1)), (1, 1)), b)
    d = conv(c, 48, 3, "d")
    graph.output("pooled", graph.apply(Reduce("mean", (2, 3), keepdims=False), d))
    graph.output("early", b)
    return graph, {"x": rng.standard_normal(x.shape, dtype=np.float32)}
