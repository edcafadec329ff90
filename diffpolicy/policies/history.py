"""What of a training window's past is told: less of its history, or more of its actions.

A policy must not learn to rest because it rested: ChauffeurNet's "past motion dropout" (Bansal et al. 2018). And a
policy whose robot does not wait must learn to go on from what is decided: "training-time action conditioning" (Black
et al. 2025b).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from diffpolicy.generative.shapes import Generators, rand


def without_history(batch: Mapping[str, Any], share: float, generator: Generators) -> Mapping[str, Any]:
    """Return a batch in which every observation of some windows is their newest one.

    Args:
        batch: "obs" (B, T_o, D), cameras (B, T_o, H, W, C), "action" (B, T_p, A), and numbers (B,).
        share: probability of each window, in [0, 1).
        generator: draws which.
    """
    if not share:
        return batch
    vectors = batch["obs"]
    chosen = rand((len(vectors),), generator, dtype=torch.float32, device=vectors.device) < share
    observed = {name: values for name, values in batch.items() if name != "action" and values.ndim >= 3}
    return {**batch, **{name: _newest(values, chosen) for name, values in observed.items()}}


def prefix_of(data: Tensor, longest: int, past: int, generator: Generators) -> Tensor:
    """Return which actions of chunks (B, T_p, A) training tells, (B, T_p): of half of the chunks the first ones.

    Args:
        data: the chunks.
        longest: pending actions that are told at most; evenly drawn from 1 on.
        past: actions that lie in the past, T_o - 1, which are told with them.
        generator: draws how many.
    """
    drawn = rand(data.shape[:1], generator, dtype=torch.float32, device=data.device)
    pending = ((2 * drawn - 1) * longest).ceil()  # 0 and less for half of them
    told = torch.where(pending > 0, pending + past, 0)
    return torch.arange(data.shape[1], device=data.device) < told[:, None]


def _newest(observed: Tensor, chosen: Tensor) -> Tensor:
    """Observations (B, T_o, ...), of the `chosen` windows, (B,) bool, the newest one T_o times."""
    return torch.where(chosen.view(-1, *[1] * (observed.ndim - 1)), observed[:, -1:], observed)
