"""Layers that move elements without computing: shapes, orders, cuts, borders."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from glulam.compiler import ops
from glulam.compiler.errors import ShapeError
from glulam.frontends.compositions import depth_to_space, space_to_depth
from glulam.frontends.layers.arguments import choice, dimensions, extents, integer, real
from glulam.frontends.layers.conv import PADDING_MODES
from glulam.frontends.layers.module import Layer
from glulam.frontends.layers.tensor import Tensor, apply, apply_all, normal_axis, parts, require_rank, reshape


class Flatten(Layer):
    """Axes start_dim ... end_dim become one."""

    def __init__(self, start_dim: int = 1, end_dim: int = -1, *, name: str | None = None) -> None:
        super().__init__(name)
        self.start_dim = integer(start_dim, "Flatten: start_dim")
        self.end_dim = integer(end_dim, "Flatten: end_dim")

    def forward(self, x: Tensor) -> Tensor:
        start, end = (normal_axis(axis, x.rank, "Flatten") for axis in (self.start_dim, self.end_dim))
        if start > end:
            raise ShapeError(f"Flatten: start_dim {self.start_dim} lies behind end_dim {self.end_dim} in {x.type}")
        shape = (*x.shape[:start], math.prod(x.shape[start : end + 1]), *x.shape[end + 1 :])
        return reshape(x, shape, self.path(x.scope))


class Reshape(Layer):
    """The same elements in order under another shape, the batch axis included; one extent may be -1, found by count."""

    def __init__(self, *shape: int | Sequence[int], name: str | None = None) -> None:
        super().__init__(name)
        wanted = shape[0] if len(shape) == 1 and isinstance(shape[0], Sequence) else shape
        self.shape = tuple(integer(extent, "Reshape: an extent", low=-1) for extent in wanted)
        if self.shape.count(-1) > 1:
            raise ShapeError(f"Reshape to {self.shape}: one extent at most can be -1")

    def forward(self, x: Tensor) -> Tensor:
        rest = math.prod(extent for extent in self.shape if extent != -1)
        open_ended = -1 in self.shape
        if (rest == 0 or x.type.size % rest) if open_ended else rest != x.type.size:
            raise ShapeError(f"Reshape to {self.shape} does not fit the {x.type.size} elements of {x.name!r}: {x.type}")
        shape = tuple(x.type.size // rest if extent == -1 else extent for extent in self.shape)
        return reshape(x, shape, self.path(x.scope))


class Squeeze(Layer):
    """Drop an axis of extent 1, or all of them if dim is None (the batch axis included, as PyTorch does)."""

    def __init__(self, dim: int | Sequence[int] | None = None, *, name: str | None = None) -> None:
        super().__init__(name)
        self.dims = None if dim is None else dimensions(dim, "Squeeze: dim")

    def forward(self, x: Tensor) -> Tensor:
        if self.dims is None:
            dropped = {axis for axis, extent in enumerate(x.shape) if extent == 1}
        else:
            dropped = {normal_axis(axis, x.rank, "Squeeze") for axis in self.dims}
        for axis in dropped:
            if x.shape[axis] != 1:
                raise ShapeError(f"Squeeze: axis {axis} of {x.name!r} has extent {x.shape[axis]}, not 1")
        kept = [extent for axis, extent in enumerate(x.shape) if axis not in dropped]
        return reshape(x, kept, self.path(x.scope))


class Unsqueeze(Layer):
    """Insert an axis of extent 1, so that it has the index dim in the result."""

    def __init__(self, dim: int, *, name: str | None = None) -> None:
        super().__init__(name)
        self.dim = integer(dim, "Unsqueeze: dim")

    def forward(self, x: Tensor) -> Tensor:
        axis = normal_axis(self.dim, x.rank + 1, "Unsqueeze")
        return reshape(x, (*x.shape[:axis], 1, *x.shape[axis:]), self.path(x.scope))


class Permute(Layer):
    """Axis i of the result is axis dims[i] of the input; the batch axis is counted."""

    def __init__(self, *dims: int | Sequence[int], name: str | None = None) -> None:
        super().__init__(name)
        given = dims[0] if len(dims) == 1 and isinstance(dims[0], Sequence) else dims
        self.dims = tuple(integer(axis, "Permute: an axis") for axis in given)

    def forward(self, x: Tensor) -> Tensor:
        perm = tuple(normal_axis(axis, x.rank, "Permute") for axis in self.dims)
        if sorted(perm) != list(range(x.rank)):
            raise ShapeError(f"Permute by {self.dims} does not name each axis of {x.name!r}: {x.type} once")
        return apply(ops.Transpose(perm), x, name=self.path(x.scope))


class Split(Layer):
    """Pieces along an axis: of a given size each (the last may be smaller), or of the sizes in a list."""

    def __init__(self, split_size_or_sections: int | Sequence[int], dim: int = 1, *, name: str | None = None) -> None:
        super().__init__(name)
        sections = split_size_or_sections
        self.dim = integer(dim, "Split: dim")
        self.sections: int | tuple[int, ...]
        if isinstance(sections, Sequence):
            self.sections = extents(sections, len(sections), "Split: a section", low=0)
        else:
            self.sections = integer(sections, "Split: split_size", low=1)

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        axis = normal_axis(self.dim, x.rank, "Split")
        extent = x.shape[axis]
        if isinstance(self.sections, int):
            step = self.sections
            sizes = tuple(min(step, extent - start) for start in range(0, extent, step))
        else:
            sizes = self.sections
        if sum(sizes) != extent:
            raise ShapeError(f"Split: sections {sizes} do not add up to the {extent} of axis {axis} of {x.name!r}")
        return apply_all(ops.Split(axis, sizes), x, name=self.path(x.scope))


class Slice(Layer):
    """Elements start, start + step, ... before end along one axis, by Python's rules for indices."""

    def __init__(
        self, dim: int, start: int | None = None, end: int | None = None, step: int = 1, *, name: str | None = None
    ) -> None:
        super().__init__(name)
        self.dim = integer(dim, "Slice: dim")
        if integer(step, "Slice: step") == 0:
            raise ShapeError("Slice: step is 0; it must not be")
        for key, bound in (("start", start), ("end", end)):
            if bound is not None:
                integer(bound, f"Slice: {key}")
        self.slice = slice(start, end, step)

    def forward(self, x: Tensor) -> Tensor:
        axis = normal_axis(self.dim, x.rank, "Slice")
        return x[(slice(None),) * axis + (self.slice,)]


class Crop(Layer):
    """A window of given spatial size, at an offset or in the centre; called on two tensors, of the second's size."""

    rank: int | None = None

    def __init__(
        self, size: int | Sequence[int] | None = None, offset: Sequence[int] | None = None, *, name: str | None = None
    ) -> None:
        super().__init__(name)
        self.size = size
        self.offset = offset

    def forward(self, x: Tensor, reference: Tensor | None = None) -> Tensor:
        rank = x.rank - 2
        if self.rank not in (None, x.rank):
            raise ShapeError(f"{type(self).__name__} takes rank {self.rank}, but {x.name!r} is {x.type}")
        if reference is not None and reference.rank != x.rank:
            raise ShapeError(f"Crop: the reference {reference.name!r}: {reference.type} differs in rank from {x.type}")
        wanted = self.size if reference is None else reference.shape[2:]
        if wanted is None:
            raise ShapeError("Crop: give a size, or call it on two tensors")
        sizes = extents(wanted, rank, "Crop: size")
        if self.offset is None:
            starts = tuple((have - want) // 2 for have, want in zip(x.shape[2:], sizes, strict=True))
        else:
            starts = extents(self.offset, rank, "Crop: offset", low=0)
        for have, start, want in zip(x.shape[2:], starts, sizes, strict=True):
            if start < 0 or start + want > have:
                raise ShapeError(f"Crop: {want} elements from {start} leave the {have} of {x.name!r}: {x.type}")
        op = ops.Slice((0, 0, *starts), (1,) * x.rank, (*x.shape[:2], *sizes))
        return apply(op, x, name=self.path(x.scope))


class Crop2d(Crop):
    """Crop of [N, C, H, W]."""

    rank = 4


class Crop3d(Crop):
    """Crop of [N, C, D, H, W]."""

    rank = 5


class Pad(Layer):
    """A border around the last axes.

    padding: one integer for both sides of every spatial axis, or pairs (before, after) flat and from the last axis
    backwards, as torch.nn.functional.pad takes them. mode: "constant" (of `value`), "reflect", "replicate", "circular".
    """

    def __init__(
        self, padding: int | Sequence[int], mode: str = "constant", value: float | int = 0.0, *, name: str | None = None
    ) -> None:
        super().__init__(name)
        modes = {"constant": "constant", **PADDING_MODES}
        self.mode = modes[choice(mode, modes, "Pad: mode")]
        if isinstance(padding, Sequence) and len(padding) % 2:
            raise ShapeError(f"Pad: {tuple(padding)} has an odd number of entries; give (before, after) per axis")
        self.padding = padding
        self.value = int(value) if isinstance(value, int | np.integer) else real(value, "Pad: value")

    def forward(self, x: Tensor) -> Tensor:
        flat = self.padding if isinstance(self.padding, Sequence) else (self.padding,) * (2 * max(x.rank - 2, 0))
        numbers = [integer(entry, "Pad: padding") for entry in flat]
        pairs = list(zip(numbers[::2], numbers[1::2], strict=True))[::-1]
        if len(pairs) > x.rank:
            raise ShapeError(f"Pad: {len(pairs)} pairs for {x.name!r}: {x.type}")
        pads = ((0, 0),) * (x.rank - len(pairs)) + tuple(pairs)
        return apply(ops.Pad(pads, self.mode, self.value), x, name=self.path(x.scope))


class ChannelShuffle(Layer):
    """Channels as a [groups, C / groups] table, read column by column."""

    def __init__(self, groups: int, *, name: str | None = None) -> None:
        super().__init__(name)
        self.groups = integer(groups, "ChannelShuffle: groups", low=1)

    def forward(self, x: Tensor) -> Tensor:
        if x.rank < 2 or x.shape[1] % self.groups:
            raise ShapeError(f"ChannelShuffle: the channels of {x.name!r}: {x.type} do not divide into {self.groups}")
        n, c, *rest = x.shape
        path = self.path(x.scope)
        y = reshape(x, (n, self.groups, c // self.groups, *rest), f"{path}.split")
        y = apply(ops.Transpose((0, 2, 1, *range(3, y.rank))), y, name=f"{path}.transpose")
        return reshape(y, x.shape, path)


class PixelShuffle(Layer):
    """[N, C r^2, H, W] becomes [N, C, H r, W r]."""

    def __init__(self, upscale_factor: int, *, name: str | None = None) -> None:
        super().__init__(name)
        self.factor = integer(upscale_factor, "PixelShuffle: upscale_factor", low=1)

    def forward(self, x: Tensor) -> Tensor:
        require_rank(x, 4, "PixelShuffle")
        r = self.factor
        if x.shape[1] % (r * r):
            raise ShapeError(f"PixelShuffle: {x.shape[1]} channels of {x.name!r} do not divide by {r}^2")
        return depth_to_space(x, r, parts(self.path(x.scope)), channels_first=True)


class PixelUnshuffle(Layer):
    """[N, C, H r, W r] becomes [N, C r^2, H, W]."""

    def __init__(self, downscale_factor: int, *, name: str | None = None) -> None:
        super().__init__(name)
        self.factor = integer(downscale_factor, "PixelUnshuffle: downscale_factor", low=1)

    def forward(self, x: Tensor) -> Tensor:
        require_rank(x, 4, "PixelUnshuffle")
        r = self.factor
        if x.shape[2] % r or x.shape[3] % r:
            raise ShapeError(f"PixelUnshuffle: the extents of {x.name!r}: {x.type} do not divide by {r}")
        return space_to_depth(x, r, parts(self.path(x.scope)), channels_first=True)


class Identity(Layer):
    """x itself."""

    def forward(self, x: Tensor) -> Tensor:
        return apply(ops.Identity(), x, name=self.path(x.scope))
