"""Numbers that say what to do, such as the pose that a block is to reach, as a vector for a network."""

from __future__ import annotations

from typing import final

import torch
from torch import Tensor, nn

from diffpolicy.nets.attention import embedder


@final
class GoalEncoder(nn.Module):
    """A perceptron: normalized goals (B, G) -> (B, F); NaN stands for no goal, which has learned numbers of its own.

    Args:
        size: G, numbers of a goal.
        features: F.
    """

    def __init__(self, size: int, features: int) -> None:
        super().__init__()
        self.features = features
        self.read = embedder(nn.Identity(), size, features)
        self.none = nn.Parameter(torch.zeros(features))

    def null(self, goals: Tensor) -> Tensor:
        """Return what stands for no goal, in the shape of `goals`."""
        return torch.full_like(goals, torch.nan)

    def forward(self, goals: Tensor) -> Tensor:
        missing = goals.isnan().any(1, keepdim=True)
        return torch.where(missing, self.none, self.read(goals.nan_to_num()))
