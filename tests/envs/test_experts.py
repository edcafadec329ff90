"""The experts solve their tasks, in all their modes, and the same for the same seed."""

from __future__ import annotations

import functools
from typing import Any

import gymnasium as gym
import numpy as np
import pytest

from diffpolicy import registry
from diffpolicy.envs.experts import EXPERTS, Expert


def play(name: str, seed: int, options: dict[str, Any]) -> tuple[np.ndarray, dict[str, Any]]:
    """Return the actions of an expert's episode, and its last `info`."""
    env, expert = gym.make(name, **options), EXPERTS[name](seed, options)
    obs, info = env.reset(seed=seed)
    expert.reset(obs, info)
    actions, ended = [], False
    while not ended:
        actions.append(expert.act(obs, info))
        obs, _, terminated, truncated, info = env.step(actions[-1])
        ended = terminated or truncated
    return np.array(actions), info


@functools.cache
def episode(name: str, seed: int) -> tuple[np.ndarray, dict[str, Any]]:
    return play(name, seed, {})


@pytest.mark.parametrize("name", ["diffpolicy/Detour-v0", "diffpolicy/PushBlocks-v0"])
def test_pucks_arrive_in_every_mode(name: str) -> None:
    infos = [episode(name, seed)[1] for seed in range(24)]
    assert sum(bool(info["success"]) for info in infos) >= 23
    assert {info["mode"] for info in infos} == set(gym.make(name).unwrapped.modes)


def test_the_mode_does_not_depend_on_the_start() -> None:
    start = {"state": [256, 470, 256, 380]}
    env, modes = gym.make("diffpolicy/Detour-v0"), []
    for seed in range(20):
        expert = EXPERTS["diffpolicy/Detour-v0"](seed)
        obs, info = env.reset(options=start)
        expert.reset(obs, info)
        while not info["mode"]:
            obs, *_, info = env.step(expert.act(obs, info))
        modes.append(info["mode"])
    assert 5 <= modes.count("left") <= 15


def test_the_t_arrives_on_its_goal() -> None:
    assert all(episode("diffpolicy/PushT-v0", seed)[1]["success"] for seed in range(3))


@pytest.mark.parametrize("options", [{"goal": "random"}, {"block": "ell"}, {"block": "plus"}], ids=str)
def test_other_blocks_and_goals_are_solved(options: dict[str, Any]) -> None:
    assert play("diffpolicy/PushT-v0", 0, options)[1]["success"]


@pytest.mark.parametrize("name", list(EXPERTS))
def test_a_seed_gives_the_same_actions_and_small_steps(name: str) -> None:
    actions, _ = episode(name, 0)
    np.testing.assert_array_equal(actions, play(name, 0, {})[0])
    assert np.hypot(*np.diff(actions, axis=0).T).max() < 80.0  # px between targets a tenth of a second apart
    assert (actions >= 0).all() and (actions <= 512).all()


def test_an_expert_is_found_by_the_id_of_its_environment() -> None:
    for name, expert in EXPERTS.items():
        assert name in gym.registry and registry.lookup("expert", name) is expert
        assert issubclass(expert, Expert) and expert.settings
