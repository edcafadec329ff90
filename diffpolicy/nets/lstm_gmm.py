"""The network of BC-RNN-GMM: an LSTM over observations, at each step a mixture of Gaussians over the action."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor, nn
from torch.nn import functional


@final
@dataclass(frozen=True)
class DiagonalMixture:
    """Σ_k w_k·N(m_k, diag s_k²) over A numbers, one mixture for every index of the leading axes.

    Args:
        log_weights: (..., K) log w, normalised.
        means, stds: (..., K, A).
    """

    log_weights: Tensor
    means: Tensor
    stds: Tensor

    def log_prob(self, x: Tensor) -> Tensor:
        """log p(x) of x (..., A): (...)."""
        z = (x.unsqueeze(-2) - self.means) / self.stds
        normal = -0.5 * z.square() - self.stds.log() - 0.5 * math.log(2 * math.pi)
        return torch.logsumexp(self.log_weights + normal.sum(-1), dim=-1)

    def draw(self, uniform: Tensor, normal: Tensor, std: float | None = None) -> Tensor:
        """A draw (..., A), made of noise that is given.

        Args:
            uniform: (...) in [0, 1), which picks the component.
            normal: (..., A) standard normal, the place within it.
            std: stands for every component's own, if given.
        """
        # The last bound, 1, is left out: rounding may leave it below a uniform number.
        bounds = self.log_weights.exp().cumsum(-1)[..., :-1]
        picked = (uniform.unsqueeze(-1) >= bounds).sum(-1)[..., None, None]
        mean, own = (part.take_along_dim(picked, -2).squeeze(-2) for part in (self.means, self.stds))
        return mean + normal * (own if std is None else std)


@final
class LSTMGaussianMixture(nn.Module):
    """net(cond): (B, T, D) -> a mixture (B, T) over A numbers each; that of step i depends on steps 0 … i alone.

    That of BC-RNN-GMM in robomimic (Mandlekar et al. 2021): an LSTM, then one linear layer; means by tanh, in [-1, 1]
    as normalised actions are; stds by softplus, plus a minimum.

    Args:
        dim, cond_dim: A and D.
        hidden, layers: units of an LSTM layer, and how many layers.
        modes: K.
        min_std: added to every std, in normalised units; bounds the density.

    Raises:
        ValueError: sizes that are not positive.
    """

    def __init__(
        self, dim: int, cond_dim: int, hidden: int = 400, layers: int = 2, modes: int = 5, min_std: float = 1e-4
    ) -> None:
        super().__init__()
        if min(dim, cond_dim, hidden, layers, modes) < 1 or not min_std > 0:
            raise ValueError(
                f"need positive sizes and min_std; given {dim=}, {cond_dim=}, {hidden=}, {layers=}, {modes=}, "
                f"{min_std=}"
            )
        self.dim, self.modes, self.min_std = dim, modes, min_std
        self.lstm = nn.LSTM(cond_dim, hidden, layers, batch_first=True)
        self.head = nn.Linear(hidden, modes * (1 + 2 * dim))

    def forward(self, cond: Tensor) -> DiagonalMixture:
        hidden, _ = self.lstm(cond)
        # In full precision: stds go down to 1e-4, and means in bfloat16 would lie tens of them beside the mark.
        with torch.autocast(cond.device.type, enabled=False):
            out = self.head(hidden.to(self.head.weight.dtype))
        logits, means, stds = out.split([self.modes, self.modes * self.dim, self.modes * self.dim], dim=-1)
        means, stds = (part.unflatten(-1, (self.modes, self.dim)) for part in (means, stds))
        return DiagonalMixture(logits.log_softmax(-1), means.tanh(), functional.softplus(stds) + self.min_std)
