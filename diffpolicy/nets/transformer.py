"""A transformer over action steps: the diffusion transformer (DiT) of Peebles and Xie 2023 with one token per step.

Dasari et al. 2024 use it so for actions (DiT-Policy). Time and condition reach every block by adaptive layer norm
that starts at zero (AdaLN-zero): a block starts as the identity and the network's output at 0.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from diffpolicy.nets.attention import blocks, embedder, layer_norm, modulated, zero
from diffpolicy.nets.base import Network
from diffpolicy.nets.embeddings import time_embedding
from diffpolicy.nets.inputs import check_condition, check_trajectory, null_vector
from diffpolicy.util.condition import Condition
from diffpolicy.util.errors import explain, require


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
        token_dim: numbers per token of the condition, to which every block attends; 0 for none.
        ordered: whether steps know their places; without, they are a set, and the network treats all alike.
        joint: let tokens and steps attend to each other (MM-DiT) in place of the steps to the tokens alone.

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
        token_dim: int = 0,
        joint: bool = False,
        ordered: bool = True,
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
        self.position = nn.Parameter(0.02 * torch.randn(horizon, width)) if ordered else None
        self.time = embedder(time_embedding(time, time_features), time_features, features)
        self.span = embedder(time_embedding(time, time_features), time_features, features) if two_times else None
        self.cond = embedder(nn.Identity(), cond_dim, features) if cond_dim else None
        self.null_cond = nn.Parameter(torch.zeros(cond_dim)) if cond_dim else None
        self.token_dim = token_dim
        self.blocks, self.entry = blocks(layers, width, heads, expansion, features, dropout, token_dim, joint)
        self.norm = layer_norm(width)
        self.film = zero(nn.Linear(features, 2 * width))
        self.out = zero(nn.Linear(width, dim))

    def forward(self, x: Tensor, t: Tensor, cond: Condition | None = None, r: Tensor | None = None) -> Tensor:
        """(B, T, D), (B,) or (B, T), a condition, as t -> (B, T, D)."""
        check_trajectory(x, t, r, self.dim)
        if x.shape[1] > self.horizon:
            raise ValueError(explain(f"x has {x.shape[1]} steps", f"at most the horizon, {self.horizon}"))
        vector, tokens, mask = check_condition(cond, x.shape[0], self.cond_dim, self.token_dim)
        features, dtype = self.time(t), self.token.weight.dtype
        if self.span is not None:
            features = features + self.span(torch.zeros_like(t) if r is None else r - t)
        features = features if t.ndim == 2 else features[:, None]
        if vector is not None:
            features = features + self.cond(vector.to(dtype))[:, None]
        features = F.silu(features)
        h = self.token(x.to(dtype))
        h = h if self.position is None else h + self.position[: x.shape[1]]
        tokens = tokens if self.entry is None else self.entry(tokens.to(dtype))
        for block in self.blocks:
            h, tokens = block(h, features, tokens, mask)
        scale, shift = self.film(features).chunk(2, dim=-1)
        return self.out(modulated(self.norm(h), scale, shift)).to(x.dtype)

    def null(self, cond: Condition) -> Condition:
        """Return the condition that stands for "none": learned, when training drops conditions."""
        return null_vector(self.null_cond, cond)
