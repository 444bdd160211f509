"""Frames of a volume as images and back. A pass puts these in around convolutions; no frontend does."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from glulam.compiler.graph.op import Op, Prefers, Trait
from glulam.compiler.graph.types import Array, DType, TensorType
from glulam.compiler.kernels import frames
from glulam.compiler.kernels.context import Context, Lowered
from glulam.compiler.ops.inputs import required


@dataclass(frozen=True)
class StackFrames(Op):
    """x[N,C,T,H,W] -> [N * images, frames * C, H, W]: an image has the channels of its frames one after the other.

    `images` names the frames of each image, the same number for all; -1 is a frame of zeros. If it is `blocked`, in
    channel blocks, C must fill them.
    """

    images: tuple[tuple[int, ...], ...]
    blocked: bool = True

    name = "stack_frames"

    def infer(self, *inputs: TensorType | None) -> tuple[TensorType, ...]:
        (x,) = required(self, inputs, 1)
        if x.rank != 5 or x.dtype is not DType.F32:
            raise self.fail(f"the input is {x}, not f32[N,C,T,H,W]")
        if len({len(image) for image in self.images}) != 1:
            raise self.fail(f"the images {self.images} have different numbers of frames")
        if any(not -1 <= frame < x.shape[2] for image in self.images for frame in image):
            raise self.fail(f"the images {self.images} name frames that {x} does not have")
        batch, channels, _, *extents = x.shape
        return (x.with_shape((batch * len(self.images), len(self.images[0]) * channels, *extents)),)

    def reference(self, *inputs: Array | None) -> tuple[Array, ...]:
        (x,) = required(self, inputs, 1)
        with_zeros = np.concatenate([x, np.zeros_like(x[:, :, :1])], axis=2)
        stacked = with_zeros[:, :, np.array(self.images)]  # [N, C, images, frames, H, W]
        moved = stacked.transpose(0, 2, 3, 1, 4, 5)
        batch, images, each, channels, *extents = moved.shape
        return (np.ascontiguousarray(moved).reshape(batch * images, each * channels, *extents),)

    def preference(self, inputs: Sequence[TensorType | None], outputs: Sequence[TensorType]) -> Prefers:
        return Prefers.BLOCKS if self.blocked else Prefers.PLAIN

    def lower(self, ctx: Context) -> Lowered:
        return frames.stack(ctx, self.images)


@dataclass(frozen=True)
class UnstackFrames(Op):
    """x[N * frames,C,H,W] -> [N,C,frames,H,W]: image after image is frame after frame."""

    frames: int

    name = "unstack_frames"
    traits = frozenset({Trait.ANCHOR})

    def infer(self, *inputs: TensorType | None) -> tuple[TensorType, ...]:
        (x,) = required(self, inputs, 1)
        if x.rank != 4 or x.dtype is not DType.F32 or x.shape[0] % self.frames:
            raise self.fail(f"the input is {x}, not f32[N * {self.frames},C,H,W]")
        return (x.with_shape((x.shape[0] // self.frames, x.shape[1], self.frames, *x.shape[2:])),)

    def reference(self, *inputs: Array | None) -> tuple[Array, ...]:
        (x,) = required(self, inputs, 1)
        split = x.reshape(x.shape[0] // self.frames, self.frames, *x.shape[1:])
        return (np.ascontiguousarray(split.swapaxes(1, 2)),)

    def preference(self, inputs: Sequence[TensorType | None], outputs: Sequence[TensorType]) -> Prefers:
        return Prefers.BLOCKS

    def reads_blocks(self, index: int) -> bool:
        return True

    def lower(self, ctx: Context) -> Lowered:
        return frames.unstack(ctx)
