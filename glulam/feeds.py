"""Arrays to run a model on where no others are given."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping

import numpy as np


def random_arrays(specs: Mapping[str, tuple[tuple[int, ...], np.dtype]], seed: int = 0) -> dict[str, np.ndarray]:
    """An array for each shape and type by name; the same ones for the same seed, whatever others there are.

    Floats are of a normal distribution; integers and booleans are 0 or 1, for many an integer is an index.
    """
    arrays = {}
    for name, (shape, dtype) in specs.items():
        rng = np.random.default_rng([seed, *hashlib.sha256(name.encode()).digest()[:4]])
        drawn = rng.standard_normal(shape) if np.issubdtype(dtype, np.floating) else rng.integers(0, 2, shape)
        arrays[name] = np.asarray(drawn).astype(dtype)
    return arrays
