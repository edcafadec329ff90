"""Changes of a policy's actions or noise that are learned off-policy."""

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
from diffpolicy.evaluation import INFERENCE_BLOCK
from diffpolicy.evaluation.episode import Reset
from diffpolicy.evaluation.observers import Recorder
from diffpolicy.evaluation.rollout import rollout
from diffpolicy.improvement.replay import Replay, Source, chunked, chunks_of
from diffpolicy.policies import Agent, PlanRequest

BASE = tiny_policy.METHODS["flow"]
METHOD = {"name": "residual", "base": BASE, "actions": 8, "width": 32}


def residual(place="actions", **options):
    policy = tiny_policy.policy({**METHOD, "place": place, **options})
    policy.model.base.load_state_dict(tiny_policy.policy("flow").model.state_dict())
    return policy


@pytest.mark.parametrize("place", ["actions", "noise"])
def test_it_starts_as_the_policy_itself(place):
    obs = tiny_policy.observations(5)
    expected = tiny_policy.policy("flow").plan(PlanRequest(obs, 3))
    given = residual(place).plan(PlanRequest(obs, 3))
    assert np.array_equal(given.trajectory, expected.trajectory) and given.calls.tolist() == expected.calls.tolist()


@pytest.mark.parametrize("place", ["actions", "noise"])
def test_it_stays_within_its_bound_however_it_explores(place):
    policy = residual(place, bound=0.25)
    torch.nn.init.normal_(policy.model.actor[-1].weight, std=5.0)
    told, generators = torch.randn(64, policy.model.told_dim), [torch.Generator().manual_seed(k) for k in range(64)]
    proposed = torch.randn(64, policy.model.actor[-1].out_features)
    policy.model.explore = 2.0
    with torch.no_grad():
        change = policy.model.taken(told, proposed, generators) - proposed
    assert 0.24 < change.abs().max() <= 0.25 + 1e-6 and change.std() > 0.1
    obs = tiny_policy.observations(4)
    first, again = (policy.plan(PlanRequest(obs, 3)).trajectory for _ in range(2))
    alone = policy.plan(PlanRequest(obs[2:3], 5)).trajectory
    assert np.array_equal(first, again), "exploration is keyed as noise is"
    np.testing.assert_allclose(first[2:3], alone, rtol=1e-5, atol=1e-3)
    if place == "actions":
        plain = tiny_policy.policy("flow").plan(PlanRequest(obs, 3)).trajectory
        assert np.array_equal(first[:, 9:], plain[:, 9:]) and np.array_equal(first[:, :1], plain[:, :1])


@pytest.mark.parametrize("discount", [0.0, 0.9])
def test_actor_and_critics_find_the_best_change_of_a_known_decision(discount):
    """The reward falls with the square of the first number's distance from 0.1; the next state brings 0.5."""
    torch.manual_seed(0)
    run = tiny_policy.config({**METHOD, "bound": 0.2, "width": 64, "warmup": 200, "keep": 0.0, "rate": 0.05})
    model = tiny_policy.model(run).train()
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=3e-3, weight_decay=0.0)
    for step in range(800):
        source = torch.Generator().manual_seed(step)
        proposed = 0.1 * torch.randn(256, 16, generator=source)
        taken = proposed + 0.2 * (2 * torch.rand(256, 16, generator=source) - 1)
        second = torch.rand(256, generator=source) < 0.5
        obs = torch.where(second[:, None, None], 1.0, -1.0).expand(256, 2, 5).clone()
        brought = -50 * (taken[:, 0] - 0.1) ** 2
        batch = {
            "obs": obs,
            "proposed": proposed,
            "taken": taken,
            "reward": torch.where(second, 0.5, brought),
            "discount": torch.where(second, 0.0, discount),
            "next_obs": torch.ones_like(obs),
            "next_proposed": proposed,
        }
        if step == 100:
            before = model.actor[-1].weight.clone()
        if step == 199:
            assert torch.equal(model.actor[-1].weight, before) and not before.any(), "the critics learn alone first"
        optimizer.zero_grad()
        model.loss(batch, source).mean().backward()
        optimizer.step()
    first = torch.full((64, 2, 5), -1.0)
    told, proposed = model.condition({"obs": first}).vector, 0.1 * torch.randn(64, 16)
    with torch.no_grad():
        taken = model.taken(told, proposed)
        value = model.slow[0](torch.cat([told, taken], dim=1))
    lost_before, lost = (50 * (one[:, 0] - 0.1).square().mean() for one in (proposed, taken))
    assert lost < lost_before / 4
    assert abs(float(value.mean()) - discount * 0.5) < 0.15
    assert not any(weight.requires_grad for weight in (*model.base.parameters(), *model.slow.parameters()))


@pytest.mark.parametrize("seed", range(6))
def test_rewards_after_success_stay(seed):
    """Beside the sum of an endless episode whose last reward repeats."""
    draw = np.random.default_rng(seed)
    length, n, discount = int(draw.integers(2, 10)), int(draw.integers(1, 5)), 0.8
    rewards = draw.random(length).astype(np.float32)
    done = np.zeros(length, np.uint8)
    done[-1] = seed % 2
    sums, factors, following = chunked(done, n, discount, rewards=rewards)
    value = np.zeros(length + 1)
    for t in reversed(range(length)):  # of a policy that does what was done: from chunk to chunk
        value[t] = sums[t] + factors[t] * value[following[t]]
    for t in range(length):
        tail = discount ** np.arange(length - t)
        endless = (1 - discount) * (tail * rewards[t:]).sum()
        if done[-1]:
            endless += tail[-1] * discount * rewards[-1]
        chunks = range(t, length, n)
        assert value[t] == pytest.approx(endless, rel=1e-5), list(chunks)


@pytest.mark.parametrize("method", ["residual", "steering"])
def test_the_replay_holds_what_was_carried_out(start, tmp_path, method):  # noqa: F811
    options = {"width": 16, "warmup": 0, "explore": 0.5}
    improve_policy(start, tmp_path / "run", method=method, options=options, **HOW)
    folder = tmp_path / "run" / "round_1"
    buffer = ReplayBuffer.open(folder / "rollouts")
    policy = load_policy(folder, block=INFERENCE_BLOCK)
    model = policy.model
    assert model.steps == 3 and model.actor[-1].weight.any()
    torch.nn.init.zeros_(model.actor[-1].weight)  # as it rolled out
    torch.nn.init.zeros_(model.actor[-1].bias)
    model.explore = 0.5
    found = chunks_of(Source(buffer, policy), 0.99, "success")
    firsts = np.concatenate([np.arange(part.start, part.stop, 2) for part in buffer.episode_slices()])
    assert len(found["taken"]) == len(firsts)
    resets = [Reset(int(seed)) for seed in buffer.meta["seeds"]]
    again = rollout(Agent(policy), lambda: gym.make(tiny.ENV_ID), resets, [Recorder("state")], envs=64)
    carried_out = np.concatenate([one.observed["recording"]["action"] for one in again])
    assert np.array_equal(carried_out, buffer["action"]), "rollouts are explored by the same noise"
    assert (found["taken"] - found["proposed"]).abs().max() <= model.limit + 1e-6
    assert (found["taken"] != found["proposed"]).float().mean() > 0.9
    if method == "residual":
        whole = np.flatnonzero(firsts + 1 < np.repeat(buffer.episode_ends, -(-buffer.episode_lengths // 2)))
        actions = torch.from_numpy(np.stack([buffer["action"][i : i + 2] for i in firsts[whole]]))
        obs = torch.zeros(len(whole), policy.obs_horizon, policy.obs_dim)
        expected = policy.normalized(actions, obs).flatten(1)
        inside = expected.abs() < 0.999  # what lies outside of the action space is recorded as it was clipped
        assert inside.float().mean() > 0.5
        torch.testing.assert_close(found["taken"][whole][inside], expected[inside], rtol=1e-4, atol=1e-5)
    succeeded = buffer.meta["success"] == 1
    assert (found["reward"] > 0).sum() >= succeeded.sum() > 0


@pytest.mark.parametrize("method", ["residual", "steering"])
def test_a_run_that_was_cut_off_ends_with_the_same_bytes(start, tmp_path, method, monkeypatch):  # noqa: F811
    how = {**HOW, "rounds": 2, "episodes": 12, "method": method, "options": {"width": 16, "warmup": 0}}
    improve_policy(start, tmp_path / "whole", **how)
    monkeypatch.setattr("diffpolicy.improvement.experience._AT_ONCE", 5)
    for place in ("improvement.experience.rollout", "improvement.base.train"):
        with monkeypatch.context() as patched:
            interrupt_second(patched, f"diffpolicy.{place}")
            with pytest.raises(KeyboardInterrupt):
                improve_policy(start, tmp_path / "cut", **how)
    improved = improve_policy(start, tmp_path / "cut", **how)
    whole, cut = (bytes_of(tmp_path / name / "checkpoints") for name in ("whole", "cut"))
    assert whole == cut and whole
    assert load_config(checkpoint.read(improved).config).method["base"]["name"] == "generative", "not nested"
    saved = checkpoint.read(improved).tensors("ema")
    before = checkpoint.read(start).tensors("ema")
    assert all(torch.equal(saved[f"base.{name}"], value) for name, value in before.items())
    assert saved["steps"] == 6
    result = evaluate_policy(improved, episodes=4, workers=0, videos=0)
    assert result["network_calls"] == 10, "as many as the policy's own"


def test_the_environments_own_reward(start, tmp_path):  # noqa: F811
    options = {"width": 16, "reward": "environment"}
    improve_policy(start, tmp_path / "run", method="residual", options=options, **HOW)
    folder = tmp_path / "run" / "round_1"
    assert "reward" in ReplayBuffer.open(folder / "rollouts").keys()  # noqa: SIM118
    assert not (tmp_path / "run" / "demonstrations_chunks.safetensors").exists(), "nobody knows their rewards"
    (only,) = json.loads((tmp_path / "run" / "improvement.json").read_text())["rounds"]
    assert 0 < only["success_before"]["mean"] < 1


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"options": {"reward": "succes"}}, "succes.*did you mean 'success'"),
        (
            {"options": {"reward": "environment", "demonstrations": True}},
            "demonstrations=true with reward=environment",
        ),
        (
            {"method": "steering", "options": {"demonstrations": True}},
            "and the noise changed; expected reward=success",
        ),
        ({"options": {"discount": 1.0}}, "discount=1.0"),
        ({"options": {"explore": -1}}, "explore=-1; expected a number from 0 on"),
        ({"options": {"bnd": 1}}, "has no option 'bnd'.*bound"),
    ],
)
def test_what_does_not_fit_is_refused_before_any_work(start, tmp_path, changes, says):  # noqa: F811
    with pytest.raises(ValueError, match=says):
        improve_policy(start, tmp_path / "run", **{**HOW, "method": "residual", **changes})
    assert not (tmp_path / "run").exists()


def test_a_constant_reward_is_refused():
    part = {"obs": torch.zeros(5, 2, 5), "proposed": torch.zeros(5, 16), "taken": torch.zeros(5, 16)}
    part |= {"reward": torch.full((5,), -1.0), "discount": torch.zeros(5), "following": torch.arange(5)}
    with pytest.raises(ValueError, match="each of 5 chunks brings -1, and there is nothing to learn from that"):
        Replay([part], torch.device("cpu"))


def test_parts_of_a_replay_follow_each_other():
    def part(count, value):
        numbers = {"reward": torch.arange(count) + value, "discount": torch.ones(count)}
        where = {"following": torch.arange(1, count + 1).clamp(max=count - 1)}
        seen = {name: torch.full((count, 3), float(value)) for name in ("proposed", "taken")}
        return {**numbers, **where, **seen, "obs": (torch.arange(count) + value)[:, None, None].float()}

    replay = Replay([part(3, 10), part(2, 20)], torch.device("cpu"))
    batch = replay.batch(torch.arange(5))
    assert batch["obs"].flatten().tolist() == [10, 11, 12, 20, 21]
    assert batch["next_obs"].flatten().tolist() == [11, 12, 12, 21, 21]
    assert batch["next_proposed"][:, 0].tolist() == [10, 10, 10, 20, 20]


def test_what_changes_a_policy_is_not_cloned_and_not_changed_otherwise(start, tmp_path):  # noqa: F811
    changed = improve_policy(start, tmp_path / "residual", method="residual", options={"width": 16}, **HOW)
    for method in ("filtered", "steering"):
        with pytest.raises(ValueError, match="ResidualModel"):
            improve_policy(changed, tmp_path / "run", method=method, **HOW)
    best = improve_policy(start, tmp_path / "best", method="best_of", **HOW)
    with pytest.raises(ValueError, match="a policy of BestOfModel; expected one whose noise nothing changes"):
        improve_policy(best, tmp_path / "run", method="steering", **HOW)
    with pytest.raises(ValueError, match="records something else"):
        how = {**HOW, "rollouts": str(tmp_path / "residual")}
        improve_policy(start, tmp_path / "run", method="steering", options={"width": 16}, **how)
    config = load_config(checkpoint.read(changed).config)
    config.run_dir, config.init_from = str(tmp_path / "cloned"), None
    with pytest.raises(
        ValueError, match="'residual' does not learn from demonstrations; train its base, and then diff"
    ):
        train_policy(config)
