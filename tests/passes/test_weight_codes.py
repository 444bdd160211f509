"""Codes and scales of quantised weights are found again in floats, to the bit, and nothing is taken for codes."""

from __future__ import annotations

import numpy as np
import pytest

from glulam.compiler.passes.weight_codes import weight_codes


@pytest.mark.parametrize("largest", [1, 5, 100, 127])
@pytest.mark.parametrize("seed", range(3))
def test_scales_are_found_again(seed, largest):
    rng = np.random.default_rng(seed)
    whole = rng.integers(-largest, largest + 1, (40, 7, 3, 3)).astype(np.float32)
    scales = rng.uniform(1e-4, 0.1, 40).astype(np.float32)
    weights = whole * scales.reshape(-1, 1, 1, 1)
    found = weight_codes(weights)
    again = found.codes.astype(np.float32) * found.scales.reshape(-1, 1, 1, 1)
    np.testing.assert_array_equal(again, weights)


@pytest.mark.parametrize("zero", [0, 1, 127, 129, 255])
@pytest.mark.parametrize("each", [False, True], ids=["one scale", "a scale for each channel"])
def test_scales_of_weights_with_a_zero_point_are_found_again(each, zero):
    rng = np.random.default_rng(zero)
    whole = (rng.integers(0, 256, (40, 7, 3, 3)) - zero).astype(np.float32)
    scales = rng.uniform(1e-4, 0.1, 40).astype(np.float32)
    scales = scales if each else np.full_like(scales, scales[0])
    weights = whole * scales.reshape(-1, 1, 1, 1)
    found = weight_codes(weights)
    numbers = found.codes + found.offsets.reshape(-1, 1, 1, 1).astype(np.float32)
    np.testing.assert_array_equal(numbers * found.scales.reshape(-1, 1, 1, 1), weights)
    np.testing.assert_array_equal(found.numbers, numbers)
    np.testing.assert_array_equal(found.sums, numbers.reshape(40, -1).sum(1))


def test_codes_that_need_no_zero_point_get_none():
    """All numbers might be twice as large, and the largest one 128."""
    weights = np.array([[64, -3, 5], [1, 2, 4], [-64, 5, 7]], np.float32) * np.float32(0.01)
    assert weight_codes(weights).offsets is None


def test_a_channel_of_zeros_has_codes():
    weights = np.zeros((3, 4), np.float32)
    weights[1] = [0.5, -1.0, 0.25, 0.75]
    found = weight_codes(weights)
    np.testing.assert_array_equal(found.codes * found.scales[:, None], weights)


def test_floats_have_none():
    rng = np.random.default_rng(0)
    assert weight_codes(rng.standard_normal((5, 300)).astype(np.float32)) is None
    almost = (rng.integers(-127, 128, (5, 300)) * 0.01).astype(np.float32)
    almost[4, 299] = np.nextafter(almost[4, 299], np.float32(9))
    assert weight_codes(almost) is None
    almost[4, 299] = np.inf
    assert weight_codes(almost) is None
    assert weight_codes(np.zeros((0, 4), np.float32)) is None


def test_weights_next_to_zero_have_codes():
    """Nothing is divided by a scale that float32 does not hold."""
    weights = np.vstack([np.linspace(-1, 1, 9), np.full(9, 1.4e-45)]).astype(np.float32)
    with np.errstate(all="raise", under="ignore"):
        found = weight_codes(weights)
    assert np.array_equal(found.codes * found.scales[:, None], weights)
