"""Transposed convolution by sub-pixel phases: each is a convolution of stride 1 that writes every stride-th pixel.

Output pixels with the same remainder by the stride meet the same taps. So one kernel has the sections of a convolution
for each remainder, built by whichever convolution template accepts the channels.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

import numpy as np

from glulam.compiler.graph.types import Array
from glulam.compiler.kernels import conv_direct
from glulam.compiler.kernels.context import Context, Lowered, Point
from glulam.compiler.kernels.conv_geometry import ConvGeometry, ConvShape, Grid, Phase, TransposedGeometry
from glulam.compiler.kernels.conv_template import ConvTemplate, constant_weights
from glulam.compiler.kernels.operand import pack_channels
from glulam.compiler.loops.ir import Partner
from glulam.compiler.targets import Target

_MAX_PHASES = 16  # each has code of its own
_GENERIC = 12.0  # cycles of a vector of products where there are more
_GROUPED = 3.0  # where a vector of results holds several whole groups
_SHARED = 5.0  # where a group may lie in two vectors
_STORE = 2.0  # of a vector that is finished and stored
_APART = 1.2  # times as long as pixels beside each other take those that lie a stride apart in a slow cache


def accepts(template: ConvTemplate, ctx: Context, geometry: TransposedGeometry) -> str | None:
    """None if the phases can be computed by this convolution template, else why not."""
    if template.sections is None:
        return "it computes whole convolutions only"
    phases = geometry.phase_count(ctx.output.spatial)
    if phases > _MAX_PHASES:
        return f"strides {geometry.strides} make {phases} phases, more than {_MAX_PHASES}"
    if (why := template.accepts(ctx, _convolution(geometry, [Phase(0, 1, (0,), 0, 1)] * geometry.rank))) is not None:
        return why
    lines = [geometry.phases(d, extent) for d, extent in enumerate(ctx.output.spatial)]
    longest = [max(line, key=lambda phase: len(phase.taps)) for line in lines]
    return template.too_long(ctx, _convolution(geometry, longest), longest[-1].count, phases)


def cost(target: Target, batch: int, geometry: TransposedGeometry, shape: ConvShape) -> float:
    """Estimated cycles of the whole convolution on one core, where the kernel is not generic for want of templates."""
    depth, per_group = shape.ins // geometry.groups, shape.outs // geometry.groups
    lines = [geometry.phases(d, extent) for d, extent in enumerate(shape.outputs)]
    few = geometry.phase_count(shape.outputs) <= _MAX_PHASES
    if few and (geometry.groups == 1 or per_group % target.lanes == 0):
        cycles = sum(_direct_cost(target, batch, phases, depth, per_group) for phases in itertools.product(*lines))
        return geometry.groups * cycles * (_APART if target.l3_is_slow else 1.0)
    shared = _SHARED if target.lanes % per_group else _GROUPED
    taps = math.prod(sum(p.count * len(p.taps) for p in phases) for phases in lines)
    products = depth * taps * (shared if few else _GENERIC)
    return batch * -(-shape.outs // target.lanes) * (products + _STORE * math.prod(shape.outputs))


def _direct_cost(target: Target, batch: int, phases: Sequence[Phase], in_channels: int, out_channels: int) -> float:
    taps = math.prod(len(phase.taps) for phase in phases)
    pixels = tuple(phase.count for phase in phases)
    return conv_direct.cost(target, batch, pixels, in_channels, out_channels, taps)


def build(template: ConvTemplate, ctx: Context, geometry: TransposedGeometry) -> Lowered:
    """The kernel. Inputs: x[N,C,*S], w[C,OC/g,*K], b?[OC], then what the epilogue reads."""
    weights = convolution_weights(constant_weights(ctx), geometry.groups)
    with ctx.builder.of_partner(Partner.BOTH if ctx.rows else None):
        _phases(template, ctx, geometry, weights)
    return ctx.finished()


def _phases(template: ConvTemplate, ctx: Context, geometry: TransposedGeometry, weights: Array) -> None:
    assert template.sections is not None
    for phases in itertools.product(*(geometry.phases(d, extent) for d, extent in enumerate(ctx.output.spatial))):
        grid = Grid(tuple(p.count for p in phases), geometry.strides, tuple(p.offset for p in phases))
        part = weights
        for d, phase in enumerate(phases):
            part = part.take(phase.taps, axis=2 + d)
        if part.size:
            template.sections(ctx, _convolution(geometry, phases), np.ascontiguousarray(part), grid)
        else:
            _without_taps(ctx, grid)


def convolution_weights(weights: Array, groups: int) -> Array:
    """[C, OC/g, *K] as [OC, C/g, *K]."""
    split = weights.reshape(groups, weights.shape[0] // groups, *weights.shape[1:])
    return split.swapaxes(1, 2).reshape(groups * weights.shape[1], weights.shape[0] // groups, *weights.shape[2:])


def _convolution(geometry: TransposedGeometry, phases: Sequence[Phase]) -> ConvGeometry:
    return ConvGeometry(
        tuple(len(p.taps) for p in phases),
        (1,) * geometry.rank,
        tuple(p.dilation for p in phases),
        tuple((-p.first, 0) for p in phases),
        geometry.groups,
    )


def _without_taps(ctx: Context, grid: Grid) -> None:
    """Pixels that no input reaches: the bias alone."""
    b, block, data = ctx.builder, ctx.output.layout.block, ctx.data(2)
    bias = np.zeros(ctx.output.shape[1], np.float32) if data is None else data
    padded = np.zeros((1, ctx.output.blocks * block), np.float32)
    padded[0, : len(bias)] = bias
    packed = ctx.constant(pack_channels(padded, block), "b")
    *outer, width = grid.extents
    extents = {f"o{d}": extent for d, extent in enumerate(outer)}
    ctx.output_view()
    head = {"n": ctx.output.shape[0], "c": ctx.output.blocks}
    with b.section(**head, **extents) as (n, c, *rows), b.serial("s", width) as s, b.vector("v", block) as v:
        point: Point = (n, c, *grid.place([*rows, s]), v)
        ctx.write(point, ctx.finish(packed[0, c, v], point))
