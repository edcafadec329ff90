"""What networks learn: flows by flow matching, a score by score matching, and what a weighting asks of them."""

from __future__ import annotations

import torch
from matplotlib.figure import Figure
from torch.nn.functional import avg_pool1d

from diffpolicy.datasets.toy import TOYS, checkerboard, moons
from diffpolicy.gallery.learn import learn, learn_in_stages, mlp, points
from diffpolicy.gallery.paths import mixture, same_time
from diffpolicy.gallery.style import (
    CYCLE,
    DATA,
    FAINT,
    MODEL,
    MUTED,
    VIOLET,
    Exhibit,
    Settings,
    arrows,
    canvas,
    cloud,
    lattice,
    plane,
    shade,
)
from diffpolicy.generative.distances import sliced_wasserstein
from diffpolicy.generative.mixture import ExactField
from diffpolicy.generative.objectives import ROWS, DenoisingObjective
from diffpolicy.generative.paths import CosinePath, LinearPath
from diffpolicy.generative.predictions import ModelField, score
from diffpolicy.generative.sampling import generate, sample, time_grid
from diffpolicy.generative.sde import langevin
from diffpolicy.generative.shapes import randn
from diffpolicy.generative.solvers import make_solver


def flow_matching(settings: Settings) -> Figure:
    """Draw the flow of a network trained by flow matching, for each toy data set."""
    path, times = LinearPath(), (0.0, 0.4, 0.7, 0.85, 1.0)
    figure, grid = canvas(len(TOYS), len(times) + 1, 1.85, 1.85)
    n, steps = settings.size(2000, 100), settings.size(100, 20)
    for number, (line, (name, draw)) in enumerate(zip(grid, TOYS.items(), strict=True)):
        loss = DenoisingObjective(path, **ROWS["flow_matching"])
        net = learn(mlp, loss, points(draw), settings, 4000)
        flow = make_solver("heun").bind(ModelField(net, path, "velocity"), path)
        noise = randn((n, 2), settings.generator(6, number), dtype=torch.float32, device="cpu")
        states = sample(flow, noise, time_grid("uniform", steps, path), trajectory=True)
        for axes, t in zip(line, times, strict=False):
            cloud(axes, states[round(t * steps)], MUTED if t == 0 else MODEL, 2, 0.45)
            plane(axes, title=f"t = {t:g}" if number == 0 else "", side=name if t == 0 else "")
        cloud(line[-1], draw(n, settings.generator(6, 9, number)), DATA, 2, 0.45)
        plane(line[-1], title="the data" if number == 0 else "")
    return figure


def samples_through_training(settings: Settings) -> Figure:
    """Draw where a network in training carries the same noise, at several moments, and its loss."""
    path, moments = LinearPath(), settings.size((0, 30, 100, 300, 1000, 3000), (0, 2, 4, 6, 9, 12))
    n, steps = settings.size(2000, 100), settings.size(50, 10)
    loss = DenoisingObjective(path, **ROWS["flow_matching"])
    noise = randn((n, 2), settings.generator(14), dtype=torch.float32, device="cpu")
    figure = Figure(figsize=(12.2, 5.6), layout="constrained")
    grid = figure.add_gridspec(3, len(moments) + 1, height_ratios=[1, 1, 0.85])
    below = figure.add_subplot(grid[2, :])
    for row, (draw, color) in enumerate(((moons, MODEL), (checkerboard, VIOLET))):
        name, data = draw.__name__, draw(n, settings.generator(14, 1, row))
        nets, losses = learn_in_stages(mlp, loss, points(draw), settings, moments)
        for column, (moment, net) in enumerate(zip(moments, nets, strict=True)):
            axes, field = figure.add_subplot(grid[row, column]), ModelField(net, path, "velocity")
            made = sample(make_solver("heun").bind(field, path), noise, time_grid("uniform", steps, path))
            cloud(axes, made, color, 2, 0.45)
            title = f"step {moment:,}" if row == 0 else ""
            plane(axes, title=title, side=name if column == 0 else "")
            axes.set_xlabel(f"W {sliced_wasserstein(made, data):.2f}")
        axes = figure.add_subplot(grid[row, -1])
        cloud(axes, data, DATA, 2, 0.45)
        plane(axes, title="the data" if row == 0 else "")
        axes.set_xlabel(f"W {sliced_wasserstein(draw(n, settings.generator(14, 2, row)), data):.2f}")
        at, window = torch.arange(1, len(losses) + 1).float(), settings.size(30, 2)
        below.semilogx(at, losses, color=color, linewidth=0.4, alpha=0.35)
        means = [avg_pool1d(values[None], window, 1)[0] for values in (at, losses)]
        below.semilogx(*means, color=color, label=f"{name}, mean of {window} steps")
    for moment in moments[1:]:
        below.axvline(moment, color=MUTED, linewidth=0.8, linestyle=":")
    below.set(title="loss of each step", xlabel="step", xlim=(1, moments[-1] * 1.05), ylim=(0, None))
    below.grid(color=FAINT, linewidth=0.6)
    below.legend(loc="upper right", frameon=True, framealpha=1, edgecolor="white")
    return figure


def score_and_langevin(settings: Settings) -> Figure:
    """Draw the exact and the learned score, and Langevin dynamics with each."""
    path, t, data = LinearPath(), 0.8, mixture()
    loss = DenoisingObjective(path, **ROWS["score_matching"])
    net = learn(mlp, loss, points(lambda n, g: data.sample(n, g).float()), settings)
    exact, learned = ExactField(data, path), ModelField(net, path, "score")
    side, steps, n = settings.size(120, 30), settings.size(400, 20), settings.size(1500, 60)
    figure, grid = canvas(2, 4)
    where = lattice(2.6, 14)
    for axes, field, name in ((grid[0][0], exact, "exact score at t = 0.8"), (grid[1][0], learned, "learned score")):
        at = where.to(torch.float64 if field is exact else torch.float32)
        with torch.inference_mode():
            s = score(field(at, same_time(t, at)), same_time(t, at), path).double()
        shade(axes, lambda x: exact.log_density(x, same_time(t, x)), 2.8, side)
        arrows(axes, where, s / (1 + 0.12 * s.norm(dim=1, keepdim=True)), scale=90)
        plane(axes, 2.8, name)
    for line, field, dtype in ((grid[0], exact, torch.float64), (grid[1], learned, torch.float32)):
        start = 0.5 * randn((n, 2), settings.generator(7), dtype=dtype, device="cpu")
        dynamics = langevin(field, t, 1.0, 4.0, settings.generator(7, 1))
        states = sample(dynamics, start, time_grid("uniform", steps, path), trajectory=True)
        for axes, tau in zip(line[1:], (0.0, 0.2, 4.0), strict=True):
            shade(axes, lambda x: exact.log_density(x, same_time(t, x)), 2.8, side)
            cloud(axes, states[round(tau / 4 * steps)], MODEL, 2.5, 0.55)
            plane(axes, 2.8, f"Langevin, τ = {tau:g}" if line[0] is grid[0][0] else "")
    return figure


def weightings(settings: Settings) -> Figure:
    """Draw three weightings, the errors of networks trained with them, and their samples."""
    path, data = CosinePath(), mixture(1.4, 0.1, 8)
    exact = ExactField(data, path)
    names = ("uniform", "snr", "min_snr")
    figure, grid = canvas(2, 3, 3.2, 2.5)
    (curves, errors, *first), second = grid[0], grid[1]
    lam = torch.linspace(-5, 5, 201, dtype=torch.float64)
    n, probes = settings.size(1500, 60), settings.size(4000, 200)
    moments = torch.linspace(-4, 4, settings.size(25, 5), dtype=torch.float64)
    for name, color, axes in zip(names, CYCLE, second, strict=False):
        loss = DenoisingObjective(path, "v", weighting=name)
        # on the data-space loss: what the objective puts on an output that is the data
        weight = DenoisingObjective(path, "data", weighting=name).weight(path.time_at_log_snr(lam))
        curves.semilogy(lam, weight, color=color, label=name)
        net = learn(mlp, loss, points(lambda n, g: data.sample(n, g).float()), settings)
        field, gaps = ModelField(net, path, "v"), []
        generator = settings.generator(13)
        clean, noise = data.sample(probes, generator), randn((probes, 2), generator, dtype=lam.dtype, device="cpu")
        for t in path.time_at_log_snr(moments):
            x = path.interpolate(clean, noise, same_time(float(t), clean))
            with torch.inference_mode():
                got = field(x.float(), same_time(float(t), x)).data.double()
            gaps.append(float((got - exact(x, same_time(float(t), x)).data).square().mean()))
        errors.semilogy(moments, gaps, color=color, label=name)
        made = generate(
            field, path, make_solver("dpmpp_2m"), (n, 2), settings.size(40, 8), "log_snr", generator=generator
        )
        cloud(axes, made, color, 2.5, 0.5)
        plane(axes, 2.2, f"samples, weighting “{name}”")
    for name, line in (("notes_snr", "--"), ("notes_cosine", ":")):  # their "uniform" is our "snr"
        curves.semilogy(
            lam, DenoisingObjective(path, "data", weighting=name).weight(path.time_at_log_snr(lam)), MUTED,
            linestyle=line, label=name,
        )  # fmt: skip
    curves.set(title="weight of the data-space loss", xlabel="log-SNR λ: noise → data", ylim=(1e-4, 1e4))
    errors.set(title="learned − exact data estimate, squared", xlabel="log-SNR λ")
    curves.legend()
    cloud(first[0], data.sample(n, settings.generator(13, 1)), DATA, 2.5, 0.5)
    plane(first[0], 2.2, "the data")
    for axes in (curves, errors):
        axes.grid(color=FAINT, linewidth=0.6)
    return figure


EXHIBITS = (
    Exhibit(
        "flow_matching",
        "Flow matching on moons, circles and a checkerboard",
        r"\mathcal L(\theta) = \mathbb E_{t, z, \varepsilon}\,\lVert u^\theta_t(\alpha_t z + \sigma_t \varepsilon) -"
        r" (\dot\alpha_t z + \dot\sigma_t \varepsilon)\rVert^2",
        "L(θ) = E ‖u^θ_t(α·z + σ·ε) − (α̇·z + σ̇·ε)‖² over t ~ U[0, 1], data z and noise ε",
        (
            "diffpolicy.generative.objectives:DenoisingObjective",
            "diffpolicy.generative.predictions:target",
            "diffpolicy.datasets.toy:moons",
            "diffpolicy.training.loop:train",
        ),
        "One small network for each data set, 4,000 steps of training: Heun's method carries noise to the data; "
        "edges and gaps come last, as t nears 1, and those of the checkerboard stay blurred for so small a network.",
        flow_matching,
    ),
    Exhibit(
        "samples_through_training",
        "Samples through training",
        r"\min_\theta\ \mathbb E_{t, z, \varepsilon}\,\lVert u^\theta_t(x_t) - (z - \varepsilon) \rVert^2 ="
        r" \min_\theta\ \mathbb E\,\lVert u^\theta_t(x_t) - u_t(x_t) \rVert^2 + C, \qquad"
        r" x_t = t\,z + (1 - t)\,\varepsilon",
        "min over θ of E ‖u^θ_t(x_t) − (z − ε)‖² = E ‖u^θ_t(x_t) − u_t(x_t)‖² + C,  x_t = t·z + (1 − t)·ε",
        (
            "diffpolicy.training.loop:train",
            "diffpolicy.generative.objectives:DenoisingObjective",
            "diffpolicy.training.average:Average",
            "diffpolicy.generative.distances:sliced_wasserstein",
        ),
        "The same noise, carried by the averaged network after so many steps. An untrained one scatters it; at step "
        "30 the points have the data's place and size, then come its shape and its gaps. W is the sliced distance to "
        "the data; under the data stands that of a second set of them. The loss is nearly level from step 30 on: "
        "most of it is C, which no network can lower, so that it says little about the samples.",
        samples_through_training,
    ),
    Exhibit(
        "score_and_langevin",
        "Score matching, and Langevin dynamics",
        r"\mathcal L(\theta) = \mathbb E\, \sigma_t^2\, \lVert s^\theta_t(x_t) + \varepsilon/\sigma_t\rVert^2, \qquad"
        r" \mathrm{d}x = \tfrac{g^2}{2} \nabla \log p_t(x)\,\mathrm{d}\tau + g\,\mathrm{d}W",
        "L(θ) = E σ_t²·‖s^θ_t(x_t) + ε/σ_t‖²;   Langevin: dx = (g²/2)·∇ log p_t(x)·dτ + g·dW, t fixed",
        (
            "diffpolicy.generative.objectives:DenoisingObjective",
            "diffpolicy.generative.predictions:score",
            "diffpolicy.generative.sde:langevin",
        ),
        "Above with the exact score, below with the learned one: the dynamics leaves its start for the density p_t "
        "(shaded) and stays there. Between the modes it changes only slowly, which is why one anneals the noise.",
        score_and_langevin,
    ),
    Exhibit(
        "weightings",
        "Three weightings of the loss",
        r"\mathcal L(\theta) = \mathbb E\, w(\lambda_t)\, \lVert \hat z^\theta(x_t) - z\rVert^2, \qquad w = 1,\quad"
        r" w = \mathrm{SNR} = \alpha_t^2/\sigma_t^2, \quad w = \min(\mathrm{SNR}, 5)",
        "L(θ) = E w(λ_t)·‖ẑ^θ(x_t) − z‖²  with  w = 1 (uniform),  w = SNR = α²/σ² (the noise loss),  w = min(SNR, 5)",
        (
            "diffpolicy.generative.weighting:WEIGHTINGS",
            "diffpolicy.generative.objectives:DenoisingObjective.weight",
            "diffpolicy.generative.predictions:data_gain",
        ),
        "The same network and training under three weights. SNR spends itself on the cleanest inputs and is the "
        "worst where the noise is high; uniform is best there, and its samples run together into a ring; min-SNR "
        "lies between the two where the noise is high, and near SNR in the middle.",
        weightings,
        "They weight the noise loss: their “uniform” is SNR here, their “SNR” is SNR² (dashed); their “cosine” "
        "has no formula (dotted: α²/(α² + σ²) on the noise).",
    ),
)
