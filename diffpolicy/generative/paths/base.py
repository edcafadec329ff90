"""Probability paths x_t = α(t)·data + σ(t)·noise between noise (t = 0) and data (t = 1)."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor

from diffpolicy.generative.shapes import expand

# Beyond |λ| = 7 (noise, or data, at a thousandth of the other) nothing is left to resolve for data of scale one:
# where λ is infinite, grids in λ and adaptive solvers stop here.
LOG_SNR_LIMIT = 7.0


class Path(ABC):
    """A probability path: functions α, σ and their derivatives of times in [0, 1], and the log-SNR λ = log(α/σ).

    Each maps a tensor of times of any shape to one of the same shape and dtype. λ never decreases. Paths are frozen
    and compare by their parameters.
    """

    @abstractmethod
    def alpha(self, t: Tensor) -> Tensor:
        """Return α(t), the scale of the data; α(1) = 1."""

    @abstractmethod
    def sigma(self, t: Tensor) -> Tensor:
        """Return σ(t), the scale of the noise; exactly 0 at t = 1."""

    @abstractmethod
    def d_alpha(self, t: Tensor) -> Tensor:
        """Return α̇ = dα/dt."""

    @abstractmethod
    def d_sigma(self, t: Tensor) -> Tensor:
        """Return σ̇ = dσ/dt."""

    @abstractmethod
    def time_at_log_snr(self, log_snr: Tensor) -> Tensor:
        """Return the t in [0, 1] with λ(t) = log_snr; values outside the path's range give the nearer end."""

    @property
    @abstractmethod
    def last_time(self) -> float:
        """The last time before t = 1 at which a solver on its way to the data evaluates the field."""

    @property
    def start_scale(self) -> float:
        """The standard deviation of what sampling starts from, N(0, I) times this: p_0 for data N(0, I)."""
        return 1.0

    @final
    def log_snr(self, t: Tensor) -> Tensor:
        """Return λ(t) = log(α/σ), half the logarithm of the SNR α²/σ²; infinite where α or σ is 0."""
        return self.alpha(t).log() - self.sigma(t).log()

    @final
    def interpolate(self, data: Tensor, noise: Tensor, t: Tensor) -> Tensor:
        """Return x_t = α·data + σ·noise, a sample of p_t(x | data) where noise ~ N(0, I).

        Args:
            data: (B, *shape).
            noise: (B, *shape).
            t: (B,), or (B, T) for a time per step.
        """
        return expand(self.alpha(t), data) * data + expand(self.sigma(t), noise) * noise


def time_at_limit(path: Path) -> float:
    """Return the time at which λ reaches `LOG_SNR_LIMIT`."""
    return float(path.time_at_log_snr(torch.tensor(LOG_SNR_LIMIT, dtype=torch.float64)))


@final
@dataclass(frozen=True)
class LinearPath(Path):
    """α = t, σ = 1 − t: conditional optimal transport (Lipman et al. 2023, eq. 20 with σ_min = 0)."""

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
        return time_at_limit(self)


@final
@dataclass(frozen=True)
class SquareRootPath(Path):
    """α = t, σ = √(1 − t): the path of the 6.S184 notes' lab two, and their "linear" schedule σ² = 1 − t.

    σ̇ has no bound at the data; it is kept finite at t = 1 by taking σ >= 1e-4 in its denominator. With times drawn
    evenly the velocity loss, with its σ̇² = 1/(4σ²), has no finite mean: learn the noise, or take weighting "snr".
    """

    def alpha(self, t: Tensor) -> Tensor:
        return t

    def sigma(self, t: Tensor) -> Tensor:
        return (1 - t).sqrt()

    def d_alpha(self, t: Tensor) -> Tensor:
        return torch.ones_like(t)

    def d_sigma(self, t: Tensor) -> Tensor:
        return -0.5 / self.sigma(t).clamp(min=1e-4)

    def time_at_log_snr(self, log_snr: Tensor) -> Tensor:
        return 2 / (1 + (1 + 4 * torch.exp(-2 * log_snr)).sqrt())  # the root of t² + q·t = q, q = SNR

    @property
    def last_time(self) -> float:
        return time_at_limit(self)


@final
@dataclass(frozen=True)
class CosinePath(Path):
    """α = sin(πt/2), σ = cos(πt/2) (Albergo & Vanden-Eijnden 2023, trigonometric interpolant)."""

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
        return time_at_limit(self)
