"""Affine maps x * scale + shift with constants: what batch norm, input normalisation and constant arithmetic are.

Scale and shift are float64 and have the rank of x, each extent that of x or 1. `affine_of` reads such a map off a node;
maps compose, and go through ops that only move elements.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from glulam.compiler.graph.graph import Node, Value
from glulam.compiler.graph.op import Op
from glulam.compiler.graph.types import DType, Shape
from glulam.compiler.ops import Add, BatchNorm, Div, Mul, Neg, ScaleShift, Sub

Wide = npt.NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Affine:
    """x * scale + shift for x of the given shape."""

    shape: Shape
    scale: Wide
    shift: Wide

    def then(self, later: Affine) -> Affine:
        """First this map, then the later one."""
        return Affine(self.shape, self.scale * later.scale, self.shift * later.scale + later.shift)

    @property
    def adds_whole_numbers(self) -> bool:
        """Whether it maps whole numbers to whole numbers by adding some."""
        return bool((self.scale == 1).all() and (self.shift == np.rint(self.shift)).all())

    @property
    def is_finite(self) -> bool:
        return bool(np.isfinite(self.scale).all() and np.isfinite(self.shift).all())

    def fits(self, dtype: DType) -> bool:
        """Whether scale and shift are finite in the type, and the scale is no less than its normal numbers are."""
        limits = np.finfo(dtype.numpy.name)
        scale, shift = (np.abs(array).max(initial=0.0) for array in (self.scale, self.shift))
        return bool(scale <= limits.max and shift <= limits.max and (scale >= limits.tiny or not scale))

    @property
    def has_shift(self) -> bool:
        return bool(self.shift.any())

    @property
    def is_increasing(self) -> bool:
        """Is every scale positive, so that the map commutes with a maximum?"""
        return bool((self.scale > 0).all())

    def along(self, axis: int) -> tuple[Wide, Wide] | None:
        """Scale and shift as vectors over the axis, or None if they vary along another axis."""
        vectors = []
        for array in (self.scale, self.shift):
            squeezed = _squeeze(array, keep=axis)
            if squeezed.size != squeezed.shape[axis]:
                return None
            vectors.append(np.broadcast_to(squeezed.reshape(-1), (self.shape[axis],)))
        return vectors[0], vectors[1]

    def reshaped(self, shape: Shape) -> Affine:
        """The same map on the reshaped tensor."""
        if all(array.size == 1 for array in (self.scale, self.shift)):
            return Affine(shape, self.scale.reshape((1,) * len(shape)), self.shift.reshape((1,) * len(shape)))
        scale, shift = (np.broadcast_to(array, self.shape).reshape(shape) for array in (self.scale, self.shift))
        return Affine(shape, scale, shift)

    def transposed(self, perm: tuple[int, ...]) -> Affine:
        """The same map on the transposed tensor."""
        shape = tuple(self.shape[axis] for axis in perm)
        return Affine(shape, self.scale.transpose(perm), self.shift.transpose(perm))

    def resized(self, shape: Shape) -> Affine | None:
        """The same map on a tensor with other spatial extents; None if it varies along them."""
        vectors = self.along(1)
        if vectors is None:
            return None
        scale, shift = (vector.reshape(1, -1, *(1,) * (len(shape) - 2)) for vector in vectors)
        return Affine(shape, scale, shift)

    def constants(self, dtype: DType) -> tuple[npt.NDArray[np.generic], npt.NDArray[np.generic]]:
        """Scale and shift rounded to the type, without leading axes of extent 1; per channel it is [C,1,1]."""
        vectors = self.along(1) if len(self.shape) >= 2 else None
        if vectors is not None:
            shape = (self.shape[1], *(1,) * (len(self.shape) - 2))
            return rounded(vectors[0].reshape(shape), dtype), rounded(vectors[1].reshape(shape), dtype)
        scale, shift = (_squeeze(array) for array in (self.scale, self.shift))
        return rounded(_strip(scale), dtype), rounded(_strip(shift), dtype)


def rounded(wide: Wide, dtype: DType) -> npt.NDArray[np.generic]:
    """Rounded once to the type, contiguous; what is too large becomes infinite."""
    with np.errstate(over="ignore"):
        return np.array(wide, dtype.numpy, order="C")


def affine_of(node: Node) -> tuple[Value, Affine] | str | None:
    """The node as a map of one of its inputs; why it is none though it looks like one; or None.

    Refused are statistics that are not constant, a constant that enlarges the tensor by broadcasting, and scales or
    shifts that are not finite.
    """
    found: tuple[Value, Affine] | str | None
    match node.op:
        case BatchNorm():
            found = _batch_norm(node, node.op.epsilon)
        case ScaleShift():
            found = _scale_shift(node)
        case Neg() if node.output.type.dtype.is_float:
            (x,) = node.present_inputs()
            ones = np.ones((1,) * x.type.rank)
            found = x, Affine(x.shape, -ones, 0 * ones)
        case Add() | Sub() | Mul() | Div() if node.output.type.dtype.is_float:
            found = _arithmetic(node, node.op)
        case _:
            return None
    if isinstance(found, tuple):
        x, affine = found
        if x.type != node.output.type:
            return f"its constant enlarges {x.type} to {node.output.type} by broadcasting"
        if not affine.is_finite:
            return "its scale or shift is not finite"
    return found


def _batch_norm(node: Node, epsilon: float) -> tuple[Value, Affine] | str:
    x, *statistics = node.present_inputs()
    known = [_wide(value) for value in statistics]
    shape = (1, -1, *(1,) * (x.type.rank - 2))
    if any(array is None for array in known):
        return "its statistics are not constant"
    scale, bias, mean, variance = (array.reshape(shape) for array in known if array is not None)
    with np.errstate(all="ignore"):
        factor = scale / np.sqrt(variance + epsilon)
        return x, Affine(x.shape, factor, bias - mean * factor)


def _scale_shift(node: Node) -> tuple[Value, Affine] | str | None:
    x, scale, shift = node.present_inputs()
    factor, offset = _ranked(scale, node), _ranked(shift, node)
    if factor is None or offset is None:
        return None
    return x, Affine(x.shape, factor, offset)


def _arithmetic(node: Node, op: Op) -> tuple[Value, Affine] | None:
    x, c = node.present_inputs()
    swapped = x.is_constant
    if swapped:
        x, c = c, x
    number = _ranked(c, node)
    if number is None or x.is_constant:
        return None
    one, zero = np.ones((1,) * number.ndim), np.zeros((1,) * number.ndim)
    with np.errstate(all="ignore"):
        match op:
            case Add():
                return x, Affine(x.shape, one, number)
            case Sub():
                return x, Affine(x.shape, -one, number) if swapped else Affine(x.shape, one, -number)
            case Mul():
                return x, Affine(x.shape, number, zero)
            case Div() if not swapped:
                return x, Affine(x.shape, 1 / number, zero)
    return None


def _wide(value: Value) -> Wide | None:
    return None if value.data is None else value.data.astype(np.float64)


def _ranked(value: Value, node: Node) -> Wide | None:
    """A constant operand in float64 with the rank of the node's output."""
    if value.data is None:
        return None
    compact = _squeeze(value.data) if value.data.size else value.data
    return compact.reshape((1,) * (node.output.type.rank - compact.ndim) + compact.shape).astype(np.float64)


def _squeeze(array: npt.NDArray[Any], keep: int | None = None) -> npt.NDArray[Any]:
    """The array with extent 1 wherever all elements along the axis are equal."""
    for axis, extent in enumerate(array.shape):
        if axis != keep and extent > 1:
            first = array.take([0], axis)
            if bool((array == first).all()):
                array = first
    return array


def _strip(array: Wide) -> Wide:
    """The array without its leading axes of extent 1."""
    while array.ndim and array.shape[0] == 1:
        array = array[0]
    return array
