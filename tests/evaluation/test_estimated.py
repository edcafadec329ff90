"""Policies of numbers in environments that show pictures, by an estimator."""

import numpy as np
import pytest

from diffpolicy import evaluate_policy, load_policy, make_env, train_policy
from diffpolicy.checkpoint import CheckpointError
from diffpolicy.config import EnvConfig

PUSHT = "diffpolicy/PushT-v0"
SMALL = [
    "net.widths=[16]",
    "net.groups=4",
    "net.time_features=8",
    "training.steps=2",
    "training.batch_size=4",
    "training.evaluate_every=0",
    "dataset.episodes=3",
    "dataset.validation=0",
]


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Checkpoints of an estimator of the block's corners, and of a policy that observes them."""
    root = tmp_path_factory.mktemp("runs")
    told = ["dataset.name=expert_pusht", "observation.mode=drawn", "dataset.action_key=corners"]
    encoder = ["encoder.widths=[8]", "encoder.keypoints=4"]
    block = train_policy(["task=pusht_block", *told, *encoder, *SMALL, f"run_dir={root / 'block'}"])
    return block, train_policy(["task=pusht_expert", *SMALL, f"run_dir={root / 'policy'}"])


def estimated(block, **kwargs):
    return EnvConfig(PUSHT, {"obs_mode": "pixels", **kwargs}, estimator=str(block), max_steps=6)


def test_it_shows_what_the_estimator_answers(runs):
    block, _ = runs
    shown, pixels = make_env(estimated(block))(), make_env(PUSHT, {"obs_mode": "pixels"})()
    assert shown.observation_space.shape == (18,) and shown.observation_space.dtype == np.float32
    estimator, action = load_policy(block), np.array([100.0, 200.0], np.float32)
    obs, told = pixels.reset(seed=3)[0], shown.reset(seed=3)[0]
    for _ in range(3):
        answer = estimator.predict({key: values[None, None] for key, values in obs.items()})
        np.testing.assert_array_equal(told, answer[0, 0])
        obs, told = pixels.step(action)[0], shown.step(action)[0]


def test_a_policy_of_numbers_acts_on_pictures(runs, tmp_path):
    block, policy = runs
    found = evaluate_policy(policy, tmp_path, episodes=3, workers=0, videos=1, env=estimated(block))
    assert found["env"]["estimator"] == str(block) and len(found["episodes"]) == 3
    assert (tmp_path / "report.html").exists()
    split = evaluate_policy(policy, episodes=3, workers=2, videos=0, env=estimated(block))
    assert split["episodes"] == found["episodes"]
    exact = evaluate_policy(policy, episodes=3, workers=0, videos=0, env={"max_steps": 6})
    assert exact["episodes"] != found["episodes"]  # two steps of training estimate nothing


def test_what_does_not_fit_is_refused_before_any_episode(runs, tmp_path):
    block, policy = runs
    with pytest.raises(ValueError, match=r"shows \(18,\); expected .*image.*as its estimator has; choose with env"):
        evaluate_policy(policy, env=estimated(block, obs_mode="corners"))
    with pytest.raises(ValueError, match=r"answers every 8 observations; expected every one; .*action_horizon=1"):
        evaluate_policy(policy, env=estimated(policy, obs_mode="corners"))
    with pytest.raises(CheckpointError, match="nowhere"):
        evaluate_policy(policy, env=estimated(tmp_path / "nowhere"))
    with pytest.raises(ValueError, match=r"shows \(18,\); expected .*as the policy has"):
        evaluate_policy(block, env=estimated(block))
