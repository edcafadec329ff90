"""Gymnasium wrappers for recording demonstrations."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import gymnasium as gym
import numpy as np

from diffpolicy.evaluation import spaces
from diffpolicy.evaluation.task import TaskSpec

NOISE_SEED = "noise_seed"
"""The option of `reset` by which `ActionNoise` is seeded."""

EXECUTED = "executed_action"
"""The key of `info`, and the name in a recording, of the action that `ActionNoise` carried out."""

_MEMORY = 0.8  # correlation of the error from one step to the next: white noise an agent would smooth out
_STREAM = 1  # keeps the error's random numbers apart from the environment's and the expert's


class ActionNoise(gym.Wrapper[Any, Any, Any, Any]):
    """Carries actions out with an error, so that a recording of the intended ones shows how to recover.

    The error is an autoregressive process with standard deviation `noise` (Laskey et al. 2017, "DART"), seeded by
    the reset option "noise_seed".

    Args:
        env: the environment.
        noise: in the units of actions, one number or one for each dimension.
    """

    def __init__(self, env: gym.Env[Any, Any], noise: float | np.ndarray) -> None:
        super().__init__(env)
        self.noise = noise

    def reset(
        self, *, seed: int | None = None, options: Mapping[str, Any] | None = None
    ) -> tuple[Any, dict[str, Any]]:
        """Reset the environment and the error."""
        options = dict(options or {})
        self._draw = np.random.default_rng([options.pop(NOISE_SEED, seed or 0), _STREAM])
        self._error = np.zeros(self.action_space.shape)
        return self.env.reset(seed=seed, options=options or None)

    def step(self, action: np.ndarray) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        """Step with the action and its error; `info["executed_action"]` is what that makes within the space."""
        fresh = math.sqrt(1.0 - _MEMORY**2) * self.noise * self._draw.standard_normal(self._error.shape)
        self._error = _MEMORY * self._error + fresh
        executed = action + self._error
        obs, reward, terminated, truncated, info = self.env.step(executed)
        return obs, reward, terminated, truncated, {**info, EXECUTED: within(self.action_space, executed)}


def within(space: gym.Space[Any], action: np.ndarray) -> np.ndarray:
    """Return an action as an adapted environment hands it on, in the action's own dtype.

    It is clipped to the space's bounds, and rounded where the space is of integers; only a Box has either.
    """
    return spaces.action(space)(action).astype(action.dtype) if isinstance(space, gym.spaces.Box) else action


class StepsAfterSuccess(gym.Wrapper[Any, Any, Any, Any]):
    """Lets an episode that ends in success run for some steps more, within its time limit.

    Args:
        env: the environment.
        steps: how many.
    """

    def __init__(self, env: gym.Env[Any, Any], steps: int) -> None:
        super().__init__(env)
        self.steps, self._task = steps, TaskSpec.of(env)

    def reset(self, **how: Any) -> tuple[Any, dict[str, Any]]:
        """Reset the environment."""
        self._left: int | None = None  # None while the episode has not ended
        return self.env.reset(**how)

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        """Step; the end of a successful episode is reported `steps` steps late, as a termination."""
        obs, reward, terminated, truncated, info = self.env.step(action)
        if truncated:
            self._left = 0
        elif self._left is not None:
            self._left -= 1
        elif terminated:
            self._left = self.steps if self._task.succeeded(info) else 0
        return obs, reward, self._left == 0, False, info
