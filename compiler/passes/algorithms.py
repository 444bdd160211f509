"""The algorithms among which a convolution or linear layer may choose, each with its estimated cycles.

`ALGORITHMS` is the one list: the cost model takes the cheapest candidate, tuning measures the few that look best, and
`explain` prints them all. A new algorithm joins in by an entry.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable
from dataclasses import dataclass, replace

from glulam.compiler.graph.graph import Node, Value
from glulam.compiler.graph.op import Op, Prefers
from glulam.compiler.graph.types import DType, Shape
from glulam.compiler.graph.uses import Uses
from glulam.compiler.kernels import (
    conv_direct,
    conv_grouped,
    conv_narrow,
    conv_stripes,
    conv_transpose,
    conv_winograd,
    depthwise_tile,
    fixed_point,
    gemm,
    strassen,
    winograd_stages,
)
from glulam.compiler.kernels.conv_geometry import ConvShape, TransposedGeometry
from glulam.compiler.kernels.conv_tile import SAVED
from glulam.compiler.kernels.fixed_point import DIGITS
from glulam.compiler.kernels.minimal_filtering import Filtering
from glulam.compiler.kernels.tiling import (
    COPY_RATE,
    Tiling,
    fetched,
    row_cycles,
    stays_cached,
    stream_rate,
    tilings,
)
from glulam.compiler.ops.conv import Conv, ConvTranspose
from glulam.compiler.ops.fixed_point import FixedPointLinear
from glulam.compiler.ops.matmul import Linear
from glulam.compiler.ops.narrow import NarrowConv
from glulam.compiler.ops.strassen import StrassenConv, StrassenLinear
from glulam.compiler.ops.striped import StripedConvTranspose
from glulam.compiler.ops.tiled import TiledConv, TiledLinear
from glulam.compiler.ops.winograd import WinogradConv, as_pair
from glulam.compiler.passes.filterings import filterings, oblong_filterings
from glulam.compiler.passes.sides import BLOCKED, Sides, sides
from glulam.compiler.targets import Target

_READ_BETWEEN = 2  # times the weights of a linear layer that pass the caches before it is run again
_PICKED_STRIDE = 2  # along vectors of pixels; with 4 they take 2.3 times as long as estimated
_OTHER_TILES = 2  # tiles besides the model's own that are worth a measurement


@dataclass(frozen=True)
class Candidate:
    """A way to compute a node: its name, the estimated cycles on one core, and the op that stands for it.

    `weights` are the bytes that the cycles take from a cache with room for them; from memory they may take longer. 0 if
    the cycles hold either way.
    """

    name: str
    cycles: float
    op: Op
    weights: float = 0.0

    @property
    def estimate(self) -> str:
        return f"{self.cycles / 1e3:.0f}k cycles"


@dataclass(frozen=True)
class Algorithm:
    """`refuses` says why it does not serve a node, None if it does; `candidates` are its variants, the best first.

    `refuses_between` may have a reason as well, in what the node stands between.

    An algorithm serves nodes of the op class `serves` only; the first that serves a class must refuse nothing. An
    `exact` one adds up what the definition does.
    """

    name: str
    serves: type[Op]
    refuses: Callable[[Target, Node], str | None]
    candidates: Callable[[Target, Node], list[Candidate]]
    exact: bool = True
    refuses_between: Callable[[Target, Node, Sides], str | None] | None = None

    def refusal(self, target: Target, node: Node, around: Sides) -> str | None:
        """The first reason, None if there is none."""
        why = self.refuses(target, node)
        return why if why or not self.refuses_between else self.refuses_between(target, node, around)


def candidates(
    target: Target, node: Node, strict: bool = False, around: Sides = BLOCKED
) -> tuple[list[Candidate], list[str]]:
    """What may compute the node, with equal costs in order of preference, and why other algorithms may not.

    With `strict` the sums are to be the definition's. `around` says what the node stands between.
    """
    found: list[Candidate] = []
    refused: list[str] = []
    for algorithm in ALGORITHMS:
        if type(node.op) is not algorithm.serves:
            continue
        if strict and not algorithm.exact:
            refused.append(f"no {algorithm.name}: numerics are strict")
        elif (why := algorithm.refusal(target, node, around)) is not None:
            refused.append(f"no {algorithm.name}: {why}")
        else:
            found += algorithm.candidates(target, node)
    if len({_is_plain(candidate, node) for candidate in found}) > 1:
        found = [_with_conversions(target, node, candidate, around) for candidate in found]
    if around.cold:
        found = [replace(each, cycles=max(each.cycles, each.weights / target.memory_rate)) for each in found]
    return found, refused


def relevant_sides(target: Target, uses: Uses, node: Node) -> Sides:
    """What is around a node, as far as its candidates' costs depend on it."""
    if type(node.op) is Conv and _no_narrow(target, node) is None:
        around = sides(uses, node)
        return around if _no_narrow_between(target, node, around) is None else BLOCKED
    if type(node.op) is Linear and _no_fixed_point(target, node) is None:
        return Sides(cold=not stays_cached(target, uses.constant_bytes))
    return BLOCKED


def _is_plain(candidate: Candidate, node: Node) -> bool:
    """Whether a candidate works on plain tensors, not on channel blocks."""
    types = [None if v is None else v.type for v in node.inputs]
    return candidate.op.preference(types, [node.output.type]) is Prefers.PLAIN


def _with_conversions(target: Target, node: Node, candidate: Candidate, around: Sides) -> Candidate:
    """A candidate with the conversions that it takes, of tensors that have a channel block at least.

    What comes plain is copied where it needs padding.
    """
    x, op, plain, moved = node.inputs[0], node.op, _is_plain(candidate, node), 0
    assert x is not None
    padded = isinstance(op, Conv) and any(map(any, op.pads))
    if x.shape[1] >= target.lanes and (plain != around.comes_plain or (plain and padded)):
        moved += x.type.nbytes
    if node.output.shape[1] >= target.lanes and plain != around.goes_plain:
        moved += node.output.type.nbytes
    return replace(candidate, cycles=candidate.cycles + moved / COPY_RATE)


def signature(node: Node, around: Sides = BLOCKED) -> Hashable:
    """Equal for nodes that the same kernels may compute at the same cost."""
    values = [None if v is None else (v.type, v.is_constant) for v in node.inputs]
    return type(node.op).name, tuple(node.op.attributes().items()), tuple(values), node.output.type, around


def _needs_packing(node: Node) -> str | None:
    x, *parameters = node.inputs
    if not all(v is None or v.is_constant for v in parameters) or x is None or x.type.dtype is not DType.F32:
        return "the weights are not float32 constants"
    return "nothing to compute" if 0 in node.output.shape else None


# ---- convolutions


def _never(target: Target, node: Node) -> str | None:
    return None


def _direct(target: Target, node: Node) -> list[Candidate]:
    op = node.op
    assert isinstance(op, Conv)
    if _has_ragged_groups(target, node):
        return [Candidate("grouped", _grouped_cycles(target, node), op)]
    channels = _channels(target, node)
    if channels.groups > 1 and (channels.ins, channels.outs) == (1, 1):
        return [Candidate("depthwise", _depthwise_cycles(target, node), op)]
    own = Candidate("direct", _direct_cycles(target, node, None), op)
    if op.groups > 1 or _needs_packing(node) is not None:
        return [own]
    blocks, _ = conv_direct.whole_blocks(target, node.output.shape[1])
    *outer, width = _rows(node)
    depth = _depth(node)
    again = conv_direct.second_reading(target, outer, blocks, depth)
    best, *others = sorted(tilings(target, width, blocks, depth, again), key=lambda entry: entry[:2])
    tiled = [
        Candidate(f"direct {t.pixels}x{t.blocks}", _direct_cycles(target, node, t), TiledConv.of(op, t))
        for _, _, t in others[:_OTHER_TILES]
    ]
    tile = best[-1]
    return [Candidate(f"direct {tile.pixels}x{tile.blocks}", own.cycles, op), *tiled]


def _channels(target: Target, node: Node) -> conv_grouped.Channels:
    x, op = node.inputs[0], node.op
    assert x is not None
    assert isinstance(op, Conv)
    return conv_grouped.Channels(target.lanes, op.groups, x.shape[1] // op.groups, node.output.shape[1] // op.groups)


def _has_ragged_groups(target: Target, node: Node) -> bool:
    """Whether there are groups of several channels that fill no blocks."""
    channels = _channels(target, node)
    sizes = channels.ins, channels.outs
    return channels.groups > 1 and sizes != (1, 1) and any(size % target.lanes for size in sizes)


def _grouped_cycles(target: Target, node: Node) -> float:
    weights, op = node.inputs[1], node.op
    assert weights is not None
    assert isinstance(op, Conv)
    geometry = op.geometry_of(weights.shape[2:])
    cycles = conv_grouped.cost(target, node.output.shape[0], node.output.shape[2:], _channels(target, node), geometry)
    return cycles * _met_share(node, columns=False)


def _depthwise_cycles(target: Target, node: Node) -> float:
    (x, weights, *_), op = node.inputs, node.op
    assert x is not None
    assert weights is not None
    assert isinstance(op, Conv)
    batch, channels, *spatial = node.output.shape
    blocks, geometry = -(-channels // target.lanes), op.geometry_of(weights.shape[2:])
    return depthwise_tile.cost(target, batch, blocks, x.type.nbytes, tuple(spatial), geometry)


def _rows(node: Node) -> Shape:
    """The pixels of an image as the direct convolution goes through them: 1x1 kernels see one long row."""
    spatial = node.output.shape[2:]
    return (math.prod(spatial),) if _is_flat(node) else spatial


def _is_flat(node: Node) -> bool:
    """Whether a convolution has one tap, which meets each pixel once."""
    assert isinstance(node.op, Conv)
    return _has_one_tap(node) and set(node.op.strides) == {1}


def _has_one_tap(node: Node) -> bool:
    """Whether each output depends on one pixel."""
    weights = node.inputs[1]
    assert weights is not None
    assert isinstance(node.op, Conv)
    return set(weights.shape[2:]) == {1} and not any(map(any, node.op.pads))


def _depth(node: Node) -> int:
    weights = node.inputs[1]
    assert weights is not None
    return math.prod(weights.shape[1:])


def _direct_cycles(target: Target, node: Node, tiling: Tiling | None) -> float:
    batch, channels = node.output.shape[:2]
    cycles = conv_direct.cost(target, batch, _rows(node), _depth(node), channels, 1, tiling)
    return cycles * _met_share(node)


def _met_share(node: Node, columns: bool = True) -> float:
    """The share of the taps that a kernel does not pass over because they meet only padding.

    The direct one looks at `columns` too, of which few differ from the others unless taps are apart.
    """
    (x, weights, *_), op = node.inputs, node.op
    assert x is not None
    assert weights is not None
    assert isinstance(op, Conv)
    geometry = op.geometry_of(weights.shape[2:])
    share = 1.0
    for d, (outputs, inputs) in enumerate(zip(node.output.shape[2:], x.shape[2:], strict=True)):
        if outputs:
            met = sum(part.count * len(part.taps) for part in geometry.met(d, outputs, inputs))
            each = met / (outputs * weights.shape[2 + d])
            split = columns and each < 1 - SAVED and (d == 0 or op.dilations[d] > 1)
            share *= each if split or d < geometry.rank - 1 else 1.0
    return share


def _no_winograd(target: Target, node: Node) -> str | None:
    op, weights = node.op, node.inputs[1]
    assert isinstance(op, Conv)
    assert weights is not None
    if (weights.shape[1] % target.lanes or node.output.shape[1] // op.groups % target.lanes) and op.groups > 1:
        return f"the channels of a group fill no blocks of {target.lanes}"
    strides, dilations = as_pair(op.strides, 1), as_pair(op.dilations, 1)
    if max(dilations) > 1 and (max(strides) > 1 or op.groups > 1):
        return "dilation with strides or groups"
    if not filterings(op, weights.shape[2:]):
        return f"the kernel is {'x'.join(map(str, weights.shape[2:]))}, the stride {'x'.join(map(str, op.strides))}"
    return _needs_packing(node)


def _winograd(target: Target, node: Node) -> list[Candidate]:
    weights, op = node.inputs[1], node.op
    assert weights is not None
    assert isinstance(op, Conv)
    found = []
    oblong = oblong_filterings(target, op, weights.shape, node.output.shape[2:])
    for f in filterings(op, weights.shape[2:]) + oblong:
        whole = WinogradConv(**op.attributes(), outputs=f.outputs, taps=f.taps)
        ways = [] if f.is_dilated else [("", whole)]
        if op.groups == 1:
            staged = replace(whole, staged=True)
            ways.append((" in stages", staged))
            for bits in _filter_bits(target, f, weights):
                ways.append((f" in stages of {bits}-bit filters", replace(staged, bits=bits)))
        found += [Candidate(f"winograd {f.name}{how}", winograd_cycles(target, node, way), way) for how, way in ways]
    return sorted(found, key=lambda candidate: candidate.cycles)


def _filter_bits(target: Target, f: Filtering, weights: Value) -> list[int]:
    """In how few bits filters may be kept beside 32, if they come from afar at all."""
    outs, channels, *taps = weights.shape
    if f.points * outs * channels * math.prod(taps[:-2]) * DType.F32.size <= target.l2_bytes:
        return []
    return [bits for bits in DIGITS if bits >= f.least_bits]


def winograd_cycles(target: Target, node: Node, op: WinogradConv) -> float:
    """Estimated cycles of a convolution by Winograd's algorithm, as an op says it."""
    x, weights = node.inputs[:2]
    assert x is not None
    assert weights is not None
    frames = op.frames(x.shape, weights.shape)
    images, channels = x.shape[0] * frames.outputs * op.groups, x.shape[1] // op.groups
    outs = node.output.shape[1] // op.groups
    size = (images, as_pair(node.output.shape[2:], 1), channels, outs, op.filtering, op.digits, frames)
    return winograd_stages.cost(target, *size) if op.staged else conv_winograd.cost(target, *size)


def _no_narrow(target: Target, node: Node) -> str | None:
    op = node.op
    assert isinstance(op, Conv)
    channels = _channels(target, node)
    if op.strides[-1] > conv_narrow.MOST_STRIDE:
        return f"a stride of more than {conv_narrow.MOST_STRIDE}"
    if channels.groups > 1 and not _has_ragged_groups(target, node):
        return "each channel is a group"
    return _needs_packing(node)


def _no_narrow_between(target: Target, node: Node, around: Sides) -> str | None:
    assert isinstance(node.op, Conv)
    channels, lanes = _channels(target, node), target.lanes
    if channels.outs % lanes or (around.goes_plain and channels.ins < lanes and node.op.strides[-1] <= _PICKED_STRIDE):
        return None
    return f"output channels in blocks of {lanes}, and no plain result of few channels with a stride of one or two"


def _narrow(target: Target, node: Node) -> list[Candidate]:
    (x, weights, *_), op = node.inputs, node.op
    assert x is not None
    assert weights is not None
    assert isinstance(op, Conv)
    channels, taps = _channels(target, node), math.prod(weights.shape[2:])
    size = (x.shape[0] * channels.groups, _rows(node), channels.ins, channels.outs)
    return [Candidate("narrow", conv_narrow.cost(target, *size, taps, op.strides[-1]), NarrowConv(**op.attributes()))]


def _strassen_conv(target: Target, node: Node) -> list[Candidate]:
    x, op = node.inputs[0], node.op
    assert x is not None
    assert isinstance(op, Conv)
    by_rows = max(op.strides) > 1
    cycles = strassen.cost(target, x.shape[0], node.output.shape[2:], x.shape[1], node.output.shape[1], by_rows=by_rows)
    return [Candidate("strassen", cycles, StrassenConv(**op.attributes()))]


def _no_strassen_conv(target: Target, node: Node) -> str | None:
    op = node.op
    assert isinstance(op, Conv)
    if not _has_one_tap(node) or op.groups != 1:
        return "the kernel is not 1x1, or there are padding or groups"
    return _no_strassen(target, node, channels=1)


def _no_strassen(target: Target, node: Node, channels: int) -> str | None:
    """Why the algorithm does not serve a node whose input and output have their channels there; None if it does."""
    x, y, whole = node.inputs[0], node.output, 2 * target.lanes
    assert x is not None
    last = channels < 0
    if x.type.rank < 3 or not strassen.halves(y.shape[1:-1] if last else y.shape[2:])[1]:
        return "no pixels of one sample to halve"
    if x.shape[channels] % whole or y.shape[channels] % whole:
        return f"{x.shape[channels]} to {y.shape[channels]} channels are no multiples of {whole}"
    return _needs_packing(node)


# ---- transposed convolutions


def _transposed(node: Node) -> tuple[int, TransposedGeometry, ConvShape]:
    x, weights, *_ = node.inputs
    assert x is not None
    assert weights is not None
    assert isinstance(node.op, ConvTranspose)
    shape = ConvShape(x.shape[1], node.output.shape[1], node.output.shape[2:])
    return x.shape[0], node.op.geometry(weights.shape[2:]), shape


def _phases(target: Target, node: Node) -> list[Candidate]:
    return [Candidate("phases", conv_transpose.cost(target, *_transposed(node)), node.op)]


def _no_stripes(target: Target, node: Node) -> str | None:
    _, geometry, shape = _transposed(node)
    return _needs_packing(node) or conv_stripes.refuses(target, geometry, shape.outputs)


def _striped(target: Target, node: Node) -> list[Candidate]:
    cycles = conv_stripes.cost(target, *_transposed(node))
    return [Candidate("stripes", cycles, StripedConvTranspose(**node.op.attributes()))]


# ---- linear layers


def _linear(target: Target, node: Node) -> list[Candidate]:
    best, *others = _gemm_tilings(target, node)
    if not _takes_tiles(target, node):
        return [_gemm(target, node, "gemm", best, node.op)]
    return [
        _gemm(target, node, f"gemm {best.pixels}x{best.blocks}", best, node.op),
        *(
            _gemm(target, node, f"gemm {t.pixels}x{t.blocks}", t, TiledLinear(rows=t.pixels, blocks=t.blocks))
            for t in others[:_OTHER_TILES]
        ),
    ]


def _gemm_size(target: Target, node: Node) -> tuple[int, int, int]:
    """Rows (one at least), blocks of columns, and depth."""
    weights = node.inputs[1]
    assert weights is not None
    return max(1, math.prod(node.output.shape[:-1])), -(-weights.shape[0] // target.lanes), weights.shape[1]


def _takes_tiles(target: Target, node: Node) -> bool:
    rows, *_ = _gemm_size(target, node)
    return rows > 1 and _needs_packing(node) is None and node.output.shape[-1] >= target.lanes


def _gemm_tilings(target: Target, node: Node) -> list[Tiling]:
    """The best first."""
    rows, blocks, depth = _gemm_size(target, node)
    limit = gemm.row_limit(target, depth, node.output.type.dtype)
    return [tiling for *_, tiling in sorted(tilings(target, rows, blocks, depth, limit=limit), key=lambda e: e[:2])]


def _gemm(
    target: Target, node: Node, name: str, tiling: Tiling, op: Op, unpack: float = 0.0, size: float = 1.0
) -> Candidate:
    """To `unpack` a vector of weights, which take `size` times the memory of float32 ones, takes so many cycles."""
    rows, blocks, depth = _gemm_size(target, node)
    weights = node.inputs[1]
    assert weights is not None
    passes = -(-rows // tiling.pixels)
    computing = row_cycles(target, tiling, rows, blocks, depth) + unpack * blocks * depth * passes
    read = weights.type.nbytes * size
    rate = stream_rate(target, _READ_BETWEEN * weights.type.nbytes)
    return Candidate(name, fetched(target, computing, read, rate), op, read)


def _no_fixed_point(target: Target, node: Node) -> str | None:
    if node.output.shape[-1] < target.lanes:
        return f"{node.output.shape[-1]} columns fill no vector of {target.lanes}"
    return _needs_packing(node)


def _fixed_point(target: Target, node: Node) -> list[Candidate]:
    best, *_ = _gemm_tilings(target, node)
    op, unpack = FixedPointLinear(), fixed_point.unpack_cycles(target)
    size = DIGITS[op.bits].bytes / DType.F32.size
    return [_gemm(target, node, f"gemm of {op.bits}-bit weights", best, op, unpack, size)]


def _no_strassen_linear(target: Target, node: Node) -> str | None:
    return _no_strassen(target, node, channels=-1)


def _strassen_linear(target: Target, node: Node) -> list[Candidate]:
    x = node.inputs[0]
    assert x is not None
    batch, *rows, depth = x.shape
    cycles = strassen.cost(target, batch, tuple(rows), depth, node.output.shape[-1], by_rows=len(rows) > 1)
    return [Candidate("strassen", cycles, StrassenLinear())]


ALGORITHMS = (
    Algorithm("direct", Conv, _never, _direct),
    Algorithm("winograd", Conv, _no_winograd, _winograd, exact=False),
    Algorithm("narrow", Conv, _no_narrow, _narrow, refuses_between=_no_narrow_between),
    Algorithm("strassen", Conv, _no_strassen_conv, _strassen_conv, exact=False),
    Algorithm("phases", ConvTranspose, _never, _phases),
    Algorithm("stripes", ConvTranspose, _no_stripes, _striped),
    Algorithm("gemm", Linear, _never, _linear),
    Algorithm("20-bit weights", Linear, _no_fixed_point, _fixed_point, exact=False),
    Algorithm("strassen", Linear, _no_strassen_linear, _strassen_linear, exact=False),
)
"""For each class of ops the general one first."""

SERVED = frozenset(algorithm.serves for algorithm in ALGORITHMS)
