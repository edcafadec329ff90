"""The blocks of a diffusion transformer (Peebles and Xie 2023), over action steps and over patches of an image.

Time and condition reach every block by adaptive layer norm that starts at zero (AdaLN-zero): a block starts as the
identity.
"""

from __future__ import annotations

import math
from typing import TypeVar

import torch
from torch import Tensor, nn

Layer = TypeVar("Layer", nn.Linear, nn.Conv2d)


class SelfAttention(nn.Module):
    """softmax(QKᵀ/√d)·V over all steps, in every head (Vaswani et al. 2017, equation 1): (B, T, W) -> (B, T, W)."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.qkv(x).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        # Written out: torch's fused attention has no forward-mode derivative, and over the few steps of a chunk it is
        # hardly faster in float32 and several times slower in bfloat16 on a CPU.
        weights = (q @ k.transpose(-2, -1) / math.sqrt(q.shape[-1])).softmax(-1)
        return self.out((weights @ v).transpose(1, 2).flatten(2))


class Block(nn.Module):
    """Self-attention, then a perceptron for every step, each as x -> x + gate·f((1 + scale)·norm(x) + shift).

    (B, T, W), features of time and condition, (B, 1, F) or (B, T, F) -> (B, T, W). Gates, scales and shifts start at
    0.
    """

    def __init__(self, width: int, heads: int, expansion: int, features: int, dropout: float) -> None:
        super().__init__()
        self.norm = layer_norm(width)
        self.film = zero(nn.Linear(features, 6 * width))
        self.attention = SelfAttention(width, heads)
        self.mlp = nn.Sequential(
            nn.Linear(width, expansion * width), nn.GELU(approximate="tanh"), nn.Linear(expansion * width, width)
        )
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor, features: Tensor) -> Tensor:
        scale, shift, gate, *mlp = self.film(features).chunk(6, dim=-1)
        x = torch.addcmul(x, gate, self.dropout(self.attention(modulated(self.norm(x), scale, shift))))
        scale, shift, gate = mlp
        return torch.addcmul(x, gate, self.dropout(self.mlp(modulated(self.norm(x), scale, shift))))


def layer_norm(width: int) -> nn.LayerNorm:
    """Return a norm without scale and shift, which come from the features."""
    return nn.LayerNorm(width, eps=1e-6, elementwise_affine=False)


def modulated(x: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
    """Return (1 + scale)·x + shift."""
    return torch.addcmul(shift, x, 1 + scale)


def embedder(first: nn.Module, size: int, features: int) -> nn.Sequential:
    """Return `first`, of `size` numbers, with a perceptron on top: `features` numbers."""
    return nn.Sequential(first, nn.Linear(size, features), nn.SiLU(), nn.Linear(features, features))


def zero(layer: Layer) -> Layer:
    """Return `layer`, linear or a convolution, with weights and bias 0."""
    nn.init.zeros_(layer.weight)
    nn.init.zeros_(layer.bias)
    return layer
