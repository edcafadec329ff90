"""The peer that benchmarks compare with: the temporal U-Net as published, in plain `nn.Conv1d` layers.

Same structure, widths and number of parameters as `ConditionalUnet1D`, channels first as Conv1d wants it, one module
per layer as a reader of the paper (Chi et al. 2023) would write it. Its parameters come in the same order and shapes,
so that weights can be copied over and the two compared number by number.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn

from diffpolicy.nets.embeddings import time_embedding
from diffpolicy.util.condition import Condition


def _conv_block(c_in: int, c_out: int, kernel: int, groups: int) -> nn.Sequential:
    return nn.Sequential(nn.Conv1d(c_in, c_out, kernel, padding=kernel // 2), nn.GroupNorm(groups, c_out), nn.Mish())


class _ResidualBlock(nn.Module):
    def __init__(self, c_in: int, c_out: int, features: int, kernel: int, groups: int) -> None:
        super().__init__()
        self.first = _conv_block(c_in, c_out, kernel, groups)
        self.film = nn.Sequential(nn.Mish(), nn.Linear(features, 2 * c_out))
        self.second = _conv_block(c_out, c_out, kernel, groups)
        self.skip = nn.Conv1d(c_in, c_out, 1) if c_in != c_out else nn.Identity()

    def forward(self, x: Tensor, features: Tensor) -> Tensor:
        scale, bias = self.film(features)[..., None].chunk(2, dim=1)
        return self.second((1 + scale) * self.first(x) + bias) + self.skip(x)


class _Level(nn.ModuleList):
    def __init__(self, c_in: int, c_out: int, *shared: int) -> None:
        super().__init__([_ResidualBlock(c_in, c_out, *shared), _ResidualBlock(c_out, c_out, *shared)])

    def forward(self, x: Tensor, features: Tensor) -> Tensor:
        for block in self:
            x = block(x, features)
        return x


class Conv1dUnet(nn.Module):
    """See `ConditionalUnet1D` for the arguments; the horizon must be divisible by the strides."""

    def __init__(
        self,
        dim: int,
        cond_dim: int,
        widths: Sequence[int] = (64, 128, 256),
        kernel: int = 5,
        groups: int = 8,
        time_features: int = 128,
    ) -> None:
        super().__init__()
        self.time = nn.Sequential(
            time_embedding("sinusoidal", time_features),
            nn.Linear(time_features, 4 * time_features),
            nn.Mish(),
            nn.Linear(4 * time_features, time_features),
        )
        shared = (time_features + cond_dim, kernel, groups)
        self.down = nn.ModuleList(_Level(i, o, *shared) for i, o in pairwise((dim, *widths)))
        self.downsample = nn.ModuleList(nn.Conv1d(w, w, 3, stride=2, padding=1) for w in widths[:-1])
        self.middle = _Level(widths[-1], widths[-1], *shared)
        self.up = nn.ModuleList(_Level(2 * o, i, *shared) for i, o in reversed(list(pairwise(widths))))
        self.upsample = nn.ModuleList(nn.ConvTranspose1d(w, w, 4, stride=2, padding=1) for w in reversed(widths[:-1]))
        self.head = _conv_block(widths[0], widths[0], kernel, groups)
        self.out = nn.Conv1d(widths[0], dim, 1)

    def forward(self, x: Tensor, t: Tensor, cond: Condition) -> Tensor:
        """(B, T, D), (B,), (B, C) -> (B, T, D)."""
        features = torch.cat([self.time(t), cond.vector], dim=-1)
        x, skips = x.transpose(1, 2), []
        for depth, level in enumerate(self.down):
            x = level(x, features)
            skips.append(x)
            if depth < len(self.downsample):
                x = self.downsample[depth](x)
        x = self.middle(x, features)
        for level, upsample in zip(self.up, self.upsample, strict=True):
            x = upsample(level(torch.cat([x, skips.pop()], dim=1), features))
        return self.out(self.head(x)).transpose(1, 2)

    @torch.no_grad()
    def copy_from(self, net: nn.Module) -> None:
        """Take over the weights of a `ConditionalUnet1D` of the same sizes; its null condition has no place here."""
        theirs = [value for name, value in net.state_dict().items() if name != "null_cond"]
        for mine, value in zip(self.parameters(), theirs, strict=True):
            mine.copy_(value.view_as(mine))
