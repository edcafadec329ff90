"""Probability paths and their velocity fields, conditional and marginal; the schedules side by side."""

from __future__ import annotations

import math

import torch
from matplotlib.figure import Figure
from torch import Tensor

from diffpolicy.gallery.style import (
    AMBER,
    CYCLE,
    DEEP,
    GREEN,
    INK,
    MODEL,
    MUTED,
    Exhibit,
    Settings,
    arrows,
    canvas,
    cloud,
    lattice,
    plane,
    shade,
    shade_grid,
)
from diffpolicy.generative.mixture import ExactField, GaussianMixture
from diffpolicy.generative.paths import CosinePath, DiscretePath, LinearPath, Path, VariancePreservingPath
from diffpolicy.generative.predictions import velocity
from diffpolicy.generative.sampling import sample, time_grid
from diffpolicy.generative.solvers import make_solver

_PATH = LinearPath()


def mixture(radius: float = 1.6, std: float = 0.3, modes: int = 5) -> GaussianMixture:
    """Return a mixture of equal modes on a circle, float64."""
    angle = math.pi / 2 + 2 * math.pi * torch.arange(modes, dtype=torch.float64) / modes
    means = radius * torch.stack([angle.cos(), angle.sin()], dim=1)
    return GaussianMixture(means, torch.full((modes,), std).double(), torch.full((modes,), 1 / modes).double())


def point(at: tuple[float, ...]) -> GaussianMixture:
    """Return a mixture whose data is all in one point."""
    return GaussianMixture(torch.tensor([at]).double(), torch.zeros(1).double(), torch.ones(1).double())


def same_time(t: float, x: Tensor) -> Tensor:
    """Return the time t for every sample of x, float64."""
    return torch.full((len(x),), t, dtype=torch.float64)


def probability_paths(settings: Settings) -> Figure:
    """Draw samples and densities of the path, given one data point and marginally."""
    times = (0.0, 0.25, 0.5, 0.75, 1.0)
    figure, grid = canvas(2, len(times))
    n, side = settings.size(700, 50), settings.size(120, 30)
    z = (-0.94, -1.29)
    everything = mixture()
    for line, titled, data, color, name in (
        (grid[0], True, point(z), MODEL, "given one data point"),
        (grid[1], False, everything, DEEP, "all of the data"),
    ):
        noise = torch.randn(n, 2, generator=settings.generator(4), dtype=torch.float64)
        clean, field = data.sample(n, settings.generator(4, 1)), ExactField(data, _PATH)
        for axes, t in zip(line, times, strict=True):
            if t < 1 or data is everything:  # at t = 1 the conditional path is the point itself, without a density
                shade(axes, lambda x, t=t, field=field: field.log_density(x, same_time(t, x)), 3.0, side)
            cloud(axes, _PATH.interpolate(clean, noise, same_time(t, clean)), color, alpha=0.55 if t < 1 else 0.8)
            plane(axes, 3.0, f"t = {t:g}" if titled else "", name if t == 0 else "")
    for axes in grid[0]:
        axes.plot(*z, "o", color=INK, ms=4)
    return figure


def velocity_fields(settings: Settings) -> Figure:
    """Draw velocities and their flow, given one data point and marginally."""
    times = (0.1, 0.5, 0.8)
    figure, grid = canvas(2, len(times) + 1)
    side, n = settings.size(120, 30), settings.size(60, 10)
    where = lattice(2.7, 15)
    start = torch.randn(n, 2, generator=settings.generator(5), dtype=torch.float64)
    z = tuple(mixture().means[2].tolist())
    for line, titled, data, name in (
        (grid[0], True, point(z), "given one data point"),
        (grid[1], False, mixture(), "all of the data"),
    ):
        field = ExactField(data, _PATH)
        for axes, t in zip(line, times, strict=False):
            shade(axes, lambda x, t=t, field=field: field.log_density(x, same_time(t, x)), 3.0, side)
            u = velocity(field(where, same_time(t, where)), same_time(t, where), _PATH)
            # a conditional velocity grows like 1/(1 − t): drawn a little shorter than it is where it is long
            arrows(axes, where, u / (1 + 0.4 * u.norm(dim=1, keepdim=True)), scale=26)
            plane(axes, 3.0, f"velocity at t = {t:g}" if titled else "", name if t == times[0] else "")
        flow = make_solver("rk4").bind(field, _PATH)
        lines = sample(flow, start, time_grid("uniform", settings.size(60, 8), _PATH), trajectory=True)
        line[-1].plot(lines[..., 0], lines[..., 1], color=MUTED, linewidth=0.7)
        cloud(line[-1], lines[0], INK, 5, 0.6)
        cloud(line[-1], lines[-1], MODEL, 12, 0.9)
        plane(line[-1], 3.0, "its flow, noise to data" if titled else "")
    return figure


SCHEDULES: dict[str, Path] = {
    "linear": LinearPath(),
    "cosine": CosinePath(),
    "variance preserving": VariancePreservingPath(),
}


def schedules(settings: Settings) -> Figure:
    """Draw the schedules of all paths, and the flow of one mixture on each."""
    figure, (top, bottom) = canvas(2, 3, 3.2, 2.5)
    t = torch.linspace(0, 1, settings.size(401, 41), dtype=torch.float64)
    tables = {
        "DDPM, squared cosine": (DiscretePath(100), GREEN),
        "DDPM, linear β": (DiscretePath(100, "linear"), AMBER),
    }
    for (name, path), color in zip(SCHEDULES.items(), CYCLE, strict=False):
        top[0].plot(t, path.alpha(t), color=color)
        top[0].plot(t, path.sigma(t), color=color, linestyle=(0, (3, 2)))
        top[1].plot(t[1:-1], path.log_snr(t[1:-1]), color=color, label=name)
        tenths = torch.linspace(0, 1, 11, dtype=torch.float64)
        top[2].plot(path.alpha(t), path.sigma(t), color=color, linewidth=1)
        cloud(
            top[2],
            torch.stack([path.alpha(tenths), path.sigma(tenths)], dim=1),
            color,
            24 if name == "cosine" else 12,
            1,
        )
    for name, (path, color) in tables.items():
        top[1].plot(t[1:-1], path.log_snr(t[1:-1]), color=color, linewidth=1, linestyle=(0, (1, 1)), label=name)
    top[0].set(title="α (solid) and σ (dashed)", xlabel="t: noise → data")
    top[1].set(title="log-SNR λ = log(α/σ)", xlabel="t", ylim=(-7, 7))
    top[1].legend(fontsize=7)
    top[2].set(title="σ against α; a dot every tenth of t", xlabel="α", ylabel="σ", aspect="equal")

    two = GaussianMixture(
        torch.tensor([[-1.2], [0.8]]).double(), torch.tensor([0.2, 0.35]).double(), torch.tensor([0.5, 0.5]).double()
    )
    x = torch.linspace(-2.8, 2.8, settings.size(161, 31), dtype=torch.float64)
    start = torch.linspace(-2, 2, 9, dtype=torch.float64)[:, None]
    for axes, (name, path) in zip(bottom, SCHEDULES.items(), strict=True):
        field = ExactField(two, path)
        density = torch.stack([field.log_density(x[:, None], same_time(float(time), x)).exp() for time in t], dim=1)
        shade_grid(axes, density.numpy(), (0, 1, -2.8, 2.8))
        times = time_grid("uniform", settings.size(100, 10), path)
        lines = sample(make_solver("dopri5").bind(field, path), start, times, trajectory=True)[..., 0]
        axes.plot(times, lines, color=INK, linewidth=0.8, alpha=0.7)
        axes.set(title=f"{name}: $p_t(x)$ and its flow", xlabel="t", ylim=(-2.8, 2.8))
    bottom[0].set_ylabel("x")
    return figure


EXHIBITS = (
    Exhibit(
        "probability_paths",
        "Conditional and marginal probability paths",
        r"x_t = \alpha_t\, z + \sigma_t\,\varepsilon, \qquad p_t(x \mid z) = \mathcal N(x; \alpha_t z, \sigma_t^2 I),"
        r" \qquad p_t(x) = \int p_t(x \mid z)\, p_{\text{data}}(z)\, \mathrm{d}z",
        "x_t = α_t·z + σ_t·ε,   p_t(x|z) = N(x; α_t·z, σ_t²·I),   p_t(x) = ∫ p_t(x|z)·p_data(z) dz",
        (
            "diffpolicy.generative.paths:Path.interpolate",
            "diffpolicy.generative.mixture:ExactField.log_density",
        ),
        "Both start at the same noise, N(0, I). Given one data point the path contracts into it; over all of the "
        "data it becomes their density. Dots are samples, the shade is the density in closed form.",
        probability_paths,
    ),
    Exhibit(
        "velocity_fields",
        "Conditional and marginal velocity fields",
        r"u_t(x \mid z) = \dot\alpha_t z + \dot\sigma_t \varepsilon, \qquad u_t(x) = \mathbb E[u_t(x \mid z) \mid x_t"
        r" = x] = \tfrac{\dot\alpha_t}{\alpha_t} x + \left(\tfrac{\sigma_t^2 \dot\alpha_t}{\alpha_t} -"
        r" \sigma_t\dot\sigma_t\right) \nabla \log p_t(x)",
        "u_t(x|z) = α̇·z + σ̇·ε with ε = (x − α·z)/σ,   "
        "u_t(x) = E[u_t(x|z) | x_t = x] = (α̇/α)·x + (σ²·α̇/α − σ·σ̇)·∇ log p_t(x)",
        (
            "diffpolicy.generative.predictions:velocity",
            "diffpolicy.generative.mixture:ExactField",
            "diffpolicy.generative.solvers:RK4",
        ),
        "On the linear path, the conditional field points at its one data point from everywhere, and its flow is "
        "straight. Their mean over the data that may have led to x first points at the middle, then parts towards "
        "the five modes. (Long arrows are shortened.)",
        velocity_fields,
        "They print “u = −σ²·s”, which holds on no path here; the line above is the relation of velocity and score.",
    ),
    Exhibit(
        "schedules",
        "Linear, cosine and variance-preserving schedules",
        r"\text{linear: } \alpha = t,\ \sigma = 1 - t; \quad \text{cosine: } \alpha = \sin\tfrac{\pi t}{2},\ \sigma ="
        r" \cos\tfrac{\pi t}{2}; \quad \text{variance preserving: } \alpha = e^{-\frac12\int_0^{1-t}\beta},"
        r"\ \alpha^2 + \sigma^2 = 1",
        "linear: α = t, σ = 1 − t;   cosine: α = sin(πt/2), σ = cos(πt/2);   "
        "variance preserving: α = exp(−½ ∫₀^(1−t) β(τ) dτ), α² + σ² = 1 as for the cosine",
        (
            "diffpolicy.generative.paths:LinearPath",
            "diffpolicy.generative.paths:CosinePath",
            "diffpolicy.generative.paths:VariancePreservingPath",
            "diffpolicy.generative.paths:DiscretePath",
        ),
        "All lead from noise to data; they differ in how long they stay at each noise level: cosine and "
        "variance preserving lie on one circle and differ in nothing else. With the "
        "variance-preserving one little happens in the first third of the time, and the flow is curved at the end, "
        "where the linear path's is nearly straight.",
        schedules,
        "They print α for ᾱ in places. In tables of DDPM the path's α is √ᾱ_k, the root of the product of all "
        "1 − β_j up to k.",
    ),
)
