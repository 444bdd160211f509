"""What a kernel template works on: operands as they lie in memory, the fused epilogue, and the kernel being built.

Templates speak in logical coordinates. For a tensor in channel blocks a point is (n, block, *spatial, lane), for a
plain one an index per dimension; halo, strides and broadcasting are added here.

Lanes of the last channel block beyond the tensor's channels always hold zeros: whoever writes a blocked tensor keeps
that, and whoever reads one may rely on it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Literal

import numpy as np

from glulam.compiler.errors import LoopError
from glulam.compiler.graph.types import Array, DType, Shape
from glulam.compiler.kernels import halo
from glulam.compiler.kernels.halo import Slab
from glulam.compiler.kernels.operand import Operand, pack_channels
from glulam.compiler.kernels.packing import Packing
from glulam.compiler.kernels.ranges import pieces
from glulam.compiler.kernels.rates import OFTEN
from glulam.compiler.loops import expr as ex
from glulam.compiler.loops.builder import Builder
from glulam.compiler.loops.expr import Expr
from glulam.compiler.loops.index import Affine, Bounded, IndexLike, Var
from glulam.compiler.loops.ir import Access, Buffer, Kernel, Load, Partner
from glulam.compiler.targets import Target
from glulam.runtime.foreign import Foreign

Point = tuple[IndexLike, ...]
_COPIED_AS = {DType.BOOL: DType.U8, DType.F16: DType.I16}
Arg = tuple[Literal["input", "output"], int] | Packing


@dataclass(frozen=True)
class Epilogue:
    """What happens to each element of the anchor's result before it is stored.

    `formula` is over Param(0), the result, and Param(k), the element of context input `inputs[k - 1]` at the same
    place.
    """

    formula: Expr = field(default_factory=lambda: ex.Param(0))
    inputs: tuple[int, ...] = ()

    @property
    def is_identity(self) -> bool:
        return isinstance(self.formula, ex.Param)

    @property
    def is_long(self) -> bool:
        """Whether it has functions that are expanded into dozens of instructions."""
        return _calls_function(self.formula)


def _calls_function(e: Expr) -> bool:
    return ex.is_long(e) or any(map(_calls_function, e.children()))


@dataclass(frozen=True)
class View:
    """An operand bound to a buffer of the kernel."""

    operand: Operand
    buffer: Buffer

    @property
    def origin(self) -> tuple[int, ...]:
        """Physical index of the logical point 0."""
        halo = self.operand.layout.halo
        if not halo:
            return (0,) * len(self.buffer.shape)
        rest = (0,) if self.operand.layout.block > 1 else ()
        return (0, 0, *(before for before, _ in halo), *rest)

    def __getitem__(self, point: Point) -> Load:
        return self.buffer[tuple(_moved(place, by) for place, by in zip(point, self.origin, strict=True))]


@dataclass(frozen=True)
class Lowered:
    """A finished kernel with what its parameters are bound to, in order.

    `template` is the one of several that was taken, `refused` names those preferred to it with their reasons. With
    `foreign` the kernel is empty, and its arguments, inputs before outputs, go to that function.
    """

    kernel: Kernel
    args: tuple[Arg, ...]
    template: str = ""
    refused: tuple[tuple[str, str], ...] = ()
    foreign: Foreign | None = None


class Context:
    """One op (or fused region) to lower: its operands, and the kernel as it grows."""

    def __init__(
        self,
        name: str,
        target: Target,
        inputs: Sequence[Operand | None],
        outputs: Sequence[Operand],
        epilogue: Epilogue | None = None,
    ) -> None:
        self.name = name
        self.target = target
        self.inputs = tuple(inputs)
        self.outputs = tuple(outputs)
        self.epilogue = epilogue or Epilogue()
        self.builder = Builder(name)
        self._args: list[Arg] = []
        self._numbers: Sequence[int] = range(len(self.inputs))
        self._views: dict[tuple[str, int], View] = {}
        self._buffers: dict[tuple[object, ...], Buffer] = {}

    # ---- operands

    def operand(self, i: int) -> Operand:
        """Input `i`, which must be there."""
        operand = self.inputs[i]
        if operand is None:
            raise LoopError(f"{self.name}: input {i} is missing")
        return operand

    def has(self, i: int) -> bool:
        """Whether the op itself has input `i`; what only the epilogue reads lies behind the op's own inputs."""
        return i < len(self.inputs) and self.inputs[i] is not None and i not in self.epilogue.inputs

    def data(self, i: int) -> Array | None:
        """The value of the op's own input `i` if it is there and known at compile time."""
        return self.operand(i).data if self.has(i) else None

    @property
    def output(self) -> Operand:
        return self.outputs[0]

    def input_view(self, i: int) -> View:
        return self._view("input", i, self.operand(i), Access.READ)

    def output_view(self, i: int = 0) -> View:
        return self._view("output", i, self.outputs[i], Access.WRITE)

    def _view(self, kind: Literal["input", "output"], i: int, operand: Operand, access: Access) -> View:
        if (kind, i) not in self._views:
            name = f"{'x' if kind == 'input' else 'y'}{i}"
            align = operand.type.dtype.size
            buffer = self.builder.param(
                name, operand.physical_shape, access,
                dtype=operand.type.dtype, strides=operand.physical_strides, align=align,
            )  # fmt: skip
            self._args.append(self._arg(kind, i))
            self._views[kind, i] = View(operand, buffer)
        return self._views[kind, i]

    def _arg(self, kind: Literal["input", "output"], i: int) -> Arg:
        return (kind, self._numbers[i] if kind == "input" else i)

    def by_offset(self, i: int) -> Buffer:
        """Input `i`, in channel blocks, as [N, offsets, *S], halo included.

        The element of a channel lies by an offset, see `Operand.channel_offset`, behind that of channel 0.
        """
        operand = self.operand(i)
        shape, strides = operand.physical_shape, operand.physical_strides
        if ("by_offset", i) not in self._buffers:
            self._buffers["by_offset", i] = self.builder.param(
                f"x{i}o", (shape[0], (shape[1] - 1) * strides[1] + shape[-1], *shape[2:-1]),
                dtype=operand.type.dtype, strides=(strides[0], 1, *strides[2:-1]), align=operand.type.dtype.size,
            )  # fmt: skip
            self._args.append(self._arg("input", i))
        return self._buffers["by_offset", i]

    def words(self, i: int) -> View:
        """Input `i`, bytes in channel blocks, with each four of its lanes as one I32."""
        operand = self.operand(i)
        *shape, lanes = operand.physical_shape
        *strides, _ = operand.physical_strides
        if ("words", i) not in self._buffers:
            self._buffers["words", i] = self.builder.param(
                f"x{i}w", (*shape, lanes // 4),
                dtype=DType.I32, strides=(*(stride // 4 for stride in strides), 1), align=4,
            )  # fmt: skip
            self._args.append(self._arg("input", i))
        return View(operand, self._buffers["words", i])

    def memory(self, kind: Literal["input", "output"], i: int, shape: Shape | None = None) -> Buffer:
        """An operand's memory as a dense array of `shape`, or as one row of elements, strides and halo included.

        For templates that only copy: bool and float16 come as integers of their size.
        """
        operand = self.operand(i) if kind == "input" else self.outputs[i]
        span = math.prod(shape) if shape is not None else operand.span
        key = ("memory", kind, i, shape)
        if key not in self._buffers:
            dtype = copied_as(operand.type.dtype)
            access = Access.READ if kind == "input" else Access.WRITE
            name = f"{'x' if kind == 'input' else 'y'}{i}m{len(self._args)}"
            self._buffers[key] = self.builder.param(name, shape or (span,), access, dtype=dtype, align=dtype.size)
            self._args.append(self._arg(kind, i))
        return self._buffers[key]

    def constant(self, data: Array | Packing, name: str = "w", *, table: bool = False) -> Buffer:
        """A parameter bound to an array that is packed into the model's weights; it may be a view, copied only then.

        A `table` is the same whatever the values of constants are.
        """
        if not isinstance(data, Packing):
            data = Packing.copy(np.atleast_1d(data), table=table)
        buffer = self.builder.param(f"{name}{len(self._args)}", data.shape, dtype=data.dtype)
        self._args.append(data)
        return buffer

    def constant_once(
        self, key: tuple[object, ...], make: Callable[[], Array], name: str = "c", *, table: bool = False
    ) -> Buffer:
        """`constant` of what `make` returns, at the first call with this key; afterwards the same buffer."""
        if key not in self._buffers:
            self._buffers[key] = self.constant(make(), name, table=table)
        return self._buffers[key]

    def read(self, i: int, point: Point, shape: Shape, block: int) -> Expr:
        """Element of input `i` that numpy's broadcasting to `shape` puts at `point`, of a tensor in such blocks."""
        operand = self.operand(i)
        extents = (1,) * (len(shape) - operand.type.rank) + operand.shape
        if operand.data is not None:
            if operand.type.size == 1 and not operand.differs:
                return ex.Const(operand.data.reshape(()).item(), operand.type.dtype)
            data = operand.data.reshape(extents)
            packed = self.constant_once((i, block), lambda: data if block == 1 else pack_channels(data, block))
            return packed[broadcast(point, packed.shape)]
        view = self.input_view(i)
        if block == 1 or operand.layout.block == block:
            lane = (extents[1],) if block > 1 else ()
            index = broadcast(point, (*extents, *lane))
            return view[index[len(index) - len(view.buffer.shape) :]]
        if len(extents) > 1 and extents[1] != 1:
            raise LoopError(f"{self.name}: input {i} is {operand.layout} where channel blocks of {block} are needed")
        index = broadcast(point[:-1], extents)
        return view[index[len(shape) - operand.type.rank :]]

    # ---- results

    def finish(self, value: Expr, point: Point) -> Expr:
        """The epilogue applied to an element of the anchor's result."""
        if self.epilogue.is_identity:
            return value
        shape, block = self.output.shape, self.output.layout.block
        extras = [self.read(i, point, shape, block) for i in self.epilogue.inputs]
        return ex.substitute(self.epilogue.formula, [value, *extras])

    def write(self, point: Point, value: Expr, i: int = 0) -> None:
        """Store one element; lanes beyond the last channel get zeros."""
        operand = self.outputs[i]
        self.builder.store(self.output_view(i)[point], self.masked(value, point, operand))

    def masked(self, value: Expr, point: Point, operand: Operand) -> Expr:
        """The value in lanes that are channels, zero in those beyond them."""
        block = operand.layout.block
        if block == 1 or operand.shape[1] % block == 0:
            return value
        channels = operand.shape[1]

        def lanes() -> Array:
            return (np.arange(operand.blocks * block).reshape(-1, block) < channels).astype(np.float32)

        mask = self.constant_once(("mask", channels, block), lanes, "m", table=True)
        inside = ex.not_equal(mask[point[1], point[-1]], 0.0)
        return ex.where(inside, value, 0 if not operand.type.dtype.is_float else 0.0)

    def fill_halo(self, i: int = 0) -> None:
        """Sections that write the padding around output `i`, if it has any."""
        layout, shape = self.outputs[i].layout, self.outputs[i].shape
        if not layout.has_halo:
            return
        b, buffer = self.builder, self.output_view(i).buffer
        for share in halo.shares(layout, shape, self.target.threads):
            (image, batch), (block, count) = share.images, share.blocks
            for first, times, length in pieces(count, 1 if self.target.many_threads else max(1, count)):
                with b.section(share.leading, n=batch, h=times) as (n, h), b.serial("c", length) as c:
                    head = _moved(n, image), h * length + c + (block + first)
                    for slab in share.slabs:
                        self._fill_slab(buffer, head, slab, layout.block, layout.halo_value)

    def _fill_slab(self, buffer: Buffer, head: tuple[IndexLike, Affine], slab: Slab, block: int, value: float) -> None:
        b = self.builder

        def descend(index: tuple[IndexLike, ...], rest: Slab) -> None:
            if not rest:
                with b.vector("v", block) as v:
                    b.store(buffer[(*index, v)], value)
                return
            (start, length), *inner = rest
            if not inner and block == 1:
                vectors(b, length, self.target.lanes, lambda p: b.store(buffer[(*index, p + start)], value))
                return
            with b.serial("s", length) as s:
                descend((*index, s + start), inner)

        descend(head, slab)

    @contextmanager
    def image_section(
        self, channels: int, rows: Sequence[int], weights: int = 0
    ) -> Iterator[tuple[Var, Var, list[Affine]]]:
        """Parallel loops over images, channel blocks and places in the rows' dimensions, at least one.

        The order is n, h, c, and then the rows' dimensions. If two threads share an image by halves, see `run`, each
        value of h is one half of the first of these; if that cannot be halved, h goes through all of it. `weights` are
        in bytes.
        """
        first, *rest = rows
        parts, length = self.parts(first, weights), 1
        halved = first > 1 and self.run(first, weights) < first
        if parts > 1 or not halved:
            length = first // parts
        inner = {f"o{d}": extent for d, extent in enumerate((length, *rest))}
        outer = {"n": self.output.shape[0], "h": first // length if length else 0}
        with (
            self.builder.of_partner(Partner.BOTH if halved else None),
            self.builder.section(**outer, c=channels, **inner) as (n, h, c, row, *others),
        ):
            yield n, c, [h * length + row, *map(Affine.of, others)]

    def parts(self, rows: int, weights: int = 0) -> int:
        """Into how many equal parts so many rows fall, see `run`."""
        return 2 if rows and rows == 2 * self.run(rows, weights) else 1

    @property
    def rows(self) -> int | None:
        """The axis of the rows of an image of which two threads had better take half each, None if there is none."""
        batch, *_ = shape = self.output.shape or (0,)
        return 2 if self.partners_share_rows and batch == 1 and len(shape) > 3 else None

    @property
    def partners_share_rows(self) -> bool:
        """Whether two threads had better take half of the rows of an image each, however many weights there are."""
        by_channel = any(o is not None and o.by_channel for o in (*self.inputs, *self.outputs))
        return self.target.for_partners and not by_channel

    def run(self, count: int, weights: int, others: int = 0) -> int:
        """How many of `count` rows, or tiles, of an image go through all channels before the next ones do.

        All, unless two threads had better take half of the image each: they find in their own caches what they wrote
        there in the kernel before. Then both read all weights, so these must not be much larger than the pixels: input
        0, the output and what further inputs there are (all in bytes).
        """
        if not self.partners_share_rows:
            return max(1, count)
        pixels = self.operand(0).type.nbytes + self.output.type.nbytes + others
        return max(1, -(-count // 2) if weights <= OFTEN * pixels else count)

    def finished(self) -> Lowered:
        for i in range(len(self.outputs)):
            self.fill_halo(i)
        return Lowered(self.builder.kernel(), tuple(self._args))

    # ---- changes of view

    def join(
        self, whole: Context, numbers: Sequence[int], first: View | None = None, result: View | None = None
    ) -> None:
        """Compute a part of what `whole` computes, in its kernel.

        The inputs are the whole's inputs of these numbers; but `first` is one in scratch memory, before all of those,
        and `result` the output, if that is there. To be called before anything is computed.
        """
        self.builder, self._args = whole.builder, whole._args
        self._numbers = tuple(numbers)
        if first is not None:
            self._views["input", 0] = first
            self._numbers = (-1, *numbers)
        if result is not None:
            self._views["output", 0] = result

    def flattened(self, elementwise: Collection[int] = (), apart: Collection[int] = ()) -> Context | None:
        """The same problem with all spatial dimensions as one, if no operand's memory forbids it.

        Inputs numbered `elementwise`, and those of the epilogue, broadcast to the output as in numpy. Those numbered
        `apart` have spatial extents of their own.
        """
        rank, whole = self.output.type.rank, math.prod(self.output.spatial)
        inputs = list(self.inputs)
        own = {math.prod(self.operand(i).spatial) for i in apart}
        for i in {*elementwise, *self.epilogue.inputs}:
            inputs[i] = self.operand(i).of_rank(rank)
        if any(o is not None and 2 < o.type.rank != rank for o in inputs):
            return None
        for operand in (*(o for o in inputs if o is not None and o.type.rank == rank), *self.outputs):
            if not operand.is_one_row or (math.prod(operand.spatial) not in {1, whole, *own}):
                return None
        flat = [o if o is None or o.type.rank != rank else o.flattened() for o in inputs]
        return Context(self.name, self.target, flat, [o.flattened() for o in self.outputs], self.epilogue)

    def along(self, d: int) -> Context | None:
        """The same problem in one spatial dimension, if there is one place only in the others."""
        rank = self.output.type.rank
        inputs: list[Operand | None] = list(self.inputs)
        for i, operand in enumerate(inputs):
            if i in self.epilogue.inputs:
                operand = self.operand(i).of_rank(rank)
            if operand is not None and operand.type.rank == rank:
                operand = operand.along(d)
                if operand is None:
                    return None
            inputs[i] = operand
        outputs = [output.along(d) for output in self.outputs]
        if any(output is None for output in outputs):
            return None
        return Context(self.name, self.target, inputs, [o for o in outputs if o is not None], self.epilogue)

    def image(self) -> Context:
        """The same problem with sequences [N, C, L] as images [N, C, 1, L]; what the epilogue reads broadcasts."""
        inputs = list(self.inputs)
        for i, operand in enumerate(inputs):
            if i in self.epilogue.inputs and self.output.type.rank == 3:
                inputs[i] = self.operand(i).of_rank(3).as_image()
            elif operand is not None and operand.type.rank == 3 and i not in self.epilogue.inputs:
                inputs[i] = operand.as_image()
        outputs = [o.as_image() if o.type.rank == 3 else o for o in self.outputs]
        return Context(self.name, self.target, inputs, outputs, self.epilogue)


def copied_as(dtype: DType) -> DType:
    """What elements are loaded and stored as where nothing is computed."""
    return _COPIED_AS.get(dtype, dtype)


def _moved(place: IndexLike, by: int) -> IndexLike:
    """The place behind `by` others, which an index computed at run time may reach then."""
    if isinstance(place, Bounded):
        return Bounded(place.value + by, place.extent + by)
    return Affine.of(place) + by if by else place


def broadcast(point: Point, extents: Sequence[int]) -> Point:
    """The point with 0 for each dimension that has only one element."""
    return tuple(Affine.of(0) if extent == 1 else p for p, extent in zip(point, extents, strict=True))


def vectors(b: Builder, extent: int, width: int, body: Callable[[Affine], None]) -> None:
    """`body` for 0 .. extent - 1 in vectors of `width`, and one narrower vector for the rest."""
    full, rest = divmod(extent, width)
    if full:
        with b.serial("i", full) as i, b.vector("v", width) as v:
            body(i * width + v)
    if rest:
        with b.vector("v", rest) as v:
            body(v + full * width)
