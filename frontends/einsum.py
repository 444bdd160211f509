"""Einstein's summation as a chain of transposes, matrix products, products and sums.

Serves the Python layer and the ONNX importer alike: both say how an op is applied to their values.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

from glulam.compiler import ops
from glulam.compiler.errors import ShapeError
from glulam.compiler.graph.graph import Value

V = TypeVar("V", bound=Value)
Labels = tuple[str, ...]


def einsum(equation: str, operands: Sequence[V], apply: Callable[..., V]) -> V:
    """The value of `equation` ("bij,bjk->bik", with "..." for further axes that broadcast) over the operands.

    apply(op, *values) makes a node. Raises ShapeError if the equation does not fit the operands.
    """
    return _Einsum(equation, apply).value(operands)


@dataclass
class _Term(Generic[V]):
    """A value with a label for each of its axes."""

    value: V
    labels: Labels


class _Einsum(Generic[V]):
    def __init__(self, equation: str, apply: Callable[..., V]) -> None:
        self.equation = equation
        self.apply = apply
        left, arrow, right = equation.replace(" ", "").partition("->")
        self.inputs = left.split(",")
        self.output = right if arrow else None

    def fail(self, why: str) -> ShapeError:
        return ShapeError(f"einsum {self.equation!r}: {why}")

    def value(self, operands: Sequence[V]) -> V:
        if len(operands) != len(self.inputs):
            raise self.fail(f"names {len(self.inputs)} operands, and there are {len(operands)}")
        labels = [self.labels(text, len(v.shape)) for text, v in zip(self.inputs, operands, strict=True)]
        wanted = self.wanted(labels)
        extents = self.extents(labels, operands)
        terms = [self.plain(_Term(v, each), extents) for v, each in zip(operands, labels, strict=True)]
        if missing := [x for x in wanted if not any(x in term.labels for term in terms) and extents.get(x) != 1]:
            raise self.fail(f"the result's {missing[0]!r} is in no operand")
        total = terms[0]
        for i, term in enumerate(terms[1:], start=2):
            needed = {*wanted, *(x for later in terms[i:] for x in later.labels)}
            total = self.summed(total, needed | {*term.labels})
            total = self.product(total, self.summed(term, needed | {*total.labels}), needed)
        total = self.summed(total, set(wanted))
        ones = tuple(x for x in wanted if x not in total.labels)
        total = self.ordered(total, tuple(x for x in wanted if x in total.labels))
        return self.reshaped(total.value, tuple(extents[x] for x in wanted)) if ones else total.value

    # ---- reading the equation

    def labels(self, text: str, rank: int) -> Labels:
        """One label per axis; those of the ellipsis are numbered from the last one."""
        head, dots, tail = text.partition("...")
        letters = head + tail
        if not all(x.isalpha() and x.isascii() for x in letters):
            raise self.fail(f"{text!r} is not made of letters and at most one '...'")
        rest = rank - len(letters)
        if rest < 0 or (rest and not dots):
            raise self.fail(f"{text!r} does not fit an operand of {rank} axes")
        return (*head, *(f".{rest - i}" for i in range(rest)), *tail)

    def wanted(self, labels: Sequence[Labels]) -> Labels:
        every = [x for each in labels for x in each]
        broad = sorted({x for x in every if x[0] == "."}, key=lambda x: -int(x[1:]))
        if self.output is None:
            return (*broad, *sorted({x for x in every if x[0] != "." and every.count(x) == 1}))
        rank = len(self.output.replace("...", "")) + (len(broad) if "..." in self.output else 0)
        found = self.labels(self.output, rank)
        if len(set(found)) != len(found):
            raise self.fail("the result names an axis twice")
        return found

    def extents(self, labels: Sequence[Labels], operands: Sequence[V]) -> dict[str, int]:
        found: dict[str, int] = {}
        for each, operand in zip(labels, operands, strict=True):
            for label, extent in zip(each, operand.shape, strict=True):
                known = found.get(label, 1)
                if 1 not in (known, extent) and known != extent:
                    raise self.fail(f"axis {label!r} has the extents {known} and {extent}")
                found[label] = extent if known == 1 else known
        return found

    # ---- steps

    def reshaped(self, value: V, shape: tuple[int, ...]) -> V:
        return value if value.shape == shape else self.apply(ops.Reshape(shape), value)

    def ordered(self, term: _Term[V], labels: Labels) -> _Term[V]:
        if term.labels == labels:
            return term
        perm = tuple(term.labels.index(x) for x in labels)
        return _Term(self.apply(ops.Transpose(perm), term.value), labels)

    def plain(self, term: _Term[V], extents: dict[str, int]) -> _Term[V]:
        """Every label once, and none whose one element is to be broadcast."""
        for label in dict.fromkeys(term.labels):
            if term.labels.count(label) > 1:
                term = self.diagonal(term, label)
        kept = [(x, n) for x, n in zip(term.labels, term.value.shape, strict=True) if n == extents[x]]
        return _Term(self.reshaped(term.value, tuple(n for _, n in kept)), tuple(x for x, _ in kept))

    def diagonal(self, term: _Term[V], label: str) -> _Term[V]:
        """The elements whose indices along all axes of the label are equal, as one axis in front."""
        count = term.labels.count(label)
        rest = tuple(x for x in term.labels if x != label)
        places = [i for i, x in enumerate(term.labels) if x == label]
        others = [i for i, x in enumerate(term.labels) if x != label]
        extent = term.value.shape[places[0]]
        if any(term.value.shape[i] != extent for i in places):
            raise self.fail(f"the axes {label!r} of one operand differ in extent")
        tail = tuple(term.value.shape[i] for i in others)
        turned = self.apply(ops.Transpose((*places, *others)), term.value)
        flat = self.reshaped(turned, (extent**count, *tail))
        step = sum(extent**i for i in range(count))
        part = ops.Slice((0,) * (1 + len(tail)), (step, *(1,) * len(tail)), (extent, *tail))
        return _Term(self.apply(part, flat), (label, *rest))

    def summed(self, term: _Term[V], needed: set[str]) -> _Term[V]:
        axes = tuple(i for i, x in enumerate(term.labels) if x not in needed)
        if not axes:
            return term
        return _Term(
            self.apply(ops.Reduce("sum", axes, False), term.value), tuple(x for x in term.labels if x in needed)
        )

    def product(self, left: _Term[V], right: _Term[V], needed: set[str]) -> _Term[V]:
        shared = [x for x in left.labels if x in right.labels]
        inner = tuple(x for x in shared if x not in needed)
        batch = tuple(x for x in shared if x in needed)
        own = tuple(x for x in left.labels if x not in shared)
        other = tuple(x for x in right.labels if x not in shared)
        a, b = self.ordered(left, (*batch, *own, *inner)), self.ordered(right, (*batch, *inner, *other))
        sizes = dict(zip((*a.labels, *b.labels), (*a.value.shape, *b.value.shape), strict=True))

        def size(labels: Labels) -> int:
            return math.prod(sizes[x] for x in labels)

        labels = (*batch, *own, *other)
        heads = tuple(sizes[x] for x in batch)
        if inner and left.value.type.dtype.is_float:
            one = self.reshaped(a.value, (size(batch), size(own), size(inner)))
            two = self.reshaped(b.value, (size(batch), size(inner), size(other)))
            product = self.apply(ops.MatMul(), one, two)
        else:
            one = self.reshaped(a.value, (*heads, size(own), 1, size(inner)))
            turned = self.ordered(b, (*batch, *other, *inner))
            two = self.reshaped(turned.value, (*heads, 1, size(other), size(inner)))
            product = self.apply(ops.Mul(), one, two)
            if inner:
                product = self.apply(ops.Reduce("sum", (len(product.shape) - 1,), False), product)
        return _Term(self.reshaped(product, tuple(sizes[x] for x in labels)), labels)
