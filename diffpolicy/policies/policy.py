"""What a robot asks: an observation history in, a chunk of actions out. A policy keeps no state between requests.

    chunk = policy.plan(PlanRequest(obs, keys))      obs (B, T_o, D) -> chunk.actions (B, T_a, A), numpy
    policy.predict(obs, seed=0)                      the actions alone

A policy predicts T_p actions, from T_o - 1 steps ago on; the T_a from now on are executed before it is asked again
(receding horizon control; Chi et al. 2023, section 2.3). `agent.Agent` keeps histories, queues and noise keys.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import final

import numpy as np
import torch
from torch import Tensor

from diffpolicy.config import ExecutionConfig, PolicyConfig
from diffpolicy.datasets.normalizer import Normalizer
from diffpolicy.datasets.representations import Representations
from diffpolicy.datasets.spec import Observation, ObservationSpec
from diffpolicy.policies.chunking import Chunker, Past, carried, decided_in
from diffpolicy.policies.costs import make_costs, with_costs
from diffpolicy.policies.doubt import spread_of
from diffpolicy.policies.execution import check_chains, longest_delay
from diffpolicy.policies.instructions import check_guidance, guided, told_by
from diffpolicy.policies.models.base import ChunkModel
from diffpolicy.policies.motion import Motion, after_pending, rolled_forward
from diffpolicy.policies.request import Chunk, PlanRequest
from diffpolicy.util.errors import require
from diffpolicy.util.seeds import generator


@final
class Policy:
    """A chunk model with the transforms that it was trained with, observation spec and horizons.

    Args:
        model: draws normalized chunks.
        normalizer: fitted on "obs" and "action".
        observation: what the policy observes.
        horizons: T_o, T_p and T_a in control steps, with T_o - 1 + T_a <= T_p.
        representations: what is made of observations and actions before they are normalized; None changes nothing.
        block: samples per network call, the last block padded; None takes all at once. Arithmetic can differ in the
            last bit between batch sizes; with a fixed block it does not.
        execution: how chunks are executed; None executes each as it was sampled.

    Raises:
        ValueError: horizons or execution settings that do not fit together or the model.
    """

    def __init__(
        self,
        model: ChunkModel,
        normalizer: Normalizer,
        observation: ObservationSpec,
        horizons: PolicyConfig,
        representations: Representations | None = None,
        *,
        block: int | None = None,
        execution: ExecutionConfig | None = None,
    ) -> None:
        t_o, t_p, t_a = horizons.obs_horizon, horizons.horizon, horizons.action_horizon
        fits = min(t_o, t_a) >= 1 and t_o - 1 + t_a <= t_p
        require(fits, f"horizons T_o={t_o}, T_p={t_p}, T_a={t_a}", "positive ones with T_o - 1 + T_a <= T_p")
        require(block is None or block >= 1, f"block={block}", "a positive number of samples, or None")
        self.model, self.normalizer, self.observation = model, normalizer, observation
        self.obs_horizon, self.horizon, self.action_horizon, self.block = t_o, t_p, t_a, block
        self.execution = execution or ExecutionConfig()
        as_is = Representations({}, {"obs": observation.vector_dim}, "action", normalizer.dim("action"))
        self.representations = representations or as_is
        check_chains(self.execution, self.representations.chains)
        check_guidance(self.execution, model)
        self._chunker = Chunker(self.execution, model.supported_execution, horizons)
        self.temperature = self._chunker.temperature  # of the noise that sampling starts from
        self.costs = make_costs(self.execution.costs, self.action_dim)  # may be replaced, by `make_costs` of others
        self.weaker: Sequence[ChunkModel] = ()  # whose chunks to keep away from
        self.motion: Motion | None = None  # how what is observed follows the actions, where that is known

    @property
    def obs_dim(self) -> int:
        """D, numbers per observation."""
        return self.observation.vector_dim

    @property
    def action_dim(self) -> int:
        """A, numbers per action, as recorded and executed."""
        return self.representations.recorded_action_dim

    def predict(self, obs: Observation, seed: int = 0) -> np.ndarray:
        """Return the actions (B, T_a, A) of first chunks, sample i of which is keyed by `seed` + i; see `plan`."""
        return self.plan(PlanRequest(obs, seed)).actions

    def plan(self, request: PlanRequest) -> Chunk:
        """Return the next chunk of each episode. The same request gives the same chunk, whatever was asked before.

        Raises:
            ValueError: observations of a wrong shape or with NaN or infinity, or not one key per episode.
            TypeError: images that are not uint8, or no mapping where there are cameras.
        """
        later = request.decided if self.execution.roll_forward else None  # from whose end on it is planned
        given_obs = request.obs if later is None else rolled_forward(self.motion, request.obs, later)
        vector, images = self.observation.split(given_obs, self.obs_horizon)
        count, device = len(vector), self.model.device
        keys = [(request.keys + i, 0) for i in range(count)] if isinstance(request.keys, int) else request.keys
        pasts = [None] * count if request.previous is None else list(request.previous)
        given = f"{len(keys)} noise keys and {len(pasts)} previous chunks for {count} observations"
        require(len(keys) == len(pasts) == count, given, "one of each per observation")
        told = told_by(self.observation, self.model, given_obs, len(vector), self.obs_horizon)
        seen = {key: torch.from_numpy(values).to(device) for key, values in {"obs": vector, **images, **told}.items()}
        observed = self.normalizer.apply(self.representations.apply(seen))
        moves = self.representations.moves
        pasts = carried(pasts, seen["obs"], self.normalized) if moves else pasts
        decided = decided_in(request.decided, seen["obs"], self.normalized)
        whole_episode = self.execution.noise == "episode"
        generators = [generator(*key[:-1], 0 if whole_episode else key[-1]) for key in keys]
        shape, calls = (count, self.horizon, self.normalizer.dim("action")), np.zeros(count, int)
        chunks, spread = torch.empty(shape, device=device), np.zeros(count)
        for part, padded in self._batches(pasts):
            draws = self._chunker.draws([generators[i] for i in part], len(padded))
            context = self._chunker.context([pasts[i] for i in padded], [decided[i] for i in padded])
            context = with_costs(self.costs, context, seen["obs"][padded], self.in_units, self.normalized)
            with torch.no_grad(), self.model.precision():
                some = {name: values[padded] for name, values in observed.items()}
                drawn = [
                    one.sample(one.condition(some), draws, guided(context, one, some, self.execution.guidance))
                    for one in (self.model, *self.weaker)
                ]
            every = [one.chunks for one in drawn]
            chosen = self._chunker.chosen(every, [pasts[i] for i in part], [decided[i] for i in part])
            each = self.execution.candidates
            chunks[part], calls[part] = chosen, sum(one.calls for one in drawn) * each
            first = self.obs_horizon - 1 + longest_delay(self.execution.delay)
            spread[part] = spread_of(every[0], each, len(part), first, self.action_horizon).cpu()
        actions, memory = self._chunker.execute(chunks, pasts)
        now, obs = self.obs_horizon - 1, seen["obs"]
        memory = carried(memory, obs, self.in_units) if moves else memory
        actions, chunks = self.in_units(actions, obs, now).cpu().numpy(), self.in_units(chunks, obs).cpu().numpy()
        actions = actions if later is None else after_pending(actions, later)
        return Chunk(actions, chunks, calls, memory, spread if self.execution.candidates > 1 else None)

    def normalized(self, actions: Tensor, obs: Tensor) -> Tensor:
        """Return recorded actions (B, T, A) beside recorded observations (B, T_o, D) as the model draws them."""
        return self.normalizer.normalize("action", self.representations.actions(actions, obs))

    def in_units(self, actions: Tensor, obs: Tensor, start: int = 0) -> Tensor:
        """Return what `normalized` was given; the first action is that of step `start` of the window."""
        return self.representations.actions_back(self.normalizer.unnormalize("action", actions), obs, start)

    def _batches(self, pasts: Sequence[Past | None]) -> Iterator[tuple[list[int], list[int]]]:
        """The episodes of each network call, and the episode of each of its samples, padded to a whole block."""
        each = self.execution.candidates
        for group in self._chunker.groups(pasts):
            block = -(-self.block // each) if self.block else len(group)
            for i in range(0, len(group), block):
                part = group[i : i + block]
                rows = [k for k in part for _ in range(each)]
                yield part, rows + part[:1] * (block * each - len(rows))
