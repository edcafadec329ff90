"""The experts solve their tasks, in all their modes, and the same for the same seed."""

from __future__ import annotations

from collections import Counter

import gymnasium as gym
import numpy as np
import pytest

from diffpolicy.envs.experts import EXPERTS


def episode(name: str, seed: int, **options: object) -> tuple[np.ndarray, dict[str, object]]:
    env, expert = gym.make(name, **options), EXPERTS[name](seed, options)
    _, info = env.reset(seed=seed)
    expert.reset(info)
    actions, ended = [], False
    while not ended:
        actions.append(expert.act(info))
        *_, terminated, truncated, info = env.step(actions[-1])
        ended = terminated or truncated
    return np.array(actions), info


@pytest.mark.parametrize(
    ("name", "modes"), [("diffpolicy/Detour-v0", 2), ("diffpolicy/PushBlocks-v0", 4)], ids=["Detour", "PushBlocks"]
)
def test_pucks_arrive_in_every_mode(name: str, modes: int) -> None:
    infos = [episode(name, seed)[1] for seed in range(60)]
    assert sum(bool(info["success"]) for info in infos) >= 58
    counts = Counter(info["mode"] for info in infos)
    assert len(counts) == modes and min(counts.values()) > 60 / modes / 3


def test_the_preference_does_not_depend_on_the_start() -> None:
    start = {"state": [256, 470, 256, 380]}
    env, modes = gym.make("diffpolicy/Detour-v0"), []
    for seed in range(20):
        expert = EXPERTS["diffpolicy/Detour-v0"](seed)
        _, info = env.reset(options=start)
        expert.reset(info)
        while not info["mode"]:
            *_, info = env.step(expert.act(info))
        modes.append(info["mode"])
    assert 5 <= modes.count("left") <= 15


@pytest.mark.parametrize("options", [{}, {"goal": "random"}, {"block": "ell"}, {"block": "plus"}], ids=str)
def test_blocks_come_to_lie_on_their_mark(options: dict[str, object]) -> None:
    infos = [episode("diffpolicy/PushT-v0", seed, **options)[1] for seed in range(6)]
    assert sum(bool(info["success"]) for info in infos) >= 5


@pytest.mark.parametrize("name", list(EXPERTS))
def test_a_seed_gives_the_same_actions_and_small_steps(name: str) -> None:
    actions, _ = episode(name, 3)
    np.testing.assert_array_equal(actions, episode(name, 3)[0])
    assert np.hypot(*np.diff(actions, axis=0).T).max() < 80.0  # px between targets a tenth of a second apart
    assert (actions >= 0).all() and (actions <= 512).all()
