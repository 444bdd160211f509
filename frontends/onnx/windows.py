"""The attributes that convolutions and pools share: strides, dilations, and padding given as numbers or by rule."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from glulam.frontends.onnx.context import Context
from glulam.frontends.padding import same

LIMIT = 1 << 24  # no network has a stride, a pad or a kernel extent like that


@dataclass(frozen=True)
class Window:
    """rule: NOTSET if the node gives the pads, else SAME_UPPER, SAME_LOWER or VALID."""

    kernel: tuple[int, ...]
    strides: tuple[int, ...]
    dilations: tuple[int, ...]
    pads: tuple[tuple[int, int], ...]
    rule: str

    @property
    def reach(self) -> tuple[int, ...]:
        """Extents of the dilated kernel."""
        return tuple((k - 1) * d + 1 for k, d in zip(self.kernel, self.dilations, strict=True))

    def transposed_extents(self, extents: Sequence[int]) -> tuple[int, ...]:
        """Output extents of the transposed convolution without any padding."""
        return tuple((n - 1) * s + r for n, s, r in zip(extents, self.strides, self.reach, strict=True))


def read_window(ctx: Context, extents: Sequence[int], kernel: Sequence[int], *, auto: bool = True) -> Window:
    """Strides, dilations and pads of the node.

    With `auto`, the rules SAME_UPPER, SAME_LOWER and VALID are worked out for a forward window over `extents`, and pads
    are not negative.
    """
    rank = len(kernel)
    strides = ctx.integers("strides") or (1,) * rank
    dilations = ctx.integers("dilations") or (1,) * rank
    flat = ctx.integers("pads") or (0,) * (2 * rank)
    if len(strides) != rank or len(dilations) != rank or len(flat) != 2 * rank or len(extents) != rank:
        raise ctx.malformed(f"strides, dilations and pads do not fit a window over {rank} dimensions")
    if min((*strides, *dilations, *kernel), default=1) < 1:
        raise ctx.malformed("strides, dilations and kernel extents are at least 1")
    if auto and min(flat, default=0) < 0:
        raise ctx.unsupported(f"negative pads {flat}; a Slice before the window crops as well")
    if max((*flat, *strides, *dilations, *kernel)) > LIMIT:
        raise ctx.malformed(f"a window with an attribute above {LIMIT}")
    rule = ctx.text("auto_pad", "NOTSET") or "NOTSET"
    if rule not in ("NOTSET", "VALID", "SAME_UPPER", "SAME_LOWER"):
        raise ctx.malformed(f"auto_pad is {rule!r}")
    pads = tuple(zip(flat[:rank], flat[rank:], strict=True))
    window = Window(tuple(kernel), strides, dilations, pads, rule)
    if rule == "NOTSET" or not auto:
        return window
    ruled = [
        (0, 0) if rule == "VALID" else same(n, s, r, behind=rule == "SAME_UPPER")
        for n, s, r in zip(extents, strides, window.reach, strict=True)
    ]
    return replace(window, pads=tuple(ruled))
