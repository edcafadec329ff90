"""From data back to the noise that they come from: inversion, and what lies between two samples.

The flow of an ordinary equation can be followed both ways, so that a sample has one noise (Song, Meng & Ermon 2021,
section 4.3, for DDIM). A round trip errs by what the solver errs, twice.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from diffpolicy.generative.paths import Path
from diffpolicy.generative.predictions import Field
from diffpolicy.generative.sampling import sample, time_grid
from diffpolicy.generative.solvers import Solver
from diffpolicy.util.errors import require


def invert(
    field: Field,
    path: Path,
    solver: Solver,
    data: Tensor,
    steps: int,
    grid: str | None = None,
    cond: Any = None,
) -> Tensor:
    """Return the noise (B, *shape) that the flow carries to `data`.

    Args:
        field: the field to follow.
        path: its path.
        solver: a reversible one, such as Euler, Heun, RK4 or DDIM.
        data: (B, *shape).
        steps: number of steps.
        grid: name of a time grid, see `time_grid`; None is the solver's own, or "uniform".
        cond: the condition.

    Raises:
        ValueError: a solver that goes from noise to data alone, and what `time_grid` and `Solver.bind` raise.
    """
    times = time_grid(grid or solver.grid or "uniform", steps, path).flip(0)
    return sample(solver.bind(field, path), data, times, cond)


def between(first: Tensor, second: Tensor, weights: Tensor) -> Tensor:
    """Return noise between two noises, along the arc that keeps their length (Shoemake 1985).

    Straight lines between independent noises pass through shorter ones, which no sample comes from.

    Args:
        first: (*shape).
        second: (*shape).
        weights: (n,) from 0, the first, to 1, the second.

    Returns:
        (n, *shape); between noises of different lengths, lengths between theirs.

    Raises:
        ValueError: other shapes, or opposite noises, between which no arc is the shortest.
    """
    shapes = f"noises of shapes {tuple(first.shape)} and {tuple(second.shape)}"
    require(first.shape == second.shape and weights.ndim == 1, shapes, "two of one shape, and weights (n,)")
    cosine = torch.nn.functional.cosine_similarity(first.flatten(), second.flatten(), dim=0)
    angle = torch.arccos(cosine.clamp(-1, 1))
    require(float(cosine) > -1 + 1e-6, "opposite noises", "two that do not point away from each other")
    parts = [torch.sin((1 - weights) * angle), torch.sin(weights * angle)]
    shares = [1 - weights, weights] if float(torch.sin(angle)) < 1e-6 else [part / torch.sin(angle) for part in parts]
    one, other = (share.to(first).reshape(-1, *[1] * first.ndim) for share in shares)
    return one * first + other * second
