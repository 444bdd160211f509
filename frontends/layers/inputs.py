"""The input of a network, and the normalisations that it may carry."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from glulam.compiler import ops
from glulam.compiler.errors import ShapeError
from glulam.compiler.graph.types import Array, DType, TensorType
from glulam.frontends.layers.arguments import integer, numbers
from glulam.frontends.layers.tensor import Scope, Tensor, apply, literal

NAME = "input"
"""What an input is called that is not given a name."""


class Normalization:
    """Base of the input normalisations: (x - offset) / divisor, statistics scalar, per channel or per element.

    Per channel means one number for each entry of the input's first axis (after the batch); per element means an array
    of the input's shape without the batch. The statistics are kept in float64 until they meet the input's dtype.
    """

    offset: Array
    divisor: Array | None

    def __init__(self, offset: Array, divisor: Array | None) -> None:
        self.offset = offset
        self.divisor = divisor
        if divisor is not None and not np.all(np.isfinite(divisor) & (divisor != 0)):
            raise ShapeError(
                f"{type(self).__name__} would divide by {divisor.tolist()}; every entry must be finite and non-zero"
            )
        if not np.all(np.isfinite(offset)):
            raise ShapeError(f"{type(self).__name__} has statistics that are not finite")

    def apply(self, x: Tensor, axis: int) -> Tensor:
        """The nodes that normalise x, whose channels are on the axis; integers are converted to float32 first."""
        if not x.dtype.is_float:
            x = apply(ops.Cast(DType.F32), x, name=f"{x.name}.cast")
        prefix = x.name
        shift = _spread(self.offset, x, axis, type(self).__name__)
        y = apply(ops.Sub(), x, literal(shift, x, f"{prefix}.offset"), name=f"{prefix}.shifted")
        if self.divisor is None:
            return y
        scale = _spread(self.divisor, x, axis, type(self).__name__)
        return apply(ops.Div(), y, literal(scale, x, f"{prefix}.divisor"), name=f"{prefix}.normalized")


class ZScore(Normalization):
    """(x - mean) / std."""

    def __init__(self, mean: npt.ArrayLike, std: npt.ArrayLike) -> None:
        super().__init__(*_statistics("ZScore", mean=mean, std=std))


class ZeroCenter(Normalization):
    """x - mean."""

    def __init__(self, mean: npt.ArrayLike) -> None:
        super().__init__(*_statistics("ZeroCenter", mean=mean), None)


class Rescale01(Normalization):
    """(x - min) / (max - min): the range [min, max] becomes [0, 1]."""

    def __init__(self, min: npt.ArrayLike, max: npt.ArrayLike) -> None:
        low, high = _statistics("Rescale01", min=min, max=max)
        super().__init__(low, high - low)


class RescaleSymmetric(Normalization):
    """2 (x - min) / (max - min) - 1: the range [min, max] becomes [-1, 1]."""

    def __init__(self, min: npt.ArrayLike, max: npt.ArrayLike) -> None:
        low, high = _statistics("RescaleSymmetric", min=min, max=max)
        super().__init__((low + high) / 2, (high - low) / 2)


class Rescale(Normalization):
    """low + (x - min) (high - low) / (max - min): the range [min, max] becomes [low, high]."""

    def __init__(
        self, min: npt.ArrayLike, max: npt.ArrayLike, low: npt.ArrayLike = 0.0, high: npt.ArrayLike = 1.0
    ) -> None:
        start, end, first, last = _statistics("Rescale", min=min, max=max, low=low, high=high)
        if np.any(first == last):
            raise ShapeError(f"Rescale to a range without width: low is {first.tolist()}, high {last.tolist()}")
        divisor = (end - start) / (last - first)
        super().__init__(start - first * divisor, divisor)


class Input(Tensor):
    """An input of the network: the start of a functional graph, or the first entry of a Sequential.

    shape: without the batch axis, channels first: (C, H, W) for images, (C, D, H, W) for volumes, (C, L) for sequences.
    dtype: a numpy dtype or its name. batch: the extent of the batch axis, None for no such axis; every
    shape is fixed. normalize: ZScore, ZeroCenter, Rescale01, RescaleSymmetric or Rescale, computed in the
    graph. seed: from which all weights are drawn that layers on this input are not given; with another name than the
    default they are others, so that layers on two inputs of one network differ.
    """

    __slots__ = ("_channels", "_read", "normalize")

    def __init__(
        self,
        shape: Sequence[int],
        name: str = NAME,
        dtype: npt.DTypeLike | DType = "float32",
        batch: int | None = 1,
        normalize: Normalization | None = None,
        seed: int = 0,
    ) -> None:
        if not isinstance(name, str):
            extents = [e for e in (shape, name, dtype) if isinstance(e, int | np.integer)]
            apart = f"; give the shape as a tuple: Input(({', '.join(map(str, extents))}))" if len(extents) > 1 else ""
            raise ShapeError(f"Input: name is {name!r}; it must be a text{apart}")
        if isinstance(shape, int | np.integer) or (isinstance(shape, np.ndarray) and shape.ndim == 0):
            shape = (shape,)
        if isinstance(shape, str) or not isinstance(shape, Sequence | np.ndarray):
            raise ShapeError(f"Input {name!r}: shape is {shape!r}; give extents without the batch: (3, 32, 32)")
        leading = () if batch is None else (integer(batch, "batch", low=1),)
        full = (*leading, *(integer(e, f"Input {name!r}: an extent", low=1) for e in shape))
        element = dtype if isinstance(dtype, DType) else DType.of(dtype)
        scope = Scope(integer(seed, "seed", low=0), "" if name == NAME else name)
        super().__init__(scope.unique(name), TensorType(element, full), scope)
        if normalize is not None and not isinstance(normalize, Normalization):
            raise ShapeError(f"Input {name!r}: normalize is {normalize!r}; it must be a layers.ZScore or the like")
        self.normalize = normalize
        self._channels = len(leading)
        self._read: Tensor | None = None

    def read(self) -> Tensor:
        """The input as layers see it: normalised, if the input says so."""
        if self.normalize is None:
            return self
        if self._read is None:
            self._read = self.normalize.apply(self, self._channels)
        return self._read


def _statistics(label: str, **given: npt.ArrayLike) -> list[Array]:
    """Copies in float64. Raises ShapeError unless all are numbers or arrays of them, in shapes that go together."""
    found = []
    for key, value in given.items():
        array = numbers(value, f"{label}: {key}")
        if array.dtype.kind == "b":
            raise ShapeError(f"{label}: {key} is {value!r}; numbers are needed, no truth values")
        found.append(array.astype(np.float64))
    try:
        np.broadcast_shapes(*(array.shape for array in found))
    except ValueError:
        shapes = ", ".join(f"{key} {array.shape}" for key, array in zip(given, found, strict=True))
        raise ShapeError(f"{label}: the shapes do not go together: {shapes}; give one number or one each") from None
    return found


def _spread(statistic: Array, x: Tensor, axis: int, what: str) -> Array:
    """The statistic in a shape that broadcasts against x, whose axes from that of the channels on are one sample's."""
    sample = x.shape[axis:]
    if statistic.size == 1:
        return statistic.reshape(())
    if statistic.shape == sample:
        return statistic
    if statistic.shape[:1] == sample[:1] and statistic.size == sample[0]:
        return statistic.reshape(-1, *(1,) * (len(sample) - 1))
    raise ShapeError(
        f"{what} on {x.name!r}: statistics of shape {statistic.shape} fit neither one number, nor the {sample[:1]} "
        f"channels, nor the elements {sample}"
    )
