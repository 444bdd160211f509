"""Expressions of the loop IR as values: one `match` says what writes the code of each kind of node."""

from __future__ import annotations

import math
from collections.abc import Sequence

from glulam.compiler.codegen import half, maths, powers
from glulam.compiler.codegen.function import Function
from glulam.compiler.codegen.indices import Indices
from glulam.compiler.codegen.instructions import Instructions
from glulam.compiler.codegen.llvm_types import Val, lane_steps, literal
from glulam.compiler.codegen.memory import Memory
from glulam.compiler.errors import LoopError
from glulam.compiler.graph.types import DType
from glulam.compiler.loops import expr as ex
from glulam.compiler.loops.expr import Expr
from glulam.compiler.loops.index import Affine
from glulam.compiler.loops.ir import (
    Buffer,
    ByteDot,
    IndexValue,
    LanePick,
    LaneReduce,
    LaneShuffle,
    Load,
    Tile,
    TileRead,
)
from glulam.compiler.targets import Target

_PERMUTE = {(DType.F32, 16): "llvm.x86.avx512.permvar.sf.512", (DType.F32, 8): "llvm.x86.avx2.permps"}

_DOT_LANES = (4, 8, 16)  # of I32, for which there is an instruction of byte products


class Expressions:
    """Evaluates at the end of the function's text. `tiles` holds the present value of each element of each tile."""

    def __init__(self, function: Function, indices: Indices, target: Target, where: str) -> None:
        self.indices = indices
        self.target = target
        self.instructions = Instructions(function, target.has_fma, where)
        self.pointers: dict[Buffer, str] = {}
        self.memory = Memory(function, indices, self.instructions, target.masks_lanes, self.pointers, self.evaluate)
        self.tiles: dict[tuple[Tile, tuple[int, ...]], Val] = {}

    def evaluate(self, e: Expr) -> Val:
        return self._value(e, {})

    def _value(self, e: Expr, memo: dict[Expr, Val]) -> Val:
        if e not in memo:
            memo[e] = self._compute(e, memo)
        return memo[e]

    def _compute(self, e: Expr, memo: dict[Expr, Val]) -> Val:
        match e:
            case ex.Const(value, dtype):
                return Val(literal(value, dtype), dtype)
            case Load():
                return self.memory.load(e)
            case TileRead(tile, index):
                return self._tile_element(tile, index)
            case IndexValue(index):
                return self._index_value(index)
            case LaneReduce(op, x):
                return self._lane_reduce(op, self._value(x, memo))
            case LaneShuffle(x, y, lanes):
                return self._lane_shuffle(self._value(x, memo), self._value(y, memo), lanes)
            case ByteDot():
                return self._byte_dot(e, memo)
            case LanePick(x, lane):
                return self._lane_pick(self._value(x, memo), self._value(lane, memo))
        if self.indices.lanes and (parts := maths.expand_in_part(e)) is not None:
            return self._in_part(e, [self._value(child, memo) for child in e.children()], *parts)
        if (known := maths.recognised(e)) is not None:
            return self._value(known, memo)
        if (expansion := maths.expand(e) or powers.expand(e) or half.expand(e, self.target.has_f16)) is not None:
            return self._value(ex.substitute(expansion, e.children()), memo)
        return self._operation(e, [self._value(child, memo) for child in e.children()])

    def _operation(self, e: Expr, args: list[Val]) -> Val:
        do = self.instructions
        match e:
            case ex.Fma():
                return do.multiply_add(*args)
            case ex.Unary(op):
                return do.unary(op, *args)
            case ex.Binary(op, x, y):
                constant = y.value if isinstance(y, ex.Const) else None
                return do.binary(op, *args, x_is_number=_is_number(x), y_constant=constant)
            case ex.Compare(op):
                return do.compare(op, *args)
            case ex.Select():
                return do.select(*args)
            case ex.Cast(_, dtype):
                return do.cast(args[0], dtype)
            case ex.Bitcast(_, dtype):
                return do.bitcast(args[0], dtype)
            case ex.Lookup(_, table):
                return do.lookup(args[0], table, self.target.looks_up_bytes)
        raise LoopError(f"no code for {type(e).__name__}")

    def _tile_element(self, tile: Tile, index: tuple[Affine, ...]) -> Val:
        place = self.indices.constant(index)
        if (tile, place) not in self.tiles:
            raise LoopError(f"{self.instructions.where}: tile {tile.name}{list(place)} is read before it is written")
        return self.tiles[tile, place]

    def _index_value(self, index: Affine) -> Val:
        terms: dict[str, int] = {}
        const, step = self.indices.split(index, 1, terms)
        base = self.indices.sum(terms)
        text = base or str(const)
        if base and const:
            text = self.instructions.function.numbered(("plus", base, const), f"add i64 {base}, {const}")
        scalar = Val(text, DType.I64)
        return self.instructions.arith("add", scalar, lane_steps(self.indices.lanes, step)) if step else scalar

    def _lane_reduce(self, op: str, x: Val) -> Val:
        if self.indices.lanes:
            x = self.instructions.splat(x, self.indices.lanes)
            if self.indices.wanted < self.indices.lanes:
                x = self.instructions.lanes(x, range(self.indices.wanted))
        step = ex.Binary(op, ex.Param(0, x.dtype), ex.Param(1, x.dtype))
        return self.instructions.fold_lanes(x, lambda a, b: self._value(step, {step.x: a, step.y: b}))

    def _lane_shuffle(self, x: Val, y: Val, which: Sequence[int]) -> Val:
        """Chosen lanes of two vectors, those of y counted on from those of x; a scalar has equal lanes."""
        do, lanes, wanted = self.instructions, self.indices.lanes, self.indices.wanted
        places = [at if at < wanted else at - wanted + lanes for at in which]
        return do.lanes(do.splat(x, lanes), [*places, *range(wanted, lanes)], do.splat(y, lanes))

    def _in_part(self, e: Expr, args: list[Val], holds: Expr, expansion: Expr) -> Val:
        """An expansion where it holds, and what LLVM or the C library makes of the operation elsewhere."""
        do = self.instructions
        args = [do.splat(x, self.indices.lanes) for x in args]
        params = [ex.Param(i) for i in range(len(args))]
        known: dict[Expr, Val] = dict(zip(params, args, strict=True))
        inside, usual = (self._value(ex.substitute(part, params), known) for part in (holds, expansion))
        outside = do.binary("xor", inside, Val("true", DType.BOOL))
        return do.unless(outside, usual, lambda: self._operation(e, args))

    def _byte_dot(self, e: ByteDot, memo: dict[Expr, Val]) -> Val:
        do, lanes = self.instructions, self.indices.lanes
        if not self.target.dots_bytes or lanes not in _DOT_LANES or lanes * 4 > self.target.vector_bytes:
            return self._value(e.expansion(), memo)
        x, y, z = (do.splat(self._value(each, memo), lanes) for each in e.children())
        return do.byte_dot(x, y, z)

    def _lane_pick(self, x: Val, lane: Val) -> Val:
        do, lanes = self.instructions, self.indices.lanes
        fits = self.target.permutes_lanes and lanes * x.dtype.size <= self.target.vector_bytes
        permute = _PERMUTE.get((x.dtype, lanes)) if fits else None
        return do.permuted(do.splat(x, lanes), do.splat(lane, lanes), permute)


def _is_number(e: Expr) -> bool:
    return isinstance(e, ex.Const) and not math.isnan(e.value)
