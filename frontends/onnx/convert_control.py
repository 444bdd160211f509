"""ONNX's control flow, settled at import: the branch of a known condition, and loops unrolled as often as they run.

Of a condition that only a run knows both branches are computed, and one is chosen.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from glulam.compiler import ops
from glulam.compiler.graph.graph import Value
from glulam.frontends.onnx.context import Context, Converter, Held


def if_(ctx: Context) -> tuple[Held, ...]:
    """The branch that a constant condition takes, in place; or both, if they give tensors of the same types."""
    then, otherwise = ctx.branch("then_branch"), ctx.branch("else_branch")
    if ctx.builder.demanded(ctx[0]) is not None:
        return ctx.inline(then if ctx.known_scalar(0, "condition") else otherwise, ())
    if ctx[0].type.size != 1:
        raise ctx.malformed(f"the condition is {ctx[0].type}, no scalar")
    condition = ctx.apply(ops.Reshape(()), ctx[0])
    pairs = list(zip(ctx.inline(then, ()), ctx.inline(otherwise, ()), strict=True))
    results = list[Value]()
    for yes, no in ((ctx.tensor_of(a), ctx.tensor_of(b)) for a, b in pairs):
        if yes.type != no.type:
            raise ctx.unsupported(f"the condition is computed, and the branches give {yes.type} and {no.type}")
        results.append(ctx.apply(ops.Where(), condition, yes, no))
    return tuple(results)


def loop(ctx: Context) -> tuple[Held, ...]:
    """The body as often as the trip count and the condition say; both must be known, the condition of every round."""
    body = ctx.branch("body")
    trips = ctx.known_scalar(0, "trip count")
    going = ctx.known_scalar(1, "condition")
    carried = [ctx.held(i) for i in range(2, len(ctx.inputs))]
    stacks: list[list[Value]] = [[] for _ in body.output[1 + len(carried) :]]
    condition = ctx.optional(1)
    round = 0
    while (trips is None or round < trips) and (going is None or going):
        number = ctx.constant(np.asarray(round, np.int64))
        results = ctx.inline(body, (number, condition or ctx.constant(np.asarray(True)), *carried))
        condition, carried = ctx.tensor_of(results[0]), list(results[1 : 1 + len(carried)])
        for stack, value in zip(stacks, results[1 + len(carried) :], strict=True):
            stack.append(ctx.tensor_of(value))
        array = ctx.builder.demanded(condition)
        if array is None:
            raise ctx.unsupported("the loop ends when a computed value says so; only known trip counts are offered")
        going = bool(array)
        round += 1
    return (*carried, *(stacked(ctx, stack, 0) for stack in stacks))


def scan(ctx: Context) -> tuple[Value, ...]:
    """The body for each element along the scanned axes, one after the other."""
    body = ctx.branch("body")
    count = ctx.integer("num_scan_inputs", 0)
    if not 0 < count <= len(ctx.inputs):
        raise ctx.malformed(f"num_scan_inputs is {count}, of {len(ctx.inputs)} inputs")
    if ctx.opset < 9:
        return _batched_scan(ctx, count)
    states = [ctx[i] for i in range(len(ctx.inputs) - count)]
    scanned = [ctx[i] for i in range(len(states), len(ctx.inputs))]
    results = len(body.output) - len(states)
    axes = _each(ctx, "scan_input_axes", count)
    outer = _each(ctx, "scan_output_axes", results)
    backwards = _each(ctx, "scan_input_directions", count), _each(ctx, "scan_output_directions", results)
    places = [ctx.axis(axis, len(x.shape)) for axis, x in zip(axes, scanned, strict=True)]
    lengths = {x.shape[axis] for axis, x in zip(places, scanned, strict=True)}
    if len(lengths) != 1:
        raise ctx.malformed(f"the scanned inputs have lengths {sorted(lengths)}")
    (length,) = lengths
    stacks: list[list[Value]] = [[] for _ in range(results)]
    for step in range(length):
        parts = [
            element(ctx, x, axis, length - 1 - step if back else step)
            for x, axis, back in zip(scanned, places, backwards[0], strict=True)
        ]
        made = [ctx.tensor_of(value) for value in ctx.inline(body, (*states, *parts))]
        states = list(made[: len(states)])
        for stack, value in zip(stacks, made[len(states) :], strict=True):
            stack.append(value)
    for stack, back in zip(stacks, backwards[1], strict=True):
        if back:
            stack.reverse()
    return (*states, *(stacked(ctx, stack, axis) for stack, axis in zip(stacks, outer, strict=True)))


def _batched_scan(ctx: Context, count: int) -> tuple[Value, ...]:
    """Before opset 9 every operand had a batch axis in front, and sequences lay along the next one."""
    body = ctx.branch("body")
    ctx.ignore("directions")
    if ctx.optional(0) is not None or any(ctx.integers("directions") or ()):
        raise ctx.unsupported("sequence lengths and directions of the old Scan")
    operands = [ctx[i] for i in range(1, len(ctx.inputs))]
    first, scanned = operands[: len(operands) - count], operands[len(operands) - count :]
    batches: list[list[Value]] = []
    for batch in range(operands[0].shape[0]):
        states = [element(ctx, x, 0, batch) for x in first]
        rows = [element(ctx, x, 0, batch) for x in scanned]
        stacks: list[list[Value]] = [[] for _ in range(len(body.output) - len(states))]
        for step in range(rows[0].shape[0]):
            parts = [element(ctx, x, 0, step) for x in rows]
            made = [ctx.tensor_of(value) for value in ctx.inline(body, (*states, *parts))]
            states = list(made[: len(states)])
            for stack, value in zip(stacks, made[len(states) :], strict=True):
                stack.append(value)
        batches.append([*states, *(stacked(ctx, stack, 0) for stack in stacks)])
    return tuple(stacked(ctx, list(results), 0) for results in zip(*batches, strict=True))


def _each(ctx: Context, name: str, count: int) -> tuple[int, ...]:
    values = ctx.integers(name) or (0,) * count
    if len(values) != count:
        raise ctx.malformed(f"attribute {name} has {len(values)} entries, not {count}")
    return values


def element(ctx: Context, x: Value, axis: int, index: int) -> Value:
    """One element along an axis, without the axis."""
    starts = tuple(index if a == axis else 0 for a in range(len(x.shape)))
    sizes = tuple(1 if a == axis else extent for a, extent in enumerate(x.shape))
    part = ctx.apply(ops.Slice(starts, (1,) * len(x.shape), sizes), x)
    return ctx.apply(ops.Reshape((*x.shape[:axis], *x.shape[axis + 1 :])), part)


def stacked(ctx: Context, parts: Sequence[Value], axis: int) -> Value:
    """Equal tensors side by side along a new axis."""
    if not parts:
        raise ctx.unsupported("a loop that never runs has results of unknown shapes")
    shape = parts[0].shape
    place = ctx.axis(axis, len(shape) + 1)
    wide = [ctx.apply(ops.Reshape((*shape[:place], 1, *shape[place:])), part) for part in parts]
    return wide[0] if len(wide) == 1 else ctx.apply(ops.Concat(place), *wide)


TABLE: dict[str, Converter] = {"If": if_, "Loop": loop, "Scan": scan}
