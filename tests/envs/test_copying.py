"""A copy of an environment continues to the same bits as the original, whatever touches."""

from __future__ import annotations

import copy
import pickle
from typing import Any

import gymnasium as gym
import numpy as np
import pytest

BOX = [(230, 60), (280, 60), (280, 110), (230, 110)]
CASES = [
    ("diffpolicy/PushT-v0", {}),
    ("diffpolicy/PushT-v0", {"goal": "random", "obs_mode": "pixels"}),
    ("diffpolicy/PushT-v0", {"block": "plus", "obstacles": [BOX]}),
    ("diffpolicy/PushBlocks-v0", {}),
    ("diffpolicy/Detour-v0", {"render_mode": "rgb_array", "render_size": 64}),
]


def near_a_block(draw: np.random.Generator, state: np.ndarray) -> np.ndarray:
    """Return a target near the first block, which the agent often pushes or strikes."""
    return np.clip(state[2:4] + draw.normal(size=2) * 60, 0, 512)


def copies(env: gym.Env[Any, Any]) -> list[gym.Env[Any, Any]]:
    return [copy.deepcopy(env), pickle.loads(pickle.dumps(env)), copy.deepcopy(copy.deepcopy(env))]


def assert_same(first: object, second: object) -> None:
    if isinstance(first, dict):
        assert first.keys() == second.keys()
        for key, value in first.items():
            assert_same(value, second[key])
    else:
        np.testing.assert_array_equal(first, second)


@pytest.mark.parametrize("touching", [False, True], ids=["free", "in contact"])
@pytest.mark.parametrize(("name", "options"), CASES)
def test_copies_continue_to_the_same_bits(name: str, options: dict[str, Any], touching: bool) -> None:
    env, draw = gym.make(name, **options), np.random.default_rng(0)
    _, info = env.reset(seed=3)
    while touching and not info["n_contacts"]:
        *_, info = env.step(near_a_block(draw, info["state"]))
    others, touched = copies(env), 0
    for _ in range(120):
        action = near_a_block(draw, info["state"])
        result = env.step(action)
        info = result[-1]
        touched += info["n_contacts"] > 0
        for other in others:
            assert_same(dict(enumerate(result)), dict(enumerate(other.step(action))))
    assert touched > 20
    if env.render_mode:
        assert_same(env.render(), others[0].render())
    episodes = [one.reset() for one in (env, *others)]  # drawn from the generators, which were copied too
    for episode in episodes[1:]:
        assert_same(dict(enumerate(episodes[0])), dict(enumerate(episode)))


def test_a_copy_leaves_the_original_alone() -> None:
    env, twin = (gym.make("diffpolicy/PushBlocks-v0") for _ in range(2))
    for one in (env, twin):
        one.reset(seed=0)
    other = copy.deepcopy(env)
    for _ in range(20):
        other.step([160.0, 330.0])
    np.testing.assert_array_equal(env.step([100, 100])[0], twin.step([100, 100])[0])


def test_an_environment_that_was_not_reset_can_be_copied() -> None:
    env = gym.make("diffpolicy/Detour-v0")
    np.testing.assert_array_equal(copy.deepcopy(env).reset(seed=1)[0], env.reset(seed=1)[0])


def test_an_open_window_is_not_copied(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("pygame")
    monkeypatch.setenv("SDL_VIDEODRIVER", "dummy")
    env = gym.make("diffpolicy/Detour-v0", render_mode="human", render_size=32)
    env.reset(seed=0)
    copy.deepcopy(env).close()
    env.step([100, 100])
    env.close()
