"""How far two processor cores are from each other: how long a message takes that goes through memory.

Cores of a Zen 4 EPYC that share a cache hear of each other in some 45 nanoseconds, others in 170. Virtual machines do
not tell which it is, and a host may move virtual cores from one group of real ones to another at any time.
"""

from __future__ import annotations

import ctypes
import functools
import threading
import time
from typing import Any

import llvmlite.binding as llvm
import numpy as np

from glulam.runtime import processors

_MESSAGES = 20_000
_TIMES = 3

# Waits until the number at %place is %next, puts the following one there, then waits for the one after that.
_TEXT = """
define void @exchange(ptr %place, i64 %first, i64 %last) {
entry:
  br label %wait
wait:
  %next = phi i64 [ %first, %entry ], [ %next, %wait ], [ %after, %answer ]
  %seen = load atomic i64, ptr %place acquire, align 64
  %mine = icmp eq i64 %seen, %next
  br i1 %mine, label %answer, label %wait
answer:
  %reply = add i64 %next, 1
  store atomic i64 %reply, ptr %place release, align 64
  %after = add i64 %next, 2
  %more = icmp slt i64 %after, %last
  br i1 %more, label %wait, label %done
done:
  ret void
}
"""


@functools.cache
def _exchange() -> tuple[Any, Any]:
    """The function, and the engine that holds it."""
    llvm.initialize_native_target()
    llvm.initialize_native_asmprinter()
    machine = llvm.Target.from_default_triple().create_target_machine(reloc="pic", codemodel="small")
    engine = llvm.create_mcjit_compiler(llvm.parse_assembly(_TEXT), machine)
    engine.finalize_object()
    signature = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_int64, ctypes.c_int64)
    return signature(engine.get_function_address("exchange")), engine


def distance() -> float:
    """Nanoseconds that a message takes between the first two cores this process may use, the best of a few times.

    Raises OSError if it may use only one.
    """
    cores = processors.allowed()[:2]
    if len(cores) < 2 or processors.usable() < 2:
        raise OSError("one core has no distance")
    return min(_messages(*cores) for _ in range(_TIMES)) / _MESSAGES * 1e9


def _messages(*cores: int) -> float:
    """Seconds for all messages, between threads of which each is confined to a core."""
    function, _ = _exchange()
    memory = np.zeros(32, np.int64)
    place = memory.ctypes.data + -memory.ctypes.data % 64
    ready, taken = threading.Barrier(len(cores)), []

    def side(first: int, core: int) -> None:
        processors.pin(0, core)
        ready.wait()
        start = time.perf_counter()
        function(place, first, _MESSAGES)
        taken.append(time.perf_counter() - start)

    threads = [threading.Thread(target=side, args=pair) for pair in enumerate(cores)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return max(taken)
