"""The slow interpreter of kernels, which defines the loop IR: each statement as it stands, lanes as numpy vectors.

Every statement becomes a Python function once, which is called in each iteration. What a statement computes is a list
of steps, each of which takes the values of those before it, so that what expressions share is computed once.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any, assert_never

import numpy as np

from glulam.compiler.errors import LoopError
from glulam.compiler.graph.types import Array, DType
from glulam.compiler.loops.expr import BINARY, Const, Expr, operation
from glulam.compiler.loops.index import Affine, Index, Var
from glulam.compiler.loops.ir import (
    Buffer,
    ByteDot,
    Declare,
    For,
    IndexValue,
    Kernel,
    Kind,
    LanePick,
    LaneReduce,
    LaneShuffle,
    Load,
    Prefetch,
    Span,
    Stmt,
    Store,
    Tile,
    TileRead,
    TileWrite,
)

Run = Callable[[], None]
Step = Callable[[list[Any]], Any]
"""Takes the values of the steps before it: scalars, or vectors of all lanes of the vector loop around."""


def interpret(kernel: Kernel, arguments: Mapping[str, Array]) -> None:
    """Run the kernel on flat arrays, one for each parameter by name, holding at least the buffer's span of elements."""
    memory = {b: arguments[b.name] for b in kernel.params}
    for buffer in kernel.params:
        if memory[buffer].ndim != 1 or memory[buffer].size < buffer.span:
            raise LoopError(f"argument {buffer.name} must be flat with at least {buffer.span} elements")
    scratch = {b: np.empty(b.span, b.dtype.numpy) for b in kernel.scratch}
    for section in kernel.sections:
        state = _State(memory | scratch)
        run = state.body(section.body, lanes=1)
        for point in itertools.product(*(range(v.extent) for v in section.vars)):
            state.env.update(zip(section.vars, point, strict=True))
            with np.errstate(all="ignore"):
                for buffer, array in scratch.items():
                    array.fill(np.nan if buffer.dtype.is_float else np.array(-1).astype(array.dtype))
                run()


class _State:
    """Memory, loop variables and tiles, and the functions that statements become, which change them.

    A variable of a vector loop is bound to all its values at once. `lanes` are those of the vector loop around.
    """

    def __init__(self, memory: Mapping[Buffer, Array]) -> None:
        self.memory = memory
        self.env: dict[Var, Any] = {}
        self.tiles: dict[Tile, dict[int, Any]] = {}

    def body(self, body: Iterable[Stmt], lanes: int) -> Run:
        runs = [self.statement(stmt, lanes) for stmt in body]

        def run() -> None:
            for each in runs:
                each()

        return run

    def statement(self, stmt: Stmt, lanes: int) -> Run:
        match stmt:
            case For(var, Kind.VECTOR, body):
                return self.loop(var, lambda: [np.arange(var.extent)], self.body(body, var.extent))
            case For(var, _, body, span):
                return self.loop(var, self.iterations(var, span, lanes), self.body(body, lanes))
            case Store(buffer, index, value):
                return self.store(buffer, index, value, lanes)
            case TileWrite(tile, index, value):
                return self.tile_write(tile, index, value, lanes)
            case Declare(tile):
                return self.elements(tile).clear
            case Prefetch():
                return lambda: None
            case _:
                assert_never(stmt)

    def loop(self, var: Var, iterations: Callable[[], Iterable[Any]], body: Run) -> Run:
        env = self.env

        def run() -> None:
            for i in iterations():
                env[var] = i
                body()
            env.pop(var, None)

        return run

    def iterations(self, var: Var, span: Span | None, lanes: int) -> Callable[[], range]:
        if span is None:
            return lambda: range(var.extent)
        steps = _Steps(self, lanes)
        first, end = steps.of(span.first), steps.of(span.end)

        def some() -> range:
            values = steps.run()
            return range(max(0, int(values[first])), min(var.extent, int(values[end])))

        return some

    def store(self, buffer: Buffer, index: tuple[Index, ...], value: Expr, lanes: int) -> Run:
        array, steps = self.memory[buffer], _Steps(self, lanes)
        result, place = steps.of(value), steps.place(buffer, index)

        def run() -> None:
            values = steps.run()
            array[place(values)] = values[result]

        return run

    def tile_write(self, tile: Tile, index: tuple[Affine, ...], value: Expr, lanes: int) -> Run:
        elements, number, steps = self.elements(tile), self.affine(_row_major(tile, index)), _Steps(self, lanes)
        result = steps.of(value)

        def run() -> None:
            values = steps.run()
            elements[number(values)] = values[result]

        return run

    def elements(self, tile: Tile) -> dict[int, Any]:
        """Those that were written, by their number in row-major order."""
        return self.tiles.setdefault(tile, {})

    def affine(self, index: Affine) -> Step:
        env, const = self.env, index.const
        match tuple(index.terms.items()):
            case ():
                return lambda _: const
            case ((var, k),):
                return lambda _: env[var] * k + const
            case ((var, k), (other, m)):
                return lambda _: env[var] * k + env[other] * m + const
            case terms:
                return lambda _: sum([env[var] * k for var, k in terms], const)


class _Steps:
    """What one statement computes, each expression once."""

    def __init__(self, state: _State, lanes: int) -> None:
        self.state = state
        self.lanes = lanes
        self.steps: list[Step] = []
        self.numbers: dict[int, int] = {}

    def run(self) -> list[Any]:
        values: list[Any] = []
        for step in self.steps:
            values.append(step(values))
        return values

    def of(self, e: Expr) -> int:
        """The number of the expression's value."""
        if id(e) not in self.numbers:
            step = self.step(e)
            self.numbers[id(e)] = len(self.steps)
            self.steps.append(step)
        return self.numbers[id(e)]

    def step(self, e: Expr) -> Step:
        lanes = self.lanes
        match e:
            case Const(value, dtype):
                constant = dtype.numpy.type(value)
                return lambda _: constant
            case Load(buffer, index):
                array, place = self.state.memory[buffer], self.place(buffer, index)
                return lambda values: array[place(values)]
            case TileRead(tile, index):
                return self.tile_read(tile, index)
            case IndexValue(index):
                affine = self.state.affine(index)
                return lambda values: np.asarray(affine(values)).astype(DType.I64.numpy)
            case LaneReduce(op, x):
                number = self.of(x)
                return lambda values: _fold(op, np.broadcast_to(values[number], lanes))
            case LaneShuffle(x, y, order):
                return _on_two(_shuffled(list(order)), self.of(x), self.of(y))
            case ByteDot():
                number = self.of(e.expansion())
                return lambda values: values[number]
            case LanePick(x, lane):
                return _on_two(_picked(lanes), self.of(x), self.of(lane))
        match operation(e), [self.of(child) for child in e.children()]:
            case function, [first]:
                return lambda values: function(values[first])
            case function, [first, second]:
                return _on_two(function, first, second)
            case function, [first, second, third]:
                return lambda values: function(values[first], values[second], values[third])
        raise LoopError(f"{type(e).__name__} has no such number of operands")

    def tile_read(self, tile: Tile, index: tuple[Affine, ...]) -> Step:
        elements, number = self.state.elements(tile), self.state.affine(_row_major(tile, index))

        def read(values: list[Any]) -> Any:
            try:
                return elements[number(values)]
            except KeyError:
                raise LoopError(f"tile {tile.name} is read before it is written") from None

        return read

    def place(self, buffer: Buffer, index: tuple[Index, ...]) -> Step:
        """Of an element in the flat buffer. Indices that might leave it are looked at each time."""
        known, others = Affine(), list[tuple[Step, int]]()
        for entry, stride, extent in zip(index, buffer.strides, buffer.shape, strict=True):
            if isinstance(entry, Affine) and _within(entry.bounds(), extent):
                known = known + entry * stride
            else:
                others.append((self.entry(entry, extent, buffer.name), stride))
        start = self.state.affine(known)
        if not others:
            return start
        return lambda values: start(values) + sum([entry(values) * stride for entry, stride in others])

    def entry(self, entry: Index, extent: int, buffer: str) -> Step:
        if isinstance(entry, Affine):
            return _checked(self.state.affine(entry), extent, buffer)
        clamped = _clamped(self.of(entry.value), entry.extent - 1)
        return clamped if entry.extent <= extent else _checked(clamped, extent, buffer)


def _clamped(number: int, last: int) -> Step:
    return lambda values: np.minimum(np.maximum(values[number], 0), last)


def _within(bounds: tuple[int, int], extent: int) -> bool:
    return bounds[0] >= 0 and bounds[1] < extent


def _checked(entry: Step, extent: int, buffer: str) -> Step:
    def checked(values: list[Any]) -> Any:
        place = entry(values)
        if not _within((np.min(place), np.max(place)), extent):
            raise LoopError(f"an access leaves buffer {buffer}")
        return place

    return checked


def _row_major(tile: Tile, index: tuple[Affine, ...]) -> Affine:
    """The number of a tile's element."""
    return sum((entry * math.prod(tile.shape[d + 1 :]) for d, entry in enumerate(index)), Affine())


def _on_two(function: Callable[[Any, Any], Any], first: int, second: int) -> Step:
    return lambda values: function(values[first], values[second])


def _shuffled(order: list[int]) -> Callable[[Any, Any], Any]:
    return lambda x, y: np.concatenate([np.broadcast_to(side, len(order)) for side in (x, y)])[order]


def _picked(lanes: int) -> Callable[[Any, Any], Any]:
    return lambda x, lane: np.broadcast_to(x, lanes)[np.broadcast_to(lane, lanes) % lanes]


def _fold(op: str, lanes: Array) -> Any:
    """Pairwise from the halves, like the emitted code, so that float sums have the same bits."""
    while lanes.size > 1:
        half = lanes.size // 2
        folded = BINARY[op](lanes[:half], lanes[half : 2 * half])
        lanes = np.concatenate([folded, lanes[2 * half :]])
    return lanes[0]
