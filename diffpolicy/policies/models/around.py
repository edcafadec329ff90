"""What methods have in common that are built around another one, which draws the chunks."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from diffpolicy.config import SamplerConfig
from diffpolicy.generative.shapes import Generators
from diffpolicy.policies.models.base import ChunkModel, ModelSpec
from diffpolicy.registry import build
from diffpolicy.util.condition import Condition
from diffpolicy.util.errors import require


class AroundModel(ChunkModel):
    """A method around a `base`, which draws the chunks; it learns from rollouts, not from demonstrations.

    The base's weights stay as they are, unless a subclass says otherwise.

    Args:
        spec: what it is built for.
        base: the method that draws chunks, {"name": …, options}.
        actions: T_a, actions of a chunk that are executed.
    """

    command = "diffpolicy improve"
    """What it learns by, for messages."""

    def __init__(self, spec: ModelSpec, base: Mapping[str, Any], actions: int) -> None:
        super().__init__(spec)
        self.start, self.actions = spec.obs_horizon - 1, actions
        given = f"actions={actions} of a chunk of {spec.horizon} after {self.start} in the past"
        require(1 <= actions <= spec.horizon - self.start, given, "those that are executed")
        self.base: ChunkModel = build("model", base, spec=spec)
        self.base.requires_grad_(False)
        self.supported_execution = self.base.supported_execution
        self.learns_prefix = self.base.learns_prefix
        self.half_precisions, self.bound = self.base.half_precisions, self.base.bound
        self.told_dim = spec.features or spec.cond_dim

    def executed(self, chunks: Tensor) -> Tensor:
        """Return the actions of chunks (B, T, A) that are executed, as numbers (B, T_a·A)."""
        return chunks[:, self.start : self.start + self.actions].flatten(1)

    def networks(self) -> list[nn.Module]:
        return self.base.networks()

    def condition(self, observed: Mapping[str, Tensor], generator: Generators = None) -> Condition:
        return self.base.condition(observed, generator)

    def told(self, vector: Tensor) -> Condition:
        return self.base.told(vector)

    @property
    def sampler(self) -> dict[str, Any]:
        return self.base.sampler

    def configure(self, config: SamplerConfig) -> None:
        self.base.configure(config)

    def chunk_loss(self, data: Tensor, cond: Condition, generator: Generators) -> Tensor:
        raise NotImplementedError(f"it learns from transitions, by {self.command}")


def perceptron(inputs: int, width: int, outputs: int = 1) -> nn.Sequential:
    """Return a perceptron of two hidden layers with layer norms, as critics are made that learn off-policy."""
    hidden = (nn.Linear(width, width), nn.LayerNorm(width), nn.Mish())
    return nn.Sequential(nn.Linear(inputs, width), nn.LayerNorm(width), nn.Mish(), *hidden, nn.Linear(width, outputs))
