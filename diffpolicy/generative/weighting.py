"""What a loss stresses: how training draws its times, and how it weights them."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from diffpolicy.generative.paths import DiscretePath, Path
from diffpolicy.util.errors import require


def _low_discrepancy(u: Tensor, path: Path) -> Tensor:
    return (u[:1] + torch.arange(len(u), dtype=u.dtype, device=u.device) / max(len(u), 1)) % 1


def _discrete(u: Tensor, path: Path) -> Tensor:
    require(isinstance(path, DiscretePath), f"times='discrete' on {path!r}", "a DiscretePath", error=TypeError)
    return path.time_at_index((u * path.steps).floor())


Draw = Callable[[Tensor, Path], Tensor]

# Draws of t, each as a function of uniform u (B,) on [0, 1).
TIMES: dict[str, Draw] = {
    "uniform": lambda u, path: u,
    # sigmoid of a standard normal (Esser et al. 2024, eq. 19, m = 0, s = 1)
    "logit_normal": lambda u, path: torch.sigmoid(torch.special.ndtri(u)),
    # t = 0.999·(1 − b), b ~ Beta(1.5, 1), whose distribution function is b^1.5 (Black et al. 2024, app. B: π0)
    "beta": lambda u, path: 0.999 * (1 - u ** (1 / 1.5)),
    # (u_0 + i/B) mod 1: uniform for each sample, evenly spread over the batch (Kingma et al. 2021, app. I.1)
    "low_discrepancy": _low_discrepancy,
    "discrete": _discrete,
}

MIN_SNR_GAMMA = 5.0
SIGMOID_BIAS = 2.0

# Weights of the data-space loss |data − estimate|² as functions of the SNR α²/σ². SNR is the noise loss.
WEIGHTINGS: dict[str, Callable[[Tensor], Tensor]] = {
    "uniform": torch.ones_like,
    "snr": lambda snr: snr,
    # min(SNR, γ) (Hang et al. 2023, eq. 11)
    "min_snr": lambda snr: snr.clamp(max=MIN_SNR_GAMMA),
    # sigmoid(b − log SNR) on the noise loss (Kingma & Gao 2023, app. D), times SNR on the data loss
    "sigmoid": lambda snr: snr * torch.sigmoid(SIGMOID_BIAS - snr.log()),
    # the notes' three, which weight the noise loss: 1, SNR and, where they have a word alone, α²/(α² + σ²), which on
    # the cosine path is sin²(πt/2)
    "notes_uniform": lambda snr: snr,
    "notes_snr": lambda snr: snr**2,
    "notes_cosine": lambda snr: snr**2 / (1 + snr),
}
NATIVE = "native"
