"""What a converter sees of one ONNX node: its attributes, its inputs, and the graph under construction."""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from glulam.compiler.errors import ModelFileError, UnsupportedError
from glulam.compiler.graph.graph import Value
from glulam.compiler.graph.op import Op
from glulam.compiler.graph.types import Array, DType
from glulam.compiler.ops.pointwise import Cast
from glulam.frontends.onnx.build import Builder
from glulam.frontends.onnx.proto import require_onnx
from glulam.frontends.onnx.refused import USES

if TYPE_CHECKING:
    from onnx import GraphProto, NodeProto, TensorProto


@dataclass(frozen=True)
class Tensors:
    """An ONNX sequence: so many values of the graph, known at import. It is none itself."""

    values: tuple[Value, ...]


@dataclass(frozen=True)
class Places:
    """Where a tensor of the graph is not zero, a column for each place (or a row); the inputs decide how many.

    It is good for nothing but to put a number there, as is `Repeated`.
    """

    tensor: Value
    rows: bool = False


@dataclass(frozen=True)
class Repeated:
    """A tensor that holds one number as often as the inputs decide."""

    number: Value


Held = Value | Tensors | Places | Repeated
Result = Held | tuple[Held, ...]

DEPENDS = "is computed from the model's inputs; only constants are offered, and x[mask] = number"


class Context:
    """One node during conversion. Every attribute must be read (or named in `ignore`), or the node is refused."""

    def __init__(
        self,
        node: NodeProto,
        attributes: Mapping[str, Any],
        inputs: Sequence[Held | None],
        opset: int,
        producer: str,
        builder: Builder,
        used_outputs: Sequence[bool],
        tensor: Callable[[TensorProto], Array],
        inline: Callable[[GraphProto, Sequence[Held]], tuple[Held, ...]],
    ) -> None:
        self.op_type = node.op_type
        self.base = next((name for name in node.output if name), node.name or node.op_type)
        self.inputs = tuple(inputs)
        self.opset = opset
        self.producer = producer  # the name that the file gives to what wrote it
        self.builder = builder
        self._decode = tensor
        self.inline = inline
        self._attributes = dict(attributes)
        self._unread = set(attributes)
        self._used_outputs = tuple(used_outputs)

    # ---- errors

    def unsupported(self, why: str) -> UnsupportedError:
        return UnsupportedError(why)

    def refused(self, use: str) -> UnsupportedError:
        """For what `refused.USES` lists."""
        return UnsupportedError(f"{use}: {USES[use]}")

    def malformed(self, why: str) -> ModelFileError:
        return ModelFileError(why)

    # ---- attributes

    def has(self, name: str) -> bool:
        return name in self._attributes

    def raw(self, name: str, default: Any = None) -> Any:
        self._unread.discard(name)
        return self._attributes.get(name, default)

    def _typed(self, name: str, default: Any, kinds: type | tuple[type, ...], what: str) -> Any:
        value = self.raw(name, default)
        if value is not default and not isinstance(value, kinds):
            raise self.malformed(f"attribute {name} is not {what}")
        return value

    def integer(self, name: str, default: int) -> int:
        return self._typed(name, default, int, "an integer")  # type: ignore[no-any-return]

    def flag(self, name: str, default: bool = False) -> bool:
        return bool(self.integer(name, int(default)))

    def number(self, name: str, default: float) -> float:
        return self._typed(name, default, float, "a number")  # type: ignore[no-any-return]

    def text(self, name: str, default: str) -> str:
        value = self._typed(name, default, (bytes, str), "a string")
        return value.decode("utf-8", "replace") if isinstance(value, bytes) else value

    def integers(self, name: str, default: Sequence[int] | None = None) -> tuple[int, ...] | None:
        value = self._typed(name, default, (list, tuple), "a list of integers")
        if value is None:
            return None
        if not all(isinstance(v, int) for v in value):
            raise self.malformed(f"attribute {name} is not a list of integers")
        return tuple(value)

    def numbers(self, name: str) -> tuple[float, ...]:
        value = self._typed(name, (), (list, tuple), "a list of numbers")
        if not all(isinstance(v, int | float) for v in value):
            raise self.malformed(f"attribute {name} is not a list of numbers")
        return tuple(float(v) for v in value)

    def tensor(self, name: str) -> Array | None:
        """The array of a tensor attribute, None if it is not there."""
        value = self._typed(name, None, require_onnx().TensorProto, "a tensor")
        return None if value is None else self._decode(value)

    def branch(self, name: str) -> GraphProto:
        value = self._typed(name, None, require_onnx().GraphProto, "a graph")
        if value is None:
            raise self.malformed(f"the {name} is missing")
        return value  # type: ignore[no-any-return]

    def ignore(self, *names: str) -> None:
        """These attributes make no difference to inference."""
        self._unread.difference_update(names)

    def check_all_read(self) -> None:
        if self._unread:
            raise self.unsupported(f"attribute {', '.join(sorted(self._unread))} is not offered")

    # ---- inputs and outputs

    def __getitem__(self, index: int) -> Value:
        value = self.optional(index)
        if value is None:
            raise self.malformed(f"input {index} is missing")
        return value

    def optional(self, index: int) -> Value | None:
        value = self.inputs[index] if index < len(self.inputs) else None
        return None if value is None else self.tensor_of(value)

    def held(self, index: int) -> Held:
        """A required input where a sequence will do, too."""
        value = self.inputs[index] if index < len(self.inputs) else None
        return self[index] if value is None else value

    def sequence(self, index: int) -> tuple[Value, ...]:
        """The tensors of a required input that is a sequence."""
        value = self.held(index)
        if not isinstance(value, Tensors):
            raise self.malformed(f"input {index} is a tensor, not a sequence")
        return value.values

    def tensor_of(self, value: Held) -> Value:
        if isinstance(value, Tensors):
            raise self.malformed("a sequence stands where a tensor is needed")
        if not isinstance(value, Value):
            raise self.unsupported(f"how many elements an input has {DEPENDS}")
        return value

    def known(self, index: int, what: str) -> Array:
        """The value of a required input that must not depend on the graph's inputs."""
        array = self.builder.demanded(self[index])
        if array is None:
            remedy = "make it, or the input that it comes from, an initialiser"
            raise self.unsupported(
                f"{what} (input {index}) is computed from the model's inputs; only constants are offered: {remedy}"
            )
        return array

    def known_ints(self, index: int, what: str) -> tuple[int, ...] | None:
        """The same for a list of integers (or a scalar); None if the input is left out."""
        if self.optional(index) is None:
            return None
        array = self.known(index, what)
        if array.ndim > 1 or array.dtype.kind not in "iu":
            raise self.malformed(f"{what} (input {index}) is not a list of integers")
        if array.size > 64 and what != "indices":
            raise self.malformed(f"{what} (input {index}) has {array.size} entries")
        return tuple(int(v) for v in array.reshape(-1))

    def known_scalar(self, index: int, what: str) -> float | int | bool | None:
        if self.optional(index) is None:
            return None
        array = self.known(index, what)
        if array.size != 1:
            raise self.malformed(f"{what} (input {index}) is not a scalar")
        return array.reshape(-1)[0].item()  # type: ignore[no-any-return]

    def ints_from(self, name: str, index: int, since: int) -> tuple[int, ...] | None:
        """A list that became input `index` at opset `since` and was attribute `name` before."""
        return self.known_ints(index, name) if self.opset >= since else self.integers(name)

    def uses_output(self, index: int) -> bool:
        return index < len(self._used_outputs) and self._used_outputs[index]

    @property
    def output_count(self) -> int:
        return len(self._used_outputs)

    def only_first_output(self, *names: str) -> None:
        """Refuse a node whose further outputs are needed."""
        for index, name in enumerate(names, start=1):
            if self.uses_output(index):
                raise self.unsupported(f"the output {name} is not offered")

    # ---- building

    def apply(self, op: Op, *inputs: Value | None) -> Value:
        return self.builder.apply(op, *inputs, name=self.base)

    def part(self, op: Op, *inputs: Value | None, part: str = "") -> Value:
        """`apply` for a composition: whatever part of it a node is, it is named like the ONNX node."""
        return self.apply(op, *inputs)

    def add(self, op: Op, *inputs: Value | None) -> tuple[Value, ...]:
        return self.builder.add(op, *inputs, name=self.base)

    def cast(self, x: Value, dtype: DType) -> Value:
        """The value as another type; itself if it has that type already."""
        return x if x.type.dtype is dtype else self.apply(Cast(dtype), x)

    def constant(self, data: Any, dtype: DType | None = None) -> Value:
        if dtype is DType.F16:
            return self.builder.rounded(np.asarray(data), f"{self.base}.const")
        array = np.asarray(data) if dtype is None else np.asarray(data).astype(dtype.numpy)
        return self.builder.constant(array, f"{self.base}.const")

    def axis(self, axis: int, rank: int, *, end: bool = False) -> int:
        """An axis counted from the front. `end`: one past the last is legal too."""
        axis = operator.index(axis)
        if not -rank <= axis < rank + end:
            raise self.malformed(f"axis {axis} of a tensor with {rank} dimensions")
        return axis + rank if axis < 0 else axis

    def axes(self, axes: Sequence[int], rank: int) -> tuple[int, ...]:
        """Axes counted from the front, in the given order; each at most once."""
        found = tuple(self.axis(axis, rank) for axis in axes)
        if len(set(found)) != len(found):
            raise self.malformed(f"axes {tuple(axes)} name one dimension twice")
        return found


Converter = Callable[[Context], Result]
