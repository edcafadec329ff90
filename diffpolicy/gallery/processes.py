"""Differential equations: a linear one, Brownian motion, the Ornstein–Uhlenbeck process."""

from __future__ import annotations

import math

import torch
from matplotlib.figure import Figure
from torch import Tensor

from diffpolicy.gallery.style import (
    CYCLE,
    DATA,
    FAINT,
    INK,
    MUTED,
    VIOLET,
    Exhibit,
    Settings,
    canvas,
    histogram,
)
from diffpolicy.generative.paths import LinearPath
from diffpolicy.generative.predictions import ModelField
from diffpolicy.generative.sampling import sample, time_grid
from diffpolicy.generative.sde import SDE
from diffpolicy.generative.solvers import make_solver

_PATH = LinearPath()
_HALF = 0.5  # a process runs over t in [0, 1/2], where no solver has an end of the path to mind


def _linear(solver: str, steps: int, duration: float, starts: Tensor) -> Tensor:
    """Solve dx = −x·dτ over `duration` from starts (B, 1): (steps + 1, B, 1). Any velocity is a field on a path."""
    rate = duration / _HALF
    field = ModelField(lambda x, t, cond: -rate * x, _PATH, "velocity")
    times = time_grid("uniform", steps, _PATH, t_end=_HALF)
    return sample(make_solver(solver).bind(field, _PATH), starts, times, trajectory=True)


def linear_ode(settings: Settings) -> Figure:
    """Draw the flow of dx = −x·dτ, Euler's method on it, and the errors of three solvers."""
    figure, ((flow, euler, error),) = canvas(1, 3, 3.3, 2.7)
    duration = 6.6
    starts = torch.linspace(-2, 2, 9, dtype=torch.float64)[:, None]
    fine = settings.size(400, 40)
    tau = torch.linspace(0, duration, fine + 1)
    flow.plot(tau, _linear("rk4", fine, duration, starts)[..., 0], color=DATA, linewidth=1)
    grid_tau, grid_x = torch.meshgrid(torch.linspace(0.2, 6.4, 14), torch.linspace(-2, 2, 11), indexing="ij")
    slope = torch.hypot(torch.ones_like(grid_x), grid_x)
    flow.quiver(grid_tau, grid_x, 1 / slope, -grid_x / slope, color=MUTED, angles="xy", scale=24, width=0.003)
    flow.set(title="the flow from nine starts", xlabel="time τ", ylabel="x")

    one = torch.ones(1, 1, dtype=torch.float64)
    euler.plot(tau, torch.exp(-tau), color=INK, linewidth=2.5, alpha=0.3, label="exact")
    for color, steps in zip(CYCLE, (33, 8, 4, 3), strict=False):
        h = duration / steps
        line = _linear("euler", steps, duration, one)[:, 0, 0]
        euler.plot(torch.linspace(0, duration, steps + 1), line, "o-", color=color, ms=2.5, label=f"θh = {h:.2g}")
    euler.axhline(0, color=FAINT, zorder=-1)
    euler.legend(ncols=2, loc="upper center")
    euler.set(title="Euler's method: unstable beyond θh = 2", xlabel="time τ", ylim=(-1.9, 2.6))

    counts = [2**k for k in range(2, settings.size(9, 5))]
    for name, color, order in (("euler", CYCLE[0], 1), ("heun", CYCLE[1], 2), ("rk4", CYCLE[2], 4)):
        ends = [float(_linear(name, n, 2.0, one)[-1, 0, 0]) for n in counts]
        h = [2.0 / n for n in counts]
        error.loglog(
            h, [abs(x - math.exp(-2.0)) for x in ends], "o-", color=color, ms=3, label=f"{name}, order {order}"
        )
    left_out = [abs(math.exp(-s) - (1 - s)) / s for s in h]
    error.loglog(h, left_out, "--", color=INK, linewidth=1, label="R(h) of one Euler step")
    error.legend()
    error.set(title="error at τ = 2", xlabel="step h, at θ = 1")
    return figure


def brownian_motion(settings: Settings) -> Figure:
    """Draw paths of Brownian motion and their law."""
    figure, ((paths, law),) = canvas(1, 2, 4.6, 2.7, width_ratios=[1.5, 1])
    steps, many = settings.size(400, 40), settings.size(20_000, 200)
    motion = SDE(lambda x, tau, cond: torch.zeros_like(x), 1.0, 1.0, settings.generator(2))
    start = torch.zeros(many, 1, dtype=torch.float64)
    walks = sample(motion, start, time_grid("uniform", steps, _PATH), trajectory=True)[..., 0]
    t = torch.linspace(0, 1, steps + 1)
    for width, alpha in ((2, 0.1), (1, 0.12)):
        paths.fill_between(t, -width * t.sqrt(), width * t.sqrt(), color=DATA, alpha=alpha, linewidth=0)
    paths.plot(t, walks[:, :14], linewidth=0.7)
    paths.set(title="fourteen paths; shaded: ±√t and ±2√t", xlabel="t", ylabel="$W_t$", xlim=(0, 1))
    x = torch.linspace(-3.2, 3.2, 200)
    for color, moment in zip(CYCLE, (0.1, 0.4, 1.0), strict=False):
        histogram(law, walks[round(moment * steps)], color, bins=60)
        law.plot(x, torch.exp(-x.square() / (2 * moment)) / math.sqrt(2 * math.pi * moment), color=color)
        law.plot([], [], color=color, label=f"t = {moment}")
    law.legend()
    law.set(title="their law (bars), and N(0, t)", xlabel="$W_t$", yticks=[], xlim=(-3.2, 3.2))
    return figure


def ornstein_uhlenbeck(settings: Settings) -> Figure:
    """Draw paths of the process at three noise levels and its stationary law."""
    figure, (panels,) = canvas(1, 4, 2.5, 2.6)
    theta, duration = 1.0, 6.0
    steps, many = settings.size(300, 40), settings.size(10_000, 200)
    starts = torch.linspace(-3, 3, many, dtype=torch.float64)[:, None]
    tau, x = torch.linspace(0, duration, steps + 1), torch.linspace(-3.4, 3.4, 200)
    for number, (axes, sigma) in enumerate(zip(panels, (0.0, 0.5, 1.2), strict=False)):
        process = SDE(lambda x, tau, cond: -theta * x, sigma, duration, settings.generator(3, number))
        paths = sample(process, starts, time_grid("uniform", steps, _PATH), trajectory=True)[..., 0]
        shown = torch.linspace(0, many - 1, 9).long()
        spread = sigma / math.sqrt(2 * theta)
        axes.axhspan(-2 * spread, 2 * spread, color=DATA, alpha=0.12, linewidth=0)
        axes.plot(tau, paths[:, shown], linewidth=0.7)
        axes.set(title=f"θ = 1, σ = {sigma:g}", xlabel="time τ", ylim=(-3.4, 3.4))
        if sigma:
            color = DATA if sigma < 1 else VIOLET
            histogram(panels[3], paths[-1], color)
            law = torch.exp(-x.square() / (2 * spread**2)) / (math.sqrt(2 * math.pi) * spread)
            panels[3].plot(x, law, color=color, label=f"σ = {sigma:g}")
    panels[0].set_ylabel("x")
    panels[3].legend()
    panels[3].set(title="at τ = 6, and the stationary law", xlabel="x", yticks=[])
    return figure


EXHIBITS = (
    Exhibit(
        "linear_ode",
        "A linear ordinary differential equation, and its flow",
        r"\frac{\mathrm{d}x}{\mathrm{d}\tau} = u(x) = -\theta x, \qquad \psi_\tau(x_0) = e^{-\theta\tau} x_0,"
        r" \qquad x_{\tau+h} = x_\tau + h\,u(x_\tau)",
        "dx/dτ = u(x) = −θx,   ψ_τ(x₀) = e^(−θτ)·x₀;   Euler: x(τ + h) = x(τ) + h·u(x(τ))",
        (
            "diffpolicy.generative.solvers:Euler",
            "diffpolicy.generative.predictions:ModelField",
            "diffpolicy.generative.sampling:sample",
        ),
        "Euler's method follows the flow for small steps, overshoots beyond θh = 1 and runs away beyond θh = 2; "
        "halving the step halves its error, quarters Heun's, and divides that of RK4 by sixteen. What one step "
        "leaves out of Taylor's series is h·R(h), and R goes to 0 with h: to first order, as the error of the whole "
        "way does.",
        linear_ode,
        "They print a loop “for i = 1 … n − 1” with h = 1/n, which stops one step short of t = 1: n steps are n "
        "calls.",
    ),
    Exhibit(
        "brownian_motion",
        "Brownian motion",
        r"W_0 = 0, \qquad W_{t+h} = W_t + \sqrt{h}\,\varepsilon, \quad \varepsilon \sim \mathcal N(0, 1),"
        r" \qquad W_t \sim \mathcal N(0, t)",
        "W₀ = 0,   W(t + h) = W(t) + √h·ε with ε ~ N(0, 1),   W(t) ~ N(0, t)",
        ("diffpolicy.generative.sde:SDE", "diffpolicy.generative.sde:euler_maruyama_step"),
        "Paths are rough at every scale, and spread like √t: the bars of 20,000 paths lie on the normal densities.",
        brownian_motion,
    ),
    Exhibit(
        "ornstein_uhlenbeck",
        "The Ornstein–Uhlenbeck process by Euler–Maruyama",
        r"\mathrm{d}x = -\theta x\,\mathrm{d}\tau + \sigma\,\mathrm{d}W, \qquad"
        r" x_\infty \sim \mathcal N\!\left(0, \tfrac{\sigma^2}{2\theta}\right)",
        "dx = −θx·dτ + σ·dW,   stationary law N(0, σ²/(2θ))",
        ("diffpolicy.generative.sde:SDE", "diffpolicy.generative.sde:euler_maruyama_step"),
        "Without noise all paths die out; with it they forget where they began and settle in the stationary law, "
        "whose ±2 standard deviations are shaded.",
        ornstein_uhlenbeck,
    ),
)
