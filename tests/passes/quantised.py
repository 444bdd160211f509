"""What stands around the layers of quantised networks, as the ops that importers make of it."""

from __future__ import annotations

import numpy as np

from glulam.compiler.graph.types import DType, f32
from glulam.compiler.ops import Add, Clip, Div, Mul, Round, Sub, ThroughInteger


def number(graph, value):
    return graph.constant(np.float32(value))


def codes(graph, dtype=DType.U8):
    return graph.apply(ThroughInteger(dtype), graph.apply(Mul(), graph.input("x", f32(2, 3, 6, 5)), number(graph, 100)))


def floats(graph, x, scale, zero):
    return graph.apply(Mul(), graph.apply(Sub(), x, number(graph, zero)), number(graph, scale))


def quantised(graph, x, scale, zero, dtype=DType.U8):
    whole = graph.apply(Add(), graph.apply(Round(), graph.apply(Div(), x, number(graph, scale))), number(graph, zero))
    limits = np.iinfo(dtype.numpy.name)
    return graph.apply(ThroughInteger(dtype), graph.apply(Clip(float(limits.min), float(limits.max)), whole))
