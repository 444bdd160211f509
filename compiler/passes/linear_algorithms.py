"""The ways to compute a linear layer: why one may not serve a node, and its candidates."""

from __future__ import annotations

import math

from glulam.compiler.graph.graph import Node
from glulam.compiler.graph.op import Op
from glulam.compiler.graph.types import DType
from glulam.compiler.kernels import gemm, strassen
from glulam.compiler.kernels.fixed_point import DIGITS, UNPACK_CYCLES
from glulam.compiler.kernels.rates import fetched, stream_rate
from glulam.compiler.kernels.tiling import Tiling, row_cycles, tilings
from glulam.compiler.ops.fixed_point import FixedPointLinear
from glulam.compiler.ops.matmul import Linear
from glulam.compiler.ops.strassen import StrassenLinear
from glulam.compiler.ops.tiled import TiledLinear
from glulam.compiler.passes.candidates import OTHER_TILES, Algorithm, Candidate, needs_packing, never
from glulam.compiler.targets import Target

_READ_BETWEEN = 2  # times the weights of a linear layer that pass the caches before it is run again


def _linear(target: Target, node: Node) -> list[Candidate]:
    best, *others = _gemm_tilings(target, node)
    if not _takes_tiles(target, node):
        return [_gemm(target, node, "gemm", best, node.op)]
    return [
        _gemm(target, node, f"gemm {best.pixels}x{best.blocks}", best, node.op),
        *(
            _gemm(target, node, f"gemm {t.pixels}x{t.blocks}", t, TiledLinear(rows=t.pixels, blocks=t.blocks))
            for t in others[:OTHER_TILES]
        ),
    ]


def _gemm_size(target: Target, node: Node) -> tuple[int, int, int]:
    """Rows (one at least), blocks of columns, and depth."""
    weights = node.operand(1)
    return max(1, math.prod(node.output.shape[:-1])), -(-weights.shape[0] // target.lanes), weights.shape[1]


def _takes_tiles(target: Target, node: Node) -> bool:
    rows, *_ = _gemm_size(target, node)
    return rows > 1 and needs_packing(node) is None and node.output.shape[-1] >= target.lanes


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
    weights = node.operand(1)
    passes = -(-rows // tiling.pixels)
    computing = row_cycles(target, tiling, rows, blocks, depth) + unpack * blocks * depth * passes
    read = weights.type.nbytes * size
    rate = stream_rate(target, _READ_BETWEEN * weights.type.nbytes)
    return Candidate(name, fetched(target, computing, read, rate), op, read)


def no_fixed_point(target: Target, node: Node) -> str | None:
    if node.output.shape[-1] < target.lanes:
        return f"{node.output.shape[-1]} columns fill no vector of {target.lanes}"
    return needs_packing(node)


def _fixed_point(target: Target, node: Node) -> list[Candidate]:
    best, *_ = _gemm_tilings(target, node)
    op = FixedPointLinear()
    size = DIGITS[op.bits].bytes / DType.F32.size
    return [_gemm(target, node, f"gemm of {op.bits}-bit weights", best, op, UNPACK_CYCLES, size)]


def _no_strassen_linear(target: Target, node: Node) -> str | None:
    return no_strassen(target, node, channels=-1)


def _strassen_linear(target: Target, node: Node) -> list[Candidate]:
    x = node.operand(0)
    batch, *rows, depth = x.shape
    outs, several = node.output.shape[-1], len(rows) > 1
    cycles = strassen.cost(target, batch, tuple(rows), depth, outs, by_rows=several, tokens=not several and batch == 1)
    return [Candidate("strassen", cycles, StrassenLinear())]


def no_strassen(target: Target, node: Node, channels: int) -> str | None:
    """Why the algorithm does not serve a node whose input and output have their channels there; None if it does."""
    x, y, whole = node.operand(0), node.output, 2 * target.lanes
    last = channels < 0
    if x.type.rank < 3 or not strassen.halves(y.shape[1:-1] if last else y.shape[2:])[1]:
        return "no pixels of one sample to halve"
    if x.shape[channels] % whole or y.shape[channels] % whole:
        return f"{x.shape[channels]} to {y.shape[channels]} channels are no multiples of {whole}"
    return needs_packing(node)


LINEAR_LAYERS = (
    Algorithm("gemm", Linear, never, _linear),
    Algorithm("20-bit weights", Linear, no_fixed_point, _fixed_point, exact=False),
    Algorithm("strassen", Linear, _no_strassen_linear, _strassen_linear, exact=False),
)
