"""A gymnasium environment as a robot: each action is carried out for one period of the control loop's clock."""

from __future__ import annotations

from typing import Any, final

import gymnasium as gym
import numpy as np

from diffpolicy.evaluation.task import TaskSpec


@final
class EnvRobot:
    """Steps an environment whenever it is told to act.

    Args:
        env: the environment, as a policy observes it.
        seed: of its initial state.
    """

    def __init__(self, env: gym.Env[Any, Any], seed: int = 0) -> None:
        self.env, self.task = env, TaskSpec.of(env)
        self.obs, self.info = env.reset(seed=seed)
        self.rewards: list[float] = []
        self.done = False
        self.success: bool | None = None

    def observe(self) -> Any:
        """Return what the environment showed last."""
        return self.obs

    def act(self, action: np.ndarray) -> None:
        """Step the environment; after its end nothing happens any more."""
        if self.done:
            return
        self.obs, reward, terminated, truncated, self.info = self.env.step(action)
        self.rewards.append(float(reward))
        done = self.task.succeeded(self.info)
        self.success = done if self.success is None else bool(self.success or done)
        self.done = bool(terminated or truncated)
