"""Well-known networks, written with the Python layers: torchvision's topology and parameter names, seeded weights.

Each is a function `network(num_classes, input_shape, batch, seed) -> Graph` (`super_resolution` has a factor instead of
classes); `NETWORKS` lists them all by name.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType

from glulam.compiler.graph.graph import Graph
from glulam.frontends.zoo.alexnet import alexnet
from glulam.frontends.zoo.convnext import convnext_tiny
from glulam.frontends.zoo.densenet import densenet121
from glulam.frontends.zoo.efficientnet import efficientnet_b0
from glulam.frontends.zoo.googlenet import googlenet
from glulam.frontends.zoo.inception import inception_v3
from glulam.frontends.zoo.mnasnet import mnasnet1_0
from glulam.frontends.zoo.mobilenet_v2 import mobilenet_v2
from glulam.frontends.zoo.mobilenet_v3 import mobilenet_v3_large
from glulam.frontends.zoo.regnet import regnet_y_800mf
from glulam.frontends.zoo.resnet import resnet18, resnet50, resnext50_32x4d
from glulam.frontends.zoo.segmentation import fcn_resnet50, lraspp_mobilenet_v3_large
from glulam.frontends.zoo.shufflenet import shufflenet_v2_x1_0
from glulam.frontends.zoo.squeezenet import squeezenet1_1
from glulam.frontends.zoo.super_resolution import super_resolution
from glulam.frontends.zoo.unet import unet
from glulam.frontends.zoo.vgg import vgg16
from glulam.frontends.zoo.video_resnet import r3d_18
from glulam.frontends.zoo.vision_transformer import vit_b_16

NETWORKS: Mapping[str, Callable[..., Graph]] = MappingProxyType(
    {
        "resnet18": resnet18,
        "resnet50": resnet50,
        "vgg16": vgg16,
        "mobilenet_v2": mobilenet_v2,
        "mobilenet_v3_large": mobilenet_v3_large,
        "squeezenet1_1": squeezenet1_1,
        "densenet121": densenet121,
        "googlenet": googlenet,
        "inception_v3": inception_v3,
        "efficientnet_b0": efficientnet_b0,
        "shufflenet_v2_x1_0": shufflenet_v2_x1_0,
        "unet": unet,
        "resnext50_32x4d": resnext50_32x4d,
        "regnet_y_800mf": regnet_y_800mf,
        "mnasnet1_0": mnasnet1_0,
        "alexnet": alexnet,
        "convnext_tiny": convnext_tiny,
        "vit_b_16": vit_b_16,
        "r3d_18": r3d_18,
        "fcn_resnet50": fcn_resnet50,
        "lraspp_mobilenet_v3_large": lraspp_mobilenet_v3_large,
        "super_resolution": super_resolution,
    }
)

__all__ = ["NETWORKS", *NETWORKS]
