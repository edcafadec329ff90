"""Flow matching and diffusion: chunks sampled from noise by any solver."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace
from functools import partial
from typing import Any, final

import torch
from torch import Tensor, nn

from diffpolicy.config import SamplerConfig
from diffpolicy.generative.guidance import Changed
from diffpolicy.generative.paths import Path
from diffpolicy.generative.predictions import Field, ModelField
from diffpolicy.generative.process import GenerativeProcess
from diffpolicy.generative.shapes import Generators
from diffpolicy.nets.variance import VarianceNetwork
from diffpolicy.policies.chunking import FROM_NOISE, SamplingContext
from diffpolicy.policies.history import prefix_of
from diffpolicy.policies.models.base import ModelSpec, Sample
from diffpolicy.policies.models.capabilities import Exportable
from diffpolicy.policies.models.network import NetworkModel
from diffpolicy.registry import build, make
from diffpolicy.util.condition import Condition
from diffpolicy.util.errors import require


@final
class GenerativeModel(NetworkModel, Exportable):
    """A network, a path and a prediction type, sampled by any solver.

    Args:
        spec: what it is built for.
        path: the probability path for the registry, {"name": …, options}.
        process: further arguments of `GenerativeProcess`, such as prediction, solver, steps and clip, the last in
            normalized units.

    Raises:
        ValueError: unknown names, or options that do not fit together.
    """

    supported_execution = frozenset({"noise", "warm_start", "inpaint", "guide", "costs", "guidance"})
    learns_prefix = True

    def __init__(self, spec: ModelSpec, path: Mapping[str, Any], **process: Any) -> None:
        learned = bool(process.get("learned_variance"))
        super().__init__(spec, width=1 + learned)
        self.net = VarianceNetwork(self.net, axis=2) if learned else self.net
        self.process: GenerativeProcess = make(
            "method 'generative'", GenerativeProcess, process, path=build("path", path)
        )
        self.bound = math.inf if self.process.clip is None else self.process.clip

    @property
    def sampler(self) -> dict[str, Any]:
        return self.process.sampler

    def configure(self, config: SamplerConfig) -> None:
        self.process.configure(**asdict(config))

    def chunk_loss(self, data: Tensor, cond: Condition, generator: Generators) -> Tensor:
        batch = {"data": data, "cond": cond}
        if not self.spec.prefix:
            return self.process.loss(self.net, batch, generator)
        known = prefix_of(data, self.spec.prefix, self.spec.obs_horizon - 1, generator)
        return self.process.objective.prefixed(self.net, batch, known, generator)

    def sample(
        self, cond: Condition, generators: Sequence[torch.Generator], context: SamplingContext = FROM_NOISE
    ) -> Sample:
        process, shape = self.process, (len(cond.vector), *self.shape)
        x, times = context.begin(shape, process.times, process.sampling_path, generators, cond.vector)
        field = process.field(self.net, partial(context.bound, taught=bool(self.spec.prefix)))
        field = field if context.change is None else Changed(field, context.change, float(times[-2]) - 1e-6)
        alike = process.solver.fixed and times is process.times and not context.binds
        bind = partial(process.solver.bind, field, process.sampling_path, generators)
        return self.carried(bind, x, times, cond, alike)

    @property
    def times(self) -> Tensor:
        return self.process.times

    @property
    def path(self) -> Path:
        return self.process.path

    @property
    def prediction(self) -> str:
        return self.process.prediction

    @property
    def clip(self) -> float | None:
        return self.process.clip

    def check_exportable(self, what: str) -> None:
        solver = self.process.solver
        require(what == "chunk" or not self.process.learned_variance, "a learned variance", "what=chunk")
        why = "draws noise at every step" if solver.stochastic else "chooses its steps while it runs"
        cure = "take solver=ddim (or euler, heun, rk4, dpmpp_2m, dpmpp_3m), or export what=network"
        expected = "a solver with fixed steps and no noise"
        require(solver.fixed or what == "network", f"{solver} {why}", expected, cure)

    def flow_map(self, net: nn.Module) -> Callable[..., Tensor]:
        field = _with_net(self.process.field(self.net), net)
        return self.process.solver.bind(field, self.process.sampling_path)


def _with_net(field: Field, net: nn.Module) -> Field:
    """The same field with another network inside its wrappers."""
    if isinstance(field, ModelField):
        return replace(field, net=net)
    return replace(field, field=_with_net(field.field, net))
