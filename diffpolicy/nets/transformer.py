"""A transformer over action steps: the diffusion transformer (DiT) of Peebles and Xie 2023 with one token per step.

Dasari et al. 2024 use it so for actions (DiT-Policy). Time and condition reach every block by adaptive layer norm
that starts at zero (AdaLN-zero): a block starts as the identity and the network's output at 0.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from diffpolicy.nets.base import Network
from diffpolicy.nets.embeddings import time_embedding
from diffpolicy.nets.inputs import check_trajectory, check_vector, null_vector
from diffpolicy.util.condition import Condition
from diffpolicy.util.errors import explain, require


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
        self.norm = _norm(width)
        self.film = _zero(nn.Linear(features, 6 * width))
        self.attention = SelfAttention(width, heads)
        self.mlp = nn.Sequential(
            nn.Linear(width, expansion * width), nn.GELU(approximate="tanh"), nn.Linear(expansion * width, width)
        )
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor, features: Tensor) -> Tensor:
        scale, shift, gate, *mlp = self.film(features).chunk(6, dim=-1)
        x = torch.addcmul(x, gate, self.dropout(self.attention(_modulated(self.norm(x), scale, shift))))
        scale, shift, gate = mlp
        return torch.addcmul(x, gate, self.dropout(self.mlp(_modulated(self.norm(x), scale, shift))))


class ConditionalTransformer(Network):
    """Transformer over the steps of a trajectory, conditioned on (time, condition) by AdaLN-zero.

    Args:
        dim: D, numbers per time step of the trajectory.
        cond_dim: C, numbers of the condition; 0 for none.
        horizon: the largest number of steps T; every step has its learned position.
        two_times: add features of r - t to those of t (r = None is r = t), for methods with two times.
        width: W, numbers per token.
        layers: number of blocks.
        heads: heads of their attention; divides the width.
        expansion: hidden units of the blocks' perceptrons, in widths.
        features: F, size of the features of time and condition that all blocks are given, at a cost per trajectory
            and not per step.
        time_features: size of the time embedding, even.
        time: "sinusoidal" or "fourier" (learned frequencies).
        dropout: fraction of each branch's outputs that training drops, drawn by torch's global generator.

    Raises:
        ValueError: sizes that do not fit together, at construction or at the call.
    """

    per_step = True

    def __init__(
        self,
        dim: int,
        cond_dim: int = 0,
        horizon: int = 16,
        two_times: bool = False,
        *,
        width: int = 256,
        layers: int = 3,
        heads: int = 4,
        expansion: int = 2,
        features: int = 512,
        time_features: int = 128,
        time: str = "sinusoidal",
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        sizes = {"dim": dim, "horizon": horizon, "width": width, "layers": layers, "heads": heads}
        sizes |= {"expansion": expansion, "features": features}
        given = f"sizes {sizes | {'cond_dim': cond_dim}}"
        require(min(sizes.values()) >= 1 and cond_dim >= 0, given, "positive sizes and cond_dim >= 0")
        require(width % heads == 0, f"width={width} with heads={heads}", "a width that the heads divide")
        require(0 <= dropout < 1, f"dropout={dropout}", "a fraction in [0, 1)")
        self.dim, self.cond_dim, self.horizon = dim, cond_dim, horizon
        self.token = nn.Linear(dim, width)
        self.position = nn.Parameter(0.02 * torch.randn(horizon, width))
        self.time = _embedder(time_embedding(time, time_features), time_features, features)
        self.span = _embedder(time_embedding(time, time_features), time_features, features) if two_times else None
        self.cond = _embedder(nn.Identity(), cond_dim, features) if cond_dim else None
        self.null_cond = nn.Parameter(torch.zeros(cond_dim)) if cond_dim else None
        self.blocks = nn.ModuleList(Block(width, heads, expansion, features, dropout) for _ in range(layers))
        self.norm = _norm(width)
        self.film = _zero(nn.Linear(features, 2 * width))
        self.out = _zero(nn.Linear(width, dim))

    def forward(self, x: Tensor, t: Tensor, cond: Condition | None = None, r: Tensor | None = None) -> Tensor:
        """(B, T, D), (B,) or (B, T), a vector (B, C), as t -> (B, T, D)."""
        check_trajectory(x, t, r, self.dim)
        if x.shape[1] > self.horizon:
            raise ValueError(explain(f"x has {x.shape[1]} steps", f"at most the horizon, {self.horizon}"))
        vector = check_vector(cond, x.shape[0], self.cond_dim)
        features, dtype = self.time(t), self.token.weight.dtype
        if self.span is not None:
            features = features + self.span(torch.zeros_like(t) if r is None else r - t)
        features = features if t.ndim == 2 else features[:, None]
        if vector is not None:
            features = features + self.cond(vector.to(dtype))[:, None]
        features = F.silu(features)
        h = self.token(x.to(dtype)) + self.position[: x.shape[1]]
        for block in self.blocks:
            h = block(h, features)
        scale, shift = self.film(features).chunk(2, dim=-1)
        return self.out(_modulated(self.norm(h), scale, shift)).to(x.dtype)

    def null(self, cond: Condition) -> Condition:
        """Return the condition that stands for "none": learned, when training drops conditions."""
        return null_vector(self.null_cond, cond)


def _norm(width: int) -> nn.LayerNorm:
    return nn.LayerNorm(width, eps=1e-6, elementwise_affine=False)  # scale and shift come from the features


def _modulated(x: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
    return torch.addcmul(shift, x, 1 + scale)


def _embedder(first: nn.Module, size: int, features: int) -> nn.Sequential:
    return nn.Sequential(first, nn.Linear(size, features), nn.SiLU(), nn.Linear(features, features))


def _zero(linear: nn.Linear) -> nn.Linear:
    nn.init.zeros_(linear.weight)
    nn.init.zeros_(linear.bias)
    return linear
