"""Probability paths x_t = α(t)·data + σ(t)·noise between noise (t = 0) and data (t = 1).

A path is four functions α, σ, α̇, σ̇ of a tensor of times in [0, 1] (any shape; the result has its shape
and dtype), and the log-SNR λ = log(α/σ) they give, which never decreases. Paths are frozen and compare by
their parameters.
"""

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar, final

import torch
from torch import Tensor

from diffpolicy.generative.shapes import expand
from diffpolicy.util import names

# Beyond |λ| = 7 (noise, or data, at a thousandth of the other) nothing is left to resolve for data of scale
# one: where λ is infinite, grids in λ and adaptive solvers stop here.
LOG_SNR_LIMIT = 7.0


class Path(ABC):
    """A probability path; see the top of this file.

    `smooth_end` says whether a trajectory is smooth in t up to t = 1. Where it is not (σ̇ without bound, or
    times that no training ever draws), fixed-step velocity solvers take their last step by the data estimate.
    """

    smooth_end: ClassVar[bool]

    @abstractmethod
    def alpha(self, t: Tensor) -> Tensor:
        """α(t), the scale of the data; α(1) = 1."""

    @abstractmethod
    def sigma(self, t: Tensor) -> Tensor:
        """σ(t), the scale of the noise; exactly 0 at t = 1."""

    @abstractmethod
    def d_alpha(self, t: Tensor) -> Tensor:
        """α̇ = dα/dt."""

    @abstractmethod
    def d_sigma(self, t: Tensor) -> Tensor:
        """σ̇ = dσ/dt."""

    @abstractmethod
    def time_at_log_snr(self, log_snr: Tensor) -> Tensor:
        """The t in [0, 1] with λ(t) = log_snr; values outside the path's range give the nearer end."""

    @property
    @abstractmethod
    def last_time(self) -> float:
        """The last time before t = 1 at which a solver on its way to the data asks for the field."""

    @final
    def log_snr(self, t: Tensor) -> Tensor:
        """λ(t) = log(α/σ), half the logarithm of the SNR α²/σ²; infinite where α or σ is 0."""
        return self.alpha(t).log() - self.sigma(t).log()

    @final
    def interpolate(self, data: Tensor, noise: Tensor, t: Tensor) -> Tensor:
        """x_t = α·data + σ·noise, all (B, *shape), at t (B,): for noise ~ N(0, I) a sample of p_t(x|data)."""
        return expand(self.alpha(t), data) * data + expand(self.sigma(t), noise) * noise


def _limit_time(path: Path) -> float:
    return float(path.time_at_log_snr(torch.tensor(LOG_SNR_LIMIT, dtype=torch.float64)))


@final
@dataclass(frozen=True)
class LinearPath(Path):
    """α = t, σ = 1 − t: conditional optimal transport (Lipman et al. 2023, eq. 20 with σ_min = 0)."""

    smooth_end: ClassVar[bool] = True

    def alpha(self, t: Tensor) -> Tensor:
        return t

    def sigma(self, t: Tensor) -> Tensor:
        return 1 - t

    def d_alpha(self, t: Tensor) -> Tensor:
        return torch.ones_like(t)

    def d_sigma(self, t: Tensor) -> Tensor:
        return -torch.ones_like(t)

    def time_at_log_snr(self, log_snr: Tensor) -> Tensor:
        return torch.sigmoid(log_snr)

    @property
    def last_time(self) -> float:
        return _limit_time(self)


@final
@dataclass(frozen=True)
class CosinePath(Path):
    """α = sin(πt/2), σ = cos(πt/2) (Albergo & Vanden-Eijnden 2023, trigonometric interpolant)."""

    smooth_end: ClassVar[bool] = True

    def alpha(self, t: Tensor) -> Tensor:
        return torch.sin(math.pi / 2 * t)

    def sigma(self, t: Tensor) -> Tensor:
        return torch.sin(math.pi / 2 * (1 - t))  # not cos: this one is exactly 0 at t = 1

    def d_alpha(self, t: Tensor) -> Tensor:
        return math.pi / 2 * self.sigma(t)

    def d_sigma(self, t: Tensor) -> Tensor:
        return -math.pi / 2 * self.alpha(t)

    def time_at_log_snr(self, log_snr: Tensor) -> Tensor:
        return 2 / math.pi * torch.atan(torch.exp(log_snr))

    @property
    def last_time(self) -> float:
        return _limit_time(self)


@final
@dataclass(frozen=True)
class VariancePreservingPath(Path):
    """α² + σ² = 1 with noise rate β(τ) = β_min + τ·(β_max − β_min), τ = 1 − t (Song et al. 2021, eq. 33).

    σ ~ √(β_min·τ) near the data, so σ̇ has no bound there; it is kept finite at t = 1 by taking σ ≥ 1e-4 in
    its denominator, which changes nothing before 1 − t = 1e-7.

    Raises ValueError unless 0 < beta_min <= beta_max.
    """

    beta_min: float = 0.1
    beta_max: float = 20.0
    smooth_end: ClassVar[bool] = False

    def __post_init__(self) -> None:
        if not 0 < self.beta_min <= self.beta_max < math.inf:
            raise ValueError(f"need 0 < beta_min <= beta_max, got {self.beta_min} and {self.beta_max}")

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
        # c = −2·log α = log(1 + e^{−2λ}) is quadratic in τ and at most, at τ = 1, the mean of β; this form of
        # the root does not cancel for small τ
        c = torch.logaddexp(torch.zeros_like(log_snr), -2 * log_snr)
        c = c.clamp(max=(self.beta_min + self.beta_max) / 2)
        root = (self.beta_min**2 + 2 * (self.beta_max - self.beta_min) * c).sqrt()
        return 1 - 2 * c / (self.beta_min + root)

    @property
    def last_time(self) -> float:
        return _limit_time(self)


@final
@dataclass(frozen=True)
class DiscretePath(Path):
    """The tables of DDPM as a path: index k = N − 1 … 0 is t = 1 − (k + 1)/N, and t = 1 is clean data.

    α = √ᾱ_k and σ = √(1 − ᾱ_k) at the indices, with ᾱ_k = Π_{j ≤ k} (1 − β_j) (Ho et al. 2020, eq. 4; the
    notes write α for ᾱ in places). Between two indices λ is linear in t; at an index the derivatives are
    those of the interval towards the data. Between k = 0 and t = 1 the ratio σ/α falls linearly to 0, so λ
    = λ_0 − log((1 − t)·N) is continuous, rises without bound, and α̇, σ̇ stay finite. Tables are float64.

    Args:
        steps: N ≥ 1.
        schedule: "squared_cosine", β_k = min(0.999, 1 − f((k+1)/N)/f(k/N)) with f(u) = cos²((u +
            0.008)/1.008·π/2) (Nichol & Dhariwal 2021, eq. 17); or "linear", β from beta_min/N to
            beta_max/N, which for N = 1000 are the published 1e-4 … 0.02 and for any N end near pure noise.
        beta_min, beta_max: of the linear schedule alone.

    Raises ValueError for steps < 1, an unknown schedule, or β outside (0, 1).
    """

    steps: int = 100
    schedule: str = "squared_cosine"
    beta_min: float = 0.1
    beta_max: float = 20.0
    smooth_end: ClassVar[bool] = False  # a network that learned the indices has never seen t > 1 − 1/N

    def __post_init__(self) -> None:
        if self.steps < 1:
            raise ValueError(f"steps must be at least 1, got {self.steps}")
        names.check("schedule", self.schedule, ("squared_cosine", "linear"))
        if not bool(((self.betas > 0) & (self.betas < 1)).all()):
            raise ValueError(
                f"beta_min={self.beta_min}, beta_max={self.beta_max} over {self.steps} steps give a noise "
                f"rate outside (0, 1); each is divided by the steps, so take more steps or smaller rates"
            )

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
            self._tables[device] = self._log_ratio.to(device)
        return self._tables[device]

    @cached_property
    def _tables(self) -> dict[torch.device, Tensor]:
        return {}

    def time_at_index(self, index: Tensor) -> Tensor:
        """t = 1 − (k + 1)/N, float64, for indices k from −1 (clean data) to N − 1."""
        return 1 - (index.double() + 1) / self.steps

    def _ratio(self, t: Tensor) -> tuple[Tensor, Tensor]:
        """r = σ/α and dr/dt in float64."""
        table = self._table(t.device)
        k = (1 - t.double()) * self.steps - 1
        # 1 − (k+1)/N is seldom a binary fraction: without this, rounding would choose the side of the
        # derivative.
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
        value = -log_snr.double()
        below = (torch.searchsorted(table, value.contiguous()) - 1).clamp(-1, max(self.steps - 2, -1))
        low, high = table[below.clamp(min=0)], table[below + 1]
        k = torch.where(below < 0, torch.expm1(value - table[0]), below + (value - low) / (high - low))
        return self.time_at_index(k).clamp(0, 1).to(log_snr.dtype)

    @property
    def last_time(self) -> float:
        return 1 - 1 / self.steps
