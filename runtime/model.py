"""`Model`: a compiled program, ready to run."""

from __future__ import annotations

import operator
import os
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, NoReturn

import numpy as np
import numpy.typing as npt

from glulam.runtime import abi, processors
from glulam.runtime.arrays import ArgumentSpec, Array, check_outputs, named, prepare_input
from glulam.runtime.artifact import Artifact, Check, open_artifact, write_artifact
from glulam.runtime.context import Context, ContextPool, Program, Ticks
from glulam.runtime.errors import ArtifactError, CopyError, InputError
from glulam.runtime.loader import NativeCode
from glulam.runtime.manifest import Manifest, TensorSpec
from glulam.runtime.memory import address_of, aligned, new_array
from glulam.runtime.profile import Profile


class Model:
    """A compiled network: arrays in, arrays out.

    `run` may be called from any number of Python threads. With threads=1 they run side by side, each in an arena of its
    own; with more, one after the other, each on all threads. The result has the same bits for any number of threads.

    Use `glulam.compile` or `glulam.load` to get one. It holds native code, memory and worker threads: `close()` it,
    use it in a `with` statement, or just drop it.
    """

    def __init__(self, artifact: Artifact, threads: int = 1) -> None:
        """Raises CpuMismatchError if this machine cannot execute the code, ArtifactError if it is no code at all, or
        works on memory of other sizes than the manifest says.
        """
        manifest = artifact.manifest
        threads = _at_least_one(threads, "threads", "a model runs on a whole number of threads, 1 or more")
        self._artifact = artifact
        self._threads = min(threads, processors.usable(), abi.MAX_THREADS)
        self._inputs = [ArgumentSpec(spec) for spec in manifest.inputs]
        self._outputs = [ArgumentSpec(spec) for spec in manifest.outputs]
        code = NativeCode(artifact.object_code, manifest.triple, manifest.cpu_features)
        if code.sizes() != _sizes(artifact):
            raise ArtifactError("the manifest is not that of the code beside it; compile the model again")
        program = Program(
            code=code,
            weights=artifact.weights,
            arena_bytes=manifest.arena_bytes,
            scratch_bytes=manifest.scratch_bytes,
            steps=len(manifest.steps),
            inputs=len(self._inputs),
            outputs=len(self._outputs),
            foreign=artifact.foreign,
        )
        self._contexts = ContextPool(program, self._threads)

    @classmethod
    def from_parts(
        cls,
        manifest: Manifest,
        object_code: bytes,
        weights: bytes | bytearray | memoryview | npt.NDArray[np.uint8],
        graph_text: str,
        threads: int = 1,
    ) -> Model:
        """A model from what the compiler made. Weights that are not aligned to 64 bytes are copied."""
        return cls(Artifact(manifest, object_code, aligned(weights), graph_text), threads)

    def run(self, inputs: Mapping[str, Any], out: Mapping[str, Array] | None = None) -> dict[str, Array]:
        """One inference.

        Args:
            inputs: one array for every input. A C-contiguous array of the right dtype is read in place; another one
                is converted if that keeps its meaning; none is modified.
            out: where to write the outputs, all of them; else they are new arrays, which no later run touches.

        Returns:
            One array for every output.

        Raises:
            InputError: a name, shape or dtype does not fit, or an array of `out` cannot be written in place.
            ForeignError: an external Python function raised, or gave other types than declared.
            OutOfMemoryError: the system gives too little memory for the arena or the outputs.
        """
        sources = [prepare_input(*pair) for pair in zip(named(inputs, self._inputs), self._inputs, strict=True)]
        if out is None:
            results = [new_array(argument.shape, argument.dtype) for argument in self._outputs]
        else:
            results = named(out, self._outputs)
            check_outputs(results, self._outputs, sources)
        addresses = [address_of(array) for array in sources + results]
        self._contexts.use(lambda context: context.run(addresses))
        return {argument.name: array for argument, array in zip(self._outputs, results, strict=True)}

    def __call__(self, x: Any) -> Array:
        """The output for input `x`, for a model with one of each."""
        if len(self._inputs) != 1 or len(self._outputs) != 1:
            raise InputError(
                f"the model has {len(self._inputs)} inputs and {len(self._outputs)} outputs; call run with a mapping"
            )
        (result,) = self.run({self._inputs[0].name: x}).values()
        return result

    def profile(
        self, inputs: Mapping[str, Any], repeat: int = 20, before: Callable[[], object] = lambda: None
    ) -> Profile:
        """Runs `repeat` times (after one more) with a time stamp after every step; returns the medians.

        `before` is called before each run, to empty the caches for example.
        """
        repeat = _at_least_one(repeat, "repeat", "a profile needs a whole number of runs, 1 or more")
        sources = [prepare_input(*pair) for pair in zip(named(inputs, self._inputs), self._inputs, strict=True)]
        results = [new_array(argument.shape, argument.dtype) for argument in self._outputs]
        addresses = [address_of(array) for array in sources + results]
        rows, seconds_per_tick = self._contexts.use(lambda context: _timed(context, addresses, repeat, before))
        table = np.array(rows, np.float64).reshape(repeat, -1) * seconds_per_tick
        durations: list[float] = np.median(table, axis=0).tolist()
        shortest: list[float] = table.min(axis=0).tolist()
        seconds = float(np.median(table.sum(axis=1)))
        return Profile.of(self._artifact.manifest.steps, durations, shortest, seconds, self._threads, repeat)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Writes the model to one file, or leaves what was there untouched (OSError: no space, no permission, ...).

        A symbolic link at `path` is replaced; the file that it points to stays as it is. Raises InputError if path is
        none, ArtifactError, with their names, if the model calls external functions.
        """
        if not isinstance(path, str | os.PathLike):
            raise InputError(f"save takes the path of the file to write, not {type(path).__name__}")
        write_artifact(path, self._artifact)

    def __reduce__(self) -> NoReturn:
        """What pickle and copy ask for: a model has none of it."""
        raise CopyError(
            "a model is native code and memory of this process; save(path) it, and glulam.load(path) it again"
        )

    @property
    def inputs(self) -> dict[str, TensorSpec]:
        return {spec.name: spec for spec in self._artifact.manifest.inputs}

    @property
    def outputs(self) -> dict[str, TensorSpec]:
        return {spec.name: spec for spec in self._artifact.manifest.outputs}

    @property
    def manifest(self) -> Manifest:
        return self._artifact.manifest

    @property
    def graph_text(self) -> str:
        """The graph the model was compiled from, in its text form."""
        return self._artifact.graph_text

    @property
    def arena_bytes(self) -> int:
        """Memory for activations, in bytes."""
        return self._artifact.manifest.arena_bytes

    @property
    def weights_bytes(self) -> int:
        return int(self._artifact.weights.nbytes)

    @property
    def threads(self) -> int:
        """Threads of a run: what was asked for, as far as affinity and cgroup quota of the process allow."""
        return self._threads

    def close(self) -> None:
        """Stops the workers and gives up the arenas, those in use when their runs end; then `run` fails.

        Where runs use several threads it waits for the one that goes on, but not in an external function that this one
        calls, nor long for one. Code and weights stay, for `save`, until the model is dropped.
        """
        self._contexts.close()

    def __enter__(self) -> Model:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        sides = ["(" + ", ".join(map(str, specs)) + ")" for specs in (self.manifest.inputs, self.manifest.outputs)]
        state = f"{self._threads} thread{'s' if self._threads > 1 else ''}" if not self._contexts.closed else "closed"
        return f"<glulam.Model {' -> '.join(sides)}, {len(self.manifest.steps)} steps, {self.manifest.target}, {state}>"


def _sizes(artifact: Artifact) -> list[int]:
    manifest = artifact.manifest
    return abi.sizes(
        arena_bytes=manifest.arena_bytes,
        scratch_bytes=manifest.scratch_bytes,
        weights_bytes=artifact.weights.nbytes,
        steps=len(manifest.steps),
        inputs=[spec.nbytes for spec in manifest.inputs],
        outputs=[spec.nbytes for spec in manifest.outputs],
    )


def _at_least_one(value: Any, name: str, why: str) -> int:
    """The number as an int, numpy's too. Raises InputError if it is below 1, or none; truth values are none."""
    try:
        number = 0 if isinstance(value, bool) else operator.index(value)
    except TypeError:
        number = 0
    if number < 1:
        raise InputError(f"{name}={value!r}; {why}")
    return number


def _timed(
    context: Context, addresses: list[int], repeat: int, before: Callable[[], object]
) -> tuple[list[Ticks], float]:
    """The ticks of every step of `repeat` runs, and how long a tick is."""
    context.run_profiled(addresses)
    began, first_tick = time.perf_counter(), context.read_ticks()
    rows = []
    for _ in range(repeat):
        before()
        rows.append(context.run_profiled(addresses))
    elapsed, last_tick = time.perf_counter() - began, context.read_ticks()
    return rows, elapsed / max(1, last_tick - first_tick)


def load(path: str | os.PathLike[str] | Path, threads: int = 1, verify: bool = True) -> Model:
    """Loads a model file. It contains native code: load only files that you trust.

    The weights are not read but mapped: while the model lives, the file must not be overwritten in place or truncated.
    `Model.save` over it is fine, for it renames.

    Args:
        threads: as far as the process may use that many processors.
        verify: check the sums of the weights too, which reads all of them; code and manifest are always checked.

    Raises:
        InputError: path is none.
        OSError: the file cannot be read.
        ArtifactError: it is damaged or no glulam model.
        ArtifactVersionError: it was written by a glulam with another file format.
        CpuMismatchError: it was compiled for another CPU.
    """
    if not isinstance(path, str | os.PathLike):
        raise InputError(
            f"load takes the path of a model file, not {type(path).__name__}; write what it holds to a file"
        )
    return Model(open_artifact(path, Check.SUMS if verify else Check.NOTHING), threads)
