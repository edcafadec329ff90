"""A flow or diffusion policy whose sampler is a chain of Gaussian steps, so that policy gradients can train it.

A chunk is the end of a chain x_0, …, x_K. With noise in each of its steps, x_{k+1} ~ N(m(x_k, o), scale²), the
probability of what was drawn is known, and the steps are the actions of the policy gradient (Ren et al. 2025, DPPO;
Zhang et al. 2025, ReinFlow). The last step stays as it is, so that actions are no noisier than the chain before it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, final

import torch
from torch import Tensor, nn

from diffpolicy.generative.predictions import FlowMap
from diffpolicy.generative.sampling import sample
from diffpolicy.generative.shapes import Generators, randn
from diffpolicy.generative.solvers import DPMSolverMultistep
from diffpolicy.policies.chunking import FROM_NOISE, SamplingContext
from diffpolicy.policies.models.around import AroundModel
from diffpolicy.policies.models.base import ModelSpec, Sample
from diffpolicy.policies.models.generative import GenerativeModel
from diffpolicy.util.condition import Condition
from diffpolicy.util.errors import require
from diffpolicy.util.seeds import generator as keyed


@final
class NoisySteps(FlowMap):
    """Adds noise to each step of a flow map but the last, and keeps where each would have gone without it.

    Args:
        flow: whose steps they are.
        scale: standard deviation of the noise.
        generators: one per sample.
    """

    def __init__(self, flow: FlowMap, scale: float, generators: Sequence[torch.Generator]) -> None:
        self.flow, self.scale, self.generators = flow, scale, generators
        self.means: list[Tensor] = []

    def __call__(self, x: Tensor, t: Tensor, s: Tensor, cond: Any = None) -> Tensor:
        mean = self.flow(x, t, s, cond)
        self.calls = self.flow.calls
        self.means.append(mean)
        if bool((s == 1).all()):
            return mean
        return mean + self.scale * randn(x.shape, self.generators, dtype=x.dtype, device=x.device)


@final
class ChainModel(AroundModel):
    """Draws the base's chunks, and with `explore` through noisy steps; trains the base by clipped policy gradients.

    Args:
        spec: what it is built for.
        base: flow or diffusion with a deterministic solver of single steps, {"name": "generative", options}.
        actions: T_a, actions of a chunk that are executed; the probability is theirs.
        scale: standard deviation of the noise, in normalized units.
        clip: by how much the probability of a step may change before its gradient stops (Schulman et al. 2017, PPO).
    """

    command = "diffpolicy improve method=policy_gradient"
    explore: bool = False

    def __init__(
        self, spec: ModelSpec, base: Mapping[str, Any], actions: int, scale: float = 0.05, clip: float = 0.05
    ) -> None:
        super().__init__(spec, base, actions)
        fits = scale > 0 and 0 < clip < 1
        require(fits, f"scale={scale}, clip={clip}", "a standard deviation above 0, and a part in (0, 1)")
        self.scale, self.clip = scale, clip
        check_chain(self.base)
        self.base.requires_grad_(True)

    def sample(
        self, cond: Condition, generators: Sequence[torch.Generator], context: SamplingContext = FROM_NOISE
    ) -> Sample:
        if not self.explore:
            return self.base.sample(cond, generators, context)
        states, _, calls = self.chain(cond, generators, context)
        return Sample(states[-1], calls)

    def chain(
        self, cond: Condition, generators: Sequence[torch.Generator], context: SamplingContext = FROM_NOISE
    ) -> tuple[Tensor, Tensor, int]:
        """Return the states (K + 1, B, T_p, A) of noisy chains, the means (K, …) of their steps, and the calls."""
        process = self._base.process
        shape = (len(cond.vector), *self.shape)
        x, times = context.begin(shape, process.times, process.sampling_path, generators, cond.vector)
        own = [keyed("explore", one.initial_seed()) for one in generators]
        flow = NoisySteps(process.solver.bind(process.field(self._base.net), process.sampling_path), self.scale, own)
        states = sample(flow, x, times, cond, trajectory=True)
        return states, torch.stack([mean.clone() for mean in flow.means]), flow.calls

    def log_prob(self, after: Tensor, mean: Tensor) -> Tensor:
        """Return the log-probability (B,) of steps to `after` (B, T_p, A), as its mean over the executed numbers."""
        return -((self.executed(after - mean) / self.scale) ** 2).mean(1) / 2

    def loss(self, batch: Mapping[str, Any], generator: Generators) -> Tensor:
        """Return -min(r·A, clip(r)·A) of steps (B,), where r is by how much more probable they have become.

        Args:
            batch: normalized, "obs" (B, T_o, D); "x" and "after" (B, T_p, A), between times "t" and "s" (B,);
                "log_prob" (B,), as it was; "advantage" (B,), A.
            generator: unused.
        """
        process, told = self._base.process, self.condition({"obs": batch["obs"]})
        flow = process.solver.bind(process.field(self._base.net), process.sampling_path)
        now = self.log_prob(batch["after"], flow(batch["x"], batch["t"], batch["s"], told))
        ratio, advantage = (now - batch["log_prob"]).exp(), batch["advantage"]
        return -torch.minimum(ratio * advantage, ratio.clamp(1 - self.clip, 1 + self.clip) * advantage)

    @property
    def _base(self) -> GenerativeModel:
        assert isinstance(self.base, GenerativeModel)
        return self.base


def check_chain(model: nn.Module) -> None:
    """Refuse a model whose sampler is no chain of deterministic single steps.

    Raises:
        ValueError: says why.
    """
    given = f"{type(model).__name__} is no chain of steps"
    require(isinstance(model, GenerativeModel), given, "flow or diffusion", "take method=filtered")
    assert isinstance(model, GenerativeModel)
    solver, steps = model.process.solver, len(model.process.times) - 1
    single = solver.fixed and not isinstance(solver, DPMSolverMultistep)
    given = f"{solver} with {steps} steps"
    require(single and steps >= 2, given, "a deterministic solver of single steps, such as euler, with at least two")
