"""Seeded initialisers: every draw depends on the seed and the parameter's full name alone, never on the order."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable

import numpy as np

from glulam.compiler.graph.types import Array, Shape

Initializer = Callable[[Shape, int, str], Array]


def generator(seed: int, name: str) -> np.random.Generator:
    digest = hashlib.sha256(f"{seed}/{name}".encode()).digest()
    return np.random.default_rng(int.from_bytes(digest[:16], "little"))


def uniform(low: float, high: float) -> Initializer:
    def draw(shape: Shape, seed: int, name: str) -> Array:
        array = generator(seed, name).random(shape, dtype=np.float32)
        array *= np.float32(high - low)
        array += np.float32(low)
        return array

    return draw


def he(fan_in: int, gain: float | None = None, *, centered: bool = True) -> Initializer:
    """Uniform with variance gain / fan_in; by default the gain that keeps the scale of what a ReLU leaves.

    That is 2 (He, Zhang, Ren, Sun: Delving Deep into Rectifiers, 2015, equation 10), but 3 where the mean over the
    inputs of each output is removed from the weight: a rectified unit normal has second moment 1/2 and variance
    1/2 - 1 / (2 pi). It is removed where there are 8 input channels or more, which keeps the results of two inputs
    apart in a deep network. A layer that reads what is not rectified needs gain 1.
    """

    def draw(shape: Shape, seed: int, name: str) -> Array:
        remove = centered and shape[1] >= 8
        bound = math.sqrt(3.0 * ((3.0 if remove else 2.0) if gain is None else gain) / max(fan_in, 1))
        array = uniform(-bound, bound)(shape, seed, name)
        if remove:
            array -= array.mean(axis=tuple(range(1, len(shape))), keepdims=True)
        return array

    return draw


def constant(value: float) -> Initializer:
    return lambda shape, seed, name: np.full(shape, value, np.float32)
