"""Playing episodes of a suite, for its tests."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import gymnasium as gym
import numpy as np

from diffpolicy import registry


def made(name: str, **kwargs: Any) -> gym.Env[Any, Any]:
    return gym.make(name, disable_env_checker=True, **kwargs)


def random_episode(env: gym.Env[Any, Any], seed: int, steps: int = 25) -> np.ndarray:
    """Return the states (steps + 1, D) of an episode of random actions, the global generator scrambled before it."""
    np.random.seed(None)  # noqa: NPY002
    draw = np.random.default_rng(seed)
    states = [env.reset(seed=seed)[1]["state"]]
    low, high = env.action_space.low, env.action_space.high
    for _ in range(steps):
        states.append(env.step(draw.uniform(low, high).astype(np.float32))[-1]["state"])
    return np.array(states)


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
