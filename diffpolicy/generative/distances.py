"""How far one set of samples is from another."""

import torch
from torch import Tensor


def sliced_wasserstein(a: Tensor, b: Tensor, projections: int = 64, seed: int = 1) -> float:
    """Mean Wasserstein-1 distance of random one-dimensional projections (Bonneel et al. 2015); a, b (N, *shape).

    Two independent sets of one law are not at distance 0 but at about N^−½: compare with that of such a pair.

    Raises ValueError when the sets differ in shape.
    """
    if a.shape != b.shape:
        raise ValueError(f"the sets have shapes {tuple(a.shape)} and {tuple(b.shape)}; draw equally many of both")
    a, b = a.flatten(1).double(), b.flatten(1).double()
    g = torch.Generator().manual_seed(seed)
    w = torch.randn(a.shape[1], projections, generator=g, dtype=torch.float64).to(a.device)
    w = w / w.norm(dim=0)
    return float(((a @ w).sort(0).values - (b @ w).sort(0).values).abs().mean())
