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


def he(fan_in: int, gain: float) -> Initializer:
    """Uniform with variance gain / fan_in, and mean 0 over the inputs of each output where there are 8 or more.

    He, Zhang, Ren, Sun: Delving Deep into Rectifiers (2015), equation 10. Without the mean, what a ReLU leaves of
    unit-variance data has variance 1/2 - 1 / (2 pi) = 0.34, which gain 3 makes up for; a linear layer needs gain 1.
    Removing it keeps two inputs of a deep network apart, as trained statistics do.
    """
    bound = math.sqrt(3.0 * gain / max(fan_in, 1))
    draw_uniform = uniform(-bound, bound)

    def draw(shape: Shape, seed: int, name: str) -> Array:
        array = draw_uniform(shape, seed, name)
        if shape[1] >= 8:
            array -= array.mean(axis=tuple(range(1, len(shape))), keepdims=True)
        return array

    return draw


def constant(value: float) -> Initializer:
    return lambda shape, seed, name: np.full(shape, value, np.float32)
