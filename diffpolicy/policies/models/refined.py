"""A flow that starts at a guess: the mean chunk, from which it carries to the demonstrated ones."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from functools import partial
from typing import Any, final

import torch
from torch import Tensor

from diffpolicy.config import SamplerConfig
from diffpolicy.generative.process import GenerativeProcess
from diffpolicy.generative.shapes import Generators, randn
from diffpolicy.policies.chunking import FROM_NOISE, SamplingContext
from diffpolicy.policies.models.around import perceptron
from diffpolicy.policies.models.base import ModelSpec, Sample
from diffpolicy.policies.models.network import NetworkModel
from diffpolicy.registry import build, make
from diffpolicy.util.condition import Condition
from diffpolicy.util.errors import require


@final
class RefinedModel(NetworkModel):
    """Flow matching whose start is the answer of a regression with noise around it, N(guess(obs), spread²·I).

    A perceptron learns the mean of the demonstrated chunks, and the network the velocity from there to one of them.
    The way is shorter than from noise; the noise that is left decides among the ways that demonstrations take.

    Args:
        spec: what it is built for.
        path: the probability path for the registry, {"name": "linear"}.
        spread: standard deviation of the noise around the guess, in normalized units.
        width: units of the perceptron's two hidden layers.
        process: further arguments of `GenerativeProcess`, such as solver and steps.

    Raises:
        ValueError: unknown names, options that do not fit together, another path, a spread that is not positive, or
            a solver that draws noise, for which x_0 has to be N(0, I).
    """

    supported_execution = frozenset({"noise"})

    def __init__(
        self, spec: ModelSpec, path: Mapping[str, Any], spread: float = 0.3, width: int = 256, **process: Any
    ) -> None:
        require(path.get("name") == "linear", f"method.path={dict(path)} of a flow from a guess", "name=linear")
        require(0 < spread < math.inf, f"method.spread={spread}", "a finite number above 0")
        super().__init__(spec)
        self.process: GenerativeProcess = make(
            "method 'refined'", GenerativeProcess, process, path=build("path", path)
        )
        self.spread = spread
        self.guess = perceptron(spec.features or spec.cond_dim, width, spec.horizon * spec.action_dim)
        self.bound = math.inf if self.process.clip is None else self.process.clip
        self._check_solver()

    @property
    def sampler(self) -> dict[str, Any]:
        return self.process.sampler

    def configure(self, config: SamplerConfig) -> None:
        before = self.process.sampler
        self.process.configure(**asdict(config))
        try:
            self._check_solver()
        except ValueError:
            self.process.configure(**before)
            raise

    def chunk_loss(self, data: Tensor, cond: Condition, generator: Generators) -> Tensor:
        guess = self.guess(cond.vector).view_as(data)
        noise = randn(data.shape, generator, dtype=data.dtype, device=data.device)
        start = guess.detach().to(data.dtype) + self.spread * noise
        flow = self.process.loss(self.net, {"data": data, "cond": cond, "start": start}, generator)
        return flow + (guess - data).square().flatten(1).mean(1)

    def sample(
        self, cond: Condition, generators: Sequence[torch.Generator], context: SamplingContext = FROM_NOISE
    ) -> Sample:
        process, shape = self.process, (len(cond.vector), *self.shape)
        x, times = context.begin(shape, process.times, process.path, generators, cond.vector)
        x = self.guess(cond.vector).view_as(x) + self.spread * x
        bind = partial(process.solver.bind, process.field(self.net), process.path, generators)
        return self.carried(bind, x, times, cond, alike=process.solver.fixed)

    def _check_solver(self) -> None:
        given = f"solver={self.process.sampler['solver']}, which takes x_0 for N(0, I), of a flow from a guess"
        require(not self.process.solver.stochastic, given, "euler, heun, rk4, dopri5, ddim or dpmpp_2m")
