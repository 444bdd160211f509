"""The recurrences of LSTM, GRU and RNN: serial over time, vectors over hidden units.

What the input contributes to the gates is computed before, for all time steps at once. An iteration owns a few batch
elements of one direction: their states stay in private memory, and each weight that is loaded serves all of them.
Recurrent weights are [D, H, gates * H]; known at compile time, they are packed in the order in which they are read.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from glulam.compiler.graph.types import DType
from glulam.compiler.kernels.context import Context, Lowered, View
from glulam.compiler.kernels.gemm_operands import multiply_add, source, zero
from glulam.compiler.kernels.ranges import pieces
from glulam.compiler.loops import expr as ex
from glulam.compiler.loops.expr import Cast, Expr
from glulam.compiler.loops.index import Affine, Bounded, IndexLike, Var
from glulam.compiler.loops.ir import Buffer, IndexValue, Load

Activation = Callable[[Expr], Expr]
Gates = tuple[int, ...]
Start = Callable[["_Tile", int, int, Affine], Expr]  # where, gate, row, unit
Finish = Callable[["_Tile", list[Expr], int, Affine], None]  # where, sums by gate, row, unit

_UNROLL = 4  # steps of a reduction in one round of its loop, and partial sums where few sums are taken at once
_FEW_SUMS = 4
_MOST_ROWS = 32  # batch elements of an iteration

# inputs of the ops
GATES, WEIGHTS, BIAS, LENGTHS, HIDDEN, CELL, PEEPHOLES = 0, 2, 3, 4, 5, 6, 7


@dataclass(frozen=True)
class Direction:
    """One direction: its index, whether it runs from the last step to the first, and its activations."""

    index: int
    reverse: bool
    activations: tuple[Activation, ...]


def lstm(ctx: Context, directions: Sequence[Direction], *, input_forget: bool) -> Lowered:
    """Inputs: see `ops.recurrent.Lstm`. Activations are those of the gates, the candidate, and the cell's output."""
    return _Lstm(ctx, 4, input_forget).build(directions)


def gru(ctx: Context, directions: Sequence[Direction], *, linear_before_reset: bool) -> Lowered:
    """Inputs: see `ops.recurrent.Gru`. Activations are those of the gates and of the candidate."""
    return _Gru(ctx, 3, linear_before_reset).build(directions)


def rnn(ctx: Context, directions: Sequence[Direction]) -> Lowered:
    """Inputs: see `ops.recurrent.Rnn`. There is one activation."""
    return _Rnn(ctx, 1, False).build(directions)


@dataclass(frozen=True)
class _Share:
    """What an iteration does at a time step: `rows` batch elements from `batch` on."""

    direction: Direction
    step: Var
    batch: Affine
    rows: int


@dataclass(frozen=True)
class _Tile:
    """Some rows of the share, from `row` on, whose sums are in registers together.

    times, valid: for each row its place in time, and whether its sequence has not ended (None: it never does).
    """

    direction: Direction
    rows: int
    row: Affine
    batch: Affine
    times: tuple[IndexLike, ...]
    valid: tuple[Expr | None, ...]


@dataclass(frozen=True)
class _Chunk:
    """Hidden units from `first` on: `count` groups of `blocks` vectors of `lanes`."""

    first: int
    count: int
    blocks: int
    lanes: int


@dataclass(frozen=True)
class _Units:
    """One group of a chunk: a vector of units for each `block`, and the chunk's weights if they are packed."""

    chunk: _Chunk
    packed: Buffer | None
    group: Var
    lane: Var

    def of(self, block: int) -> Affine:
        return (self.group * self.chunk.blocks + block) * self.chunk.lanes + self.lane + self.chunk.first


@dataclass(frozen=True)
class _Products:
    """For each row r and unit u: finish([start(g, r, u) + weights[g] state[r] for g in gates], r, u)."""

    gates: Gates
    state: Buffer
    start: Start
    finish: Finish


class _Recurrence(ABC):
    """What the cells have in common. `flag` is the variant of the cell."""

    def __init__(self, ctx: Context, gates: int, flag: bool) -> None:
        self.ctx, self.b, self.gates, self.flag = ctx, ctx.builder, gates, flag
        self.dtype = ctx.output.type.dtype
        self.steps, _, self.batch, self.hidden = ctx.output.shape
        self.width = ctx.target.vector_bytes // self.dtype.size
        self._sources: dict[int, View | Buffer] = {}
        self._states: dict[str, Buffer] = {}
        self._packed: dict[tuple[int, Gates, _Chunk], Buffer] = {}
        self.h, self.next = self.state("h"), self.state("next")

    @abstractmethod
    def step(self, at: _Share) -> None:
        """Compute the states after a step: `put` for each element."""

    # ---- operands

    def optional(self, i: int) -> View | Buffer | None:
        """Input `i` where it lies, None if it is left out."""
        if not self.ctx.has(i):
            return None
        if i not in self._sources:
            self._sources[i] = source(self.ctx, i)
        return self._sources[i]

    def input(self, i: int) -> View | Buffer:
        found = self.optional(i)
        assert found is not None
        return found

    def state(self, name: str) -> Buffer:
        """Private memory for a value of each hidden unit of the batch elements of an iteration."""
        if name not in self._states:
            self._states[name] = self.b.scratch(name, (self.share(), self.hidden), self.dtype)
        return self._states[name]

    def gate(self, at: _Tile, g: int, r: int, unit: Affine) -> Load:
        """What the input contributes to a gate."""
        offset = (at.direction.index * self.gates + g) * self.hidden
        return self.input(GATES)[(at.times[r], at.batch + r, unit + offset)]

    # ---- the loops around a step

    def share(self) -> int:
        """Batch elements of an iteration: they share the weights' way from far away, but all threads want work."""
        iterations = self.batch * self.ctx.output.shape[1]
        return max(min(-(-iterations // self.ctx.target.threads), self.batch, _MOST_ROWS), 1)

    def tile_rows(self, rows: int) -> int:
        """Batch elements whose sums are in registers together, each weight being loaded once for all of them."""
        limit = max((self.ctx.target.vector_registers - 2) // self.gates - 1, 1)
        return -(-rows // -(-rows // limit))

    def build(self, directions: Sequence[Direction]) -> Lowered:
        for i in range(len(self.ctx.outputs)):
            self.ctx.output_view(i)
        for direction in directions:
            for first, count, rows in pieces(self.batch, self.share()):
                with self.b.section(n=count) as (n,):
                    self.sequence(direction, n * rows + first, rows)
        return self.ctx.finished()

    def sequence(self, direction: Direction, batch: Affine, rows: int) -> None:
        d = direction.index
        states = [(self.h, HIDDEN), *self.more_states()]
        for state, i in states:
            start = self.optional(i)
            for r, u in self.units(rows):
                self.b.store(state[r, u], zero(self.dtype) if start is None else start[(d, batch + r, u)])
        with self.b.serial("t", self.steps) as t:
            self.step(_Share(direction, t, batch, rows))
            for r, u in self.units(rows):
                self.b.store(self.h[r, u], self.next[r, u])
        for output, (state, _) in enumerate(states, start=1):
            for r, u in self.units(rows):
                self.b.store(self.ctx.output_view(output)[(d, batch + r, u)], state[r, u])

    def more_states(self) -> list[tuple[Buffer, int]]:
        """States beside the hidden one, with the inputs that they start from."""
        return []

    def units(self, rows: int) -> Iterator[tuple[Var, Affine]]:
        """Each hidden unit of each row: a loop over whole vectors to write a body in, then a vector of those left."""
        full, rest = divmod(self.hidden, self.width)
        with self.b.serial("r", rows) as r:
            if full:
                with self.b.serial("j", full) as j, self.b.vector("v", self.width) as v:
                    yield r, j * self.width + v
            if rest:
                with self.b.vector("v", rest) as v:
                    yield r, v + full * self.width

    def at(self, share: _Share, row: Affine, rows: int) -> _Tile:
        lengths, reverse = self.optional(LENGTHS), share.direction.reverse
        batch, t = share.batch + row, Affine.of(share.step)
        if lengths is None:
            time: IndexLike = (self.steps - 1) - share.step if reverse else t
            return _Tile(share.direction, rows, row, batch, (time,) * rows, (None,) * rows)
        times: list[IndexLike] = []
        valid = []
        for r in range(rows):
            length = lengths[(batch + r,)]
            wide = ex.minimum(length if length.dtype is DType.I64 else Cast(length, DType.I64), self.steps)
            now = IndexValue(t)
            inside = now < wide
            times.append(Bounded(ex.where(inside, wide - 1 - now, now), self.steps) if reverse else t)
            valid.append(inside)
        return _Tile(share.direction, rows, row, batch, tuple(times), tuple(valid))

    def put(self, at: _Tile, r: int, unit: Affine, value: Expr) -> None:
        """The new hidden state. After the end of a sequence the old one stays, and the output is 0."""
        b, valid = self.b, at.valid[r]
        result = b.tile("result", dtype=self.dtype)
        b.store(result[()], value)
        kept = result[()] if valid is None else ex.where(valid, result[()], self.h[at.row + r, unit])
        shown = result[()] if valid is None else ex.where(valid, result[()], zero(self.dtype))
        b.store(self.next[at.row + r, unit], kept)
        b.store(self.ctx.output_view()[(at.times[r], at.direction.index, at.batch + r, unit)], shown)

    # ---- products with the recurrent weights

    def products(self, share: _Share, gates: Gates, state: Buffer, start: Start, finish: Finish) -> None:
        """See `_Products`."""
        wanted, tile_rows = _Products(gates, state, start, finish), self.tile_rows(share.rows)
        for chunk in self.chunks(len(gates), tile_rows):
            packed = self.pack(share.direction, gates, chunk)
            with self.b.serial("j", chunk.count) as j, self.b.vector("v", chunk.lanes) as v:
                for first, count, rows in pieces(share.rows, tile_rows):
                    with self.b.serial("s", count) as s:
                        self.tile(self.at(share, s * rows + first, rows), _Units(chunk, packed, j, v), wanted)

    def chunks(self, gates: int, rows: int) -> list[_Chunk]:
        full, rest = divmod(self.hidden, self.width)
        operands = rows + 1 if rows > 1 else 1  # a single row takes its weights from memory
        limit = max((self.ctx.target.vector_registers - 2) // (gates * operands), 1)
        found = (
            [_Chunk(f * self.width, n, size, self.width) for f, n, size in pieces(full, min(limit, 8))] if full else []
        )
        return [*found, _Chunk(full * self.width, 1, 1, rest)] if rest else found

    def partial_sums(self, gates: int, chunk: _Chunk) -> int:
        """Of each sum, where few are taken at once by one thread: with more the bits are to be the same."""
        rows = self.tile_rows(min(self.batch, _MOST_ROWS))
        blocks = max((c.blocks for c in self.chunks(gates, rows) if c.lanes == chunk.lanes), default=1)
        return _UNROLL if gates * rows * blocks <= _FEW_SUMS else 1

    def pack(self, direction: Direction, gates: Gates, chunk: _Chunk) -> Buffer | None:
        """[groups, K, gates, blocks, lanes] of the chunk's units, if the weights are known."""
        data = self.ctx.data(WEIGHTS)
        if data is None:
            return None
        key = (direction.index, gates, chunk)
        if key not in self._packed:
            size = chunk.count * chunk.blocks * chunk.lanes
            own = data[direction.index].reshape(self.hidden, self.gates, self.hidden)
            part = own[:, list(gates), chunk.first : chunk.first + size]
            part = part.reshape(self.hidden, len(gates), chunk.count, chunk.blocks, chunk.lanes)
            self._packed[key] = self.ctx.constant(np.ascontiguousarray(part.transpose(2, 0, 1, 3, 4)), "r")
        return self._packed[key]

    def tile(self, at: _Tile, units: _Units, wanted: _Products) -> None:
        """The products of the tile's rows for some units, whose sums for all gates are in registers together."""
        b, gates, rows, blocks = self.b, range(len(wanted.gates)), range(at.rows), range(units.chunk.blocks)
        parts = range(self.partial_sums(len(gates), units.chunk))
        acc = b.tile("acc", len(parts), len(gates), len(rows), len(blocks), dtype=self.dtype)
        places = [(g, r, j) for j in blocks for g in gates for r in rows]
        for g, r, j in places:
            b.store(acc[0, g, r, j], wanted.start(at, wanted.gates[g], r, units.of(j)))
            for part in parts[1:]:
                b.store(acc[part, g, r, j], zero(self.dtype))

        def add(k: Affine, u: Var) -> None:
            part = u if len(parts) > 1 else 0
            for g, r, j in places:
                weight = self.weight(at, units, wanted.gates, (k, g, j))
                b.store(acc[part, g, r, j], multiply_add(wanted.state[at.row + r, k], weight, acc[part, g, r, j]))

        full, rest = divmod(self.hidden, _UNROLL)
        if full:
            with b.serial("k", full) as k, b.unrolled("u", _UNROLL) as u:
                add(k * _UNROLL + u, u)
        if rest:
            with b.unrolled("u", rest) as u:
                add(u + full * _UNROLL, u)
        for j in blocks:
            for r in rows:
                sums = [_total([acc[part, g, r, j] for part in parts]) for g in gates]
                wanted.finish(at, sums, r, units.of(j))

    def weight(self, at: _Tile, units: _Units, gates: Gates, place: tuple[Affine, int, int]) -> Expr:
        """Of unit `k` before in the `g`-th of the gates of the units of block `j`, the place (k, g, j)."""
        k, g, j = place
        if units.packed is not None:
            return units.packed[units.group, k, g, j, units.lane]
        return self.input(WEIGHTS)[(at.direction.index, k, units.of(j) + gates[g] * self.hidden)]


def _total(parts: Sequence[Expr]) -> Expr:
    total, *others = parts
    for other in others:
        total = total + other
    return total


class _Lstm(_Recurrence):
    """Gates in ONNX's order: input, output, forget, cell."""

    def more_states(self) -> list[tuple[Buffer, int]]:
        return [(self.state("c"), CELL)]

    def peephole(self, at: _Tile, place: int, unit: Affine, cell: Expr) -> Expr | None:
        peepholes = self.optional(PEEPHOLES)
        return None if peepholes is None else peepholes[(at.direction.index, unit + place * self.hidden)] * cell

    def step(self, share: _Share) -> None:
        b, cells = self.b, self.state("c")
        gate, candidate, shown = share.direction.activations

        def finish(at: _Tile, sums: list[Expr], r: int, unit: Affine) -> None:
            old = b.kept(cells[at.row + r, unit])

            def gated(g: int, place: int, cell: Expr) -> Expr:
                seen = self.peephole(at, place, unit, cell)
                return gate(sums[g] if seen is None else sums[g] + seen)

            into = b.kept(gated(0, 0, old))
            keep = 1.0 - into if self.flag else gated(2, 2, old)
            new = b.kept(keep * old + into * candidate(sums[3]))
            out = gated(1, 1, new)
            valid = at.valid[r]
            b.store(cells[at.row + r, unit], new if valid is None else ex.where(valid, new, old))
            self.put(at, r, unit, out * shown(new))

        self.products(share, (0, 1, 2, 3), self.h, self.gate, finish)


class _Gru(_Recurrence):
    """Gates in ONNX's order: update, reset, hidden."""

    def step(self, share: _Share) -> None:
        if self.flag:
            self.reset_after(share)
        else:
            self.reset_before(share)

    def mixed(self, at: _Tile, r: int, unit: Affine, update: Expr, candidate: Expr) -> None:
        self.put(at, r, unit, (1.0 - update) * candidate + update * self.h[at.row + r, unit])

    def reset_after(self, share: _Share) -> None:
        """linear_before_reset: the reset gate scales the product."""
        gate, candidate = share.direction.activations
        bias = self.optional(BIAS)

        def start(at: _Tile, g: int, r: int, unit: Affine) -> Expr:
            if g < 2:
                return self.gate(at, g, r, unit)
            return zero(self.dtype) if bias is None else bias[(at.direction.index, unit)]

        def finish(at: _Tile, sums: list[Expr], r: int, unit: Affine) -> None:
            new = candidate(self.gate(at, 2, r, unit) + gate(sums[1]) * sums[2])
            tile = self.b.tile("update", dtype=self.dtype)
            self.b.store(tile[()], gate(sums[0]))
            self.mixed(at, r, unit, tile[()], new)

        self.products(share, (0, 1, 2), self.h, start, finish)

    def reset_before(self, share: _Share) -> None:
        """The reset gate scales what the product is taken of, so that has to wait for it."""
        b, update, scaled = self.b, self.state("update"), self.state("scaled")
        gate, candidate = share.direction.activations

        def finish_gates(at: _Tile, sums: list[Expr], r: int, unit: Affine) -> None:
            place = (at.row + r, unit)
            b.store(update[place], gate(sums[0]))
            b.store(scaled[place], gate(sums[1]) * self.h[place])

        def finish(at: _Tile, sums: list[Expr], r: int, unit: Affine) -> None:
            self.mixed(at, r, unit, update[at.row + r, unit], candidate(sums[0]))

        self.products(share, (0, 1), self.h, self.gate, finish_gates)
        self.products(share, (2,), scaled, self.gate, finish)


class _Rnn(_Recurrence):
    def step(self, share: _Share) -> None:
        (activation,) = share.direction.activations

        def finish(at: _Tile, sums: list[Expr], r: int, unit: Affine) -> None:
            self.put(at, r, unit, activation(sums[0]))

        self.products(share, (0,), self.h, self.gate, finish)
