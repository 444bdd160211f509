"""Building a graph while folding: what can be known at import is a constant at once, and shape arithmetic vanishes."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from glulam.compiler.errors import ModelFileError, ShapeError, UnsupportedError
from glulam.compiler.graph.graph import Graph, Node, Value
from glulam.compiler.graph.op import Op, Trait
from glulam.compiler.graph.types import Array, DType, TensorType
from glulam.compiler.ops.conv import Conv, ConvTranspose
from glulam.compiler.ops.pointwise import Cast
from glulam.compiler.ops.pool import Pool
from glulam.frontends.onnx.proto import MAX_TENSOR_BYTES

FOLD_OUTPUT = 10_000  # elements of a result that is folded at once
FOLD_WORK = 1_000_000  # elements of anything that is computed at import at all
FILLED_BUDGET = 1 << 28  # elements that all fillers (ConstantOfShape, Range, ...) of a model may ask for together

_NOT_FOLDED = (Conv, ConvTranspose, Pool)  # their work is not bounded by the sizes of inputs and outputs


class Builder:
    """A graph under construction.

    Half precision is how values are stored, not how they are computed: an op over float16 values works on their float32
    ones, and its results are rounded only for who reads them as float16 (a graph output, a cast to an integer).
    """

    def __init__(self, name: str) -> None:
        self.graph = Graph(name)
        self._known: dict[Value, Array | None] = {}
        self._demanded: dict[Value, Array | None] = {}
        self._offered: dict[Value, Array] = {}
        self.baked: set[str] = set()
        self._filled = 0
        self._wide: dict[Value, Value] = {}
        """Of float16 values the float32 ones that they are the rounding of."""

    def constant(self, data: Array, name: str = "const") -> Value:
        return self.graph.constant(data, name)

    def rounded(self, data: Array, name: str = "const") -> Value:
        """A float16 constant that computations see in float32 as it is given."""
        half = self.constant(data.astype(np.float16), name)
        self._wide[half] = self.constant(data.astype(np.float32), name)
        return half

    def filled(self, value: Array, shape: Sequence[int], name: str) -> Value:
        """A constant of one repeated number; it takes no memory yet, but a model may ask for a bounded amount only."""
        self.claim(shape)
        return self.constant(np.broadcast_to(value.reshape(()), tuple(shape)), name)

    def claim(self, shape: Sequence[int]) -> None:
        """Account for a tensor that the file asks for without storing its elements."""
        size = 1
        for extent in shape:
            if extent < 0:
                raise ModelFileError(f"negative extent in shape {tuple(shape)}")
            size *= extent
        self._filled += size
        if self._filled > FILLED_BUDGET:
            raise ModelFileError(
                f"the model asks for a filled tensor of shape {tuple(shape)}; that is more than the limit"
            )

    def add(self, op: Op, *inputs: Value | None, name: str) -> tuple[Value, ...]:
        """The outputs of an op: constants if they are small and everything is known, else those of a new node."""
        if self._works_wide(op, inputs):
            return self._add_wide(op, inputs, name)
        node = self._made(op, inputs, name)
        for value in node.outputs:
            if value.type.nbytes > MAX_TENSOR_BYTES:
                raise ModelFileError(f"the result has type {value.type}, which is larger than {MAX_TENSOR_BYTES} bytes")
        if self._folds(node):
            results = self._reference(node, [None if v is None else v.data for v in inputs])
            for value, result in zip(node.outputs, results, strict=True):
                value.data, value.producer = result, None
        else:
            self.graph.nodes.append(node)
        return node.outputs

    # ---- half precision

    def _works_wide(self, op: Op, inputs: Sequence[Value | None]) -> bool:
        """Whether the op works on the float32 values of float16 inputs: if they are there, or it takes no others."""
        halves = [v for v in inputs if v is not None and v.type.dtype is DType.F16]
        if not halves or (isinstance(op, Cast) and op.dtype is not DType.F32):
            return False
        if any(v in self._wide and not v.is_constant for v in halves):
            return True
        types = [None if v is None else v.type for v in inputs]
        try:
            op.infer(*types)
        except ShapeError:
            return True
        return False

    def _add_wide(self, op: Op, inputs: Sequence[Value | None], name: str) -> tuple[Value, ...]:
        outputs = self.add(op, *(None if v is None else self._widened(v) for v in inputs), name=name)
        first = next(v for v in inputs if v is not None and v.type.dtype.is_float)
        if isinstance(op, Cast) or first.type.dtype is not DType.F16:
            return outputs
        return tuple(self._narrowed(v, name) for v in outputs)

    def _widened(self, value: Value) -> Value:
        if value.type.dtype is not DType.F16:
            return value
        if value not in self._wide:
            self._wide[value] = self.apply(Cast(DType.F32), value, name=f"{value.name}.wide")
        return self._wide[value]

    def _narrowed(self, value: Value, name: str) -> Value:
        if value.type.dtype is not DType.F32:
            return value
        half = self.apply(Cast(DType.F16), value, name=name)
        self._wide[half] = value
        return half

    # ---- nodes

    def _made(self, op: Op, inputs: Sequence[Value | None], name: str) -> Node:
        try:
            return self.graph.make(op, *inputs, name=name)
        except ShapeError as error:
            types = [None if v is None else v.type for v in inputs]
            dtypes = {type.dtype for type in types if type is not None}
            if len(dtypes) == 1 and dtypes != {DType.F32}:
                try:
                    op.infer(*(None if type is None else type.with_dtype(DType.F32) for type in types))
                except ShapeError:
                    raise error from None
                raise UnsupportedError(f"it is not offered for the element type {dtypes.pop().value}") from error
            raise

    def apply(self, op: Op, *inputs: Value | None, name: str) -> Value:
        (value,) = self.add(op, *inputs, name=name)
        return value

    def offer(self, value: Value, data: Array) -> None:
        """Say what an input is in the one use that this graph is built for."""
        self._offered[value] = data

    def known(self, value: Value) -> Array | None:
        """What the value is for every input, or None if it depends on inputs (or takes too much work to find out)."""
        return self._value(value, self._known)

    def demanded(self, value: Value) -> Array | None:
        """The same where only a known value will do: what was offered for an input counts, and is `baked` then."""
        found = self.known(value)
        if found is None and self._offered:
            self._demanded.update(self._offered)
            found = self._value(value, self._demanded)
            if found is not None:
                self._bake(value)
        return found

    def _bake(self, value: Value) -> None:
        pending, seen = [value], set[Value]()
        while pending:
            top = pending.pop()
            if top in seen or top.data is not None:
                continue
            seen.add(top)
            if top.producer is None:
                self.baked.add(top.name)
            elif self.known(top) is None:
                pending.extend(top.producer.present_inputs())

    def _value(self, value: Value, table: dict[Value, Array | None]) -> Array | None:
        if value.data is not None:
            return value.data
        if value.type.size == 0:
            return np.empty(value.shape, value.type.dtype.numpy)
        stack = [value]
        while stack:
            top = stack[-1]
            node = top.producer
            if top in table or node is None:
                table.setdefault(top, None)
                stack.pop()
                continue
            sources = list(node.present_inputs())
            waiting = [v for v in sources if v.data is None and v not in table]
            if waiting:
                stack.extend(waiting)
                continue
            self._resolve(node, table)
            stack.pop()
        return table[value]

    def _resolve(self, node: Node, table: dict[Value, Array | None]) -> None:
        arrays = [None if v is None else (v.data if v.data is not None else table[v]) for v in node.inputs]
        complete = all(a is not None for v, a in zip(node.inputs, arrays, strict=True) if v is not None)
        sizes = [v.type.size for v in (*node.present_inputs(), *node.outputs)]
        if not complete or max(sizes) > FOLD_WORK or not _is_cheap(node):
            results: Sequence[Array | None] = [None] * len(node.outputs)
        else:
            results = self._reference(node, arrays)
        table.update(zip(node.outputs, results, strict=True))

    @staticmethod
    def _folds(node: Node) -> bool:
        return (
            _is_cheap(node)
            and all(v.is_constant and v.type.size <= FOLD_WORK for v in node.present_inputs())
            and all(v.type.size <= FOLD_OUTPUT for v in node.outputs)
        )

    @staticmethod
    def _reference(node: Node, arrays: Sequence[Array | None]) -> list[Array]:
        with np.errstate(all="ignore"):
            results = [np.asarray(result) for result in node.op.reference(*arrays)]
        for value, result in zip(node.outputs, results, strict=True):
            if TensorType.of(result) != value.type:
                raise ModelFileError(
                    f"{node.op.name} of these constants gives {TensorType.of(result)}, not {value.type}"
                )
        return results


def _is_cheap(node: Node) -> bool:
    """Whether computing the node is bounded work, and means something without the graph's inputs."""
    return bool(node.inputs) and Trait.RANDOM not in node.op.traits and not isinstance(node.op, _NOT_FOLDED)
