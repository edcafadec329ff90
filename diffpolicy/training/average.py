"""The moving average of a model's weights, which is what acts (Ho et al. 2020, section 4)."""

from __future__ import annotations

import copy

import torch
from torch import nn


def ema_decay(step: int, power: float, maximum: float) -> float:
    """Return the decay after `step` updates: low at first, so that the average forgets the random start."""
    return min(maximum, 1 - (1 + step) ** -power)


class Average:
    """An exponential moving average of a model's weights, `module`; its buffers are the model's.

    torch's own keeps its count on the device and reads it in every step, which would stop a GPU.

    Args:
        model: what is averaged; deep-copied.
        power: see `ema_decay`.
        maximum: see `ema_decay`.
    """

    def __init__(self, model: nn.Module, power: float, maximum: float) -> None:
        self.module = copy.deepcopy(model).requires_grad_(False)
        self._power, self._maximum = power, maximum
        self._pairs = list(self.module.parameters()), list(model.parameters())
        self._buffers = list(zip(self.module.buffers(), model.buffers(), strict=True))

    @torch.no_grad()
    def update(self, count: int) -> None:
        """Average in the model's weights after its update number `count`; the first one copies them."""
        torch._foreach_lerp_(*self._pairs, 1 - ema_decay(count - 1, self._power, self._maximum))
        for own, models in self._buffers:
            own.copy_(models)
