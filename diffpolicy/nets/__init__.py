"""Networks, called as net(x, t, cond, r=None), and encoders of conditions. They know nothing of paths, policies or
tasks."""

from diffpolicy.nets.mlp import MLP
from diffpolicy.nets.resnet import ResNetEncoder
from diffpolicy.nets.unet1d import ConditionalUnet1D
from diffpolicy.nets.vision import ImageEncoder

__all__ = ["MLP", "ConditionalUnet1D", "ImageEncoder", "ResNetEncoder"]
