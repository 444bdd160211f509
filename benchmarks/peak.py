"""What this machine can do at most, measured, to hold kernels against: multiply-adds in registers, reading memory."""

from __future__ import annotations

import statistics

import numpy as np

from glulam.compiler.driver import make_manifest
from glulam.compiler.emission import emit_program
from glulam.compiler.graph.types import f32
from glulam.compiler.loops.builder import Builder
from glulam.compiler.loops.expr import Fma
from glulam.compiler.loops.ir import Access, Kernel
from glulam.compiler.loops.program import Program, Ref, Step
from glulam.compiler.options import Options
from glulam.compiler.targets import Target, target
from glulam.runtime.model import Model

_STEPS = 200_000
_CHUNKS, _STREAMS = 64, 8  # of memory that is read: parts for the threads, vectors in one round of a loop


def peak_kernel(machine: Target) -> Kernel:
    """Independent multiply-adds on as many registers as hide their latency."""
    tiles = _independent(machine)
    b = Builder("peak")
    x, y = b.param("x", (2,)), b.param("y", (machine.lanes,), Access.WRITE)
    with b.section(once=1), b.vector("v", machine.lanes) as v:
        acc = b.tile("acc", tiles)
        with b.unrolled("t", tiles) as t:
            b.store(acc[t], x[0])
        with b.serial("i", _STEPS), b.unrolled("t", tiles) as t:
            b.store(acc[t], Fma(acc[t], x[0], x[1]))
        total = acc[0] + 0.0
        for place in range(1, tiles):
            total = total + acc[place]
        b.store(y[v], total)
    return b.kernel()


def _independent(machine: Target) -> int:
    return 24 if machine.vector_registers > 16 else 12


def reading_kernel(machine: Target, rounds: int) -> Kernel:
    """Sums of everything in x, in chunks of so many rounds."""
    b, lanes = Builder("reading"), machine.lanes
    x = b.param("x", (_CHUNKS, rounds, _STREAMS, lanes))
    y = b.param("y", (_CHUNKS, lanes), Access.WRITE)
    with b.section(c=_CHUNKS) as (c,), b.vector("v", lanes) as v:
        acc = b.tile("acc", _STREAMS)
        with b.unrolled("t", _STREAMS) as t:
            b.store(acc[t], 0.0)
        with b.serial("i", rounds) as i, b.unrolled("t", _STREAMS) as t:
            b.store(acc[t], acc[t] + x[c, i, t, v])
        total = acc[0] + 0.0
        for place in range(1, _STREAMS):
            total = total + acc[place]
        b.store(y[c, v], total)
    return b.kernel()


class _Meter:
    """Measures how much of something a kernel of x and y does in a second.

    A shared machine changes its pace from one second to the next, so `sample` is to take turns with what is held
    against the result.
    """

    def __init__(self, kernel: Kernel, machine: Target, x: np.ndarray, work: int, threads: int = 1) -> None:
        inputs, output = kernel.params
        step = Step(kernel, (Ref("input"), Ref("output")), 1, kernel.name, work, 0)
        types = {"x": f32(*inputs.shape)}, {"y": f32(*output.shape)}
        program = Program((step,), np.zeros(0, np.uint8), 0, *types)
        manifest = make_manifest(program, machine, Options(target=machine.name, threads=threads))
        code = emit_program(program, machine)
        self._model = Model.from_parts(manifest, code, program.weights, "", threads)
        self._feeds, self._work = {"x": x}, work
        self._samples: list[float] = []

    def sample(self) -> None:
        """Measure once more, for a few milliseconds, by the time stamps around the kernel."""
        (step,) = self._model.profile(self._feeds, repeat=2).steps
        self._samples.append(self._work / step.seconds)

    @property
    def median(self) -> float:
        """Of the samples, in a second."""
        return statistics.median(self._samples)

    @property
    def best(self) -> float:
        """The highest of the samples."""
        return max(self._samples)


class PeakMeter(_Meter):
    """FLOP/s of one core in float32 multiply-adds, a multiply-add counted as two; touches next to no memory."""

    def __init__(self, name: str = "native") -> None:
        machine = target(name)
        flops = 2 * _STEPS * _independent(machine) * machine.lanes
        super().__init__(peak_kernel(machine), machine, np.array([0.5, 0.25], np.float32), flops)


class MemoryMeter(_Meter):
    """Bytes that so many threads together read in a second, if they read about `size` bytes over and over.

    Without a size each reads half of its second-level cache.
    """

    def __init__(self, size: int | None = None, threads: int = 1, name: str = "native") -> None:
        machine = target(name)
        size = threads * machine.l2_bytes // 2 if size is None else size
        row = _CHUNKS * _STREAMS * machine.vector_bytes
        rounds = max(1, size // row)
        x = np.zeros((_CHUNKS, rounds, _STREAMS, machine.lanes), np.float32)
        x.fill(1.0)  # memory of its own for each page
        super().__init__(reading_kernel(machine, rounds), machine, x, rounds * row, threads)
