"""Loads and stores: addresses of buffer elements, vectors that lie together, and gathered or scattered ones."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from glulam.compiler.codegen.function import Function
from glulam.compiler.codegen.indices import Indices
from glulam.compiler.codegen.instructions import Instructions
from glulam.compiler.codegen.llvm_types import Val, lane_steps, shuffle_mask, storage_suffix, storage_type, vector_type
from glulam.compiler.errors import LoopError
from glulam.compiler.graph.types import DType
from glulam.compiler.loops.expr import Expr
from glulam.compiler.loops.index import Bounded, Index
from glulam.compiler.loops.ir import Access, Buffer, Load

_LOCALITY = {1: "3", 2: "1"}  # LLVM's, by the level of the cache
_NEAR = 4  # elements from lane to lane up to which shuffles beat a gather


@dataclass(frozen=True)
class _Place:
    """An element for each lane: `pointer` plus `step` elements a lane, plus offsets that are known only at run time.

    Places with equal `key` are the same, as long as nothing is `gathered`. `lanes` is 0 for one element; of others the
    first `wanted` have a place.
    """

    buffer: Buffer
    pointer: str
    step: int
    gathered: Val | None
    lanes: int
    wanted: int
    key: tuple[Buffer, str | None, int, int]

    @property
    def is_contiguous(self) -> bool:
        return self.gathered is None and self.step in (0, 1)

    @property
    def is_near(self) -> bool:
        """Whether few vectors hold all the elements."""
        return self.gathered is None and abs(self.step) <= _NEAR

    @property
    def type(self) -> str:
        return vector_type(storage_type(self.buffer.dtype), self.lanes)

    @property
    def suffix(self) -> str:
        """How intrinsics name the type."""
        return f"v{self.lanes}{storage_suffix(self.buffer.dtype)}"

    @property
    def mask(self) -> tuple[str, str]:
        """The lanes that have a place, as a typed operand."""
        lanes = ", ".join(f"i1 {'true' if lane < self.wanted else 'false'}" for lane in range(self.lanes))
        return f"<{self.lanes} x i1>", f"<{lanes}>"


class Memory:
    """Addresses are `gep`s from a base that depends on the loop variables, plus a constant; both are numbered.

    `masks` tells whether the processor loads and stores some lanes of a vector as fast as all of them.
    """

    def __init__(
        self,
        function: Function,
        indices: Indices,
        instructions: Instructions,
        masks: bool,
        pointers: dict[Buffer, str],
        evaluate: Callable[[Expr], Val],
    ) -> None:
        self.function, self.indices, self.instructions = function, indices, instructions
        self.masks = masks
        self.pointers = pointers
        self.evaluate = evaluate  # for indices that are computed at run time

    def load(self, e: Load) -> Val:
        place = self.place(e.buffer, e.index)
        known = self.function.loads
        if place.gathered is None and place.key in known:
            return known[place.key]
        if place.is_contiguous:
            text = self.neighbours(place, place.pointer)
        elif place.is_near:
            text = self.deinterleave(place)
        else:
            text = self.gather(place)
        result = self.from_storage(text, e.buffer.dtype, place.lanes)
        if place.gathered is None:
            known[place.key] = result
        return result

    def store(self, buffer: Buffer, index: tuple[Index, ...], value: Val) -> None:
        place = self.place(buffer, index)
        if value.lanes and not place.lanes:
            raise LoopError(f"{self.instructions.where}: a vector stored to one place of {buffer.name}")
        text = self.to_storage(self.instructions.splat(value, place.lanes), buffer.dtype)
        if place.is_contiguous:
            self.store_neighbours(place, text)
        else:
            self.scatter(place, text)
        loads = self.function.loads
        for known in [k for k in loads if isinstance(k, tuple) and k[0].access is not Access.READ]:
            del loads[known]

    def prefetch(self, buffer: Buffer, index: tuple[Index, ...], level: int) -> None:
        """Ask for the line to be read into the cache of this level."""
        pointer = self.place(buffer, index).pointer
        locality = _LOCALITY[level]
        self.function.call_void("llvm.prefetch.p0", [("ptr", pointer), ("i32", "0"), ("i32", locality), ("i32", "1")])

    # ---- addresses

    def place(self, buffer: Buffer, index: tuple[Index, ...]) -> _Place:
        terms: dict[str, int] = {}
        const = step = 0
        gathered: Val | None = None
        for entry, stride in zip(index, buffer.strides, strict=True):
            if isinstance(entry, Bounded):
                offset = self.clamped(entry, stride)
                if offset.lanes:
                    gathered = offset if gathered is None else self.instructions.arith("add", gathered, offset)
                else:
                    terms[offset.text] = terms.get(offset.text, 0) + 1
            else:
                c, s = self.indices.split(entry, stride, terms)
                const, step = const + c, step + s
        element, numbered = storage_type(buffer.dtype), self.function.numbered
        base, pointer = self.indices.sum(terms), self.pointers[buffer]
        if base is not None:
            pointer = numbered((buffer, base), f"getelementptr {element}, ptr {pointer}, i64 {base}")
            if any(self.indices.is_expanded(entry) for entry in index if not isinstance(entry, Bounded)):
                # These accesses are to share one base and differ in displacement. LLVM's loop strength reduction would
                # rather keep a pointer for each of them, and spill most, so the base is hidden from it.
                pointer = numbered(("opaque", buffer, base), f'call ptr asm "", "=r,0"(ptr {pointer})')
        if const:
            pointer = numbered((buffer, base, const), f"getelementptr {element}, ptr {pointer}, i64 {const}")
        lanes, wanted = (self.indices.lanes, self.indices.wanted) if step or gathered else (0, 0)
        return _Place(buffer, pointer, step, gathered, lanes, wanted, (buffer, base, const, step))

    def clamped(self, entry: Bounded, stride: int) -> Val:
        value, instructions = self.evaluate(entry.value), self.instructions

        def write() -> str:
            least = instructions.integer_extreme("smax", value, Val("0", DType.I64))
            inside = instructions.integer_extreme("smin", least, Val(str(entry.extent - 1), DType.I64))
            return instructions.arith("mul", inside, Val(str(stride), DType.I64)).text

        return replace(value, text=self.function.once(("clamped", value.text, entry.extent, stride), write))

    # ---- lanes together

    def neighbours(self, place: _Place, pointer: str) -> str:
        """The elements from a pointer on, as many as the place wants, in the first lanes."""
        size = place.buffer.dtype.size
        if place.wanted == place.lanes:
            return self.function.let(f"load {place.type}, ptr {pointer}, align {size}")
        if self.masks:
            args = [("ptr", pointer), ("i32", str(size)), place.mask, (place.type, "zeroinitializer")]
            return self.function.call(f"llvm.masked.load.{place.suffix}.p0", place.type, args)
        fewer = vector_type(storage_type(place.buffer.dtype), place.wanted)
        loaded = self.function.let(f"load {fewer}, ptr {pointer}, align {size}")
        places = shuffle_mask(min(i, place.wanted) for i in range(place.lanes))
        return self.function.let(f"shufflevector {fewer} {loaded}, {fewer} zeroinitializer, {places}")

    def store_neighbours(self, place: _Place, text: str) -> None:
        """The first lanes, as many as the place wants, at neighbouring elements."""
        size, type_ = place.buffer.dtype.size, place.type
        if place.wanted < place.lanes and self.masks:
            args = [(type_, text), ("ptr", place.pointer), ("i32", str(size)), place.mask]
            self.function.call_void(f"llvm.masked.store.{place.suffix}.p0", args)
            return
        if place.wanted < place.lanes:
            places = shuffle_mask(range(place.wanted))
            text = self.function.let(f"shufflevector {type_} {text}, {type_} poison, {places}")
            type_ = vector_type(storage_type(place.buffer.dtype), place.wanted)
        self.function.do(f"store {type_} {text}, ptr {place.pointer}, align {size}")

    # ---- lanes apart from each other

    def deinterleave(self, place: _Place) -> str:
        """Vectors of neighbouring elements, none outside those that the lanes want, and a shuffle for each."""
        element, lanes, step = storage_type(place.buffer.dtype), place.lanes, place.step
        first = min(0, (place.wanted - 1) * step)
        span = (place.wanted - 1) * abs(step) + 1
        every = place if span < lanes else replace(place, wanted=lanes)
        result = "poison"
        for start in range(0, span, lanes):
            start = min(start, max(0, span - lanes))
            pointer = place.pointer
            if first + start:
                key = (*place.key, start)
                pointer = self.function.numbered(key, f"getelementptr {element}, ptr {pointer}, i64 {first + start}")
            loaded = self.neighbours(every, pointer)
            sources = [i * step - first - start for i in range(place.wanted)]
            mask = [at + lanes if 0 <= at < lanes else i for i, at in enumerate(sources)]
            mask += range(place.wanted, lanes)
            result = self.function.let(
                f"shufflevector {place.type} {result}, {place.type} {loaded}, {shuffle_mask(mask)}"
            )
        return result

    def gather(self, place: _Place) -> str:
        align = ("i32", str(place.buffer.dtype.size))
        args = [self.each_lane(place), align, place.mask, (place.type, "zeroinitializer")]
        return self.function.call(f"llvm.masked.gather.{place.suffix}.v{place.lanes}p0", place.type, args)

    def scatter(self, place: _Place, text: str) -> None:
        align = ("i32", str(place.buffer.dtype.size))
        args = [(place.type, text), self.each_lane(place), align, place.mask]
        self.function.call_void(f"llvm.masked.scatter.{place.suffix}.v{place.lanes}p0", args)

    def each_lane(self, place: _Place) -> tuple[str, str]:
        """A pointer for each lane, as a typed operand."""
        offsets = lane_steps(place.lanes, place.step)
        if place.gathered is not None:
            offsets = self.instructions.arith("add", place.gathered, offsets) if place.step else place.gathered
        element = storage_type(place.buffer.dtype)
        pointers = self.function.let(f"getelementptr {element}, ptr {place.pointer}, {offsets.typed}")
        return f"<{place.lanes} x ptr>", pointers

    # ---- booleans are bytes in memory

    def from_storage(self, text: str, dtype: DType, lanes: int) -> Val:
        if dtype is DType.BOOL:
            zero = "zeroinitializer" if lanes else "0"
            text = self.function.let(f"icmp ne {vector_type('i8', lanes)} {text}, {zero}")
        return Val(text, dtype, lanes)

    def to_storage(self, value: Val, dtype: DType) -> str:
        if dtype is DType.BOOL:
            return self.function.let(f"zext {value.typed} to {vector_type('i8', value.lanes)}")
        return value.text
