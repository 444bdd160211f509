"""The contract of an operator: one frozen dataclass per op, its fields are its attributes."""

from __future__ import annotations

import enum
from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from typing import Any, ClassVar

import numpy as np

from glulam.compiler.errors import ShapeError, UnsupportedError
from glulam.compiler.graph.types import Array, DType, TensorType
from glulam.compiler.targets import Target


class Trait(enum.Enum):
    """What passes may assume of an op, so that no pass asks for an op by name."""

    POINTWISE = "pointwise"  # each output element depends on the inputs' elements at the same (broadcast) place
    VIEW = "view"  # the output's elements in order are the input's elements in order
    ANCHOR = "anchor"  # may carry a fused epilogue
    RANDOM = "random"  # two equal nodes need not give equal values
    CONVERTS = "converts"  # an anchor whose epilogue may end in another type than it computes
    PER_SAMPLE = "per_sample"  # element i along the first axis of the output needs only element i of the first input
    BLIND = "blind"  # the kernel looks at no values of constants but those of one element
    SUMS_PIXELS = "sums_pixels"  # the last bits of results depend on whether the places of a channel lie in one row


class Prefers(enum.Enum):
    """Which arrangement of its tensors an op computes on."""

    PLAIN = "plain"  # dense, channels first
    BLOCKS = "blocks"  # channel blocks, inputs and outputs of rank 3 and more
    EITHER = "either"  # whichever its inputs have


@dataclass(frozen=True)
class Padding:
    """What an op wants to find around the spatial extents of an input: (before, after) elements, all of one value.

    With `or_less`, any smaller value serves as well; with `or_none`, no padding does. Around a plain tensor none is
    needed with `only_blocks`.
    """

    spans: tuple[tuple[int, int], ...]
    value: float = 0.0
    or_less: bool = False
    or_none: bool = False
    only_blocks: bool = False


@dataclass(frozen=True)
class Op:
    """Base of all operators.

    A subclass is a frozen dataclass whose fields are the attributes, so two ops are equal if they mean the same; one
    without fields of its own inherits that. It gives the shape rule (`infer`), the meaning in numpy (`reference`), and
    sample cases; `optional` says how many trailing inputs may be left out (None).
    """

    name: ClassVar[str]
    traits: ClassVar[frozenset[Trait]] = frozenset()
    tolerance: ClassVar[float] = 1e-5  # of the output's largest magnitude, native against reference

    def infer(self, *inputs: TensorType | None) -> tuple[TensorType, ...]:
        """Types of the outputs. Raises ShapeError if the inputs do not fit."""
        raise ShapeError(f"{self.name} has no shape rule")

    def reference(self, *inputs: Array | None) -> tuple[Array, ...]:
        """The outputs by numpy, written from the definition of the operator."""
        raise ShapeError(f"{self.name} has no reference")

    @classmethod
    def cases(cls) -> Sequence[Case]:
        """Samples that the conformance test takes through every executor."""
        return ()

    def preference(self, inputs: Sequence[TensorType | None], outputs: Sequence[TensorType]) -> Prefers:
        """The arrangement of tensors that the kernel of this op computes on."""
        return Prefers.PLAIN

    def plain_suits(self, target: Target, inputs: Sequence[TensorType | None], outputs: Sequence[TensorType]) -> bool:
        """Whether a kernel that can work on channel blocks is as fast on plain tensors."""
        return False

    def reads_plain(self, index: int, inputs: Sequence[TensorType | None], block: int) -> bool:
        """Whether a kernel that prefers channel blocks can read input `index` plain just as well."""
        return False

    def needs_plain(self, index: int) -> bool:
        """Whether a kernel that prefers channel blocks can read input `index` only plain."""
        return False

    def reads_blocks(self, index: int) -> bool:
        """Whether input `index` is read in channel blocks although the output has more dimensions: no broadcasting."""
        return False

    def flops(self, inputs: Sequence[TensorType | None], outputs: Sequence[TensorType]) -> int:
        """Arithmetic operations of one application, a multiply-add counted as two."""
        return sum(type.size for type in outputs)

    def padding(self, index: int, inputs: Sequence[TensorType | None]) -> Padding | None:
        """What the kernel wants around input `index`; None if it stays inside the tensor."""
        return None

    def for_samples(self, count: int, inputs: Sequence[TensorType | None]) -> Op | None:
        """The op that does with the first `count` elements along the first axes what this one does with all of them.

        `inputs` are the types of those inputs that have samples along their first axis; None stands for one that is the
        same for all samples. None if samples depend on each other.
        """
        alone = not any(type is not None for type in inputs[1:])
        return self if Trait.PER_SAMPLE in self.traits and alone else None

    def lower(self, ctx: Any) -> Any:
        """The kernel of this op: a `kernels.context.Lowered` from a `kernels.context.Context`."""
        raise UnsupportedError(f"{self.name} has no kernel")

    def attributes(self) -> dict[str, Any]:
        return {f.name: getattr(self, f.name) for f in fields(self)}

    def fail(self, why: str) -> ShapeError:
        """The error for inputs that do not fit; the graph adds the node's name."""
        return ShapeError(f"{self.name}: {why}")


@dataclass(frozen=True)
class Case:
    """One sample of an op. `inputs` are types (filled with seeded random data), arrays, or None."""

    op: Op
    inputs: tuple[TensorType | Array | None, ...]
    constants: frozenset[int] = field(default=frozenset())  # which inputs the graph holds as constants
    low: float = -2.0
    high: float = 2.0

    def arrays(self, seed: int = 0) -> tuple[Array | None, ...]:
        """The inputs as arrays, the same ones for the same seed."""
        rng = np.random.default_rng(seed)
        return tuple(self._array(entry, rng) for entry in self.inputs)

    def _array(self, entry: TensorType | Array | None, rng: np.random.Generator) -> Array | None:
        if not isinstance(entry, TensorType):
            return entry
        if entry.dtype is DType.BOOL:
            return rng.integers(0, 2, entry.shape).astype(np.bool_)
        if entry.dtype.is_float:
            return rng.uniform(self.low, self.high, entry.shape).astype(entry.dtype.numpy)
        low = 0 if not entry.dtype.is_signed else int(self.low)
        return rng.integers(low, max(int(self.high), low + 1), entry.shape, endpoint=True).astype(entry.dtype.numpy)

    def __str__(self) -> str:
        shown = [
            "none" if i is None else str(i if isinstance(i, TensorType) else TensorType.of(i)) for i in self.inputs
        ]
        attrs = ",".join(f"{k}={v}" for k, v in self.op.attributes().items())
        return f"{self.op.name}({','.join(shown)})[{attrs}]"
