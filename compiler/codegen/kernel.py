"""One kernel of the loop IR as LLVM IR text. No decisions: each loop and expression has one translation.

Register tiles become SSA values: a serial loop carries the elements its body writes as phis. Addresses are `gep`s from
a base that depends on the loop variables, plus a constant; both are numbered per scope, so unrolled bodies stay small.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from glulam.compiler.codegen import half, maths
from glulam.compiler.errors import LoopError
from glulam.compiler.graph.types import DType
from glulam.compiler.loops import expr as ex
from glulam.compiler.loops.expr import Expr
from glulam.compiler.loops.ir import (
    Access,
    Affine,
    Bounded,
    Buffer,
    Declare,
    For,
    Index,
    IndexValue,
    Kernel,
    Kind,
    LaneReduce,
    LaneShuffle,
    Load,
    Section,
    Stmt,
    Store,
    Tile,
    TileRead,
    TileWrite,
    Var,
    scratch_size,
    statements,
)
from glulam.compiler.targets import Target

LLVM_TYPE = {
    DType.F32: "float",
    DType.F64: "double",
    DType.F16: "half",
    DType.I64: "i64",
    DType.I32: "i32",
    DType.I16: "i16",
    DType.I8: "i8",
    DType.U8: "i8",
    DType.BOOL: "i1",
}

_FLOAT = {"add": "fadd", "sub": "fsub", "mul": "fmul", "div": "fdiv", "fmod": "frem"}
_SIGNED = {"add": "add", "sub": "sub", "mul": "mul", "div": "sdiv", "fmod": "srem"}
_UNSIGNED = _SIGNED | {"div": "udiv", "fmod": "urem"}
_BITS = {"and": "and", "or": "or", "xor": "xor", "shl": "shl"}
_INTRINSIC = {"abs": "fabs", "sqrt": "sqrt", "floor": "floor", "ceil": "ceil", "round": "roundeven"}
_INTRINSIC |= {"sin": "sin", "cos": "cos", "exp": "exp", "log": "log", "tanh": "tanh"}
_FCMP = {"lt": "olt", "le": "ole", "gt": "ogt", "ge": "oge", "eq": "oeq", "ne": "une"}
_SUFFIX = {DType.F32: "f32", DType.F64: "f64", DType.F16: "f16"}
_FLOAT_BITS = {DType.F16: 16, DType.F32: 32, DType.F64: 64}


@dataclass(frozen=True)
class Val:
    """An SSA name or a literal; `lanes` is 0 for a scalar."""

    text: str
    dtype: DType
    lanes: int = 0

    @property
    def type(self) -> str:
        return vector_type(LLVM_TYPE[self.dtype], self.lanes)


def vector_type(element: str, lanes: int) -> str:
    return f"<{lanes} x {element}>" if lanes else element


def emit_kernel(kernel: Kernel, target: Target) -> tuple[str, set[str]]:
    """LLVM text of the function, and the declarations it needs."""
    emitter = _Emitter(kernel, target)
    return emitter.function(), emitter.declarations


@dataclass
class _Scope:
    """What has been computed and still dominates: numbered integers and addresses; loads of this block only."""

    numbers: dict[object, str] = field(default_factory=dict)
    loads: dict[object, Val] = field(default_factory=dict)


class _Emitter:
    def __init__(self, kernel: Kernel, target: Target) -> None:
        self.kernel = kernel
        self.target = target
        self.lines: list[str] = []
        self.declarations: set[str] = set()
        self.count = 0
        self.block = "entry"
        self.env: dict[Var, str | int] = {}
        self.vector: Var | None = None
        self.tiles: dict[tuple[Tile, tuple[int, ...]], Val] = {}
        self.tile_lanes: dict[Tile, int] = {}
        self.scopes = [_Scope()]
        self.pointer = {b: f"%a{i}" for i, b in enumerate(kernel.params)}

    # ---- text

    def function(self) -> str:
        params = [f"ptr {self.pointer[b]}" for b in self.kernel.params]
        head = ", ".join([*params, "ptr %scratch", "i64 %begin", "i64 %end"])
        offset = 0
        for buffer in self.kernel.scratch:
            self.pointer[buffer] = self.let(f"getelementptr i8, ptr %scratch, i64 {offset}")
            offset += scratch_size(buffer)
        first = 0
        for section in self.kernel.sections:
            self.section(section, first)
            first += section.extent
        body = "\n".join(self.lines)
        return f"define internal void @{self.kernel.name}({head}) #0 {{\nentry:\n{body}\n  ret void\n}}\n"

    def name(self, hint: str = "v") -> str:
        self.count += 1
        return f"%{hint}.{self.count}"

    def let(self, text: str, hint: str = "v") -> str:
        name = self.name(hint)
        self.lines.append(f"  {name} = {text}")
        return name

    def label(self, hint: str) -> str:
        self.count += 1
        return f"{hint}.{self.count}"

    def open_block(self, label: str) -> None:
        self.lines.append(f"{label}:")
        self.block = label

    def call(self, intrinsic: str, result: str, args: Sequence[tuple[str, str]]) -> str:
        signature = ", ".join(type for type, _ in args)
        self.declarations.add(f"declare {result} @{intrinsic}({signature})")
        return self.let(f"call {result} @{intrinsic}({', '.join(f'{t} {v}' for t, v in args)})")

    # ---- loops

    def section(self, section: Section, first: int) -> None:
        extent, i64 = section.extent, "i64"
        low = self.let(f"sub i64 %begin, {first}")
        low = self.call("llvm.smax.i64", i64, [(i64, low), (i64, "0")])
        high = self.let(f"sub i64 %end, {first}")
        high = self.call("llvm.smin.i64", i64, [(i64, high), (i64, str(extent))])
        busy = self.let(f"icmp slt i64 {low}, {high}")
        head, exit_ = self.label("section"), self.label("sectionend")
        before = self.block
        self.lines.append(f"  br i1 {busy}, label %{head}, label %{exit_}")
        self.open_block(head)
        p, slot = self.name("p"), len(self.lines)
        self.lines.append("")
        self.push()
        rest = p
        for var in reversed(section.vars):
            if var.extent == 1:
                self.env[var] = 0
            elif var is section.vars[0] or all(v.extent == 1 for v in section.vars[: section.vars.index(var)]):
                self.env[var] = rest
            else:
                self.env[var] = self.let(f"urem i64 {rest}, {var.extent}", var.name)
                rest = self.let(f"udiv i64 {rest}, {var.extent}")
        self.body(section.body)
        self.pop()
        following = self.let(f"add nuw nsw i64 {p}, 1")
        self.lines[slot] = f"  {p} = phi i64 [ {low}, %{before} ], [ {following}, %{self.block} ]"
        more = self.let(f"icmp slt i64 {following}, {high}")
        self.lines.append(f"  br i1 {more}, label %{head}, label %{exit_}")
        self.open_block(exit_)

    def push(self) -> None:
        self.scopes.append(_Scope())

    def pop(self) -> None:
        self.scopes.pop()
        self.scopes[-1].loads.clear()

    def body(self, body: Iterable[Stmt]) -> None:
        for stmt in body:
            match stmt:
                case For(var, kind, inner):
                    self.loop(var, kind, inner)
                case Store(buffer, index, value):
                    self.store(buffer, index, value)
                case Declare(tile):
                    self.tile_lanes[tile] = self.vector.extent if self.vector else 0
                    self.tiles = {key: value for key, value in self.tiles.items() if key[0] is not tile}
                case TileWrite(tile, index, value):
                    lanes = self.tile_lanes[tile]
                    result = self.value(value, {})
                    if result.lanes != lanes:
                        result = self.splat(result, lanes)
                    self.tiles[tile, self.constant(index)] = result

    def loop(self, var: Var, kind: Kind, body: list[Stmt]) -> None:
        if kind is Kind.VECTOR:
            self.vector = var
            self.body(body)
            self.vector = None
        elif kind is Kind.UNROLLED or var.extent == 1:
            for i in range(var.extent):
                self.env[var] = i
                self.body(body)
        else:
            self.serial(var, body)

    def serial(self, var: Var, body: list[Stmt]) -> None:
        written = {stmt.tile for stmt in statements(body) if isinstance(stmt, TileWrite)}
        carried = [key for key in self.tiles if key[0] in written]
        entering = {key: self.tiles[key] for key in carried}
        before, head = self.block, self.label(var.name)
        self.lines.append(f"  br label %{head}")
        self.open_block(head)
        index, slot = self.name(var.name), len(self.lines)
        self.lines.extend([""] * (1 + len(carried)))
        phis = {}
        for key in carried:
            phis[key] = self.tiles[key] = Val(self.name("acc"), entering[key].dtype, entering[key].lanes)
        self.env[var] = index
        self.push()
        self.body(body)
        self.pop()
        following = self.let(f"add nuw nsw i64 {index}, 1")
        latch = self.block
        self.lines[slot] = f"  {index} = phi i64 [ 0, %{before} ], [ {following}, %{latch} ]"
        for i, key in enumerate(carried):
            phi, new, old = phis[key], self.tiles[key], entering[key]
            self.lines[slot + 1 + i] = (
                f"  {phi.text} = phi {phi.type} [ {old.text}, %{before} ], [ {new.text}, %{latch} ]"
            )
        more = self.let(f"icmp ult i64 {following}, {var.extent}")
        exit_ = self.label("end")
        self.lines.append(f"  br i1 {more}, label %{head}, label %{exit_}")
        self.open_block(exit_)

    # ---- memory

    def constant(self, index: tuple[Affine, ...]) -> tuple[int, ...]:
        """A tile's place; its variables are unrolled, so they are numbers here."""
        place = []
        for entry in index:
            total = entry.const
            for var, k in entry.terms.items():
                bound = self.env[var]
                if not isinstance(bound, int):
                    raise LoopError(f"index {entry} of a tile is not constant; unroll its loop")
                total += bound * k
            place.append(total)
        return tuple(place)

    def split(self, index: Affine, scale: int, terms: dict[str, int]) -> tuple[int, int]:
        """Add the index times `scale` to `terms` by SSA name; the constant part and the lanes' step are returned."""
        const, step = index.const * scale, 0
        for var, k in index.terms.items():
            if var is self.vector:
                step += k * scale
                continue
            bound = self.env[var]
            if isinstance(bound, int):
                const += bound * k * scale
            else:
                terms[bound] = terms.get(bound, 0) + k * scale
        return const, step

    def numbered(self, key: object, text: str) -> str:
        for scope in reversed(self.scopes):
            if key in scope.numbers:
                return scope.numbers[key]
        return self.scopes[-1].numbers.setdefault(key, self.let(text))

    def sum(self, terms: dict[str, int]) -> str | None:
        """SSA name of the sum of the terms, None if there are none."""
        total: str | None = None
        key: tuple[tuple[str, int], ...] = ()
        for name, k in terms.items():
            key = (*key, (name, k))
            product = name if k == 1 else self.numbered((name, k), f"mul nsw i64 {name}, {k}")
            total = product if total is None else self.numbered(key, f"add nsw i64 {total}, {product}")
        return total

    def address(self, buffer: Buffer, index: tuple[Index, ...]) -> tuple[str, object, int, Val | None, bool]:
        """Pointer, a key that names the place, the lanes' step, gathered lane offsets, and whether it is affine."""
        terms: dict[str, int] = {}
        const = step = 0
        gathered: Val | None = None
        for entry, stride in zip(index, buffer.strides, strict=True):
            if isinstance(entry, Bounded):
                place = self.clamped(entry, stride)
                if place.lanes:
                    gathered = place if gathered is None else self.arith("add", gathered, place)
                else:
                    terms[place.text] = terms.get(place.text, 0) + 1
            else:
                c, s = self.split(entry, stride, terms)
                const, step = const + c, step + s
        element = storage_type(buffer.dtype)
        base, pointer = self.sum(terms), self.pointer[buffer]
        if base is not None:
            pointer = self.numbered((buffer, base), f"getelementptr {element}, ptr {pointer}, i64 {base}")
            if self.is_expanded(index):
                pointer = self.numbered(("opaque", buffer, base), f'call ptr asm "", "=r,0"(ptr {pointer})')
        key = (buffer, base, const, step)
        if const:
            pointer = self.numbered(key[:3], f"getelementptr {element}, ptr {pointer}, i64 {const}")
        return pointer, key, step, gathered, gathered is None

    def is_expanded(self, index: tuple[Index, ...]) -> bool:
        """Whether unrolling makes several accesses of this one.

        They are to share one base and differ in displacement. LLVM's loop strength reduction would rather keep a pointer
        for each of them, and spill most, so the base is hidden from it behind an empty piece of assembly.
        """
        return any(
            var.extent > 1 and isinstance(self.env.get(var), int)
            for entry in index
            if not isinstance(entry, Bounded)
            for var in entry.terms
        )

    def clamped(self, entry: Bounded, stride: int) -> Val:
        value = self.value(entry.value, {})
        zero, top = Val("0", DType.I64), Val(str(entry.extent - 1), DType.I64)
        value = self.extreme("smax", value, zero)
        value = self.extreme("smin", value, top)
        return self.arith("mul", value, Val(str(stride), DType.I64))

    def extreme(self, kind: str, x: Val, y: Val) -> Val:
        x, y = self.together(x, y)
        suffix = f"v{x.lanes}i{_int_bits(x.dtype)}" if x.lanes else f"i{_int_bits(x.dtype)}"
        return Val(self.call(f"llvm.{kind}.{suffix}", x.type, [(x.type, x.text), (y.type, y.text)]), x.dtype, x.lanes)

    def load(self, e: Load) -> Val:
        pointer, key, step, gathered, affine = self.address(e.buffer, e.index)
        cache = self.scopes[-1].loads
        if affine and key in cache:
            return cache[key]
        lanes = self.vector.extent if self.vector and (step or gathered) else 0
        if gathered is not None:
            result = self.gather(e.buffer, pointer, self.lane_offsets(gathered, step))
        elif step not in (0, 1):
            offsets = ", ".join(f"i64 {i * step}" for i in range(lanes))
            result = self.gather(e.buffer, pointer, Val(f"<{offsets}>", DType.I64, lanes))
        else:
            stored = vector_type(storage_type(e.buffer.dtype), lanes)
            text = self.let(f"load {stored}, ptr {pointer}, align {self.alignment(e.buffer, key, step)}")
            result = self.from_storage(text, e.buffer.dtype, lanes)
        if affine:
            cache[key] = result
        return result

    def alignment(self, buffer: Buffer, key: object, step: int) -> int:
        """What the address is known to be aligned to; only whole vectors on aligned buffers profit."""
        return buffer.dtype.size

    def lane_offsets(self, gathered: Val, step: int) -> Val:
        if not step:
            return gathered
        offsets = ", ".join(f"i64 {i * step}" for i in range(gathered.lanes))
        return self.arith("add", gathered, Val(f"<{offsets}>", DType.I64, gathered.lanes))

    def gather(self, buffer: Buffer, pointer: str, offsets: Val) -> Val:
        element, lanes = storage_type(buffer.dtype), offsets.lanes
        pointers = self.let(f"getelementptr {element}, ptr {pointer}, {offsets.type} {offsets.text}")
        mask = f"<{', '.join(['i1 true'] * lanes)}>"
        suffix = f"v{lanes}{_intrinsic_suffix(buffer.dtype)}.v{lanes}p0"
        type_ = vector_type(element, lanes)
        args = [
            (f"<{lanes} x ptr>", pointers),
            ("i32", str(buffer.dtype.size)),
            (f"<{lanes} x i1>", mask),
            (type_, "poison"),
        ]
        return self.from_storage(self.call(f"llvm.masked.gather.{suffix}", type_, args), buffer.dtype, lanes)

    def store(self, buffer: Buffer, index: tuple[Index, ...], value: Expr) -> None:
        result = self.value(value, {})
        pointer, key, step, gathered, _ = self.address(buffer, index)
        lanes = self.vector.extent if self.vector and (step or gathered) else 0
        if result.lanes and not lanes:
            raise LoopError(f"kernel {self.kernel.name}: a vector stored to one place of {buffer.name}")
        text = self.to_storage(self.splat(result, lanes), buffer.dtype)
        stored = vector_type(storage_type(buffer.dtype), lanes)
        if gathered is not None or step not in (0, 1):
            self.scatter(buffer, pointer, text, lanes, step, gathered)
        else:
            self.lines.append(f"  store {stored} {text}, ptr {pointer}, align {self.alignment(buffer, key, step)}")
        loads = self.scopes[-1].loads
        for known in [k for k in loads if isinstance(k, tuple) and k[0].access is not Access.READ]:
            del loads[known]

    def scatter(self, buffer: Buffer, pointer: str, text: str, lanes: int, step: int, gathered: Val | None) -> None:
        element = storage_type(buffer.dtype)
        if gathered is None:
            offsets = Val(f"<{', '.join(f'i64 {i * step}' for i in range(lanes))}>", DType.I64, lanes)
        else:
            offsets = self.lane_offsets(gathered, step)
        pointers = self.let(f"getelementptr {element}, ptr {pointer}, {offsets.type} {offsets.text}")
        mask = f"<{', '.join(['i1 true'] * lanes)}>"
        name = f"llvm.masked.scatter.v{lanes}{_intrinsic_suffix(buffer.dtype)}.v{lanes}p0"
        type_ = vector_type(element, lanes)
        self.declarations.add(f"declare void @{name}({type_}, <{lanes} x ptr>, i32, <{lanes} x i1>)")
        size = buffer.dtype.size
        self.lines.append(
            f"  call void @{name}({type_} {text}, <{lanes} x ptr> {pointers}, i32 {size}, <{lanes} x i1> {mask})"
        )

    def from_storage(self, text: str, dtype: DType, lanes: int) -> Val:
        if dtype is DType.BOOL:
            zero = "zeroinitializer" if lanes else "0"
            text = self.let(f"icmp ne {vector_type('i8', lanes)} {text}, {zero}")
        return Val(text, dtype, lanes)

    def to_storage(self, value: Val, dtype: DType) -> str:
        if dtype is DType.BOOL:
            return self.let(f"zext {value.type} {value.text} to {vector_type('i8', value.lanes)}")
        return value.text

    # ---- values

    def value(self, e: Expr, memo: dict[Expr, Val]) -> Val:
        if e not in memo:
            memo[e] = self.compute(e, memo)
        return memo[e]

    def compute(self, e: Expr, memo: dict[Expr, Val]) -> Val:
        match e:
            case ex.Const(value, dtype):
                return Val(literal(value, dtype), dtype)
            case Load():
                return self.load(e)
            case TileRead(tile, index):
                place = self.constant(index)
                if (tile, place) not in self.tiles:
                    raise LoopError(
                        f"kernel {self.kernel.name}: tile {tile.name}{list(place)} is read before it is written"
                    )
                return self.tiles[tile, place]
            case IndexValue(index):
                return self.index_value(index)
            case LaneReduce(op, x):
                return self.lane_reduce(op, self.value(x, memo))
            case LaneShuffle(x, y, lanes):
                return self.lane_shuffle(self.value(x, memo), self.value(y, memo), lanes)
        if (expansion := maths.expand(e) or half.expand(e, self.target.has_f16)) is not None:
            return self.value(ex.substitute(expansion, e.children()), memo)
        return self.operation(e, [self.value(child, memo) for child in e.children()])

    def operation(self, e: Expr, args: list[Val]) -> Val:
        match e:
            case ex.Fma():
                return self.multiply_add(*self.together(*args))
            case ex.Unary(op):
                return self.unary(op, args[0])
            case ex.Binary(op):
                return self.binary(op, e, *args)
            case ex.Compare(op):
                return self.compare(op, *args)
            case ex.Select():
                condition, yes, no = self.together(*args)
                text = f"select {condition.type} {condition.text}, {yes.type} {yes.text}, {no.type} {no.text}"
                return Val(self.let(text), yes.dtype, yes.lanes)
            case ex.Cast(_, dtype):
                return self.cast(args[0], dtype)
            case ex.Bitcast(_, dtype):
                target = vector_type(LLVM_TYPE[dtype], args[0].lanes)
                return Val(self.let(f"bitcast {args[0].type} {args[0].text} to {target}"), dtype, args[0].lanes)
        raise LoopError(f"no code for {type(e).__name__}")

    def multiply_add(self, x: Val, y: Val, z: Val) -> Val:
        """One instruction, or two where the processor has no other: the library's exact one would take dozens."""
        if self.target.has_fma:
            return self.intrinsic("fma", [x, y, z])
        return self.arith("fadd", self.arith("fmul", x, y), z)

    def intrinsic(self, name: str, args: Sequence[Val]) -> Val:
        first = args[0]
        suffix = _SUFFIX[first.dtype]
        full = f"llvm.{name}.v{first.lanes}{suffix}" if first.lanes else f"llvm.{name}.{suffix}"
        return Val(self.call(full, first.type, [(a.type, a.text) for a in args]), first.dtype, first.lanes)

    def splat(self, value: Val, lanes: int) -> Val:
        if value.lanes == lanes:
            return value
        if value.lanes:
            raise LoopError(f"kernel {self.kernel.name}: {value.lanes} lanes meet {lanes or 'a scalar place'}")
        if not value.text.startswith("%"):
            return Val(f"splat ({value.type} {value.text})", value.dtype, lanes)
        key = ("splat", value.text, lanes)
        type_ = vector_type(LLVM_TYPE[value.dtype], lanes)
        first = self.numbered((*key, "insert"), f"insertelement {type_} poison, {value.type} {value.text}, i64 0")
        text = f"shufflevector {type_} {first}, {type_} poison, <{lanes} x i32> zeroinitializer"
        return Val(self.numbered(key, text), value.dtype, lanes)

    def together(self, *args: Val) -> tuple[Val, ...]:
        """All scalars or all vectors, whichever is needed."""
        lanes = max(a.lanes for a in args)
        return tuple(self.splat(a, lanes) for a in args)

    def arith(self, opcode: str, x: Val, y: Val) -> Val:
        x, y = self.together(x, y)
        return Val(self.let(f"{opcode} {x.type} {x.text}, {y.text}"), x.dtype, x.lanes)

    def unary(self, op: str, x: Val) -> Val:
        if op == "neg":
            if x.dtype.is_float:
                return Val(self.let(f"fneg {x.type} {x.text}"), x.dtype, x.lanes)
            return self.arith("sub", Val("0", x.dtype), x)
        if op == "not":
            return self.arith("xor", x, Val("true", x.dtype))
        if x.dtype.is_float:
            return self.intrinsic(_INTRINSIC[op], [x]) if op in _INTRINSIC else self.library(op, [x])
        if op == "abs":
            return x if not x.dtype.is_signed else self.extreme("smax", x, self.unary("neg", x))
        raise LoopError(f"{op} of {x.dtype.value} has no code; cast to a float type first")

    def library(self, op: str, args: Sequence[Val]) -> Val:
        """A function of the C library, lane by lane."""
        x = args[0]
        name = op + ("f" if x.dtype is DType.F32 else "")
        if not x.lanes:
            return Val(self.call(name, x.type, [(a.type, a.text) for a in args]), x.dtype)
        element, result = LLVM_TYPE[x.dtype], "poison"
        for lane in range(x.lanes):
            scalars = [(element, self.let(f"extractelement {a.type} {a.text}, i64 {lane}")) for a in args]
            one = self.call(name, element, scalars)
            result = self.let(f"insertelement {x.type} {result}, {element} {one}, i64 {lane}")
        return Val(result, x.dtype, x.lanes)

    def binary(self, op: str, e: ex.Binary, x: Val, y: Val) -> Val:
        x, y = self.together(x, y)
        if op in _BITS:
            return self.arith(_BITS[op], x, y)
        if op in ("maximum", "minimum"):
            return self.extremum(op, e, x, y)
        if not x.dtype.is_float:
            return self.integer(op, e, x, y)
        if op == "pow":
            return self.library("pow", [x, y]) if x.lanes else self.intrinsic("pow", [x, y])
        return self.arith(_FLOAT[op], x, y)

    def integer(self, op: str, e: ex.Binary, x: Val, y: Val) -> Val:
        if op == "pow":
            raise LoopError("pow of integers has no code; cast to a float type first")
        opcode = (_SIGNED if x.dtype.is_signed else _UNSIGNED)[op]
        if op not in ("div", "fmod") or _divides_safely(e.y):
            return self.arith(opcode, x, y)
        return self.guarded_division(op, opcode, x, y)

    def guarded_division(self, op: str, opcode: str, x: Val, y: Val) -> Val:
        """The quotient by 0 is 0; by -1 it is -x even where that wraps. The processor would trap. Remainders are 0."""
        shifted = self.arith("add", y, Val("1" if x.dtype.is_signed else "0", y.dtype))
        limit = self.splat(Val("2" if x.dtype.is_signed else "1", y.dtype), y.lanes)
        unsafe = f"icmp ult {y.type} {shifted.text}, {limit.text}"
        divisor = self.pick(unsafe, self.splat(Val("1", y.dtype), y.lanes), y)
        result = self.arith(opcode, x, divisor)
        return self.pick(unsafe, self.arith("mul", x, y), result) if op == "div" else result

    def extremum(self, op: str, e: ex.Binary, x: Val, y: Val) -> Val:
        """The larger or smaller one, NaN if either is NaN; x86's max gives its second operand if one is NaN."""
        if not x.dtype.is_float:
            return self.extreme(("s" if x.dtype.is_signed else "u") + op[:3], x, y)
        predicate = "ogt" if op == "maximum" else "olt"
        if _is_number(e.y):
            x, y = y, x
        best = self.pick(f"fcmp {predicate} {x.type} {x.text}, {y.text}", x, y)
        if _is_number(e.x) or _is_number(e.y):
            return best
        return self.pick(f"fcmp uno {x.type} {x.text}, {x.text}", x, best)

    def pick(self, condition: str, yes: Val, no: Val) -> Val:
        mask = self.let(condition)
        text = f"select {vector_type('i1', yes.lanes)} {mask}, {yes.type} {yes.text}, {no.type} {no.text}"
        return Val(self.let(text), yes.dtype, yes.lanes)

    def compare(self, op: str, x: Val, y: Val) -> Val:
        x, y = self.together(x, y)
        if x.dtype.is_float:
            text = f"fcmp {_FCMP[op]} {x.type} {x.text}, {y.text}"
        else:
            sign = "" if op in ("eq", "ne") else ("s" if x.dtype.is_signed else "u")
            text = f"icmp {sign}{op} {x.type} {x.text}, {y.text}"
        return Val(self.let(text), DType.BOOL, x.lanes)

    def cast(self, x: Val, dtype: DType) -> Val:
        if x.dtype is dtype:
            return x
        target = vector_type(LLVM_TYPE[dtype], x.lanes)
        if dtype is DType.BOOL:
            return self.compare("ne", x, Val(literal(0, x.dtype), x.dtype))
        if x.dtype.is_float and not dtype.is_float:
            suffix = f"{_int_suffix(dtype, x.lanes)}.{_float_suffix(x.dtype, x.lanes)}"
            name = f"llvm.fpto{'s' if dtype.is_signed else 'u'}i.sat.{suffix}"
            return Val(self.call(name, target, [(x.type, x.text)]), dtype, x.lanes)
        return Val(self.let(f"{_conversion(x.dtype, dtype)} {x.type} {x.text} to {target}"), dtype, x.lanes)

    def index_value(self, index: Affine) -> Val:
        terms: dict[str, int] = {}
        const, step = self.split(index, 1, terms)
        base = self.sum(terms)
        scalar = Val(str(const), DType.I64)
        if base is not None:
            scalar = self.arith("add", Val(base, DType.I64), scalar) if const else Val(base, DType.I64)
        if not step or self.vector is None:
            return scalar
        lanes = self.vector.extent
        steps = Val(f"<{', '.join(f'i64 {i * step}' for i in range(lanes))}>", DType.I64, lanes)
        return self.arith("add", scalar, steps)

    def lane_reduce(self, op: str, x: Val) -> Val:
        """Fold the halves onto each other; an odd last lane waits for the next round."""
        if self.vector is not None:
            x = self.splat(x, self.vector.extent)
        parts = ex.Binary(op, ex.Param(0, x.dtype), ex.Param(1, x.dtype))
        lanes = x.lanes
        while lanes > 1:
            half = lanes // 2
            low, high = self.lanes(x, range(half)), self.lanes(x, range(half, 2 * half))
            folded = self.fold(parts, low, high)
            if lanes % 2:
                rest = self.lanes(x, [2 * half])
                x = self.append(folded, rest)
            else:
                x = folded
            lanes = half + lanes % 2
        return Val(self.let(f"extractelement {x.type} {x.text}, i64 0"), x.dtype)

    def fold(self, parts: ex.Binary, x: Val, y: Val) -> Val:
        if x.dtype is not DType.F16:
            return self.binary(parts.op, parts, x, y)
        memo: dict[Expr, Val] = {parts.x: x, parts.y: y}
        return self.value(parts, memo)

    def lane_shuffle(self, x: Val, y: Val, lanes: Sequence[int]) -> Val:
        x, y = self.splat(x, len(lanes)), self.splat(y, len(lanes))
        mask = ", ".join(f"i32 {i}" for i in lanes)
        text = f"shufflevector {x.type} {x.text}, {y.type} {y.text}, <{len(lanes)} x i32> <{mask}>"
        return Val(self.let(text), x.dtype, len(lanes))

    def lanes(self, x: Val, which: Sequence[int]) -> Val:
        mask = ", ".join(f"i32 {i}" for i in which)
        text = f"shufflevector {x.type} {x.text}, {x.type} poison, <{len(which)} x i32> <{mask}>"
        return Val(self.let(text), x.dtype, len(which))

    def append(self, x: Val, last: Val) -> Val:
        one = self.let(f"extractelement {last.type} {last.text}, i64 0")
        wide = self.lanes(x, [*range(x.lanes), 0])
        text = f"insertelement {wide.type} {wide.text}, {LLVM_TYPE[x.dtype]} {one}, i64 {x.lanes}"
        return Val(self.let(text), x.dtype, wide.lanes)


def _is_number(e: Expr) -> bool:
    return isinstance(e, ex.Const) and not math.isnan(e.value)


def _divides_safely(divisor: Expr) -> bool:
    return isinstance(divisor, ex.Const) and divisor.value not in (0, -1)


def storage_type(dtype: DType) -> str:
    return "i8" if dtype is DType.BOOL else LLVM_TYPE[dtype]


def literal(value: float | int | bool, dtype: DType) -> str:
    """A scalar constant; floats as the hexadecimal form that keeps every bit."""
    if dtype is DType.BOOL:
        return "true" if value else "false"
    if not dtype.is_float:
        return str(int(value))
    if dtype is DType.F16:
        return "0xH" + struct.pack(">e", value).hex().upper()
    rounded = struct.unpack("f", struct.pack("f", value))[0] if dtype is DType.F32 else float(value)
    return "0x" + struct.pack(">d", rounded).hex().upper()


def _int_bits(dtype: DType) -> int:
    return 1 if dtype is DType.BOOL else dtype.size * 8


def _int_suffix(dtype: DType, lanes: int) -> str:
    return f"v{lanes}i{_int_bits(dtype)}" if lanes else f"i{_int_bits(dtype)}"


def _float_suffix(dtype: DType, lanes: int) -> str:
    return f"v{lanes}{_SUFFIX[dtype]}" if lanes else _SUFFIX[dtype]


def _intrinsic_suffix(dtype: DType) -> str:
    if dtype is DType.BOOL:
        return "i8"
    return _SUFFIX[dtype] if dtype.is_float else f"i{_int_bits(dtype)}"


def _conversion(source: DType, target: DType) -> str:
    if source.is_float and target.is_float:
        return "fpext" if _FLOAT_BITS[source] < _FLOAT_BITS[target] else "fptrunc"
    if target.is_float:
        return "sitofp" if source.is_signed else "uitofp"
    if _int_bits(source) == _int_bits(target):
        return "bitcast"
    if _int_bits(source) > _int_bits(target):
        return "trunc"
    return "sext" if source.is_signed else "zext"
