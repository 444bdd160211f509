"""State dicts: parameters by PyTorch's names, from mappings, .npz and .safetensors files, into modules and graphs."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from glulam.compiler.errors import ArgumentError, ModelFileError, ShapeError
from glulam.compiler.graph.graph import Graph
from glulam.compiler.graph.types import Array, DType, Shape
from glulam.frontends.layers import safetensors
from glulam.frontends.layers.arguments import flag, numbers
from glulam.frontends.layers.tensor import Parameter
from glulam.runtime.array_files import ArrayFileError, read_arrays

# what PyTorch writes into a state dict and inference does not need
IGNORED_SUFFIXES = ("num_batches_tracked",)


class IncompatibleKeys(NamedTuple):
    """What did not match, as PyTorch's load_state_dict returns it."""

    missing_keys: list[str]
    unexpected_keys: list[str]


def state_dict(graph: Graph) -> dict[str, Array]:
    """A copy of every parameter of a graph built by layers, by name."""
    return {name: parameter.data.copy() for name, parameter in graph_parameters(graph).items()}


def load_state_dict(
    graph: Graph, source: Mapping[str, npt.ArrayLike] | str | Path, strict: bool = True
) -> IncompatibleKeys:
    """Fill the parameters of a graph built by layers. See `Module.load_state_dict`."""
    return fill(graph_parameters(graph), read(source), strict=strict)


def graph_parameters(graph: Graph) -> dict[str, Parameter]:
    return {value.name: value for value in graph.constants() if isinstance(value, Parameter)}


def count_parameters(graph: Graph) -> int:
    """Number of learned scalars (running statistics are not learned), as torchvision publishes it."""
    return sum(parameter.type.size for parameter in graph_parameters(graph).values() if parameter.learned)


def read(source: Mapping[str, npt.ArrayLike] | str | Path) -> dict[str, Any]:
    """The arrays of a state dict by name.

    Raises ModelFileError if a file cannot be read, ShapeError for a mapping whose keys are no names, ArgumentError for
    what is neither.
    """
    if isinstance(source, Mapping):
        if wrong := [key for key in source if not isinstance(key, str)]:
            raise ShapeError(f"a state dict has arrays by the names of parameters; {wrong[0]!r} is no name")
        return dict(source)
    if not isinstance(source, str | os.PathLike):
        raise ArgumentError(f"a state dict is a mapping, or the path of a file with one, not a {type(source).__name__}")
    path = Path(source)
    match path.suffix:
        case ".npz":
            return _read_npz(path)
        case ".safetensors":
            return dict(safetensors.read(path))
    raise ModelFileError(f"{path}: a state dict is a mapping, an .npz or a .safetensors file")


def fill(parameters: Mapping[str, Parameter], source: Mapping[str, Any], *, strict: bool) -> IncompatibleKeys:
    """Give the parameters new data: all of them that the source has, or none if anything does not fit."""
    offered = {key: value for key, value in source.items() if not key.endswith(IGNORED_SUFFIXES)}
    missing = [name for name in parameters if name not in offered]
    unexpected = [name for name in offered if name not in parameters]
    problems = []
    if flag(strict, "load_state_dict: strict"):
        problems += [f"missing: {name}" for name in missing] + [f"unexpected: {name}" for name in unexpected]
    loaded: dict[str, Array] = {}
    for name in (name for name in parameters if name in offered):
        try:
            loaded[name] = checked_copy(offered[name], parameters[name].shape, parameters[name].type.dtype, name)
        except ShapeError as error:
            problems.append(str(error))
    if problems:
        raise ShapeError("the state dict does not fit the network\n  " + "\n  ".join(problems))
    for name, array in loaded.items():
        parameters[name].data = array
    return IncompatibleKeys(missing, unexpected)


def checked_copy(given: Any, shape: Shape, dtype: DType, what: str) -> Array:
    """A copy of the right dtype. Raises ShapeError unless `given` is an array of numbers of exactly this shape."""
    array = numbers(_from_torch(given, what) if hasattr(given, "detach") else given, what)
    if array.shape != shape:
        raise ShapeError(f"{what}: shape {array.shape}, but {shape} is needed")
    return array.astype(dtype.numpy, order="C", copy=True)


def _from_torch(tensor: Any, what: str) -> Array:
    """The array of a PyTorch tensor; bfloat16, which numpy lacks, as float32."""
    try:
        here = tensor.detach().cpu()
        if str(getattr(here, "dtype", None)) == "torch.bfloat16":
            here = here.float()
        return np.asarray(here.numpy())
    except (TypeError, RuntimeError) as error:
        raise ShapeError(f"{what}: no array; give the tensor as dense float32 ({error})") from error


def _read_npz(path: Path) -> dict[str, Array]:
    try:
        arrays = read_arrays(path)
    except (OSError, ArrayFileError) as error:
        raise ModelFileError(str(error)) from error
    if not isinstance(arrays, dict):
        raise ModelFileError(f"{path} is an .npy file with one array; a state dict is an .npz with several, by name")
    return arrays
