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

from diffpolicy.nets.attention import CrossAttention
from diffpolicy.nets.base import Network
from diffpolicy.nets.embeddings import time_mlp
from diffpolicy.nets.inputs import check_condition, check_trajectory, joined, null_vector
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
    """Two convolution blocks with FiLM between them (Perez et al. 2018): h -> (1 + scale)·h + bias.

    (B, C_in, T), features (B, F), or (B, T, F) where every step has its own -> (B, C_out, T).
    """

    def __init__(self, c_in: int, c_out: int, features: int, kernel: int, groups: int) -> None:
        super().__init__()
        self.first = ConvBlock(c_in, c_out, kernel, groups)
        self.film = nn.Linear(features, 2 * c_out)
        self.second = ConvBlock(c_out, c_out, kernel, groups)
        self.skip = nn.Identity() if c_in == c_out else nn.Conv1d(c_in, c_out, 1)

    def forward(self, x: Tensor, features: Tensor) -> Tensor:
        film = self.film(features)
        film = film[..., None] if film.ndim == 2 else film.transpose(1, 2)
        scale, bias = film.chunk(2, dim=1)
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
    """U-Net over time, conditioned on time and a vector by FiLM. Every step may have a time of its own.

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
        token_dim: numbers per token of the condition, to which the coarsest steps attend; 0 for none.
        heads: of that attention; divides the last width.

    Raises:
        ValueError: sizes that do not fit together, at construction or at the call.
    """

    per_step = True

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
        token_dim: int = 0,
        heads: int = 4,
    ) -> None:
        super().__init__()
        require(dim >= 1 and cond_dim >= 0, f"dim={dim}, cond_dim={cond_dim}", "dim >= 1 and cond_dim >= 0")
        fits = widths and all(width % groups == 0 for width in widths)
        require(fits, f"widths={list(widths)}", f"at least one, each a multiple of groups={groups}")
        require(kernel % 2, f"kernel={kernel}", "an odd number, which keeps the length")
        divided = not token_dim or widths[-1] % heads == 0
        require(divided, f"widths={list(widths)} with heads={heads}", "heads that divide the last")
        self.dim, self.cond_dim, self.token_dim, self.stride = dim, cond_dim, token_dim, 2 ** (len(widths) - 1)
        self.time = time_mlp(time, time_features)
        self.span = time_mlp(time, time_features) if two_times else None
        self.null_cond = nn.Parameter(torch.zeros(cond_dim)) if cond_dim else None
        shared = (time_features + cond_dim, kernel, groups)
        self.down = nn.ModuleList(Level(i, o, *shared) for i, o in pairwise((dim, *widths)))
        self.downsample = nn.ModuleList(nn.Conv1d(w, w, 3, stride=2, padding=1) for w in widths[:-1])
        self.middle = Level(widths[-1], widths[-1], *shared)
        self.attend = CrossAttention(widths[-1], token_dim, heads) if token_dim else None
        self.up = nn.ModuleList(Level(2 * o, i, *shared) for i, o in reversed(list(pairwise(widths))))
        self.upsample = nn.ModuleList(nn.ConvTranspose1d(w, w, 4, stride=2, padding=1) for w in reversed(widths[:-1]))
        self.head = ConvBlock(widths[0], widths[0], kernel, groups)
        self.out = nn.Conv1d(widths[0], dim, 1)

    def null(self, cond: Condition) -> Condition:
        """Return the condition that stands for "none": learned, when training drops conditions."""
        return null_vector(self.null_cond, cond)

    def forward(self, x: Tensor, t: Tensor, cond: Condition | None = None, r: Tensor | None = None) -> Tensor:
        """(B, T, D), (B,) or (B, T), a condition, as t -> (B, T, D)."""
        check_trajectory(x, t, r, self.dim)
        vector, tokens, mask = check_condition(cond, x.shape[0], self.cond_dim, self.token_dim)
        features = self.time(t) if self.span is None else self.time(t) + self.span((t if r is None else r) - t)
        missing = -x.shape[1] % self.stride
        h = torch.cat([x, x[:, -1:].expand(-1, missing, -1)], dim=1).transpose(1, 2).to(features.dtype)
        if t.ndim == 2:
            features = torch.cat([features, features[:, -1:].expand(-1, missing, -1)], dim=1)
        features = F.mish(joined(features, vector))

        def at(depth: int) -> Tensor:
            # A step of a coarser resolution has the time of the first one that it is made of.
            return features if features.ndim == 2 else features[:, :: 2**depth]

        skips: list[Tensor] = []
        for depth, level in enumerate(self.down):
            h = level(h, at(depth))
            skips.append(h)
            if depth < len(self.downsample):
                h = self.downsample[depth](h)
        h = self.middle(h, at(len(self.up)))
        if self.attend is not None:
            h = self.attend(h.transpose(1, 2), tokens, mask).transpose(1, 2)
        # As published, each level on the way up takes the skip of its own (coarser) resolution and upsamples after
        # it, so the skip of the finest level, skips[0], is not used.
        for depth, level, upsample in zip(range(len(self.up), 0, -1), self.up, self.upsample, strict=True):
            h = upsample(level(torch.cat([h, skips.pop()], dim=1), at(depth)))
        return self.out(self.head(h)).transpose(1, 2)[:, : x.shape[1]].to(x.dtype)
