"""Minimal filtering by itself: its transforms give the correlation, and its tiles cover an axis."""

import numpy as np
import pytest

from glulam.compiler.errors import UnsupportedError
from glulam.compiler.kernels.minimal_filtering import Line, filtering

LINES = [(1, 1), (2, 1), (3, 1), (1, 2), (1, 3)]  # strides and dilations


@pytest.mark.parametrize("outputs", range(1, 7))
@pytest.mark.parametrize("taps", range(1, 8))
def test_transforms_are_winograds(outputs, taps):
    """A^T [(G g) * (B^T d)] is the correlation of any d with any g, at every stride-th place."""
    rng = np.random.default_rng(1)
    for stride in range(1, taps + 1):
        line, added = Line(outputs, taps, stride), Line(outputs, taps, stride, added=True)
        d, g = rng.standard_normal(added.inputs), rng.standard_normal(taps)
        expected = np.correlate(d, g)[::stride][:outputs]
        product = (line.filter_transform @ g) * (line.input_transform @ d[: line.inputs])
        assert len(product) == line.points == line.inputs
        np.testing.assert_allclose(line.output_transform @ product, expected, rtol=0, atol=1e-10)
        phases = np.pad(g, (0, -taps % stride)).reshape(-1, stride)
        products = (added.filter_transform @ phases) * (added.input_transform @ d.reshape(-1, stride))
        assert len(products) == added.points == outputs + -(-taps // stride) - 1
        np.testing.assert_allclose(added.output_transform @ products.sum(axis=1), expected, rtol=0, atol=1e-10)


@pytest.mark.parametrize("extent", [1, 2, 3, 7, 12, 13])
@pytest.mark.parametrize(("stride", "dilation"), LINES)
def test_tiles_have_every_output_once_and_the_inputs_that_it_needs(extent, stride, dilation):
    line = Line(2, 3, stride, dilation)
    inputs, outputs = line.places(extent)
    assert len(inputs) == len(outputs) == line.tiles_along(extent)
    inside = sorted(outputs[outputs < extent].tolist())
    assert inside == list(range(extent))
    assert inputs.max() + 1 == line.reach(extent)
    for have, made in zip(inputs, outputs, strict=True):
        for output in made:
            assert {output * stride + tap * dilation for tap in range(3)} <= set(have.tolist())


def test_transforms_of_four_outputs_and_three_taps_are_lavins():
    line = Line(4, 3)
    assert line.input_transform.tolist() == [
        [4, 0, -5, 0, 1, 0], [0, -4, -4, 1, 1, 0], [0, 4, -4, -1, 1, 0],
        [0, -2, -1, 2, 1, 0], [0, 2, -1, -2, 1, 0], [0, 4, 0, -5, 0, 1],
    ]  # fmt: skip
    assert line.output_transform.tolist() == [
        [1, 1, 1, 1, 1, 0], [0, 1, -1, 2, -2, 0], [0, 1, 1, 4, 4, 0], [0, 1, -1, 8, -8, 1],
    ]  # fmt: skip
    np.testing.assert_array_equal(line.filter_transform[3] * 24, [1, 2, 4])


def test_tiles_that_need_too_many_points_are_refused():
    with pytest.raises(UnsupportedError, match="at most 13"):
        filtering((4, 8), (3, 7))


@pytest.mark.parametrize(("strides", "dilations"), [((2, 1), (2, 1)), ((4, 1), (1, 1))])
def test_strides_of_dilated_or_fewer_taps_are_refused(strides, dilations):
    with pytest.raises(UnsupportedError, match="a stride is no longer than the taps are many"):
        filtering((2, 2), (3, 3), strides, dilations)


def test_one_output_of_one_tap_is_the_product():
    line = Line(1, 1)
    assert line.input_transform == line.filter_transform == line.output_transform == [[1]]
