"""Features of time: a scalar t in [0, 1] as a vector that a network can tell apart."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

_SCALE = 1000.0  # t in [0, 1] spans what the index k in [0, 1000) spans in the DDPM literature


class SinusoidalTime(nn.Module):
    """sin and cos of 1000·t at `features`/2 fixed frequencies, 1 down to 1e-4 (Vaswani et al. 2017, 3.5).

    (B,) -> (B, features).
    """

    def __init__(self, features: int) -> None:
        super().__init__()
        _check_even(features)
        half = features // 2
        frequencies = torch.exp(torch.arange(half) * (-math.log(10_000.0) / max(half - 1, 1)))
        self.register_buffer("frequencies", frequencies * _SCALE, persistent=False)

    def forward(self, t: Tensor) -> Tensor:
        angles = t.to(self.frequencies.dtype)[:, None] * self.frequencies
        return torch.cat([angles.sin(), angles.cos()], dim=-1)


class FourierTime(nn.Module):
    """√2·(sin 2πwt, cos 2πwt) with learned frequencies w, drawn from N(0, 1) (6.S184 notes, lab three).

    (B,) -> (B, features).
    """

    def __init__(self, features: int) -> None:
        super().__init__()
        _check_even(features)
        self.frequencies = nn.Parameter(torch.randn(features // 2))

    def forward(self, t: Tensor) -> Tensor:
        angles = 2 * math.pi * t.to(self.frequencies.dtype)[:, None] * self.frequencies
        return math.sqrt(2.0) * torch.cat([angles.sin(), angles.cos()], dim=-1)


TIME_EMBEDDINGS = {"sinusoidal": SinusoidalTime, "fourier": FourierTime}


def time_embedding(name: str, features: int) -> nn.Module:
    """The time features called `name`: "sinusoidal" or "fourier", (B,) -> (B, features).

    Raises:
        ValueError: an unknown name, or an odd or non-positive number of features.
    """
    if name not in TIME_EMBEDDINGS:
        raise ValueError(f"unknown time embedding {name!r}; choose one of {sorted(TIME_EMBEDDINGS)}")
    return TIME_EMBEDDINGS[name](features)


def _check_even(features: int) -> None:
    if features < 2 or features % 2:
        raise ValueError(f"time features come in pairs of sine and cosine: give an even number, not {features}")
