"""Long sums are added up in parts, which follow from the sum alone."""

import numpy as np
import pytest
from harness import run_op

from glulam.compiler.kernels.partial_sums import PART, parts
from glulam.compiler.ops import Conv, Linear
from glulam.compiler.targets import runnable_targets

TARGETS = [t.name for t in runnable_targets()]


@pytest.mark.parametrize("rounds", [0, 1, 7, 13, 64, 97, 127, 192, 768, 6272, 6273])
@pytest.mark.parametrize("products", [1, 4, 16, 144, 784])
def test_parts_cover_the_sum_once_and_short_sums_stay_whole(rounds, products):
    found = parts(rounds, products)
    places = [first + i * length + k for first, count, length in found for i in range(count) for k in range(length)]
    assert places == list(range(rounds))
    assert all(length * products < max(2 * PART, 2 * products) for *_, length in found)
    if rounds * products < PART:
        assert len(found) == 1
        assert found[0][1] == 1


def rms(error):
    return float(np.sqrt(np.mean(np.square(error))))


def one_by_one(products):
    """The float32 sum along the first axis, one product after the other."""
    total = np.zeros(products.shape[1:], np.float32)
    for product in products:
        total = total + product
    return total


@pytest.mark.parametrize("name", TARGETS)
@pytest.mark.parametrize("rows", [1, 5])
def test_a_long_linear_layer_is_nearer_than_a_plain_sum(name, rows):
    rng = np.random.default_rng(0)
    x, w = rng.standard_normal((rows, 9216)).astype(np.float32), rng.standard_normal((32, 9216)).astype(np.float32)
    exact = x.astype(np.float64) @ w.T.astype(np.float64)
    plain = rms(one_by_one((x[:, None] * w).transpose(2, 0, 1)) - exact)
    (got,) = run_op(Linear(), [x, w, None], constants=(1,), target=name)
    assert rms(got - exact) < plain / 2.5


@pytest.mark.parametrize("name", TARGETS)
def test_a_deep_convolution_is_nearer_than_a_plain_sum(name):
    rng = np.random.default_rng(0)
    op = Conv((1, 1), ((1, 1), (1, 1)), (1, 1), 1)
    x = rng.standard_normal((1, 512, 3, 5)).astype(np.float32)
    w = rng.standard_normal((32, 512, 3, 3)).astype(np.float32)
    (exact,) = op.reference(x.astype(np.float64), w.astype(np.float64), None)
    padded = np.pad(x[0], ((0, 0), (1, 1), (1, 1)))
    seen = np.lib.stride_tricks.sliding_window_view(padded, (3, 3), axis=(1, 2))  # [C, H, W, 3, 3]
    products = np.einsum("chwij,ocij->cijohw", seen, w).reshape(-1, 32, 3, 5)
    plain = rms(one_by_one(products) - exact[0])
    (got,) = run_op(op, [x, w, None], constants=(1,), target=name)
    assert rms(got - exact) < plain / 2


@pytest.mark.parametrize("depth", [1025, 1777])
def test_interpreter_equals_native(depth):
    rng = np.random.default_rng(0)
    x, w = rng.standard_normal((3, depth)).astype(np.float32), rng.standard_normal((17, depth)).astype(np.float32)
    (slow,) = run_op(Linear(), [x, w, None], constants=(1,), native=False)
    (fast,) = run_op(Linear(), [x, w, None], constants=(1,))
    np.testing.assert_array_equal(slow, fast)


def test_bits_of_a_row_do_not_depend_on_the_rows_around_it():
    rng = np.random.default_rng(0)
    x, w = rng.standard_normal((14, 2304)).astype(np.float32), rng.standard_normal((512, 2304)).astype(np.float32)
    (together,) = run_op(Linear(), [x, w, None], constants=(1,))
    (alone,) = run_op(Linear(), [x[:1], w, None], constants=(1,))
    np.testing.assert_array_equal(together[:1], alone)
