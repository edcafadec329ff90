"""Stochastic differential equations that belong to no probability path, and Langevin dynamics.

A solver follows a field along a path. What is here follows any drift: Brownian motion, the Ornstein–Uhlenbeck
process, the score of one noise level. It runs in the one sampling loop, as a flow map of its own.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, final

import torch
from torch import Tensor

from diffpolicy.generative.predictions import Field, FlowMap, score
from diffpolicy.generative.shapes import Generators, expand, randn
from diffpolicy.util.errors import require


def euler_maruyama_step(x: Tensor, drift: Tensor, g: Tensor, h: Tensor, noise: Tensor) -> Tensor:
    """Return x + h·drift + g·√h·noise (Kloeden & Platen 1992, eq. 10.2.2).

    Args:
        x: (B, *shape).
        drift: (B, *shape).
        g: (B,), the diffusion coefficient.
        h: (B,), the length of the step.
        noise: (B, *shape), standard normal.
    """
    return x + (expand(h, drift) * drift + expand(g * h.sqrt(), noise) * noise)


@final
@dataclass(frozen=True)
class SDE(FlowMap):
    """dx = drift(x, τ)·dτ + g(τ)·dW by Euler–Maruyama: a flow map `(x, t, s, cond) -> x_s` for `sample`.

    Time τ runs from 0 to `duration` while the sampling loop's t runs from 0 to 1, so n steps of a uniform grid are
    steps of duration/n. A step is of weak order 1, also the one into t = 1.

    Args:
        drift: (x (B, *shape), τ (B,), cond) -> (B, *shape).
        g: the diffusion coefficient, a number or a function τ (B,) -> (B,); 0 is Euler's method for an ODE.
        duration: the τ that t = 1 stands for.
        generator: draws dW.
        needs_grad: whether the drift differentiates inside, as a field's `needs_grad`.

    Raises:
        ValueError: g is a negative or non-finite number, or the duration not positive and finite.
    """

    drift: Callable[[Tensor, Tensor, Any], Tensor]
    g: float | Callable[[Tensor], Tensor]
    duration: float = 1.0
    generator: Generators = None
    needs_grad: bool = False

    def __post_init__(self) -> None:
        valid = callable(self.g) or 0 <= self.g < math.inf
        require(valid, f"g={self.g}", "a finite number >= 0 or a function of time")
        require(0 < self.duration < math.inf, f"duration={self.duration}", "a positive finite number")

    def __call__(self, x: Tensor, t: Tensor, s: Tensor, cond: Any = None) -> Tensor:
        tau = self.duration * t
        g = self.g(tau) if callable(self.g) else torch.full_like(tau, self.g)
        noise = randn(x.shape, self.generator, dtype=x.dtype, device=x.device)
        return euler_maruyama_step(x, self.drift(x, tau, cond), g, self.duration * (s - t), noise)


def langevin(field: Field, t: float, g: float = 1.0, duration: float = 1.0, generator: Generators = None) -> SDE:
    """Return dx = (g²/2)·∇ log p_t(x)·dτ + g·dW at one time t of the field's path, whose stationary law is p_t.

    Without the Metropolis step (Roberts & Tweedie 1996, "unadjusted"): a step length h leaves a bias of order h.

    Args:
        field: the field whose score to follow.
        t: the time on its path, in [0, 1); at t = 1 the score may not exist.
        g: the diffusion coefficient.
        duration: the τ at which to stop.
        generator: draws dW.

    Raises:
        ValueError: t outside [0, 1), and what `SDE` raises.
    """
    require(0 <= t < 1, f"t={t}", "0 <= t < 1 (noise is 0; at the data, 1, the score may not exist)")

    def drift(x: Tensor, tau: Tensor, cond: Any) -> Tensor:
        times = torch.full_like(tau, t)
        return g**2 / 2 * score(field(x, times, cond), times, field.path)

    return SDE(drift, g, duration, generator, field.needs_grad)
