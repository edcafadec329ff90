"""The policy gradient through the steps of a sampler."""

import json

import gymnasium as gym
import numpy as np
import pytest
import tiny
import tiny_policy
import torch
from test_improve import HOW, bytes_of, interrupt_second, start  # noqa: F401

from diffpolicy import checkpoint, evaluate_policy, improve_policy, load_policy, train_policy
from diffpolicy.config import load_config
from diffpolicy.datasets import ReplayBuffer
from diffpolicy.evaluation.episode import Reset
from diffpolicy.evaluation.observers import Recorder
from diffpolicy.evaluation.rollout import rollout
from diffpolicy.improvement import gradient
from diffpolicy.policies import Agent, PlanRequest

METHOD = {"name": "chain", "base": tiny_policy.METHODS["flow"], "actions": 8}


def chain(**options):
    policy = tiny_policy.policy({**METHOD, **options})
    policy.model.base.load_state_dict(tiny_policy.policy("flow").model.state_dict())
    return policy


def test_without_exploring_it_is_the_policy_itself():
    obs = tiny_policy.observations(5)
    expected = tiny_policy.policy("flow").plan(PlanRequest(obs, 3))
    policy = chain()
    given = policy.plan(PlanRequest(obs, 3))
    assert np.array_equal(given.trajectory, expected.trajectory) and given.calls.tolist() == expected.calls.tolist()
    policy.model.explore = True
    noisy = policy.plan(PlanRequest(obs, 3))
    assert noisy.calls.tolist() == expected.calls.tolist()
    assert not np.array_equal(noisy.trajectory, expected.trajectory)
    assert np.array_equal(noisy.trajectory, policy.plan(PlanRequest(obs, 3)).trajectory), "keyed as other noise is"


def test_steps_are_gaussian_about_the_solvers_own():
    policy = chain(scale=0.3)
    model, draws = policy.model, [torch.Generator().manual_seed(i) for i in range(500)]
    told = model.condition({"obs": torch.zeros(500, 2, 5)})
    states, means, calls = model.chain(told, draws)
    assert calls == 3 and states.shape == (4, 500, 16, 2) and means.shape == (3, 500, 16, 2)
    noise = (states[1:-1] - means[:-1]) / 0.3
    assert abs(float(noise.std()) - 1) < 0.02 and abs(float(noise.mean())) < 0.02
    assert torch.equal(states[-1], means[-1]), "the last step stays as it is"
    flow = model.base.process.solver.bind(model.base.process.field(model.base.net), model.base.process.path)
    times = model.base.process.times
    with torch.no_grad():
        again = flow(states[1], times[1].expand(500), times[2].expand(500), told)
    torch.testing.assert_close(again, means[1])
    expected = torch.distributions.Normal(means[0], 0.3).log_prob(states[1])[:, 1:9].flatten(1).mean(1)
    constant = -np.log(0.3) - np.log(2 * np.pi) / 2
    torch.testing.assert_close(model.log_prob(states[1], means[0]) + constant, expected)


def test_the_gradient_is_the_policy_gradient_where_it_is_not_clipped():
    model = chain(scale=0.2, clip=0.1).model
    draws = [torch.Generator().manual_seed(i) for i in range(6)]
    told = model.condition({"obs": torch.randn(6, 2, 5)})
    states, means, _ = model.chain(told, draws)
    times, advantage = model.base.process.times, torch.tensor([1.0, -1.0, 2.0, -0.5, 1.0, -1.0])
    batch = {"obs": told.vector.unflatten(1, (2, 5)), "x": states[0], "after": states[1], "advantage": advantage}
    batch |= {"t": times[0].expand(6), "s": times[1].expand(6), "log_prob": model.log_prob(states[1], means[0])}
    loss = model.loss(batch, None)
    torch.testing.assert_close(loss, -advantage)
    weights = list(model.base.parameters())
    found = torch.autograd.grad(loss.sum(), weights, allow_unused=True)
    flow = model.base.process.solver.bind(model.base.process.field(model.base.net), model.base.process.path)
    mean = flow(states[0], batch["t"], batch["s"], told)
    normal = torch.distributions.Normal(mean[:, 1:9], 0.2).log_prob(states[1][:, 1:9]).flatten(1).mean(1)
    expected = torch.autograd.grad(-(advantage * normal).sum(), weights, allow_unused=True)
    for mine, closed in zip(found, expected, strict=True):
        if closed is not None:
            torch.testing.assert_close(mine, closed, rtol=1e-3, atol=1e-5)
    batch["log_prob"] = batch["log_prob"] - torch.tensor([1.0, -1.0, 1.0, -1.0, 0.0, 0.0])
    clipped = model.loss(batch, None)
    torch.testing.assert_close(clipped[:4].detach(), -advantage[:4] * torch.tensor([1.1, 0.9, 1.1, 0.9]))
    assert not any(
        g is not None and g.any() for g in torch.autograd.grad(clipped[:4].sum(), weights, allow_unused=True)
    )


def test_what_is_rewarded_becomes_more_frequent():
    torch.manual_seed(0)
    model = chain(scale=0.3, clip=0.2).model
    optimizer = torch.optim.Adam(model.base.parameters(), lr=1e-3)
    means, times = [], model.base.process.times
    for turn in range(12):
        draws = [torch.Generator().manual_seed(1000 * turn + i) for i in range(256)]
        told = model.condition({"obs": torch.zeros(256, 2, 5)})
        states, steps, _ = model.chain(told, draws)
        brought = model.executed(states[-1]).mean(1)
        means.append(float(brought.mean()))
        advantage = (brought - brought.mean()) / brought.std()
        for k in (0, 1, 0, 1):
            batch = {"obs": torch.zeros(256, 2, 5), "x": states[k], "after": states[k + 1], "advantage": advantage}
            batch |= {"t": times[k].expand(256), "s": times[k + 1].expand(256)}
            batch["log_prob"] = model.log_prob(states[k + 1], steps[k])
            optimizer.zero_grad()
            model.loss(batch, None).mean().backward()
            optimizer.step()
    assert means[-1] > means[0] + 0.1, means


def test_episodes_are_judged_beside_the_others_of_their_start():
    done = np.zeros(12, np.uint8)
    done[[1, 5]] = 1  # the first after two steps, the second after three, the others never
    meta = {"seeds": np.array([3, 10**9 + 3, 4, 10**9 + 4])}
    buffer = ReplayBuffer({"done": done}, np.array([3, 6, 9, 12]), meta=meta)
    found = gradient.advantages(buffer, 0.5)
    assert found[2] == found[3] == 0 and found[0] == -found[1] > 0
    with pytest.raises(ValueError, match="no episode of 2 brought anything else than the others of its start"):
        gradient.advantages(buffer.subset([2, 3]), 0.5)


def test_it_learns_from_the_chains_that_were_carried_out(start, tmp_path):  # noqa: F811
    improve_policy(start, tmp_path / "run", method="policy_gradient", options={"group": 3, "scale": 0.2}, **HOW)
    folder = tmp_path / "run" / "round_1"
    buffer = ReplayBuffer.open(folder / "rollouts")
    seeds = [int(seed) for seed in buffer.meta["seeds"]]
    assert seeds == [n * 10**9 + seed for n in range(3) for seed in range(10)]
    policy = load_policy(folder / "checkpoints")
    policy.model.base.load_state_dict(load_policy(start).model.state_dict())
    policy.model.explore, policy.block = True, 64
    resets = [Reset(seed, env_seed=seed % 10**9) for seed in seeds]
    again = rollout(Agent(policy), lambda: gym.make(tiny.ENV_ID), resets, [Recorder("state")], envs=64)
    actions = np.concatenate([one.observed["recording"]["action"] for one in again])
    np.testing.assert_array_equal(actions, buffer["action"])
    value = gradient.advantages(buffer, 0.99)
    steps = gradient.Steps(buffer, policy, value, torch.device("cpu"))
    batch = steps.batch(torch.arange(len(steps)))
    loss = policy.model.train().loss(batch, None)
    torch.testing.assert_close(loss.detach(), -batch["advantage"], rtol=1e-4, atol=1e-4)
    chosen = [part for part, one in zip(buffer.episode_slices(), value, strict=True) if one]
    assert len(steps) == 9 * sum(-(-(part.stop - part.start) // 2) for part in chosen)
    drawn = policy.in_units(steps._states[:, -1], steps._obs)[:, 1].numpy()
    firsts = np.concatenate([np.arange(part.start, part.stop, 2) for part in chosen])
    inside = (np.abs(drawn) < 0.999).all(1)
    np.testing.assert_allclose(drawn[inside], buffer["action"][firsts][inside], rtol=1e-3, atol=1e-3)


def test_what_comes_out_is_the_policys_own_method(start, tmp_path, monkeypatch):  # noqa: F811
    how = {**HOW, "rounds": 2, "episodes": 12, "method": "policy_gradient", "options": {"scale": 0.2}}
    improved = improve_policy(start, tmp_path / "whole", **how)
    saved = checkpoint.read(improved)
    assert load_config(saved.config).method == load_config(checkpoint.read(start).config).method
    before = checkpoint.read(start).tensors("ema")
    assert before.keys() == saved.tensors("ema").keys()
    assert any(not torch.equal(before[name], value) for name, value in saved.tensors("ema").items())
    assert evaluate_policy(improved, episodes=2, workers=0, videos=0)["network_calls"] == 10
    assert len(json.loads((tmp_path / "whole" / "improvement.json").read_text())["rounds"]) == 2
    monkeypatch.setattr("diffpolicy.improvement.experience._AT_ONCE", 5)
    for place in ("improvement.experience.rollout", "improvement.base.train"):
        with monkeypatch.context() as patched:
            interrupt_second(patched, f"diffpolicy.{place}")
            with pytest.raises(KeyboardInterrupt):
                improve_policy(start, tmp_path / "cut", **how)
    improve_policy(start, tmp_path / "cut", **how)
    assert bytes_of(tmp_path / "whole" / "checkpoints") == bytes_of(tmp_path / "cut" / "checkpoints")


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"group": 1}, "group=1; expected at least 2"),
        ({"group": 40}, "episodes=30 of options.group=40"),
        ({"discount": 0.0}, "discount=0.0"),
    ],
)
def test_what_does_not_fit_is_refused(start, tmp_path, options, says):  # noqa: F811
    with pytest.raises(ValueError, match=says):
        improve_policy(start, tmp_path / "run", method="policy_gradient", options=options, **HOW)


def test_methods_without_a_chain_are_refused(start, tmp_path):  # noqa: F811
    config = load_config(checkpoint.read(start).config)
    config.run_dir, config.method = str(tmp_path / "mean"), {"name": "regression"}
    mean = train_policy(config)
    with pytest.raises(ValueError, match="RegressionModel is no chain of steps; expected flow or diffusion"):
        improve_policy(mean, tmp_path / "run", method="policy_gradient", **HOW)
    config.run_dir = str(tmp_path / "multistep")
    config.method = {**load_config(checkpoint.read(start).config).method, "solver": "dpmpp_2m"}
    multistep = train_policy(config)
    with pytest.raises(ValueError, match="expected a deterministic solver of single steps, such as euler"):
        improve_policy(multistep, tmp_path / "run", method="policy_gradient", **HOW)
