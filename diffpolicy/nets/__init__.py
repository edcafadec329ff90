"""Networks, called as net(x, t, cond, r=None). They know nothing of paths, policies or tasks."""

from diffpolicy.nets.mlp import MLP
from diffpolicy.nets.unet1d import ConditionalUnet1D

__all__ = ["MLP", "ConditionalUnet1D"]
