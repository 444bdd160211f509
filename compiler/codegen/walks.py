"""Emits the order in which one thread, or each of several, goes through the groups of a program, and where it waits.

A group is a function of (bind, scratch, round of its loop, begin, end). How threads share one is in `codegen.workers`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from itertools import chain

from glulam.compiler.codegen.steps import Group, Row
from glulam.runtime import abi


def run_single(name: str, rows: Sequence[Row], bodies: Mapping[Group, str], *, profiled: bool) -> str:
    """The run of one thread: every group over its whole extent, no atomics."""
    lines = [
        f"define void @{name}(ptr %bind{', ptr %ticks' if profiled else ''}) nounwind {{",
        "entry:",
        f"  %scratch.slot = getelementptr i8, ptr %bind, i64 {abi.BIND_SCRATCH * abi.POINTER_BYTES}",
        "  %scratch = load ptr, ptr %scratch.slot, align 8",
    ]

    def do(group: Group, label: str, round: str) -> list[str]:
        call = f"  call void {bodies[group]}(ptr %bind, ptr %scratch, i64 {round}, i64 0, i64 {group.extent})"
        return [call] if group.chunks else []

    return "\n".join([*lines, *_in_order(rows, do, profiled=profiled), "  ret void", "}"])


def walk(name: str, rows: Sequence[Row], bodies: Mapping[Group, str], *, profiled: bool) -> str:
    """What every thread of a shared run does: in all groups in order, after what each needs, it claims chunks."""
    ticks = ", ptr %ticks" if profiled else ""
    lines = [
        f"define internal void @{name}(ptr %rows, ptr %bind, ptr %scratch, i64 %tid, i64 %shares,"
        f" i64 %eager{ticks}) noinline nounwind {{",
        "entry:",
        "  %lines = add i64 %shares, 1",
        f"  %stride = mul i64 %lines, {abi.CACHE_LINE}",
    ]

    meetings = _Meetings(rows, all_in_order=profiled)

    def do(group: Group, label: str, round: str) -> list[str]:
        before, after = meetings.around[group]
        take = [*_await(before, f"{label}.before"), *_take(group, label, bodies[group], round)]
        return [*take, f"  call void @glulam.wait(ptr %row.{label}, i64 {group.chunks})"] if after else take

    end = _await(meetings.at_the_end, "end")
    return "\n".join([*lines, *_in_order(rows, do, profiled=profiled), *end, "  ret void", "}"])


class _Meetings:
    """Where a walk waits for what.

    `around` has for each group the rows of counters to wait for before it, with the chunks to be done there, and
    whether to wait for the group itself before going on, as in loops, whose counters have no fixed row. `at_the_end`
    has those that no group has waited for.
    """

    def __init__(self, rows: Sequence[Row], *, all_in_order: bool) -> None:
        self.around: dict[Group, tuple[dict[int, int], bool]] = {}
        row_of: dict[int, int] = {}
        first, pending = 0, dict[int, int]()
        for groups, rounds in rows:
            in_order = all_in_order or rounds > 1
            for row, group in enumerate(groups, first):
                known = [step.waits for step in group.members if step.waits is not None]
                if in_order or len(known) < len(group.members):
                    before = dict(pending)
                else:
                    needed = {row_of.get(number) for number in chain.from_iterable(known)}
                    before = {number: chunks for number, chunks in pending.items() if number in needed}
                self.around[group] = before, in_order and group.chunks > 0
                pending = {number: chunks for number, chunks in pending.items() if number not in before}
                if not in_order and group.chunks:
                    row_of |= dict.fromkeys(group.numbers, row)
                    pending[row] = group.chunks
            first += len(groups) * rounds
        self.at_the_end = pending


def _await(rows: Mapping[int, int], label: str) -> list[str]:
    """Wait for rows of counters, given by number, until so many chunks are done."""
    return [
        line
        for number, chunks in rows.items()
        for line in (
            f"  %at.{label}.{number} = mul i64 %stride, {number}",
            f"  %row.{label}.{number} = getelementptr i8, ptr %rows, i64 %at.{label}.{number}",
            f"  call void @glulam.wait(ptr %row.{label}.{number}, i64 {chunks})",
        )
    ]


def _in_order(rows: Sequence[Row], do: Callable[[Group, str, str], list[str]], *, profiled: bool) -> list[str]:
    """All groups one after the other; `do(group, label, round)` may use %number.label, the number of the call."""
    lines = _stamp("start", "0") if profiled else []
    first, block = 0, "entry"
    for number, (groups, rounds) in enumerate(rows):
        inner = []
        for i, group in enumerate(groups):
            label = f"{number}.{i}"
            inner += _numbered(label, number, first + i, len(groups), rounds)
            inner += do(group, label, "0" if rounds == 1 else f"%round.{number}")
            if profiled:
                inner += [f"  %after.{label} = add i64 %number.{label}, 1", *_stamp(label, f"%after.{label}")]
        lines += _repeated(number, rounds, inner, block)
        first, block = first + len(groups) * rounds, _last_block(number, rounds, block)
    return lines


def _take(group: Group, label: str, body: str, round: str) -> list[str]:
    """Join in a group, whose row of counters has the number %number.label."""
    lines = [
        f"  %at.{label} = mul i64 %stride, %number.{label}",
        f"  %row.{label} = getelementptr i8, ptr %rows, i64 %at.{label}",
    ]
    common = f"ptr %row.{label}, ptr {body}, ptr %bind, ptr %scratch, i64 {round}"
    if group.chunks == 1:
        lines.append(f"  call void @glulam.step.once({common})")
    elif group.chunks > 1:
        sizes = (group.chunks, group.grain, group.extent, group.claim, group.left_to_owner)
        lines.append(
            f"  call void @glulam.step({common}, i64 %tid, i64 %shares, i64 %eager,"
            f" {', '.join(f'i64 {size}' for size in sizes)})"
        )
    return lines


def _repeated(number: int, rounds: int, body: Sequence[str], before: str) -> list[str]:
    """Loop `number` around the body, in which %round.number counts; the body alone if it is done once."""
    if rounds == 1:
        return list(body)
    loop, round = f"loop.{number}", f"%round.{number}"
    return [
        f"  br label %{loop}",
        f"{loop}:",
        f"  {round} = phi i64 [ 0, %{before} ], [ {round}.next, %{loop} ]",
        *body,
        f"  {round}.next = add i64 {round}, 1",
        f"  {round}.more = icmp ult i64 {round}.next, {rounds}",
        f"  br i1 {round}.more, label %{loop}, label %{loop}.end",
        f"{loop}.end:",
    ]


def _last_block(number: int, rounds: int, before: str) -> str:
    """The block that the code after loop `number` is in."""
    return before if rounds == 1 else f"loop.{number}.end"


def _numbered(label: str, loop: int, first: int, each: int, rounds: int) -> list[str]:
    """%number.label: the number of a call that is `first` in the first round, with `each` calls a round."""
    if rounds == 1:
        return [f"  %number.{label} = add i64 {first}, 0"]
    return [
        f"  %number.{label}.moved = mul i64 %round.{loop}, {each}",
        f"  %number.{label} = add i64 %number.{label}.moved, {first}",
    ]


def _stamp(label: str, number: str) -> list[str]:
    """Write the time to entry `number` of the table of ticks."""
    return [
        f"  %now.{label} = call i64 @{abi.READ_TICKS}()",
        f"  %stamp.{label} = getelementptr i64, ptr %ticks, i64 {number}",
        f"  store i64 %now.{label}, ptr %stamp.{label}, align 8",
    ]
