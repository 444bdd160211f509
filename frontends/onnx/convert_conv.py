"""ONNX convolutions."""

from __future__ import annotations

from glulam.compiler.graph.graph import Value
from glulam.compiler.ops.conv import Conv, ConvTranspose
from glulam.frontends.onnx.context import Context, Converter
from glulam.frontends.onnx.windows import Window, read_window
from glulam.frontends.padding import halves


def _kernel(ctx: Context, x: Value, w: Value) -> tuple[int, ...]:
    if len(x.shape) < 3 or len(w.shape) != len(x.shape):
        raise ctx.malformed(f"input {x.type} and weights {w.type} do not make a convolution")
    kernel = w.shape[2:]
    stated = ctx.integers("kernel_shape")
    if stated and stated != kernel:
        raise ctx.malformed(f"kernel_shape {stated} but weights of shape {w.shape}")
    return kernel


def window_of(ctx: Context, x: Value, w: Value) -> Window:
    """Strides, padding and dilations of a convolution of x with weights w."""
    return read_window(ctx, x.shape[2:], _kernel(ctx, x, w))


def conv(ctx: Context) -> Value:
    x, w = ctx[0], ctx[1]
    window = window_of(ctx, x, w)
    op = Conv(window.strides, window.pads, window.dilations, ctx.integer("group", 1))
    return ctx.apply(op, x, w, ctx.optional(2))


def conv_transpose(ctx: Context) -> Value:
    """Of an odd total of padding, SAME_UPPER puts the larger half behind, everything else in front (the ONNX text).

    Negative pads at the end, as TensorFlow's exporter writes them, append to the result.
    """
    x, w = ctx[0], ctx[1]
    kernel = _kernel(ctx, x, w)
    rank = len(kernel)
    output_padding = list(ctx.integers("output_padding") or (0,) * rank)
    output_shape = ctx.integers("output_shape")
    window = read_window(ctx, x.shape[2:], kernel, auto=False)
    if len(output_padding) != rank or (output_shape and len(output_shape) < rank):
        raise ctx.malformed(f"output_padding and output_shape need {rank} entries")
    if not output_shape and window.rule.startswith("SAME"):
        output_shape = tuple(n * s for n, s in zip(x.shape[2:], window.strides, strict=True))
    pads = window.pads if window.rule == "NOTSET" else ((0, 0),) * rank
    if min((before for before, _ in pads), default=0) < 0:
        raise ctx.unsupported(
            f"pads {pads} that are negative at the beginning; a Pad behind the operator does the same"
        )
    output_padding = [more - min(after, 0) for more, (_, after) in zip(output_padding, pads, strict=True)]
    pads = tuple((before, max(after, 0)) for before, after in pads)
    if output_shape:
        full = window.transposed_extents(x.shape[2:])
        found = []
        for i, wanted in enumerate(output_shape[-rank:]):
            total = full[i] + output_padding[i] - wanted
            if total < 0:
                output_padding[i] -= total
            found.append(halves(max(total, 0), behind=window.rule == "SAME_UPPER"))
        pads = tuple(found)
    op = ConvTranspose(window.strides, pads, window.dilations, tuple(output_padding), ctx.integer("group", 1))
    return ctx.apply(op, x, w, ctx.optional(2))


TABLE: dict[str, Converter] = {"Conv": conv, "ConvTranspose": conv_transpose}
