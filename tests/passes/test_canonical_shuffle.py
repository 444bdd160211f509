"""Channel shuffles are recognised, and nothing else is."""

from __future__ import annotations

import pytest
from rewrites import rewrite

from glulam.compiler.passes.canonical_shuffle import CanonicalShuffle

X = "input %x: f32[2,6,5,3]\n"


def shuffled(apart, perm, together, more="", x=X):
    text = f"{x}%a = reshape(%x) {{shape={apart}}}\n%b = transpose(%a) {{perm={perm}}}\n"
    return rewrite(f"{text}%c = reshape(%b) {{shape={together}}}\n{more}output y = %c", CanonicalShuffle())


@pytest.mark.parametrize("groups", [1, 2, 3, 6])
def test_fires(groups):
    result = shuffled((2, groups, 6 // groups, 5, 3), (0, 2, 1, 3, 4), (2, 6, 5, 3))
    assert result.ops == "channel_shuffle"
    assert result.graph.nodes[0].op.groups == groups
    assert result.taken == [f"c: interleaves {groups} groups of channels"]


def test_fires_with_the_spatial_extents_as_one():
    assert shuffled((2, 2, 3, 15), (0, 2, 1, 3), (2, 6, 5, 3)).ops == "channel_shuffle"


def test_fires_on_a_matrix():
    assert shuffled((4, 3, 2), (0, 2, 1), (4, 6), x="input %x: f32[4,6]\n").ops == "channel_shuffle"


@pytest.mark.parametrize(
    ("apart", "perm", "together"),
    [
        ((2, 2, 3, 5, 3), (0, 2, 1, 4, 3), (2, 6, 5, 3)),  # the pixels are transposed too
        ((2, 2, 3, 5, 3), (0, 2, 1, 3, 4), (2, 3, 10, 3)),  # another shape in the end
        ((2, 2, 9, 5, 1), (0, 2, 1, 3, 4), (2, 6, 5, 3)),  # groups that are not of channels
        ((4, 3, 1, 15), (0, 2, 1, 3), (2, 6, 5, 3)),  # the images are cut
        ((2, 2, 3, 5, 3), (1, 0, 2, 3, 4), (2, 6, 5, 3)),
    ],
)
def test_declines_what_is_no_shuffle(apart, perm, together):
    assert shuffled(apart, perm, together).ops == "reshape transpose reshape"


def test_declines_on_a_second_use():
    result = shuffled((2, 2, 3, 5, 3), (0, 2, 1, 3, 4), (2, 6, 5, 3), "%d = relu(%b)\noutput z = %d\n")
    assert result.ops == "reshape transpose reshape relu"
    assert "%b has 1 other use" in result.declined


def test_declines_on_a_graph_output():
    result = shuffled((2, 2, 3, 5, 3), (0, 2, 1, 3, 4), (2, 6, 5, 3), "output z = %b\n")
    assert "%b is an output of the graph" in result.declined
