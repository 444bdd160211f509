"""Padding by rule: how much of it a window needs, and on which side the odd element goes."""

from __future__ import annotations


def halves(total: int, *, behind: bool) -> tuple[int, int]:
    """So much padding as (before, after); the odd element goes behind, or in front."""
    small, large = total // 2, total - total // 2
    return (small, large) if behind else (large, small)


def same(extent: int, stride: int, reach: int, *, behind: bool) -> tuple[int, int]:
    """The padding with which windows of extent `reach`, dilation included, fit ceil(extent / stride) times."""
    return halves(max((-(-extent // stride) - 1) * stride + reach - extent, 0), behind=behind)
