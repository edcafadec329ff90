"""Samplers: stochastic ones with the same marginals, several solvers of one network, flow against diffusion."""

from __future__ import annotations

import torch
from matplotlib.figure import Figure
from torch import Tensor

from diffpolicy.datasets.toy import moons
from diffpolicy.gallery.learn import learn, mlp, points
from diffpolicy.gallery.paths import same_time
from diffpolicy.gallery.style import (
    AMBER,
    CYCLE,
    DATA,
    FAINT,
    GREEN,
    INK,
    MODEL,
    MUTED,
    VIOLET,
    Exhibit,
    Settings,
    canvas,
    cloud,
    histogram,
    plane,
    shade_grid,
)
from diffpolicy.generative.distances import sliced_wasserstein
from diffpolicy.generative.mixture import ExactField, GaussianMixture
from diffpolicy.generative.objectives import ROWS, DenoisingObjective
from diffpolicy.generative.paths import DiscretePath, LinearPath
from diffpolicy.generative.predictions import ModelField, score
from diffpolicy.generative.sampling import generate, sample, time_grid
from diffpolicy.generative.sde import SDE
from diffpolicy.generative.shapes import randn
from diffpolicy.generative.solvers import Solver, make_solver

_TABLE = DiscretePath(200, "linear")


def same_marginals(settings: Settings) -> Figure:
    """Draw paths and marginals of samplers that differ in g(t), and of the score alone."""
    path, end = LinearPath(), 0.9
    data = GaussianMixture(
        torch.tensor([[-1.3], [0.9]]).double(), torch.tensor([0.25, 0.4]).double(), torch.tensor([0.4, 0.6]).double()
    )
    field = ExactField(data, path)
    n, steps, shown = settings.size(10_000, 200), settings.size(300, 30), 25
    times = time_grid("uniform", steps, path, t_end=end)
    start = randn((n, 1), settings.generator(8), dtype=torch.float64, device="cpu")
    x = torch.linspace(-3, 3, settings.size(201, 41), dtype=torch.float64)
    density = torch.stack([field.log_density(x[:, None], same_time(float(t), x)).exp() for t in times], dim=1)
    samplers: dict[str, Solver | None] = {
        "g = 0: the flow": make_solver("euler_maruyama", g=0.0),
        "g = 0.5": make_solver("euler_maruyama", g=0.5),
        "g = 1": make_solver("euler_maruyama", g=1.0),
        "g(t) = √(2σ)": make_solver("euler_maruyama", g="sigma"),
        "g(t) = 2(1 − t)": make_solver("euler_maruyama", g=lambda t: 2 * (1 - t)),
        "score alone, g = 1": None,
    }
    figure, grid = canvas(2, len(samplers), 1.95, 2.1, height_ratios=[1.5, 1])
    for number, (name, solver) in enumerate(samplers.items()):
        top, bottom = grid[:, number]
        generator = settings.generator(8, number)
        if solver is not None:
            flow = solver.bind(field, path, generator)
        else:  # no sampler of this project: drawn to show what it does

            def printed(x: Tensor, tau: Tensor, cond: None) -> Tensor:
                return -0.5 * score(field(x, tau), tau, path)

            flow = SDE(printed, 1.0, 1.0, generator)
        lines = sample(flow, start, times, trajectory=True)[..., 0]
        shade_grid(top, density.numpy(), (0, end, -3, 3))
        color = CYCLE[0] if number == 0 else MODEL if solver is not None else MUTED
        top.plot(times, lines[:, :shown], color=color if number else INK, linewidth=0.5, alpha=0.8)
        top.set(title=name, xlabel="t", ylim=(-3, 3), yticks=[-2, 0, 2] if number == 0 else [])
        histogram(bottom, lines[-1].clamp(-3, 3), color, 40)
        bottom.plot(x, density[:, -1], color=INK)
        bottom.set(xlabel="x at t = 0.9", yticks=[], xlim=(-3, 3), ylim=(0, 1.25 * float(density[:, -1].max())))
    return figure


def _sampled(name: str, field: ModelField, steps: int, grid: str, n: int, settings: Settings) -> Tensor:
    """Draw n points by a solver, from the same noise for all."""
    return generate(field, field.path, make_solver(name), (n, 2), steps, grid, generator=settings.generator(10))


def one_network(settings: Settings) -> Figure:
    """Draw samples of one network by three solvers at several numbers of steps."""
    net = learn(mlp, DenoisingObjective(_TABLE, **ROWS["ddpm_simple"]), points(moons), settings, 4000)
    field = ModelField(net, _TABLE, "noise")
    n, counts = settings.size(2000, 60), (5, 10, 20, settings.size(200, 50))
    data = moons(n, settings.generator(10, 1))
    figure, grid = canvas(3, len(counts) + 1, 1.9, 1.9)
    solvers = (
        ("ddpm", "DDPM", "uniform"),
        ("ddim", "DDIM", "uniform"),
        ("dpmpp_2m", "DPM-Solver++ 2M", "log_snr"),
    )
    for line, (name, title, spacing) in zip(grid, solvers, strict=True):
        for axes, steps in zip(line, counts, strict=False):
            made = _sampled(name, field, steps, spacing, n, settings)
            cloud(axes, made, MODEL, 2, 0.45)
            plane(axes, 2.2, f"{steps} steps" if name == "ddpm" else "", title if steps == counts[0] else "")
            axes.text(2.1, -2.1, f"{sliced_wasserstein(made, data):.3f}", ha="right", va="bottom", fontsize=7.5)
        line[-1].set_axis_off()
    last = grid[0][-1]
    last.set_axis_on()
    cloud(last, data, DATA, 2, 0.45)
    plane(last, 2.2, "the data")
    floor = sliced_wasserstein(data, moons(n, settings.generator(10, 2)))
    last.text(2.1, -2.1, f"{floor:.3f}", ha="right", va="bottom", fontsize=7.5)
    says = "numbers: sliced Wasserstein\ndistance to this set\n(of it: to another such set)"
    grid[1][-1].text(0.5, 0.9, says, ha="center", va="top", fontsize=7.5, transform=grid[1][-1].transAxes)
    return figure


def flow_against_diffusion(settings: Settings) -> Figure:
    """Draw the distance to the data by network calls, for a flow and a diffusion model."""
    straight = LinearPath()
    flow_net = learn(mlp, DenoisingObjective(straight, **ROWS["flow_matching"]), points(moons), settings, 4000)
    noise_net = learn(mlp, DenoisingObjective(_TABLE, **ROWS["ddpm_simple"]), points(moons), settings, 4000)
    flow, diffusion = ModelField(flow_net, straight, "velocity"), ModelField(noise_net, _TABLE, "noise")
    n, counts = settings.size(4000, 60), [2**k for k in range(settings.size(8, 4))]
    truth = moons(n, settings.generator(14))
    floor = sliced_wasserstein(truth, moons(n, settings.generator(14, 1)))
    figure, ((chart, *panels),) = canvas(1, 4, 2.7, 2.5, width_ratios=[1.9, 1, 1, 1])
    runs = (
        ("flow, Euler", flow, "euler", "uniform", DATA),
        ("flow, Heun", flow, "heun", "uniform", VIOLET),
        ("diffusion, DDPM", diffusion, "ddpm", "uniform", AMBER),
        ("diffusion, DDIM", diffusion, "ddim", "uniform", MODEL),
        ("diffusion, DPM-Solver++ 2M", diffusion, "dpmpp_2m", "log_snr", GREEN),
    )
    for label, field, name, spacing, color in runs:
        calls, distances = [], []
        for steps in counts:
            flow_map = make_solver(name).bind(field, field.path, settings.generator(14, 2))
            noise = randn((n, 2), settings.generator(14, 3), dtype=torch.float32, device="cpu")
            made = sample(flow_map, noise, time_grid(spacing, steps, field.path))
            calls.append(flow_map.calls)
            distances.append(sliced_wasserstein(made, truth))
            if steps == 4 and name in ("euler", "ddim", "dpmpp_2m"):
                axes = panels[("euler", "ddim", "dpmpp_2m").index(name)]
                cloud(axes, made[:2000], color, 2, 0.45)
                plane(axes, 2.2, f"{label},\n4 calls")
        chart.loglog(calls, distances, "o-", color=color, ms=3.5, label=label)
    chart.axhline(floor, color=MUTED, linestyle=(0, (3, 2)), linewidth=1, label="data to data")
    chart.set(xlabel="network calls", title="sliced Wasserstein distance to the data")
    chart.set_xticks(counts, [str(c) for c in counts], minor=False)
    chart.grid(color=FAINT, linewidth=0.6)
    chart.legend(fontsize=7)
    return figure


EXHIBITS = (
    Exhibit(
        "same_marginals",
        "The same marginals for every g(t)",
        r"\mathrm{d}x = \left[u_t(x) + \tfrac{g(t)^2}{2} \nabla \log p_t(x)\right]\mathrm{d}t + g(t)\,\mathrm{d}W,"
        r" \qquad x_t \sim p_t \text{ for any } g \ge 0",
        "dx = [u_t(x) + (g²/2)·∇ log p_t(x)]·dt + g·dW:   x_t ~ p_t for any g(t) ≥ 0",
        (
            "diffpolicy.generative.solvers:EulerMaruyama",
            "diffpolicy.generative.mixture:ExactField",
        ),
        "Smooth or jagged, all paths have the same law at every t (shade): bars against the line, at t = 0.9, before "
        "the score grows without bound. The last column follows the score alone, with the wrong sign, and misses it.",
        same_marginals,
        "They print a drift of −½σ²·s alone, which has not these marginals: the velocity must be there, and the sign "
        "is plus.",
    ),
    Exhibit(
        "one_network",
        "DDPM, DDIM and DPM-Solver++ from one network",
        r"x_s = \alpha_s \hat z + \sqrt{\sigma_s^2 - \tau^2}\,\hat\varepsilon + \tau\xi, \qquad \tau^2 = \eta^2"
        r" \frac{\sigma_s^2}{\sigma_t^2}\left(\sigma_t^2 - \frac{\alpha_t^2}{\alpha_s^2} \sigma_s^2\right)",
        "x_s = α_s·ẑ + √(σ_s² − τ²)·ε̂ + τ·ξ,   τ² = η²·(σ_s²/σ_t²)·(σ_t² − (α_t/α_s)²·σ_s²);   DDPM: η = 1, DDIM: η "
        "= 0.   DPM-Solver++ 2M: second order in λ;   s is the time after t, ξ fresh noise",
        (
            "diffpolicy.generative.solvers:DDIM",
            "diffpolicy.generative.solvers:DPMSolverMultistep",
            "diffpolicy.generative.paths:DiscretePath",
        ),
        "One network that predicts the noise, 200 levels. At ten steps DPM-Solver++ is near the data, at twenty DDIM "
        "nearly so, and DDPM needs many more. (The distances of single draws scatter by about 0.01.)",
        one_network,
        "They print α for ᾱ in DDPM's posterior, whose mean is √ᾱ_(k−1)·β_k/(1 − ᾱ_k)·ẑ + √(1 − β_k)·(1 − ᾱ_(k−1))/"
        "(1 − ᾱ_k)·x and whose variance is β_k·(1 − ᾱ_(k−1))/(1 − ᾱ_k); and they leave out the −τ² under the root of "
        "DDIM's second term.",
    ),
    Exhibit(
        "flow_against_diffusion",
        "Flow against diffusion, by number of network calls",
        r"x_{t+h} = x_t + h\,u^\theta_t(x_t) \quad\text{against}\quad x_s = \alpha_s \hat z^\theta + \sigma_s"
        r" \hat\varepsilon^\theta",
        "flow: x(t + h) = x + h·u^θ_t(x);   diffusion (DDIM): x_s = α_s·ẑ^θ + σ_s·ε̂^θ",
        (
            "diffpolicy.generative.solvers:make_solver",
            "diffpolicy.generative.sampling:time_grid",
            "diffpolicy.generative.distances:sliced_wasserstein",
        ),
        "Two networks of one size, trained equally long on the same data. With a first-order step the straight path "
        "needs fewer calls (Euler against DDIM). The second-order ones come as near as one set of data is to "
        "another (Heun), or nearly (DPM-Solver++ 2M), in 16 to 32 calls; DDPM is still on its way after 128.",
        flow_against_diffusion,
    ),
)
