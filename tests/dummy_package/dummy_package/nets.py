"""A network of one's own."""

import torch
from torch import nn

from diffpolicy.nets.base import Network


class ResidualMLP(Network):
    """A multilayer perceptron over the whole chunk, with residual connections.

    Args:
        dim: A, numbers per action.
        cond_dim: C, numbers of the condition's vector.
        horizon: T_p, steps of a chunk.
        two_times: whether a second time is given.
        width: units per layer.
        layers: number of layers.
    """

    def __init__(self, dim, cond_dim, horizon, two_times=False, width=64, layers=2):
        super().__init__()
        self.two_times = two_times
        self.first = nn.Linear(horizon * dim + cond_dim + 1 + two_times, width)
        self.blocks = nn.ModuleList(nn.Sequential(nn.SiLU(), nn.Linear(width, width)) for _ in range(layers))
        self.last = nn.Linear(width, horizon * dim)

    def forward(self, x, t, cond=None, r=None):
        parts = [x.flatten(1), cond.vector, t[:, None].to(x)]
        if self.two_times:
            parts.append((t if r is None else r)[:, None].to(x))
        hidden = self.first(torch.cat(parts, dim=1))
        for block in self.blocks:
            hidden = hidden + block(hidden)
        return self.last(hidden).view_as(x)

    def null(self, cond):
        return cond._replace(vector=torch.zeros_like(cond.vector))
