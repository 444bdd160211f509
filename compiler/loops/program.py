"""A program: kernels in the order of their calls, and where in memory each of their buffers lies."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from glulam.compiler.errors import LoopError
from glulam.compiler.graph.types import Array, TensorType
from glulam.compiler.loops.interpreter import interpret
from glulam.compiler.loops.ir import Access, Kernel
from glulam.runtime.foreign import Foreign

Space = Literal["arena", "weights", "input", "output"]


@dataclass(frozen=True)
class Ref:
    """A place in memory: the arena, the packed weights, or the caller's input or output number `index`."""

    space: Space
    index: int = 0
    offset: int = 0  # bytes


@dataclass(frozen=True)
class Step:
    """One kernel call. Its iterations are given out in chunks of `grain`, at most `claim` of them at a time.

    With `foreign` that function is called instead, once; the kernel does nothing but name the operands. With several
    `parts` of a batch the kernel is called for each of them, in any order or at the same time: every operand lies
    `strides` bytes further on each time. `flops` and `bytes` are those of all parts.
    """

    kernel: Kernel
    refs: tuple[Ref, ...]
    grain: int
    label: str
    flops: int
    bytes: int
    foreign: Foreign | None = None
    node: str = ""  # of the graph, the anchor's if several are fused
    template: str = ""  # of the kernel, where there are several
    claim: int = 1
    parts: int = 1
    strides: tuple[int, ...] = ()

    @property
    def reads(self) -> int:
        """How many of the operands, which come first, are only read."""
        return sum(buffer.access is Access.READ for buffer in self.kernel.params)

    def part(self, number: int) -> tuple[Ref, ...]:
        """Where the operands of a part lie."""
        if not number:
            return self.refs
        moved = zip(self.refs, self.strides, strict=True)
        return tuple(replace(ref, offset=ref.offset + number * stride) for ref, stride in moved)


@dataclass(frozen=True)
class Repeat:
    """From step `first` on `count` steps, which come `rounds` times; each operand moves on by equal distances."""

    first: int
    count: int
    rounds: int


@dataclass(frozen=True)
class Program:
    """Everything a run needs. `weights` is one block of bytes; inputs and outputs are plain arrays of the caller.

    `repeats` tells which of the steps, in order, are the same over and over, so that their code need not be repeated.
    """

    steps: tuple[Step, ...]
    weights: np.ndarray[tuple[int], np.dtype[np.uint8]]
    arena_bytes: int
    inputs: Mapping[str, TensorType]
    outputs: Mapping[str, TensorType]
    repeats: tuple[Repeat, ...] = ()

    @property
    def kernels(self) -> tuple[Kernel, ...]:
        """Each kernel once, in the order of first use."""
        return tuple({step.kernel.name: step.kernel for step in self.steps if step.foreign is None}.values())

    @property
    def foreign(self) -> tuple[Foreign, ...]:
        """Each external function once, in the order of first use."""
        return tuple(dict.fromkeys(step.foreign for step in self.steps if step.foreign is not None))

    @property
    def scratch_bytes(self) -> int:
        """Private memory that each thread needs."""
        return max((kernel.scratch_bytes for kernel in self.kernels), default=0)


def interpret_program(program: Program, feeds: Mapping[str, Array]) -> dict[str, Array]:
    """The outputs by the loop interpreter; the arena starts out as NaN, so a read before a write shows."""
    arena = np.full(-(-program.arena_bytes // 4), np.nan, np.float32).view(np.uint8)
    inputs = [_bytes(np.ascontiguousarray(feeds[name], type.dtype.numpy)) for name, type in program.inputs.items()]
    results = [np.zeros(type.shape, type.dtype.numpy) for type in program.outputs.values()]
    outputs = [_bytes(array) for array in results]
    spaces = {"arena": [arena], "weights": [program.weights], "input": inputs, "output": outputs}
    for step in program.steps:
        for part in range(step.parts):
            _interpret(step, step.part(part), spaces)
    return dict(zip(program.outputs, results, strict=True))


def _interpret(step: Step, refs: Sequence[Ref], spaces: Mapping[str, Sequence[Array]]) -> None:
    arguments = {}
    for buffer, ref in zip(step.kernel.params, refs, strict=True):
        size = buffer.span * buffer.dtype.size
        memory = spaces[ref.space][ref.index][ref.offset : ref.offset + size]
        if memory.size < size:
            raise LoopError(f"kernel {step.kernel.name}: {buffer.name} needs {size} bytes of {ref}")
        arguments[buffer.name] = memory.view(buffer.dtype.numpy)
    if step.foreign is None:
        interpret(step.kernel, arguments)
    else:
        _call(step.foreign, [arguments[buffer.name] for buffer in step.kernel.params])


def _call(function: Foreign, operands: Sequence[Array]) -> None:
    specs = [*function.inputs, *function.outputs]
    arrays = [a.view(spec.numpy).reshape(spec.shape) for a, spec in zip(operands, specs, strict=True)]
    function.call(arrays[: len(function.inputs)], arrays[len(function.inputs) :])


def _bytes(array: Array) -> np.ndarray[tuple[int], np.dtype[np.uint8]]:
    return array.reshape(-1).view(np.uint8)
