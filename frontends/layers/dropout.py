"""Dropout: nothing at inference, or live and seeded, to sample from what a network is unsure about."""

from __future__ import annotations

import hashlib
from typing import ClassVar

from glulam.compiler import ops
from glulam.compiler.errors import ShapeError
from glulam.frontends.layers.arguments import flag, integer, real
from glulam.frontends.layers.module import Layer
from glulam.frontends.layers.tensor import Tensor, apply, reshape


class Dropout(Layer):
    """x itself at inference; the compiler removes it. With monte_carlo it stays live and drops with probability p.

    What is dropped depends on the seed and on the element's place alone, so the same model on the same input gives the
    same bits, run after run, with any number of threads, on any processor, and in `reference`. seed: by default it
    comes from the Input's seed and name and the layer's path, so layers differ. For further samples call the layer on
    (x, run): `run` is an int64 scalar tensor, and each of its values is another sample; copies of x along the batch
    axis are others, too.

    >>> run = Input((), "run", "int64", batch=None)
    >>> y = Dropout(0.3, monte_carlo=True)(x, run)
    """

    alpha: ClassVar[bool] = False
    whole_channels: ClassVar[bool] = False

    def __init__(
        self,
        p: float = 0.5,
        inplace: bool = False,
        *,
        monte_carlo: bool = False,
        seed: int | None = None,
        name: str | None = None,
    ) -> None:
        super().__init__(name)
        label = type(self).__name__
        self.p = real(p, f"{label}: p", low=0.0, high=1.0)
        self.monte_carlo = flag(monte_carlo, f"{label}: monte_carlo")
        self.seed = None if seed is None else integer(seed, f"{label}: seed")

    def forward(self, x: Tensor, run: Tensor | None = None) -> Tensor:
        path = self.path(x.scope)
        if not self.monte_carlo:
            if run is not None:
                raise ShapeError(f"{type(self).__name__} {path!r} takes the number of a run only with monte_carlo=True")
            return apply(ops.Dropout(self.p), x, name=path)
        seed = self.seed
        if seed is None:
            digest = hashlib.sha256(f"{x.scope.seed}/{x.scope.drawn(path)}".encode()).digest()
            seed = int.from_bytes(digest[:8], "little")
        op = ops.RandomDropout(self.p, seed, self.alpha, self.whole_channels)
        if run is None:
            return apply(op, x, name=path)
        return apply(op, x, reshape(run, ()), name=path)


class AlphaDropout(Dropout):
    """Dropout that keeps mean and variance of what a SELU gives: dropped elements become its negative limit, scaled.

    It takes the arguments of Dropout.
    """

    alpha = True


class Dropout1d(Dropout):
    """Dropout of whole channels of [N, C, L]; it takes the arguments of Dropout."""

    whole_channels = True


class Dropout2d(Dropout):
    """Dropout of whole channels of [N, C, H, W]; it takes the arguments of Dropout."""

    whole_channels = True


class Dropout3d(Dropout):
    """Dropout of whole channels of [N, C, D, H, W]; it takes the arguments of Dropout."""

    whole_channels = True
