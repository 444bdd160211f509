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

    Places with equal `key` are the same, as long as nothing is `gathered`. `lanes` is 0 for one element.
    """

    buffer: Buffer
    pointer: str
    step: int
    gathered: Val | None
    lanes: int
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


class Memory:
    """Addresses are `gep`s from a base that depends on the loop variables, plus a constant; both are numbered."""

    def __init__(
        self,
        function: Function,
        indices: Indices,
        instructions: Instructions,
        pointers: dict[Buffer, str],
        evaluate: Callable[[Expr], Val],
    ) -> None:
        self.function, self.indices, self.instructions = function, indices, instructions
        self.pointers = pointers
        self.evaluate = evaluate  # for indices that are computed at run time

    def load(self, e: Load) -> Val:
        place = self.place(e.buffer, e.index)
        known = self.function.loads
        if place.gathered is None and place.key in known:
            return known[place.key]
        if place.is_contiguous:
            align = e.buffer.dtype.size
            text = self.function.let(f"load {place.type}, ptr {place.pointer}, align {align}")
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
            self.function.do(f"store {place.type} {text}, ptr {place.pointer}, align {buffer.dtype.size}")
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
        lanes = self.indices.lanes if step or gathered else 0
        return _Place(buffer, pointer, step, gathered, lanes, (buffer, base, const, step))

    def clamped(self, entry: Bounded, stride: int) -> Val:
        value, instructions = self.evaluate(entry.value), self.instructions

        def write() -> str:
            least = instructions.integer_extreme("smax", value, Val("0", DType.I64))
            inside = instructions.integer_extreme("smin", least, Val(str(entry.extent - 1), DType.I64))
            return instructions.arith("mul", inside, Val(str(stride), DType.I64)).text

        return replace(value, text=self.function.once(("clamped", value.text, entry.extent, stride), write))

    # ---- lanes apart from each other

    def deinterleave(self, place: _Place) -> str:
        """Vectors of neighbouring elements, none outside those that the lanes want, and a shuffle for each."""
        element, lanes, step = storage_type(place.buffer.dtype), place.lanes, place.step
        first = min(0, (lanes - 1) * step)
        span = (lanes - 1) * abs(step) + 1
        result = "poison"
        for start in range(0, span, lanes):
            start = min(start, span - lanes)
            pointer = place.pointer
            if first + start:
                key = (*place.key, start)
                pointer = self.function.numbered(key, f"getelementptr {element}, ptr {pointer}, i64 {first + start}")
            loaded = self.function.let(f"load {place.type}, ptr {pointer}, align {place.buffer.dtype.size}")
            wanted = [i * step - first - start for i in range(lanes)]
            mask = shuffle_mask(w + lanes if 0 <= w < lanes else i for i, w in enumerate(wanted))
            result = self.function.let(f"shufflevector {place.type} {result}, {place.type} {loaded}, {mask}")
        return result

    def gather(self, place: _Place) -> str:
        pointers, mask, suffix = self.each_lane(place)
        size = str(place.buffer.dtype.size)
        args = [pointers, ("i32", size), mask, (place.type, "poison")]
        return self.function.call(f"llvm.masked.gather.{suffix}", place.type, args)

    def scatter(self, place: _Place, text: str) -> None:
        pointers, mask, suffix = self.each_lane(place)
        size = str(place.buffer.dtype.size)
        args = [(place.type, text), pointers, ("i32", size), mask]
        self.function.call_void(f"llvm.masked.scatter.{suffix}", args)

    def each_lane(self, place: _Place) -> tuple[tuple[str, str], tuple[str, str], str]:
        """Typed operands, a pointer for each lane and the mask of all of them; and how the intrinsic's name ends."""
        lanes, element = place.lanes, storage_type(place.buffer.dtype)
        offsets = lane_steps(lanes, place.step)
        if place.gathered is not None:
            offsets = self.instructions.arith("add", place.gathered, offsets) if place.step else place.gathered
        pointers = self.function.let(f"getelementptr {element}, ptr {place.pointer}, {offsets.typed}")
        mask = f"<{', '.join(['i1 true'] * lanes)}>"
        suffix = f"v{lanes}{storage_suffix(place.buffer.dtype)}.v{lanes}p0"
        return (f"<{lanes} x ptr>", pointers), (f"<{lanes} x i1>", mask), suffix

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
