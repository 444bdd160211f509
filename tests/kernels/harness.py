"""Runs one op's kernel on arrays, by the loop interpreter or natively, in the layout that the op prefers."""

from __future__ import annotations

import numpy as np
from native import function

from glulam.compiler.graph.layout import PLAIN, Layout
from glulam.compiler.graph.op import Prefers
from glulam.compiler.graph.types import TensorType
from glulam.compiler.kernels.context import Context
from glulam.compiler.kernels.operand import Operand
from glulam.compiler.kernels.packing import Packing
from glulam.compiler.loops.interpreter import interpret
from glulam.compiler.loops.verify import verify_kernel
from glulam.compiler.targets import target as named_target


def to_physical(array, layout, strides=None):
    """The array as it lies in memory: flat, lanes beyond the channels zero, halo filled."""
    if layout.is_plain:
        return np.ascontiguousarray(array).ravel().copy()
    block = layout.block
    halo = layout.halo or ((0, 0),) * (array.ndim - 2)
    blocks = -(-array.shape[1] // block)
    full = np.zeros((array.shape[0], blocks * block, *array.shape[2:]), array.dtype)
    full[:, : array.shape[1]] = array
    full = np.pad(full, ((0, 0), (0, 0), *halo), constant_values=layout.halo_value)
    if block == 1:
        return full.ravel()
    full = full.reshape(array.shape[0], blocks, block, *full.shape[2:])
    return np.moveaxis(full, 2, -1).ravel()


def halo_of(type, layout):
    return layout.halo or ((0, 0),) * (len(type.shape) - 2)


def from_physical(flat, type, layout):
    """The logical array; asserts that halo and unused lanes hold what they must."""
    if layout.is_plain:
        return flat.reshape(type.shape)
    physical = flat.reshape(layout.physical_shape(type.shape))
    if layout.block > 1:
        physical = np.moveaxis(physical, -1, 2)
        channels = -(-type.shape[1] // layout.block) * layout.block
        physical = physical.reshape(type.shape[0], channels, *physical.shape[3:])
        inside = (slice(b, b + n) for (b, _), n in zip(halo_of(type, layout), type.shape[2:], strict=True))
        assert not physical[:, type.shape[1] :][..., *inside].any(), "lanes beyond the channels are not zero"
        physical = physical[:, : type.shape[1]]
    halo = halo_of(type, layout)
    inner = (slice(None), slice(None), *(slice(b, b + n) for (b, _), n in zip(halo, type.shape[2:], strict=True)))
    around = np.ones(physical.shape, bool)
    around[inner] = False
    np.testing.assert_array_equal(physical[around], layout.halo_value)
    return physical[inner]


def layouts(op, types, outputs, target, out_halo=0, either_blocked=False):
    """Layouts of inputs and outputs as the op prefers them; `out_halo` asks the kernel to write padding as well."""
    prefers = op.preference(types, outputs)
    block = target.lanes if prefers is Prefers.BLOCKS or (either_blocked and prefers is Prefers.EITHER) else 1
    ins = []
    for i, type in enumerate(types):
        wanted = op.padding(i, types) if type is not None else None
        if wanted is not None and (wanted.or_none or (wanted.only_blocks and block == 1)):
            wanted = None
        rank = 0 if type is None else type.rank
        spans = wanted.spans if wanted else ((0, 0),) * max(rank - 2, 0) if block > 1 else ()
        value = wanted.value if wanted else 0.0
        ins.append(Layout(block, spans, value) if rank > 2 and (block > 1 or wanted) else PLAIN)
    around = ((out_halo, out_halo + 1 if out_halo else 0),)
    outs = [Layout(block, around * (t.rank - 2)) if block > 1 and t.rank > 2 else PLAIN for t in outputs]
    return ins, outs


def run_op(op, arrays, constants=(), target="native", native=True, out_halo=0, epilogue=None, in_layouts=None,
           either_blocked=False):  # fmt: skip
    """Outputs of the op's kernel for these inputs (None where left out); `constants` are known at compile time."""
    machine = named_target(target) if isinstance(target, str) else target
    types = [None if a is None else TensorType.of(a) for a in arrays]
    outputs = op.infer(*types)
    ins, outs = layouts(op, types, outputs, machine, out_halo, either_blocked)
    ins = in_layouts or ins
    operands = [
        None if a is None else Operand(t, PLAIN, None, a) if i in constants else Operand(t, layout)
        for i, (a, t, layout) in enumerate(zip(arrays, types, ins, strict=True))
    ]
    ctx = Context(
        "kernel", machine, operands, [Operand(t, lay) for t, lay in zip(outputs, outs, strict=True)], epilogue
    )
    lowered = op.lower(ctx)
    verify_kernel(lowered.kernel)
    results = [np.full(lay.size(t.shape), 77, t.dtype.numpy) for t, lay in zip(outputs, outs, strict=True)]
    memory = {}
    for buffer, arg in zip(lowered.kernel.params, lowered.args, strict=True):
        if isinstance(arg, Packing):
            memory[buffer.name] = arg.array().ravel()
        elif arg[0] == "input":
            memory[buffer.name] = to_physical(arrays[arg[1]], ins[arg[1]])
        else:
            memory[buffer.name] = results[arg[1]]
    if native:
        call(lowered.kernel, [memory[b.name] for b in lowered.kernel.params], machine)
    else:
        interpret(lowered.kernel, memory)
    return [from_physical(r, t, lay) for r, t, lay in zip(results, outputs, outs, strict=True)]


class WithSecondInput:
    """The op of one input with one more, which only the epilogue reads."""

    def __init__(self, op):
        self.op = op

    def infer(self, x, other):
        return self.op.infer(x)

    def preference(self, types, outputs):
        return self.op.preference(types[:1], outputs)

    def padding(self, index, types):
        return self.op.padding(0, types[:1]) if index == 0 else None

    def lower(self, ctx):
        return self.op.lower(ctx)


def call(kernel, arrays, machine, split=True):
    """Run the kernel natively, its iterations in two calls to show that they are independent."""
    native = function(kernel, machine)
    scratch = np.zeros(kernel.scratch_bytes + 64, np.uint8)
    base = (scratch.ctypes.data + 63) // 64 * 64
    middle = kernel.extent // 2 if split else 0
    pointers = [a.ctypes.data for a in arrays]
    native(*pointers, base, middle, kernel.extent)
    native(*pointers, base, 0, middle)
