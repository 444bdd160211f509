"""The zoo's networks for small inputs, which the reference computes within seconds."""

from __future__ import annotations

from glulam.frontends import zoo

OWN_SHAPES = {"r3d_18": (3, 4, 32, 32), "super_resolution": (1, 24, 24)}


def small_network(name, side, seed=0):
    """The network with 10 classes for an image of that side, unless it takes no image of three channels."""
    classes = {} if name == "super_resolution" else {"num_classes": 10}
    return zoo.NETWORKS[name](input_shape=OWN_SHAPES.get(name, (3, side, side)), seed=seed, **classes)
