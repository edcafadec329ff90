"""The minimal iterative policy: two regressions, the second of which corrects the first."""

from __future__ import annotations

from collections.abc import Sequence
from typing import final

import torch
from torch import Tensor
from torch.nn import functional

from diffpolicy.generative.shapes import Generators, randn
from diffpolicy.policies.chunking import FROM_NOISE, SamplingContext
from diffpolicy.policies.models.base import ModelSpec, Sample
from diffpolicy.policies.models.network import NetworkModel
from diffpolicy.util.condition import Condition
from diffpolicy.util.errors import require


@final
class TwoStepModel(NetworkModel):
    """Regression, twice, without drawing noise (Pan et al. 2025, "Much Ado About Noising").

    The network's answer at x = 0 is the mean of the demonstrated chunks, as in regression; its answer at `time` to
    that first one is the chunk. The second is trained on chunks with noise of 1 - `time` added: it learns to bring a
    chunk that is slightly off back to where demonstrated chunks lie. The two squared errors are weighted by 1/time²
    and 1/(1 - time)². This is the form of the authors' code; in the paper the first answer is scaled by `time` before
    it is given back.

    Args:
        spec: what it is built for.
        time: t* of the second answer, in (0, 1).

    Raises:
        ValueError: a time outside (0, 1), or unknown names.
    """

    def __init__(self, spec: ModelSpec, time: float = 0.9) -> None:
        require(0 < time < 1, f"method.time={time}", "a time between 0 and 1, both excluded")
        super().__init__(spec)
        self.time = time

    def chunk_loss(self, data: Tensor, cond: Condition, generator: Generators) -> Tensor:
        noise = randn(data.shape, generator, dtype=data.dtype, device=data.device)
        x = torch.cat([torch.zeros_like(data), data + (1 - self.time) * noise])
        t = torch.cat([data.new_zeros(len(data)), data.new_full((len(data),), self.time)])
        twice = cond.map(lambda part: torch.cat([part, part]))
        answers = self.net(x, t, twice)
        errors = functional.mse_loss(answers, torch.cat([data, data]), reduction="none").flatten(1).mean(1)
        first, second = errors.chunk(2)
        return first / self.time**2 + second / (1 - self.time) ** 2

    @torch.no_grad()
    def sample(
        self, cond: Condition, generators: Sequence[torch.Generator], context: SamplingContext = FROM_NOISE
    ) -> Sample:
        like = cond.vector
        x = like.new_zeros((len(like), *self.shape))
        for time in (0.0, self.time):
            x = self.net(x, like.new_full((len(like),), time), cond)
        return Sample(x, 2)
