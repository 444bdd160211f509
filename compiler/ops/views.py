"""Concat and split that cost nothing: their tensors share memory. The layout pass puts them in where blocks allow."""

from __future__ import annotations

from glulam.compiler.ops.join import Concat, Split


class ConcatView(Concat):
    """A concat along the channels whose inputs are written where they belong in the output."""

    name = "concat_view"


class SplitView(Split):
    """A split along the channels whose outputs are read where they lie in the input."""

    name = "split_view"
