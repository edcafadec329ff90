"""Tasks that are asked for in words: what is drawn, what counts, and that experts do as they are told."""

from __future__ import annotations

import warnings

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env

from diffpolicy.envs.experts.pucks import DetourExpert, PushBlocksExpert

EXPERTS = {"diffpolicy/PushBlocks-v0": PushBlocksExpert, "diffpolicy/Detour-v0": DetourExpert}
each = pytest.mark.parametrize("name", EXPERTS)


def done(env, expert, asked=None):
    """Return best reward, best coverage and last info of an expert, who hears `asked` instead of what is asked."""
    obs, info = env.reset(seed=3)
    hears = lambda info: info if asked is None else {**info, "asked": asked}  # noqa: E731
    expert.reset(obs, hears(info))
    best = coverage = 0.0
    for _ in range(200):
        obs, reward, ended, _, info = env.step(expert.act(obs, hears(info)))
        coverage = max(coverage, info["coverage"])
        best = max(best, reward) if info["mode"] else best  # before the first zone is reached every way is open
        if ended:
            break
    return best, coverage, info


@each
def test_gymnasium_finds_nothing(name):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warnings.filterwarnings("ignore", message=".*symmetric and normalized space")
        for obs_mode in ("state", "pixels"):
            check_env(gym.make(name, told=True, obs_mode=obs_mode).unwrapped, skip_render_check=True)


@each
def test_an_instruction_is_drawn_after_the_start_and_every_mode_is_asked_for(name):
    plain, told = gym.make(name), gym.make(name, told=True)
    asked = []
    for seed in range(40):
        obs, info = told.reset(seed=seed)
        np.testing.assert_array_equal(obs["state"], plain.reset(seed=seed)[0])
        assert info["asked"] == told.unwrapped.phrases.mode_of(obs["task"])
        asked.append(info["asked"])
    assert set(asked) == set(told.unwrapped.modes)
    assert "obeyed" in told.metadata["task"]["metrics"] and "obeyed" not in plain.metadata["task"]["metrics"]


@each
def test_held_out_phrasings_are_other_texts_of_the_same_words(name):
    phrases, modes = gym.make(name).unwrapped.phrases, gym.make(name).unwrapped.modes
    every = {kind: [one for mode in modes for one in phrases.of(mode, kind)] for kind in ("taught", "held_out")}
    assert not set(every["taught"]) & set(every["held_out"])
    held_out, taught = ({word for text in texts for word in text.split()} for texts in reversed(every.values()))
    assert held_out <= taught
    texts = [*every["taught"], *every["held_out"]]
    assert len(set(texts)) == len(texts)  # no text asks for two modes
    assert gym.make(name, told=True, phrasings="held_out").reset(seed=0)[0]["task"] in every["held_out"]


@each
def test_experts_do_what_is_asked(name):
    env = gym.make(name, told=True)
    for mode in env.unwrapped.modes:
        text = env.unwrapped.phrases.of(mode, "taught")[0]
        obs, info = env.reset(seed=1, options={"task": text})
        assert (obs["task"], info["asked"]) == (text, mode)
        expert = EXPERTS[name](0)
        expert.reset(obs, info)
        for _ in range(300):
            obs, reward, ended, cut, info = env.step(expert.act(obs, info))
            if ended or cut:
                break
        assert info["success"] and info["obeyed"] and info["mode"] == mode and reward == 1.0


@each
def test_another_way_counts_for_nothing(name):
    env = gym.make(name, told=True)
    asked = env.reset(seed=3)[1]["asked"]
    other = next(mode for mode in env.unwrapped.modes if mode != asked)
    reward, coverage, info = done(env, EXPERTS[name](0), other)
    assert info["mode"] == other and coverage > 0.95
    assert reward == 0.0 and not (info["success"] or info["is_success"] or info["obeyed"])
    assert done(env, EXPERTS[name](0))[2]["success"]


def test_instructions_that_it_does_not_know_are_refused():
    env = gym.make("diffpolicy/Detour-v0", told=True)
    with pytest.raises(ValueError, match="the instruction 'go up'; expected one of the environment's own, such as"):
        env.reset(options={"task": "go up"})
    with pytest.raises(ValueError, match="unknown phrasings 'new'"):
        gym.make("diffpolicy/Detour-v0", phrasings="new")
    with pytest.raises(ValueError, match="unknown reset option 'task'"):
        gym.make("diffpolicy/Detour-v0").reset(options={"task": "go left"})


def test_a_goal_is_told_by_the_points_of_a_block_that_lies_on_it():
    env = gym.make("diffpolicy/PushT-v0", obs_mode="corners", goal="random", told=True)
    plain = gym.make("diffpolicy/PushT-v0", obs_mode="corners", goal="random")
    goals = []
    for seed in range(5):
        obs, info = env.reset(seed=seed)
        assert env.observation_space.contains(obs)
        seen = plain.reset(seed=seed)[0]
        np.testing.assert_array_equal(obs["observation"], seen[:-3])
        np.testing.assert_array_equal(obs["achieved_goal"], seen[:16])
        goals.append(obs["desired_goal"])
        reached, there = env.reset(seed=seed, options={"state": [20, 20, *info["goal_pose"]]}), info["goal_pose"]
        assert reached[1]["coverage"] < 0.99 or np.allclose(reached[1]["goal_pose"], there)
    fixed = gym.make("diffpolicy/PushT-v0", obs_mode="keypoints", told=True)
    obs, info = fixed.reset(seed=0, options={"state": [20, 20, 256, 256, np.pi / 4]})
    assert info["coverage"] > 0.99
    np.testing.assert_allclose(obs["achieved_goal"], obs["desired_goal"], atol=1e-3)
    assert len({goal.tobytes() for goal in goals}) == 5
    with pytest.raises(ValueError, match="told=True with obs_mode='state'"):
        gym.make("diffpolicy/PushT-v0", told=True)
