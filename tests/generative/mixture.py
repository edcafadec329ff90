"""What the tests add to the closed-form mixture: a "network" that is right, and a mixture to try things on."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from diffpolicy.generative.mixture import ExactField, GaussianMixture
from diffpolicy.generative.predictions import target


@dataclass(frozen=True)
class ExactNet:
    """A "network" that outputs exactly what the named prediction should be."""

    field: ExactField
    prediction: str

    def __call__(self, x: Tensor, t: Tensor, cond: Any = None, r: Tensor | None = None) -> Tensor:
        return target(self.prediction, *self.field(x, t, cond), t, self.field.path)

    @staticmethod
    def null(cond: Tensor) -> Tensor:
        return ExactField.null(cond)


def ring(shape: tuple[int, ...], components: int = 4, seed: int = 0) -> GaussianMixture:
    """A centred mixture over `shape` with overlapping and separate modes of scale about one, float64."""
    g = torch.Generator().manual_seed(seed)
    means = torch.randn((components, *shape), generator=g, dtype=torch.float64)
    means = means / means.flatten(1).square().mean(1).sqrt().reshape(-1, *[1] * len(shape))
    means = means - means.mean(0)
    stds = torch.linspace(0.2, 0.5, components, dtype=torch.float64)
    return GaussianMixture(means, stds, torch.full((components,), 1 / components, dtype=torch.float64))
