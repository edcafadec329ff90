"""Solvers: data plus a declared order, bound to a field they become a flow map. Here: Euler, Heun, RK4.

The end of the path. At σ = 0 a velocity may not exist (σ̇ without bound, t = 1 never trained, a data prediction that
says nothing about the noise), so no solver evaluates a field there. The last step, into σ(s) = 0, is the data
estimate x_s = α_s·data (Karras et al. 2022, alg. 1, do the same). Fixed-step solvers take it from t, in one call:
close to the data, a velocity is the network's error divided by σ, which a stage near t = 1 would magnify. The error
of that step is of second order in its length, a lower order than Heun and RK4 have elsewhere: they have a grid of
their own, "quadratic", which keeps it short.
Dormand–Prince, meant for exact fields and likelihoods, first goes to `path.last_time`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar, final

import torch
from torch import Tensor

from diffpolicy.generative.paths import Path
from diffpolicy.generative.predictions import Estimate, Field, FlowMap, velocity
from diffpolicy.generative.shapes import Generators, expand, randn, where
from diffpolicy.util.errors import explain, require


class Solver(ABC):
    """A numerical method; frozen, without state.

    `order` is the global order on an interval of finite log-SNR (for stochastic solvers the weak one),
    `calls_per_step` the evaluations of the field in one step (the top of this file has the exception), `stochastic`
    whether a step draws noise, `adaptive` whether it chooses its length,
    `grid` the time grid that suits it where none is chosen; None leaves the process's.
    """

    order: int
    calls_per_step: int
    stochastic: bool
    adaptive: ClassVar[bool] = False
    grid: ClassVar[str | None] = None

    @property
    def reversible(self) -> bool:
        """Whether it also steps from data towards noise."""
        return False

    @property
    def learned(self) -> bool:
        """Whether it takes a variance that the network was taught, see `variance`."""
        return False

    @property
    def fixed(self) -> bool:
        """Whether x alone decides what comes out and in how many calls: no noise, and no steps of its own choice."""
        return not self.stochastic and not self.adaptive

    @final
    def bind(self, field: Field, path: Path, generator: Generators = None) -> BoundSolver:
        """Return the flow map of this solver for `field`, with a count and a multistep history of its own.

        Args:
            field: the field to follow.
            path: its path.
            generator: the noise of stochastic solvers.

        Raises:
            ValueError: `path` is not the field's.
        """
        require(field.path == path, f"a field on {field.path!r} is sampled on {path!r}", "the field's own path")
        return BoundSolver(self, field, path, generator)

    @abstractmethod
    def step(self, flow: BoundSolver, x: Tensor, t: Tensor, s: Tensor, cond: Any) -> Tensor:
        """Return x_s from x at t, evaluating the field through `flow`."""


@final
class BoundSolver(FlowMap):
    """A solver bound to a field: `(x, t, s, cond) -> x_s`; made by `Solver.bind`."""

    def __init__(self, solver: Solver, field: Field, path: Path, generator: Generators) -> None:
        self.solver = solver
        self.path = path
        self.needs_grad = field.needs_grad
        self.reversible = solver.reversible
        self.history: list[tuple[Tensor, Tensor]] = []  # (log-SNR, data) of former steps, newest first
        self.reached: Tensor | None = None  # where the newest step of the history ended
        self._field = field
        self._generator = generator

    def __call__(self, x: Tensor, t: Tensor, s: Tensor, cond: Any = None) -> Tensor:
        """Return x_s. With times per step, (B, T), steps with t = s keep their values.

        Reversible solvers step to s < t as well. At t = 1, where no field is evaluated, they begin at the path's last
        time before it, with what x is there on the mean, α·x.

        Raises:
            ValueError: unless t < s, both (B,), or t <= s, both (B, T); or t > s, both (B,), if it is reversible.
        """
        per_step = t.ndim == 2
        if self.reversible and not per_step and t.shape == s.shape == x.shape[:1] and bool((t > s).all()):
            last = t.clamp(max=self.path.last_time)
            x = where(expand(last < t, x), expand(self.path.alpha(last), x) * x, x)
            return self.solver.step(self, x, last, torch.minimum(s, last), cond)
        if not t.shape == s.shape == x.shape[: 1 + per_step] or not bool(((t <= s) if per_step else (t < s)).all()):
            raise ValueError(explain(f"t={t}, s={s}", f"t < s (noise is 0, data is 1), each ({x.shape[0]},)"))
        x_s = self.solver.step(self, x, t, s, cond)
        return where(expand(t < s, x), x_s, x) if per_step else x_s

    def estimate(self, x: Tensor, t: Tensor, cond: Any) -> Estimate:
        """Evaluate the field, and count the calls."""
        self.calls += self._field.calls
        return self._field(x, t, cond)

    def velocity(self, x: Tensor, t: Tensor, cond: Any) -> Tensor:
        """Evaluate the field as dx/dt."""
        return velocity(self.estimate(x, t, cond), t, self.path)

    def noise_like(self, x: Tensor) -> Tensor:
        """Draw N(0, I) in the shape of x."""
        return randn(x.shape, self._generator, dtype=x.dtype, device=x.device)

    def blend(self, estimate: Estimate, s: Tensor) -> Tensor:
        """Return α_s·data + σ_s·noise."""
        return self.path.interpolate(*estimate, s)

    def finish(self, x: Tensor, stop: Tensor, s: Tensor, cond: Any) -> Tensor:
        """Step from `stop` to s by the data estimate, where `stop` lies before s."""
        left = stop < s
        if not bool(left.any()):
            return x
        return where(expand(left, x), self.blend(self.estimate(x, stop, cond), s), x)


def weighted_sum(*terms: tuple[float | Tensor, Tensor]) -> Tensor:
    """Return Σ weight·term, with weights that are numbers, (B,) or (B, T)."""
    return sum(w * k if isinstance(w, float) else expand(w, k) * k for w, k in terms)


class ExplicitRungeKutta(Solver):
    """An explicit Runge–Kutta method for dx/dt = rate(x, t), with Butcher matrix a and nodes c."""

    a: ClassVar[tuple[tuple[float, ...], ...]]
    c: ClassVar[tuple[float, ...]]
    stochastic: ClassVar[bool] = False

    @final
    def slopes(
        self, rate: Callable[[Tensor, Tensor], Tensor], x: Tensor, t: Tensor, h: Tensor, k1: Tensor
    ) -> list[Tensor]:
        """Return the slopes k_1 … k_m of a step of length h, given k_1."""
        slopes = [k1]
        for row, node in zip(self.a[1:], self.c[1:], strict=True):
            stage = x + expand(h, x) * weighted_sum(*((w, k) for w, k in zip(row, slopes, strict=True) if w))
            slopes.append(rate(stage, t + node * h))
        return slopes


class FixedStep(ExplicitRungeKutta):
    """One Runge–Kutta step from t to s with weights b."""

    b: ClassVar[tuple[float, ...]]

    @property
    def reversible(self) -> bool:
        return True

    @final
    def advance(self, rate: Callable[[Tensor, Tensor], Tensor], x: Tensor, t: Tensor, h: Tensor) -> Tensor:
        """Return x at t + h on the solution of dx/dt = rate(x, t) through x at t, for any field and sign of h."""
        slopes = self.slopes(rate, x, t, h, rate(x, t))
        return x + expand(h, x) * weighted_sum(*zip(self.b, slopes, strict=True))

    @final
    def step(self, flow: BoundSolver, x: Tensor, t: Tensor, s: Tensor, cond: Any) -> Tensor:
        stop = torch.where(flow.path.sigma(s) == 0, t, s)
        if bool((stop != t).any()):
            x = self.advance(lambda x, t: flow.velocity(x, t, cond), x, t, stop - t)
        return flow.finish(x, stop, s, cond)


@final
@dataclass(frozen=True)
class Euler(FixedStep):
    """x_s = x + (s − t)·u."""

    order: ClassVar[int] = 1
    calls_per_step: ClassVar[int] = 1
    a, b, c = ((),), (1.0,), (0.0,)


@final
@dataclass(frozen=True)
class Heun(FixedStep):
    """The explicit trapezoidal rule."""

    order: ClassVar[int] = 2
    calls_per_step: ClassVar[int] = 2
    grid: ClassVar[str | None] = "quadratic"
    a, b, c = ((), (1.0,)), (0.5, 0.5), (0.0, 1.0)


@final
@dataclass(frozen=True)
class RK4(FixedStep):
    """The classical fourth-order method."""

    order: ClassVar[int] = 4
    calls_per_step: ClassVar[int] = 4
    grid: ClassVar[str | None] = "quadratic"
    a = ((), (0.5,), (0.0, 0.5), (0.0, 0.0, 1.0))
    b = (1 / 6, 1 / 3, 1 / 3, 1 / 6)
    c = (0.0, 0.5, 0.5, 1.0)
