"""Toy data in the plane: points (n, 2), float32, centred and of scale about one, as networks like their data.

Each is `name(n, generator) -> (n, 2)`; what is drawn comes from the generator alone.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor


def moons(n: int, generator: torch.Generator) -> Tensor:
    """Two interleaved half circles of radius 1, blurred by 0.08: an upper one round (−½, −¼), a lower (½, ¼)."""
    angle = math.pi * torch.rand(n, generator=generator)
    side = 2.0 * torch.randint(0, 2, (n,), generator=generator) - 1  # 1: the upper one
    points = torch.stack([side * (angle.cos() - 0.5), side * (angle.sin() - 0.25)], dim=1)
    return points + 0.08 * torch.randn(n, 2, generator=generator)


def circles(n: int, generator: torch.Generator) -> Tensor:
    """Two concentric circles of radius 1.5 and 0.7, equally likely, blurred by 0.07."""
    angle = 2 * math.pi * torch.rand(n, generator=generator)
    radius = torch.where(torch.rand(n, generator=generator) < 0.5, 1.5, 0.7)
    points = radius[:, None] * torch.stack([angle.cos(), angle.sin()], dim=1)
    return points + 0.07 * torch.randn(n, 2, generator=generator)


def checkerboard(n: int, generator: torch.Generator) -> Tensor:
    """Uniform on the eight dark squares of a board of 4 × 4 squares of side 1, on [−2, 2]²."""
    squares = torch.randint(0, 8, (n,), generator=generator)
    row = squares // 2
    column = 2 * (squares % 2) + row % 2
    corner = torch.stack([column, row], dim=1) - 2.0
    return corner + torch.rand(n, 2, generator=generator)


TOYS: dict[str, Callable[[int, torch.Generator], Tensor]] = {
    "moons": moons,
    "circles": circles,
    "checkerboard": checkerboard,
}
