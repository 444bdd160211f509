"""The least time that a kernel could take on this machine: its arithmetic at the peak, or its bytes at memory's rates.

Arithmetic is counted in the loop IR, so a kernel of Winograd's or Strassen's algorithm is held against the operations
that it does, not those of the definition; an operation counts as the multiply-add that could have been started instead.
Of the bytes, each once, weights come from memory, at the rate at which the machine reads as much as the model has, and
all else from the second-level cache (S. Williams, A. Waterman, D. Patterson: Roofline, 2009).
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

from glulam.benchmarks.counting import rounds
from glulam.compiler.loops.expr import Binary, Expr, Fma, Unary
from glulam.compiler.loops.ir import For, Kernel, Kind, Stmt, Store, TileWrite
from glulam.compiler.loops.program import Program
from glulam.compiler.targets import Target


@dataclass(frozen=True)
class Work:
    """Of a step: arithmetic operations, bytes of weights, and bytes of other tensors."""

    operations: int = 0
    weights: int = 0
    tensors: int = 0

    def __add__(self, other: Work) -> Work:
        return Work(self.operations + other.operations, self.weights + other.weights, self.tensors + other.tensors)


@dataclass(frozen=True)
class Roofline:
    """`peak` in FLOP/s, a multiply-add counted as two; `memory` and `cache` in bytes a second; of all threads."""

    peak: float
    memory: float
    cache: float

    def seconds(self, work: Work) -> float:
        """The least time."""
        return max(self._arithmetic(work), self._transfer(work))

    def bound(self, work: Work) -> str:
        """What sets it."""
        return "arithmetic" if self._arithmetic(work) >= self._transfer(work) else "memory"

    def _arithmetic(self, work: Work) -> float:
        return 2 * work.operations / self.peak

    def _transfer(self, work: Work) -> float:
        return work.weights / self.memory + work.tensors / self.cache


def footprint(program: Program) -> int:
    """Bytes of weights, activations, inputs and outputs."""
    edges = (*program.inputs.values(), *program.outputs.values())
    return program.weights.nbytes + program.arena_bytes + sum(each.nbytes for each in edges)


def work_by_step(program: Program, target: Target) -> dict[tuple[str, str], Work]:
    """What each step does, by its label and its kernel's name, as a profile has them."""
    counted = {kernel.name: operations(kernel, target.lanes) for kernel in program.kernels}
    found: dict[tuple[str, str], Work] = {}
    for step in program.steps:
        sizes = {"weights": 0, "tensors": 0}
        for buffer, ref in zip(step.kernel.params, step.refs, strict=False):
            sizes["weights" if ref.space == "weights" else "tensors"] += math.prod(buffer.shape) * buffer.dtype.size
        key = step.label, step.kernel.name
        found[key] = found.get(key, Work()) + Work(counted.get(step.kernel.name, 0), **sizes)
    return found


def operations(kernel: Kernel, lanes: int) -> int:
    """Arithmetic operations on single elements; those of a vector loop fill whole vectors of so many lanes."""
    return round(sum(section.extent * _all(section.body, lanes) for section in kernel.sections))


def _all(body: Iterable[Stmt], lanes: int) -> float:
    return sum(_operations(stmt, lanes) for stmt in body)


def _operations(stmt: Stmt, lanes: int) -> float:
    if isinstance(stmt, For):
        times = -(-stmt.var.extent // lanes) * lanes if stmt.kind is Kind.VECTOR else rounds(stmt)
        return times * _all(stmt.body, lanes)
    return len(_arithmetic(stmt.value)) if isinstance(stmt, Store | TileWrite) else 0


def _arithmetic(value: Expr) -> set[int]:
    """The nodes that compute, each once."""
    found: set[int] = set()
    open_ends, met = [value], set[int]()
    while open_ends:
        node = open_ends.pop()
        if id(node) not in met:
            met.add(id(node))
            open_ends += node.children()
            if isinstance(node, Unary | Binary | Fma):
                found.add(id(node))
    return found
