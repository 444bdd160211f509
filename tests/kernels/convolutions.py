"""Convolutions to test, and what is checked of each."""

from __future__ import annotations

import numpy as np
from harness import run_op

from glulam.compiler.graph.layout import PLAIN, Layout
from glulam.compiler.graph.types import f32
from glulam.compiler.kernels.context import Context
from glulam.compiler.kernels.operand import Operand
from glulam.compiler.ops.conv import Conv
from glulam.compiler.targets import runnable_targets, target

TARGETS = [t.name for t in runnable_targets()]
RNG = np.random.default_rng(8)


def floats(*shape, dtype=np.float32):
    return RNG.uniform(-1, 1, shape).astype(dtype)


def conv(kernel, strides=1, pads=0, dilations=1, groups=1):
    rank = len(kernel)

    def each(value):
        return value if isinstance(value, tuple) else (value,) * rank

    pads = tuple(p if isinstance(p, tuple) else (p, p) for p in each(pads))
    return Conv(each(strides), pads, each(dilations), groups)


def case(x, outs, kernel, bias=True, dtype=np.float32, **attributes):
    """The op with arrays for input shape x and `outs` output channels."""
    op = conv(kernel, **attributes)
    arrays = [floats(*x, dtype=dtype), floats(outs, x[1] // op.groups, *kernel, dtype=dtype)]
    return op, [*arrays, floats(outs, dtype=dtype) if bias else None]


def check(op, arrays, target, native, constants=(1, 2), **options):
    (result,) = run_op(op, arrays, constants, target, native, **options)
    (wanted,) = op.reference(*arrays)
    np.testing.assert_allclose(result, wanted, rtol=1e-4, atol=5e-5)


def lowered(op, arrays, machine, constants=(1, 2)):
    """The kernel for operands in blocks."""
    block = Layout(machine.lanes, op.padding(0, [f32(*a.shape) for a in arrays[:2]]).spans)
    operands = [
        None if a is None else Operand(f32(*a.shape), PLAIN if i else block, None, a if i in constants else None)
        for i, a in enumerate(arrays)
    ]
    (out,) = op.infer(*(None if a is None else f32(*a.shape) for a in arrays))
    ctx = Context("k", machine, operands, [Operand(out, Layout(machine.lanes, ((0, 0),) * (out.rank - 2)))])
    return op.lower(ctx)


def template(op, arrays, constants=(1, 2), name="x86-64-v4"):
    """The template that is taken for blocked operands, and those that refused."""
    made = lowered(op, arrays, target(name), constants)
    return made.template, dict(made.refused)
