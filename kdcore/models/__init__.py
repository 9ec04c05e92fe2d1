"""Small reference networks that timm does not have; layer names are chosen to be tapped."""

from .cifar_resnet import CifarResNet, resnet20, resnet32, resnet44, resnet56
from .cnn import ConvNet
from .mlp import MLP
from .vit import SmallViT

__all__ = ["MLP", "CifarResNet", "ConvNet", "SmallViT", "resnet20", "resnet32", "resnet44", "resnet56"]
