"""Ten tasks of Meta-World in one environment: what is asked for, and that each is its own task's."""

from __future__ import annotations

import gymnasium as gym
import numpy as np
import pytest

from diffpolicy.envs.phrases import PHRASINGS
from diffpolicy.envs.suites.metaworld_told import TEXTS, texts

NAME = "diffpolicy/MetaWorldTold-v0"


def test_held_out_texts_are_others_of_taught_words() -> None:
    taught = [text for task in TEXTS for text in texts(task, PHRASINGS[0])]
    held_out = [text for task in TEXTS for text in texts(task, PHRASINGS[1])]
    assert len(set(taught)) == len(taught) == 20 and len(set(held_out)) == 10
    assert not set(taught) & set(held_out)
    assert {word for text in held_out for word in text.split()} <= {word for text in taught for word in text.split()}


def test_an_episode_is_that_of_its_task_and_says_which() -> None:
    pytest.importorskip("metaworld", reason="needs the extra: pip install 'diffpolicy[metaworld]'")
    env, seen = gym.make(NAME), {}
    for seed in range(12):
        obs, info = env.reset(seed=seed)
        assert env.observation_space.contains(obs) and obs["task"] in texts(info["task"], PHRASINGS[0])
        seen.setdefault(info["task"], (seed, obs["state"]))
    assert len(seen) >= 5
    for task, (seed, state) in seen.items():
        alone, told = gym.make("diffpolicy/MetaWorld-v0", task=task), gym.make(NAME, task=task, phrasings="held_out")
        np.testing.assert_array_equal(alone.reset(seed=seed)[0]["state"], state)
        obs, _ = told.reset(seed=seed)
        np.testing.assert_array_equal(obs["state"], state)
        assert obs["task"] in texts(task, "held_out")
        action = np.array([0.5, -0.5, 0.2, 1.0], np.float32)
        np.testing.assert_array_equal(alone.step(action)[0]["state"], told.step(action)[0]["state"])
    with pytest.raises(ValueError, match="unknown task 'reach'"):
        gym.make(NAME, task="reach")
    with pytest.raises(RuntimeError, match=r"step\(\) before the first reset\(\)"):
        gym.make(NAME).unwrapped.step(action)
