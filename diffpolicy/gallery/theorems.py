"""What the notes prove, looked at: a grid that flows, posterior weights, equal losses, the Fokker–Planck equation."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from matplotlib.figure import Figure
from torch import Tensor

from diffpolicy.gallery.paths import mixture, same_time
from diffpolicy.gallery.style import (
    CYCLE,
    DATA,
    FAINT,
    INK,
    MODEL,
    MUTED,
    Exhibit,
    Settings,
    arrows,
    canvas,
    plane,
    shade,
)
from diffpolicy.generative.guidance import ClassifierFree, ClassifierGuidance
from diffpolicy.generative.likelihood import log_density, variational_bound
from diffpolicy.generative.mixture import ExactField, GaussianMixture
from diffpolicy.generative.paths import DiscretePath, LinearPath
from diffpolicy.generative.predictions import FlowMap, score, velocity
from diffpolicy.generative.sampling import generate, sample, time_grid
from diffpolicy.generative.sde import euler_maruyama_step
from diffpolicy.generative.solvers import make_solver

_PATH = LinearPath()


def _line() -> GaussianMixture:
    """Return a mixture on the line: a narrow mode at −1.2 and a wide one at 1."""
    values = [[-1.2], [1.0]], [0.25, 0.5], [0.4, 0.6]
    return GaussianMixture(*(torch.tensor(value, dtype=torch.float64) for value in values))


def deformed_grid(settings: Settings) -> Figure:
    """Draw a grid of the plane that the flow carries from noise to data."""
    field, times = ExactField(mixture(1.4, 0.35), _PATH), (0.0, 0.5, 0.75, 0.9, 1.0)
    lines, per_line, steps = 15, settings.size(200, 30), settings.size(200, 20)
    along, across = torch.linspace(-2.4, 2.4, per_line).double(), torch.linspace(-2.4, 2.4, lines).double()
    flat = torch.stack(torch.meshgrid(across, along, indexing="ij"), dim=-1)
    points = torch.cat([flat, flat.flip(-1)]).reshape(-1, 2)
    flow = make_solver("heun").bind(field, _PATH)
    states = sample(flow, points, time_grid("uniform", steps, _PATH), trajectory=True)
    figure, grid = canvas(1, len(times))
    for axes, t in zip(grid[0], times, strict=True):
        shade(axes, lambda x, t=t: field.log_density(x, same_time(t, x)), 2.6, settings.size(120, 30))
        for line in states[round(t * steps)].reshape(2 * lines, per_line, 2):
            axes.plot(*line.T.numpy(), color=INK, linewidth=0.45)
        plane(axes, title=f"t = {t:g}")
    return figure


def divergence(settings: Settings) -> Figure:
    """Draw where the flow draws together, a small circle that it carries, and the densities that follow."""
    data = mixture(1.4, 0.35)
    field, fine = ExactField(data, _PATH), settings.size(300, 40)

    def diverging(x: Tensor, t: Tensor) -> Tensor:
        x = x.detach().requires_grad_(True)
        u = velocity(field(x, t), t, _PATH)
        parts = [torch.autograd.grad(u[:, i].sum(), x, retain_graph=True)[0][:, i] for i in range(2)]
        return torch.stack(parts).sum(0)

    figure, (panels,) = canvas(1, 3, 3.1, 2.8)
    place, circle, density = panels
    side = torch.linspace(-2.6, 2.6, settings.size(121, 31), dtype=torch.float64)
    flat = torch.stack(torch.meshgrid(side, side, indexing="xy"), dim=-1).reshape(-1, 2)
    values = diverging(flat, same_time(0.6, flat)).reshape(len(side), -1)
    most = float(values.abs().max())
    shown = place.pcolormesh(side, side, values, cmap="PuOr", vmin=-most, vmax=most, rasterized=True)
    figure.colorbar(shown, ax=place, shrink=0.8)
    coarse = torch.stack(torch.meshgrid(side[::8], side[::8], indexing="xy"), dim=-1).reshape(-1, 2)
    arrows(place, coarse, velocity(field(coarse, same_time(0.6, coarse)), same_time(0.6, coarse), _PATH), INK, 40)
    plane(place, title="div u at t = 0.6", limit=2.6)

    flow, times = make_solver("rk4").bind(field, _PATH), time_grid("uniform", fine, _PATH)
    angles = torch.linspace(0, 2 * math.pi, 65, dtype=torch.float64)[:-1]
    for color, start in zip(CYCLE, ((0.3, 0.1), (0.9, 0.2), (-1.2, -0.9)), strict=False):
        middle = torch.tensor([start], dtype=torch.float64)
        ring = middle + 1e-3 * torch.stack([angles.cos(), angles.sin()], dim=1)
        states = sample(flow, torch.cat([middle, ring]), times, trajectory=True)
        x, y = states[:, 1:].unbind(-1)
        area = 0.5 * (x * y.roll(-1, 1) - y * x.roll(-1, 1)).sum(1).abs()
        rate = torch.stack([diverging(one[:1], t[None])[0] for one, t in zip(states, times, strict=True)][:-1])
        circle.plot(times, (area / area[0]).log(), color=color, linewidth=3, alpha=0.35)
        circle.plot(times[1:-1], torch.cumulative_trapezoid(rate, times[:-1]), color=color, linewidth=1)
    circle.set(title="log area of a small circle, and ∫ div u dt", xlabel="t")

    points = data.sample(settings.size(60, 8), settings.generator(24))
    found = log_density(field, points, steps=settings.size(100, 20)).value
    exact = field.log_density(points, same_time(1.0, points))
    density.plot(exact, found, "o", color=MODEL, markersize=3)
    ends = [float(exact.min()), float(exact.max())]
    density.plot(ends, ends, color=MUTED, linewidth=0.8, zorder=0)
    density.set(title="log p of data, from −∫ div u dt", xlabel="exact log p")
    return figure


def posterior_weights(settings: Settings) -> Figure:
    """Draw how much each of some data points says about the velocity at one place, as time goes on."""
    data = mixture(1.5, 0.35).sample(settings.size(120, 20), settings.generator(20))
    count = len(data)
    points = GaussianMixture(data, torch.zeros(count).double(), torch.full((count,), 1 / count).double())
    field, here = ExactField(points, _PATH), torch.tensor([[0.35, 0.75]], dtype=torch.float64)
    figure, grid = canvas(1, 4)
    for axes, t in zip(grid[0], (0.1, 0.4, 0.7, 0.9), strict=True):
        weights = torch.stack(
            [field.log_posterior(here, same_time(t, here), torch.tensor([k])).exp()[0] for k in range(count)]
        )
        x, y = data.T.numpy()
        axes.scatter(x, y, s=3, color=MUTED, linewidths=0)
        axes.scatter(x, y, s=600 * weights.numpy(), color=DATA, alpha=0.6, linewidths=0)
        u = velocity(field(here, same_time(t, here)), same_time(t, here), _PATH)[0]
        axes.plot(*here[0].numpy(), "o", color=MODEL, markersize=4)
        arrows(axes, here, u[None], MODEL, scale=12)
        plane(axes, title=f"t = {t:g}, {1 / float(weights.square().sum()):.1f} points count")
    return figure


def equal_losses(settings: Settings) -> Figure:
    """Draw the flow matching loss and the conditional one of a family of fields: a constant apart."""
    data, n = mixture(), settings.size(400_000, 500)
    field, generator = ExactField(data, _PATH), settings.generator(21)
    z, noise = data.sample(n, generator), torch.randn(n, 2, generator=generator, dtype=torch.float64)
    t = torch.rand(n, generator=generator, dtype=torch.float64)
    x = _PATH.interpolate(z, noise, t)
    exact, bend = velocity(field(x, t), t, _PATH), torch.sin(2 * x)
    theta = torch.linspace(-1, 1, 21, dtype=torch.float64)
    marginal, conditional = (
        torch.stack([(exact + a * bend - wanted).square().sum(1).mean() for a in theta])
        for wanted in (exact, z - noise)
    )
    figure, grid = canvas(1, 2, 3.4, 2.6)
    for values, name, color in ((conditional, "conditional, CFM", MODEL), (marginal, "marginal, FM", DATA)):
        grid[0][0].plot(theta, values, color=color, label=name)
    grid[0][1].plot(theta, conditional - marginal, color=INK)
    grid[0][0].set(title="loss of the field u + θ·sin 2x", xlabel="θ", ylim=(0, None))
    grid[0][1].set(title="their difference", xlabel="θ", ylim=(0, 1.3 * float((conditional - marginal).max())))
    grid[0][0].legend()
    return figure


def fokker_planck(settings: Settings) -> Figure:
    """Draw both sides of the Fokker–Planck equation on a grid, without and with noise."""
    field, t, h = ExactField(_line(), _PATH), 0.7, 1e-4
    x = torch.linspace(-3, 3, settings.size(1201, 121), dtype=torch.float64)[:, None]
    dx = float(x[1] - x[0])

    def density(at: float) -> Tensor:
        return field.log_density(x, same_time(at, x)).exp()

    changes = (density(t + h) - density(t - h)) / (2 * h)
    p, found = density(t), field(x, same_time(t, x))
    u, s = velocity(found, same_time(t, x), _PATH)[:, 0], score(found, same_time(t, x), _PATH)[:, 0]
    figure, grid = canvas(1, 3, 2.9, 2.4)
    for axes, g in zip(grid[0], (0.0, 1.0, 2.0), strict=True):
        flux = p * (u + g**2 / 2 * s)
        said = -torch.gradient(flux, spacing=dx)[0]
        said = said + g**2 / 2 * torch.gradient(torch.gradient(p, spacing=dx)[0], spacing=dx)[0]
        axes.plot(x, changes, color=DATA, linewidth=3, alpha=0.4, label="∂p/∂t")
        axes.plot(x, said, color=MODEL, linewidth=1, label="−∂(p·f) + ½g²·∂²p")
        worst = float((said - changes)[2:-2].abs().max())
        axes.set(title=f"g = {g:g}: apart by at most {worst:.0e}", xlabel="x", xlim=(-3, 3))
    grid[0][0].legend(loc="upper left")
    return figure


@dataclass
class _Growth(FlowMap):
    """dx = μ·x·dτ + v·x·dW by Euler–Maruyama, on one motion dW for all lengths of steps; x is (B, 1)."""

    noise: Tensor  # (steps, B) of the finest grid
    mu: float = 1.0
    v: float = 1.0

    def __call__(self, x: Tensor, t: Tensor, s: Tensor, cond: object = None) -> Tensor:
        finest = len(self.noise)
        first, last = round(float(t[0]) * finest), round(float(s[0]) * finest)
        drawn = (self.noise[first:last].sum(0) / math.sqrt(last - first))[:, None]
        return euler_maruyama_step(x, self.mu * x, self.v * x[:, 0], s - t, drawn)


def orders(settings: Settings) -> Figure:
    """Draw the strong and the weak error of Euler–Maruyama against the length of the step."""
    n, finest = settings.size(40_000, 400), 256
    noise = torch.randn(finest, n, generator=settings.generator(22), dtype=torch.float64)
    flow = _Growth(noise)
    end = torch.exp(torch.tensor(flow.mu - flow.v**2 / 2) + flow.v * noise.sum(0) / math.sqrt(finest))
    counts, start = (4, 8, 16, 32, 64), torch.ones(n, 1, dtype=torch.float64)
    ends = [sample(flow, start, torch.linspace(0, 1, k + 1))[:, 0] for k in counts]
    strong = [float((found - end).abs().mean()) for found in ends]
    # the mean of the method is (1 + μ/k)^k, known without sampling error
    weak = [abs((1 + flow.mu / k) ** k - math.exp(flow.mu)) for k in counts]
    figure, grid = canvas(1, 1, 6.4, 2.8)
    lengths = torch.tensor([1 / k for k in counts])
    for errors, name, order, color in (
        (strong, "strong: E|x − x̂|", 0.5, MODEL),
        (weak, "weak: |E x − E x̂|", 1.0, DATA),
    ):
        slope = math.log(errors[0] / errors[-1]) / math.log(counts[-1] / counts[0])
        grid[0][0].loglog(lengths, errors, "o-", color=color, label=f"{name}, slope {slope:.2f}")
        grid[0][0].loglog(lengths, errors[-1] * (lengths / lengths[-1]) ** order, ":", color=color)
    grid[0][0].set(title="errors of Euler–Maruyama on dx = x·dτ + x·dW", xlabel="length of a step")
    grid[0][0].grid(color=FAINT, linewidth=0.6)
    grid[0][0].legend()
    return figure


def bound_terms(settings: Settings) -> Figure:
    """Draw the terms of DDPM's variational bound by index, for two tables."""
    data = mixture(1.4, 0.3)
    x = data.sample(settings.size(2000, 40), settings.generator(23))
    figure, grid = canvas(1, 2, 3.6, 2.6)
    for axes, schedule in zip(grid[0], ("squared_cosine", "linear"), strict=True):
        path = DiscretePath(settings.size(100, 25), schedule)
        bound = variational_bound(ExactField(data, path), x, generator=settings.generator(24))
        axes.semilogy(range(1, path.steps), bound.steps.mean(1).clamp(min=1e-6), color=MODEL, label="steps")
        axes.semilogy([0], [bound.reconstruction.mean().abs()], "o", color=DATA, label="|reconstruction|")
        axes.semilogy([path.steps], [bound.prior.mean()], "s", color=CYCLE[2], label="prior")
        loss = -data.log_prob(x).mean()
        title = f"{schedule.replace('_', ' ')}: {float(bound.total.mean()):.2f} nats ≥ {float(loss):.2f}"
        axes.set(title=title, xlabel="index k: data → noise", ylim=(1e-6, 30))
        axes.grid(color=FAINT, linewidth=0.6)
    grid[0][0].legend()
    return figure


def guided_law(settings: Settings) -> Figure:
    """Draw what guidance draws beside p(x)·p(y|x)^w, which one might expect."""
    data, n = _line(), settings.size(20_000, 400)
    field, x = ExactField(data, _PATH), torch.linspace(-3, 3, 601, dtype=torch.float64)[:, None]
    label = torch.ones(n, dtype=torch.int64)
    figure, grid = canvas(1, 3, 2.9, 2.4)
    for axes, w in zip(grid[0], (1.0, 3.0, 8.0), strict=True):
        anything = ClassifierFree(field, 0.0, field.null)  # the classifier alone says which
        guided = ClassifierGuidance(anything, field.log_posterior, w)
        solver, steps = make_solver("heun"), settings.size(100, 10)
        how = {"cond": label, "generator": settings.generator(25), "dtype": torch.float64}
        made = generate(guided, _PATH, solver, (n, 1), steps, **how)[:, 0]
        ones, one = torch.ones(len(x)).double(), torch.ones(len(x), dtype=torch.int64)
        power = (data.log_prob(x) + w * field.log_posterior(x, ones, one)).exp()
        axes.hist(made.numpy(), bins=120, range=(-3, 3), density=True, color=MODEL, alpha=0.5, label="drawn")
        axes.plot(x, power / (power.sum() * float(x[1] - x[0])), color=DATA, label="p(x)·p(y|x)^w")
        axes.set(title=f"w = {w:g}", xlabel="x", xlim=(-3, 3), yticks=[])
    grid[0][0].legend(loc="upper left")
    return figure


EXHIBITS = (
    Exhibit(
        "deformed_grid",
        "The flow as a grid that is deformed",
        r"\frac{\mathrm{d}}{\mathrm{d}t} \psi_t(x) = u_t(\psi_t(x)), \qquad \psi_0(x) = x",
        "d/dt ψ_t(x) = u_t(ψ_t(x)),  ψ_0(x) = x",
        ("diffpolicy.generative.mixture:ExactField", "diffpolicy.generative.sampling:sample"),
        "Lines never cross, since a flow can be undone: they are drawn into the modes and thinned out "
        "between them, where "
        "no data are. What was one square of noise becomes a sliver there.",
        deformed_grid,
    ),
    Exhibit(
        "divergence",
        "Divergence: how a flow thins and gathers",
        r"\operatorname{div} u_t = \sum_i \frac{\partial u_t^i}{\partial x_i}, \qquad"
        r" \frac{\mathrm d}{\mathrm dt} \log p_t(\psi_t(x)) = -\operatorname{div} u_t(\psi_t(x))",
        "div u_t = Σ_i ∂u_tⁱ/∂x_i,  d/dt log p_t(ψ_t(x)) = −div u_t(ψ_t(x))",
        ("diffpolicy.generative.likelihood:log_density", "diffpolicy.generative.sampling:sample"),
        "Where the divergence is negative the flow draws together, where it is positive it spreads. Three small "
        "circles that it carries (wide lines) have the area that the divergence on their way says (thin lines), and "
        "with areas go densities: what a flow gathers becomes probable. Likelihoods are computed so.",
        divergence,
    ),
    Exhibit(
        "posterior_weights",
        "Theorem 1: the marginal velocity is a mean of conditional ones",
        r"u_t(x) = \int u_t(x \mid z)\, \frac{p_t(x \mid z)\, p(z)}{p_t(x)}\, \mathrm{d}z",
        "u_t(x) = ∫ u_t(x|z)·p_t(x|z)·p(z)/p_t(x) dz",
        ("diffpolicy.generative.mixture:ExactField.log_posterior", "diffpolicy.generative.predictions:velocity"),
        "The same place (red) at four times: a point's area is its weight p(z|x_t). At first all data count, and the "
        "velocity leads to their mean; near the data a few are left.",
        posterior_weights,
    ),
    Exhibit(
        "equal_losses",
        "Theorem 3: two losses that are a constant apart",
        r"\mathcal L_{\mathrm{CFM}}(\theta) = \mathcal L_{\mathrm{FM}}(\theta) + C",
        "L_CFM(θ) = L_FM(θ) + C",
        ("diffpolicy.generative.objectives:DenoisingObjective", "diffpolicy.generative.mixture:ExactField"),
        "For every field of a family both losses are known: they have the same least place, θ = 0, and the same "
        "gradients. C is the variance of z − ε where x_t is known, which no field can do anything about.",
        equal_losses,
    ),
    Exhibit(
        "fokker_planck",
        "The Fokker–Planck equation, checked on a grid",
        r"\frac{\partial p_t}{\partial t} = -\nabla \cdot (p_t f_t) + \frac{g^2}{2} \Delta p_t, \qquad"
        r" f_t = u_t + \frac{g^2}{2} \nabla \log p_t",
        "∂p/∂t = −∇·(p·f) + (g²/2)·Δp  with  f = u + (g²/2)·∇ log p",
        ("diffpolicy.generative.predictions:velocity", "diffpolicy.generative.predictions:score"),
        "A mixture on the line at t = 0.7. Whatever g, the density changes alike: the drift towards what is "
        "likely and "
        "the spreading of the noise cancel. This is why a flow model can be sampled with noise.",
        fokker_planck,
        "They begin theorem 2 with the stochastic equation. It begins with the ordinary one, dX = u·dt: else no "
        "score term would follow.",
    ),
    Exhibit(
        "euler_maruyama_orders",
        "Strong and weak order of Euler–Maruyama",
        r"\mathbb E\,\lvert x_1 - \hat x_1\rvert = O(h^{1/2}), \qquad \lvert \mathbb E"
        r" x_1 - \mathbb E \hat x_1\rvert = O(h)",
        "E|x_1 − x̂_1| = O(√h),   |E x_1 − E x̂_1| = O(h)",
        ("diffpolicy.generative.sde:euler_maruyama_step", "diffpolicy.generative.sampling:sample"),
        "Single paths are met with order ½, their law with order 1. Where g does not depend on x, as in "
        "sampling, the "
        "strong order is 1 as well. Dotted are the slopes ½ and 1.",
        orders,
    ),
    Exhibit(
        "bound_terms",
        "The variational bound, term by term",
        r"-\log p(x) \le \mathrm{KL}(q(x_{N-1} \mid x)\,\|\,\mathcal N) + \sum_k \mathrm{KL}_k - \log p(x \mid x_0)",
        "−log p(x) ≤ KL(q(x_{N−1}|x) ‖ N(0, I)) + Σ_k KL_k − log p(x|x_0)",
        ("diffpolicy.generative.likelihood:variational_bound", "diffpolicy.generative.paths:DiscretePath"),
        "With the exact denoiser. Most is lost in the steps nearest to the data; the prior costs nothing "
        "where the last "
        "noise hides the data. The reconstruction, −log p(x|x_0), is negative here and drawn by its size. Even so "
        "the bound stays above −log p (the smaller number), by what steps that are not normal lose.",
        bound_terms,
    ),
    Exhibit(
        "guided_law",
        "What guidance draws is not p(x)·p(y|x)^w",
        r"\nabla \log p_t(x) + w\, \nabla \log p_t(y \mid x) \ne \nabla \log \big[ p(x)\, p(y \mid x)^w \big]_t",
        "∇ log p_t(x) + w·∇ log p_t(y|x) is not the score of p(x)·p(y|x)^w with noise on it",
        (
            "diffpolicy.generative.guidance:ClassifierGuidance",
            "diffpolicy.generative.mixture:ExactField.log_posterior",
        ),
        "With the exact classifier, on the line. At w = 1 both are the class (right mode). Beyond that "
        "guidance pushes "
        "samples farther from the other class than the power law says, and makes them more alike.",
        guided_law,
    ),
)
