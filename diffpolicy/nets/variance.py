"""Any network as one with twice the outputs, whose second half says what the first half's variance is."""

from __future__ import annotations

from typing import Any, final

import torch
from torch import Tensor

from diffpolicy.nets.around import AroundNetwork
from diffpolicy.nets.base import Network
from diffpolicy.util.errors import require


@final
class VarianceNetwork(AroundNetwork, Network):
    """(B, C, *shape) -> (B, 2C, *shape), by a network of 2C numbers in place of C, which is given x twice.

    Args:
        net: of images (B, 2C, H, W), or of trajectories (B, T, 2D).
        axis: that is doubled: 1 for images, 2 for trajectories.
    """

    def __init__(self, net: Network, axis: int) -> None:
        super().__init__()
        self.net, self.axis, self.per_step = net, axis, net.per_step  # type: ignore[misc]

    def forward(self, x: Tensor, t: Tensor, cond: Any = None, r: Tensor | None = None) -> Tensor:
        """(B, C, *shape), times, a condition -> (B, 2C, *shape)."""
        require(r is None, "a network of two times with a learned variance", cure="leave r out")
        return self.net(torch.cat([x, x], dim=self.axis), t, cond)
