"""Convolutions of volumes: taps that meet only padding go, and what Winograd can do for images is done on images.

A 3x3x3 convolution is a 3x3 convolution of images that have the channels of three frames. Copying frames into images
and back costs little against the multiplications that Winograd's algorithm saves.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np

from glulam.compiler.graph.graph import Graph, Node, Value
from glulam.compiler.graph.patch import Patch
from glulam.compiler.graph.types import DType
from glulam.compiler.graph.uses import Uses
from glulam.compiler.kernels import conv_direct, conv_winograd, winograd_stages
from glulam.compiler.kernels.tiling import COPY_RATE
from glulam.compiler.ops import Conv
from glulam.compiler.ops.frames import StackFrames, UnstackFrames
from glulam.compiler.passes.filterings import filterings
from glulam.compiler.passes.manager import Decision, NodePass
from glulam.compiler.targets import Target


class TrimTaps(NodePass):
    """The first or last taps along an axis meet nothing but padding where the extent is small."""

    name = "trim_taps"

    def visit(self, graph: Graph, uses: Uses, node: Node) -> Patch | Decision | None:
        if type(node.op) is not Conv or 0 in node.output.shape:
            return None
        x, weights, *rest = node.inputs
        assert x is not None
        if weights is None or not weights.is_constant:
            return None
        kept = [
            met_taps(node.op, d, x.shape[2 + d], weights.shape[2 + d], n) for d, n in enumerate(node.output.shape[2:])
        ]
        if kept == [(0, extent) for extent in weights.shape[2:]]:
            return None
        pads = []
        for (first, end), (before, after), dilation, taps in zip(
            kept, node.op.pads, node.op.dilations, weights.shape[2:], strict=True
        ):
            pads.append((before - first * dilation, after - (taps - end) * dilation))
        if any(side < 0 for pair in pads for side in pair):
            return Decision(node.name, False, f"the padding {node.op.pads} leaves out pixels too")
        assert weights.data is not None
        part = np.ascontiguousarray(weights.data[:, :, *(slice(*span) for span in kept)])
        patch = Patch(graph, f"taps {kept} of {'x'.join(map(str, weights.shape[2:]))} meet the input", at=node.name)
        trimmed = patch.constant(part, f"{weights.name}_met")
        patch.replace(node.output, patch.apply(replace(node.op, pads=tuple(pads)), x, trimmed, *rest, name=node.name))
        return patch


def met_taps(op: Conv, axis: int, extent: int, taps: int, outputs: int) -> tuple[int, int]:
    """(first, end) of the taps that meet an element of the input; all if none does."""

    def meets(tap: int) -> bool:
        """Whether the first output for which the tap lies behind the beginning finds it before the end."""
        place, stride = tap * op.dilations[axis] - op.pads[axis][0], op.strides[axis]
        output = max(0, -(place // stride))
        return output < outputs and place + output * stride < extent

    met = [tap for tap in range(taps) if meets(tap)]
    return (met[0], met[-1] + 1) if met else (0, taps)


def _places(op: Conv, axis: int, tap: int, outputs: int) -> list[int]:
    """Where a tap meets the input, output after output."""
    return [o * op.strides[axis] + tap * op.dilations[axis] - op.pads[axis][0] for o in range(outputs)]


@dataclass(frozen=True)
class VolumesToImages(NodePass):
    """Where the estimated cycles of Winograd's algorithm and the copies are fewer."""

    target: Target

    name = "volumes_to_images"

    def visit(self, graph: Graph, uses: Uses, node: Node) -> Patch | Decision | None:
        if type(node.op) is not Conv or len(node.op.strides) != 3:
            return None
        if (refused := self.refuses(node)) is not None:
            return Decision(node.name, False, refused)
        x, weights, *bias = node.inputs
        assert x is not None
        assert weights is not None
        assert weights.data is not None
        op, (channels, frames) = node.op, x.shape[1:3]
        out_channels, images = node.output.shape[1:3]
        places = [_places(op, 0, k, images) for k in range(weights.shape[2])]
        stacked = StackFrames(
            tuple(tuple(p if 0 <= p < frames else -1 for p in image) for image in zip(*places, strict=True)),
            blocked=channels >= self.target.lanes,
        )
        conv = Conv(op.strides[1:], op.pads[1:], op.dilations[1:])
        costs = self.costs(conv, x, weights, node.output)
        if costs[1] >= costs[0]:
            return Decision(node.name, False, f"on images {costs[1]:.0f}k cycles, on volumes {costs[0]:.0f}k")
        patch = Patch(graph, f"on images {costs[1]:.0f}k cycles, on volumes {costs[0]:.0f}k", at=node.name)
        flat = weights.data.swapaxes(1, 2).reshape(out_channels, weights.shape[2] * channels, *weights.shape[3:])
        image = patch.apply(stacked, x, name=f"{node.name}_images")
        made = patch.constant(np.ascontiguousarray(flat), f"{weights.name}_of_images")
        result = patch.apply(conv, image, made, *bias, name=f"{node.name}_on_images")
        patch.replace(node.output, patch.apply(UnstackFrames(images), result, name=node.name))
        return patch

    def refuses(self, node: Node) -> str | None:
        """Why the convolution stays one of volumes, None if it might not."""
        op, (x, weights, *_) = node.op, node.inputs
        assert isinstance(op, Conv)
        assert x is not None
        if weights is None or not weights.is_constant or x.type.dtype is not DType.F32:
            return "the weights are not float32 constants"
        if op.groups != 1 or not filterings(Conv(op.strides[1:], op.pads[1:], op.dilations[1:]), weights.shape[3:]):
            return "Winograd's algorithm is not for groups, nor for these taps and strides"
        if x.shape[1] > self.target.lanes and x.shape[1] % self.target.lanes:
            return f"{x.shape[1]} channels do not fill channel blocks"
        if 0 in node.output.shape or 0 in x.shape:
            return "nothing to compute"
        return None

    def costs(self, conv: Conv, x: Value, weights: Value, y: Value) -> tuple[float, float]:
        """Thousands of cycles on volumes and, with `conv`, on images."""
        batch, channels = x.shape[:2]
        out_channels, images, *extents = y.shape[1:]
        taps, spatial = weights.shape[2:], tuple(extents)
        direct = conv_direct.cost(self.target, batch * images, spatial, channels, out_channels, math.prod(taps))
        winograd = min(
            module.cost(self.target, batch * images, spatial, taps[0] * channels, out_channels, f)
            for f in filterings(conv, taps[1:])
            for module in (conv_winograd, winograd_stages)
        )
        moved = 2 * (taps[0] * x.type.size // x.shape[2] * images + y.type.size) * 4
        return direct / 1e3, (winograd + moved / COPY_RATE) / 1e3
