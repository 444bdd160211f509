"""A custom layer of the first kind: a block composed of layers, named once and used as often as wanted.

python examples/custom_block.py
"""

from __future__ import annotations

import numpy as np

import glulam as gl
from glulam import layers


class Residual(layers.Block):
    """Two convolutions beside a shortcut. Parts get the names of their attributes, as state dicts have them."""

    def __init__(self, channels: int, name: str | None = None) -> None:
        super().__init__(name)
        self.conv1 = layers.Conv2d(channels, 3, padding=1, bias=False)
        self.norm1 = layers.BatchNorm2d()
        self.conv2 = layers.Conv2d(channels, 3, padding=1, bias=False)
        self.norm2 = layers.BatchNorm2d()
        self.relu = layers.ReLU()

    def forward(self, x: layers.Tensor) -> layers.Tensor:
        y = self.relu(self.norm1(self.conv1(x)))
        return self.relu(self.norm2(self.conv2(y)) + x)


def main() -> None:
    net = layers.Sequential(
        [
            layers.Input((3, 32, 32)),
            layers.Conv2d(16, 3, padding=1),
            Residual(16),
            Residual(16, name="last"),
            layers.GlobalAvgPool(),
            layers.Flatten(),
            layers.Linear(10),
        ]
    )
    print("parameters:", ", ".join(net.state_dict()))

    x = np.random.default_rng(0).standard_normal((1, 3, 32, 32)).astype(np.float32)
    with gl.compile(net) as model:
        difference = np.abs(model(x) - gl.reference(net, {"input": x})["output"]).max()
        steps = [step.label for step in model.manifest.steps]
    print("kernels:", *steps, sep="\n  ")
    print(f"largest difference to numpy: {difference:.1e}")
    assert difference < 1e-4


if __name__ == "__main__":
    main()
