"""Every ONNX operator that can be imported, with its converter; those of other domains have them in their names."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from glulam.frontends.onnx import (
    convert_constant,
    convert_control,
    convert_conv,
    convert_deform,
    convert_fourier,
    convert_indexing,
    convert_matmul,
    convert_microsoft,
    convert_movement,
    convert_norm,
    convert_pointwise,
    convert_pool,
    convert_qlinear,
    convert_quantised,
    convert_recurrent,
    convert_reduce,
    convert_resize,
    convert_sequence,
    convert_softmax,
    convert_spatial,
    convert_various,
)
from glulam.frontends.onnx.context import Converter

CONVERTERS: Mapping[str, Converter] = MappingProxyType(
    {
        **convert_conv.TABLE,
        **convert_pool.TABLE,
        **convert_matmul.TABLE,
        **convert_norm.TABLE,
        **convert_softmax.TABLE,
        **convert_pointwise.TABLE,
        **convert_recurrent.TABLE,
        **convert_reduce.TABLE,
        **convert_movement.TABLE,
        **convert_microsoft.TABLE,
        **convert_sequence.TABLE,
        **convert_resize.TABLE,
        **convert_indexing.TABLE,
        **convert_spatial.TABLE,
        **convert_quantised.TABLE,
        **convert_qlinear.TABLE,
        **convert_deform.TABLE,
        **convert_fourier.TABLE,
        **convert_control.TABLE,
        **convert_various.TABLE,
        **convert_constant.TABLE,
    }
)
