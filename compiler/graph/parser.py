"""Reads the text form of a graph that `graph.text` describes and prints."""

from __future__ import annotations

import ast
import inspect
import math
import re
from collections.abc import Callable, Mapping
from dataclasses import MISSING, fields
from typing import Any, NoReturn, TypeVar

import numpy as np

from glulam.compiler.errors import GraphError
from glulam.compiler.graph.graph import Graph, Value
from glulam.compiler.graph.layout import PLAIN, Layout
from glulam.compiler.graph.op import Op
from glulam.compiler.graph.types import Array, DType, TensorType

T = TypeVar("T")

BARE_NAME = r"(?:[A-Za-z0-9_.$+\-]|/(?!/))+"
"""A name that needs no quotes: two slashes begin a comment."""

_NESTING_LIMIT = 50
_BLANK = re.compile(r"(?:\s+|//[^\n]*)*")
_NAME = re.compile(BARE_NAME)
_STRING = re.compile(r"""'(?:[^'\\\n]|\\.)*'|"(?:[^"\\\n]|\\.)*\"""")
_NUMBER = re.compile(r"-?(?:inf|nan|\d+(?:\.\d*)?(?:[eE][+-]?\d+)?)(?![A-Za-z0-9_.])")
_WORD = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_DIGEST = re.compile(r"#([0-9a-f]{16})\b")
_WORDS: dict[str, Any] = {"None": None, "True": True, "False": False, "inf": math.inf, "nan": math.nan}
# what ops, which do not look at the types of their attributes, raise for others
_MISFITS = (GraphError, ArithmeticError, AttributeError, LookupError, TypeError, ValueError)
_DTYPES = {member.value: member for member in DType}


def parse(text: str, ops: Mapping[str, type[Op]], constants: Mapping[str, Array] | None = None) -> Graph:
    """The graph that the text describes.

    `ops` gives the op class of each name, `constants` the arrays that the text names by hash (`text.constants_of`).
    Types of outputs may be left out; where given they must be what the op infers. Raises GraphError with line and
    column.
    """
    parser = _Parser(text, ops, constants or {})
    graph = parser.graph()
    parser.blank()
    if parser.at < len(text):
        parser.fail("expected the end of the text")
    return graph


def implied_name(outputs: list[str]) -> str | None:
    """The name of a node that its text need not give: `y` for the output `y`, `s` for the outputs `s.0, s.1`."""
    if len(outputs) == 1:
        return outputs[0]
    stem = outputs[0].removesuffix(".0") if outputs else ""
    return stem if outputs == [f"{stem}.{i}" for i in range(len(outputs))] else None


class _Parser:
    """Recursive descent without a token list: every method reads at `at` and leaves `at` behind what it read."""

    def __init__(self, text: str, ops: Mapping[str, type[Op]], constants: Mapping[str, Array]) -> None:
        self.text = text
        self.ops = ops
        self.constants = constants
        self.at = 0
        self.depth = 0

    # ---- characters

    def fail(self, why: str, at: int | None = None) -> NoReturn:
        place = self.at if at is None else at
        line = self.text.count("\n", 0, place) + 1
        start = self.text.rfind("\n", 0, place) + 1
        shown = self.text[start:].split("\n", 1)[0]
        raise GraphError(f"line {line}, column {place - start + 1}: {why}\n  {shown}\n  {' ' * (place - start)}^")

    def blank(self) -> None:
        if match := _BLANK.match(self.text, self.at):
            self.at = match.end()

    def accept(self, literal: str) -> bool:
        self.blank()
        if not self.text.startswith(literal, self.at):
            return False
        self.at += len(literal)
        return True

    def expect(self, literal: str) -> None:
        if not self.accept(literal):
            self.fail(f"expected {literal!r}")

    def match(self, pattern: re.Pattern[str]) -> str | None:
        self.blank()
        if not (match := pattern.match(self.text, self.at)):
            return None
        self.at = match.end()
        return match[match.lastindex or 0]

    def name(self) -> str:
        quoted = self.match(_STRING)
        if quoted is not None:
            return self.string(quoted)
        bare = self.match(_NAME)
        return bare if bare is not None else self.fail("expected a name")

    def string(self, quoted: str) -> str:
        try:
            return str(ast.literal_eval(quoted))
        except (SyntaxError, ValueError):
            self.fail(f"malformed string {quoted}", self.at - len(quoted))

    def items(self, close: str, item: Callable[[], None]) -> bool:
        """Comma-separated items up to `close`; whether a comma came last."""
        trailing = False
        while not self.accept(close):
            item()
            trailing = self.accept(",")
            if not trailing:
                self.expect(close)
                break
        return trailing

    # ---- statements

    def graph(self) -> Graph:
        self.expect("graph")
        graph = Graph()
        if not self.accept("{"):
            graph.name = self.name()
            self.expect("{")
        values: dict[str, Value] = {}
        while not self.accept("}"):
            self.blank()
            start = self.at
            if self.text.startswith("%", start):
                self.node(graph, values)
                continue
            match self.match(_WORD):
                case "input":
                    self.input(graph, values)
                case "const":
                    self.constant(graph, values)
                case "output":
                    self.output(graph, values)
                case _:
                    self.fail("expected `input`, `const`, `output`, a node or `}`", start)
        return graph

    def input(self, graph: Graph, values: dict[str, Value]) -> None:
        name, at = self.new_name(values)
        self.expect(":")
        value = self.guarded(at, lambda: graph.input(name, self.type()))
        value.layout = self.layout()
        if self.accept("@"):
            outer = self.name()
            if outer in graph.inputs and outer != name:
                self.fail(f"there is an input named {outer!r} already")
            del graph.inputs[name]
            graph.inputs[outer] = value
        values[name] = value

    def constant(self, graph: Graph, values: dict[str, Value]) -> None:
        name, _ = self.new_name(values)
        self.expect(":")
        type, layout = self.type(), self.layout()
        self.expect("=")
        self.blank()
        values[name] = graph.constant(self.contents(type), name)
        values[name].layout = layout

    def contents(self, type: TensorType) -> Array:
        at = self.at
        if digest := self.match(_DIGEST):
            if digest not in self.constants:
                self.fail(f"no constant has the hash #{digest}; pass it in `constants`", at)
            data = self.constants[digest]
            if TensorType.of(data) != type:
                self.fail(f"constant #{digest} is {TensorType.of(data)}, not {type}", at)
            return data
        flat: list[float | int | bool] = []
        self.elements(flat, self.scalar_of(type.dtype))
        if len(flat) != type.size:
            self.fail(f"{len(flat)} elements for {type}", at)
        try:
            return np.array(flat, type.dtype.numpy).reshape(type.shape)
        except OverflowError:
            self.fail(f"an element does not fit into {type.dtype.value}", at)

    def elements(self, flat: list[float | int | bool], scalar: Callable[[], float | int | bool]) -> None:
        if not self.accept("["):
            flat.append(scalar())
            return
        with_depth = self.deeper()
        self.items("]", lambda: self.elements(flat, scalar))
        self.depth = with_depth

    def scalar_of(self, dtype: DType) -> Callable[[], float | int | bool]:
        kinds = (float, int) if dtype.is_float else (bool,) if dtype is DType.BOOL else (int,)

        def scalar() -> float | int | bool:
            self.blank()
            at = self.at
            value = self.value()
            if not isinstance(value, kinds) or isinstance(value, bool) != (dtype is DType.BOOL):
                self.fail(f"expected an element of type {dtype.value}", at)
            return value

        return scalar

    def node(self, graph: Graph, values: dict[str, Value]) -> None:
        at = self.at
        names: list[str] = []
        declared: list[tuple[int, TensorType | None, Layout]] = []
        while True:
            name, name_at = self.new_name(values)
            if name in names:
                self.fail(f"%{name} is defined twice", name_at)
            names.append(name)
            type = self.type() if self.accept(":") else None
            declared.append((name_at, type, self.layout()))
            if not self.accept(","):
                break
        self.expect("=")
        op_name, op_at = self.op_name()
        inputs = self.arguments(values)
        op = self.op(op_name, op_at)
        own_name = self.name() if self.accept("@") else implied_name(names)
        self.check_arity(op, inputs, len(names), op_at)
        output_names = None if names == [own_name] else names
        node = self.guarded(op_at, lambda: graph.make(op, *inputs, name=own_name, output_names=output_names))
        if own_name not in (None, node.name) or [v.name for v in node.outputs] != names:
            self.fail(f"the node's name {own_name!r} is taken", at)
        for value, name, (name_at, type, layout) in zip(node.outputs, names, declared, strict=True):
            if type is not None and type != value.type:
                self.fail(f"%{name} is given as {type}, but {op_name} makes it {value.type}", name_at)
            value.layout = layout
            values[name] = value
        graph.nodes.append(node)

    def check_arity(self, op: Op, inputs: list[Value | None], outputs: int, at: int) -> None:
        """Fail unless the op takes so many inputs and gives so many outputs."""
        types = [None if v is None else v.type for v in inputs]
        try:
            inspect.signature(op.infer).bind(*types)
        except TypeError as error:
            self.fail(f"{op.name}: {error}", at)
        made = self.guarded(at, lambda: len(op.infer(*types)))
        if made != outputs:
            self.fail(f"{op.name} gives {made} outputs, not {outputs}", at)

    def output(self, graph: Graph, values: dict[str, Value]) -> None:
        self.blank()
        at = self.at
        name = self.name()
        self.expect("=")
        value = self.use(values)
        self.guarded(at, lambda: graph.output(name, value))

    # ---- parts of statements

    def new_name(self, values: Mapping[str, Value]) -> tuple[str, int]:
        self.blank()
        at = self.at
        self.expect("%")
        name = self.name()
        if name in values:
            self.fail(f"%{name} is defined twice", at)
        return name, at

    def use(self, values: Mapping[str, Value]) -> Value:
        self.blank()
        at = self.at
        self.expect("%")
        name = self.name()
        return values[name] if name in values else self.fail(f"%{name} is not defined above", at)

    def arguments(self, values: Mapping[str, Value]) -> list[Value | None]:
        inputs: list[Value | None] = []
        self.expect("(")
        self.items(")", lambda: inputs.append(None if self.accept("none") else self.use(values)))
        return inputs

    def op_name(self) -> tuple[str, int]:
        self.blank()
        at = self.at
        name = self.match(_WORD)
        if name is None:
            self.fail("expected the name of an op")
        if name not in self.ops:
            self.fail(f"no op is named {name!r}", at)
        return name, at

    def op(self, name: str, at: int) -> Op:
        """The op of that name with the attributes that follow, if any."""
        cls = self.ops[name]
        known = {f.name: f for f in fields(cls)}
        given: dict[str, Any] = {}

        def attribute() -> None:
            self.blank()
            start = self.at
            key = self.match(_WORD)
            if key is None or key not in known:
                self.fail(f"{name} has the attributes {list(known)}", start)
            if key in given:
                self.fail(f"{key} is given twice", start)
            self.expect("=")
            given[key] = self.value()

        if self.accept("{"):
            self.items("}", attribute)
        missing = [
            k for k, f in known.items() if k not in given and f.default is MISSING and f.default_factory is MISSING
        ]
        if missing:
            self.fail(f"{name} needs {', '.join(missing)}", at)
        return self.guarded(at, lambda: cls(**given))

    def type(self) -> TensorType:
        self.blank()
        at = self.at
        word = self.match(_WORD)
        if word not in _DTYPES:
            self.fail(f"expected an element type, one of {', '.join(_DTYPES)}", at)
        self.expect("[")
        return self.extents(_DTYPES[word], at)

    def extents(self, dtype: DType, at: int) -> TensorType:
        shape: list[int] = []

        def extent() -> None:
            shape.append(self.natural("an extent"))

        self.items("]", extent)
        return self.guarded(at, lambda: TensorType(dtype, tuple(shape)))

    def layout(self) -> Layout:
        if not self.accept("<"):
            return PLAIN
        block, halo, halo_value = 1, [], 0.0
        at = self.at
        word = self.match(_WORD)
        if word is not None and re.fullmatch(r"c[1-9]\d{0,8}", word):
            block = int(word[1:])
        elif word != "plain":
            self.fail("expected `plain` or `c` and the block size", at)
        rows_first = self.accept("rows")
        if self.accept("halo"):
            while True:
                before = self.natural("elements of padding")
                self.expect("+")
                halo.append((before, self.natural("elements of padding")))
                if not self.accept(","):
                    break
            if self.accept("of"):
                halo_value = float(self.number())
        self.expect(">")
        return Layout(block, tuple(halo), halo_value, rows_first)

    def natural(self, what: str) -> int:
        self.blank()
        at = self.at
        value = self.number()
        return value if isinstance(value, int) and value >= 0 else self.fail(f"expected {what}, an integer >= 0", at)

    def number(self) -> float | int:
        self.blank()
        at = self.at
        token = self.match(_NUMBER)
        if token is None or len(token) > 400:
            self.fail("expected a number", at)
        return int(token) if re.fullmatch(r"-?\d+", token) else float(token)

    def value(self) -> Any:
        """An attribute's value: a literal, a tuple, an element or tensor type, a layout, an op, or a graph."""
        self.blank()
        at = self.at
        head = self.text[at : at + 1]
        if head == "(":
            return self.tuple()
        if head == "<":
            return self.layout()
        if (quoted := self.match(_STRING)) is not None:
            return self.string(quoted)
        word = self.match(_WORD)
        if word is None:
            return self.number()
        if word in _WORDS:
            return _WORDS[word]
        if word in _DTYPES:
            dtype = _DTYPES[word]
            return self.extents(dtype, at) if self.accept("[") else dtype
        with_depth = self.deeper()
        if word == "graph":
            self.at = at
            result: Any = self.graph()
        elif word in self.ops:
            result = self.op(word, at)
        else:
            self.fail(f"{word!r} is neither a literal nor the name of an op", at)
        self.depth = with_depth
        return result

    def tuple(self) -> tuple[Any, ...]:
        found: list[Any] = []
        self.expect("(")
        with_depth = self.deeper()
        trailing = self.items(")", lambda: found.append(self.value()))
        self.depth = with_depth
        return found[0] if len(found) == 1 and not trailing else tuple(found)

    def deeper(self) -> int:
        """Go one level down; the depth to return to. Hostile text must not exhaust the stack."""
        self.depth += 1
        if self.depth > _NESTING_LIMIT:
            self.fail("nested too deeply")
        return self.depth - 1

    def guarded(self, at: int, make: Callable[[], T]) -> T:
        """The result of `make`; what an op says of attributes that it cannot have gets the place in the text."""
        try:
            return make()
        except _MISFITS as error:
            self.fail(str(error), at)
