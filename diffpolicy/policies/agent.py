"""Who acts: a policy with the state of one or many environments, one action per control step.

    agent = Agent(policy)
    agent.reset()
    action = agent.act([obs])[0]              one robot

Several environments are told apart by `env_ids`.
"""

from __future__ import annotations

import copy
from collections import Counter, deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, final

import numpy as np
import torch

from diffpolicy.datasets.spec import Observation, ObservationSpec, stack
from diffpolicy.policies.chunking import Past
from diffpolicy.policies.controller import Batch, Controller, EnvIds, env_numbers
from diffpolicy.policies.correcting import corrected
from diffpolicy.policies.doubt import Ask, answered
from diffpolicy.policies.models.capabilities import Corrects
from diffpolicy.policies.policy import PlanRequest, Policy
from diffpolicy.policies.queue import ActionQueue, hold
from diffpolicy.util.errors import require


@dataclass
class _Episode:
    """The state of one environment's episode."""

    key: tuple[int, ...]
    history: deque[Observation]
    queue: ActionQueue
    chunks: int = 0
    unsure: int = 0  # chunks in a row above the threshold
    past: Past | None = None


@final
class Agent(Controller):
    """Asks a policy for a new chunk wherever the last one has been executed.

    The noise of a chunk is a function of its episode's seed and of its number within the episode alone. Agents that
    share a policy do not disturb each other. `copy.copy` gives an agent with the same policy and a state of its own;
    an agent is pickled with its policy.

    Args:
        policy: what is asked.
        ask: who is asked where the policy is not sure, see `ExecutionConfig.ask_above`.
    """

    def __init__(self, policy: Policy, ask: Ask | None = None) -> None:
        require(ask is None or callable(ask), f"ask={ask!r}", "a function of an environment and its observations")
        self.policy, self.ask = policy, ask
        self.spread: dict[int, float] = {}
        self.asked: Counter[int] = Counter()  # how often in the present episode, by environment
        self.replan_every = policy.action_horizon
        self._episodes: dict[int, _Episode] = {}

    @property
    def device(self) -> torch.device:
        return self.policy.model.device

    def __copy__(self) -> Agent:
        other = Agent(self.policy, self.ask)
        other.calls, other._episodes = self.calls, copy.deepcopy(self._episodes)
        other.spread, other.asked = dict(self.spread), Counter(self.asked)
        return other

    def reset(self, env_ids: EnvIds | None = None, seeds: Sequence[int] | None = None) -> None:
        """Start new episodes; see `Controller.reset`.

        Without seeds an episode is keyed by its environment and by how many it had before.

        Raises:
            ValueError: environments that are no numbers >= 0, or not one seed >= 0 for each.
        """
        if seeds is None:
            for env in list(self._episodes) if env_ids is None else env_numbers(env_ids):
                before = self._episodes.get(env)
                self._start(env, (env, before.key[-1] + 1 if before else 0))
            return
        envs = list(range(len(seeds))) if env_ids is None else env_numbers(env_ids)
        fits = len(seeds) == len(envs) and all(seed >= 0 for seed in seeds)
        require(fits, f"seeds {list(seeds)[:8]} for {len(envs)} environments", "one seed >= 0 for each")
        for env, seed in zip(envs, seeds, strict=True):
            self._start(env, (int(seed),))

    def act(
        self, obs: Batch, env_ids: EnvIds | None = None, infos: Sequence[Mapping[str, Any]] | None = None
    ) -> np.ndarray:
        """Return the next action of each environment; see `Controller.act`.

        Raises:
            ValueError: a wrong shape, NaN or infinity, or not one environment per observation.
            TypeError: images that are not uint8, or no mapping where there are cameras.
        """
        if isinstance(obs, (list, tuple)) and obs:
            obs = stack(obs)
        vector, _ = self.policy.observation.split(obs, None)
        envs = list(range(len(vector))) if env_ids is None else env_numbers(env_ids)
        fits = len(envs) == len(set(envs)) == len(vector)
        require(fits, f"environments {envs[:8]} for {len(vector)} observations", "one for each, no one twice")
        for i, env in enumerate(envs):
            episode = self._episodes.get(env) or self._start(env, (env, 0))
            now = _entry(obs, i, self.policy.observation)
            episode.history.extend([now] * (1 if episode.history else self.policy.obs_horizon))
        due = [env for env in envs if not self._episodes[env].queue.due]
        if due:
            self._plan(due)
        planned = [self._episodes[env].queue.next() for env in envs]
        wanted = corrected(self.policy, obs, planned)
        actions = [self._episodes[env].queue.carried_out(one) for env, one in zip(envs, wanted, strict=True)]
        return np.array(actions, np.float32).reshape(len(envs), self.policy.action_dim)

    def _start(self, env: int, key: tuple[int, ...]) -> _Episode:
        policy, steps = self.policy, self.policy.obs_horizon
        self.spread.pop(env, None)
        if policy.execution.ask_above is not None:
            self.asked[env] = 0
        queue = ActionQueue(key, policy.execution, policy.action_dim, steps - 1, isinstance(policy.model, Corrects))
        self._episodes[env] = _Episode(key, deque(maxlen=steps), queue)
        return self._episodes[env]

    def _plan(self, envs: Sequence[int]) -> None:
        """Fill the queues of these environments' episodes."""
        episodes = [self._episodes[env] for env in envs]
        obs = stack([stack(episode.history) for episode in episodes])
        keys = [(*episode.key, episode.chunks) for episode in episodes]
        decided = [episode.queue.decided(hold(self.policy, episode.history[-1])) for episode in episodes]
        chunk = self.policy.plan(PlanRequest(obs, keys, [episode.past for episode in episodes], decided))
        warm = self.policy.execution.warm_start is not None
        counted = [n for n, episode in zip(chunk.calls, episodes, strict=True) if episode.chunks or not warm]
        if counted or not self.calls:
            self.calls = int((counted or list(chunk.calls))[-1])
        if chunk.spread is not None:
            self.spread |= dict(zip(envs, chunk.spread.tolist(), strict=True))
        above, after = self.policy.execution.ask_above, self.policy.execution.ask_after
        for env, episode, actions, past in zip(envs, episodes, chunk.actions, chunk.memory, strict=True):
            episode.unsure = episode.unsure + 1 if above is not None and self.spread[env] > above else 0
            if episode.unsure >= after:  # the next chunk has none that was carried out
                held, spread = hold(self.policy, episode.history[-1]), self.spread[env]
                actions, past = answered(env, list(episode.history), actions, self.ask, held, spread), None
                self.asked[env] += 1
            episode.chunks, episode.past = episode.chunks + 1, past
            episode.queue.put(actions, self.replan_every)


def _entry(obs: Observation, i: int, spec: ObservationSpec) -> Observation:
    """Observation i of a batch, what is observed alone; copied, since a driver may fill the same buffer again."""
    if isinstance(obs, Mapping):
        return {key: np.array(obs[key][i]) for key in spec}
    return np.array(obs[i])
