"""A small multilayer perceptron for points: the network of the notes' two-dimensional examples."""

from __future__ import annotations

import math
from itertools import pairwise

import torch
from torch import Tensor, nn

from diffpolicy.nets.base import Network
from diffpolicy.nets.embeddings import time_embedding
from diffpolicy.nets.inputs import check_condition, null_vector
from diffpolicy.util.condition import Condition
from diffpolicy.util.errors import explain, require


class MLP(Network):
    """A perceptron for points: (B, D), (B,), a vector (B, C) or None -> (B, out_dim). It ignores r.

    Args:
        dim: D, numbers per point.
        cond_dim: C, numbers of the condition; 0 for none.
        width: units per hidden layer.
        depth: number of hidden layers.
        time_features: size of the time embedding, even.
        time: "sinusoidal" or "fourier" (learned frequencies).
        out_dim: numbers per output, D if None; for a classifier its number of classes.

    Raises:
        ValueError: sizes that do not fit together, at construction or at the call.
    """

    def __init__(
        self,
        dim: int,
        cond_dim: int = 0,
        width: int = 128,
        depth: int = 3,
        time_features: int = 64,
        time: str = "fourier",
        out_dim: int | None = None,
    ) -> None:
        super().__init__()
        out_dim = dim if out_dim is None else out_dim
        sizes = f"sizes {dim=}, {cond_dim=}, {width=}, {depth=}, {out_dim=}"
        require(min(dim, width, depth, out_dim) >= 1 and cond_dim >= 0, sizes, "positive ones and cond_dim >= 0")
        self.dim, self.cond_dim = dim, cond_dim
        self.time = time_embedding(time, time_features)
        self.null_cond = nn.Parameter(torch.zeros(cond_dim)) if cond_dim else None
        sizes = [dim + cond_dim + time_features] + depth * [width]
        layers: list[nn.Module] = []
        for size_in, size_out in pairwise(sizes):
            layers += [nn.Linear(size_in, size_out), nn.SiLU()]
        self.layers = nn.Sequential(*layers, nn.Linear(width, out_dim))
        self._start(time_features)

    def _start(self, time_features: int) -> None:
        """Set the first weights: each kind of input has its own fan-in, and the coordinates weigh most.

        With one fan-in for all, 64 features of the time drown two coordinates, and the network takes thousands of
        steps to see where it is. Later layers are as in He et al. 2015.
        """
        linear = [layer for layer in self.layers if isinstance(layer, nn.Linear)]
        for layer in linear:
            nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
            nn.init.zeros_(layer.bias)
        groups = linear[0].weight.split([self.dim, time_features, self.cond_dim], dim=1)
        for weight, gain in zip(groups, (2.0, 1.0, 1.0), strict=True):
            if weight.shape[1]:
                nn.init.normal_(weight, std=gain / math.sqrt(weight.shape[1]))

    def null(self, cond: Condition) -> Condition:
        """Return the condition that stands for "none": learned, when training drops conditions."""
        return null_vector(self.null_cond, cond)

    def forward(self, x: Tensor, t: Tensor, cond: Condition | None = None, r: Tensor | None = None) -> Tensor:
        if x.shape != (len(x), self.dim):
            raise ValueError(explain(f"x has shape {tuple(x.shape)}", f"(B, {self.dim})"))
        vector, *_ = check_condition(cond, x.shape[0], self.cond_dim)
        parts = [x, self.time(t)] + ([] if vector is None else [vector])
        dtype = self.layers[0].weight.dtype
        return self.layers(torch.cat([part.to(dtype) for part in parts], dim=-1)).to(x.dtype)
