"""Registration, spaces, rewards, ends, and what bad input gets."""

from __future__ import annotations

import math
import subprocess
import sys
import warnings

import gymnasium as gym
import numpy as np
import pytest

from diffpolicy import envs
from diffpolicy.envs.pusht import PushTEnv, corners, keypoints
from diffpolicy.envs.tee import GOAL_POSE

ID = "diffpolicy/PushT-v0"


def test_an_id_with_the_module_registers_without_torch_and_pygame() -> None:
    code = (
        "import sys; sys.modules['torch'] = None; import gymnasium;"
        "env = gymnasium.make('diffpolicy.envs:diffpolicy/PushT-v0', obs_mode='pixels'); env.reset();"
        "print(env.spec.max_episode_steps, 'pygame' in sys.modules)"
    )
    found = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert found.stdout.split() == ["300", "False"]


def test_registering_twice_is_harmless() -> None:
    before = gym.registry[ID]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        envs.register()
    assert gym.registry[ID] is before


@pytest.mark.parametrize(("obs_mode", "shape"), [("state", (5,)), ("keypoints", (20,)), ("corners", (18,))])
def test_vector_observations(obs_mode: str, shape: tuple[int]) -> None:
    env = gym.make(ID, obs_mode=obs_mode)
    env.reset(seed=3)
    observation, _, _, _, info = env.step(np.array([256, 300], dtype=np.float32))
    assert observation.shape == env.observation_space.shape == shape and observation.dtype == np.float32
    state = info["state"]
    points = {"state": lambda s: s[2:], "keypoints": keypoints, "corners": corners}[obs_mode](state)
    parts = [state[:2], points] if obs_mode == "state" else [points, state[:2]]
    np.testing.assert_array_equal(observation, np.concatenate(parts).astype(np.float32))


def test_reward_end_and_info_on_the_goal() -> None:
    env = gym.make(ID)
    x, y, angle = GOAL_POSE
    _, info = env.reset(options={"state": [50, 50, x, y, angle]})
    assert info["coverage"] == pytest.approx(1.0) and info["success"] is info["is_success"] is True
    np.testing.assert_array_equal(info["goal_pose"], GOAL_POSE)
    _, reward, terminated, truncated, info = env.step([50, 50])
    assert (reward, terminated, truncated) == (1.0, True, False)
    # 120·d of 6300 px² is lost by a shift of d along the stem: 2.5 px stays above 0.95, 3 px does not.
    for shift, success in ((2.5, True), (3.0, False)):
        place = [x - shift * math.sin(angle), y + shift * math.cos(angle)]
        env.reset(options={"state": [50, 50, *place, angle]})
        _, reward, terminated, _, info = env.step([50, 50])
        assert info["coverage"] == pytest.approx(1 - 120 * shift / 6300, abs=1e-9)
        assert reward == pytest.approx(min(info["coverage"] / 0.95, 1.0))
        assert terminated is info["success"] is success


def test_truncated_after_300_steps() -> None:
    env = gym.make(ID)
    env.reset(seed=0)
    ends = [env.step([20, 20])[2:4] for _ in range(300)]
    assert ends == [(False, False)] * 299 + [(False, True)]


def test_the_angle_is_wrapped_as_in_the_data() -> None:
    for angle, expected in ((-1.0, 2 * math.pi - 1.0), (7.0, 7.0 - 2 * math.pi), (0.5, 0.5), (-1e-30, 0.0)):
        observation, info = PushTEnv().reset(options={"state": [50, 50, 256, 256, angle]})
        assert PushTEnv().observation_space.contains(observation)
        assert math.cos(info["state"][4] - expected) == pytest.approx(1.0, abs=1e-12)
        assert 0.0 <= info["state"][4] <= 2 * math.pi


@pytest.mark.parametrize("action", [[np.nan, 1], [1, np.inf], [1], [1, 2, 3], [[1, 2]], 5, None, "ab", ["a", "b"]])
def test_bad_actions_are_refused_and_change_nothing(action: object) -> None:
    env, twin = PushTEnv(), PushTEnv()
    env.reset(seed=0)
    twin.reset(seed=0)
    with pytest.raises(ValueError, match="action"):
        env.step(action)
    np.testing.assert_array_equal(env.step([200, 200])[0], twin.step([200, 200])[0])


def test_actions_out_of_range_are_clipped() -> None:
    env, twin = PushTEnv(), PushTEnv()
    env.reset(seed=0)
    twin.reset(seed=0)
    for _ in range(30):
        observation = env.step([9999, -9999])[0]
        np.testing.assert_array_equal(observation, twin.step([512, 0])[0])
    assert env.observation_space.contains(observation)


GOOD = [100, 100, 200, 200, 0]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"sate": GOOD}, "unknown reset option 'sate' .did you mean 'state'"),
        ({"reset_to": GOOD}, "choose from state, legacy, paper_seed"),
        ({"state": GOOD[:4]}, r"shape \(4,\); expected 5 numbers"),
        ({"state": [GOOD]}, r"shape \(1, 5\)"),
        ({"state": None}, "agent x, agent y, block x, block y, block angle"),
        ({"state": "abcde"}, "5 numbers"),
        ({"state": [100, 100, 200, 200, np.nan]}, "block angle nan; expected a finite number"),
        ({"state": [100, np.inf, 200, 200, 0]}, "agent y inf"),
        ({"state": [100, 100, 800, 200, 0]}, r"block x 800; expected a number in \[-192, 704\]"),
        ({"state": [-1, 100, 200, 200, 0]}, r"agent x -1; expected a number in \[0, 512\]"),
        ({"state": GOOD, "legacy": "yes"}, "expected True"),
        ({"legacy": True}, "give the state"),
        ({"paper_seed": -1}, "whole number"),
        ({"paper_seed": 1.5}, "whole number"),
        ({"paper_seed": 2**32}, "whole number"),
        ({"paper_seed": True}, "whole number"),
        ({"paper_seed": 1, "state": GOOD}, "together"),
    ],
)
def test_bad_reset_options_are_refused(options: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        PushTEnv().reset(options=options)


def test_a_refused_reset_leaves_the_episode_as_it_was() -> None:
    env, twin = PushTEnv(), PushTEnv()
    env.reset(seed=0)
    twin.reset(seed=0)
    with pytest.raises(ValueError, match="unknown"):
        env.reset(options={"stat": GOOD})
    np.testing.assert_array_equal(env.step([200, 200])[0], twin.step([200, 200])[0])


def test_options_must_be_a_mapping() -> None:
    with pytest.raises(TypeError, match="expected a dict"):
        PushTEnv().reset(options=["paper_seed"])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"obs_mode": "keypoint"}, "did you mean 'keypoints'"),
        ({"render_mode": "rgb"}, "rgb_array"),
        ({"render_size": 0}, "render_size"),
        ({"render_size": 96.0}, "render_size"),
    ],
)
def test_bad_arguments_are_refused(arguments: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        PushTEnv(**arguments)


def test_step_before_reset() -> None:
    with pytest.raises(RuntimeError, match="before the first reset"):
        PushTEnv().step([1, 2])


def test_the_docstring_has_the_usual_headings() -> None:
    headings = [line.strip()[3:] for line in PushTEnv.__doc__.splitlines() if line.strip().startswith("## ")]
    assert headings == [
        "Description",
        "Observation Space",
        "Action Space",
        "Rewards",
        "Starting State",
        "Episode End",
        "Arguments",
        "Version History",
    ]
