"""Training windows without their history: a policy must not learn to rest because it rested.

ChauffeurNet's "past motion dropout" (Bansal et al. 2018).
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


def _newest(observed: Tensor, chosen: Tensor) -> Tensor:
    """Observations (B, T_o, ...), of the `chosen` windows, (B,) bool, the newest one T_o times."""
    return torch.where(chosen.view(-1, *[1] * (observed.ndim - 1)), observed[:, -1:], observed)
