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


def he(fan_in: int, gain: float = 2.0) -> Initializer:
    """Uniform with variance gain / fan_in; gain 2 keeps the second moment through a ReLU, 1 through a linear layer.

    He, Zhang, Ren, Sun: Delving Deep into Rectifiers (2015), equation 10.
    """
    bound = math.sqrt(3.0 * gain / max(fan_in, 1))
    return uniform(-bound, bound)


def constant(value: float) -> Initializer:
    return lambda shape, seed, name: np.full(shape, value, np.float32)
