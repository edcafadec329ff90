"""Likelihoods of a field, in nats: the discrete variational bound, and the density through the flow."""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import pairwise
from typing import Any, NamedTuple

import torch
from torch import Tensor

from diffpolicy.generative.paths import DiscretePath
from diffpolicy.generative.predictions import Field, WithVariance, velocity
from diffpolicy.generative.sampling import no_graph, time_grid
from diffpolicy.generative.shapes import Generators, expand, randn
from diffpolicy.generative.solvers import RK4
from diffpolicy.generative.variance import divergence
from diffpolicy.util import names
from diffpolicy.util.device import precise_dtype
from diffpolicy.util.errors import require


def _normal_log_prob(error: Tensor, variance: float) -> Tensor:
    """Return log N(error; 0, variance·I) of each sample, (B,)."""
    error = error.flatten(1)
    scale = error.new_full((), variance)
    return -0.5 * (error.square().sum(1) / scale + error.shape[1] * torch.log(2 * math.pi * scale))


class VariationalBound(NamedTuple):
    """The terms of −log p(data) ≤ prior + Σ steps + reconstruction, in nats per sample.

    Args:
        prior: (B,) KL(q(x_{N−1}|data) ‖ N(0, I)).
        steps: (N − 1, B), entry k − 1 for index k: KL(q(x_{k−1}|x_k, data) ‖ p(x_{k−1}|x_k)).
        reconstruction: (B,) −log p(data|x_0), x_0 at index 0.
    """

    prior: Tensor
    steps: Tensor
    reconstruction: Tensor

    @property
    def total(self) -> Tensor:
        """The bound itself, (B,)."""
        return self.prior + self.steps.sum(0) + self.reconstruction


def variational_bound(field: Field, data: Tensor, cond: Any = None, generator: Generators = None) -> VariationalBound:
    """Return the bound of Ho et al. 2020, eq. 5, term by term; each is an unbiased draw with one noise per index.

    With the posterior's own variance ("fixed small") on both sides, the KL at index k is
    ½·(SNR_{k−1} − SNR_k)·|data − estimate|² (Kingma et al. 2021, eq. 13 ff.); with a learned variance it is
    `variance.divergence`. The decoder is
    N(data; estimate at index 0, β_0·I), as the posterior's own variance is 0 there.

    Args:
        field: a field on a DiscretePath of N steps; it is evaluated N times.
        data: (B, *shape).
        cond: the condition.
        generator: draws the noise.

    Raises:
        TypeError: a field on another path.
    """
    path = field.path
    require(isinstance(path, DiscretePath), f"a bound of a field on {path!r}", "a DiscretePath", error=TypeError)
    alpha_bar = path.alpha_bar.tolist()
    snr = [a / (1 - a) for a in alpha_bar]
    with no_graph(field.needs_grad):
        alpha, variance = math.sqrt(alpha_bar[-1]), 1 - alpha_bar[-1]
        square = (alpha * data).square().flatten(1)
        prior = 0.5 * (square + variance - 1 - math.log(variance)).sum(1)
        terms = []
        for k in range(path.steps):
            t = path.time_at_index(torch.full(data.shape[:1], k, device=data.device))
            noise = randn(data.shape, generator, dtype=data.dtype, device=data.device)
            x = math.sqrt(alpha_bar[k]) * data + math.sqrt(1 - alpha_bar[k]) * noise
            made = field(x, t, cond)
            error = data - made.data
            if k == 0:
                reconstruction = -_normal_log_prob(error, float(path.betas[0]))
            elif isinstance(made, WithVariance):
                s = path.time_at_index(torch.full_like(t, k - 1))
                terms.append(divergence(made.v.to(x.dtype), error.square(), t, s, path).flatten(1).sum(1))
            else:
                terms.append(0.5 * (snr[k - 1] - snr[k]) * error.square().flatten(1).sum(1))
        steps = torch.stack(terms) if terms else prior.new_zeros(0, len(prior))
    return VariationalBound(prior.clone(), steps.clone(), reconstruction.clone())


class LogDensity(NamedTuple):
    """log p(x) (B,) in nats, and its standard error over the probes (B,), 0 where the trace is exact."""

    value: Tensor
    standard_error: Tensor


def log_density(
    field: Field,
    x: Tensor,
    cond: Any = None,
    *,
    steps: int = 100,
    grid: str = "uniform",
    divergence: str = "exact",
    probes: int = 8,
    generator: Generators = None,
) -> LogDensity:
    """Return log p(x) by d log p(x_t)/dt = −div u along the flow back to p_0 (Chen et al. 2018, eq. 8).

    Integrated by RK4, from t = `path.last_time` on (σ/α = r, about 1e-3 or a DiscretePath's first noise level), since
    at t = 1 the velocity may not exist: this is the density at x of data + r·noise.

    Args:
        field: the field; its output must be differentiable in x.
        x: (B, *shape), d numbers per sample.
        cond: the condition.
        steps: steps of the integration; four evaluations of field and divergence each.
        grid: time grid of the integration, see `time_grid`.
        divergence: "exact", the trace by d backward passes, for small d; or "hutchinson", the mean of vᵀ(∂u/∂x)v over
            random sign vectors, kept along the whole path (Grathwohl et al. 2019, eq. 7), one backward pass each.
        probes: sign vectors per sample, at least 2; their spread gives the standard error.
        generator: draws the sign vectors.

    Raises:
        ValueError: an unknown divergence, fewer than two probes, and what `time_grid` raises.
    """
    names.check("divergence", divergence, ("exact", "hutchinson"))
    exact = divergence == "exact"
    require(exact or probes >= 2, f"probes={probes}", "at least 2, as a standard error needs")
    path, d = field.path, x[0].numel()
    if exact:  # unit vectors: vᵀJv are the entries of the diagonal
        vectors = torch.eye(d, dtype=x.dtype, device=x.device).reshape(d, 1, *x.shape[1:])
    else:
        noise = randn((x.shape[0], probes, *x.shape[1:]), generator, dtype=x.dtype, device=x.device)
        vectors = torch.where(noise < 0, -1.0, 1.0).to(x.dtype).transpose(0, 1)
    rates = _rates_with_divergence(field, cond, x.shape, vectors, exact)
    times = time_grid(grid, steps, path, t_end=path.last_time).to(x.device, precise_dtype(x.device)).flip(0)
    times = times[:, None].expand(-1, x.shape[0])
    with torch.no_grad():
        alpha = path.alpha(times[0])
        state = torch.cat([(expand(alpha, x) * x).flatten(1), x.new_zeros(len(x), 1 if exact else probes)], dim=1)
        for t, s in pairwise(times):
            state = RK4().advance(rates, state, t, s - t)
        end = _normal_log_prob(state[:, :d], path.start_scale**2) + d * alpha.log().to(x.dtype)
        value = end[:, None] + state[:, d:]
    if exact:
        return LogDensity(value[:, 0], torch.zeros_like(value[:, 0]))
    return LogDensity(value.mean(1), value.std(1) / math.sqrt(probes))


def _rates_with_divergence(
    field: Field, cond: Any, shape: torch.Size, vectors: Tensor, exact: bool
) -> Callable[[Tensor, Tensor], Tensor]:
    """Return dz/dt of z = (x, ∫ div u) of each sample, side by side: (B, d + 1), or one integral for each probe."""

    def rates(state: Tensor, t: Tensor) -> Tensor:
        with torch.enable_grad():
            x = state[:, : math.prod(shape[1:])].reshape(shape).detach().requires_grad_()
            u = velocity(field(x, t, cond), t, field.path)
            products = []
            for v in vectors:
                (jv,) = torch.autograd.grad(u, x, v.expand_as(u), retain_graph=True)
                products.append((jv * v).flatten(1).sum(1))
        traces = torch.stack(products, dim=1)
        return torch.cat([u.detach().flatten(1), traces.sum(1, keepdim=True) if exact else traces], dim=1)

    return rates
