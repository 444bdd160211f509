"""A scatter to a box of places, which is how exporters write `x[:, a:b] = y`, becomes slices and concats."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from glulam.compiler.graph.graph import Graph, Node, Value
from glulam.compiler.graph.patch import Patch
from glulam.compiler.graph.types import Array
from glulam.compiler.graph.uses import Uses
from glulam.compiler.ops import Concat, Expand, Reshape, ScatterElements, ScatterND, Slice
from glulam.compiler.passes.manager import Decision, NodePass


class ScatterToSlices(NodePass):
    """The indices are ramps, each along an axis of its own: constants, whose expansion may be too large to fold."""

    name = "scatter_to_slices"

    def visit(self, graph: Graph, uses: Uses, node: Node) -> Patch | Decision | None:
        if not isinstance(node.op, ScatterND | ScatterElements) or node.op.reduction != "none":
            return None
        data, indices, updates = node.present_inputs()
        if isinstance(node.op, ScatterND):
            box = _box_of_tuples(indices, data.shape)
        else:
            box = _box_of_elements(indices, node.op.axis, data.shape)
        if isinstance(box, str):
            return Decision(node.name, False, box)
        patch = Patch(graph, f"assigns the box {', '.join(f'{first}:{end}' for first, end in box)}", at=node.name)
        block = patch.apply(Reshape(tuple(end - first for first, end in box)), updates)
        patch.replace(node.output, _assigned(patch, data, block, box))
        return patch


Box = tuple[tuple[int, int], ...]  # (first, end) along each axis of the data


@dataclass(frozen=True)
class _Ramp:
    """An integer tensor: the element at (i, j, ...) is first + steps[0] * i + steps[1] * j + ..."""

    first: int
    steps: tuple[int, ...]


def _assigned(patch: Patch, data: Value, block: Value, box: Box) -> Value:
    """The data with the block in place of its box: along one axis after the other, what is before and behind it."""
    for axis, (first, end) in enumerate(box):
        if (first, end) != (0, data.shape[axis]):
            before, same, behind = (
                _part(patch, data, axis, *span) for span in ((0, first), (first, end), (end, data.shape[axis]))
            )
            assert same is not None
            middle = _assigned(patch, same, block, (*box[:axis], (0, end - first), *box[axis + 1 :]))
            parts = (before, middle, behind)
            return patch.apply(Concat(axis), *(part for part in parts if part is not None))
    return block


def _part(patch: Patch, data: Value, axis: int, first: int, end: int) -> Value | None:
    if first == end:
        return None
    starts, sizes = [0] * len(data.shape), list(data.shape)
    starts[axis], sizes[axis] = first, end - first
    return patch.apply(Slice(tuple(starts), (1,) * len(sizes), tuple(sizes)), data)


def _box_of_tuples(indices: Value, shape: Sequence[int]) -> Box | str:
    """The box that ScatterND fills, its places in the order of the indices; or why there is none."""
    components = _components(indices)
    if components is None:
        return f"the places in %{indices.name} are not known to be evenly spaced"
    outer = indices.shape[:-1]
    box = [(0, extent) for extent in shape]
    passed = 0
    for axis, ramp in enumerate(components):
        along = [a for a, step in enumerate(ramp.steps) if step]
        if len(along) > 1 or any(ramp.steps[a] != 1 or a < passed or math.prod(outer[passed:a]) != 1 for a in along):
            return f"the places in %{indices.name} along axis {axis} are not one behind the other"
        size = outer[along[0]] if along else 1
        passed = along[0] + 1 if along else passed
        span = _span(ramp.first, size, shape[axis])
        if span is None:
            return f"the places in %{indices.name} along axis {axis} go from its end to its beginning"
        box[axis] = span
    if math.prod(outer[passed:]) != 1:
        return f"%{indices.name} names places more than once"
    return tuple(box)


def _box_of_elements(indices: Value, axis: int, shape: Sequence[int]) -> Box | str:
    """The box that ScatterElements fills, or why there is none."""
    ramp = _ramp(indices)
    if ramp is None or any(step != (a == axis and indices.shape[a] > 1) for a, step in enumerate(ramp.steps)):
        return f"the places in %{indices.name} are not known to be one behind the other along axis {axis}"
    span = _span(ramp.first, indices.shape[axis], shape[axis])
    if span is None:
        return f"the places in %{indices.name} along axis {axis} go from its end to its beginning"
    return tuple(span if a == axis else (0, extent) for a, extent in enumerate(indices.shape))


def _span(first: int, size: int, extent: int) -> tuple[int, int] | None:
    """(first, end) of indices one behind the other; negative ones count from the end, and must not reach it."""
    first += extent if first < 0 else 0
    return (first, first + size) if 0 <= first <= extent - size else None


def _components(indices: Value) -> list[_Ramp] | None:
    """The ramps along the axes outside the tuples, one for each entry of them."""
    *outer, depth = indices.shape
    node = indices.producer
    if depth == 1:
        ramps = [_ramp(indices)]
    elif indices.data is not None:
        ramps = [_ramp_of_array(indices.data[..., [entry]]) for entry in range(depth)]
    elif node is not None and node.op == Concat(len(outer)) and all(v.shape[-1] == 1 for v in node.present_inputs()):
        ramps = [_ramp(value) for value in node.present_inputs()]
    else:
        return None
    known = [_Ramp(ramp.first, ramp.steps[:-1]) for ramp in ramps if ramp is not None]
    return known if len(known) == depth else None


def _ramp(value: Value) -> _Ramp | None:
    if value.data is not None:
        return _ramp_of_array(value.data)
    node = value.producer
    if node is None or not isinstance(node.op, Expand | Reshape):
        return None
    (source,) = node.present_inputs()
    ramp = _ramp(source)
    if ramp is None:
        return None
    if isinstance(node.op, Expand):
        return _Ramp(ramp.first, (0,) * (len(value.shape) - len(source.shape)) + ramp.steps)
    moved = [(extent, step) for extent, step in zip(source.shape, ramp.steps, strict=True) if extent != 1]
    if [extent for extent, _ in moved] != [extent for extent in value.shape if extent != 1]:
        return None
    left = iter(step for _, step in moved)
    return _Ramp(ramp.first, tuple(next(left) if extent != 1 else 0 for extent in value.shape))


def _ramp_of_array(array: Array) -> _Ramp | None:
    if not array.size:
        return None
    steps = [np.unique(np.diff(array, axis=axis)) for axis in range(array.ndim)]
    if any(step.size > 1 for step in steps):
        return None
    return _Ramp(int(array.flat[0]), tuple(int(step[0]) if step.size else 0 for step in steps))
