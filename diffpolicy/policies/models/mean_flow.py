"""MeanFlow: a network that jumps from noise to data in any number of steps, one call each."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from functools import partial
from typing import Any, final

import torch
from torch import Tensor, nn

from diffpolicy.config import SamplerConfig
from diffpolicy.generative.flow_maps import AverageVelocity, FlowMapProcess
from diffpolicy.generative.paths import Path
from diffpolicy.generative.shapes import Generators
from diffpolicy.policies.chunking import FROM_NOISE, SamplingContext
from diffpolicy.policies.models.base import ModelSpec, Sample
from diffpolicy.policies.models.capabilities import Exportable
from diffpolicy.policies.models.network import NetworkModel
from diffpolicy.registry import build
from diffpolicy.util.condition import Condition
from diffpolicy.util.errors import require


@final
class MeanFlowModel(NetworkModel, Exportable):
    """The average velocity between two times (Geng et al. 2025), see `generative.flow_maps`.

    Args:
        spec: what it is built for; the network is one of two times.
        path: the probability path for the registry, {"name": …, options}.
        span_fraction: fraction of samples that are taught a span s > t; the others are taught the velocity.
        power: exponent of the loss weight, see `MeanFlowObjective`.
        steps: jumps when sampling, evenly spaced in time.

    Raises:
        ValueError: unknown names, or options that do not fit together.
    """

    supported_execution = frozenset({"noise", "warm_start"})
    prediction = "average_velocity"
    clip = None

    def __init__(
        self,
        spec: ModelSpec,
        path: Mapping[str, Any],
        span_fraction: float = 0.25,
        power: float = 1.0,
        steps: int = 1,
    ) -> None:
        super().__init__(spec, two_times=True)
        self.process = FlowMapProcess(build("path", path), span_fraction, power, steps)

    @property
    def sampler(self) -> dict[str, Any]:
        return self.process.sampler

    def configure(self, config: SamplerConfig) -> None:
        self.process.configure(**asdict(config))

    def chunk_loss(self, data: Tensor, cond: Condition, generator: Generators) -> Tensor:
        return self.process.loss(self.net, {"data": data, "cond": cond}, generator)

    def sample(
        self, cond: Condition, generators: Sequence[torch.Generator], context: SamplingContext = FROM_NOISE
    ) -> Sample:
        shape = (len(cond.vector), *self.shape)
        process = self.process
        x, times = context.begin(shape, process.times, process.path, generators, cond.vector)
        return self.carried(partial(AverageVelocity, self.net), x, times, cond, alike=times is process.times)

    @property
    def times(self) -> Tensor:
        return self.process.times

    @property
    def path(self) -> Path:
        return self.process.path

    def check_exportable(self, what: str) -> None:
        given = "the network of mean_flow takes two times, which no other sampler gives it"
        require(what == "chunk", given, "what=chunk")

    def flow_map(self, net: nn.Module) -> Callable[..., Tensor]:
        return AverageVelocity(net)
