"""The Push-T environment beside gym-pusht: steps per second by state and by pixels, on the same trajectories.

Both are driven through gymnasium.make in one process on one core, some episodes each in turn, with the same starts
and actions. A ratio is that of neighboring turns; its median and range are reported.
"""

from __future__ import annotations

import os
import time
from collections.abc import Mapping, Sequence
from typing import Any

import gymnasium as gym
import numpy as np

import diffpolicy  # noqa: F401  registers the environments
from benchmarks.paired import ratio

EPISODE = 100  # steps from one start
EPISODES = 5  # in a turn
BODIES = {
    "diffpolicy": lambda env: (env._table.agent, *env._table.blocks),
    "gym_pusht": lambda env: (env.agent, env.block),
}


def _turn(env: Any, resets: Sequence[Mapping[str, Any]], actions: np.ndarray) -> tuple[float, np.ndarray]:
    """The seconds of the steps alone, and the poses of agent and block after each."""
    seconds, states = 0.0, []
    bodies = BODIES[type(env.unwrapped).__module__.split(".")[0]]
    for reset, episode in zip(resets, actions, strict=True):
        env.reset(seed=0, options=dict(reset))
        for action in episode:
            began = time.perf_counter()
            env.step(action)
            seconds += time.perf_counter() - began
            agent, block = bodies(env.unwrapped)
            states.append([*agent.position, *block.position, block.angle])
    return seconds, np.array(states)


def measure(rounds: int, seed: int) -> dict[str, Any]:
    """Return steps per second of both by what is observed, their ratio and the largest difference of their states."""
    import gym_pusht  # noqa: F401  registers gym_pusht/PushT-v0

    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    draw = np.random.default_rng(seed)
    found: dict[str, Any] = {}
    for mode, theirs_mode in (("state", "state"), ("pixels", "pixels_agent_pos")):
        ours = gym.make("diffpolicy/PushT-v0", obs_mode=mode, max_episode_steps=10 * EPISODE)
        theirs = gym.make("gym_pusht/PushT-v0", obs_type=theirs_mode, max_episode_steps=10 * EPISODE)
        rates: dict[str, list[float]] = {"diffpolicy": [], "gym_pusht": []}
        difference = 0.0
        for turn in range(rounds + 1):
            starts = [
                [*draw.uniform(50, 450, 2), *draw.uniform(150, 350, 2), draw.uniform(-3, 3)] for _ in range(EPISODES)
            ]
            # Walks across the block: targets that move as a policy's do, and touch the block half of the time.
            actions = np.clip(256 + np.cumsum(draw.normal(0, 20, (EPISODES, EPISODE, 2)), axis=1), 50, 462)
            actions = actions.astype(np.float32)
            t_ours, a = _turn(ours, [{"state": start, "legacy": True} for start in starts], actions)
            t_theirs, b = _turn(theirs, [{"reset_to_state": start} for start in starts], actions)
            difference = max(difference, float(np.abs(a - b).max()))
            if turn:  # the first warms up
                rates["diffpolicy"].append(EPISODES * EPISODE / t_ours)
                rates["gym_pusht"].append(EPISODES * EPISODE / t_theirs)
        found[mode] = {
            "steps_per_second": {name: float(np.median(values)) for name, values in rates.items()},
            "ratio": ratio(rates["diffpolicy"], rates["gym_pusht"]),
            "largest_state_difference": difference,
            "steps": rounds * EPISODES * EPISODE,
        }
    return found
