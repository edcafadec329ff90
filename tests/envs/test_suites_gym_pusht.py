"""gym-pusht by name: the same starts, observations and outcomes as this project's Push-T."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

pytest.importorskip("gym_pusht", reason="needs the extra: pip install 'diffpolicy[gym-pusht]'")

from suite_tools import expert_episode, is_one_episode_per_seed, made

THEIRS, OURS = "diffpolicy/GymPushT-v0", "diffpolicy/PushT-v0"


def test_a_seed_is_an_episode_to_the_bit() -> None:
    assert is_one_episode_per_seed(THEIRS)


@pytest.mark.parametrize("options", [None, {"paper_seed": 100_003}, {"state": [200, 300, 260, 220, 1.0]}], ids=str)
@pytest.mark.parametrize("mode", ["state", "keypoints", "corners"])
def test_it_starts_and_observes_as_ours(mode: str, options: dict[str, Any] | None) -> None:
    theirs, ours = made(THEIRS, obs_mode=mode), made(OURS, obs_mode=mode)
    seen, info = theirs.reset(seed=4, options=options)
    expected, said = ours.reset(seed=4, options=options)
    np.testing.assert_allclose(seen, expected, rtol=1e-6)
    np.testing.assert_allclose(info["state"], said["state"], atol=1e-9)
    assert info["coverage"] == pytest.approx(said["coverage"], abs=1e-9)
    assert theirs.observation_space == ours.observation_space and theirs.action_space == ours.action_space


def test_the_same_actions_do_the_same() -> None:
    theirs, ours, draw = made(THEIRS), made(OURS), np.random.default_rng(0)
    for seed in range(3):
        theirs.reset(seed=seed)
        _, info = ours.reset(seed=seed)
        touched = 0
        for _ in range(60):
            target = info["state"][2:4] + draw.uniform(-60, 60, 2)
            *_, info = ours.step(target)
            *_, said = theirs.step(target)
            touched += info["n_contacts"]
        assert touched > 20
        np.testing.assert_allclose(said["state"], info["state"], atol=1e-6)
        assert said["coverage"] == pytest.approx(info["coverage"], abs=1e-8) and said["success"] == info["success"]


def test_the_expert_of_ours_succeeds() -> None:
    done = expert_episode(made(THEIRS), THEIRS, 0, {})
    assert done[-1] and not any(done[:-1])  # it ends at the success


def test_images() -> None:
    env = made(THEIRS, obs_mode="pixels", render_mode="rgb_array", render_size=128)
    obs, _ = env.reset(seed=0)
    assert env.observation_space.contains(obs) and env.render().shape == (128, 128, 3)
    ours = made(OURS, obs_mode="pixels").reset(seed=0)[0]
    assert np.abs(obs["image"].astype(int) - ours["image"]).mean() < 8
