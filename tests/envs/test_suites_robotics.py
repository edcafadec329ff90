"""gymnasium-robotics by name: seeds, goals, images, experts."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

pytest.importorskip("gymnasium_robotics", reason="needs the extra: pip install 'diffpolicy[robotics]'")

from suite_tools import expert_episode, is_one_episode_per_seed, made

FETCH = ["diffpolicy/FetchReach-v0", "diffpolicy/FetchPush-v0", "diffpolicy/FetchPickAndPlace-v0"]
MAZE = "diffpolicy/PointMaze-v0"
ALL: list[tuple[str, dict[str, Any]]] = [*((name, {}) for name in FETCH), (MAZE, {"task": "Medium"})]


@pytest.mark.parametrize(("name", "kwargs"), ALL)
def test_a_seed_is_an_episode_to_the_bit(name: str, kwargs: dict[str, Any]) -> None:
    assert is_one_episode_per_seed(name, **kwargs)


@pytest.mark.parametrize(("name", "kwargs"), ALL)
def test_observations_hold_what_they_say(name: str, kwargs: dict[str, Any]) -> None:
    env = made(name, **kwargs)
    obs, info = env.reset(seed=0)
    assert env.observation_space.contains(obs)
    obs, reward, _, _, info = env.step(np.full(env.action_space.shape, 2.0, np.float32))
    assert env.observation_space.contains(obs) and isinstance(reward, float) and isinstance(info["success"], bool)
    parts = [obs[key] for key in ("observation", "achieved_goal", "desired_goal")]
    np.testing.assert_array_equal(info["state"], np.concatenate(parts))


@pytest.mark.parametrize(("name", "steps"), [*((name, 50) for name in FETCH), (MAZE, 300)])
def test_experts_succeed_and_stay(name: str, steps: int) -> None:
    env = made(name)
    for seed in range(3):
        done = expert_episode(env, name, seed, {})
        assert len(done) == steps and done[-1]


@pytest.mark.parametrize(("task", "steps"), [("UMaze", 300), ("Medium", 600), ("Large", 800)])
def test_each_maze_has_its_time_limit(task: str, steps: int) -> None:
    env = made(MAZE, task=task)
    env.reset(seed=0)
    still = np.zeros(2, np.float32)
    cut = next(number for number in range(1, 1001) if env.step(still)[3])
    assert cut == steps
    env.close()


@pytest.mark.slow
@pytest.mark.parametrize(("name", "kwargs"), [*ALL, (MAZE, {"task": "UMaze"}), (MAZE, {"task": "Large"})])
def test_experts_hardly_ever_fail(name: str, kwargs: dict[str, Any]) -> None:
    env = made(name, **kwargs)
    assert sum(expert_episode(env, name, seed, kwargs)[-1] for seed in range(50)) >= 49


@pytest.mark.parametrize(("name", "kwargs"), ALL[1:2] + ALL[3:])
def test_images_show_the_goal(name: str, kwargs: dict[str, Any]) -> None:
    env = made(name, render_mode="rgb_array", render_size=96, **kwargs)
    env.reset(seed=0)
    first = env.render()
    env.reset(seed=3)
    assert first.shape == (96, 96, 3) and first.std() > 10 and (first != env.render()).any()
    red = (first[..., 0] > 150) & (first[..., 1] < 60) & (first[..., 2] < 60)
    assert red.any()
    env.close()


def test_wrong_settings_are_named() -> None:
    with pytest.raises(ValueError, match="did you mean 'Medium'"):
        made(MAZE, task="Medum")
    with pytest.raises(ValueError, match="unknown reward_type"):
        made(FETCH[0], reward_type="shaped")
    env = made(FETCH[0]).unwrapped
    with pytest.raises(RuntimeError, match="reset"):
        env.step(np.zeros(4))
    env.reset(seed=0)
    with pytest.raises(ValueError, match="finite"):
        env.step([0.0, 0.0, np.nan, 0.0])
