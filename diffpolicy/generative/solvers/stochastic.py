"""Euler–Maruyama for the stochastic equations that share a path's marginals."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar, final

import torch
from torch import Tensor

from diffpolicy.generative.predictions import score, velocity
from diffpolicy.generative.sde import euler_maruyama_step
from diffpolicy.generative.shapes import expand, where
from diffpolicy.generative.solvers.base import BoundSolver, Solver, weighted_sum
from diffpolicy.util import names
from diffpolicy.util.errors import require


@final
@dataclass(frozen=True)
class EulerMaruyama(Solver):
    """dx = [u + (g²/2)·score]·dt + g·dW: the path's marginals for any g(t) ≥ 0 (Ma et al. 2024, eq. 6).

    g = 0 is the flow. The notes' drift −½σ²·score alone is not this.

    Args:
        g: a number, a function of t, or "sigma": g² = 2σ, for which the drift's (g²/2)·score is −noise, finite at
            both ends, and the noise fades towards the data. A g that does not fade needs steps h·g²/(2σ²) < 2 to be
            stable, ever smaller ones near the data.

    Raises:
        ValueError: a negative or non-finite number or an unknown name.
    """

    g: float | str | Callable[[Tensor], Tensor] = "sigma"
    order: ClassVar[int] = 1
    calls_per_step: ClassVar[int] = 1
    stochastic: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if isinstance(self.g, str):
            names.check("diffusion g", self.g, ("sigma",))
        else:
            valid = callable(self.g) or 0 <= self.g < float("inf")
            require(valid, f"g={self.g}", "a finite number >= 0, a function of t or 'sigma'")

    def step(self, flow: BoundSolver, x: Tensor, t: Tensor, s: Tensor, cond: Any) -> Tensor:
        estimate, h = flow.estimate(x, t, cond), s - t
        if isinstance(self.g, str):
            g = (2 * flow.path.sigma(t)).sqrt()
        else:
            g = self.g(t) if callable(self.g) else torch.full_like(t, self.g)
        drift = velocity(estimate, t, flow.path) + weighted_sum((g**2 / 2, score(estimate, t, flow.path)))
        moved = euler_maruyama_step(x, drift, g, h, flow.noise_like(x))
        return where(expand(flow.path.sigma(s) == 0, x), flow.blend(estimate, s), moved)
