"""What every method of drawing chunks has in common.

A method is a subclass of `ChunkModel`, constructed from `(spec: ModelSpec, **options)`, where the options stand in a
config's section `method`. It works in normalized units and knows nothing of robots, tasks or files:

    chunk_loss(data, cond, generator) -> (B,)          what is trained
    sample(cond, generators, context) -> Sample        how chunks are drawn, one generator per chunk
"""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass, field
from itertools import chain
from typing import Any, ClassVar, NamedTuple, final

import torch
from torch import Tensor

from diffpolicy.config import SamplerConfig
from diffpolicy.generative.shapes import Generators
from diffpolicy.nets.base import Freezable, Model
from diffpolicy.policies.chunking import FROM_NOISE, SamplingContext
from diffpolicy.policies.history import without_history
from diffpolicy.util.condition import Condition
from diffpolicy.util.errors import require


@dataclass(frozen=True)
class ModelSpec:
    """What a model is built for, whatever its method.

    Args:
        action_dim: A, numbers per action.
        cond_dim: C, numbers of the condition's vector, which holds T_o observations and what the policy is told.
        horizon: T_p, actions per chunk.
        obs_horizon: T_o, observations that the condition is made of.
        net: the network for the registry, {"name": …, options}.
        windows: number of training windows, for methods that remember them; None if it is not known.
        features: see `models.network`.
        history_dropout: see `PolicyConfig`.
        prefix: see `PolicyConfig`.
        token_dim: numbers of each of the condition's tokens; 0 where it has none.
    """

    action_dim: int
    cond_dim: int
    horizon: int
    obs_horizon: int = 1
    net: Mapping[str, Any] = field(default_factory=dict)
    windows: int | None = None
    features: int = 0
    history_dropout: float = 0.0
    prefix: int = 0
    token_dim: int = 0


class Sample(NamedTuple):
    """Chunks (B, T_p, A) in normalized units, and how many network calls each took."""

    chunks: Tensor
    calls: int


class ChunkModel(Model):
    """A module that is trained on windows of demonstrations and draws chunks of actions."""

    supported_execution: frozenset[str] = frozenset()
    """The settings of `ExecutionConfig` that `sample` supports; "ensemble" needs no support."""
    learns: ClassVar[bool] = True
    """Whether training changes it."""
    has_net: ClassVar[bool] = True
    """Whether it is built with the network of the section `net`."""
    half_precisions: tuple[str, ...] = ("bfloat16", "float16")
    """The types beside float32 that its weights may have when it samples."""
    bound: float = math.inf
    """The largest normalized action that it can draw."""
    takes_instructions: bool = True  # whether its condition may hold more than T_o observations
    learns_prefix: bool = False  # whether `PolicyConfig.prefix` makes sense for it
    drops_history: bool = True  # whether `PolicyConfig.history_dropout` makes sense for it

    def __init__(self, spec: ModelSpec) -> None:
        super().__init__()
        self.spec = spec

    @abstractmethod
    def chunk_loss(self, data: Tensor, cond: Condition, generator: Generators) -> Tensor:
        """Return the loss (B,) of demonstrated chunks `data` (B, T_p, A) under their conditions."""

    @abstractmethod
    def sample(
        self, cond: Condition, generators: Sequence[torch.Generator], context: SamplingContext = FROM_NOISE
    ) -> Sample:
        """Return a chunk for each condition, which depends on neither the others nor their number.

        Args:
            cond: of B samples.
            generators: one per sample, the source of everything random.
            context: what is known about the chunks.
        """

    def condition(self, observed: Mapping[str, Tensor], generator: Generators = None) -> Condition:
        """Return the condition of a batch of normalized observations.

        Args:
            observed: "obs" (B, T_o, D), the vectors; and more where there are encoders.
            generator: of augmentation in training; None where there is none.
        """
        return self.told(observed["obs"].flatten(1))

    def told(self, vector: Tensor) -> Condition:
        """Return the condition of the numbers (B, C) of T_o observations."""
        return Condition(vector)

    def loss(self, batch: Mapping[str, Any], generator: Generators) -> Tensor:
        """Return the loss (B,) of a normalized batch: "action" (B, T_p, A), and what `condition` reads."""
        if self.drops_history and self.training:
            batch = without_history(batch, self.spec.history_dropout, generator)
        return self.chunk_loss(batch["action"], self.condition(batch, generator), generator)

    @property
    def sampler(self) -> dict[str, Any]:
        """The settings of the sampler, for the record; empty where there is none."""
        return {}

    def configure(self, config: SamplerConfig) -> None:
        """Change the sampler without retraining; None keeps what was set.

        Raises:
            ValueError: settings that this model does not have.
        """
        given = ", ".join(f"{name}={value!r}" for name, value in asdict(config).items() if value is not None)
        require(not given, f"{type(self).__name__} has no sampler; given {given}", cure="leave solver and steps out")

    @final
    @property
    def shape(self) -> tuple[int, int]:
        """(T_p, A) of a chunk."""
        return self.spec.horizon, self.spec.action_dim

    @final
    @property
    def device(self) -> torch.device:
        """The device of its tensors: of the weights, or of the buffers where there are no weights."""
        return next(chain(self.parameters(), self.buffers())).device

    @final
    def precision(self) -> AbstractContextManager[object]:
        """Return the context to sample in: autocast for weights of half precision, else nothing.

        Inputs, noise and chunks stay float32: only the products inside the network are of half precision.
        """
        dtype = next(chain(self.parameters(), self.buffers())).dtype
        given, able = f"{type(self).__name__} with weights of {dtype}", ("float32", *self.half_precisions)
        supported = str(dtype).removeprefix("torch.") in able
        require(supported, given, ", ".join(able), "take policy.model.to(torch.float32)", TypeError)
        return nullcontext() if dtype == torch.float32 else torch.autocast(self.device.type, dtype)

    @final
    def freeze(self, compile_batch: int | None = None) -> bool:
        """Optimize the networks for inference, where they can be; return whether that is done as asked.

        Args:
            compile_batch: also compile calls of so many samples; see `Freezable`.
        """
        freezable = [net for net in self.networks() if isinstance(net, Freezable)]
        for net in freezable:
            net.freeze(None if compile_batch is None else (compile_batch, *self.shape), bool(self.spec.prefix))
        return bool(freezable) and (compile_batch is None or all(net.compiles for net in freezable))
