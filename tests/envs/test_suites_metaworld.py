"""Meta-World by name: seeds, observations, cameras, experts."""

from __future__ import annotations

import pickle

import gymnasium as gym
import numpy as np
import pytest

pytest.importorskip("metaworld", reason="needs the extra: pip install 'diffpolicy[metaworld]'")

from suite_tools import expert_episode, is_one_episode_per_seed, made

from diffpolicy.envs.suites.metaworld import BENCHMARK, UPSIDE_DOWN, MetaWorldEnv
from diffpolicy.envs.suites.tools import Cameras

NAME = "diffpolicy/MetaWorld-v0"
PIXELS = {"obs_mode": "pixels", "cameras": ["corner4", "gripperPOV"]}


@pytest.mark.parametrize("task", ["push-v3", "hammer-v3"])
def test_a_seed_is_an_episode_to_the_bit(task: str) -> None:
    assert is_one_episode_per_seed(NAME, task=task)


@pytest.mark.slow
@pytest.mark.parametrize("task", BENCHMARK)
def test_a_seed_is_an_episode_in_the_whole_benchmark(task: str) -> None:
    assert is_one_episode_per_seed(NAME, 60, task=task)


def test_it_moves_as_meta_world_does() -> None:
    metaworld = pytest.importorskip("metaworld")
    theirs = metaworld.ALL_V3_ENVIRONMENTS["push-v3"]()
    theirs.set_task(metaworld.MT1("push-v3", seed=0).train_tasks[0])
    theirs._freeze_rand_vec, theirs.seeded_rand_vec = False, True
    theirs.seed(3)
    expected, ours = [theirs.reset()[0]], MetaWorldEnv("push-v3")
    found = [ours.reset(seed=3)[1]["state"]]
    for action in np.random.default_rng(0).uniform(-1.5, 1.5, (20, 4)).astype(np.float32):
        expected.append(theirs.step(np.clip(action, -1, 1))[0])
        found.append(ours.step(action)[-1]["state"])
    np.testing.assert_array_equal(found, expected)


def test_observations_hold_what_they_say() -> None:
    env = made(NAME, obs_mode="both", size=32)
    obs, info = env.reset(seed=0)
    assert env.observation_space.contains(obs) and list(env.observation_space.keys()) == ["corner4", "state"]
    obs, reward, terminated, truncated, info = env.step(np.zeros(4, np.float32))
    assert env.observation_space.contains(obs) and not terminated and not truncated
    np.testing.assert_array_equal(obs["state"], info["state"])
    np.testing.assert_array_equal(obs["state"][-3:], env.unwrapped._env._target_pos)
    assert isinstance(reward, float) and info["success"] is False
    env.close()


def test_cameras_show_what_happens_and_the_state_alone() -> None:
    env = made(NAME, size=32, render_mode="rgb_array", render_size=64, **PIXELS)
    before, info = env.reset(seed=0)
    assert set(before) == {"hand", "corner4", "gripperPOV"} and before["corner4"].shape == (32, 32, 3)
    np.testing.assert_array_equal(before["hand"], info["state"][:4])
    for _ in range(8):
        after = env.step(np.array([-1, 1, -1, 1], np.float32))[0]
    assert all((before[name] != after[name]).mean() > 0.05 for name in PIXELS["cameras"])
    assert env.render().shape == (64, 64, 3) and env.render().std() > 10
    again = env.reset(seed=0)[0]
    for name in PIXELS["cameras"]:
        np.testing.assert_array_equal(before[name], again[name])
    env.close()


def test_images_are_turned_right_side_up() -> None:
    env = made(NAME, size=32, obs_mode="pixels", cameras=["corner4"])
    image = env.reset(seed=0)[0]["corner4"]
    model, data = env.unwrapped._env.model, env.unwrapped._env.data
    as_mounted = Cameras(model, data, 32)
    np.testing.assert_array_equal(image, as_mounted.draw("corner4")[::-1, ::-1])
    up = {model.camera(number).name: data.cam_xmat[number].reshape(3, 3)[2, 1] for number in range(model.ncam)}
    assert {name for name, height in up.items() if height < -0.01} == set(UPSIDE_DOWN)
    as_mounted.close()
    env.close()


def test_an_expert_succeeds_and_goes_on() -> None:
    env = made(NAME, task="push-v3")
    done = expert_episode(env, NAME, 0, {"task": "push-v3"})
    assert len(done) == 500 and 40 < done.index(True) < 90
    with pytest.raises(ValueError, match="a step after 500"):
        env.unwrapped.step(np.zeros(4, np.float32))


@pytest.mark.slow
@pytest.mark.parametrize("task", BENCHMARK)
def test_the_experts_of_the_benchmark_succeed(task: str) -> None:
    env = made(NAME, task=task)
    assert sum(any(expert_episode(env, NAME, seed, {"task": task})) for seed in range(10)) >= 8


def test_wrong_settings_are_named() -> None:
    with pytest.raises(ValueError, match="did you mean 'push-v3'"):
        made(NAME, task="pusch-v3")
    with pytest.raises(ValueError, match="unknown camera 'corner5'.*did you mean 'corner4'|unknown camera 'corner5'"):
        made(NAME, obs_mode="pixels", cameras=["corner5"])
    with pytest.raises(ValueError, match="each once"):
        made(NAME, obs_mode="pixels", cameras=["corner", "corner"])
    with pytest.raises(ValueError, match="size=8"):
        made(NAME, size=8)
    env = MetaWorldEnv()
    with pytest.raises(RuntimeError, match="reset"):
        env.step(np.zeros(4))
    with pytest.raises(ValueError, match="choose an episode by its seed"):
        env.reset(options={"goal": 1})
    env.reset(seed=0)
    with pytest.raises(ValueError, match="4 numbers"):
        env.step(np.zeros(3))


def test_its_registration_can_be_pickled() -> None:
    assert pickle.loads(pickle.dumps(gym.spec(NAME))).id == NAME
