"""Scatters to a box become slices and concats, and others stay."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from rewrites import compiled, rewrite

from glulam.compiler.graph.graph import Graph
from glulam.compiler.graph.types import DType, TensorType
from glulam.compiler.ops import Concat, Expand, Reshape, ScatterElements, ScatterND
from glulam.compiler.passes.scatter_to_slices import ScatterToSlices


def scattered(op, shape, indices, more=""):
    """The rewrite of a scatter of one block into one tensor; the indices are an array."""
    indices = np.asarray(indices)
    block = indices.shape if isinstance(op, ScatterElements) else (*indices.shape[:-1], *shape[indices.shape[-1] :])
    graph = Graph("g")
    x, y = (graph.input(name, TensorType(DType.F32, each)) for name, each in (("x", shape), ("y", block)))
    graph.output("z", graph.apply(op, x, graph.constant(indices.astype(np.int64)), y))
    return rewrite(graph, ScatterToSlices(), tolerance=0.0)


def grid(*ranges):
    """Tuples of indices in the order of the axes, as `x[a:b, c:d] = y` is exported."""
    return np.stack(np.meshgrid(*(np.arange(*r) for r in ranges), indexing="ij"), -1)


def test_rows_in_the_middle():
    result = scattered(ScatterND(), (9, 5), [[3], [4], [5]])
    assert result.ops == "reshape slice slice concat"
    assert result.taken == ["scatter_nd: assigns the box 3:6, 0:5"]


@pytest.mark.parametrize(
    ("shape", "indices"),
    [
        ((3, 5), grid((0, 3), (0, 5))),
        ((3, 5), grid((0, 3))),
        ((3, 5, 1), grid((-3, 0), (0, 5))),
        ((3, 5), grid((0, 3), (0, 5)).reshape(3, 1, 5, 2)),
    ],
)
def test_everything(shape, indices):
    assert scattered(ScatterND(), shape, indices).ops == "reshape"


@pytest.mark.parametrize(
    ("shape", "indices"),
    [
        ((4, 7, 3), grid((1, 3), (2, 7))),
        ((4, 7, 3), grid((1, 2), (-4, -1), (0, 1))),
        ((4, 7, 3), grid((3, 4)).reshape(1, 1, 1, 1)),
        ((4, 7, 3), np.array([2, 5, 1])),
    ],
)
def test_a_box_within(shape, indices):
    result = scattered(ScatterND(), shape, indices)
    assert result.taken
    assert "scatter_nd" not in result.ops


@pytest.mark.parametrize(
    ("shape", "indices", "why"),
    [
        ((9, 5), [[3], [5], [7]], "along axis 0 are not one behind the other"),
        ((9, 5), [[5], [4], [3]], "along axis 0 are not one behind the other"),
        ((9, 5), [[3], [4], [6]], "not known to be evenly spaced"),
        ((9, 5), [[-1], [0], [1]], "from its end to its beginning"),
        ((3, 5), grid((0, 5), (0, 3))[..., ::-1], "along axis 0 are not one behind the other"),
        ((5, 5), [[0, 0], [1, 1], [2, 2]], "along axis 1 are not one behind the other"),
        ((5, 5), np.zeros((4, 1)), "names places more than once"),
        ((5, 5), grid((0, 2)).repeat(3, -1).reshape(2, 3, 1), "names places more than once"),
    ],
)
def test_declines_what_is_no_box(shape, indices, why):
    result = scattered(ScatterND(), shape, indices)
    assert result.ops == "scatter_nd"
    assert why in result.declined


def test_declines_a_sum():
    assert scattered(ScatterND("add"), (9, 5), [[3], [4], [5]]).ops == "scatter_nd"


def test_elements():
    chosen = np.broadcast_to(np.array([[[2]], [[3]]]), (2, 4, 3))
    assert scattered(ScatterElements(0), (5, 4, 3), chosen).ops == "reshape slice slice concat"
    assert scattered(ScatterElements(0), (5, 7, 3), chosen).taken == ["scatter_elements: assigns the box 2:4, 0:4, 0:3"]
    assert scattered(ScatterElements(1), (5, 7, 3), chosen).ops == "scatter_elements"
    assert scattered(ScatterElements(0), (5, 4, 3), chosen * [1, 1, -1]).ops == "scatter_elements"


def test_indices_that_are_too_large_to_be_folded():
    """As `x[:, 1:, 2:] = y` is exported, with a range for each axis."""
    shape, ranges = (3, 6, 7), [(0, 3), (1, 6), (2, 7)]
    block = tuple(end - first for first, end in ranges)
    graph = Graph("g")
    x, y = (graph.input(name, TensorType(DType.F32, each)) for name, each in (("x", shape), ("y", block)))
    columns = []
    for axis, span in enumerate(ranges):
        along = graph.constant(np.arange(*span).reshape(-1, *(1,) * (len(shape) - axis - 1)))
        columns.append(graph.apply(Reshape((*block, 1)), graph.apply(Expand(block), along)))
    graph.output("z", graph.apply(ScatterND(), x, graph.apply(Concat(3), *columns), y))
    result = rewrite(graph, ScatterToSlices(), tolerance=0.0)
    assert result.taken == ["scatter_nd: assigns the box 0:3, 1:6, 2:7"]
    assert "expand" not in result.ops


def test_native():
    text = """input %x: f32[4,5]
input %y: f32[2,5]
const %i: i64[2,1] = [[1], [2]]
%z = scatter_nd(%x, %i, %y) {reduction='none'}
output z = %z"""
    assert "scatter" not in compiled(text)


@given(st.data())
def test_any_indices(data):
    """Whether it fires or not, the values stay; `rewrite` compares them."""
    shape = tuple(data.draw(st.lists(st.integers(1, 4), min_size=1, max_size=3)))
    depth = data.draw(st.integers(1, len(shape)))
    outer = tuple(data.draw(st.lists(st.integers(1, 3), max_size=3)))
    indices = np.zeros((*outer, depth), np.int64)
    for entry, extent in enumerate(shape[:depth]):
        ramp = np.full(outer, data.draw(st.integers(-extent, extent - 1)))
        for axis, size in enumerate(outer):
            along = np.arange(size).reshape(-1, *(1,) * (len(outer) - axis - 1))
            ramp = ramp + data.draw(st.sampled_from([0, 0, 1, -1])) * along
        indices[..., entry] = np.clip(ramp, -extent, extent - 1)
    scattered(ScatterND(), shape, indices)
