"""The temporal U-Net of Diffusion Policy (Chi et al. 2023, CNN-based; after Janner et al. 2022), to be read first.

It is written in torch's own layers. `unet1d_fast` is the same network in faster ones, which configs call "unet1d".
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import final

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from diffpolicy.nets.base import Network
from diffpolicy.nets.embeddings import time_mlp
from diffpolicy.nets.inputs import check_trajectory, check_vector, null_vector
from diffpolicy.util.condition import Condition
from diffpolicy.util.errors import require


class ConvBlock(nn.Module):
    """Convolution over time, group norm, Mish: (B, C_in, T) -> (B, C_out, T)."""

    def __init__(self, c_in: int, c_out: int, kernel: int, groups: int) -> None:
        super().__init__()
        self.conv = nn.Conv1d(c_in, c_out, kernel, padding=kernel // 2)
        self.norm = nn.GroupNorm(groups, c_out)

    def forward(self, x: Tensor) -> Tensor:
        return F.mish(self.norm(self.conv(x)))


class ResidualBlock(nn.Module):
    """Two convolution blocks with FiLM between them (Perez et al. 2018): h -> (1 + scale)·h + bias."""

    def __init__(self, c_in: int, c_out: int, features: int, kernel: int, groups: int) -> None:
        super().__init__()
        self.first = ConvBlock(c_in, c_out, kernel, groups)
        self.film = nn.Linear(features, 2 * c_out)
        self.second = ConvBlock(c_out, c_out, kernel, groups)
        self.skip = nn.Identity() if c_in == c_out else nn.Conv1d(c_in, c_out, 1)

    def forward(self, x: Tensor, features: Tensor) -> Tensor:
        scale, bias = self.film(features)[..., None].chunk(2, dim=1)
        return self.second((1 + scale) * self.first(x) + bias) + self.skip(x)


class Level(nn.Module):
    """Two residual blocks at one resolution."""

    def __init__(self, c_in: int, c_out: int, *shared: int) -> None:
        super().__init__()
        self.first, self.second = ResidualBlock(c_in, c_out, *shared), ResidualBlock(c_out, c_out, *shared)

    def forward(self, x: Tensor, features: Tensor) -> Tensor:
        return self.second(self.first(x, features), features)


@final
class ConditionalUnet1D(Network):
    """U-Net over time, conditioned on time and a vector by FiLM.

    Args:
        dim: D, numbers per step of the trajectory.
        cond_dim: C, numbers of the condition's vector; 0 for no condition.
        horizon: not used. Any number of steps T is accepted: if the strides do not divide it, the last step is
            repeated, and the result cut.
        two_times: embed the span r - t as well (r = None is r = t), for methods with two times.
        widths: channels per resolution, each half as long as the one before.
        kernel: taps of the convolutions, odd.
        groups: groups of the group norms; divides every width.
        time_features: size of the time embedding, even.
        time: "sinusoidal" or "fourier" (learned frequencies).

    Raises:
        ValueError: sizes that do not fit together, at construction or at the call.
    """

    def __init__(
        self,
        dim: int,
        cond_dim: int = 0,
        horizon: int = 16,
        two_times: bool = False,
        *,
        widths: Sequence[int] = (64, 128, 256),
        kernel: int = 5,
        groups: int = 8,
        time_features: int = 128,
        time: str = "sinusoidal",
    ) -> None:
        super().__init__()
        require(dim >= 1 and cond_dim >= 0, f"dim={dim}, cond_dim={cond_dim}", "dim >= 1 and cond_dim >= 0")
        fits = widths and all(width % groups == 0 for width in widths)
        require(fits, f"widths={list(widths)}", f"at least one, each a multiple of groups={groups}")
        require(kernel % 2, f"kernel={kernel}", "an odd number, which keeps the length")
        self.dim, self.cond_dim, self.stride = dim, cond_dim, 2 ** (len(widths) - 1)
        self.time = time_mlp(time, time_features)
        self.span = time_mlp(time, time_features) if two_times else None
        self.null_cond = nn.Parameter(torch.zeros(cond_dim)) if cond_dim else None
        shared = (time_features + cond_dim, kernel, groups)
        self.down = nn.ModuleList(Level(i, o, *shared) for i, o in pairwise((dim, *widths)))
        self.downsample = nn.ModuleList(nn.Conv1d(w, w, 3, stride=2, padding=1) for w in widths[:-1])
        self.middle = Level(widths[-1], widths[-1], *shared)
        self.up = nn.ModuleList(Level(2 * o, i, *shared) for i, o in reversed(list(pairwise(widths))))
        self.upsample = nn.ModuleList(nn.ConvTranspose1d(w, w, 4, stride=2, padding=1) for w in reversed(widths[:-1]))
        self.head = ConvBlock(widths[0], widths[0], kernel, groups)
        self.out = nn.Conv1d(widths[0], dim, 1)

    def null(self, cond: Condition) -> Condition:
        """Return the condition that stands for "none": learned, when training drops conditions."""
        return null_vector(self.null_cond, cond)

    def forward(self, x: Tensor, t: Tensor, cond: Condition | None = None, r: Tensor | None = None) -> Tensor:
        """(B, T, D), (B,), a vector (B, C), (B,) -> (B, T, D)."""
        check_trajectory(x, t, r, self.dim)
        vector = check_vector(cond, x.shape[0], self.cond_dim)
        features = self.time(t) if self.span is None else self.time(t) + self.span((t if r is None else r) - t)
        features = F.mish(features if vector is None else torch.cat([features, vector.to(features.dtype)], dim=1))
        repeated = x[:, -1:].expand(-1, -x.shape[1] % self.stride, -1)
        h = torch.cat([x, repeated], dim=1).transpose(1, 2).to(features.dtype)
        skips: list[Tensor] = []
        for depth, level in enumerate(self.down):
            h = level(h, features)
            skips.append(h)
            if depth < len(self.downsample):
                h = self.downsample[depth](h)
        h = self.middle(h, features)
        # As published, each level on the way up takes the skip of its own (coarser) resolution and upsamples after
        # it, so the skip of the finest level, skips[0], is not used.
        for level, upsample in zip(self.up, self.upsample, strict=True):
            h = upsample(level(torch.cat([h, skips.pop()], dim=1), features))
        return self.out(self.head(h)).transpose(1, 2)[:, : x.shape[1]].to(x.dtype)
