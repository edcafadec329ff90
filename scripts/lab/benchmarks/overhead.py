"""What the rollout loop and the adapter add to a step of an environment, beside a bare loop over the same one.

The environment does nothing for 1 ms a step, watching the clock, or returns at once. It is stepped by `rollout` as an
evaluation does, adapted, with a controller that gives zeros; and in a bare `for` loop, as one would write it. Both
take as many steps, in turn, on one core. "overhead_us" is the difference per step in microseconds: the median over
turns, with the lowest and the highest; "ratio" is that of the bare loop's seconds to ours.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import gymnasium as gym
import numpy as np

from benchmarks.paired import ratio, seconds
from diffpolicy.config import EnvConfig
from diffpolicy.evaluation import Reset, make_env, rollout
from diffpolicy.policies import Controller

STEPS = 500  # of an episode
NUMBERS, GOAL, ACTION = 39, 3, 4  # sizes as those of simulated arms
BUSY = 1e-3  # seconds of a step
BUDGET = 0.05  # of a step of BUSY seconds, that loop and adapter may add


class Busy(gym.Env[Any, np.ndarray]):
    """Does nothing for so many seconds a step; observes float64 numbers, or a mapping with goals as suites do."""

    def __init__(self, busy: float = BUSY, by_key: bool = False) -> None:
        self.busy, self.by_key = busy, by_key
        sizes = {"observation": NUMBERS, "achieved_goal": GOAL, "desired_goal": GOAL}
        boxes = {key: gym.spaces.Box(-np.inf, np.inf, (size,), np.float64) for key, size in sizes.items()}
        self.observation_space = gym.spaces.Dict(boxes) if by_key else boxes["observation"]
        self.action_space = gym.spaces.Box(-1.0, 1.0, (ACTION,), np.float32)
        numbers = {key: np.linspace(-1, 1, size) for key, size in sizes.items()}
        self._obs = numbers if by_key else numbers["observation"]

    def reset(
        self, *, seed: int | None = None, options: Mapping[str, Any] | None = None
    ) -> tuple[Any, dict[str, Any]]:
        return self._obs, {}

    def step(self, action: np.ndarray) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        until = time.perf_counter() + self.busy
        while self.busy and time.perf_counter() < until:
            pass
        return self._obs, 0.5, False, False, {"is_success": False}


class _Still(Controller):
    """Gives zeros."""

    def reset(self, env_ids: Sequence[int] | None = None, seeds: Sequence[int] | None = None) -> None:
        pass

    def act(self, obs: Any, env_ids: Any = None, infos: Any = None) -> np.ndarray:
        return np.zeros((len(env_ids), ACTION), np.float32)


def _bare(busy: float, by_key: bool) -> Callable[[], None]:
    env, action = Busy(busy, by_key), np.zeros(ACTION, np.float32)

    def run() -> None:
        env.reset(seed=0)
        for _ in range(STEPS):
            env.step(action)

    return run


def _ours(busy: float, by_key: bool) -> Callable[[], None]:
    factory = f"{__name__}:Busy"
    made = make_env(EnvConfig(factory=factory, kwargs={"busy": busy, "by_key": by_key}, max_steps=STEPS))
    return lambda: rollout(_Still(), made, [Reset(0)], envs=1) and None


def measure(rounds: int, seed: int) -> dict[str, Any]:
    """Return by case the overhead per step in microseconds, and the ratio of the bare loop's seconds to ours."""
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    found: dict[str, Any] = {}
    for busy in (BUSY, 0.0):
        for by_key in (False, True):
            ours, bare = _ours(busy, by_key), _bare(busy, by_key)
            turns = [(seconds(ours, 1), seconds(bare, 1)) for _ in range(rounds + 1)][1:]  # the first warms up
            mine, theirs = (np.array(times) for times in zip(*turns, strict=True))
            added = 1e6 * (mine - theirs) / STEPS
            case = f"{1e3 * busy:g} ms a step, {'dict' if by_key else 'array'}"
            found[case] = {
                "seconds": {"ours": float(np.median(mine)), "peer": float(np.median(theirs))},
                "ratio": ratio(theirs, mine),
                "overhead_us": {name: float(of(added)) for name, of in _SUMMARIES.items()},
                "steps": STEPS,
            }
            if busy:
                found[case]["within_budget"] = bool(np.median(added) <= 1e6 * BUDGET * busy)
    return found


_SUMMARIES = {"median": np.median, "low": np.min, "high": np.max}
