"""Solvers: data plus a declared order, bound to a field they become a flow map.

A flow map is `(x (B, *shape), t (B,), s (B,), cond) -> x_s` for times t < s. Its attribute `calls` counts the
network calls made so far, and `needs_grad` is the field's. A one-step network is a flow map too.

The end of the path. At σ = 0 a velocity may not exist (σ̇ without bound, t = 1 never trained, a data
prediction that says nothing about the noise), so no solver evaluates a field there. The last step, into
σ(s) = 0, ends with the data estimate x_s = α_s·data (Karras et al. 2022, alg. 1, do the same): Euler and
Euler–Maruyama take it from t; Heun and RK4 too where the path's end is not smooth, else they first go on to
`path.last_time`, which keeps their order at the price of one more call; Dormand–Prince always does so.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import Any, ClassVar, final

import torch
from torch import Tensor

from diffpolicy.generative.paths import Path
from diffpolicy.generative.predictions import Estimate, Field, score, velocity
from diffpolicy.generative.sde import euler_maruyama_step
from diffpolicy.generative.shapes import Generators, expand, randn
from diffpolicy.util import names


class Solver(ABC):
    """A numerical method; frozen, without state.

    `order` is the global order on an interval of finite log-SNR (for stochastic solvers the weak one),
    `calls_per_step` the evaluations of the field in one step (the top of this file has the exception),
    `stochastic` whether a step draws noise.
    """

    order: int
    calls_per_step: int
    stochastic: bool

    @final
    def bind(self, field: Field, path: Path, generator: Generators = None) -> "FlowMap":
        """The flow map of this solver for `field`, with a count and a multistep history of its own.

        `generator` (one, or one per row) feeds stochastic solvers. ValueError when `path` is not the field's.
        """
        if field.path != path:
            raise ValueError(f"the field is one on {field.path!r}; sample it on that path, not on {path!r}")
        return FlowMap(self, field, path, generator)

    @abstractmethod
    def step(self, flow: "FlowMap", x: Tensor, t: Tensor, s: Tensor, cond: Any) -> Tensor:
        """x_s from x at t, evaluating the field through `flow`."""


@final
class FlowMap:
    """A solver bound to a field: `(x, t, s, cond) -> x_s`; made by `Solver.bind`."""

    def __init__(self, solver: Solver, field: Field, path: Path, generator: Generators) -> None:
        self.solver = solver
        self.path = path
        self.needs_grad = field.needs_grad
        self.calls = 0
        self.history: list[tuple[Tensor, Tensor]] = []  # (log-SNR, data) of former steps, newest first
        self.reached: Tensor | None = None  # where the newest step of the history ended
        self._field = field
        self._generator = generator

    def __call__(self, x: Tensor, t: Tensor, s: Tensor, cond: Any = None) -> Tensor:
        """x_s. Raises ValueError unless t and s are (B,) with t < s."""
        if not t.shape == s.shape == x.shape[:1] or not bool((t < s).all()):
            raise ValueError(f"need t < s (noise is 0, data is 1), each ({len(x)},), got t={t} and s={s}")
        return self.solver.step(self, x, t, s, cond)

    def estimate(self, x: Tensor, t: Tensor, cond: Any) -> Estimate:
        self.calls += self._field.calls
        return self._field(x, t, cond)

    def velocity(self, x: Tensor, t: Tensor, cond: Any) -> Tensor:
        return velocity(self.estimate(x, t, cond), t, self.path)

    def noise_like(self, x: Tensor) -> Tensor:
        return randn(x.shape, self._generator, dtype=x.dtype, device=x.device)

    def blend(self, estimate: Estimate, s: Tensor) -> Tensor:
        """α_s·data + σ_s·noise."""
        return self.path.interpolate(*estimate, s)

    def finish(self, x: Tensor, stop: Tensor, s: Tensor, cond: Any) -> Tensor:
        """From `stop` to s by the data estimate, for the rows that stopped before s."""
        left = stop < s
        if not bool(left.any()):
            return x
        return torch.where(expand(left, x), self.blend(self.estimate(x, stop, cond), s), x)


def _rows(*terms: tuple[float | Tensor, Tensor]) -> Tensor:
    """Σ weight·term, weights numbers or (B,)."""
    return sum(w * k if isinstance(w, float) else expand(w, k) * k for w, k in terms)


class ExplicitRungeKutta(Solver):
    """Stages of an explicit Runge–Kutta method for dx/dt = u with Butcher matrix a and nodes c."""

    a: ClassVar[tuple[tuple[float, ...], ...]]
    c: ClassVar[tuple[float, ...]]
    stochastic: ClassVar[bool] = False

    @final
    def slopes(self, flow: FlowMap, x: Tensor, t: Tensor, h: Tensor, cond: Any, k1: Tensor) -> list[Tensor]:
        """k_1 … k_m of a step of length h (B,), given k_1."""
        slopes = [k1]
        for row, node in zip(self.a[1:], self.c[1:], strict=True):
            stage = x + expand(h, x) * _rows(*((w, k) for w, k in zip(row, slopes, strict=True) if w))
            slopes.append(flow.velocity(stage, t + node * h, cond))
        return slopes


class FixedStep(ExplicitRungeKutta):
    """One Runge–Kutta step from t to s with weights b."""

    b: ClassVar[tuple[float, ...]]

    @final
    def step(self, flow: FlowMap, x: Tensor, t: Tensor, s: Tensor, cond: Any) -> Tensor:
        on = self.order > 1 and flow.path.smooth_end
        stop = torch.where(flow.path.sigma(s) == 0, t.clamp(min=flow.path.last_time) if on else t, s)
        if bool((stop > t).any()):
            slopes = self.slopes(flow, x, t, stop - t, cond, flow.velocity(x, t, cond))
            x = x + expand(stop - t, x) * _rows(*zip(self.b, slopes, strict=True))
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
    a, b, c = ((), (1.0,)), (0.5, 0.5), (0.0, 1.0)


@final
@dataclass(frozen=True)
class RK4(FixedStep):
    """The classical fourth-order method."""

    order: ClassVar[int] = 4
    calls_per_step: ClassVar[int] = 4
    a = ((), (0.5,), (0.0, 0.5), (0.0, 0.0, 1.0))
    b = (1 / 6, 1 / 3, 1 / 3, 1 / 6)
    c = (0.0, 0.5, 0.5, 1.0)


@final
@dataclass(frozen=True)
class DormandPrince(ExplicitRungeKutta):
    """The adaptive 5(4) pair (Dormand & Prince 1980; Hairer, Nørsett & Wanner, table II.5.2 and eq. II.4.13).

    Each row has its own time and step length and is judged by its own error, so its result does not depend on
    the others. `calls_per_step` is per attempted inner step; a step from t to s starts with one call more.

    Args:
        rtol, atol: the error of an inner step, as root mean square over a row, is kept below
            atol + rtol·max(|x|, |x'|).
        max_steps: attempted inner steps allowed between t and s.

    Raises ValueError unless all are positive; when run, RuntimeError after max_steps and FloatingPointError
    for a velocity that is not finite.
    """

    rtol: float = 1e-5
    atol: float = 1e-5
    max_steps: int = 1000
    order: ClassVar[int] = 5
    calls_per_step: ClassVar[int] = 6
    a: ClassVar = (
        (),
        (1 / 5,),
        (3 / 40, 9 / 40),
        (44 / 45, -56 / 15, 32 / 9),
        (19372 / 6561, -25360 / 2187, 64448 / 6561, -212 / 729),
        (9017 / 3168, -355 / 33, 46732 / 5247, 49 / 176, -5103 / 18656),
        (35 / 384, 0.0, 500 / 1113, 125 / 192, -2187 / 6784, 11 / 84),  # also the weights of the result
    )
    c: ClassVar = (0.0, 1 / 5, 3 / 10, 4 / 5, 8 / 9, 1.0, 1.0)
    # weights of the fifth-order result less those of the fourth-order one
    error: ClassVar = (71 / 57600, 0.0, -71 / 16695, 71 / 1920, -17253 / 339200, 22 / 525, -1 / 40)

    def __post_init__(self) -> None:
        if not (self.rtol > 0 and self.atol > 0 and self.max_steps > 0):
            raise ValueError(
                f"rtol, atol and max_steps must be positive, got {self.rtol}, {self.atol}, {self.max_steps}"
            )

    def step(self, flow: FlowMap, x: Tensor, t: Tensor, s: Tensor, cond: Any) -> Tensor:
        stop = torch.where(flow.path.sigma(s) == 0, t.clamp(min=flow.path.last_time), s)
        now, h, first, attempts = t, (stop - t) / 10, None, 0
        while bool((active := now < stop).any()):
            if attempts == self.max_steps:
                rows = active.nonzero().flatten().tolist()
                raise RuntimeError(f"rows {rows} are not done; raise max_steps, rtol or atol of {self}")
            attempts += 1
            h = torch.minimum(h, stop - now)  # 0 in finished rows
            if first is None:
                first = flow.velocity(x, now, cond)
            slopes = self.slopes(flow, x, now, h, cond, first)
            new = x + expand(h, x) * _rows(*zip(self.a[-1], slopes[:-1], strict=True))
            error = expand(h, x) * _rows(*zip(self.error, slopes, strict=True))
            scale = self.atol + self.rtol * torch.maximum(x.abs(), new.abs())
            norm = (error / scale).square().flatten(1).mean(1).sqrt()
            if not bool(norm.isfinite().all()):
                rows = (~norm.isfinite()).nonzero().flatten().tolist()
                raise FloatingPointError(f"dopri5 met a velocity that is not finite in rows {rows}")
            accept = active & (norm <= 1)
            first = torch.where(expand(accept, x), slopes[-1], first)
            x = torch.where(expand(accept, x), new, x)
            now = torch.where(accept, torch.where(h >= stop - now, stop, now + h), now)
            h = h * (0.9 * norm.to(h.dtype) ** -0.2).clamp(0.2, 5.0)
        return flow.finish(x, stop, s, cond)


@final
@dataclass(frozen=True)
class DDIM(Solver):
    """DDIM(η) on any path: x_s = α_s·data + √(σ_s² − τ²)·noise + τ·ξ.

    τ² = η²·(σ_s²/σ_t²)·(σ_t² − (α_t/α_s)²·σ_s²) (Song, Meng & Ermon 2021, eq. 12, 16). η = 0 is DDIM and
    DPM-Solver++ 1S, on the linear path an Euler step. η = 1 is DDPM: over all steps of a DiscretePath the
    posterior of Ho et al. 2020, eq. 7 ("fixed small"), mean √ᾱ_{k−1}·β_k/(1−ᾱ_k)·data +
    √(1−β_k)·(1−ᾱ_{k−1})/(1−ᾱ_k)·x and variance β_k·(1−ᾱ_{k−1})/(1−ᾱ_k), which the notes print with α for ᾱ
    in places; their DDIM formula lacks the −τ² under the root.

    Raises ValueError unless 0 <= eta <= 1.
    """

    eta: float = 0.0
    order: ClassVar[int] = 1
    calls_per_step: ClassVar[int] = 1

    def __post_init__(self) -> None:
        if not 0 <= self.eta <= 1:
            raise ValueError(f"eta must lie in [0, 1] (0 = DDIM, 1 = DDPM), got {self.eta}")

    @property
    def stochastic(self) -> bool:
        return self.eta > 0

    def step(self, flow: FlowMap, x: Tensor, t: Tensor, s: Tensor, cond: Any) -> Tensor:
        estimate = flow.estimate(x, t, cond)
        if not self.stochastic:
            return flow.blend(estimate, s)
        path = flow.path
        sigma_t, sigma_s = path.sigma(t), path.sigma(s)
        # the clamps catch roundings below 0 in steps too short to matter
        gone = (sigma_t**2 - (path.alpha(t) / path.alpha(s) * sigma_s) ** 2).clamp(min=0)
        tau = self.eta * sigma_s / sigma_t * gone.sqrt()
        rest = (sigma_s**2 - tau**2).clamp(min=0).sqrt()
        data, noise = estimate
        return _rows((path.alpha(s), data), (rest, noise), (tau, flow.noise_like(x)))


@final
@dataclass(frozen=True)
class DPMSolverMultistep(Solver):
    """DPM-Solver++ 2M and 3M: multistep in λ for the data prediction (Lu et al. 2022b, alg. 2 and app. B).

    x_s = (σ_s/σ_t)·x + α_s·∫ e^{λ − λ_s} data(λ) dλ, with data(λ) extrapolated from the last `order`
    estimates; 2M is the paper's midpoint form. As published, the first step, without history, is of first
    order; so is a step into σ = 0, where λ is infinite. A step that does not go on where the last one ended
    starts a new history. 3M has order 3 once its history is exact (a first step leaves an O(h²) error), for
    which its second difference takes a factor 2 that the published code lacks.

    Raises ValueError unless order is 2 or 3.
    """

    order: int = 2
    calls_per_step: ClassVar[int] = 1
    stochastic: ClassVar[bool] = False

    def __post_init__(self) -> None:
        if self.order not in (2, 3):
            raise ValueError(f"the order must be 2 or 3, got {self.order}; order 1 is DDIM with eta=0")

    def step(self, flow: FlowMap, x: Tensor, t: Tensor, s: Tensor, cond: Any) -> Tensor:
        estimate = flow.estimate(x, t, cond)
        lam, alpha = flow.path.log_snr(t), flow.path.alpha(s)
        going_on = flow.reached is not None and torch.equal(flow.reached, t)
        past = flow.history[: self.order - 1] if going_on else []
        flow.history, flow.reached = [(lam, estimate.data), *past], s

        x_s = flow.blend(estimate, s)
        if not past:
            return x_s
        h = flow.path.log_snr(s) - lam
        h0 = lam - past[0][0]  # d1, d2: first and second derivative of the data in λ, times h and h²
        d1 = _rows((h / h0, estimate.data - past[0][1]))
        if len(past) == 1:
            correction = _rows((-torch.expm1(-h) / 2, d1))
        else:
            h1 = past[0][0] - past[1][0]
            bend = d1 - _rows((h / h1, past[0][1] - past[1][1]))
            d1 = d1 + _rows((h0 / (h0 + h1), bend))
            d2 = _rows((2 * h / (h0 + h1), bend))
            phi = torch.expm1(-h)
            correction = _rows((phi / h + 1, d1), (0.5 - (phi + h) / h**2, d2))
        return torch.where(expand(h.isfinite(), x), x_s + _rows((alpha, correction)), x_s)


@final
@dataclass(frozen=True)
class EulerMaruyama(Solver):
    """dx = [u + (g²/2)·score]·dt + g·dW: the path's marginals for any g(t) ≥ 0 (Ma et al. 2024, eq. 6).

    g = 0 is the flow. The notes' drift −½σ²·score alone is not this.

    Args:
        g: a number, a function of t (B,) -> (B,), or "sigma": g² = 2σ, for which the drift's (g²/2)·score is
            −noise, finite at both ends, and the noise fades towards the data. A g that does not fade needs
            steps h·g²/(2σ²) < 2 to be stable, ever smaller ones near the data.

    Raises ValueError for a negative or non-finite number or an unknown name.
    """

    g: float | str | Callable[[Tensor], Tensor] = "sigma"
    order: ClassVar[int] = 1
    calls_per_step: ClassVar[int] = 1
    stochastic: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if isinstance(self.g, str):
            names.check("diffusion g", self.g, ("sigma",))
        elif not callable(self.g) and not 0 <= self.g < float("inf"):
            raise ValueError(f"g must be a finite number >= 0, a function of t or 'sigma', got {self.g}")

    def step(self, flow: FlowMap, x: Tensor, t: Tensor, s: Tensor, cond: Any) -> Tensor:
        estimate, h = flow.estimate(x, t, cond), s - t
        if isinstance(self.g, str):
            g = (2 * flow.path.sigma(t)).sqrt()
        else:
            g = self.g(t) if callable(self.g) else torch.full_like(t, self.g)
        drift = velocity(estimate, t, flow.path) + _rows((g**2 / 2, score(estimate, t, flow.path)))
        moved = euler_maruyama_step(x, drift, g, h, flow.noise_like(x))
        return torch.where(expand(flow.path.sigma(s) == 0, x), flow.blend(estimate, s), moved)


# Name -> (class, options that the name fixes).
SOLVERS: dict[str, tuple[type[Solver], dict[str, Any]]] = {
    "euler": (Euler, {}),
    "heun": (Heun, {}),
    "rk4": (RK4, {}),
    "dopri5": (DormandPrince, {}),
    "ddpm": (DDIM, {"eta": 1.0}),
    "ddim": (DDIM, {}),
    "dpmpp_1s": (DDIM, {"eta": 0.0}),
    "dpmpp_2m": (DPMSolverMultistep, {"order": 2}),
    "dpmpp_3m": (DPMSolverMultistep, {"order": 3}),
    "euler_maruyama": (EulerMaruyama, {}),
}


def make_solver(name: str, **options: Any) -> Solver:
    """The solver called `name` in `SOLVERS`, with those arguments of its class that the name leaves open.

    Raises ValueError for an unknown name or option, naming the near ones.
    """
    names.check("solver", name, SOLVERS)
    kind, fixed = SOLVERS[name]
    for option in options:
        names.check(f"option of solver {name}", option, [f.name for f in fields(kind) if f.name not in fixed])
    return kind(**fixed, **options)
