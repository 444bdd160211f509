"""Vision transformer (Dosovitskiy et al. 2021)."""

from __future__ import annotations

from collections.abc import Sequence

from glulam.compiler import ops
from glulam.compiler.graph.graph import Graph
from glulam.frontends.layers import (
    GELU,
    Block,
    Conv2d,
    Dropout,
    Flatten,
    Input,
    LayerNorm,
    Linear,
    MultiheadAttention,
    Permute,
    Sequential,
    Tensor,
)
from glulam.frontends.layers.initial import uniform
from glulam.frontends.layers.tensor import apply
from glulam.frontends.zoo.parts import LINEAR_GAIN

EPS = 1e-6


class EncoderBlock(Block):
    """x + attention(norm(x)), then y + mlp(norm(y))."""

    def __init__(self, features: int, heads: int, hidden: int) -> None:
        super().__init__()
        self.ln_1 = LayerNorm(eps=EPS)
        self.self_attention = MultiheadAttention(features, heads, batch_first=True)
        self.ln_2 = LayerNorm(eps=EPS)
        self.mlp = Sequential(
            [Linear(hidden, init_gain=LINEAR_GAIN), GELU(), Dropout(0.0), Linear(features), Dropout(0.0)]
        )

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.self_attention(self.ln_1(x))
        return x + self.mlp(self.ln_2(x))


class Encoder(Block):
    def __init__(self, features: int, heads: int, hidden: int, depth: int) -> None:
        super().__init__()
        self.layers = Sequential({f"encoder_layer_{i}": EncoderBlock(features, heads, hidden) for i in range(depth)})
        self.ln = LayerNorm(eps=EPS)

    def forward(self, x: Tensor) -> Tensor:
        position = self.parameter("pos_embedding", (1, *x.shape[1:]), None, uniform(-0.5, 0.5), x)
        return self.ln(self.layers(apply(ops.Add(), x, position, name="encoder.positioned")))


class VisionTransformer(Block):
    """The image in patches is a row of tokens behind a learned one, which the head reads at the end."""

    def __init__(self, patch: int, features: int, heads: int, hidden: int, depth: int, num_classes: int) -> None:
        super().__init__()
        self.conv_proj = Conv2d(features, patch, patch, init_gain=LINEAR_GAIN)
        self.flatten = Flatten(2)
        self.permute = Permute(0, 2, 1)
        self.encoder = Encoder(features, heads, hidden, depth)
        self.heads = Sequential({"head": Linear(num_classes, init_gain=LINEAR_GAIN)})

    def forward(self, x: Tensor) -> Tensor:
        tokens = self.permute(self.flatten(self.conv_proj(x)))
        batch, _, features = tokens.shape
        first = self.parameter("class_token", (1, 1, features), None, uniform(-0.5, 0.5), x)
        firsts = apply(ops.Expand((batch, 1, features)), first, name="class_tokens", scope=x.scope)
        encoded = self.encoder(apply(ops.Concat(1), firsts, tokens, name="tokens"))
        return self.heads(encoded[:, 0])


def vit_b_16(
    num_classes: int = 1000, input_shape: Sequence[int] = (3, 224, 224), batch: int = 1, seed: int = 0
) -> Graph:
    """ViT-B/16: 86,567,656 parameters for 1000 classes."""
    net = VisionTransformer(16, 768, 12, 3072, 12, num_classes)
    return net.graph(Input(input_shape, batch=batch, seed=seed), name="vit_b_16")
