"""The text of one LLVM function as it grows: names, instructions, blocks, and what need not be computed again."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from glulam.compiler.codegen.llvm_types import Val


@dataclass
class _Scope:
    """What has been computed and still dominates: numbered integers and addresses; loads of this block only."""

    numbers: dict[object, str] = field(default_factory=dict)
    loads: dict[object, Val] = field(default_factory=dict)


class Function:
    """Appends to `lines`; a slot is an empty line that is filled in later, as phis are."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self.declarations: set[str] = set()
        self.block = "entry"
        self._scopes = [_Scope()]
        self._count = 0

    # ---- instructions

    def name(self, hint: str = "v") -> str:
        """A new SSA name. The hint may end in a digit, so a point keeps it apart from the number."""
        self._count += 1
        return f"%{hint}.{self._count}"

    def label(self, hint: str) -> str:
        """A new block's name."""
        self._count += 1
        return f"{hint}.{self._count}"

    def do(self, text: str) -> None:
        """An instruction without a result."""
        self.lines.append(f"  {text}")

    def let(self, text: str, hint: str = "v") -> str:
        """An instruction with a result, whose name is returned."""
        name = self.name(hint)
        self.lines.append(f"  {name} = {text}")
        return name

    def call(self, function: str, result: str, args: Sequence[tuple[str, str]]) -> str:
        """A call of a function, which is declared; args are (type, value). `result` is its type, not void."""
        return self.let(self._call_text(function, result, args))

    def call_void(self, function: str, args: Sequence[tuple[str, str]]) -> None:
        self.do(self._call_text(function, "void", args))

    def _call_text(self, function: str, result: str, args: Sequence[tuple[str, str]]) -> str:
        self.declarations.add(f"declare {result} @{function}({', '.join(type for type, _ in args)})")
        return f"call {result} @{function}({', '.join(f'{t} {v}' for t, v in args)})"

    def constant(self, data: bytes) -> str:
        """The address of constant bytes, which start on a cache line."""
        name = f"@bytes.{hashlib.sha256(data).hexdigest()[:16]}"
        text = "".join(f"\\{byte:02X}" for byte in data)
        self.declarations.add(f'{name} = private unnamed_addr constant [{len(data)} x i8] c"{text}", align 64')
        return name

    # ---- blocks

    def open_block(self, label: str) -> None:
        self.lines.append(f"{label}:")
        self.block = label

    def slots(self, count: int) -> int:
        """Keep `count` lines free; the place of the first one."""
        self.lines.extend([""] * count)
        return len(self.lines) - count

    def fill(self, slot: int, text: str) -> None:
        self.lines[slot] = f"  {text}"

    def phi(self, slot: int, name: str, type: str, first: tuple[str, str], again: tuple[str, str]) -> None:
        """Fill a slot with a phi of two (value, block) pairs."""
        self.fill(slot, f"{name} = phi {type} [ {first[0]}, %{first[1]} ], [ {again[0]}, %{again[1]} ]")

    # ---- scopes

    def push(self) -> None:
        """Enter a block that the present one dominates."""
        self._scopes.append(_Scope())

    def pop(self) -> None:
        """Leave it: memory may have changed meanwhile."""
        self._scopes.pop()
        self._scopes[-1].loads.clear()

    def numbered(self, key: object, text: str) -> str:
        """`let`, unless an instruction with this key has been written where it dominates."""
        return self.once(key, lambda: self.let(text))

    def once(self, key: object, write: Callable[[], str]) -> str:
        """The value that `write` names, written unless one with this key has been where it dominates."""
        for scope in reversed(self._scopes):
            if key in scope.numbers:
                return scope.numbers[key]
        return self._scopes[-1].numbers.setdefault(key, write())

    @property
    def loads(self) -> dict[object, Val]:
        """What has been loaded in this block and not been overwritten since."""
        return self._scopes[-1].loads
