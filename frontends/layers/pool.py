"""Pooling: windows, adaptive, global."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import ClassVar

from glulam.compiler import ops
from glulam.compiler.errors import ShapeError
from glulam.frontends.compositions import lp_pool
from glulam.frontends.layers.arguments import Extents, extents, flag, integer, padding_argument, real, resolve_padding
from glulam.frontends.layers.module import Layer
from glulam.frontends.layers.tensor import Tensor, apply, apply_all, literal, parts, require_rank, slice_axis

Padding = Extents | str | tuple[tuple[int, int], ...]


class _MaxPool(Layer):
    """The largest element of each window of [N, C, *spatial]; padding counts as -inf. stride defaults to kernel_size.

    padding takes every form that a convolution's does, up to half the kernel; where it differs before and after, up to
    all of it but one. With ceil_mode the last window may reach over the end.
    With return_indices the result is (values, indices): int64, counting the elements of the channel's own plane, row by
    row, as PyTorch's and as MaxUnpool takes them. (ONNX counts those of the whole tensor; import and export translate.)
    """

    spatial: ClassVar[int]

    def __init__(
        self,
        kernel_size: Extents,
        stride: Extents | None = None,
        padding: Padding = 0,
        dilation: Extents = 1,
        return_indices: bool = False,
        ceil_mode: bool = False,
        *,
        name: str | None = None,
    ) -> None:
        super().__init__(name)
        label = type(self).__name__
        self.kernel_size = extents(kernel_size, self.spatial, f"{label}: kernel_size")
        self.stride = self.kernel_size if stride is None else extents(stride, self.spatial, f"{label}: stride")
        self.padding = padding_argument(padding, self.spatial, f"{label}: padding")
        self.dilation = extents(dilation, self.spatial, f"{label}: dilation")
        self.return_indices = flag(return_indices, f"{label}: return_indices")
        self.ceil_mode = flag(ceil_mode, f"{label}: ceil_mode")
        self._check_padding()

    def _check_padding(self) -> None:
        """Raises ShapeError by PyTorch's rule; for unlike paddings, which it has not, if one takes a whole window."""
        pads = () if isinstance(self.padding, str) else self.padding
        for (before, after), kernel, dilation in zip(pads, self.kernel_size, self.dilation, strict=False):
            reach = (kernel - 1) * dilation + 1
            most = reach // 2 if before == after else reach - 1
            if max(before, after) > most:
                raise ShapeError(
                    f"{type(self).__name__}: padding is {before} before and {after} after, for a kernel that reaches "
                    f"over {reach}; it must be at most {most}, or windows would have no element of the input"
                )

    def forward(self, x: Tensor) -> Tensor | tuple[Tensor, ...]:
        require_rank(x, self.spatial + 2, type(self).__name__)
        pads = resolve_padding(self.padding, x.shape[2:], self.kernel_size, self.stride, self.dilation)
        window = (self.kernel_size, self.stride, pads, self.dilation, self.ceil_mode)
        if self.return_indices:
            return apply_all(ops.MaxPoolIndices(*window), x, name=self.path(x.scope))
        return apply(ops.MaxPool(*window), x, name=self.path(x.scope))


class MaxPool1d(_MaxPool):
    __doc__ = _MaxPool.__doc__
    spatial = 1


class MaxPool2d(_MaxPool):
    __doc__ = _MaxPool.__doc__
    spatial = 2


class MaxPool3d(_MaxPool):
    __doc__ = _MaxPool.__doc__
    spatial = 3


class _MaxUnpool(Layer):
    """Called on (values, indices) of a MaxPool with return_indices: zeros, with each value where it came from.

    The extents are (n - 1) stride - 2 padding + kernel_size, or `output_size`, the spatial extents that the pool read:
    give it where the pool's windows did not cover them exactly. stride defaults to kernel_size.
    """

    spatial: ClassVar[int]

    def __init__(
        self,
        kernel_size: Extents,
        stride: Extents | None = None,
        padding: Extents = 0,
        *,
        output_size: Extents | None = None,
        name: str | None = None,
    ) -> None:
        super().__init__(name)
        label = type(self).__name__
        self.kernel_size = extents(kernel_size, self.spatial, f"{label}: kernel_size")
        self.stride = self.kernel_size if stride is None else extents(stride, self.spatial, f"{label}: stride")
        self.padding = extents(padding, self.spatial, f"{label}: padding", low=0)
        self.output_size = None if output_size is None else extents(output_size, self.spatial, f"{label}: output_size")

    def forward(self, x: Tensor, indices: Tensor) -> Tensor:
        require_rank(x, self.spatial + 2, type(self).__name__)
        sizes = self.output_size or tuple(
            (n - 1) * stride - 2 * pad + kernel
            for n, stride, pad, kernel in zip(x.shape[2:], self.stride, self.padding, self.kernel_size, strict=True)
        )
        return apply(ops.MaxUnpool(sizes), x, indices, name=self.path(x.scope))


class MaxUnpool1d(_MaxUnpool):
    __doc__ = _MaxUnpool.__doc__
    spatial = 1


class MaxUnpool2d(_MaxUnpool):
    __doc__ = _MaxUnpool.__doc__
    spatial = 2


class MaxUnpool3d(_MaxUnpool):
    __doc__ = _MaxUnpool.__doc__
    spatial = 3


class _AvgPool(Layer):
    """The mean of each window of [N, C, *spatial]; stride defaults to kernel_size.

    count_include_pad: whether the divisor counts the padding. padding takes every form that a convolution's does.
    """

    spatial: ClassVar[int]

    def __init__(
        self,
        kernel_size: Extents,
        stride: Extents | None = None,
        padding: Padding = 0,
        ceil_mode: bool = False,
        count_include_pad: bool = True,
        *,
        name: str | None = None,
    ) -> None:
        super().__init__(name)
        label = type(self).__name__
        self.kernel_size = extents(kernel_size, self.spatial, f"{label}: kernel_size")
        self.stride = self.kernel_size if stride is None else extents(stride, self.spatial, f"{label}: stride")
        self.padding = padding_argument(padding, self.spatial, f"{label}: padding")
        self.ceil_mode = flag(ceil_mode, f"{label}: ceil_mode")
        self.count_include_pad = flag(count_include_pad, f"{label}: count_include_pad")

    def forward(self, x: Tensor) -> Tensor:
        require_rank(x, self.spatial + 2, type(self).__name__)
        ones = (1,) * self.spatial
        pads = resolve_padding(self.padding, x.shape[2:], self.kernel_size, self.stride, ones)
        op = ops.AveragePool(self.kernel_size, self.stride, pads, ones, self.ceil_mode, self.count_include_pad)
        return apply(op, x, name=self.path(x.scope))


class AvgPool1d(_AvgPool):
    __doc__ = _AvgPool.__doc__
    spatial = 1


class AvgPool2d(_AvgPool):
    __doc__ = _AvgPool.__doc__
    spatial = 2


class AvgPool3d(_AvgPool):
    __doc__ = _AvgPool.__doc__
    spatial = 3


class _LPPool(Layer):
    """(sum |x|^p)^(1/p) over each window of [N, C, *spatial]; stride defaults to kernel_size.

    norm_type: p, above 0.
    """

    spatial: ClassVar[int]

    def __init__(
        self,
        norm_type: float,
        kernel_size: Extents,
        stride: Extents | None = None,
        ceil_mode: bool = False,
        *,
        name: str | None = None,
    ) -> None:
        super().__init__(name)
        label = type(self).__name__
        self.norm_type = real(norm_type, f"{label}: norm_type")
        if not self.norm_type > 0:
            raise ShapeError(f"{label}: norm_type is {norm_type!r}; it must be above 0")
        self.kernel_size = extents(kernel_size, self.spatial, f"{label}: kernel_size")
        self.stride = self.kernel_size if stride is None else extents(stride, self.spatial, f"{label}: stride")
        self.ceil_mode = flag(ceil_mode, f"{label}: ceil_mode")

    def forward(self, x: Tensor) -> Tensor:
        require_rank(x, self.spatial + 2, type(self).__name__)
        ones, pads = (1,) * self.spatial, ((0, 0),) * self.spatial
        op = ops.AveragePool(self.kernel_size, self.stride, pads, ones, self.ceil_mode, True)
        numbers = (self.norm_type, math.prod(self.kernel_size), 1 / self.norm_type)
        power, count, root = (literal(float(number), x) for number in numbers)
        return lp_pool(x, op, power, count, root, parts(self.path(x.scope)))


class LPPool1d(_LPPool):
    __doc__ = _LPPool.__doc__
    spatial = 1


class LPPool2d(_LPPool):
    __doc__ = _LPPool.__doc__
    spatial = 2


class LPPool3d(_LPPool):
    __doc__ = _LPPool.__doc__
    spatial = 3


class _AdaptivePool(Layer):
    """Pooling of [N, C, *spatial] to a given size; None keeps an axis.

    Output i of an axis covers elements floor(i in / out) up to ceil((i + 1) in / out). One output per axis becomes a
    reduction, an even division a plain pooling; other axes are cut into their windows, axis by axis.
    """

    spatial: ClassVar[int]
    kind: ClassVar[str]

    def __init__(self, output_size: int | Sequence[int | None] | None, *, name: str | None = None) -> None:
        super().__init__(name)
        label = f"{type(self).__name__}: output_size"
        sizes = output_size if isinstance(output_size, Sequence) else (output_size,) * self.spatial
        if len(sizes) != self.spatial:
            raise ShapeError(f"{label} is {tuple(sizes)}; give one integer, or {self.spatial}, one per spatial axis")
        self.output_size = tuple(None if size is None else integer(size, label, low=1) for size in sizes)

    def forward(self, x: Tensor) -> Tensor:
        require_rank(x, self.spatial + 2, type(self).__name__)
        path = self.path(x.scope)
        sizes = tuple(have if want is None else want for have, want in zip(x.shape[2:], self.output_size, strict=True))
        if all(size == 1 for size in sizes):
            return apply(ops.Reduce(self.kind, tuple(range(2, x.rank)), True), x, name=path)
        if 0 in x.shape[2:]:
            raise ShapeError(f"{type(self).__name__} {path!r}: there is nothing to pool in {x.name!r}: {x.type}")
        kernel = tuple(have // want if have % want == 0 else 1 for have, want in zip(x.shape[2:], sizes, strict=True))
        if any(extent > 1 for extent in kernel) or sizes == x.shape[2:]:
            x = apply(self._window(kernel), x, name=path)
        for axis, (have, want) in enumerate(zip(x.shape[2:], sizes, strict=True), start=2):
            if have != want:
                x = self._cut(x, axis, want, path)
        return x

    def _window(self, kernel: tuple[int, ...]) -> ops.MaxPool | ops.AveragePool:
        ones, pads = (1,) * self.spatial, ((0, 0),) * self.spatial
        if self.kind == "max":
            return ops.MaxPool(kernel, kernel, pads, ones, False)
        return ops.AveragePool(kernel, kernel, pads, ones, False, True)

    def _cut(self, x: Tensor, axis: int, want: int, path: str) -> Tensor:
        have = x.shape[axis]
        pieces = []
        for i in range(want):
            start, stop = i * have // want, -(-(i + 1) * have // want)
            part = slice_axis(x, axis, start, stop - start, f"{path}.window")
            pieces.append(apply(ops.Reduce(self.kind, (axis,), True), part, name=f"{path}.{self.kind}"))
        return apply(ops.Concat(axis), *pieces, name=path)


class AdaptiveAvgPool1d(_AdaptivePool):
    __doc__ = _AdaptivePool.__doc__
    spatial, kind = 1, "mean"


class AdaptiveAvgPool2d(_AdaptivePool):
    __doc__ = _AdaptivePool.__doc__
    spatial, kind = 2, "mean"


class AdaptiveAvgPool3d(_AdaptivePool):
    __doc__ = _AdaptivePool.__doc__
    spatial, kind = 3, "mean"


class AdaptiveMaxPool1d(_AdaptivePool):
    __doc__ = _AdaptivePool.__doc__
    spatial, kind = 1, "max"


class AdaptiveMaxPool2d(_AdaptivePool):
    __doc__ = _AdaptivePool.__doc__
    spatial, kind = 2, "max"


class AdaptiveMaxPool3d(_AdaptivePool):
    __doc__ = _AdaptivePool.__doc__
    spatial, kind = 3, "max"


class _GlobalPool(Layer):
    kind: ClassVar[str]

    def __init__(self, keepdim: bool = True, *, name: str | None = None) -> None:
        super().__init__(name)
        self.keepdim = flag(keepdim, f"{type(self).__name__}: keepdim")

    def forward(self, x: Tensor) -> Tensor:
        if x.rank < 3:
            raise ShapeError(f"{type(self).__name__} takes [N, C, *spatial], but {x.name!r} is {x.type}")
        return apply(ops.Reduce(self.kind, tuple(range(2, x.rank)), self.keepdim), x, name=self.path(x.scope))


class GlobalAvgPool(_GlobalPool):
    """The mean over all spatial axes of [N, C, *spatial], which stay with extent 1 unless keepdim is False."""

    kind = "mean"


class GlobalMaxPool(_GlobalPool):
    """The maximum over all spatial axes of [N, C, *spatial], which stay with extent 1 unless keepdim is False."""

    kind = "max"
