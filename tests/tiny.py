"""A tiny environment, its expert, and a tiny controller, shared by all tests.

A point on a line is to be moved from its start to the right or the left end; both are success.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import gymnasium as gym
import numpy as np

from diffpolicy.policies.controller import Controller

ENV_ID = "tiny/Line-v0"
LIMIT = 12
METRICS = {
    "best": {"key": "reward", "reducer": "max", "description": "greatest distance from the middle"},
    "place": {"key": "place", "reducer": "last", "description": "where the point is at the end"},
}


class LineEnv(gym.Env[Any, np.ndarray]):
    """Places in [-1, 1]; an action (2,) moves the point by a fifth of its first number, at most 0.2."""

    metadata: ClassVar[dict[str, Any]] = {
        "render_modes": ["rgb_array"],
        "render_fps": 5,
        "task": {
            "success_key": "success",
            "metrics": METRICS,
            "extent": [-1, 1, 1, -1],
            "mode_key": "mode",
            "modes": ["left", "right"],
            "paths": {"point": [0, 1]},
            "seed_sets": {"published": {"first": 100, "episodes": 3, "option": "published"}},
            "display_options": ["images"],
        },
    }

    def __init__(self, render_mode: str | None = None, images: bool = False, width: float = 0.9) -> None:
        self.render_mode, self.images, self.width = render_mode, images, width
        box = gym.spaces.Box(-1.0, 1.0, (2,), np.float32)
        image = gym.spaces.Box(0, 255, (8, 8, 3), np.uint8)
        self.observation_space = gym.spaces.Dict({"image": image, "obs": box}) if images else box
        self.action_space = gym.spaces.Box(-1.0, 1.0, (2,), np.float32)

    def mode_of(self, states: np.ndarray) -> str:
        """Return the mode of recorded states (L, 2)."""
        return self._mode(float(states[-1][0]))

    def reset(
        self, *, seed: int | None = None, options: Mapping[str, Any] | None = None
    ) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        options = options or {}
        self._place = float(self.np_random.uniform(-0.3, 0.3))
        if "published" in options:
            self._place = options["published"] / 1000
        elif "state" in options:
            self._place = float(options["state"][0])
        return self._see(), self._info()

    def step(self, action: np.ndarray) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        self._place = float(np.clip(self._place + 0.2 * float(np.clip(action[0], -1, 1)), -1, 1))
        return self._see(), abs(self._place), bool(self._mode(self._place)), False, self._info()

    def render(self) -> np.ndarray | None:
        return None if self.render_mode is None else self._image(17)

    def _see(self) -> Any:
        obs = np.array([self._place, 0.5], np.float32)
        return {"image": self._image(8), "obs": obs} if self.images else obs

    def _image(self, size: int) -> np.ndarray:
        image = np.zeros((size, size, 3), np.uint8)
        image[size // 2, round((self._place + 1) / 2 * (size - 1))] = 255
        return image

    def _mode(self, place: float) -> str:
        return "" if abs(place) < self.width else ("left", "right")[place > 0]

    def _info(self) -> dict[str, Any]:
        state = np.array([self._place, 0.5])
        mode = self._mode(self._place)
        return {"success": bool(mode), "place": self._place, "mode": mode, "state": state}


class LineExpert:
    """Moves the point to an end that it draws for every episode; with an odd seed from 90 on it stands still."""

    settings: ClassVar[dict[str, Any]] = {"speed": 1.0}

    def __init__(self, seed: int, options: Mapping[str, Any] | None = None) -> None:
        self._lazy = seed >= 90 and seed % 2 == 1
        self._side = 1.0 if np.random.default_rng(seed).random() < 0.5 else -1.0

    def reset(self, obs: Any, info: Mapping[str, Any]) -> None:
        self._start = info["place"]

    def act(self, obs: Any, info: Mapping[str, Any]) -> np.ndarray:
        return np.array([0.0 if self._lazy else self._side, self._start])


class Wanderer(Controller):
    """Draws chunks of three random actions, each from the episode's seed and the chunk's number."""

    replan_every = 3

    def __init__(self, step: float = 1.0) -> None:
        self.step = step
        self._chunks: dict[int, tuple[int, int, list[np.ndarray]]] = {}  # seed, chunks so far, actions left

    def reset(self, env_ids: Sequence[int] | None = None, seeds: Sequence[int] | None = None) -> None:
        self._chunks |= {env_id: (seed, 0, []) for env_id, seed in zip(env_ids or [], seeds or [], strict=True)}

    def act(
        self, obs: Any, env_ids: Sequence[int] | None = None, infos: Sequence[Mapping[str, Any]] | None = None
    ) -> np.ndarray:
        self.calls = 4
        actions = []
        for env_id in env_ids or []:
            seed, count, left = self._chunks[env_id]
            if not left:
                left = list(np.random.default_rng([seed, count]).uniform(-self.step, self.step, (3, 2)))
                count += 1
            actions.append(left.pop(0))
            self._chunks[env_id] = (seed, count, left)
        return np.array(actions)


if ENV_ID not in gym.registry:
    gym.register(ENV_ID, entry_point=f"{__name__}:LineEnv", max_episode_steps=LIMIT)
