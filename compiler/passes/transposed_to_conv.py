"""A transposed convolution becomes a convolution to the pixels of a stride, and a shuffle of pixels.

Output pixel i * stride + a is channel a of pixel i of a convolution with the taps that meet it (W. Shi et al.: Is the
deconvolution layer the same as a convolutional layer?, 2016), so the channels are as many times more as a stride has
pixels. Few channels, or few of each group, then fill channel blocks, and Winograd's algorithm may serve. With strides
of 1 it is a convolution by itself, with the taps in reverse order.

Taps that a phase lacks are zeros, which an infinite input makes NaN also where the definition does not meet it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import partial

import numpy as np

from glulam.compiler.graph.deferred import Deferred
from glulam.compiler.graph.graph import Graph, Node, Value
from glulam.compiler.graph.patch import Patch
from glulam.compiler.graph.types import Array, DType, TensorType
from glulam.compiler.graph.uses import Uses
from glulam.compiler.kernels.conv_geometry import Indices
from glulam.compiler.kernels.conv_transpose import convolution_weights
from glulam.compiler.kernels.rates import COPY_RATE
from glulam.compiler.ops import Conv, ConvTranspose, Gather, Pad, Reshape, Slice, Transpose
from glulam.compiler.ops.movement import MOST_LANES, DepthToSpace
from glulam.compiler.passes.algorithms import candidates
from glulam.compiler.passes.manager import Decision, NodePass
from glulam.compiler.targets import Target


@dataclass(frozen=True)
class _Line:
    """One dimension: `pixels` pixels of the convolution, with the taps that all phases of a stride need together."""

    stride: int
    dilation: int
    pixels: int
    pads: tuple[int, int]
    taps: Indices
    """[stride, taps]: which tap of the transposed convolution a pixel of a stride has there; past the last if none."""

    @classmethod
    def of(cls, kernel: int, stride: int, dilation: int, before: int, inputs: int, outputs: int) -> _Line:
        """Stride or dilation is 1."""
        low, high = -((stride - 1 + before) // stride), (dilation * (kernel - 1) - before) // stride
        pixels = -(-outputs // stride)
        taps = (np.arange(stride)[:, None] + before + stride * np.arange(high, low - 1, -dilation)) // dilation
        met = (taps >= 0) & (taps < kernel)
        return cls(stride, dilation, pixels, (high, pixels - low - inputs), np.where(met, taps, kernel))


@dataclass(frozen=True)
class TransposedToConv(NodePass):
    """Where strides are 1, or the estimated cycles of the convolution and the shuffle are fewer.

    With `strict` no zeros are added to taps, nor is an algorithm counted on that adds up others than the definition.
    """

    target: Target
    strict: bool = False

    name = "transposed_to_conv"

    def visit(self, graph: Graph, uses: Uses, node: Node) -> Patch | Decision | None:
        op = node.op
        if type(op) is not ConvTranspose:
            return None
        if (refused := _refuses(node)) is not None:
            return Decision(node.name, False, refused)
        x, weights = node.operand(0), node.operand(1)
        moves = zip(weights.shape[2:], op.strides, op.dilations, (before for before, _ in op.pads), strict=True)
        extents = zip(x.shape[2:], node.output.shape[2:], strict=True)
        lines = [_Line.of(*move, *extent) for move, extent in zip(moves, extents, strict=True)]
        if any(pad < 0 for line in lines for pad in line.pads):
            return Decision(node.name, False, f"the pads {op.pads} cut off inputs")
        taps = zip(lines, weights.shape[2:], strict=True)
        if self.strict and any((line.taps == kernel).any() for line, kernel in taps):
            return Decision(node.name, False, "taps that a phase lacks are zeros, which infinite inputs would meet")
        patch = Patch(graph, "the strides are 1", at=node.name)
        in_blocks = op.groups == 1 and node.output.shape[1] % MOST_LANES == 0
        conv = _convolution(patch, node, lines, in_blocks)
        if set(op.strides) == {1}:
            patch.replace(node.output, conv.output)
            return patch
        if weights.is_constant:
            costs = self.costs(node, conv)
            patch.reason = f"as convolution and shuffle {costs[1]:.0f}k cycles, by itself {costs[0]:.0f}k"
            if costs[1] >= costs[0]:
                return Decision(node.name, False, patch.reason)
        else:
            patch.reason = "its weights are computed, which only convolutions have fast kernels for"
        if in_blocks:
            shuffle = DepthToSpace(op.strides, node.output.shape[2:])
            patch.replace(node.output, patch.apply(shuffle, conv.output, name=node.name))
        else:
            _shuffled(patch, node, lines, conv.output)
        return patch

    def costs(self, node: Node, conv: Node) -> tuple[float, float]:
        """Thousands of cycles of the transposed convolution, and of the convolution with the shuffle."""
        alone, phases = (min(c.cycles for c in candidates(self.target, n, self.strict)[0]) for n in (node, conv))
        return alone / 1e3, (phases + 2 * node.output.type.nbytes / COPY_RATE) / 1e3


def _refuses(node: Node) -> str | None:
    """Why the convolution stays as it is, None if it might not."""
    op, x, bias = node.op, node.operand(0), node.inputs[2:]
    assert isinstance(op, ConvTranspose)
    if x.type.dtype is not DType.F32 or any(v is not None and not v.is_constant for v in bias):
        return "the weights are not float32, or the bias is computed"
    if any(stride > 1 and dilation > 1 for stride, dilation in zip(op.strides, op.dilations, strict=True)):
        return "dilation with strides"
    return "nothing to compute" if 0 in node.output.shape or 0 in x.shape else None


def _convolution(patch: Patch, node: Node, lines: list[_Line], phases_first: bool) -> Node:
    """The convolution from [N, C, *S] to [N, OC * strides, *pixels], or to [N, strides * OC, *pixels]."""
    x, weights, bias = node.operand(0), node.operand(1), node.inputs[2:]
    op, strides = node.op, math.prod(line.stride for line in lines)
    assert isinstance(op, ConvTranspose)
    shape = (node.output.shape[1] * strides, x.shape[1] // op.groups, *(line.taps.shape[1] for line in lines))
    if weights.is_constant:
        packed = Deferred(TensorType(DType.F32, shape), partial(_weights, weights, op.groups, lines, phases_first))
        parameters = [patch.constant(packed, f"{weights.name}_of_phases")]
    else:
        parameters = [patch.apply(Reshape(shape), _computed_weights(patch, weights, op.groups, lines, phases_first))]
    if bias and bias[0] is not None:
        assert bias[0].data is not None
        each = np.tile(bias[0].data, strides) if phases_first else np.repeat(bias[0].data, strides)
        parameters.append(patch.constant(each, f"{bias[0].name}_of_phases"))
    pads, dilations = zip(*((line.pads, line.dilation) for line in lines), strict=True)
    conv = Conv((1,) * len(lines), pads, dilations, op.groups)
    patch.add(conv, x, *parameters, name=node.name if strides == 1 else f"{node.name}_phases")
    return patch.added[-1]


def _shuffled(patch: Patch, node: Node, lines: list[_Line], y: Value) -> None:
    """Puts the convolution's result, with its pixels moved, in place of the node's."""
    (batch, channels, *outputs), rank = node.output.shape, len(lines)
    strides, pixels = [line.stride for line in lines], [line.pixels for line in lines]
    y = patch.apply(Reshape((batch, channels, *strides, *pixels)), y, name=f"{node.name}_split")
    turned = [axis for d in range(rank) for axis in (2 + rank + d, 2 + d)]
    y = patch.apply(Transpose((0, 1, *turned)), y, name=f"{node.name}_turned")
    whole = tuple(stride * count for stride, count in zip(strides, pixels, strict=True))
    cut = whole != tuple(outputs)
    y = patch.apply(Reshape((batch, channels, *whole)), y, name=f"{node.name}_whole" if cut else node.name)
    if cut:
        zeros, steps = (0,) * (2 + rank), (1,) * (2 + rank)
        y = patch.apply(Slice(zeros, steps, node.output.shape), y, name=node.name)
    patch.replace(node.output, y)


def _weights(weights: Value, groups: int, lines: list[_Line], phases_first: bool) -> Array:
    """[C, OC / groups, *K] as [OC * strides, C / groups, *taps], or with the strides first.

    Zeros where a phase has no tap.
    """
    rank, data = len(lines), weights.data
    assert data is not None
    found = np.pad(convolution_weights(data, groups), ((0, 0), (0, 0), *((0, 1),) * rank))
    for d, line in enumerate(lines):
        found = found.take(line.taps, axis=2 + 2 * d)
    found = found.transpose(_phases_to_channels(rank, phases_first))
    return np.ascontiguousarray(found.reshape(-1, *found.shape[1 + rank :]))


def _computed_weights(patch: Patch, weights: Value, groups: int, lines: list[_Line], phases_first: bool) -> Value:
    """The same, but for the last reshape, of weights that are computed at run time."""
    rank, (channels, outs, *kernel) = len(lines), weights.shape
    found = patch.apply(Reshape((groups, channels // groups, outs, *kernel)), weights)
    found = patch.apply(Transpose((0, 2, 1, *range(3, 3 + rank))), found)
    found = patch.apply(Reshape((groups * outs, channels // groups, math.prod(kernel))), found)
    found = patch.apply(Pad(((0, 0), (0, 0), (0, 1))), found)
    found = patch.apply(Gather(2), found, patch.constant(_numbers_of_taps(lines, kernel), "taps"))
    return patch.apply(Transpose(_phases_to_channels(rank, phases_first)), found)


def _numbers_of_taps(lines: list[_Line], kernel: list[int]) -> Indices:
    """[s, t, s, t, ...]: the number of the tap of all dimensions together; past the last where a phase has none."""
    places = np.pad(
        np.arange(math.prod(kernel)).reshape(kernel), [(0, 1)] * len(kernel), constant_values=math.prod(kernel)
    )
    for d, line in enumerate(lines):
        places = places.take(line.taps, axis=2 * d)
    return places


def _phases_to_channels(rank: int, phases_first: bool) -> tuple[int, ...]:
    """[OC, C / groups, s, t, s, t, ...] -> [OC, *s, C / groups, *t]; or strides come first."""
    strides, taps = range(2, 2 + 2 * rank, 2), range(3, 3 + 2 * rank, 2)
    outs = (*strides, 0) if phases_first else (0, *strides)
    return (*outs, 1, *taps)
