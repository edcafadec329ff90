"""The network of BC-RNN-GMM: an LSTM over observations, at each step a mixture of Gaussians over the action."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor, nn
from torch.nn import functional

from diffpolicy.util.errors import require


@final
@dataclass(frozen=True)
class DiagonalMixture:
    """Σ_k w_k·N(m_k, diag s_k²) over A numbers, one mixture for every index of the leading axes.

    Args:
        log_weights: log w, (..., K), normalized.
        means: m, (..., K, A).
        stds: s, (..., K, A).
    """

    log_weights: Tensor
    means: Tensor
    stds: Tensor

    def log_prob(self, x: Tensor) -> Tensor:
        """Return log p(x) of x (..., A): (...)."""
        z = (x.unsqueeze(-2) - self.means) / self.stds
        normal = -0.5 * z.square() - self.stds.log() - 0.5 * math.log(2 * math.pi)
        return torch.logsumexp(self.log_weights + normal.sum(-1), dim=-1)

    def draw(self, uniform: Tensor, normal: Tensor, std: float | None = None) -> Tensor:
        """Return a sample (..., A), made of noise.

        Args:
            uniform: (...) in [0, 1), picks the component.
            normal: (..., A) standard normal, the place within the component.
            std: replaces the stds of all components; None leaves them.
        """
        # The last bound, 1, is left out: rounding may leave it below a uniform number.
        bounds = self.log_weights.exp().cumsum(-1)[..., :-1]
        picked = (uniform.unsqueeze(-1) >= bounds).sum(-1)[..., None, None]
        mean, own = (part.take_along_dim(picked, -2).squeeze(-2) for part in (self.means, self.stds))
        return mean + normal * (own if std is None else std)


@final
class LSTMGaussianMixture(nn.Module):
    """Observations (B, T, D) -> mixtures (B, T) over A numbers each; that of step i depends on steps 0 … i alone.

    This is BC-RNN-GMM of robomimic (Mandlekar et al. 2021): an LSTM, then one linear layer; means by tanh, in [-1, 1]
    as normalized actions are; stds by softplus, plus a minimum.

    Args:
        dim: A, numbers per action.
        cond_dim: D, numbers per observation.
        hidden: units of an LSTM layer.
        layers: number of LSTM layers.
        modes: K, components of a mixture.
        min_std: added to every std, in normalized units; bounds the density.

    Raises:
        ValueError: sizes that are not positive.
    """

    def __init__(
        self, dim: int, cond_dim: int, hidden: int = 400, layers: int = 2, modes: int = 5, min_std: float = 1e-4
    ) -> None:
        super().__init__()
        sizes = f"sizes {dim=}, {cond_dim=}, {hidden=}, {layers=}, {modes=}, {min_std=}"
        require(min(dim, cond_dim, hidden, layers, modes) >= 1 and min_std > 0, sizes, "positive numbers")
        self.dim, self.modes, self.min_std = dim, modes, min_std
        self.lstm = nn.LSTM(cond_dim, hidden, layers, batch_first=True)
        self.head = nn.Linear(hidden, modes * (1 + 2 * dim))

    def forward(self, cond: Tensor) -> DiagonalMixture:
        hidden, _ = self.lstm(cond.to(self.head.weight.dtype))
        # In full precision: stds go down to 1e-4, and means in bfloat16 would be off by tens of them.
        with torch.autocast(cond.device.type, enabled=False):
            out = self.head(hidden.to(self.head.weight.dtype)).to(cond.dtype)
        logits, means, stds = out.split([self.modes, self.modes * self.dim, self.modes * self.dim], dim=-1)
        means, stds = (part.unflatten(-1, (self.modes, self.dim)) for part in (means, stds))
        return DiagonalMixture(logits.log_softmax(-1), means.tanh(), functional.softplus(stds) + self.min_std)
