"""Operations of the loop IR on values: a table for the regular instructions, a function for each of the rest."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from glulam.compiler.codegen.function import Function
from glulam.compiler.codegen.llvm_types import LLVM_TYPE, Val, conversion, literal, shuffle_mask, suffix, vector_type
from glulam.compiler.errors import LoopError
from glulam.compiler.graph.types import DType

_FLOAT = {"add": "fadd", "sub": "fsub", "mul": "fmul", "div": "fdiv", "fmod": "frem"}
_SIGNED = {"add": "add", "sub": "sub", "mul": "mul", "div": "sdiv", "fmod": "srem"}
_UNSIGNED = _SIGNED | {"div": "udiv", "fmod": "urem"}
_BITS = {"and": "and", "or": "or", "xor": "xor", "shl": "shl"}
_INTRINSIC = {"abs": "fabs", "sqrt": "sqrt", "floor": "floor", "ceil": "ceil", "round": "roundeven"}
_INTRINSIC |= {"sin": "sin", "cos": "cos", "exp": "exp", "exp_negative": "exp", "log": "log", "tanh": "tanh"}
_CHOSEN, _CHOOSE = 64, "llvm.x86.avx512.vpermi2var.qi.512"  # bytes of a vector, each among those of two others
_FCMP = {"lt": "olt", "le": "ole", "gt": "ogt", "ge": "oge", "eq": "oeq", "ne": "une"}


class Instructions:
    """Each method writes what computes its result. Operands may mix scalars and vectors of one length."""

    def __init__(self, function: Function, has_fma: bool, where: str) -> None:
        self.function = function
        self.has_fma = has_fma
        self.where = where  # what messages call the code

    # ---- lanes

    def splat(self, value: Val, lanes: int) -> Val:
        """The scalar in every lane."""
        if value.lanes == lanes:
            return value
        if value.lanes:
            raise LoopError(f"{self.where}: {value.lanes} lanes meet {lanes or 'a scalar place'}")
        if not value.text.startswith("%"):
            return Val(f"splat ({value.typed})", value.dtype, lanes)
        numbered, key = self.function.numbered, ("splat", value.text, lanes)
        type_ = vector_type(LLVM_TYPE[value.dtype], lanes)
        first = numbered((*key, "insert"), f"insertelement {type_} poison, {value.typed}, i64 0")
        text = f"shufflevector {type_} {first}, {type_} poison, <{lanes} x i32> zeroinitializer"
        return Val(numbered(key, text), value.dtype, lanes)

    def together(self, *args: Val) -> tuple[Val, ...]:
        """All scalars or all vectors, whichever is needed."""
        lanes = max(a.lanes for a in args)
        return tuple(self.splat(a, lanes) for a in args)

    def lanes(self, x: Val, which: Sequence[int | None], y: Val | None = None) -> Val:
        """These lanes of x; the numbers go on through y's. Those that are None may be anything."""
        other = "poison" if y is None else y.text
        text = f"shufflevector {x.typed}, {x.type} {other}, {shuffle_mask(which)}"
        return Val(self.function.let(text), x.dtype, len(which))

    def lane(self, x: Val, index: int) -> Val:
        return Val(self.function.let(f"extractelement {x.typed}, i64 {index}"), x.dtype)

    def insert(self, vector: str, type: str, value: Val, index: int) -> str:
        """The vector `vector` of type `type` with one lane replaced."""
        return self.function.let(f"insertelement {type} {vector}, {value.typed}, i64 {index}")

    def permuted(self, x: Val, lane: Val, permute: str | None) -> Val:
        """Lanes of x that are known only at run time: by an intrinsic that takes x and them, or else one by one."""
        if permute is not None:
            text = self.function.call(permute, x.type, [(x.type, x.text), (lane.type, lane.text)])
            return Val(text, x.dtype, x.lanes)
        lane, result = self.binary("and", lane, Val(str(x.lanes - 1), lane.dtype)), "poison"
        for index in range(x.lanes):
            text = self.function.let(f"extractelement {x.typed}, {self.lane(lane, index).typed}")
            result = self.insert(result, x.type, Val(text, x.dtype), index)
        return Val(result, x.dtype, x.lanes)

    def fold_lanes(self, x: Val, fold: Callable[[Val, Val], Val]) -> Val:
        """Fold the halves onto each other; an odd last lane waits for the next round."""
        lanes = x.lanes
        while lanes > 1:
            half = lanes // 2
            low, high = self.lanes(x, range(half)), self.lanes(x, range(half, 2 * half))
            folded = fold(low, high)
            x = self.append(folded, self.lanes(x, [2 * half])) if lanes % 2 else folded
            lanes = half + lanes % 2
        return self.lane(x, 0)

    def append(self, x: Val, last: Val) -> Val:
        """x with the only lane of `last` behind it."""
        one = self.lane(last, 0)
        wide = self.lanes(x, [*range(x.lanes), 0])
        return Val(self.insert(wide.text, wide.type, one, x.lanes), x.dtype, wide.lanes)

    # ---- calls

    def intrinsic(self, name: str, *args: Val) -> Val:
        """An intrinsic of LLVM whose result and operands have one type."""
        first = args[0]
        full = f"llvm.{name}.{suffix(first.dtype, first.lanes)}"
        result = self.function.call(full, first.type, [(a.type, a.text) for a in args])
        return Val(result, first.dtype, first.lanes)

    def c_function(self, op: str, *args: Val) -> Val:
        """A function of the C library, lane by lane."""
        x = args[0]
        name = op + ("f" if x.dtype is DType.F32 else "")
        if not x.lanes:
            return Val(self.function.call(name, x.type, [(a.type, a.text) for a in args]), x.dtype)
        element, result = LLVM_TYPE[x.dtype], "poison"
        for index in range(x.lanes):
            scalars = [(element, self.lane(a, index).text) for a in args]
            one = Val(self.function.call(name, element, scalars), x.dtype)
            result = self.insert(result, x.type, one, index)
        return Val(result, x.dtype, x.lanes)

    # ---- arithmetic

    def arith(self, opcode: str, x: Val, y: Val) -> Val:
        """A two-operand instruction."""
        x, y = self.together(x, y)
        return Val(self.function.let(f"{opcode} {x.typed}, {y.text}"), x.dtype, x.lanes)

    def integer_extreme(self, kind: str, x: Val, y: Val) -> Val:
        """smax, smin, umax or umin."""
        return self.intrinsic(kind, *self.together(x, y))

    def multiply_add(self, x: Val, y: Val, z: Val) -> Val:
        """One instruction, or two where the processor has no other: the library's exact one would take dozens."""
        if self.has_fma:
            return self.intrinsic("fma", *self.together(x, y, z))
        x, y, z = self.together(x, y, z)
        return self.arith("fadd", self.arith("fmul", x, y), z)

    def byte_dot(self, x: Val, y: Val, z: Val) -> Val:
        """z plus the products of the unsigned bytes of x with the signed ones of y, in each lane."""
        bytes_ = f"<{4 * x.lanes} x i8>"
        operands = [(bytes_, self.function.let(f"bitcast {each.typed} to {bytes_}")) for each in (x, y)]
        name = f"llvm.x86.avx512.vpdpbusd.{32 * x.lanes}"
        return Val(self.function.call(name, z.type, [(z.type, z.text), *operands]), z.dtype, z.lanes)

    def unary(self, op: str, x: Val) -> Val:
        if op == "neg":
            if x.dtype.is_float:
                return Val(self.function.let(f"fneg {x.typed}"), x.dtype, x.lanes)
            return self.arith("sub", Val("0", x.dtype), x)
        if op == "not":
            return self.arith("xor", x, Val("true", x.dtype))
        if x.dtype.is_float:
            return self.intrinsic(_INTRINSIC[op], x) if op in _INTRINSIC else self.c_function(op, x)
        if op == "abs":
            return x if not x.dtype.is_signed else self.integer_extreme("smax", x, self.unary("neg", x))
        raise LoopError(f"{op} of {x.dtype.value} has no code; cast to a float type first")

    def binary(self, op: str, x: Val, y: Val, *, x_is_number: bool = False, y_constant: float | None = None) -> Val:
        """`x_is_number` says that x is never NaN; `y_constant` is y's value if it is known."""
        x, y = self.together(x, y)
        if op in _BITS:
            return self.arith(_BITS[op], x, y)
        if op == "shr":
            return self.arith("ashr" if x.dtype.is_signed else "lshr", x, y)
        if op in ("maximum", "minimum"):
            return self.extremum(op, x, y, x_is_number, y_constant is not None and y_constant == y_constant)
        if not x.dtype.is_float:
            return self.integer(op, x, y, safe=y_constant not in (None, 0, -1))
        if op == "pow":
            return self.c_function("pow", x, y) if x.lanes else self.intrinsic("pow", x, y)
        return self.arith(_FLOAT[op], x, y)

    def integer(self, op: str, x: Val, y: Val, *, safe: bool) -> Val:
        if op == "pow":
            raise LoopError("pow of integers has no code; cast to a float type first")
        opcode = (_SIGNED if x.dtype.is_signed else _UNSIGNED)[op]
        if op not in ("div", "fmod") or safe:
            return self.arith(opcode, x, y)
        return self.guarded_division(op, opcode, x, y)

    def guarded_division(self, op: str, opcode: str, x: Val, y: Val) -> Val:
        """The quotient by 0 is 0; by -1 it is -x even where that wraps. The processor would trap. Remainders are 0."""
        shifted = self.arith("add", y, Val("1" if x.dtype.is_signed else "0", y.dtype))
        limit = self.splat(Val("2" if x.dtype.is_signed else "1", y.dtype), y.lanes)
        unsafe = f"icmp ult {shifted.typed}, {limit.text}"
        divisor = self.pick(unsafe, self.splat(Val("1", y.dtype), y.lanes), y)
        result = self.arith(opcode, x, divisor)
        return self.pick(unsafe, self.arith("mul", x, y), result) if op == "div" else result

    def extremum(self, op: str, x: Val, y: Val, x_is_number: bool, y_is_number: bool) -> Val:
        """The larger or smaller one, NaN if either is NaN; x86's max gives its second operand if one is NaN."""
        if not x.dtype.is_float:
            return self.integer_extreme(("s" if x.dtype.is_signed else "u") + op[:3], x, y)
        predicate = "ogt" if op == "maximum" else "olt"
        if y_is_number:
            x, y = y, x
        best = self.pick(f"fcmp {predicate} {x.typed}, {y.text}", x, y)
        if x_is_number or y_is_number:
            return best
        return self.pick(f"fcmp uno {x.typed}, {x.text}", x, best)

    def lookup(self, x: Val, table: bytes, chooses: bool) -> Val:
        """An entry of the table for each U8; if the processor `chooses` among bytes, all at once."""
        at = self.function.constant(table)
        if chooses and 0 < x.lanes <= _CHOSEN:
            return self.chosen(x, at)
        if not x.lanes:
            return self.entry(x, at)
        result = "poison"
        for index in range(x.lanes):
            result = self.insert(result, x.type, self.entry(self.lane(x, index), at), index)
        return Val(result, x.dtype, x.lanes)

    def entry(self, x: Val, table: str) -> Val:
        """The entry for one U8."""
        place = self.function.let(f"zext {x.typed} to i64")
        place = self.function.let(f"getelementptr i8, ptr {table}, i64 {place}")
        return Val(self.function.let(f"load i8, ptr {place}"), x.dtype)

    def chosen(self, x: Val, table: str) -> Val:
        """Entries of both halves of the table, between which the highest bits decide."""
        wide = self.lanes(x, [*range(x.lanes), *[None] * (_CHOSEN - x.lanes)])

        def entries(first: int) -> Val:
            halves = []
            for at in (first, first + _CHOSEN):
                place = self.function.let(f"getelementptr i8, ptr {table}, i64 {at}")
                halves.append((wide.type, self.function.let(f"load {wide.type}, ptr {place}, align {_CHOSEN}")))
            operands = [halves[0], (wide.type, wide.text), halves[1]]
            return Val(self.function.call(_CHOOSE, wide.type, operands), x.dtype, _CHOSEN)

        low, high = entries(0), entries(2 * _CHOSEN)
        return self.lanes(self.pick(f"icmp sgt {wide.typed}, splat (i8 -1)", low, high), range(x.lanes))

    # ---- choices

    def pick(self, condition: str, yes: Val, no: Val) -> Val:
        """One of two by a comparison, given as text."""
        mask = Val(self.function.let(condition), DType.BOOL, yes.lanes)
        return self.select(mask, yes, no)

    def select(self, condition: Val, yes: Val, no: Val) -> Val:
        condition, yes, no = self.together(condition, yes, no)
        text = f"select {condition.typed}, {yes.typed}, {no.typed}"
        return Val(self.function.let(text), yes.dtype, yes.lanes)

    def unless(self, rare: Val, usual: Val, otherwise: Callable[[], Val]) -> Val:
        """`usual`, but where `rare` holds in a lane; all is computed by `otherwise` if it does in any."""
        some = self.function.call(f"llvm.vector.reduce.or.v{rare.lanes}i1", "i1", [(rare.type, rare.text)])
        other, after, before = self.function.label("rare"), self.function.label("usual"), self.function.block
        self.function.do(f"br i1 {some}, label %{other}, label %{after}")
        self.function.open_block(other)
        exact = self.select(rare, otherwise(), usual)
        self.function.do(f"br label %{after}")
        self.function.open_block(after)
        phi = f"phi {usual.type} [ {usual.text}, %{before} ], [ {exact.text}, %{other} ]"
        return Val(self.function.let(phi), usual.dtype, usual.lanes)

    def compare(self, op: str, x: Val, y: Val) -> Val:
        x, y = self.together(x, y)
        if x.dtype.is_float:
            text = f"fcmp {_FCMP[op]} {x.typed}, {y.text}"
        else:
            sign = "" if op in ("eq", "ne") else ("s" if x.dtype.is_signed else "u")
            text = f"icmp {sign}{op} {x.typed}, {y.text}"
        return Val(self.function.let(text), DType.BOOL, x.lanes)

    # ---- conversions

    def cast(self, x: Val, dtype: DType) -> Val:
        """Floats become integers by truncation, saturated at the ends of the range; NaN becomes 0."""
        if x.dtype is dtype:
            return x
        target = vector_type(LLVM_TYPE[dtype], x.lanes)
        if dtype is DType.BOOL:
            return self.compare("ne", x, Val(literal(0, x.dtype), x.dtype))
        if x.dtype.is_float and not dtype.is_float:
            return self.truncated(x, dtype)
        return Val(self.function.let(f"{conversion(x.dtype, dtype)} {x.typed} to {target}"), dtype, x.lanes)

    def truncated(self, x: Val, dtype: DType) -> Val:
        """A float as an integer. LLVM's saturating conversion goes through vectors lane by lane."""
        if dtype.size < DType.I32.size and x.dtype is DType.F32:
            return self.narrowed(x, dtype)
        limits = np.iinfo(dtype.numpy.name)
        least, beyond = (Val(literal(bound, x.dtype), x.dtype) for bound in (limits.min, limits.max + 1))
        below, above = self.compare("lt", x, least), self.compare("ge", x, beyond)
        inside = self.binary("and", self.compare("ge", x, least), self.compare("lt", x, beyond))  # NaN is not
        safe = self.select(inside, x, Val(literal(0, x.dtype), x.dtype))
        kind, target = "fptosi" if dtype.is_signed else "fptoui", vector_type(LLVM_TYPE[dtype], x.lanes)
        result = Val(self.function.let(f"{kind} {safe.typed} to {target}"), dtype, x.lanes)
        result = self.select(above, Val(literal(int(limits.max), dtype), dtype), result)
        return self.select(below, Val(literal(int(limits.min), dtype), dtype), result)

    def narrowed(self, x: Val, dtype: DType) -> Val:
        """A float32 as an integer of one or two bytes: clipped first, by comparisons that are single instructions."""
        limits = np.iinfo(dtype.numpy.name)
        least, most = (Val(literal(bound, x.dtype), x.dtype) for bound in (limits.min, limits.max))
        if dtype.is_signed:
            x = self.select(self.compare("eq", x, x), x, Val(literal(0, x.dtype), x.dtype))  # NaN is not
        x = self.select(self.compare("gt", x, least), x, least)
        x = self.select(self.compare("lt", x, most), x, most)
        wide = Val(self.function.let(f"fptosi {x.typed} to {vector_type('i32', x.lanes)}"), DType.I32, x.lanes)
        return Val(self.function.let(f"trunc {wide.typed} to {vector_type(LLVM_TYPE[dtype], x.lanes)}"), dtype, x.lanes)

    def bitcast(self, x: Val, dtype: DType) -> Val:
        target = vector_type(LLVM_TYPE[dtype], x.lanes)
        return Val(self.function.let(f"bitcast {x.typed} to {target}"), dtype, x.lanes)
