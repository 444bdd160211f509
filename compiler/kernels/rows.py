"""Kernels over lines: an iteration owns all elements along an axis and passes over them several times.

Softmax, its logarithm and division by a norm along any axis; layer and RMS normalisation over the last ones. Tensors
are plain. The lanes run along a line and are folded onto each other at the end of a pass; or each lane has a line of
its own, where the axis is not the last one or the lines are short.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable

from glulam.compiler.kernels.context import Context, Lowered, View
from glulam.compiler.kernels.ranges import pieces
from glulam.compiler.loops import expr as ex
from glulam.compiler.loops.expr import Const, Expr
from glulam.compiler.loops.index import Affine, Var
from glulam.compiler.loops.ir import Buffer, LaneReduce

Element = Callable[[Affine], Expr]

_SHORT = 8  # lines up to this length leave most lanes idle


def softmax(ctx: Context, axis: int, *, logarithm: bool) -> Lowered:
    """Input 0 to output 0: e**(x - max) / sum(e**(x - max)) along the axis, or its logarithm.

    A largest element that is no number or infinite makes the sum NaN, whatever its powers are.
    """
    ctx = _lines(ctx, axis, axis + 1)

    def logarithms(line: _Line) -> None:
        largest = line.fold("maximum", line.read)
        total = line.fold("add", lambda i: ex.exp_negative(line.x(i) - largest))
        shift = line.b.kept(ex.log(total + (largest - largest)))
        line.each(lambda i: line.store(i, line.x(i) - largest - shift))

    return _over_lines(ctx, logarithms if logarithm else _powers)


def softmax_of_row(ctx: Context, row: Affine) -> None:
    """The softmax of a row of input 0 [rows, length, 1], which may be the output, in the loop that is open.

    It has the bits that `softmax` gives.
    """
    _powers(_Along(ctx, row, Affine.of(0)))


def is_short(length: int) -> bool:
    """Whether lanes had better not run along lines of that length."""
    return length <= _SHORT


def _powers(line: _Line) -> None:
    largest = line.fold("maximum", line.read)

    def power(i: Affine) -> Expr:
        value = line.b.kept(ex.exp_negative(line.x(i) - largest))
        line.put(i, value)
        return value

    factor = line.b.kept(1.0 / (line.fold("add", power) + (largest - largest)))
    line.each(lambda i: line.store(i, line.got(i) * factor))


def layer_norm(ctx: Context, axis: int, epsilon: float) -> Lowered:
    """Inputs x, scale?, bias?: (x - mean) / sqrt(var + epsilon) * scale + bias over the axes from `axis` on."""
    ctx = _lines(ctx, axis, ctx.output.type.rank)
    scale, bias = _parameter(ctx, 1), _parameter(ctx, 2)

    def normalise(line: _Line) -> None:
        share = 1.0 / line.length
        mean = line.b.kept(line.fold("add", line.read) * share)

        def deviation(i: Affine) -> Expr:
            distance = line.x(i) - mean
            return distance * distance

        variance = line.fold("add", deviation) * share
        factor = line.b.kept(1.0 / ex.sqrt(variance + epsilon))

        def result(i: Affine) -> None:
            value = (line.x(i) - mean) * factor
            if scale is not None:
                value = value * scale[i]
            line.store(i, value if bias is None else value + bias[i])

        line.each(result)

    return _over_lines(ctx, normalise)


def rms_norm(ctx: Context, axis: int, epsilon: float) -> Lowered:
    """Inputs x, scale?: x / sqrt(mean of squares + epsilon) * scale over the axes from `axis` on."""
    ctx = _lines(ctx, axis, ctx.output.type.rank)
    scale = _parameter(ctx, 1)

    def normalise(line: _Line) -> None:
        def square(i: Affine) -> Expr:
            value = line.b.kept(line.read(i))
            return value * value

        factor = line.b.kept(1.0 / ex.sqrt(line.fold("add", square) * (1.0 / line.length) + epsilon))

        def result(i: Affine) -> None:
            value = line.x(i) * factor
            line.store(i, value if scale is None else value * scale[i])

        line.each(result)

    return _over_lines(ctx, normalise)


def lp_norm(ctx: Context, axis: int, p: float, epsilon: float) -> Lowered:
    """Input 0 divided by its p-norm along the axis, or by epsilon where that is larger."""
    ctx = _lines(ctx, axis, axis + 1)

    def normalise(line: _Line) -> None:
        def power(i: Affine) -> Expr:
            value = line.b.kept(line.read(i))
            if p == 2:
                return value * value
            size = ex.absolute(value)
            return size if p in (1, math.inf) else size**p

        total = line.fold("maximum" if p == math.inf else "add", power)
        norm = ex.sqrt(total) if p == 2 else total if p in (1, math.inf) else total ** (1 / p)
        factor = line.b.kept(1.0 / ex.maximum(norm, epsilon))
        line.each(lambda i: line.store(i, line.x(i) * factor))

    return _over_lines(ctx, normalise)


def _lines(ctx: Context, first: int, last: int) -> Context:
    """The same problem over tensors [outer, length, inner], where `length` is that of the axes [first, last)."""
    shape = ctx.output.shape
    merged = tuple(math.prod(part) for part in (shape[:first], shape[first:last], shape[last:]))

    inputs = [o if o is None else o.reshaped((merged[1],) if i else merged) for i, o in enumerate(ctx.inputs)]
    return Context(ctx.name, ctx.target, inputs, [ctx.output.reshaped(merged)])


def _parameter(ctx: Context, i: int) -> Buffer | None:
    if i >= len(ctx.inputs) or ctx.inputs[i] is None:
        return None
    data = ctx.data(i)
    return ctx.input_view(i).buffer if data is None else ctx.constant(data)


def _over_lines(ctx: Context, body: Callable[[_Line], None]) -> Lowered:
    """Sections over all lines, with the lanes where they serve best."""
    outer, length, inner = ctx.output.shape
    if not ctx.output.type.size:
        return ctx.finished()
    b, lanes = ctx.builder, ctx.target.vector_bytes // ctx.output.type.dtype.size
    if inner == 1 and not is_short(length):  # whatever `outer` is: a line has the same bits in any batch
        with b.section(o=outer) as (o,):
            body(_Along(ctx, Affine.of(o), Affine.of(0)))
        return ctx.finished()
    head, across = (1, outer) if inner == 1 else (outer, inner)
    copied = length * ctx.target.vector_bytes <= ctx.target.l2_bytes // 4
    copy = b.scratch("line", (length, lanes), ctx.output.type.dtype) if copied else None
    for first, count, width in pieces(across, lanes):
        with b.section(o=head, w=count) as (o, w), b.vector("v", width) as v:
            column = w * width + v + first
            place = (column, Affine.of(0)) if inner == 1 else (Affine.of(o), column)
            body(_Across(ctx, *place, v, copy))
    return ctx.finished()


class _Line(ABC):
    """The elements of one line, numbered along the axis."""

    def __init__(self, ctx: Context, outer: Affine, inner: Affine) -> None:
        self.ctx, self.b, self.outer, self.inner = ctx, ctx.builder, outer, inner
        self.source: View = ctx.input_view(0)
        self.target: View = ctx.output_view()
        self.dtype = ctx.output.type.dtype
        self.length = ctx.output.shape[1]
        self.lanes = ctx.target.vector_bytes // self.dtype.size
        self.chains = ctx.target.vector_registers // 8

    def read(self, i: Affine) -> Expr:
        """An element of the input, the first time."""
        return self.source[(self.outer, i, self.inner)]

    def x(self, i: Affine) -> Expr:
        """An element of the input again."""
        return self.read(i)

    def put(self, i: Affine, value: Expr) -> None:
        """Keep a value per element for a later pass; the input's element is no longer needed."""
        self.store(i, value)

    def got(self, i: Affine) -> Expr:
        """What was put there before."""
        return self.target[(self.outer, i, self.inner)]

    def store(self, i: Affine, value: Expr) -> None:
        self.b.store(self.target[(self.outer, i, self.inner)], value)

    @abstractmethod
    def each(self, body: Callable[[Affine], None]) -> None:
        """`body` for all places of the line."""

    @abstractmethod
    def fold(self, op: str, element: Element) -> Expr:
        """All elements of the line in one register."""

    def loop(self, start: Affine, count: int, step: int, body: Callable[[Affine, int], None]) -> None:
        """body(start + i * step, chain) for i < count, several chains at a time."""
        chains = min(self.chains, count)
        with self.b.serial("i", count // chains) as i:
            for t in range(chains):
                body(start + (i * chains + t) * step, t)
        for t in range(count % chains):
            body(start + (count // chains * chains + t) * step, t)

    def folded(self, op: str, start: Affine, count: int, step: int, element: Element) -> Expr:
        chains = min(self.chains, count)
        acc = self.b.tile("acc", chains, dtype=self.dtype)
        for t in range(chains):
            self.b.store(acc[t], self.identity(op))
        self.loop(start, count, step, lambda i, t: self.b.store(acc[t], ex.binary(op, acc[t], element(i))))
        parts: list[Expr] = [acc[t] for t in range(chains)]
        while len(parts) > 1:
            pairs = [ex.binary(op, x, y) for x, y in zip(parts[::2], parts[1::2], strict=False)]
            parts = [*pairs, *parts[2 * len(pairs) :]]
        return parts[0]

    def identity(self, op: str) -> Const:
        return Const(-math.inf if op == "maximum" else 0.0, self.dtype)


class _Along(_Line):
    """The lanes run along the line."""

    def each(self, body: Callable[[Affine], None]) -> None:
        full, rest = divmod(self.length, self.lanes)
        if full:
            with self.b.vector("v", self.lanes) as v:
                self.loop(Affine.of(v), full, self.lanes, lambda i, _: body(i))
        if rest:
            with self.b.vector("v", rest) as v:
                body(v + full * self.lanes)

    def fold(self, op: str, element: Element) -> Expr:
        total = self.b.tile("total", 1, dtype=self.dtype)
        self.b.store(total[0], self.identity(op))
        for first, count, lanes in pieces(self.length, self.lanes):
            with self.b.vector("v", lanes) as v:
                part = LaneReduce(op, self.folded(op, v + first, count, lanes, element))
                self.b.store(total[0], ex.binary(op, total[0], part))
        return total[0]


class _Across(_Line):
    """Each lane has a line of its own; this is written inside a vector loop.

    A line's elements lie far apart, so passes after the first one work on a private copy of all lanes' lines.
    """

    def __init__(self, ctx: Context, outer: Affine, inner: Affine, lane: Var, copy: Buffer | None) -> None:
        super().__init__(ctx, outer, inner)
        self.lane, self.copy = lane, copy

    def read(self, i: Affine) -> Expr:
        element = super().read(i)
        if self.copy is None:
            return element
        element = self.b.kept(element)
        self.b.store(self.copy[i, self.lane], element)
        return element

    def x(self, i: Affine) -> Expr:
        return super().read(i) if self.copy is None else self.copy[i, self.lane]

    def put(self, i: Affine, value: Expr) -> None:
        if self.copy is None:
            self.store(i, value)
        else:
            self.b.store(self.copy[i, self.lane], value)

    def got(self, i: Affine) -> Expr:
        return super().got(i) if self.copy is None else self.copy[i, self.lane]

    def each(self, body: Callable[[Affine], None]) -> None:
        self.loop(Affine.of(0), self.length, 1, lambda i, _: body(i))

    def fold(self, op: str, element: Element) -> Expr:
        return self.b.kept(self.folded(op, Affine.of(0), self.length, 1, element))
