"""Flows that start anywhere: circles into a checkerboard, straighter pairs, and reflow."""

from __future__ import annotations

import torch
from matplotlib.figure import Figure
from torch import Tensor

from diffpolicy.datasets.toy import checkerboard, circles
from diffpolicy.gallery.learn import learn, mlp
from diffpolicy.gallery.style import DATA, MODEL, MUTED, VIOLET, Exhibit, Settings, canvas, cloud, plane
from diffpolicy.generative.distances import sliced_wasserstein
from diffpolicy.generative.objectives import DenoisingObjective
from diffpolicy.generative.paths import LinearPath
from diffpolicy.generative.predictions import ModelField
from diffpolicy.generative.sampling import sample, time_grid
from diffpolicy.generative.solvers import make_solver

_PATH = LinearPath()


def _drawn(net: torch.nn.Module, start: Tensor, steps: int) -> Tensor:
    """Return where the flow of a network carries `start` by Euler's method, at every step."""
    flow = make_solver("euler").bind(ModelField(net, _PATH, "velocity"), _PATH)
    return sample(flow, start, time_grid("uniform", steps, _PATH), trajectory=True)


def circles_to_checkerboard(settings: Settings) -> Figure:
    """Draw flows from circles to a checkerboard, of independent and of optimal pairs, and of a reflow."""
    fine = settings.size(100, 10)

    def pairs(n: int, generator: torch.Generator) -> dict[str, Tensor]:
        return {"start": circles(n, generator), "data": checkerboard(n, generator)}

    def taught(coupling: str) -> torch.nn.Module:
        return learn(mlp, DenoisingObjective(_PATH, "velocity", coupling=coupling), pairs, settings, 4000)

    nets = {"independent pairs": taught("independent"), "optimal pairs": taught("optimal_transport")}
    pool = circles(settings.size(20_000, 200), settings.generator(30))
    ends = _drawn(nets["independent pairs"], pool, fine)[-1]

    def again(n: int, generator: torch.Generator) -> dict[str, Tensor]:
        index = torch.randint(len(pool), (n,), generator=generator)
        return {"start": pool[index], "data": ends[index]}

    nets["reflow of the first"] = learn(mlp, DenoisingObjective(_PATH, "velocity"), again, settings, 4000)
    n = settings.size(2000, 100)
    start, data = circles(n, settings.generator(31)), checkerboard(n, settings.generator(32))
    same = sliced_wasserstein(checkerboard(n, settings.generator(33)), data)
    figure, grid = canvas(len(nets), 5)
    for number, (line, (name, net)) in enumerate(zip(grid, nets.items(), strict=True)):
        states = _drawn(net, start, fine)
        cloud(line[0], start, MUTED, 2, 0.45)
        plane(line[0], title="start" if number == 0 else "", side=name)
        cloud(line[1], states[fine // 2], VIOLET, 2, 0.45)
        plane(line[1], title="halfway" if number == 0 else "")
        for path in states[:, :60].transpose(0, 1):
            line[2].plot(*path.T.numpy(), color=MODEL, linewidth=0.5, alpha=0.7)
        bend = (states.diff(dim=0) * fine - (states[-1] - states[0])).square().sum(-1).mean()
        plane(line[2], title=f"paths, bend {float(bend):.3f}")
        for axes, steps in ((line[3], 1), (line[4], fine)):
            made = _drawn(net, start, steps)[-1]
            cloud(axes, made, DATA, 2, 0.45)
            plane(axes, title=f"{steps} call{'s' if steps > 1 else ''}, W {sliced_wasserstein(made, data):.2f}")
    figure.supxlabel(f"W: sliced distance to the checkerboard; two sets of true samples have {same:.2f}", fontsize=8)
    return figure


EXHIBITS = (
    Exhibit(
        "circles_to_checkerboard",
        "From circles to a checkerboard: any start, pairs, and reflow",
        r"x_t = t\,z + (1 - t)\,x_0, \quad (x_0, z) \sim \pi, \qquad \mathcal L(\theta) = \mathbb E\,"
        r"\lVert u^\theta_t(x_t) - (z - x_0) \rVert^2",
        "x_t = t·z + (1 − t)·x_0 of pairs (x_0, z),  L(θ) = E ‖u^θ_t(x_t) − (z − x_0)‖²",
        (
            "diffpolicy.generative.starts:draw_start",
            "diffpolicy.generative.starts:transported",
            "diffpolicy.generative.objectives:DenoisingObjective",
        ),
        "As in the course's lab two, no Gaussian is needed. Paired at random, paths bend and one call ends "
        "in the middle. "
        "Pairs by optimal transport within a batch, or a second flow that is taught the first one's ends "
        "(reflow), are "
        "straighter (bend: mean square of velocity minus its mean), so that one call is nearly enough.",
        circles_to_checkerboard,
    ),
)
