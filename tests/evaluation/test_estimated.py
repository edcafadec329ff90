"""Policies of numbers in environments that show pictures, by an estimator."""

import shutil

import numpy as np
import pytest
from typed import typed

from diffpolicy import checkpoint, evaluate_policy, load_policy, make_env, train_policy
from diffpolicy.checkpoint import CheckpointError
from diffpolicy.config import EnvConfig, load_config
from diffpolicy.config.schema import note_named
from diffpolicy.datasets.buffer import ReplayBuffer
from diffpolicy.evaluation import policy_env
from diffpolicy.evaluation.estimated import load_estimator

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
DRAWN = [
    "task=pusht_block",
    "dataset.name=expert_pusht",
    "observation.mode=drawn",
    "dataset.action_key=corners",
    "encoder.widths=[8]",
    "encoder.keypoints=4",
]


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Checkpoints of an estimator of the block's corners, and of a policy that observes them."""
    root = tmp_path_factory.mktemp("runs")
    block = train_policy([*DRAWN, *SMALL, f"run_dir={root / 'block'}"])
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
    assert found["estimator"] == {"step": 2, "sha256": checkpoint.read(block).sha256}
    assert (tmp_path / "report.html").exists()
    asked = {"kwargs": {"obs_mode": "pixels"}, "estimator": block, "max_steps": 6}  # a path, and a mapping
    split = evaluate_policy(policy, episodes=3, workers=2, videos=0, env=asked)
    assert split["episodes"] == found["episodes"]
    told = {"env": {"max_steps": 6}, "compare_to": tmp_path / "evaluation.json"}
    exact = evaluate_policy(policy, episodes=3, workers=0, videos=0, **told)
    assert exact["episodes"] != found["episodes"] and "difference" in exact  # two steps of training tell nothing


def test_recorded_and_checked_by_the_commands(runs, tmp_path):
    block, policy = runs
    env = [f"env.estimator={block}", "env.kwargs.obs_mode=pixels", "env.max_steps=6"]
    typed("record", f"expert={policy}", *env, "episodes=2", "keep=all", "out=told", cwd=tmp_path)
    told = ReplayBuffer.open(tmp_path / "told", ["obs"])["obs"]
    first = make_env(estimated(block))().reset(seed=0)[0]
    np.testing.assert_array_equal(told[0], first)
    said = typed("check-env", f"env.id={PUSHT}", *env, cwd=tmp_path)
    assert "a policy observes a vector (18,)" in said and "from agent, image" in said and "left out" not in said


def test_a_checkpoints_estimator_is_read_only_where_it_is_named(runs):
    """And may be taken away again, for what the environment itself shows."""
    block, policy = runs
    run = load_config(checkpoint.read(policy).config)
    run.env.estimator, run.env.kwargs["obs_mode"] = str(block), "pixels"
    with pytest.raises(ValueError, match=r"asks for env.estimator=.*, which would read a file that it names; if you"):
        policy_env(run)
    assert policy_env(run, given=run.env)().observation_space.shape == (18,)
    note_named(away := EnvConfig(), {"estimator": None})
    exact = policy_env(run, given=away)
    assert exact.config.estimator is None and exact.kwargs == {"obs_mode": "corners"}


def test_another_checkpoint_at_the_same_place_is_another_estimator(runs, tmp_path):
    block, policy = runs
    place = tmp_path / "estimator"
    for source in (block, policy):
        shutil.rmtree(place, ignore_errors=True)
        shutil.copytree(source.resolve(), place)
        assert load_estimator(place).action_dim == load_policy(source).action_dim


def test_the_noise_of_an_estimator_that_draws_follows_the_seed(runs, tmp_path):
    """Any policy of one observation can stand in; flow draws."""
    draws = train_policy([*DRAWN, "method=flow", *SMALL, f"run_dir={tmp_path / 'draws'}"])
    env = make_env(estimated(draws))()
    first, again, other = (env.reset(seed=seed)[0] for seed in (1, 1, 2))
    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(first, other)


def test_what_does_not_fit_is_refused_before_any_episode(runs, tmp_path):
    block, policy = runs
    with pytest.raises(ValueError, match=r"shows \(18,\); expected .*image.*as its estimator has; choose with env"):
        evaluate_policy(policy, env=estimated(block, obs_mode="corners"))
    with pytest.raises(ValueError, match=r"answers every 8 observations; expected every one; .*action_horizon=1"):
        evaluate_policy(policy, env=estimated(policy, obs_mode="corners"))
    with pytest.raises(
        CheckpointError, match=r"env.estimator=.*nowhere: .*; give its place by env.estimator=…, or null"
    ):
        evaluate_policy(policy, env=estimated(tmp_path / "nowhere"))
    with pytest.raises(ValueError, match=r"shows \(18,\); expected .*as the policy has"):
        evaluate_policy(block, env=estimated(block))
