"""Features of time: a scalar t in [0, 1] as a vector that a network can tell apart.

Angles are computed in float32 at least: in half precision they would be off by radians. The features have the dtype
of the module's weights.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from diffpolicy.util import names
from diffpolicy.util.errors import require

_SCALE = 1000.0  # t in [0, 1] spans what the index k in [0, 1000) spans in the DDPM literature
_HALF = (torch.bfloat16, torch.float16)


class SinusoidalTime(nn.Module):
    """sin and cos of 1000·t at `features`/2 fixed frequencies, 1 down to 1e-4 (Vaswani et al. 2017, 3.5).

    (B, ...) -> (B, ..., features).
    """

    def __init__(self, features: int) -> None:
        super().__init__()
        _check_even(features)
        self.register_buffer("frequencies", _frequencies(features // 2), persistent=False)

    def forward(self, t: Tensor) -> Tensor:
        frequencies = self.frequencies
        if frequencies.dtype in _HALF:
            frequencies = _frequencies(len(frequencies)).to(t.device)
        angles = t.to(frequencies.dtype)[..., None] * frequencies
        return torch.cat([angles.sin(), angles.cos()], dim=-1).to(self.frequencies.dtype)


def _frequencies(count: int) -> Tensor:
    return torch.exp(torch.arange(count) * (-math.log(10_000.0) / max(count - 1, 1))) * _SCALE


class FourierTime(nn.Module):
    """√2·(sin 2πwt, cos 2πwt) with learned frequencies w, drawn from N(0, 1) (6.S184 notes, lab three).

    (B, ...) -> (B, ..., features).
    """

    def __init__(self, features: int) -> None:
        super().__init__()
        _check_even(features)
        self.frequencies = nn.Parameter(torch.randn(features // 2))

    def forward(self, t: Tensor) -> Tensor:
        frequencies = self.frequencies.float() if self.frequencies.dtype in _HALF else self.frequencies
        angles = 2 * math.pi * t.to(frequencies.dtype)[..., None] * frequencies
        return math.sqrt(2.0) * torch.cat([angles.sin(), angles.cos()], dim=-1).to(self.frequencies.dtype)


TIME_EMBEDDINGS = {"sinusoidal": SinusoidalTime, "fourier": FourierTime}


def time_embedding(name: str, features: int) -> nn.Module:
    """Return the time features called `name`, (B, ...) -> (B, ..., features).

    Args:
        name: "sinusoidal" or "fourier".
        features: their number, even.

    Raises:
        ValueError: an unknown name, or an odd or non-positive number of features.
    """
    names.check("time embedding", name, TIME_EMBEDDINGS)
    return TIME_EMBEDDINGS[name](features)


def time_mlp(name: str, features: int) -> nn.Sequential:
    """Return the time features called `name` with a perceptron on top, (B, ...) -> (B, ..., features)."""
    return nn.Sequential(
        time_embedding(name, features),
        nn.Linear(features, 4 * features),
        nn.Mish(),
        nn.Linear(4 * features, features),
    )


def _check_even(features: int) -> None:
    require(features >= 2 and features % 2 == 0, f"time_features={features}", "an even number: sines and cosines")
