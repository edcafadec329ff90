"""Where a path starts: noise, or samples of any other law, and how these are paired with the data.

Flow matching needs no Gaussian: from a law of which there are samples it learns the flow to the data as well
(Albergo & Vanden-Eijnden 2023; Liu et al. 2023). Velocities, and solvers of the ordinary equation, mean the same
then; scores, likelihoods and stochastic solvers, which take x_0 for N(0, I), do not.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from diffpolicy.generative.shapes import Generators, randn
from diffpolicy.util import names
from diffpolicy.util.errors import require
from diffpolicy.util.stats import assignment

COUPLINGS = ("independent", "optimal_transport")


def draw_start(
    batch: Mapping[str, Any], data: Tensor, generator: Generators, coupling: str = "independent"
) -> Tensor:
    """Return x_0 of every sample, (B, *shape): batch["start"] where there is one, else noise N(0, I).

    Args:
        batch: may hold "start" (B, *shape).
        data: (B, *shape).
        generator: draws the noise.
        coupling: "independent" takes starts as they come; "optimal_transport" as `transported` pairs them with the
            data. Its pairs depend on the batch, and on how a batch is divided.

    Raises:
        ValueError: starts of another shape; an unknown coupling; or optimal transport with a condition: its starts
            would depend on the condition, those of sampling do not.
    """
    names.check("coupling", coupling, COUPLINGS)
    start = batch.get("start")
    if start is None:
        start = randn(data.shape, generator, dtype=data.dtype, device=data.device)
    given = f"batch['start'] of shape {tuple(start.shape)}"
    require(start.shape == data.shape, given, f"that of the data, {tuple(data.shape)}")
    if coupling == "independent":
        return start
    free = batch.get("cond") is None
    require(free, "coupling='optimal_transport' with a batch['cond']", "data without condition", "take 'independent'")
    return start[transported(start, data)]


def transported(start: Tensor, data: Tensor) -> Tensor:
    """Return the permutation (B,) of starts for which Σ |start − data|² is least (Pooladian et al. 2023, section 3).

    Straighter paths, which cross less often, need fewer steps. It takes O(B³) operations at worst.

    Args:
        start: (B, *shape).
        data: (B, *shape).
    """
    x, y = (of.flatten(1).cpu().double() for of in (data, start))
    return torch.as_tensor(assignment(torch.cdist(x, y).square().numpy()), device=data.device)
