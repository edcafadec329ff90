"""A Gaussian mixture, for which everything a field should say is known in closed form.

With it samplers, guidance and theorems can be looked at, and tested, without a network.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar, final

import torch
from torch import Tensor

from diffpolicy.generative.paths import Path
from diffpolicy.generative.predictions import Estimate
from diffpolicy.generative.shapes import expand


@final
@dataclass(frozen=True)
class GaussianMixture:
    """Σ w_k·N(m_k, s_k²·I) over tensors of the shape of m_k.

    A std of 0 is a point, which has a density only once there is noise on it.

    Args:
        means: m_k, (K, *shape).
        stds: s_k, (K,).
        weights: w_k, (K,), with sum 1.
    """

    means: Tensor
    stds: Tensor
    weights: Tensor

    def sample_component(self, n: int, generator: torch.Generator) -> Tensor:
        """Return n component numbers, (n,) int64."""
        return torch.multinomial(self.weights, n, replacement=True, generator=generator)

    def sample_given(self, component: Tensor, generator: torch.Generator) -> Tensor:
        """Return one sample of each component in `component` (n,): (n, *shape)."""
        shape = (len(component), *self.means.shape[1:])
        noise = torch.randn(shape, generator=generator, dtype=self.means.dtype)
        return self.means[component] + expand(self.stds[component], noise) * noise

    def sample(self, n: int, generator: torch.Generator) -> Tensor:
        """Return n samples, (n, *shape)."""
        return self.sample_given(self.sample_component(n, generator), generator)

    def to(self, dtype: torch.dtype) -> GaussianMixture:
        """Return the same mixture in another dtype."""
        return GaussianMixture(self.means.to(dtype), self.stds.to(dtype), self.weights.to(dtype))

    def components(self, x: Tensor, alpha: Tensor, sigma: Tensor) -> tuple[Tensor, Tensor]:
        """Return log w_k·N(x; α·m_k, v_k·I) and v_k = α²s_k² + σ², both (B, K)."""
        x, means, alpha = x.flatten(1), self.means.flatten(1), alpha[:, None]
        variance = (alpha * self.stds) ** 2 + sigma[:, None] ** 2
        square = x.square().sum(1, keepdim=True) - 2 * alpha * x @ means.T + alpha**2 * means.square().sum(1)
        log = self.weights.log() - 0.5 * (square / variance + x.shape[1] * torch.log(2 * math.pi * variance))
        return log, variance

    def log_prob(self, x: Tensor, alpha: Tensor | None = None, sigma: Tensor | None = None) -> Tensor:
        """Return the log density (B,) of α·data + σ·noise at x (B, *shape); of the data itself without α, σ."""
        one = torch.ones(len(x), dtype=x.dtype, device=x.device)
        log, _ = self.components(x, one if alpha is None else alpha, 0 * one if sigma is None else sigma)
        return torch.logsumexp(log, 1)

    def estimate(self, x: Tensor, alpha: Tensor, sigma: Tensor, component: Tensor | None = None) -> Estimate:
        """Return E[data|x] and E[noise|x]; neither divides by α or σ.

        Under component k, with x − α·m_k = offset: data = m_k + (α·s_k²/v_k)·offset, noise = (σ/v_k)·offset.

        Args:
            x: (B, *shape).
            alpha: α, (B,).
            sigma: σ, (B,).
            component: (B,), the component a sample is known to come from; −1 where it is not.
        """
        log, variance = self.components(x, alpha, sigma)
        if component is not None:
            other = torch.arange(log.shape[1], device=log.device) != component[:, None]
            log = log.masked_fill(other & (component >= 0)[:, None], -math.inf)
        posterior, alpha, sigma = torch.softmax(log, 1), alpha[:, None], sigma[:, None]
        shrink, flat, means = alpha * self.stds**2 / variance, x.flatten(1), self.means.flatten(1)
        data = (posterior * shrink).sum(1, keepdim=True) * flat + (posterior * (1 - alpha * shrink)) @ means
        scaled = posterior * sigma / variance
        noise = scaled.sum(1, keepdim=True) * flat - (alpha * scaled) @ means
        return Estimate(data.reshape(x.shape), noise.reshape(x.shape))


@final
@dataclass(frozen=True)
class ExactField:
    """The field of a mixture on a path. A condition (B,) of component numbers picks one; −1 is none."""

    mixture: GaussianMixture
    path: Path
    calls: ClassVar[int] = 1
    needs_grad: ClassVar[bool] = False

    def __call__(self, x: Tensor, t: Tensor, cond: Tensor | None = None) -> Estimate:
        return self.mixture.to(x.dtype).estimate(x, *self._scales(x, t), cond)

    @staticmethod
    def null(cond: Tensor) -> Tensor:
        """Return the condition that names no component, (B,)."""
        return torch.full_like(cond, -1)

    def log_density(self, x: Tensor, t: Tensor) -> Tensor:
        """Return log p_t(x), (B,)."""
        return self.mixture.to(x.dtype).log_prob(x, *self._scales(x, t))

    def log_posterior(self, x: Tensor, t: Tensor, cond: Tensor) -> Tensor:
        """Return log p(component = cond | x_t), (B,): the exact classifier, for classifier guidance."""
        log, _ = self.mixture.to(x.dtype).components(x, *self._scales(x, t))
        return torch.log_softmax(log, 1).gather(1, cond[:, None])[:, 0]

    def _scales(self, x: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        return self.path.alpha(t).to(x.dtype), self.path.sigma(t).to(x.dtype)
