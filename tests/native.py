"""Runs a kernel natively on arrays, and compares it with the interpreter."""

from __future__ import annotations

import ctypes
import itertools
from collections.abc import Sequence

import llvmlite.binding as llvm
import numpy as np

from glulam.compiler.codegen.module import build_objects
from glulam.compiler.loops.interpreter import interpret
from glulam.compiler.loops.verify import verify_kernel


def aligned(array):
    """A flat copy that starts on a cache line."""
    flat = np.ascontiguousarray(array).ravel()
    memory = np.zeros(flat.nbytes + 64, np.uint8)
    start = -memory.ctypes.data % 64
    copy = memory[start : start + flat.nbytes].view(flat.dtype)
    copy[:] = flat
    return copy


def entry_text(kernel):
    """An exported function `run` that passes everything on to the kernel."""
    params = "".join(f"ptr %a{i}, " for i in range(len(kernel.params))) + "ptr %scratch, i64 %begin, i64 %end"
    return f"define void @run({params}) {{\n  call void @{kernel.name}({params})\n  ret void\n}}\n"


def function(kernel, target):
    """The kernel's native code: a function of the addresses of its parameters and scratch, and of begin and end."""
    (code,) = build_objects([kernel], target)
    machine = llvm.Target.from_default_triple().create_target_machine(reloc="pic", codemodel="small")
    engine = llvm.create_mcjit_compiler(llvm.parse_assembly(""), machine)
    engine.add_object_file(llvm.ObjectFileRef.from_data(code))
    engine.finalize_object()
    signature = ctypes.CFUNCTYPE(None, *[ctypes.c_void_p] * (len(kernel.params) + 1), ctypes.c_int64, ctypes.c_int64)
    made = signature(engine.get_function_address(kernel.name))
    made.engine = engine  # which owns the code
    return made


def run_native(kernel, arrays, target, cuts: Sequence[int] = (), begin=0, end=None):
    """Call the kernel on flat arrays, its iterations cut at the given places and run from the last piece on."""
    native = function(kernel, target)
    scratch = aligned(np.full(kernel.scratch_bytes + 64, 0xFF, np.uint8))
    bounds = [begin, *cuts, kernel.extent if end is None else end]
    for first, last in reversed(list(itertools.pairwise(bounds))):
        native(*(a.ctypes.data for a in arrays), scratch.ctypes.data, first, last)


def both(kernel, arguments, target, cuts: Sequence[int] = ()):
    """Arrays of all parameters after the interpreter's run and after the native run."""
    verify_kernel(kernel)
    slow = {name: np.array(a).ravel() for name, a in arguments.items()}
    fast = {name: aligned(a) for name, a in arguments.items()}
    interpret(kernel, slow)
    run_native(kernel, [fast[b.name] for b in kernel.params], target, cuts)
    return slow, fast


def assert_same(kernel, arguments, target, cuts: Sequence[int] = (), ulps=0):
    """The native run gives the interpreter's values, to within some units in the last place."""
    slow, fast = both(kernel, arguments, target, cuts)
    for name, expected in slow.items():
        if ulps and expected.dtype.kind == "f":
            assert_ulps(fast[name], expected, ulps)
        else:
            np.testing.assert_array_equal(fast[name], expected, err_msg=name)


def assert_ulps(actual, expected, ulps):
    """NaN and infinities alike; the rest within `ulps` units of the expected value's last place."""
    odd = ~np.isfinite(expected)
    np.testing.assert_array_equal(actual[odd], expected[odd])
    with np.errstate(all="ignore"):
        floor = np.finfo(expected.dtype).tiny
        unit = np.spacing(np.maximum(np.abs(expected[~odd]), floor).astype(expected.dtype)).astype(np.float64)
        error = np.abs(actual[~odd].astype(np.float64) - expected[~odd].astype(np.float64)) / unit
    assert error.size == 0 or error.max() <= ulps, f"{error.max()} ulp at {expected[~odd][error.argmax()]}"
