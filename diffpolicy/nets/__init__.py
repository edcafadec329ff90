"""Networks, called as net(x, t, cond, r=None), encoders of conditions, and baselines' networks, called as net(cond).
They know nothing of paths, policies or tasks."""

from diffpolicy.nets.base import Freezable, Fusable, Model, Network
from diffpolicy.nets.mlp import MLP
from diffpolicy.nets.resnet import ResNetEncoder
from diffpolicy.nets.transformer import ConditionalTransformer
from diffpolicy.nets.unet1d import ConditionalUnet1D
from diffpolicy.nets.vision import ImageEncoder

__all__ = [
    "MLP",
    "ConditionalTransformer",
    "ConditionalUnet1D",
    "Freezable",
    "Fusable",
    "ImageEncoder",
    "Model",
    "Network",
    "ResNetEncoder",
]
