"""Places in buffers and tiles: loop variables, sums of their multiples, and what is computed at run time."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from glulam.compiler.errors import LoopError
from glulam.compiler.loops.expr import Expr


class Affine:
    """A sum of loop variables times integers, plus an integer."""

    __slots__ = ("const", "terms")

    def __init__(self, terms: Mapping[Var, int] | None = None, const: int = 0) -> None:
        self.terms: dict[Var, int] = {v: k for v, k in terms.items() if k} if terms else {}
        self.const = const

    @staticmethod
    def of(x: IndexLike) -> Affine:
        """Raises LoopError for an index that is computed at run time."""
        if isinstance(x, Affine):
            return x
        if isinstance(x, Var):
            return _affine({x: 1}, 0)
        if isinstance(x, int):
            return _affine({}, x)
        if isinstance(x, Bounded):
            raise LoopError("an index that is computed at run time is not affine")
        return Affine(None, int(x))

    def __add__(self, other: IndexLike) -> Affine:
        o = Affine.of(other)
        if not (self.terms and o.terms):
            return _affine(self.terms or o.terms, self.const + o.const)
        terms = dict(self.terms)
        for v, k in o.terms.items():
            terms[v] = terms.get(v, 0) + k
        return Affine(terms, self.const + o.const)

    __radd__ = __add__

    def __sub__(self, other: IndexLike) -> Affine:
        return self + Affine.of(other) * -1

    def __rsub__(self, other: int) -> Affine:
        return self * -1 + other

    def __mul__(self, k: int) -> Affine:
        return Affine({v: c * k for v, c in self.terms.items()}, self.const * k)

    __rmul__ = __mul__

    def __divmod__(self, n: int) -> tuple[Affine, int]:
        """Raises LoopError if the remainder is not the same in every iteration."""
        if any(k % n for k in self.terms.values()):
            raise LoopError(f"the remainder of {self} by {n} is not constant")
        whole, rest = divmod(self.const, n)
        return _affine({v: k // n for v, k in self.terms.items()}, whole), rest

    def bounds(self) -> tuple[int, int]:
        """Smallest and largest value over all iterations."""
        low = high = self.const
        for v, k in self.terms.items():
            reach = k * (v.extent - 1)
            low, high = (low, high + reach) if k > 0 else (low + reach, high)
        return low, high

    def __str__(self) -> str:
        if not self.terms:
            return str(self.const)
        text = " + ".join([v.name if k == 1 else f"{v.name}*{k}" for v, k in self.terms.items()])
        if self.const:
            text = f"{text} + {self.const}"
        return text.replace("+ -", "- ") if "+ -" in text else text


def _affine(terms: dict[Var, int], const: int) -> Affine:
    """The sum of these terms, none of which is zero; the table is shared, since nobody changes one."""
    made = object.__new__(Affine)
    made.terms = terms
    made.const = const
    return made


class Var:
    """A loop variable: 0, 1, ..., extent - 1."""

    __slots__ = ("extent", "name")

    def __init__(self, name: str, extent: int) -> None:
        self.name = name
        self.extent = extent

    def __add__(self, other: IndexLike) -> Affine:
        return Affine.of(self) + other

    __radd__ = __add__

    def __sub__(self, other: IndexLike) -> Affine:
        return Affine.of(self) - other

    def __rsub__(self, other: int) -> Affine:
        return Affine.of(self) * -1 + other

    def __mul__(self, k: int) -> Affine:
        return Affine.of(self) * k

    __rmul__ = __mul__

    def __repr__(self) -> str:
        return f"{self.name}<{self.extent}"


@dataclass(frozen=True, eq=False)
class Bounded:
    """An index computed at run time; it is clamped into [0, extent)."""

    value: Expr
    extent: int


IndexLike = Affine | Var | int | Bounded
Index = Affine | Bounded


def index_of(entries: IndexLike | tuple[IndexLike, ...]) -> tuple[Index, ...]:
    entries = entries if isinstance(entries, tuple) else (entries,)
    return tuple(e if isinstance(e, Bounded) else Affine.of(e) for e in entries)
