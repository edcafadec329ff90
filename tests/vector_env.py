"""An environment for vector environments, in a module that imports next to nothing, since processes import it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import gymnasium as gym
import numpy as np

NUM_ENVS = 3
LIMIT = 11


class Drift(gym.Env[Any, np.ndarray]):
    """A point that drifts with the actions; unless it is given a seed, a reset takes one `NUM_ENVS` further.

    So an environment that resets itself goes through the seeds first, first + NUM_ENVS, first + 2 · NUM_ENVS, …
    """

    metadata: ClassVar[dict[str, Any]] = {"render_modes": []}

    def __init__(self, by_key: bool = False) -> None:
        self.by_key = by_key
        box = gym.spaces.Box(-np.inf, np.inf, (2,), np.float32)
        self.observation_space = gym.spaces.Dict({"agent": box, "unused": box}) if by_key else box
        self.action_space = gym.spaces.Box(-1, 1, (2,), np.float32)

    def reset(
        self, *, seed: int | None = None, options: Mapping[str, Any] | None = None
    ) -> tuple[Any, dict[str, Any]]:
        self._seed = self._seed + NUM_ENVS if seed is None else seed
        draw = np.random.default_rng(self._seed)
        self._place, self._steps, self._last = draw.uniform(-1, 1, 2), 0, int(draw.integers(3, LIMIT + 3))
        return self._see(), {}

    def step(self, action: np.ndarray) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        self._place = np.clip(self._place + 0.1 * action, -1, 1)
        self._steps += 1
        return self._see(), 0.0, self._steps >= self._last, False, {}

    def _see(self) -> Any:
        obs = self._place.astype(np.float32)
        return {"agent": obs, "unused": obs} if self.by_key else obs


def drift(by_key: bool = False) -> gym.Env[Any, Any]:
    return gym.wrappers.TimeLimit(Drift(by_key), LIMIT)
