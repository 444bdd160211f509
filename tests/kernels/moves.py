"""Runs kernels that move elements in any layouts, and checks them against the op's reference."""

from __future__ import annotations

import numpy as np
from harness import from_physical, to_physical
from native import aligned, function

from glulam.compiler.graph.layout import PLAIN, Layout
from glulam.compiler.graph.types import TensorType
from glulam.compiler.kernels.context import Context
from glulam.compiler.kernels.operand import Operand
from glulam.compiler.kernels.packing import Packing
from glulam.compiler.loops.interpreter import interpret
from glulam.compiler.loops.verify import verify_kernel
from glulam.compiler.targets import runnable_targets, target

DTYPES = ["f4", "f8", "i8", "i4", "i2", "i1", "u1", "?", "f2"]
_MANY = 20_000  # elements, which take the interpreter a second
GAP = 96  # elements between the images of a tensor that is part of a larger one


def blocked(rank, lanes, halo=None, value=0.0):
    """Channel blocks with (before, after) around each spatial extent, or with one pair for all."""
    spans = halo if halo and isinstance(halo[0], tuple) else ((halo or (0, 0)),) * (rank - 2)
    return Layout(lanes, spans, value)


class Lowering:
    """An op's kernel for given types, layouts (of inputs, of outputs) and constants."""

    def __init__(self, op, arrays, layouts, constants=(), machine=None, gaps=False):
        self.machine = machine or target("native")
        self.arrays, self.gaps = arrays, gaps
        self.types = [TensorType.of(a) for a in arrays]
        self.results = op.infer(*self.types)
        self.ins, self.outs = layouts
        inputs = [
            Operand(t, PLAIN, None, a) if i in constants else Operand(t, lay, self.strides(t, lay))
            for i, (a, t, lay) in enumerate(zip(arrays, self.types, self.ins, strict=True))
        ]
        outputs = [Operand(t, lay, self.strides(t, lay)) for t, lay in zip(self.results, self.outs, strict=True)]
        self.lowered = op.lower(Context("kernel", self.machine, inputs, outputs))
        self.kernel = self.lowered.kernel
        verify_kernel(self.kernel)

    def strides(self, type, layout):
        if not self.gaps or layout.block == 1:
            return None
        dense = layout.strides(type.shape)
        return (dense[0] + GAP, *dense[1:])

    def memory(self):
        """Arrays of the parameters by name, and those of the outputs."""
        outputs = [
            self.widened(np.full(lay.size(t.shape), 77, t.dtype.numpy), t, lay)
            for t, lay in zip(self.results, self.outs, strict=True)
        ]
        memory = {}
        for buffer, arg in zip(self.kernel.params, self.lowered.args, strict=True):
            if isinstance(arg, Packing):
                memory[buffer.name] = aligned(arg.array())
            elif arg[0] == "input":
                i = arg[1]
                memory[buffer.name] = self.widened(to_physical(self.arrays[i], self.ins[i]), self.types[i], self.ins[i])
            else:
                memory[buffer.name] = outputs[arg[1]]
        return memory, outputs

    def widened(self, flat, type, layout):
        flat = aligned(flat)
        if self.strides(type, layout) is None or not type.shape[0]:
            return flat
        images = np.pad(flat.reshape(type.shape[0], -1), ((0, 0), (0, GAP)), constant_values=55)
        return aligned(images)

    def narrowed(self, flat, type, layout):
        if self.strides(type, layout) is None or not type.shape[0]:
            return flat
        images = flat.reshape(type.shape[0], -1)
        np.testing.assert_array_equal(images[:, -GAP:], 55, "the kernel wrote outside its output")
        return images[:, :-GAP].ravel()

    def interpreted(self):
        memory, outputs = self.memory()
        interpret(self.kernel, {b.name: memory[b.name].view(b.dtype.numpy) for b in self.kernel.params})
        return self.logical(outputs)

    def native(self):
        memory, outputs = self.memory()
        call = self.function(memory)
        middle = self.kernel.extent // 2
        call(middle, self.kernel.extent)
        call(0, middle)
        return self.logical(outputs)

    def function(self, memory):
        """A call of the kernel's iterations from begin to end."""
        native = function(self.kernel, self.machine)
        arrays = [memory[b.name] for b in self.kernel.params]
        scratch = aligned(np.zeros(self.kernel.scratch_bytes + 64, np.uint8))

        def call(begin, end):
            native(*(a.ctypes.data for a in arrays), scratch.ctypes.data, begin, end)

        return call

    def logical(self, outputs):
        return [
            from_physical(self.narrowed(flat, t, lay), t, lay)
            for flat, t, lay in zip(outputs, self.results, self.outs, strict=True)
        ]


def check(op, arrays, layouts=None, constants=(), gaps=False, interpreter=True, targets=None):
    """Reference = interpreter = native, to the bit, on each target. `layouts(lanes)`: those of inputs and outputs.

    Many elements are interpreted on the first target only.
    """
    expected = op.reference(*arrays)
    many = sum(array.size for array in arrays) > _MANY
    for number, machine in enumerate(targets or runnable_targets()):
        chosen = layouts(machine.lanes) if layouts else ([PLAIN] * len(arrays), [PLAIN] * len(expected))
        lowering = Lowering(op, arrays, chosen, constants, machine, gaps)
        results = {"native": lowering.native()}
        if interpreter and not (many and number):
            results["interpreter"] = lowering.interpreted()
        for how, actual in results.items():
            for i, (one, other) in enumerate(zip(actual, expected, strict=True)):
                assert one.shape == other.shape
                np.testing.assert_array_equal(one, other, f"output {i}, {how}, {machine.name}")


def random(shape, dtype="f4", seed=0):
    """Random values of any dtype; floats with NaN and infinities among them."""
    rng = np.random.default_rng(seed)
    dtype = np.dtype(dtype)
    if dtype.kind == "f":
        array = np.array(rng.normal(size=shape)).astype(dtype)
        if array.size > 3:
            array.reshape(-1)[:3] = np.nan, np.inf, -np.inf
        return array
    if dtype.kind == "b":
        return np.array(rng.integers(0, 2, shape)).astype(dtype)
    info = np.iinfo(dtype)
    return np.array(rng.integers(info.min, info.max, shape, dtype=dtype, endpoint=True))


def measure(op, arrays, layouts, constants=(), repeats=30):
    """GB/s, counting what is read and written once each; to be called by hand."""
    import time

    lowering = Lowering(op, arrays, layouts, constants)
    memory, _ = lowering.memory()
    call = lowering.function(memory)
    best = float("inf")
    for _ in range(repeats):
        start = time.perf_counter()
        call(0, lowering.kernel.extent)
        best = min(best, time.perf_counter() - start)
    traffic = sum(a.nbytes for a in memory.values())
    return traffic / best / 1e9, best * 1e6, lowering.kernel.extent
