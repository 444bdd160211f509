"""The ways to compute a convolution, or a transposed one: why one may not serve a node, and its candidates."""

from __future__ import annotations

import math
from dataclasses import replace

from glulam.compiler.graph.graph import Node, Value
from glulam.compiler.graph.types import DType, Shape
from glulam.compiler.kernels import (
    conv_direct,
    conv_grouped,
    conv_narrow,
    conv_stripes,
    conv_transpose,
    depthwise_tile,
    strassen,
    winograd_plan,
    winograd_stages,
)
from glulam.compiler.kernels.conv_geometry import ConvShape, TransposedGeometry
from glulam.compiler.kernels.conv_tile import SAVED
from glulam.compiler.kernels.fixed_point import DIGITS
from glulam.compiler.kernels.minimal_filtering import Filtering
from glulam.compiler.kernels.rates import overcrowds
from glulam.compiler.kernels.tiling import Tiling, tilings
from glulam.compiler.ops.conv import Conv, ConvTranspose
from glulam.compiler.ops.narrow import NarrowConv
from glulam.compiler.ops.strassen import StrassenConv
from glulam.compiler.ops.striped import StripedConvTranspose
from glulam.compiler.ops.tiled import TiledConv
from glulam.compiler.ops.winograd import WinogradConv, as_pair
from glulam.compiler.passes.candidates import OTHER_TILES, Algorithm, Candidate, needs_packing, never
from glulam.compiler.passes.convolutions import geometry_of
from glulam.compiler.passes.filterings import added_filtering, filterings, oblong_filterings
from glulam.compiler.passes.linear_algorithms import no_strassen
from glulam.compiler.passes.sides import Sides
from glulam.compiler.targets import Target

_PICKED_STRIDE = 2  # along vectors of pixels; with 4 they take 2.3 times as long as estimated


def _direct(target: Target, node: Node) -> list[Candidate]:
    op = node.op
    assert isinstance(op, Conv)
    if _has_ragged_groups(target, node):
        return [Candidate("grouped", _grouped_cycles(target, node), op)]
    channels = _channels(target, node)
    if channels.groups > 1 and (channels.ins, channels.outs) == (1, 1):
        return [Candidate("depthwise", _depthwise_cycles(target, node), op)]
    own = Candidate("direct", _direct_cycles(target, node, None), op)
    if op.groups > 1 or needs_packing(node) is not None:
        return [own]
    blocks, _ = conv_direct.whole_blocks(target, node.output.shape[1])
    *outer, width = _rows(node)
    depth = _depth(node)
    again = conv_direct.second_reading(target, outer, blocks, depth)
    best, *others = sorted(tilings(target, width, blocks, depth, again), key=lambda entry: entry[:2])
    tiled = [
        Candidate(f"direct {t.pixels}x{t.blocks}", _direct_cycles(target, node, t), TiledConv.of(op, t))
        for _, _, t in others[:OTHER_TILES]
    ]
    tile = best[-1]
    return [Candidate(f"direct {tile.pixels}x{tile.blocks}", own.cycles, op), *tiled]


def _channels(target: Target, node: Node) -> conv_grouped.Channels:
    x, op = node.operand(0), node.op
    assert isinstance(op, Conv)
    return conv_grouped.Channels(target.lanes, op.groups, x.shape[1] // op.groups, node.output.shape[1] // op.groups)


def _has_ragged_groups(target: Target, node: Node) -> bool:
    """Whether there are groups of several channels that fill no blocks."""
    channels = _channels(target, node)
    sizes = channels.ins, channels.outs
    return channels.groups > 1 and sizes != (1, 1) and any(size % target.lanes for size in sizes)


def _grouped_cycles(target: Target, node: Node) -> float:
    batch, _, *spatial = node.output.shape
    cycles = conv_grouped.cost(target, batch, tuple(spatial), _channels(target, node), geometry_of(node))
    return cycles * _met_share(node, columns=False)


def _depthwise_cycles(target: Target, node: Node) -> float:
    batch, channels, *spatial = node.output.shape
    blocks, image = -(-channels // target.lanes), node.operand(0).type.nbytes
    return depthwise_tile.cost(target, batch, blocks, image, tuple(spatial), geometry_of(node))


def _rows(node: Node) -> Shape:
    """The pixels of an image as the direct convolution goes through them: 1x1 kernels see one long row."""
    geometry, spatial = geometry_of(node), node.output.shape[2:]
    if geometry.is_pointwise:
        return (math.prod(spatial),)
    only = geometry.only_dimension(spatial, node.operand(0).shape[2:])
    return spatial if only is None else (spatial[only],)


def _depth(node: Node) -> int:
    return math.prod(node.operand(1).shape[1:])


def _direct_cycles(target: Target, node: Node, tiling: Tiling | None) -> float:
    batch, channels = node.output.shape[:2]
    cycles = conv_direct.cost(target, batch, _rows(node), _depth(node), channels, 1, tiling)
    return cycles * _met_share(node)


def _met_share(node: Node, columns: bool = True) -> float:
    """The share of the taps that a kernel does not pass over because they meet only padding.

    The direct one looks at `columns` too, of which few differ from the others unless taps are apart.
    """
    geometry, share = geometry_of(node), 1.0
    for d, (outputs, inputs) in enumerate(zip(node.output.shape[2:], node.operand(0).shape[2:], strict=True)):
        if outputs:
            met = sum(part.count * len(part.taps) for part in geometry.met(d, outputs, inputs))
            each = met / (outputs * geometry.kernel[d])
            split = columns and each < 1 - SAVED and (d == 0 or geometry.dilations[d] > 1)
            share *= each if split or d < geometry.rank - 1 else 1.0
    return share


def _no_winograd(target: Target, node: Node) -> str | None:
    op, weights = node.op, node.operand(1)
    assert isinstance(op, Conv)
    if (weights.shape[1] % target.lanes or node.output.shape[1] // op.groups % target.lanes) and op.groups > 1:
        return f"the channels of a group fill no blocks of {target.lanes}"
    strides, dilations = as_pair(op.strides, 1), as_pair(op.dilations, 1)
    if max(dilations) > 1 and (max(strides) > 1 or op.groups > 1):
        return "dilation with strides or groups"
    if not filterings(op, weights.shape[2:]) and added_filtering(target, op, weights.shape) is None:
        return f"the kernel is {'x'.join(map(str, weights.shape[2:]))}, the stride {'x'.join(map(str, op.strides))}"
    return needs_packing(node)


def _winograd(target: Target, node: Node) -> list[Candidate]:
    weights, op = node.operand(1), node.op
    assert isinstance(op, Conv)
    ops: list[tuple[str, WinogradConv]] = []
    if (f := added_filtering(target, op, weights.shape)) is not None:
        whole = WinogradConv(**op.attributes(), outputs=f.outputs, taps=f.taps, added=True)
        ops.append((f"winograd {f.name} of added phases", whole))
    else:
        for f in filterings(op, weights.shape[2:]) + oblong_filterings(op, weights.shape, node.output.shape[2:]):
            whole = WinogradConv(**op.attributes(), outputs=f.outputs, taps=f.taps)
            ops += [(f"winograd {f.name}{how}", each) for how, each in _winograd_ways(target, whole, f, weights)]
    found = [Candidate(name, winograd_cycles(target, node, each), each) for name, each in ops]
    return sorted(found, key=lambda candidate: candidate.cycles)


def _winograd_ways(target: Target, whole: WinogradConv, f: Filtering, weights: Value) -> list[tuple[str, WinogradConv]]:
    """In one kernel, and in stages, whose filters may have fewer bits.

    In 32 bits those of oblong tiles must not crowd a cache: two threads would wait for memory.
    """
    ways, staged = [], replace(whole, staged=True)
    crowded = overcrowds(target, f.numbers(weights.shape) * DType.F32.size)
    if not (f.is_oblong and crowded):
        ways += [("", whole)] * (not f.is_dilated) + [(" in stages", staged)] * (whole.groups == 1)
    if whole.groups == 1:
        bits = _filter_bits(target, f, weights)
        ways += [(f" in stages of {each}-bit filters", replace(staged, bits=each)) for each in bits]
    return ways


def _filter_bits(target: Target, f: Filtering, weights: Value) -> list[int]:
    """In how few bits filters may be kept beside 32, if they come from afar at all.

    Numbers that share their low bits are of one frame's filter.
    """
    if f.numbers(weights.shape) * DType.F32.size <= target.l2_bytes:
        return []
    frames, channels = math.prod(weights.shape[2:-2]), weights.shape[1]
    return [n for n, digits in DIGITS.items() if n >= f.least_bits and (frames == 1 or channels % digits.together == 0)]


def winograd_cycles(target: Target, node: Node, op: WinogradConv) -> float:
    """Estimated cycles of a convolution by Winograd's algorithm, as an op says it."""
    x, weights = node.operand(0), node.operand(1)
    frames = op.frames(x.shape, weights.shape)
    images, channels = x.shape[0] * frames.outputs * op.groups, x.shape[1] // op.groups
    outs = node.output.shape[1] // op.groups
    size = (images, as_pair(node.output.shape[2:], 1), channels, outs, op.filtering, op.digits, frames)
    return winograd_stages.cost(target, *size) if op.staged else winograd_plan.cost(target, *size)


def no_narrow(target: Target, node: Node) -> str | None:
    op = node.op
    assert isinstance(op, Conv)
    channels = _channels(target, node)
    if op.strides[-1] > conv_narrow.MOST_STRIDE:
        return f"a stride of more than {conv_narrow.MOST_STRIDE}"
    if channels.groups > 1 and not _has_ragged_groups(target, node):
        return "each channel is a group"
    return needs_packing(node)


def no_narrow_between(target: Target, node: Node, around: Sides) -> str | None:
    assert isinstance(node.op, Conv)
    channels, lanes = _channels(target, node), target.lanes
    if channels.outs % lanes or (around.goes_plain and channels.ins < lanes and node.op.strides[-1] <= _PICKED_STRIDE):
        return None
    return f"output channels in blocks of {lanes}, and no plain result of few channels with a stride of one or two"


def _narrow(target: Target, node: Node) -> list[Candidate]:
    x, weights, op = node.operand(0), node.operand(1), node.op
    assert isinstance(op, Conv)
    channels, taps = _channels(target, node), math.prod(weights.shape[2:])
    size = (x.shape[0] * channels.groups, _rows(node), channels.ins, channels.outs)
    return [Candidate("narrow", conv_narrow.cost(target, *size, taps, op.strides[-1]), NarrowConv(**op.attributes()))]


def _strassen_conv(target: Target, node: Node) -> list[Candidate]:
    x, op = node.operand(0), node.op
    assert isinstance(op, Conv)
    by_rows = max(op.strides) > 1
    cycles = strassen.cost(target, x.shape[0], node.output.shape[2:], x.shape[1], node.output.shape[1], by_rows=by_rows)
    return [Candidate("strassen", cycles, StrassenConv(**op.attributes()))]


def _no_strassen_conv(target: Target, node: Node) -> str | None:
    op = node.op
    assert isinstance(op, Conv)
    if not geometry_of(node).has_one_tap or op.groups != 1:
        return "the kernel is not 1x1, or there are padding or groups"
    return no_strassen(target, node, channels=1)


# ---- transposed convolutions


def _transposed(node: Node) -> tuple[int, TransposedGeometry, ConvShape]:
    x, weights = node.operand(0), node.operand(1)
    assert isinstance(node.op, ConvTranspose)
    shape = ConvShape(x.shape[1], node.output.shape[1], node.output.shape[2:])
    return x.shape[0], node.op.geometry(weights.shape[2:]), shape


def _phases(target: Target, node: Node) -> list[Candidate]:
    return [Candidate("phases", conv_transpose.cost(target, *_transposed(node)), node.op)]


def _no_stripes(target: Target, node: Node) -> str | None:
    _, geometry, shape = _transposed(node)
    return needs_packing(node) or conv_stripes.refuses(target, geometry, shape.outputs)


def _striped(target: Target, node: Node) -> list[Candidate]:
    cycles = conv_stripes.cost(target, *_transposed(node))
    return [Candidate("stripes", cycles, StripedConvTranspose(**node.op.attributes()))]


CONVOLUTIONS = (
    Algorithm("direct", Conv, never, _direct),
    Algorithm("winograd", Conv, _no_winograd, _winograd, exact=False),
    Algorithm("narrow", Conv, no_narrow, _narrow, refuses_between=no_narrow_between),
    Algorithm("strassen", Conv, _no_strassen_conv, _strassen_conv, exact=False),
    Algorithm("phases", ConvTranspose, never, _phases),
    Algorithm("stripes", ConvTranspose, _no_stripes, _striped),
)
