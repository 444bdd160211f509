"""The binary contract between emitted code and the runtime: entry symbols, binding table, control block.

`compiler.codegen.entry` emits code against these numbers and `runtime.context` lays memory out by them. A change here
is a new `ABI_VERSION`: an artifact carries the number it was compiled for.

Binding table (an array of pointers)::

    [arena, weights, scratch, input 0, ..., input n-1, output 0, ..., output m-1,
     function 0, user 0, function 1, user 1, ...]

The functions are external ones (`runtime.foreign`); each is called with its own user pointer.

Control block (used by runs with more than one thread; every counter has a cache line to itself)::

    WORD      u32   the futex word: bit 0 run open, bits 1-7 bank, bits 8-31 run number
    SLEEPERS  u32   workers that are asleep, or about to be
    STOP      u32   not zero: workers leave their loop
    BANKS           banks(threads) banks, each:
                      ACTIVE  u32   workers inside this bank
                      TICKS   ptr   table of time stamps, or null
                      ROWS          one row a step: done count, then one claim count for every share
"""

from __future__ import annotations

from collections.abc import Sequence

ABI_VERSION = 2

RUN_SINGLE = "glulam_run_single"
RUN_SINGLE_PROFILED = "glulam_run_single_profiled"
RUN_SHARED = "glulam_run_shared"
WORKER = "glulam_worker"
STOP_WORKERS = "glulam_stop_workers"
READ_TICKS = "glulam_read_ticks"
SIZES = "glulam_sizes"
"""An array of i64: how many follow, and these, which are the `sizes` of what the code works on."""
ENTRY_SYMBOLS = (RUN_SINGLE, RUN_SINGLE_PROFILED, RUN_SHARED, WORKER, STOP_WORKERS, READ_TICKS)

POINTER_BYTES = 8
BIND_ARENA = 0
BIND_WEIGHTS = 1
BIND_SCRATCH = 2
BIND_FIRST_INPUT = 3

CACHE_LINE = 64
ALIGNMENT = 64

WORD = 0
SLEEPERS = CACHE_LINE
STOP = 2 * CACHE_LINE
BANKS = 3 * CACHE_LINE
BANK_TICKS = CACHE_LINE
BANK_ROWS = 2 * CACHE_LINE

MAX_SHARES = 8
MAX_BANKS = 8
MAX_THREADS = 256
CLAIM_PART = 2
"""A thread claims one part in 2 of what is left of a share, less if several threads have that share as their own."""


def sizes(
    *,
    arena_bytes: int,
    scratch_bytes: int,
    weights_bytes: int,
    steps: int,
    inputs: Sequence[int],
    outputs: Sequence[int],
) -> list[int]:
    """The sizes that code and manifest must agree in, for the code reads and writes by them unchecked.

    inputs, outputs: the bytes of each.
    """
    return [arena_bytes, scratch_bytes, weights_bytes, steps, len(inputs), *inputs, *outputs]


def shares(threads: int) -> int:
    """Into how many parts the chunks of a step are divided; threads beyond that many use one part together."""
    return min(threads, MAX_SHARES)


def claim_size(left: int, threads: int, most: int) -> int:
    """How many of the chunks that are left of a share a thread claims, where a step allows so many at a time."""
    owners = -(-threads // shares(threads))
    return max(1, min(left // (CLAIM_PART * owners), most))


def banks(threads: int) -> int:
    """How many sets of counters there are: one for every thread, up to a limit, lets nobody wait for a straggler."""
    return min(threads, MAX_BANKS)


def row_bytes(threads: int) -> int:
    return CACHE_LINE * (1 + shares(threads))


def bank_bytes(threads: int, steps: int) -> int:
    return BANK_ROWS + steps * row_bytes(threads)


def control_bytes(threads: int, steps: int) -> int:
    """Size of the control block of a program with `steps` steps."""
    return BANKS + banks(threads) * bank_bytes(threads, steps)


def ticks_count(steps: int) -> int:
    """Entries in one thread's row of the time-stamp table: the start, then the end of every step."""
    return steps + 1


def scratch_stride(scratch_bytes: int) -> int:
    """Distance in bytes between the scratch memories of two threads."""
    return -(-scratch_bytes // ALIGNMENT) * ALIGNMENT


def chunk_count(extent: int, grain: int) -> int:
    return -(-extent // grain)
