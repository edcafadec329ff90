"""Behavior cloning by least squares: the comparison that shows what a distribution is good for."""

from __future__ import annotations

from collections.abc import Sequence
from typing import final

import torch
from torch import Tensor
from torch.nn import functional

from diffpolicy.generative.shapes import Generators
from diffpolicy.policies.chunking import FROM_NOISE, SamplingContext
from diffpolicy.policies.models.base import Sample
from diffpolicy.policies.models.network import NetworkModel
from diffpolicy.util.condition import Condition


@final
class RegressionModel(NetworkModel):
    """The mean of the demonstrated chunks: the network's one answer, at x = 0 and t = 0.

    Where demonstrations part, their mean goes between them.

    Args:
        spec: what it is built for.
    """

    def chunk_loss(self, data: Tensor, cond: Condition, generator: Generators) -> Tensor:
        return functional.mse_loss(self._mean(cond), data, reduction="none").flatten(1).mean(1)

    @torch.no_grad()
    def sample(
        self, cond: Condition, generators: Sequence[torch.Generator], context: SamplingContext = FROM_NOISE
    ) -> Sample:
        return Sample(self._mean(cond), 1)

    def _mean(self, cond: Condition) -> Tensor:
        like = cond.vector
        return self.net(like.new_zeros((len(like), *self.shape)), like.new_zeros(len(like)), cond)
