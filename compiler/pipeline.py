"""The passes in their order, each with its reason."""

from __future__ import annotations

from glulam.compiler.options import Options
from glulam.compiler.passes.fuse import Fuse
from glulam.compiler.passes.layout import ChooseLayout
from glulam.compiler.passes.manager import Pass
from glulam.compiler.targets import Target


def pipeline(target: Target, options: Options) -> tuple[Pass, ...]:
    """What `compile` runs on a graph before it is lowered."""
    return (
        *_fusion(options),  # before layouts, so that a region gets one layout
        ChooseLayout(target),  # last: kernels are built for what it decides
    )


def _fusion(options: Options) -> tuple[Pass, ...]:
    return (Fuse(),) if options.fuse else ()


def switchable_passes() -> tuple[str, ...]:
    """Names of the passes that may be disabled."""
    from glulam.compiler.targets import target

    return tuple(each.name for each in pipeline(target("native"), Options()) if each.optional)
