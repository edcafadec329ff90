"""A learned variance of the reverse chain (Nichol & Dhariwal 2021, section 3.1), beside the two fixed ones.

From index k to k − 1, t to s, "fixed small" is β̃ = σ_s²/σ_t²·β and "fixed large" β = σ_t² − (α_t/α_s)²·σ_s². A
network with twice the outputs says in the second half, entry by entry, what lies between:

    Σ = exp(v·log β + (1 − v)·log β̃) = β̃·(σ_t²/σ_s²)^v        (eq. 15, v unconstrained)
"""

from __future__ import annotations

import torch
from torch import Tensor

from diffpolicy.generative.paths import DiscretePath, Path
from diffpolicy.generative.predictions import data_gain
from diffpolicy.generative.shapes import expand
from diffpolicy.generative.solvers.base import Solver
from diffpolicy.util.errors import require

WEIGHT = 1e-3  # λ of the bound in L_hybrid = L_simple + λ·L_vlb (eq. 16)


def check_variance(learned: bool, path: Path) -> None:
    """Raise ValueError if a variance is to be learned for a path without steps."""
    fits = not learned or isinstance(path, DiscretePath)
    require(fits, f"learned_variance on {path!r}", "a DiscretePath, whose steps it belongs to", "take method=ddpm")


def check_solver(solver: Solver, taught: bool) -> None:
    """Raise ValueError if a solver takes a learned variance where none was taught for the path."""
    given = "this solver takes a learned variance, and none was learned for this path"
    cure = "take solver=ddpm, or train method=ddpm with method.learned_variance=true"
    require(taught or not solver.learned, given, cure=cure)


def divergence(v: Tensor, squared: Tensor, t: Tensor, s: Tensor, path: Path) -> Tensor:
    """Return KL(q(x_s|x_t, data) ‖ N(mean, Σ)) of every entry, (B, *shape), in nats.

    The means differ by what the data estimate is off, by SNR_s − SNR_t in units of β̃, so that it is
    ½·(v·L − 1 + e^(−v·L)·(1 + (SNR_s − SNR_t)·squared)) with L = log(σ_t²/σ_s²).

    Args:
        v: (B, *shape), what the network says of the variance.
        squared: (B, *shape), squared error of the data estimate.
        t: (B,) or (B, T).
        s: the time of the next index, before the data (σ_s > 0), in the shape of t.
        path: the path.
    """
    gained = torch.exp(2 * path.log_snr(s)) - torch.exp(2 * path.log_snr(t))
    wider = v * expand(2 * (path.sigma(t) / path.sigma(s)).log(), v)
    return 0.5 * (wider - 1 + torch.exp(-wider) * (1 + expand(gained, v) * squared))


def variance_loss(prediction: str, v: Tensor, error: Tensor, t: Tensor, path: Path) -> Tensor:
    """Return λ·L_vlb in the shape of t: N·λ times the divergence at t, averaged over the entries of each sample.

    No gradient reaches the mean. The step into the data, which adds no noise, has no variance to be learned.

    Args:
        prediction: what the other half of the network's output means.
        v: (B, *shape), the half that is the variance's.
        error: (B, *shape), of the other half, in its own space.
        t: (B,) or (B, T).
        path: a DiscretePath, from index to index of which the chain goes.

    Raises:
        TypeError: another path.
    """
    given = f"a learned variance on {path!r}"
    require(isinstance(path, DiscretePath), given, "a DiscretePath", "take a network without one", TypeError)
    s = t + 1 / path.steps
    inner = s < path.last_time + 0.5 / path.steps
    s = torch.where(inner, s, path.last_time)
    squared = (expand(data_gain(prediction, t, path), error) * error.detach()).square()
    value = divergence(v.to(error.dtype), squared, torch.minimum(t, s), s, path).flatten(t.ndim).mean(-1)
    return torch.where(inner, WEIGHT * path.steps * value, 0)
