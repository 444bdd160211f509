"""Affine indices of the loop IR as integers: constants for unrolled loops, numbered sums of SSA names for others."""

from __future__ import annotations

from glulam.compiler.codegen.function import Function
from glulam.compiler.errors import LoopError
from glulam.compiler.loops.index import Affine, Var


class Indices:
    """What each loop variable stands for at this point of the function.

    `bound` has a number for a variable of an unrolled loop and an SSA name for others; `vector` is the variable of the
    vector loop that the point lies in. A loop too short to fill a vector has the next power of two as its lanes, since
    LLVM would rather split other numbers: what the last ones hold is computed, but not stored.
    """

    def __init__(self, function: Function, register_lanes: int) -> None:
        self.function = function
        self.register_lanes = register_lanes
        self.bound: dict[Var, str | int] = {}
        self.vector: Var | None = None

    @property
    def lanes(self) -> int:
        """Lanes of the vectors here, 0 outside a vector loop."""
        wanted = self.wanted
        return 1 << (wanted - 1).bit_length() if 0 < wanted < self.register_lanes else wanted

    @property
    def wanted(self) -> int:
        """The first so many lanes are iterations of the vector loop."""
        return self.vector.extent if self.vector else 0

    def constant(self, index: tuple[Affine, ...]) -> tuple[int, ...]:
        """A tile's place; its variables are unrolled, so they are numbers here."""
        place = []
        for entry in index:
            total = entry.const
            for var, k in entry.terms.items():
                bound = self.bound[var]
                if not isinstance(bound, int):
                    raise LoopError(f"index {entry} of a tile is not constant; unroll its loop")
                total += bound * k
            place.append(total)
        return tuple(place)

    def is_expanded(self, index: Affine) -> bool:
        """Whether unrolling makes several indices of this one."""
        return any(var.extent > 1 and isinstance(self.bound.get(var), int) for var in index.terms)

    def split(self, index: Affine, scale: int, terms: dict[str, int]) -> tuple[int, int]:
        """Add the index times `scale` to `terms` by SSA name; the constant part and the lanes' step are returned."""
        const, step = index.const * scale, 0
        for var, k in index.terms.items():
            if var is self.vector:
                step += k * scale
                continue
            bound = self.bound[var]
            if isinstance(bound, int):
                const += bound * k * scale
            else:
                terms[bound] = terms.get(bound, 0) + k * scale
        return const, step

    def sum(self, terms: dict[str, int]) -> str | None:
        """SSA name of the sum of the terms, None if there are none."""
        numbered = self.function.numbered
        total: str | None = None
        key: tuple[tuple[str, int], ...] = ()
        for name, k in terms.items():
            key = (*key, (name, k))
            product = name if k == 1 else numbered((name, k), f"mul nsw i64 {name}, {k}")
            total = product if total is None else numbered(key, f"add nsw i64 {total}, {product}")
        return total
