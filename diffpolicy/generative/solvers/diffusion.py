"""Solvers that step between data and noise estimates: DDIM, DDPM, DPM-Solver++."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, final

import torch
from torch import Tensor

from diffpolicy.generative.predictions import WithVariance
from diffpolicy.generative.shapes import expand, where
from diffpolicy.generative.solvers.base import BoundSolver, Solver, weighted_sum
from diffpolicy.util import names
from diffpolicy.util.errors import require


@final
@dataclass(frozen=True)
class DDIM(Solver):
    """DDIM(η) on any path: x_s = α_s·data + √(σ_s² − τ²)·noise + τ·ξ.

    τ² = η²·(σ_s²/σ_t²)·(σ_t² − (α_t/α_s)²·σ_s²) (Song, Meng & Ermon 2021, eq. 12, 16). η = 0 is DDIM and DPM-Solver++
    1S, on the linear path an Euler step. η = 1 is DDPM: over all steps of a DiscretePath the posterior of Ho et al.
    2020, eq. 7 ("fixed small"), mean √ᾱ_{k−1}·β_k/(1−ᾱ_k)·data + √(1−β_k)·(1−ᾱ_{k−1})/(1−ᾱ_k)·x and variance
    β_k·(1−ᾱ_{k−1})/(1−ᾱ_k), which the notes print with α for ᾱ in places; their DDIM formula lacks the −τ² under the
    root.

    Args:
        eta: η in [0, 1].
        variance: "small", τ² as above, the posterior's; "large", η²·β_k with the same mean, right for data of
            variance one as "small" is for a single datum (Ho et al. 2020, section 3.2, "fixed large"); or "learned",
            what the network says lies between, see `variance`.

    Raises:
        ValueError: η outside [0, 1], an unknown variance, or a large or learned one with η = 0; when run, a learned
            one of a field that says nothing of it.
    """

    eta: float = 0.0
    variance: str = "small"
    order: ClassVar[int] = 1
    calls_per_step: ClassVar[int] = 1

    def __post_init__(self) -> None:
        require(0 <= self.eta <= 1, f"eta={self.eta}", "a number in [0, 1] (0 = DDIM, 1 = DDPM)")
        names.check("variance", self.variance, ("small", "large", "learned"))
        given = f"variance={self.variance} with eta=0, which adds no noise"
        require(self.eta > 0 or self.variance == "small", given, cure=f"take solver=ddpm_{self.variance}")

    @property
    def stochastic(self) -> bool:
        return self.eta > 0

    @property
    def reversible(self) -> bool:
        return self.fixed

    @property
    def learned(self) -> bool:
        return self.variance == "learned"

    def step(self, flow: BoundSolver, x: Tensor, t: Tensor, s: Tensor, cond: Any) -> Tensor:
        estimate = flow.estimate(x, t, cond)
        if not self.stochastic:
            return flow.blend(estimate, s)
        path = flow.path
        sigma_t, sigma_s = path.sigma(t), path.sigma(s)
        # the clamps catch roundings below 0 in steps too short to matter
        gone = (sigma_t**2 - (path.alpha(t) / path.alpha(s) * sigma_s) ** 2).clamp(min=0)
        tau = self.eta * sigma_s / sigma_t * gone.sqrt()
        rest = (sigma_s**2 - tau**2).clamp(min=0).sqrt()
        if self.variance != "small":  # but not into the data, σ_s = 0, where nothing is added
            tau = torch.where(sigma_s > 0, self.eta * gone.sqrt(), tau)
        data, noise = estimate
        added = flow.noise_like(x)
        if self.learned:
            require(
                isinstance(estimate, WithVariance), "this field says nothing of the variance", cure="take solver=ddpm"
            )
            smaller = expand(torch.where(sigma_s > 0, sigma_s / sigma_t, 1.0).log(), x)  # by e^smaller where v = 0
            added = added * torch.exp((1 - estimate.v.to(x.dtype)) * smaller)
        return weighted_sum((path.alpha(s), data), (rest, noise), (tau, added))


@final
@dataclass(frozen=True)
class DPMSolverMultistep(Solver):
    """DPM-Solver++ 2M and 3M: multistep in λ for the data prediction (Lu et al. 2022b, alg. 2 and app. B).

    x_s = (σ_s/σ_t)·x + α_s·∫ e^{λ − λ_s} data(λ) dλ, with data(λ) extrapolated from the last `order` estimates; 2M is
    the paper's midpoint form. As published, the first step, without history, is of first order; so is a step into
    σ = 0, where λ is infinite. A step that does not start where the last one ended starts a new history. 3M has order
    3 once its history is exact (a first step leaves an O(h²) error), for which its second difference takes a factor 2
    that the published code lacks.

    Args:
        order: 2 or 3.

    Raises:
        ValueError: another order.
    """

    order: int = 2
    calls_per_step: ClassVar[int] = 1
    stochastic: ClassVar[bool] = False

    def __post_init__(self) -> None:
        require(self.order in (2, 3), f"order={self.order}", "2 or 3", "for order 1 take solver=ddim")

    def step(self, flow: BoundSolver, x: Tensor, t: Tensor, s: Tensor, cond: Any) -> Tensor:
        estimate = flow.estimate(x, t, cond)
        lam, alpha = flow.path.log_snr(t), flow.path.alpha(s)
        continues = flow.reached is not None and torch.equal(flow.reached, t)
        past = flow.history[: self.order - 1] if continues else []
        flow.history, flow.reached = [(lam, estimate.data), *past], s

        x_s = flow.blend(estimate, s)
        if not past:
            return x_s
        h = flow.path.log_snr(s) - lam
        h0 = lam - past[0][0]  # d1, d2: first and second derivative of the data in λ, times h and h²
        d1 = weighted_sum((h / h0, estimate.data - past[0][1]))
        if len(past) == 1:
            correction = weighted_sum((-torch.expm1(-h) / 2, d1))
        else:
            h1 = past[0][0] - past[1][0]
            bend = d1 - weighted_sum((h / h1, past[0][1] - past[1][1]))
            d1 = d1 + weighted_sum((h0 / (h0 + h1), bend))
            d2 = weighted_sum((2 * h / (h0 + h1), bend))
            phi = torch.expm1(-h)
            correction = weighted_sum((phi / h + 1, d1), (0.5 - (phi + h) / h**2, d2))
        return where(expand(h.isfinite(), x), x_s + weighted_sum((alpha, correction)), x_s)
