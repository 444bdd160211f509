"""Attributes of windowed ops for graphs written as text."""

from __future__ import annotations

CONV3 = "{strides=(1, 1), pads=((1, 1), (1, 1)), dilations=(1, 1), groups=1}"
CONV1 = "{strides=(1, 1), pads=((0, 0), (0, 0)), dilations=(1, 1), groups=1}"
POOL2 = "{kernel=(2, 2), strides=(2, 2), pads=((0, 0), (0, 0)), dilations=(1, 1), ceil_mode=False}"
POOL3 = "{kernel=(3, 3), strides=(1, 1), pads=((1, 1), (1, 1)), dilations=(1, 1), ceil_mode=False}"
IMAGE = "input %x: f32[1,16,6,6]\nconst %w: f32[16,16,3,3] = random\nconst %u: f32[16,16,1,1] = random\n"
