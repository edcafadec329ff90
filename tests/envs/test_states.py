"""Resetting to a state: any state that pushing reaches, no state in which bodies lie in one another."""

from __future__ import annotations

import math

import gymnasium as gym
import numpy as np
import pytest

from diffpolicy.envs import ENVIRONMENTS
from diffpolicy.envs.detour import DetourEnv
from diffpolicy.envs.pucks import DEEPEST, PUCK_RADIUS, check_overlaps
from diffpolicy.envs.pushblocks import PushBlocksEnv


def through_blocks(draw: np.random.Generator, state: np.ndarray, step: int) -> np.ndarray:
    """Return a target behind a block, so that the agent strikes it, and squeezes it against walls and others."""
    block = state[4:6] if len(state) == 6 and step % 80 < 40 else state[2:4]
    course = block - state[:2]
    return np.clip(block + course / max(np.hypot(*course), 1e-9) * draw.uniform(0, 400), 0, 512)


@pytest.mark.parametrize("name", [name for name, *_ in ENVIRONMENTS])
def test_every_state_that_pushing_reaches_is_accepted(name: str) -> None:
    env, other, draw = gym.make(name).unwrapped, gym.make(name).unwrapped, np.random.default_rng(0)
    outside, distances = 0, []
    for seed in range(6):
        _, info = env.reset(seed=seed)
        for step in range(60):
            observation, *_, info = env.step(through_blocks(draw, info["state"], step))
            state = info["state"]
            assert env.observation_space.contains(observation)
            np.testing.assert_allclose(other.reset(options={"state": state})[1]["state"], state, atol=1e-9)
            outside += ((state[2:4] < 0) | (state[2:4] > 512)).any()
            distances.append(math.dist(state[:2], state[2:4]))
    assert outside > 20  # through the walls
    if name != "diffpolicy/PushT-v0":
        assert min(distances) < 40 - 15 and np.mean(np.array(distances) < 40) > 0.1  # agent and puck overlap


def test_a_state_that_an_expert_reaches_in_contact_is_accepted() -> None:
    from diffpolicy.envs.experts import PushBlocksExpert

    env, expert = PushBlocksEnv(), PushBlocksExpert(0)
    obs, info = env.reset(seed=0)
    expert.reset(obs, info)
    while not info["n_contacts"]:
        obs, *_, info = env.step(expert.act(obs, info))
    _, again = env.reset(options={"state": info["state"]})
    np.testing.assert_array_equal(again["state"], info["state"])


@pytest.mark.parametrize(
    ("state", "message"),
    [
        ([256, 480, 200, 200, 220, 200], "puck 0 and puck 1 overlap by 30.0 px; expected at most 27 px"),
        ([260, 200, 256, 200, 400, 400], "puck 0 and agent overlap by 36.0 px"),
        ([256, 480, 200, 200, 700, 200], r"puck 1 x 700; expected a number in \[-120, 632\]"),
    ],
)
def test_pushblocks_refuses_what_pushing_does_not_reach(state: list[float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        PushBlocksEnv().reset(options={"state": state})


@pytest.mark.parametrize(
    ("state", "message"),
    [
        ([50, 50, 256, 240], "puck and obstacle 0 overlap by 40.0 px"),
        ([256, 400, 250, 400], "puck and agent overlap by 34.0 px"),
    ],
)
def test_detour_refuses_what_pushing_does_not_reach(state: list[float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        DetourEnv().reset(options={"state": state})


def test_only_a_squeezed_puck_may_overlap_deeply() -> None:
    deep = 40 - DEEPEST - 3
    check_overlaps((100.0, 10.0 + deep), {"puck": (100.0, 10.0)}, [])  # against the upper wall
    check_overlaps((200.0 - deep, 200.0), {"one": (200.0, 200.0), "two": (200.0 + 2 * PUCK_RADIUS, 200.0)}, [])
    with pytest.raises(ValueError, match="one and agent overlap by 30.0 px"):
        check_overlaps((200.0 - deep, 200.0), {"one": (200.0, 200.0), "two": (400.0, 200.0)}, [])


def test_a_state_restores_no_velocity_and_no_mode() -> None:
    env = DetourEnv()
    env.reset(options={"state": [120, 400, 120, 330]})
    for target in np.linspace(400, 150, 40):
        *_, info = env.step([120, target])
    assert info["mode"] == "left"
    state, moving = info["state"], env.step(info["state"][:2])[-1]["state"]
    _, info = env.reset(options={"state": state})
    assert info["mode"] == ""
    np.testing.assert_array_equal(env.step(state[:2])[-1]["state"][:2], state[:2])
    assert moving[1] < state[1] - 1.0
