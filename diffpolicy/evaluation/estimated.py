"""An environment observed by an estimator, for a policy that observes numbers where there are pictures.

An estimator is a policy whose actions are what another policy observes: trained by the same commands, with
`dataset.action_key` naming these numbers in place of the actions.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from pathlib import Path
from typing import Any, final

import gymnasium as gym
import numpy as np

from diffpolicy import checkpoint
from diffpolicy.policies import Agent, Policy, load_policy
from diffpolicy.util.errors import require
from diffpolicy.util.seeds import seed_of

_STREAM = "estimator"  # keeps the noise of an estimator that draws apart from the policy's


@final
class Estimated(gym.Wrapper[Any, Any, Any, Any]):
    """Shows an estimator's answer (D,) float32 in place of the environment's observation, all of it.

    Each answer is one network call, which counts as the environment's time.

    Args:
        env: the environment, which shows what the estimator observes.
        path: a checkpoint of the estimator.

    Raises:
        ValueError: an environment that shows something else, or a policy that does not answer every observation.
        CheckpointError: a missing or damaged checkpoint.
    """

    def __init__(self, env: gym.Env[Any, Any], path: str | Path) -> None:
        super().__init__(env)
        policy = load_estimator(path)
        given = f"env.estimator={path} answers every {policy.action_horizon} observations"
        require(policy.action_horizon == 1, given, "every one", "train it with policy.action_horizon=1")
        cure = "choose with env.kwargs and env.obs_keys what the environment shows"
        policy.observation.check_space(env.observation_space, whose="its estimator has", cure=cure)
        self.observation_space = gym.spaces.Box(-np.inf, np.inf, (policy.action_dim,), np.float32)
        self._agent = Agent(policy)

    def reset(
        self, *, seed: int | None = None, options: Mapping[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        """Reset the environment and the estimator."""
        outcome = self.env.reset(seed=seed, options=options)  # type: ignore[arg-type]
        if not (isinstance(outcome, tuple) and len(outcome) == 2):
            return outcome  # for whoever checks what environments return
        self._agent.reset([0], [seed_of(_STREAM, seed or 0)])
        return self._answer(outcome[0]), outcome[1]

    def step(self, action: Any) -> tuple[np.ndarray, Any, bool, bool, dict[str, Any]]:
        """Step the environment."""
        outcome = self.env.step(action)
        if not (isinstance(outcome, tuple) and len(outcome) == 5):
            return outcome  # as above
        obs, *rest = outcome
        return self._answer(obs), *rest

    def _answer(self, obs: Any) -> np.ndarray:
        return self._agent.act([obs])[0]


def load_estimator(path: str | Path) -> Policy:
    """Return the policy of a checkpoint, read once for all environments of a process.

    Raises:
        CheckpointError: a missing or damaged checkpoint.
    """
    return _loaded(str(path), checkpoint.read(path).sha256["ema.safetensors"])


@functools.lru_cache(maxsize=4)
def _loaded(path: str, digest: str) -> Policy:
    """The policy of a checkpoint with this digest; a folder may come to hold another one."""
    return load_policy(path, device="cpu")
