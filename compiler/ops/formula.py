"""Formula: a pointwise op whose meaning is the text of a formula; what a user's own layers are traced into."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from glulam.compiler.errors import LoopError
from glulam.compiler.graph.op import Case
from glulam.compiler.graph.types import DType, TensorType, f32
from glulam.compiler.loops.expr import Expr
from glulam.compiler.loops.formula import operand_count, parse_formula
from glulam.compiler.ops.inputs import FLOATS, f64
from glulam.compiler.ops.pointwise import EDGES, Pointwise


@dataclass(frozen=True)
class Formula(Pointwise):
    """The formula `text` over x0, x1, ..., which are the inputs; `loops.formula` says what a text may hold.

    `label` is the name by which its author knows it and means nothing.
    """

    text: str
    label: str = ""

    name = "formula"
    accepts = FLOATS | {DType.BOOL}

    @property
    def arity(self) -> int:  # type: ignore[override]
        return operand_count(self.text)

    def formula(self, *xs: Any, **_: Any) -> Expr:
        return parse_formula(self.text, tuple(x.dtype for x in xs))

    def infer(self, *inputs: TensorType | None) -> tuple[TensorType, ...]:
        try:
            return super().infer(*inputs)
        except LoopError as error:
            raise self.fail(str(error)) from error

    @classmethod
    def cases(cls) -> Sequence[Case]:
        swish = cls("(x0 / (1.0 + exp((-x0))))")
        shared = cls("t0 = tanh(x0); t1 = (t0 * x1); where((t1 > 0.5), t1, (t0 - x1))")
        mask = cls("(x0 * float((x1 > -0.5)))")
        bounded = cls("minimum(maximum(abs(x0), 0.25), sqrt((x1 * x1)))")
        return (
            Case(swish, (f32(2, 3, 7, 13),)),
            Case(swish, (f64(3, 7),)),
            Case(swish, (EDGES,)),
            Case(shared, (f32(2, 17, 7), f32(17, 1))),
            Case(mask, (f32(5, 1), f32(33))),
            Case(bounded, (f32(3, 7), f32())),
            Case(cls("fma(x0, x1, x2)"), (f32(2, 3, 5), f32(3, 1), f32(5))),
            Case(
                cls("where((x1 & invert(x2)), erf(x0), (x0 ** 2.0))"),
                (f32(3, 7), *[TensorType(DType.BOOL, (3, 7))] * 2),
            ),
        )
