"""Emits the functions by which threads share the steps of a run. No barrier; nobody waits for a late worker.

A run
-----
Every step has chunks = ceil(extent / grain) and a row of counters: `done`, and a claim count for each share of the
chunks. A thread takes chunks of its own share by atomic adds and runs them, then of the others' shares; before it
leaves a share it adds the number of those it ran to `done`. Where chunks are short it claims several at once: up to
half of what is left, in a share that no other thread has as its own, so that it seldom touches counters, and the last
claims are small. Where shares lie in different memory (the parts of a batch), the last chunks of a share are left to
its own thread and to the one that took the first chunk: they are sooner done than their data would have moved. Whoever
took the first goes on to the last, so no chunk waits for a thread that is not there. The step is complete when `done`
equals its chunks. A thread that finds nothing left to claim goes on to the next step at once, and waits there for the
steps that this one depends on (`loops.hazards`), so that branches of a network overlap. A thread that comes late
finds completed steps and walks past them with two loads each. In a profiled run everybody waits for every step.

*Order.* An add to `done` is a release and the load that finds it full is an acquire; all adds belong to one release
sequence, so whoever starts a step sees every write of those that it waited for, and by induction of all that they
waited for. That also makes it safe to overwrite what these read. Claims need no order (relaxed): they only make sure
that nobody runs a chunk twice, and the atomic add alone does that. A thread claims in a step only after it saw complete
what the step depends on. Nobody waits while holding a chunk, and all walk in the same order, so somebody can always go
on.

*The end.* A walk ends with a wait for every step that nobody has waited for. When the caller has walked all steps,
every chunk of the run is done, so the outputs are ready and it may return, wherever the workers are: a worker that is
still inside finds all counters full, and touches no memory but them (and, in a profiled run, its own time stamps).

Counters of the next run
------------------------
They must not be reset below a worker that is still inside. There are as many *banks* of counters as threads (up to
a limit), so that up to that limit a bank without anybody inside always exists, and the caller need not wait for a
worker that lost its core. The futex word names the open run and its bank: bit 0 open, bits 1-7 bank, bits 8-31 a run
number.

    caller                                         worker
      pick a bank with active == 0      (K)          load word; is it open, and not the one I did last?
      reset its rows, fill its header                active[bank] += 1                         (A)
      word = number, bank, open         (O)          load word again: still the same?          (L)
      if sleepers: wake                                yes: walk all steps
      walk all steps                                 active[bank] -= 1                         (D)
      word = the same, closed           (C)

A, L, O, C, K are sequentially consistent. If L still reads what O wrote, L comes before C, hence A < L < C < next K:
the next K sees the worker inside, unless it also sees D, whose release orders all the worker did before the reset. If L
reads anything else the worker leaves without touching the bank. It does not matter how old the first load of the word
is, nor whether the number has wrapped round: L alone decides, and it speaks of the present run.

Sleep
-----
A worker polls the word for about a tenth of a millisecond, adds itself to `sleepers`, and sleeps in the kernel if the
word still has the value it saw last. The caller writes the word (O), then reads `sleepers`. Both are sequentially
consistent: the caller sees the sleeper and wakes it, or the kernel sees the new word and does not put it to sleep.
Closing the word wakes nobody. To stop, the flag is set before the word changes and everybody is woken; a worker that
read the flag too early finds the word changed and does not sleep.

Waiting for a step that others still compute: pauses first, then the core is offered to other threads each time.
"""

from __future__ import annotations

from glulam.compiler.codegen.platform import Platform
from glulam.runtime import abi

_WAIT_SPINS = 1000


def worker_functions(platform: Platform, *, steps: int, rows: int, scratch_stride: int) -> str:
    """LLVM text of the shared run, the worker loop and what they call, except the walks themselves.

    Args:
        steps: rows of counters in each bank.
        rows: rows that a run without profiling uses; only these are reset before it.
        scratch_stride: bytes between two threads' scratch memories.
    """
    return "\n".join(
        [
            platform.declarations,
            "declare void @llvm.memset.p0.i64(ptr, i8, i64, i1)",
            "declare i64 @llvm.umin.i64(i64, i64)",
            "declare i64 @llvm.umax.i64(i64, i64)",
            _primitives(platform),
            _STEP,
            _STEP_ONCE,
            _WAIT,
            _layout(steps),
            _participate(steps, scratch_stride),
            _run_shared(rows, steps),
            _worker(platform.spins),
        ]
    )


def _primitives(platform: Platform) -> str:
    return f"""
define i64 @{abi.READ_TICKS}() nounwind {{
  %now = call i64 @{platform.clock}()
  ret i64 %now
}}
define internal void @glulam.sleep(ptr %word, i32 %seen) noinline nounwind {{
  {platform.wait}
  ret void
}}
define internal void @glulam.wake(ptr %word) noinline nounwind {{
  {platform.wake}
  ret void
}}
define internal i32 @glulam.relax(i32 %spins) alwaysinline nounwind {{
  %patient = icmp ult i32 %spins, {_WAIT_SPINS}
  br i1 %patient, label %pause, label %relinquish
pause:
  {platform.pause}
  %more = add i32 %spins, 1
  ret i32 %more
relinquish:
  {platform.relinquish}
  ret i32 %spins
}}
define internal void @glulam.pause() alwaysinline nounwind {{
  {platform.pause}
  ret void
}}
define void @{abi.STOP_WORKERS}(ptr %control) nounwind {{
  %stop = getelementptr i8, ptr %control, i64 {abi.STOP}
  store atomic i32 1, ptr %stop seq_cst, align 4
  %old = atomicrmw add ptr %control, i32 256 seq_cst
  call void @glulam.wake(ptr %control)
  ret void
}}"""


_STEP = f"""
define internal void @glulam.step(ptr %row, ptr %body, ptr %bind, ptr %scratch, i64 %round, i64 %tid, i64 %shares,
                                  i64 %eager, i64 %chunks, i64 %grain, i64 %extent, i64 %most,
                                  i64 %kept) noinline nounwind {{
entry:
  %done.now = load atomic i64, ptr %row acquire, align 8
  %complete.already = icmp eq i64 %done.now, %chunks
  br i1 %complete.already, label %exit, label %start
start:
  %own = urem i64 %tid, %shares
  br label %share
share:
  %turn = phi i64 [ 0, %start ], [ %turn.next, %share.next ]
  %unwrapped = add i64 %own, %turn
  %beyond = icmp uge i64 %unwrapped, %shares
  %wrapped = sub i64 %unwrapped, %shares
  %number = select i1 %beyond, i64 %wrapped, i64 %unwrapped
  %number.next = add i64 %number, 1
  %first.scaled = mul i64 %number, %chunks
  %first = udiv i64 %first.scaled, %shares
  %last.scaled = mul i64 %number.next, %chunks
  %last = udiv i64 %last.scaled, %shares
  %count = sub i64 %last, %first
  %is.own = icmp eq i64 %turn, 0
  %reserve.first = select i1 %is.own, i64 0, i64 %kept
  %claim.at = mul i64 %number.next, {abi.CACHE_LINE}
  %claims = getelementptr i8, ptr %row, i64 %claim.at
  br label %look
look:
  %taken = phi i64 [ 0, %share ], [ %taken.next, %run ]
  %reserve = phi i64 [ %reserve.first, %share ], [ %reserve.next, %run ]
  %claimed.now = load atomic i64, ptr %claims monotonic, align 8
  %untouched = icmp eq i64 %claimed.now, 0
  %reserved = select i1 %untouched, i64 0, i64 %reserve
  %spoken.for = add i64 %claimed.now, %reserved
  %some.left = icmp ult i64 %spoken.for, %count
  br i1 %some.left, label %claim, label %leave
claim:
  %left = sub i64 %count, %claimed.now
  %part.of.left = udiv i64 %left, %eager
  %several = call i64 @llvm.umin.i64(i64 %part.of.left, i64 %most)
  %size = call i64 @llvm.umax.i64(i64 %several, i64 1)
  %mine = atomicrmw add ptr %claims, i64 %size monotonic
  %won = icmp ult i64 %mine, %count
  br i1 %won, label %run, label %leave
run:
  %mine.wanted = add i64 %mine, %size
  %mine.next = call i64 @llvm.umin.i64(i64 %mine.wanted, i64 %count)
  %won.chunks = sub i64 %mine.next, %mine
  %chunk = add i64 %first, %mine
  %chunk.next = add i64 %first, %mine.next
  %begin = mul i64 %chunk, %grain
  %begin.next = mul i64 %chunk.next, %grain
  %end = call i64 @llvm.umin.i64(i64 %begin.next, i64 %extent)
  call void %body(ptr %bind, ptr %scratch, i64 %round, i64 %begin, i64 %end)
  %taken.next = add i64 %taken, %won.chunks
  %opened = icmp eq i64 %mine, 0
  %reserve.next = select i1 %opened, i64 0, i64 %reserve
  br label %look
leave:
  %any = icmp ne i64 %taken, 0
  br i1 %any, label %count.in, label %share.next
count.in:
  %counted = atomicrmw add ptr %row, i64 %taken release
  br label %share.next
share.next:
  %turn.next = add i64 %turn, 1
  %more.shares = icmp ult i64 %turn.next, %shares
  br i1 %more.shares, label %share, label %exit
exit:
  ret void
}}"""

_STEP_ONCE = f"""
define internal void @glulam.step.once(ptr %row, ptr %body, ptr %bind, ptr %scratch, i64 %round) noinline nounwind {{
  %claims = getelementptr i8, ptr %row, i64 {abi.CACHE_LINE}
  %claimed.now = load atomic i64, ptr %claims monotonic, align 8
  %free = icmp eq i64 %claimed.now, 0
  br i1 %free, label %claim, label %exit
claim:
  %mine = atomicrmw add ptr %claims, i64 1 monotonic
  %won = icmp eq i64 %mine, 0
  br i1 %won, label %run, label %exit
run:
  call void %body(ptr %bind, ptr %scratch, i64 %round, i64 0, i64 0)
  store atomic i64 1, ptr %row release, align 8
  br label %exit
exit:
  ret void
}}"""

_WAIT = """
define internal void @glulam.wait(ptr %row, i64 %chunks) noinline nounwind {
entry:
  br label %look
look:
  %spins = phi i32 [ 0, %entry ], [ %spins.next, %relax ]
  %done = load atomic i64, ptr %row acquire, align 8
  %complete = icmp eq i64 %done, %chunks
  br i1 %complete, label %exit, label %relax
relax:
  %spins.next = call i32 @glulam.relax(i32 %spins)
  br label %look
exit:
  ret void
}"""


def _layout(steps: int) -> str:
    return f"""
define internal ptr @glulam.bank(ptr %control, i64 %shares, i64 %number) alwaysinline nounwind {{
  %lines = add i64 %shares, 1
  %rows = mul i64 %lines, {steps * abi.CACHE_LINE}
  %size = add i64 %rows, {abi.BANK_ROWS}
  %distance = mul i64 %size, %number
  %offset = add i64 %distance, {abi.BANKS}
  %bank = getelementptr i8, ptr %control, i64 %offset
  ret ptr %bank
}}"""


def _participate(steps: int, scratch_stride: int) -> str:
    return f"""
define internal void @glulam.participate(ptr %bank, ptr %bind, i64 %tid, i64 %threads) noinline nounwind {{
  %shares = call i64 @llvm.umin.i64(i64 %threads, i64 {abi.MAX_SHARES})
  %others = sub i64 %threads, 1
  %further = udiv i64 %others, %shares
  %owners = add i64 %further, 1
  %eager = mul i64 %owners, {abi.CLAIM_PART}
  %scratch.slot = getelementptr i8, ptr %bind, i64 {abi.BIND_SCRATCH * abi.POINTER_BYTES}
  %scratch.base = load ptr, ptr %scratch.slot, align 8
  %scratch.at = mul i64 %tid, {scratch_stride}
  %scratch = getelementptr i8, ptr %scratch.base, i64 %scratch.at
  %rows = getelementptr i8, ptr %bank, i64 {abi.BANK_ROWS}
  %ticks.slot = getelementptr i8, ptr %bank, i64 {abi.BANK_TICKS}
  %ticks.base = load ptr, ptr %ticks.slot, align 8
  %plain = icmp eq ptr %ticks.base, null
  br i1 %plain, label %walk, label %profile
walk:
  call void @glulam.walk(ptr %rows, ptr %bind, ptr %scratch, i64 %tid, i64 %shares, i64 %eager)
  ret void
profile:
  %ticks.at = mul i64 %tid, {8 * abi.ticks_count(steps)}
  %ticks = getelementptr i8, ptr %ticks.base, i64 %ticks.at
  call void @glulam.walk.profiled(ptr %rows, ptr %bind, ptr %scratch, i64 %tid, i64 %shares, i64 %eager,
                                  ptr %ticks)
  ret void
}}"""


def _run_shared(rows: int, steps: int) -> str:
    return f"""
define void @{abi.RUN_SHARED}(ptr %control, ptr %bind, i64 %threads, ptr %ticks) nounwind {{
entry:
  %shares = call i64 @llvm.umin.i64(i64 %threads, i64 {abi.MAX_SHARES})
  %banks = call i64 @llvm.umin.i64(i64 %threads, i64 {abi.MAX_BANKS})
  br label %scan
scan:
  %spins = phi i32 [ 0, %entry ], [ %spins.next, %again ]
  br label %look
look:
  %number = phi i64 [ 0, %scan ], [ %number.next, %occupied ]
  %bank = call ptr @glulam.bank(ptr %control, i64 %shares, i64 %number)
  %active = load atomic i32, ptr %bank seq_cst, align 4
  %free = icmp eq i32 %active, 0
  br i1 %free, label %reset, label %occupied
occupied:
  %number.next = add i64 %number, 1
  %more = icmp ult i64 %number.next, %banks
  br i1 %more, label %look, label %again
again:
  %spins.next = call i32 @glulam.relax(i32 %spins)
  br label %scan
reset:
  %ticks.slot = getelementptr i8, ptr %bank, i64 {abi.BANK_TICKS}
  store ptr %ticks, ptr %ticks.slot, align 8
  %plain = icmp eq ptr %ticks, null
  %rows = select i1 %plain, i64 {rows * abi.CACHE_LINE}, i64 {steps * abi.CACHE_LINE}
  %lines = add i64 %shares, 1
  %bytes = mul i64 %rows, %lines
  %first.row = getelementptr i8, ptr %bank, i64 {abi.BANK_ROWS}
  call void @llvm.memset.p0.i64(ptr %first.row, i8 0, i64 %bytes, i1 false)
  %before = load atomic i32, ptr %control monotonic, align 4
  %run.before = and i32 %before, -256
  %run = add i32 %run.before, 256
  %bank.short = trunc i64 %number to i32
  %bank.bits = shl i32 %bank.short, 1
  %closed = or i32 %run, %bank.bits
  %open = or i32 %closed, 1
  %replaced = atomicrmw xchg ptr %control, i32 %open seq_cst
  %sleepers.at = getelementptr i8, ptr %control, i64 {abi.SLEEPERS}
  %sleepers = load atomic i32, ptr %sleepers.at seq_cst, align 4
  %awake = icmp eq i32 %sleepers, 0
  br i1 %awake, label %walk, label %wake
wake:
  call void @glulam.wake(ptr %control)
  br label %walk
walk:
  call void @glulam.participate(ptr %bank, ptr %bind, i64 0, i64 %threads)
  %replaced.too = atomicrmw xchg ptr %control, i32 %closed seq_cst
  ret void
}}"""


def _worker(spins: int) -> str:
    return f"""
define void @{abi.WORKER}(ptr %control, ptr %bind, i64 %tid, i64 %threads) nounwind {{
entry:
  %shares = call i64 @llvm.umin.i64(i64 %threads, i64 {abi.MAX_SHARES})
  %sleepers = getelementptr i8, ptr %control, i64 {abi.SLEEPERS}
  %stop = getelementptr i8, ptr %control, i64 {abi.STOP}
  br label %idle
idle:
  %last = phi i32 [ 0, %entry ], [ %last, %sleep ], [ %last, %stale ], [ %word, %work ]
  br label %poll
poll:
  %spins = phi i32 [ 0, %idle ], [ %spins.next, %pause ]
  %word = load atomic i32, ptr %control acquire, align 4
  %stopped = load atomic i32, ptr %stop seq_cst, align 4
  %leave = icmp ne i32 %stopped, 0
  br i1 %leave, label %exit, label %check
check:
  %open.bit = and i32 %word, 1
  %open = icmp ne i32 %open.bit, 0
  %fresh = icmp ne i32 %word, %last
  %enter = and i1 %open, %fresh
  br i1 %enter, label %join, label %patience
patience:
  %spins.next = add i32 %spins, 1
  %wait = icmp ult i32 %spins, {spins}
  br i1 %wait, label %pause, label %sleep
pause:
  call void @glulam.pause()
  br label %poll
sleep:
  %asleep = atomicrmw add ptr %sleepers, i32 1 seq_cst
  call void @glulam.sleep(ptr %control, i32 %word)
  %woken = atomicrmw sub ptr %sleepers, i32 1 seq_cst
  br label %idle
join:
  %bank.bits = lshr i32 %word, 1
  %bank.short = and i32 %bank.bits, 127
  %number = zext i32 %bank.short to i64
  %bank = call ptr @glulam.bank(ptr %control, i64 %shares, i64 %number)
  %entered = atomicrmw add ptr %bank, i32 1 seq_cst
  %word.again = load atomic i32, ptr %control seq_cst, align 4
  %same = icmp eq i32 %word.again, %word
  br i1 %same, label %work, label %stale
work:
  call void @glulam.participate(ptr %bank, ptr %bind, i64 %tid, i64 %threads)
  %left = atomicrmw sub ptr %bank, i32 1 release
  br label %idle
stale:
  %left.too = atomicrmw sub ptr %bank, i32 1 release
  br label %idle
exit:
  ret void
}}"""
