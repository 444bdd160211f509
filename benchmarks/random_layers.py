"""Layers drawn at random, for `corners`: shapes that nobody chose, and so a fair sample of what may be slow.

A seed gives the same layers on every machine. Sizes are bounded, so that each takes between some microseconds and some
tens of milliseconds.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence

from glulam.benchmarks.corner_cases import Corner
from glulam.frontends import layers as nn
from glulam.frontends.layers import Module
from glulam.frontends.zoo.parts import ConvNorm

_FEW = (3, 8, 12, 16, 17, 20, 24, 32, 40, 48, 64, 80, 96, 112, 128)
_CHANNELS = (*_FEW, 160, 192, 240, 256, 320, 384, 480, 512, 640, 768, 1024, 1280)
_FEATURES = (10, 64, 100, 128, 200, 256, 384, 512, 768, 1000, 1024, 2048, 3072, 4096)
_ACTIVATIONS: tuple[Callable[[], Sequence[Module]], ...] = (
    list,
    lambda: [nn.ReLU()],
    lambda: [nn.SiLU()],
    lambda: [nn.GELU()],
    lambda: [nn.Hardswish()],
)
_ELEMENTS = 1e7  # at most, of a tensor
_WEIGHTS = 2e7

Named = tuple[str, Corner]
Drawn = Named | None
"""Nothing if the draw is too large, too small, or fits no layer."""


def random_corners(seed: int, count: int) -> dict[str, Corner]:
    """So many different layers by name. The first of a longer list with the same seed are the same."""
    rng = random.Random(seed)
    found: dict[str, Corner] = {}
    while len(found) < count:
        drawn = rng.choice(_KINDS)(rng)
        if drawn is not None:
            found.setdefault(*drawn)
    return found


def _extent(rng: random.Random, low: int, high: int) -> int:
    """Small ones as often as large ones, by their logarithm."""
    return round(low * (high / low) ** rng.random())


def _fits(flops: float, elements: float, weights: float = 0.0) -> bool:
    return 1e6 < flops < 1e9 and elements < _ELEMENTS and weights < _WEIGHTS


def _conv(rng: random.Random) -> Drawn:
    ins, outs, height = rng.choice(_CHANNELS), rng.choice(_CHANNELS), _extent(rng, 4, 160)
    width = rng.choice((height, height, _extent(rng, 4, 160)))
    rows = rng.choice((1, 1, 2, 3, 3, 3, 4, 5, 7, 9))
    columns = rng.choice((rows, rows, rows, rng.choice((1, 3, 5, 7))))
    stride, dilation = rng.choice((1, 1, 1, 2, 2, 3, 4)), rng.choice((1, 1, 1, 1, 2, 3))
    batch, activation = rng.choice((1, 1, 1, 1, 2, 4, 8)), rng.choice(_ACTIVATIONS)
    pads = (rows - 1) * dilation // 2, (columns - 1) * dilation // 2
    spans = (rows - 1) * dilation + 1, (columns - 1) * dilation + 1
    weights = ins * outs * rows * columns
    pixels = batch * height * width
    if height + 2 * pads[0] < spans[0] or width + 2 * pads[1] < spans[1]:
        return None
    if not _fits(2 * weights * pixels / stride**2, pixels * max(ins, outs), weights):
        return None
    what = f"{rows}x{columns} stride {stride} dilation {dilation}, {ins} to {outs} at {height}x{width}"
    return f"conv: {what}, {batch} samples", Corner(
        (ins, height, width),
        lambda: [nn.Conv2d(outs, (rows, columns), stride, pads, dilation), *activation()],
        batch=batch,
    )


def _grouped(rng: random.Random) -> Drawn:
    groups, ins = rng.choice((2, 3, 4, 8, 16, 32)), rng.choice((1, 2, 3, 4, 5, 6, 8, 10, 12, 16, 20, 24, 32, 48, 64))
    outs = rng.choice((ins, ins, ins, rng.choice((1, 2, 4, 8, 16, 24, 32))))
    size, kernel, stride = _extent(rng, 4, 160), rng.choice((1, 3, 3, 5)), rng.choice((1, 1, 2))
    batch, activation = rng.choice((1, 1, 1, 4)), rng.choice(_ACTIVATIONS)
    pixels = batch * size**2
    flops = 2 * groups * ins * outs * kernel**2 * pixels / stride**2
    if not _fits(flops, pixels * groups * max(ins, outs)):
        return None
    what = f"{kernel}x{kernel} stride {stride}, {groups} groups of {ins} to {outs} at {size}x{size}, {batch} samples"
    return f"grouped: {what}", Corner(
        (groups * ins, size, size),
        lambda: [nn.Conv2d(groups * outs, kernel, stride, kernel // 2, groups=groups), *activation()],
        batch=batch,
    )


def _depthwise(rng: random.Random) -> Drawn:
    channels, height = rng.choice(_CHANNELS), _extent(rng, 7, 160)
    width = rng.choice((height, height, _extent(rng, 7, 160)))
    kernel, stride = rng.choice((3, 3, 5, 7, 9, 11, 13)), rng.choice((1, 1, 2))
    batch, activation = rng.choice((1, 1, 1, 4)), rng.choice(_ACTIVATIONS)
    elements = batch * height * width * channels
    if not _fits(2 * kernel**2 * elements / stride**2, elements):
        return None
    what = f"{kernel}x{kernel} stride {stride}, {channels} at {height}x{width}, {batch} samples"
    return f"depthwise: {what}", Corner(
        (channels, height, width),
        lambda: [nn.Conv2d(channels, kernel, stride, kernel // 2, groups=channels), *activation()],
        batch=batch,
    )


def _separable(rng: random.Random) -> Drawn:
    ins, outs, size = rng.choice(_CHANNELS), rng.choice(_CHANNELS), _extent(rng, 7, 112)
    if not _fits(2 * ins * outs * size**2, size**2 * max(ins, outs)):
        return None
    return f"separable: 3x3 and 1x1, {ins} to {outs} at {size}x{size}", Corner(
        (ins, size, size), lambda: [ConvNorm(ins, 3, groups=ins), ConvNorm(outs, 1)]
    )


def _transposed(rng: random.Random) -> Drawn:
    ins, outs, size = rng.choice(_CHANNELS), rng.choice(_CHANNELS), _extent(rng, 4, 80)
    kernel, stride = rng.choice((2, 3, 4, 5, 6, 8)), rng.choice((1, 2, 2, 2, 3, 4))
    weights = ins * outs * kernel**2
    if kernel < stride or not _fits(2 * weights * size**2, size**2 * stride**2 * max(ins, outs), weights):
        return None
    return f"transposed: {kernel}x{kernel} stride {stride}, {ins} to {outs} at {size}x{size}", Corner(
        (ins, size, size), lambda: [nn.ConvTranspose2d(outs, kernel, stride, (kernel - stride) // 2)]
    )


def _conv1d(rng: random.Random) -> Drawn:
    ins, outs, size = rng.choice((1, 2, *_CHANNELS)), rng.choice(_CHANNELS), _extent(rng, 32, 16000)
    taps, stride = rng.choice((1, 3, 5, 7, 9, 11, 16, 25, 41, 80)), rng.choice((1, 1, 2, 4, 8))
    dilation = rng.choice((1, 1, 1, 2, 4, 8))
    reach = (taps - 1) * dilation
    if size + reach // 2 * 2 < reach + 1 or not _fits(2 * ins * outs * taps * size / stride, size * max(ins, outs)):
        return None
    return f"1-D: {taps} taps stride {stride} dilation {dilation}, {ins} to {outs} at {size}", Corner(
        (ins, size), lambda: [nn.Conv1d(outs, taps, stride, reach // 2, dilation), nn.ReLU()]
    )


def _conv3d(rng: random.Random) -> Drawn:
    ins, outs, depth = rng.choice((1, *_FEW)), rng.choice(_FEW), rng.choice((4, 5, 8, 16, 24))
    size, slices, kernel, stride = _extent(rng, 7, 64), rng.choice((1, 3)), rng.choice((1, 3, 5)), rng.choice((1, 1, 2))
    elements = depth * size**2
    if not _fits(2 * ins * outs * slices * kernel**2 * elements / stride**3, elements * max(ins, outs)):
        return None
    what = f"{slices}x{kernel}x{kernel} stride {stride}, {ins} to {outs} at {depth}x{size}x{size}"
    pads = slices // 2, kernel // 2, kernel // 2
    return f"3-D: {what}", Corner(
        (ins, depth, size, size), lambda: [nn.Conv3d(outs, (slices, kernel, kernel), stride, pads), nn.ReLU()]
    )


def _linear(rng: random.Random) -> Drawn:
    rows = rng.choice((1, 1, 2, 3, 5, 8, 16, 31, 49, 64, 77, 128, 196, 197, 256, 512))
    ins, outs, activation = rng.choice(_FEATURES), rng.choice(_FEATURES), rng.choice(_ACTIVATIONS)
    if not _fits(2 * rows * ins * outs, rows * max(ins, outs), ins * outs):
        return None
    return f"linear: {rows}x{ins} to {outs}", Corner((rows, ins), lambda: [nn.Linear(outs), *activation()])


def _attention(rng: random.Random) -> Drawn:
    heads, width = rng.choice((1, 2, 4, 6, 8, 12)), rng.choice((16, 32, 48, 64, 80, 128))
    tokens = rng.choice((16, 49, 64, 100, 128, 197, 256, 400, 577, 1024))
    return f"attention: {heads} heads of {width}, {tokens} tokens", Corner(
        (tokens, heads * width), lambda: [nn.MultiheadAttention(heads * width, heads, batch_first=True)]
    )


def _pool(rng: random.Random) -> Drawn:
    channels, kernel = rng.choice(_CHANNELS), rng.choice((2, 3, 5, 7))
    size, stride = _extent(rng, kernel, 112), rng.choice((1, 2, kernel))
    name, layer = rng.choice((("max", nn.MaxPool2d), ("average", nn.AvgPool2d)))
    if channels * size**2 > _ELEMENTS:
        return None
    return f"{name} pool: {kernel}x{kernel} stride {stride}, {channels} at {size}x{size}", Corner(
        (channels, size, size), lambda: [layer(kernel, stride, kernel // 2)]
    )


def _norm(rng: random.Random) -> Drawn:
    rows, columns = rng.choice((16, 49, 197, 256, 1024)), rng.choice((64, 96, 100, 192, 384, 768, 1000, 1024))
    name, layer = rng.choice(
        (("layer norm", nn.LayerNorm), ("RMS norm", nn.RMSNorm), ("softmax", lambda: nn.Softmax(-1)))
    )
    return f"{name}: {rows}x{columns}", Corner((rows, columns), lambda: [layer()])


def _group_norm(rng: random.Random) -> Drawn:
    channels, size, groups = rng.choice((32, 64, 96, 128, 256, 512)), _extent(rng, 7, 100), rng.choice((8, 16, 32))
    return f"group norm: {groups} groups, {channels} at {size}x{size}", Corner(
        (channels, size, size), lambda: [nn.GroupNorm(groups), nn.SiLU()]
    )


def _resize(rng: random.Random) -> Drawn:
    channels, size, factor = (
        rng.choice((1, 3, 16, 21, 64, 128, 256)),
        _extent(rng, 7, 112),
        rng.choice((0.5, 1.5, 2, 3)),
    )
    mode = rng.choice(("nearest", "bilinear", "bicubic"))
    if channels * (size * factor) ** 2 > _ELEMENTS:
        return None
    return f"resize: {mode} by {factor}, {channels} at {size}x{size}", Corner(
        (channels, size, size), lambda: [nn.Upsample(scale_factor=factor, mode=mode)]
    )


_OFTEN = (_conv,) * 8 + (_grouped, _depthwise, _linear) * 3
_KINDS: tuple[Callable[[random.Random], Drawn], ...] = (
    *_OFTEN,
    *(_separable, _transposed, _conv1d, _conv3d, _attention, _pool, _norm, _resize) * 2,
    _group_norm,
)
