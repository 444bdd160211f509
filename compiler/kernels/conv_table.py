"""The convolution templates in order of preference, and which of them serves a convolution.

The first that accepts is taken; why those before it refused is kept with the kernel. A template for some convolutions
only belongs before the more general ones and says in its `accepts` why it does not serve. (Winograd wants its input
padded otherwise, so the pass that chooses algorithms makes it an op of its own before layouts are chosen.)
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial

from glulam.compiler.kernels import (
    conv_apart,
    conv_depthwise,
    conv_direct,
    conv_generic,
    conv_grouped,
    conv_transpose,
    conv_whole,
)
from glulam.compiler.kernels.context import Context, Lowered
from glulam.compiler.kernels.conv_geometry import ConvGeometry, TransposedGeometry
from glulam.compiler.kernels.conv_template import ConvTemplate

Choice = tuple[str, Callable[[], str | None], Callable[[], Lowered]]

CONV_TEMPLATES = (
    ConvTemplate("whole image", conv_whole.accepts, conv_whole.build),
    ConvTemplate("direct", conv_direct.accepts, conv_direct.build, conv_direct.sections),
    ConvTemplate("depthwise", conv_depthwise.accepts, conv_depthwise.build, conv_depthwise.sections),
    ConvTemplate("grouped", conv_grouped.accepts, conv_grouped.build, conv_grouped.sections, conv_grouped.too_long),
    ConvTemplate("apart", conv_apart.accepts, conv_apart.build, conv_apart.sections),
)
"""Whatever none of them accepts is left to `conv_generic`."""


def lower_conv(ctx: Context, geometry: ConvGeometry) -> Lowered:
    """The kernel of x[N,C,*S], w[OC,C/g,*K], b?[OC], then what the epilogue reads."""
    choices = [(t.name, partial(t.accepts, ctx, geometry), partial(t.build, ctx, geometry)) for t in CONV_TEMPLATES]
    return _first(choices, partial(conv_generic.build, ctx, geometry))


def lower_averaged(ctx: Context, geometry: ConvGeometry) -> Lowered:
    """The kernel of a depthwise convolution, with the means of its result over chunks of rows as output 1."""
    return replace(conv_depthwise.build_with_means(ctx, geometry), template="depthwise")


def lower_transposed(ctx: Context, geometry: TransposedGeometry) -> Lowered:
    """The kernel of x[N,C,*S], w[C,OC/g,*K], b?[OC], then what the epilogue reads."""
    accepts, build = conv_transpose.accepts, conv_transpose.build
    choices = [
        (f"{t.name} phases", partial(accepts, t, ctx, geometry), partial(build, t, ctx, geometry))
        for t in CONV_TEMPLATES
    ]
    return _first(choices, partial(conv_generic.build, ctx, geometry))


def _first(choices: Sequence[Choice], otherwise: Callable[[], Lowered]) -> Lowered:
    """The kernel of the first choice that accepts, with the reasons of the others."""
    refused: list[tuple[str, str]] = []
    for name, accepts, build in choices:
        if (why := accepts()) is None:
            return replace(build(), template=name, refused=tuple(refused))
        refused.append((name, why))
    return replace(otherwise(), template="generic", refused=tuple(refused))
