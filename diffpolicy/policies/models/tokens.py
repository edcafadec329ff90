"""Actions as tokens: each number one of some levels, drawn by a discrete diffusion."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any, final

import torch
from torch import Tensor

from diffpolicy.config import SamplerConfig
from diffpolicy.generative.discrete import TokenProcess, from_tokens, to_tokens
from diffpolicy.generative.shapes import Generators
from diffpolicy.nets.tokens import TokenNetwork
from diffpolicy.policies.chunking import FROM_NOISE, SamplingContext
from diffpolicy.policies.models.base import ModelSpec, Sample
from diffpolicy.policies.models.network import NetworkModel
from diffpolicy.util.condition import Condition
from diffpolicy.util.errors import require


@final
class TokenModel(NetworkModel):
    """A chain of tokens over all numbers of a chunk, see `generative.discrete`.

    Args:
        spec: what it is built for.
        path: "mask" or "uniform".
        levels: intervals of equal width that the normalized range [−1, 1] of every number is divided into.
        width: numbers that a token is embedded in.
        steps: of sampling; each draws the tokens of a share of the positions, all at once.
        solver: "tau_leaping" or "euler".
        churn: see `TokenSampler`.
        temperature: see `TokenSampler`.

    Raises:
        ValueError: unknown names, or numbers out of range.
    """

    bound = 1.0

    def __init__(
        self,
        spec: ModelSpec,
        path: str = "mask",
        levels: int = 64,
        width: int = 8,
        steps: int = 10,
        solver: str = "tau_leaping",
        churn: float = 0.0,
        temperature: float = 1.0,
    ) -> None:
        require(width >= 1, f"method.width={width}", "at least 1")
        require(temperature > 0, f"method.temperature={temperature}", "a number above 0")
        super().__init__(spec, width=width)
        self.process = TokenProcess(path, levels, steps, solver, churn)
        self.levels, self.temperature = levels, temperature
        self.net = TokenNetwork(self.net, self.process.tokens.tokens, levels, width, axis=2)

    @property
    def sampler(self) -> dict[str, Any]:
        return self.process.sampler

    def configure(self, config: SamplerConfig) -> None:
        self.process.configure(**asdict(config))

    def chunk_loss(self, data: Tensor, cond: Condition, generator: Generators) -> Tensor:
        return self.process.loss(self.net, {"data": to_tokens(data, self.levels), "cond": cond}, generator)

    @torch.no_grad()
    def sample(
        self, cond: Condition, generators: Sequence[torch.Generator], context: SamplingContext = FROM_NOISE
    ) -> Sample:
        like, how = cond.vector, {"temperature": self.temperature, "device": cond.vector.device}
        tokens, calls = self.process.draw(self.net, (len(like), *self.shape), cond, generators, **how)
        return Sample(from_tokens(tokens, self.levels).to(like.dtype), calls)
