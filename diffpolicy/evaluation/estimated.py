"""An environment that shows what an estimator makes of its pictures, for a policy that observes numbers.

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

from diffpolicy.policies import Agent, Policy, load_policy
from diffpolicy.util.errors import require


@final
class Estimated(gym.Wrapper[Any, Any, Any, Any]):
    """Shows an estimator's answer (D,) float32 in place of the environment's observation.

    Args:
        env: the environment, which shows what the estimator observes.
        path: a checkpoint of the estimator.

    Raises:
        ValueError: an environment that shows something else, or a policy that does not answer every observation.
        CheckpointError: a missing or damaged checkpoint.
    """

    def __init__(self, env: gym.Env[Any, Any], path: str | Path) -> None:
        super().__init__(env)
        policy = estimator(str(path))
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
        obs, info = self.env.reset(seed=seed, options=None if options is None else dict(options))
        self._agent.reset([0], [seed or 0])
        return self._agent.act([obs])[0], info

    def step(self, action: Any) -> tuple[np.ndarray, Any, bool, bool, dict[str, Any]]:
        """Step the environment."""
        obs, *rest = self.env.step(action)
        return self._agent.act([obs])[0], *rest


@functools.lru_cache(maxsize=4)
def estimator(path: str) -> Policy:
    """Return the policy of a checkpoint, read once for all environments of a process.

    Raises:
        CheckpointError: a missing or damaged checkpoint.
    """
    return load_policy(path, device="cpu")
