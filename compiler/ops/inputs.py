"""What every op's `infer` checks: how many inputs, which element types, which shapes broadcast."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import TypeVar

import numpy as np
import numpy.typing as npt

from glulam.compiler.graph.op import Op
from glulam.compiler.graph.types import Array, DType, Shape, TensorType

F64Array = npt.NDArray[np.float64]
T = TypeVar("T", TensorType, Array)

FLOATS = frozenset({DType.F32, DType.F64})
UNSIGNED = frozenset({DType.U64, DType.U32, DType.U16, DType.U8})
INTEGERS = frozenset({DType.I64, DType.I32, DType.I16, DType.I8}) | UNSIGNED
NUMBERS = FLOATS | INTEGERS
BOOLS = frozenset({DType.BOOL})
ANY = frozenset(DType)
INDICES = frozenset({DType.I64, DType.I32})


def product_flops(inputs: Sequence[TensorType | None], outputs: Sequence[TensorType]) -> int:
    """Of a product that sums along the last axis of its first input."""
    left = inputs[0]
    return 0 if left is None else 2 * outputs[0].size * left.shape[-1]


def required(op: Op, inputs: Sequence[T | None], count: int, optional: int = 0) -> tuple[T, ...]:
    """The first `count` inputs, all present; up to `optional` more may follow. Raises ShapeError."""
    if not count <= len(inputs) <= count + optional:
        wanted = str(count) if not optional else f"{count} to {count + optional}"
        raise op.fail(f"takes {wanted} inputs, not {len(inputs)}")
    present = tuple(x for x in inputs[:count] if x is not None)
    if len(present) != count:
        missing = next(i for i, x in enumerate(inputs) if x is None)
        raise op.fail(f"input {missing} is missing; only the inputs from {count} on may be left out")
    return present


def optional(inputs: Sequence[T | None], index: int) -> T | None:
    """The input at `index`, or None if it was left out."""
    return inputs[index] if index < len(inputs) else None


def same_dtype(op: Op, types: Sequence[TensorType | None], allowed: Collection[DType] = ANY) -> DType:
    """The one element type of all present inputs. Raises ShapeError if they differ or it is not allowed."""
    dtypes = [t.dtype for t in types if t is not None]
    if any(dtype is not dtypes[0] for dtype in dtypes):
        raise op.fail(f"inputs have types {', '.join(d.value for d in dtypes)}; cast them to one")
    check_dtype(op, dtypes[0], allowed)
    return dtypes[0]


def check_dtype(op: Op, dtype: DType, allowed: Collection[DType]) -> None:
    """Raises ShapeError if the op is not defined for the element type."""
    if dtype not in allowed:
        raise op.fail(f"is not defined for {dtype.value}; cast to one of {sorted(d.value for d in allowed)}")


def check_shape(op: Op, what: str, type: TensorType | None, shape: Shape) -> None:
    """Raises ShapeError if an input is present and has another shape."""
    if type is not None and type.shape != shape:
        raise op.fail(f"{what} has shape {list(type.shape)}, but {list(shape)} is needed")


def check_axis(op: Op, axis: int, rank: int) -> None:
    """Raises ShapeError unless 0 <= axis < rank: importers resolve negative axes."""
    if not isinstance(axis, int | np.integer) or not 0 <= axis < rank:
        raise op.fail(f"axis {axis!r} is not one of the {rank} axes (negative axes are resolved before)")


def check_spatial(op: Op, spatial: int, **attributes: Sequence[object]) -> None:
    """Raises ShapeError unless each attribute has one entry per spatial dimension, and there is at least one."""
    if spatial < 1:
        raise op.fail("the input needs a batch axis, a channel axis and at least one spatial axis")
    for name, entries in attributes.items():
        if len(entries) != spatial:
            raise op.fail(f"{name} has {len(entries)} entries for {spatial} spatial dimensions")


def check_at_least(op: Op, least: int, **attributes: Sequence[int]) -> None:
    """Raises ShapeError if an entry of an attribute is too small."""
    for name, entries in attributes.items():
        if any(entry < least for entry in entries):
            raise op.fail(f"{name} {tuple(entries)} has an entry below {least}")


def broadcast(op: Op, *shapes: Shape) -> Shape:
    """The shape that numpy's broadcasting gives. Raises ShapeError if there is none."""
    try:
        return tuple(int(extent) for extent in np.broadcast_shapes(*shapes))
    except ValueError as error:
        raise op.fail(f"shapes {' and '.join(str(list(s)) for s in shapes)} do not broadcast") from error


def wide(x: Array) -> F64Array:
    """Float64 copy in which references accumulate."""
    return x.astype(np.float64)


def f64(*shape: int) -> TensorType:
    """Shorthand for samples."""
    return TensorType(DType.F64, shape)


def i64(*shape: int) -> TensorType:
    """Shorthand for samples."""
    return TensorType(DType.I64, shape)


def boolean(*shape: int) -> TensorType:
    """Shorthand for samples."""
    return TensorType(DType.BOOL, shape)
