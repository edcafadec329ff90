"""A Gaussian mixture, for which everything a field should say is known in closed form."""

import math
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from diffpolicy.generative.paths import Path
from diffpolicy.generative.predictions import Estimate, target
from diffpolicy.generative.shapes import expand


@dataclass(frozen=True)
class GaussianMixture:
    """Σ w_k·N(m_k, s_k²·I) over tensors of shape m_k; means (K, *shape), stds and weights (K,)."""

    means: Tensor
    stds: Tensor
    weights: Tensor

    def sample(self, n: int, generator: torch.Generator) -> Tensor:
        k = torch.multinomial(self.weights, n, replacement=True, generator=generator)
        noise = torch.randn((n, *self.means.shape[1:]), generator=generator, dtype=self.means.dtype)
        return self.means[k] + expand(self.stds[k], noise) * noise

    def to(self, dtype: torch.dtype) -> "GaussianMixture":
        return GaussianMixture(self.means.to(dtype), self.stds.to(dtype), self.weights.to(dtype))

    def components(self, x: Tensor, alpha: Tensor, sigma: Tensor) -> tuple[Tensor, Tensor]:
        """log w_k·N(x; α·m_k, v_k·I) and v_k = α²s_k² + σ², both (B, K)."""
        x, means, alpha = x.flatten(1), self.means.flatten(1), alpha[:, None]
        variance = (alpha * self.stds) ** 2 + sigma[:, None] ** 2
        square = x.square().sum(1, keepdim=True) - 2 * alpha * x @ means.T + alpha**2 * means.square().sum(1)
        log = self.weights.log() - 0.5 * (square / variance + x.shape[1] * torch.log(2 * math.pi * variance))
        return log, variance

    def log_prob(self, x: Tensor, alpha: Tensor | None = None, sigma: Tensor | None = None) -> Tensor:
        """log density of α·data + σ·noise at x (B, *shape); of the data itself without α, σ."""
        one = torch.ones(len(x), dtype=x.dtype)
        log, _ = self.components(x, one if alpha is None else alpha, 0 * one if sigma is None else sigma)
        return torch.logsumexp(log, 1)

    def estimate(self, x: Tensor, alpha: Tensor, sigma: Tensor) -> Estimate:
        """E[data|x] and E[noise|x]; neither divides by α or σ.

        Under component k, with x − α·m_k = offset: data = m_k + (α·s_k²/v_k)·offset, noise = (σ/v_k)·offset.
        """
        log, variance = self.components(x, alpha, sigma)
        posterior, alpha, sigma = torch.softmax(log, 1), alpha[:, None], sigma[:, None]
        shrink, flat, means = alpha * self.stds**2 / variance, x.flatten(1), self.means.flatten(1)
        data = (posterior * shrink).sum(1, keepdim=True) * flat + (posterior * (1 - alpha * shrink)) @ means
        scaled = posterior * sigma / variance
        noise = scaled.sum(1, keepdim=True) * flat - (alpha * scaled) @ means
        return Estimate(data.reshape(x.shape), noise.reshape(x.shape))


@dataclass(frozen=True)
class ExactField:
    """The field of a mixture on a path. A condition (B,) of component numbers picks one; −1 is none."""

    mixture: GaussianMixture
    path: Path
    calls: ClassVar[int] = 1
    needs_grad: ClassVar[bool] = False

    def __call__(self, x: Tensor, t: Tensor, cond: Any = None) -> Estimate:
        alpha, sigma = self.path.alpha(t).to(x.dtype), self.path.sigma(t).to(x.dtype)
        m, rows = self.mixture.to(x.dtype), []
        if cond is None:
            return m.estimate(x, alpha, sigma)
        for i, k in enumerate(cond.tolist()):
            part = m if k < 0 else GaussianMixture(m.means[[k]], m.stds[[k]], torch.ones_like(m.stds[[k]]))
            rows.append(part.estimate(x[i : i + 1], alpha[i : i + 1], sigma[i : i + 1]))
        return Estimate(*(torch.cat(parts) for parts in zip(*rows, strict=True)))


@dataclass(frozen=True)
class ExactNet:
    """A "network" that outputs exactly what the named prediction should be."""

    field: ExactField
    prediction: str

    def __call__(self, x: Tensor, t: Tensor, cond: Any = None, r: Tensor | None = None) -> Tensor:
        return target(self.prediction, *self.field(x, t, cond), t, self.field.path)

    @staticmethod
    def null(cond: Tensor) -> Tensor:
        return torch.full_like(cond, -1)


def ring(shape: tuple[int, ...], components: int = 4, seed: int = 0) -> GaussianMixture:
    """A centred mixture over `shape` with overlapping and separate modes of scale about one, float64."""
    g = torch.Generator().manual_seed(seed)
    means = torch.randn((components, *shape), generator=g, dtype=torch.float64)
    means = means / means.flatten(1).square().mean(1).sqrt().reshape(-1, *[1] * len(shape))
    means = means - means.mean(0)
    stds = torch.linspace(0.2, 0.5, components, dtype=torch.float64)
    return GaussianMixture(means, stds, torch.full((components,), 1 / components, dtype=torch.float64))


def sliced_wasserstein(a: Tensor, b: Tensor, projections: int = 64, seed: int = 1) -> float:
    """Mean Wasserstein-1 distance of random one-dimensional projections; a, b (N, *shape)."""
    a, b = a.flatten(1).double(), b.flatten(1).double()
    g = torch.Generator().manual_seed(seed)
    w = torch.randn(a.shape[1], projections, generator=g, dtype=torch.float64)
    w = w / w.norm(dim=0)
    return float(((a @ w).sort(0).values - (b @ w).sort(0).values).abs().mean())
