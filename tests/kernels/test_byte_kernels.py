"""Convolutions, linear layers and matrix products of bytes: reference = loop interpreter = native code, to the bit."""

from __future__ import annotations

import numpy as np
import pytest
from executors import TARGETS, every_way, graph_of_cases

from glulam.compiler.graph.types import DType
from glulam.compiler.ops import Cast, Clip, Mul, Round
from glulam.compiler.ops.byte_lookup import ByteLookup
from glulam.compiler.ops.conv_integer import ConvInteger
from glulam.compiler.ops.linear_integer import LinearInteger
from glulam.compiler.ops.matmul_integer import MatMulWords, PackWords

OPS = (ConvInteger, LinearInteger, PackWords, MatMulWords, ByteLookup)


def as_it_is(graph, value):
    return value


def codes(graph, value):
    """What follows in a quantised network: a scale, rounding, and the next codes."""
    scaled = graph.apply(Mul(), graph.apply(Cast(DType.F32), value), graph.constant(np.float32(2e-4)))
    return graph.apply(Cast(DType.U8), graph.apply(Clip(0.0, 255.0), graph.apply(Round(), scaled)))


@pytest.mark.parametrize("behind", [as_it_is, codes], ids=["sums", "codes"])
@pytest.mark.parametrize("target", ["native", *TARGETS])
def test_cases(target, behind):
    graph, feeds = graph_of_cases([case for op in OPS for case in op.cases()], behind)
    every_way(graph, feeds, target, 0)
