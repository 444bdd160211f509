"""What this machine can do at most: multiply-adds in registers, measured, to hold kernels against."""

from __future__ import annotations

import statistics

import numpy as np

from glulam.compiler.driver import emit_program, make_manifest
from glulam.compiler.graph.types import f32
from glulam.compiler.loops.expr import Fma
from glulam.compiler.loops.ir import Access, Builder, Kernel
from glulam.compiler.loops.program import Program, Ref, Step
from glulam.compiler.options import Options
from glulam.compiler.targets import Target, target
from glulam.runtime.model import Model

_STEPS = 200_000


def peak_kernel(machine: Target) -> Kernel:
    """Independent multiply-adds on as many registers as hide their latency."""
    tiles = 24 if machine.vector_registers > 16 else 12
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


class PeakMeter:
    """Measures the FLOP/s of one core in float32 multiply-adds, a multiply-add counted as two.

    A shared machine changes its pace from one second to the next, so `sample` is to take turns with what is held
    against the peak; it touches next to no memory.
    """

    def __init__(self, name: str = "native") -> None:
        machine = target(name)
        kernel = peak_kernel(machine)
        tiles = 24 if machine.vector_registers > 16 else 12
        self._flops = 2 * _STEPS * tiles * machine.lanes
        step = Step(kernel, (Ref("input"), Ref("output")), 1, "peak", self._flops, 0)
        program = Program((step,), np.zeros(0, np.uint8), 0, {"x": f32(2)}, {"y": f32(machine.lanes)})
        self._model = Model.from_parts(
            make_manifest(program, machine, Options(target=name)), emit_program(program, machine), program.weights, ""
        )
        self._feeds = {"x": np.array([0.5, 0.25], np.float32)}
        self._samples: list[float] = []

    def sample(self) -> None:
        """Measure once more, for a few milliseconds, by the time stamps around the kernel."""
        (step,) = self._model.profile(self._feeds, repeat=2).steps
        self._samples.append(self._flops / step.seconds)

    @property
    def peak(self) -> float:
        """The median of the samples."""
        return statistics.median(self._samples)

    @property
    def best(self) -> float:
        """The highest of the samples."""
        return max(self._samples)
