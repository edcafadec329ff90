"""A corrector: learned from the recording, asked at every step."""

import json

import numpy as np
import pytest
import tiny_policy
import torch
from test_improve import HOW, TRAINING, bytes_of, start  # noqa: F401
from typed import typed

from diffpolicy import checkpoint, evaluate_policy, improve_policy, load_policy
from diffpolicy.config import EnvConfig, ExecutionConfig, load_config, plain
from diffpolicy.control.local import LocalPlanner
from diffpolicy.control.planning import Ask
from diffpolicy.datasets import load_training_episodes
from diffpolicy.improvement import corrector
from diffpolicy.improvement.corrector import Planned, planned_beside
from diffpolicy.policies import Agent, PlanRequest
from diffpolicy.policies.correcting import corrected
from diffpolicy.policies.models.base import ModelSpec
from diffpolicy.policies.models.corrected import CorrectedModel

HOW = {**HOW, "method": "corrector", "options": {"chunks": 40, "draws": 2, "width": 16}}


def test_it_learns_what_is_observed_later():
    """What was planned is the demonstrated action of before; what is right depends on what is seen now."""
    torch.manual_seed(0)
    spec = ModelSpec(1, 2, 8, 1, {"name": "unet1d", "widths": [8], "time_features": 8})
    model = CorrectedModel(spec, {"name": "regression"}, actions=4, width=32)
    optimizer = torch.optim.AdamW([one for one in model.parameters() if one.requires_grad], 1e-2)
    for _ in range(300):
        obs, planned, place = torch.randn(256, 2), torch.randn(256, 1), torch.randint(8, (256,))
        right = planned + obs[:, :1] * (place[:, None] >= 4)
        batch = {"obs": obs, "planned": planned, "demonstrated": right, "place": place}
        loss = model.loss(batch, None)
        optimizer.zero_grad()
        loss.mean().backward()
        optimizer.step()
    assert loss.shape == (256,) and loss.mean() < 0.03
    with torch.no_grad():
        seen = torch.tensor([[1.0, 0.0], [1.0, 0.0]])
        moved = model.corrected(seen, torch.zeros(2, 1), torch.tensor([1, 6]))[:, 0]
    assert abs(moved[0]) < 0.3 and abs(moved[1] - 1) < 0.3


def test_what_it_learns_from_is_what_was_done_at_the_step_of_the_action(start):  # noqa: F811
    policy, config = load_policy(start, block=256), load_config(checkpoint.read(start).config)
    episodes = load_training_episodes(config)
    arrays = planned_beside(config, policy, chunks=10**6, draws=3, seed=3)
    found = Planned(arrays)
    steps = policy.horizon - policy.obs_horizon + 1
    assert len(found) == episodes.n_steps * steps
    assert arrays["calls"] == episodes.n_steps * 3 * 10 and arrays["seconds"] > 0
    batch = found.batch(torch.arange(len(found)))
    ends = np.repeat(episodes.episode_ends, episodes.episode_lengths)
    at = np.minimum(np.arange(episodes.n_steps)[:, None] + np.arange(steps), ends[:, None] - 1).ravel()
    vectors = torch.from_numpy(episodes["state"][at].astype(np.float32))
    torch.testing.assert_close(batch["obs"], policy.normalizer.normalize("obs", vectors))
    actions = torch.from_numpy(episodes["action"][at].astype(np.float32))
    torch.testing.assert_close(batch["demonstrated"], policy.normalizer.normalize("action", actions))
    first = episodes["state"][[0, 0]].astype(np.float32)[None]
    chunks = [torch.from_numpy(policy.plan(PlanRequest(first, [(3, 0, n)])).trajectory) for n in range(3)]
    drawn = [policy.normalizer.normalize("action", one)[0, policy.obs_horizon - 1 :] for one in chunks]
    nearest = min(drawn, key=lambda one: float((one - batch["demonstrated"][:steps]).square().sum()))
    torch.testing.assert_close(batch["planned"][:steps], nearest, rtol=0, atol=1e-4)
    assert batch["place"][:steps].tolist() == list(range(policy.obs_horizon - 1, policy.horizon))


def test_it_acts_at_every_step_and_needs_no_environment(start, tmp_path):  # noqa: F811
    path = improve_policy(start, tmp_path / "run", **{**HOW, "training": {**TRAINING, "steps": 40, "lr": 3e-2}})
    again = improve_policy(start, tmp_path / "again", **{**HOW, "training": {**TRAINING, "steps": 40, "lr": 3e-2}})
    assert bytes_of(path) == bytes_of(again)
    told = json.loads((tmp_path / "run" / "improvement.json").read_text())
    frames = load_training_episodes(load_config(checkpoint.read(start).config)).n_steps
    assert told["total"]["network_calls"] == min(frames, 40) * 2 * 10, "of each of two chunks in each state"
    assert told["total"]["training_seconds"] > 0
    assert told["total"]["environment_steps"] == 0
    policy, before = load_policy(path), load_policy(start)
    obs = np.random.default_rng(0).uniform(-1, 1, (6, 1, 2)).astype(np.float32)
    agent, other = Agent(policy), Agent(before)
    for one in (agent, other):
        one.reset(seeds=[5])
    for number, seen in enumerate(obs):
        action, plain = agent.act(seen), other.act(seen)
        assert np.abs(action - plain).max() > 1e-4
        expected = corrected(policy, seen, [(number % policy.action_horizon, plain[0])])[0]
        np.testing.assert_allclose(action[0], expected, atol=1e-4)
    held = corrected(policy, obs[0], [(-1, plain[0])])[0]
    assert np.array_equal(held, plain[0]), "an action of no chunk stays as it is"
    planner, none = LocalPlanner(policy), np.empty((0, 2), np.float32)
    chunk = planner.plan(Ask([obs[0, 0]] * policy.obs_horizon, (5, 0), none, none)).trajectory
    first = planner.corrected(obs[0, 0], chunk[policy.obs_horizon - 1], 0)
    agent.reset(seeds=[5])
    np.testing.assert_allclose(first, agent.act(obs[0])[0], atol=1e-4)
    result = evaluate_policy(path, tmp_path / "out", episodes=3, videos=0, workers=0, execution={"delay": 1})
    assert len(result["episodes"]) == 3
    said = typed("serve", str(path), "port=0", cwd=tmp_path, ok=False)
    assert "whose actions are corrected at every step" in said
    held = Agent(load_policy(path, execution=ExecutionConfig(inpaint=1)))
    held.reset(seeds=[5])
    for seen in obs[:3]:  # the second chunk is asked for after two steps
        last = held.act(seen)
    decided = held._episodes[0].queue.decided(None)
    np.testing.assert_allclose(decided.executed[-1], last[0], atol=1e-6, err_msg="as it was carried out")
    with pytest.raises(ValueError, match="roll_forward of a policy that corrects every action; take one of the two"):
        load_policy(path, execution=ExecutionConfig(roll_forward=True, delay=1))
    with pytest.raises(ValueError, match=r"rounds=2.*which rolls nothing out; expected one round and no rollouts"):
        improve_policy(start, tmp_path / "more", rounds=2, **HOW)
    with pytest.raises(ValueError, match="one whose actions nothing changes; correct the policy that it was made of"):
        improve_policy(path, tmp_path / "twice", **HOW)


def test_without_an_environment(start, tmp_path):  # noqa: F811
    saved = checkpoint.read(start)
    config = {**saved.config, "env": plain(EnvConfig())}
    groups = {name: saved.tensors(name) for name in ("ema", "model", "normalizer")}
    alone = checkpoint.write(tmp_path / "alone", saved.step, groups, config, saved.state)
    assert improve_policy(alone, tmp_path / "run", **HOW).is_dir()


def test_pictures_are_refused(tmp_path):
    path = tiny_policy.save(tmp_path / "run", tiny_policy.config(cameras=tiny_policy.CAMERAS))
    with pytest.raises(ValueError, match="a policy that observes images"):
        improve_policy(path, tmp_path / "new", method="corrector")


def test_one_that_was_killed_goes_on_to_the_same_bytes(start, tmp_path, monkeypatch):  # noqa: F811
    whole = improve_policy(start, tmp_path / "whole", **HOW)
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(corrector, "learn", interrupted)
        improve_policy(start, tmp_path / "killed", **HOW)
    with monkeypatch.context() as patch:
        patch.setattr(corrector, "planned_beside", None)  # what was planned is there
        path = improve_policy(start, tmp_path / "killed", **HOW)
    assert bytes_of(path) == bytes_of(whole)


def interrupted(*_):
    raise KeyboardInterrupt
