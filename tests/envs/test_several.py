"""Several tasks in one environment: each is what it is alone."""

from __future__ import annotations

import copy
import json
import warnings

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env

from diffpolicy.envs.experts.several import OF_TASKS, SeveralExpert
from diffpolicy.envs.several import NUMBERS, PUSHT, TASKS

ALONE = {
    "pushblocks": ("diffpolicy/PushBlocks-v0", {"told": True}),
    "detour": ("diffpolicy/Detour-v0", {"told": True}),
    "pusht": ("diffpolicy/PushT-v0", {"obs_mode": "corners"}),
}


def test_gymnasium_finds_nothing():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warnings.filterwarnings("ignore", message=".*symmetric and normalized space")
        check_env(gym.make("diffpolicy/Several-v0").unwrapped, skip_render_check=True)


@pytest.mark.parametrize("task", TASKS)
def test_an_episode_is_the_tasks_own(task):
    env, (name, options) = gym.make("diffpolicy/Several-v0", task=task), ALONE[task]
    alone = gym.make(name, **options)
    obs, info = env.reset(seed=7)
    other, its = alone.reset(seed=7)
    expert, same = SeveralExpert(3), OF_TASKS[task](3)
    expert.reset(obs, info), same.reset(other, its)
    assert info["task"] == task and env.observation_space.contains(obs)
    for _ in range(60):
        numbers = other["state"] if task != "pusht" else np.concatenate([other[-2:], other[:-2]])
        np.testing.assert_array_equal(obs["state"][: len(numbers)], numbers.astype(np.float32))
        assert (obs["state"][len(numbers) :] == 0).all() and obs["state"].shape == (NUMBERS,)
        np.testing.assert_array_equal(obs["state"][:2], info["state"][:2].astype(np.float32))  # which actions move
        action = expert.act(obs, info)
        np.testing.assert_array_equal(action, same.act(other, its))
        obs, reward, ended, _, info = env.step(action)
        other, its_reward, its_end, _, its = alone.step(action)
        assert (reward, ended, info["success"]) == (its_reward, its_end, its["success"])
        if ended:
            break


def test_every_task_is_asked_for_in_words_of_one_vocabulary():
    env = gym.make("diffpolicy/Several-v0")
    seen = {env.reset(seed=seed)[1]["task"]: env.reset(seed=seed)[0]["task"] for seed in range(30)}
    assert set(seen) == set(TASKS) and seen["pusht"] in PUSHT["taught"]
    held_out, taught = ({word for text in PUSHT[kind] for word in text.split()} for kind in ("held_out", "taught"))
    assert held_out <= taught
    other = gym.make("diffpolicy/Several-v0", phrasings="held_out", task="pusht")
    assert other.reset(seed=0)[0]["task"] in PUSHT["held_out"]
    first, again = env.reset(seed=5), env.reset(seed=5)
    assert first[0]["task"] == again[0]["task"]
    np.testing.assert_array_equal(first[0]["state"], again[0]["state"])
    assert env.reset(seed=1, options={"task": "detour"})[1]["task"] == "detour"


def test_it_is_copied_and_drawn_and_says_what_it_is():
    env = gym.make("diffpolicy/Several-v0", render_mode="rgb_array", render_size=64).unwrapped
    env.reset(seed=2)
    env.step([300, 300])
    twin = copy.deepcopy(env)
    np.testing.assert_array_equal(twin.step([100, 200])[0]["state"], env.step([100, 200])[0]["state"])
    assert env.render().shape == (64, 64, 3)
    task = env.metadata["task"]
    assert json.loads(json.dumps(task)) == task and task["follows"] == [0, 1]
    with pytest.raises(ValueError, match="unknown task 'push'"):
        gym.make("diffpolicy/Several-v0", task="push")
    with pytest.raises(ValueError, match="unknown task 'push'"):
        env.reset(options={"task": "push"})
