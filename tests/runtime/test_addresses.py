"""Addresses of arrays of any kind."""

import numpy as np
import pytest

from glulam.runtime.memory import address_of

ARRAYS = {
    "plain": np.zeros((3, 4), np.float32),
    "with a gap": np.zeros((3, 4), np.float32)[:, 1:],
    "turned": np.zeros((3, 4), np.float32).T,
    "half": np.zeros(3, np.float16),
    "other bytes first": np.zeros(3, ">f4"),
    "one element": np.zeros((), bool),
    "nothing": np.zeros((0, 3), np.int64),
    "read-only": np.frombuffer(b"abcd", np.uint8),
}


@pytest.mark.parametrize("array", ARRAYS.values(), ids=ARRAYS)
def test_address_of_the_first_element(array):
    assert address_of(array) == array.ctypes.data


def test_an_address_holds_no_buffer():
    array = np.zeros(4)
    address_of(array)
    array.resize(8, refcheck=False)  # refused while a buffer is held
    assert array.size == 8
