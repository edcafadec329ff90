"""Playing episodes of a suite, for its tests."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import gymnasium as gym
import numpy as np

from check_suites import made, random_episode
from diffpolicy import registry


def is_one_episode_per_seed(name: str, steps: int = 25, **kwargs: Any) -> bool:
    """Return whether a seed is an episode to the bit: in two instances, and after another episode."""
    first, second = made(name, **kwargs), made(name, **kwargs)
    expected = random_episode(first, 5, steps)
    random_episode(first, 6, steps)
    again, elsewhere = random_episode(first, 5, steps), random_episode(second, 5, steps)
    other = second.reset(seed=6)[1]["state"]
    return (
        expected.dtype == np.float64
        and np.array_equal(expected, again)
        and np.array_equal(expected, elsewhere)
        and not np.array_equal(expected[0], other)
    )


def expert_episode(env: gym.Env[Any, Any], name: str, seed: int, kwargs: Mapping[str, Any]) -> list[bool]:
    """Return whether the task was done after each step of an episode by the environment's expert."""
    expert = registry.lookup("expert", name)(seed, kwargs)
    obs, info = env.reset(seed=seed)
    expert.reset(obs, info)
    done: list[bool] = []
    ended = False
    while not ended:
        action = np.asarray(expert.act(obs, info), np.float32)
        assert env.action_space.contains(action)
        obs, _, terminated, truncated, info = env.step(action)
        done.append(info["success"])
        ended = terminated or truncated
    return done
