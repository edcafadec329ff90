"""The paths of diffusion models: variance preserving and exploding in continuous time, and DDPM's discrete tables."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from typing import final

import torch
from torch import Tensor

from diffpolicy.generative.paths.base import Path, time_at_limit
from diffpolicy.util import names
from diffpolicy.util.device import precise_dtype
from diffpolicy.util.errors import require


@final
@dataclass(frozen=True)
class VariancePreservingPath(Path):
    """α² + σ² = 1 with noise rate β(τ) = β_min + τ·(β_max − β_min), τ = 1 − t (Song et al. 2021, eq. 33).

    σ ~ √(β_min·τ) near the data, so σ̇ has no bound there; it is kept finite at t = 1 by taking σ ≥ 1e-4 in its
    denominator, which changes nothing before 1 − t = 1e-7.

    Args:
        beta_min: β at the data.
        beta_max: β at the noise.

    Raises:
        ValueError: unless 0 < beta_min <= beta_max.
    """

    beta_min: float = 0.1
    beta_max: float = 20.0

    def __post_init__(self) -> None:
        given = f"beta_min={self.beta_min}, beta_max={self.beta_max}"
        require(0 < self.beta_min <= self.beta_max < math.inf, given, "0 < beta_min <= beta_max")

    def _log_alpha(self, t: Tensor) -> Tensor:
        tau = 1 - t
        return -tau * (tau * (self.beta_max - self.beta_min) / 4 + self.beta_min / 2)

    def alpha(self, t: Tensor) -> Tensor:
        return self._log_alpha(t).exp()

    def sigma(self, t: Tensor) -> Tensor:
        return (-torch.expm1(2 * self._log_alpha(t))).sqrt()

    def d_alpha(self, t: Tensor) -> Tensor:
        return self.alpha(t) * (self.beta_min + (1 - t) * (self.beta_max - self.beta_min)) / 2

    def d_sigma(self, t: Tensor) -> Tensor:
        return -self.alpha(t) * self.d_alpha(t) / self.sigma(t).clamp(min=1e-4)

    def time_at_log_snr(self, log_snr: Tensor) -> Tensor:
        # c = −2·log α = log(1 + e^{−2λ}) is quadratic in τ and at most, at τ = 1, the mean of β; this form of the
        # root does not cancel for small τ
        c = torch.logaddexp(torch.zeros_like(log_snr), -2 * log_snr)
        c = c.clamp(max=(self.beta_min + self.beta_max) / 2)
        root = (self.beta_min**2 + 2 * (self.beta_max - self.beta_min) * c).sqrt()
        return 1 - 2 * c / (self.beta_min + root)

    @property
    def last_time(self) -> float:
        return time_at_limit(self)


@final
@dataclass(frozen=True)
class VarianceExplodingPath(Path):
    """α = 1, σ² = σ_min²·((σ_max/σ_min)^{2τ} − 1), τ = 1 − t: noise is added alone.

    It is the variance of the variance-exploding SDE of Song et al. 2021 that starts at the data. Sampling starts at
    N(0, (1 + σ(0)²)·I), which stands for data + σ(0)·noise: what data of another mean or width lack there, about
    mean/σ_max, sampling and `log_density` are off by. Networks see inputs as large as σ_max: take one that scales
    them, or a small σ_max. σ̇ has no bound at the data; it is kept finite at t = 1 by taking σ >= 1e-4·σ_min in its
    denominator.

    Args:
        sigma_min: scale of σ near the data.
        sigma_max: σ at the noise, about.

    Raises:
        ValueError: unless 0 < sigma_min < sigma_max.
    """

    sigma_min: float = 0.01
    sigma_max: float = 10.0

    def __post_init__(self) -> None:
        given = f"sigma_min={self.sigma_min}, sigma_max={self.sigma_max}"
        require(0 < self.sigma_min < self.sigma_max < math.inf, given, "0 < sigma_min < sigma_max")

    @property
    def _rate(self) -> float:
        return 2 * math.log(self.sigma_max / self.sigma_min)

    @property
    def start_scale(self) -> float:
        return math.sqrt(1 + self.sigma_min**2 * math.expm1(self._rate))

    def alpha(self, t: Tensor) -> Tensor:
        return torch.ones_like(t)

    def sigma(self, t: Tensor) -> Tensor:
        return self.sigma_min * torch.expm1(self._rate * (1 - t)).sqrt()

    def d_alpha(self, t: Tensor) -> Tensor:
        return torch.zeros_like(t)

    def d_sigma(self, t: Tensor) -> Tensor:
        grown = self.sigma_min**2 * self._rate / 2 * torch.exp(self._rate * (1 - t))
        return -grown / self.sigma(t).clamp(min=1e-4 * self.sigma_min)

    def time_at_log_snr(self, log_snr: Tensor) -> Tensor:
        # (σ/σ_min)² of the widest σ here, so that nothing overflows
        ratio = (torch.exp(-log_snr.clamp(min=-math.log(self.sigma_max))) / self.sigma_min) ** 2
        return (1 - torch.log1p(ratio) / self._rate).clamp(0, 1)

    @property
    def last_time(self) -> float:
        return time_at_limit(self)


@final
@dataclass(frozen=True)
class DiscretePath(Path):
    """The tables of DDPM as a path: index k = N − 1 … 0 is t = 1 − (k + 1)/N, and t = 1 is clean data.

    α = √ᾱ_k and σ = √(1 − ᾱ_k) at the indices, with ᾱ_k = Π_{j ≤ k} (1 − β_j) (Ho et al. 2020, eq. 4; the notes write
    α for ᾱ in places). Between two indices λ is linear in t; at an index the derivatives are those of the interval
    towards the data. Between k = 0 and t = 1 the ratio σ/α falls linearly to 0, so λ = λ_0 − log((1 − t)·N) is
    continuous, rises without bound, and α̇, σ̇ stay finite. Tables are float64, on devices without it float32.

    Args:
        steps: N ≥ 1.
        schedule: "squared_cosine", β_k = min(0.999, 1 − f((k+1)/N)/f(k/N)) with f(u) = cos²((u + 0.008)/1.008·π/2)
            (Nichol & Dhariwal 2021, eq. 17); or "linear", β from beta_min/N to beta_max/N, which for N = 1000 are the
            published 1e-4 … 0.02 and for any N end near pure noise.
        beta_min: N times the first β of the linear schedule.
        beta_max: N times the last β of the linear schedule.

    Raises:
        ValueError: steps < 1, an unknown schedule, or β outside (0, 1).
    """

    steps: int = 100
    schedule: str = "squared_cosine"
    beta_min: float = 0.1
    beta_max: float = 20.0

    def __post_init__(self) -> None:
        require(self.steps >= 1, f"steps={self.steps}", "at least 1")
        names.check("schedule", self.schedule, ("squared_cosine", "linear"))
        given = f"beta_min={self.beta_min}, beta_max={self.beta_max} over steps={self.steps}"
        within = bool(((self.betas > 0) & (self.betas < 1)).all())
        require(within, given, "rates in (0, 1) after division by the steps", "take more steps or smaller rates")

    @cached_property
    def betas(self) -> Tensor:
        """β_k, (N,) float64, k = 0 next to the data."""
        if self.schedule == "linear":
            return torch.linspace(self.beta_min, self.beta_max, self.steps, dtype=torch.float64) / self.steps
        u = torch.arange(self.steps + 1, dtype=torch.float64) / self.steps
        f = torch.cos((u + 0.008) / 1.008 * math.pi / 2) ** 2
        return (1 - f[1:] / f[:-1]).clamp(max=0.999)

    @cached_property
    def alpha_bar(self) -> Tensor:
        """ᾱ_k = α², (N,) float64."""
        return torch.cumprod(1 - self.betas, 0)

    @cached_property
    def _log_ratio(self) -> Tensor:
        return (torch.log1p(-self.alpha_bar) - torch.log(self.alpha_bar)) / 2  # log(σ/α) = −λ, rising with k

    def _table(self, device: torch.device) -> Tensor:
        if device not in self._tables:  # copied once: copying in every step would stop a GPU
            self._tables[device] = self._log_ratio.to(device, precise_dtype(device))
        return self._tables[device]

    @cached_property
    def _tables(self) -> dict[torch.device, Tensor]:
        return {}

    def time_at_index(self, index: Tensor) -> Tensor:
        """Return t = 1 − (k + 1)/N, float64, for indices k from −1 (clean data) to N − 1."""
        return 1 - (index.to(precise_dtype(index.device)) + 1) / self.steps

    def _ratio(self, t: Tensor) -> tuple[Tensor, Tensor]:
        """Return r = σ/α and dr/dt in the precision of the table."""
        table = self._table(t.device)
        k = (1 - t.to(table.dtype)) * self.steps - 1
        # 1 − (k+1)/N is seldom a binary fraction: without this, rounding would choose the side of the derivative.
        near = k.round()
        k = torch.where((k - near).abs() <= 4 * self.steps * torch.finfo(t.dtype).eps, near, k)
        below = (k.ceil() - 1).clamp(-1, max(self.steps - 2, -1)).long()  # the interval towards the data
        low, high = table[below.clamp(min=0)], table[below + 1]
        last = below < 0
        r = torch.where(last, table[0].exp() * (k + 1), torch.exp(low + (k - below) * (high - low)))
        return r, -self.steps * torch.where(last, table[0].exp(), (high - low) * r)

    def alpha(self, t: Tensor) -> Tensor:
        r, _ = self._ratio(t)
        return (1 + r**2).rsqrt().to(t.dtype)

    def sigma(self, t: Tensor) -> Tensor:
        r, _ = self._ratio(t)
        return (r * (1 + r**2).rsqrt()).to(t.dtype)

    def d_alpha(self, t: Tensor) -> Tensor:
        r, dr = self._ratio(t)
        return (-r * dr * (1 + r**2) ** -1.5).to(t.dtype)

    def d_sigma(self, t: Tensor) -> Tensor:
        r, dr = self._ratio(t)
        return (dr * (1 + r**2) ** -1.5).to(t.dtype)

    def time_at_log_snr(self, log_snr: Tensor) -> Tensor:
        table = self._table(log_snr.device)
        value = -log_snr.to(table.dtype)
        below = (torch.searchsorted(table, value.contiguous()) - 1).clamp(-1, max(self.steps - 2, -1))
        low, high = table[below.clamp(min=0)], table[below + 1]
        k = torch.where(below < 0, torch.expm1(value - table[0]), below + (value - low) / (high - low))
        return self.time_at_index(k).clamp(0, 1).to(log_snr.dtype)

    @property
    def last_time(self) -> float:
        return 1 - 1 / self.steps
