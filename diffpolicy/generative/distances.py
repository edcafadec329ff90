"""How far one set of samples is from another."""

import torch
from torch import Tensor

from diffpolicy.util.device import precise_dtype
from diffpolicy.util.errors import require

NEAREST = 3
"""Samples that say how probable another one is (Liu et al. 2024)."""


def sliced_wasserstein(a: Tensor, b: Tensor, projections: int = 64, seed: int = 1) -> float:
    """Return the mean Wasserstein-1 distance of random one-dimensional projections (Bonneel et al. 2015).

    Two independent sets of one law are not at distance 0 but at about N^−½: compare with that of such a pair.

    Args:
        a: (N, *shape).
        b: (N, *shape).
        projections: number of directions.
        seed: of the directions.

    Raises:
        ValueError: the sets differ in shape.
    """
    require(a.shape == b.shape, f"sets of shapes {tuple(a.shape)} and {tuple(b.shape)}", "as many samples of both")
    precise = precise_dtype(a.device)
    a, b = a.flatten(1).to(precise), b.flatten(1).to(precise)
    g = torch.Generator().manual_seed(seed)
    w = torch.randn(a.shape[1], projections, generator=g, dtype=torch.float64).to(a.device, precise)
    w = w / w.norm(dim=0)
    return float(((a @ w).sort(0).values - (b @ w).sort(0).values).abs().mean())


def apart(chunks: Tensor, others: Tensor, itself: bool = False) -> Tensor:
    """Return the mean distance of chunks (B, N, T, A) to the nearest three of `others` (B, M, T, A), (B, N).

    It is the mean distance of their actions. With `itself` a chunk is among the others, and does not count.
    """
    distances = (chunks[:, :, None] - others[:, None]).square().sum(-1).sqrt().mean(-1)
    nearest = min(NEAREST + itself, others.shape[1])
    return distances.topk(nearest, largest=False).values[..., int(itself) :].mean(-1)
