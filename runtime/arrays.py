"""Arrays on the way in and out: used in place where their memory is what kernels expect, else converted or refused."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from glulam.runtime.errors import InputError
from glulam.runtime.manifest import TensorSpec
from glulam.runtime.memory import new_array

Array = npt.NDArray[np.generic]


class ArgumentSpec:
    """One input or output, with what checking an array against it needs, looked up once."""

    __slots__ = ("dtype", "name", "shape", "spec")

    def __init__(self, spec: TensorSpec) -> None:
        self.spec = spec
        self.name = spec.name
        self.dtype = spec.numpy
        self.shape = spec.shape

    def fits(self, array: object) -> bool:
        """Whether kernels can use the array's memory as it is: type, byte order, shape, contiguity, alignment.

        What a subclass of numpy's arrays adds to it does not count, unless it is a mask.
        """
        if type(array) is not np.ndarray:
            if not isinstance(array, np.ndarray) or isinstance(array, np.ma.MaskedArray):
                return False
            array = array.view(np.ndarray)
        return (
            array.shape == self.shape and array.dtype == self.dtype and array.flags.c_contiguous and array.flags.aligned
        )


def named(values: Mapping[str, Any], specs: Sequence[ArgumentSpec]) -> list[Any]:
    """The values in the order of the specs. Raises InputError if a name is missing or unknown."""
    try:
        found = [values[spec.name] for spec in specs]
    except (KeyError, TypeError, IndexError):
        found = []
    if len(found) != len(specs) or len(values) != len(specs):
        given = sorted(map(str, values)) if isinstance(values, Mapping) else type(values).__name__
        raise InputError(f"expected a mapping with {[spec.name for spec in specs]}, got {given}")
    return found


def prepare_input(value: Any, argument: ArgumentSpec) -> Array:
    """An array that kernels can read: the value's own memory where it fits, else a converted copy; nothing changes it.

    Floats and integers convert to any float type, integers to integers that can hold every value, booleans to numbers.

    Raises:
        InputError: another shape, or a dtype that cannot be converted without a loss of meaning.
    """
    if type(value) is np.ndarray and argument.fits(value):
        return value
    if isinstance(value, np.ma.MaskedArray):
        raise InputError(f"input {argument.name!r}: masked arrays are refused; fill the mask with `.filled(value)`")
    try:
        array = np.asarray(value)
    except (ValueError, TypeError, RuntimeError) as error:  # the last from tensors of torch that need a gradient
        raise InputError(
            f"input {argument.name!r}: expected {argument.spec}, got no array from {type(value).__name__}: {error}"
        ) from error
    if argument.fits(array):
        return array
    if array.shape != argument.shape:
        raise InputError(f"input {argument.name!r}: expected shape {argument.shape}, got {array.shape}")
    return _converted(array, argument)


def _converted(array: Array, argument: ArgumentSpec) -> Array:
    if array.dtype.name == "bfloat16":  # of the package ml_dtypes; every one is a float32
        array = array.astype(np.float32)
    integers = array.dtype.kind in "iub" and argument.dtype.kind in "iu"
    if not integers and not (array.dtype.kind in "fiub" and np.can_cast(array.dtype, argument.dtype, "same_kind")):
        raise InputError(f"input {argument.name!r}: expected dtype {argument.dtype}, got {array.dtype}")
    if integers and array.size:
        limits = np.iinfo(argument.dtype.name)
        if int(array.min()) < limits.min or int(array.max()) > limits.max:
            raise InputError(
                f"input {argument.name!r}: expected dtype {argument.dtype}, got {array.dtype} beyond its range"
            )
    with np.errstate(all="ignore"):
        result = new_array(argument.shape, argument.dtype)
        np.copyto(result, array, casting="unsafe")
    return result


def check_outputs(outputs: Sequence[Any], arguments: Sequence[ArgumentSpec], inputs: Sequence[Array]) -> None:
    """Raises InputError unless every array can be written in place and shares no memory with another or an input."""
    for number, (array, argument) in enumerate(zip(outputs, arguments, strict=True)):
        if not argument.fits(array) or not array.flags.writeable:
            raise InputError(
                f"output {argument.name!r}: expected a writable contiguous {argument.spec}, got {_describe(array)}"
            )
        others = [*zip(("output " + repr(other.name) for other in arguments), outputs[:number], strict=False)]
        others += [("an input", other) for other in inputs]
        for what, other in others:
            if np.may_share_memory(array, other):
                raise InputError(f"output {argument.name!r} shares memory with {what}; give it memory of its own")


def _describe(value: object) -> str:
    if not isinstance(value, np.ndarray):
        return type(value).__name__
    kind = "" if type(value) is np.ndarray else f"{type(value).__name__} "
    traits = [] if value.flags.c_contiguous else ["not contiguous"]
    traits += [] if value.flags.writeable else ["read-only"]
    traits += [] if value.flags.aligned else ["misaligned"]
    shape = ",".join(map(str, value.shape))
    return f"{kind}{value.dtype}[{shape}]" + (f" ({', '.join(traits)})" if traits else "")
