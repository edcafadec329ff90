"""Policies that learn from what they do: whose episodes are kept, what is trained on, and what it costs."""

import importlib
import json
import math

import gymnasium as gym
import numpy as np
import pytest
import tiny
import tiny_policy
import torch
from typed import typed

from diffpolicy import checkpoint, evaluate_policy, improve_policy, load_policy, train_policy
from diffpolicy.config import ExecutionConfig, SamplerConfig, load_config, plain, schema
from diffpolicy.config.commands import ImproveConfig
from diffpolicy.config.compose import compose
from diffpolicy.datasets import EpisodeWriter, ReplayBuffer
from diffpolicy.evaluation import INFERENCE_BLOCK
from diffpolicy.evaluation.episode import Reset
from diffpolicy.evaluation.experts import ExpertAgent
from diffpolicy.evaluation.observers import Recorder
from diffpolicy.evaluation.rollout import rollout
from diffpolicy.improvement.corrections import TakeOver, step_of
from diffpolicy.improvement.replay import chunked
from diffpolicy.policies import Agent, PlanRequest, build_model

ENV = {"env.id": tiny.ENV_ID}
TRAINING = {"steps": 3, "batch_size": 8, "evaluate_every": 0, "checkpoint_every": 2}
HOW = {"episodes": 30, "first_seed": 0, "workers": 0, "speed": "float32", "training": TRAINING}


@pytest.fixture(scope="module")
def start(tmp_path_factory):
    """A policy of the tiny environment that succeeds now and then, and its demonstrations."""
    folder = tmp_path_factory.mktemp("improve")
    record = [f"env.id={tiny.ENV_ID}", "expert=tiny:LineExpert", "episodes=8"]
    typed("record", *record, f"out={folder / 'demos'}", cwd=folder)
    return train_policy(
        [
            "task=own",
            "method=flow",
            f"dataset.path={folder / 'demos'}",
            "observation.vectors=[state]",
            f"env.id={tiny.ENV_ID}",
            "policy.horizon=4",
            "policy.action_horizon=2",
            "net.widths=[16]",
            "net.groups=4",
            "net.time_features=8",
            "training.steps=150",
            "training.batch_size=16",
            "training.evaluate_every=0",
            "evaluation_episodes=2",
            "evaluation_workers=0",
            "speed=float32",
            f"run_dir={folder / 'start'}",
        ]
    )


def bytes_of(folder):
    return {
        str(file.relative_to(folder)): file.read_bytes()
        for file in sorted(folder.rglob("*"))
        if file.is_file()
        and (file.suffix == ".safetensors" or "rollouts/data" in str(file) or "data.zarr" in str(file))
    }


def interrupt_second(patched, place):
    """Interrupt the second call of what stands at `place`."""
    module, _, name = place.rpartition(".")
    real, calls = getattr(importlib.import_module(module), name), []

    def broken(*args, **kwargs):
        calls.append(name)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return real(*args, **kwargs)

    patched.setattr(place, broken)


def test_filtered_cloning_keeps_the_successes_beside_the_demonstrations(start, tmp_path):
    improved = improve_policy(start, tmp_path / "run", method="filtered", **HOW)
    rolled_out = evaluate_policy(start, episodes=30, seeds=0, workers=0, videos=0)["episodes"]
    succeeded = [one["success"] for one in rolled_out]
    assert 0 < sum(succeeded) < 30, "a policy of which something can be learned"
    rollouts = ReplayBuffer.open(tmp_path / "run" / "round_1" / "rollouts")
    assert rollouts.meta["success"].tolist() == [int(one) for one in succeeded]
    assert rollouts.episode_lengths.tolist() == [one["steps"] for one in rolled_out]
    data = ReplayBuffer.open(tmp_path / "run" / "round_1" / "data.zarr")
    demos = ReplayBuffer.open(start.parents[2] / "demos")
    chosen = [part for part, good in zip(rollouts.episode_slices(), succeeded, strict=True) if good]
    held_out = demos.n_episodes + len(chosen) - data.n_episodes
    assert held_out == 1, "the validation episode of the first training stays out"
    for name in ("state", "action"):
        assert np.array_equal(
            data[name][-sum(p.stop - p.start for p in chosen) :], np.concatenate([rollouts[name][p] for p in chosen])
        )
    before, after = checkpoint.read(start), checkpoint.read(improved)
    assert all(torch.equal(before.tensors("normalizer")[k], v) for k, v in after.tensors("normalizer").items())
    assert load_config(after.config).env.id == tiny.ENV_ID
    result = json.loads((tmp_path / "run" / "improvement.json").read_text())
    (only,) = result["rounds"]
    assert only["success_before"]["mean"] == sum(succeeded) / 30 and only["episodes_kept"] == sum(succeeded)
    assert only["costs"]["environment_steps"] == sum(one["steps"] for one in rolled_out)
    chunks = sum(math.ceil(one["steps"] / 2) for one in rolled_out)
    assert only["costs"]["network_calls"] == chunks * 10 and result["total"] == only["costs"]
    again = evaluate_policy(tmp_path / "run", episodes=2, workers=0, videos=0)
    assert len(again["episodes"]) == 2, "the run's folder stands for its policy"


def test_what_is_cloned_goes_on_beyond_success(start, tmp_path):
    improve_policy(start, tmp_path / "plain", method="filtered", **HOW)
    options = {"steps_after_success": 3}
    for method, more in (
        ("filtered", {}),
        ("corrections", {"expert": "tiny:LineExpert", "latest": 3, "of_failures": 1}),
    ):
        improve_policy(start, tmp_path / method, method=method, options={**options, **more}, **HOW)
    plain, longer, shared = (
        ReplayBuffer.open(tmp_path / name / "round_1" / "rollouts") for name in ("plain", "filtered", "corrections")
    )
    succeeded = plain.meta["success"] == 1
    expected = np.minimum(plain.episode_lengths + np.where(succeeded, 3, 0), tiny.LIMIT)
    assert np.array_equal(longer.episode_lengths, expected) and (expected > plain.episode_lengths).any()
    for one, own in zip(plain.episode_slices(), longer.episode_slices(), strict=True):
        assert np.array_equal(longer["action"][own][: one.stop - one.start], plain["action"][one])
    assert np.array_equal(longer["action"], shared["action"]), "so that corrections can take filtered rollouts"
    with pytest.raises(ValueError, match="records something else .by: 'the policy' there, 'the policy, 3 steps"):
        improve_policy(start, tmp_path / "x", rollouts=str(tmp_path / "plain"), options=options, **HOW)


def test_the_fastest_successes_alone(start, tmp_path):
    options = {"fastest": 0.5, "demonstrations": False, "from_scratch": True}
    improve_policy(start, tmp_path / "run", method="filtered", options=options, **HOW)
    rollouts = ReplayBuffer.open(tmp_path / "run" / "round_1" / "rollouts")
    lengths = np.sort(rollouts.episode_lengths[rollouts.meta["success"] == 1])
    data = ReplayBuffer.open(tmp_path / "run" / "round_1" / "data.zarr")
    assert sorted(data.episode_lengths) == lengths[: round(len(lengths) / 2)].tolist()


def test_starts_that_failed_are_tried_again_with_other_noise(start, tmp_path):
    options = {"retries": 2, "retry_temperature": 2.0}
    improve_policy(start, tmp_path / "run", method="filtered", options=options, **HOW)
    folder = tmp_path / "run" / "round_1"
    first, again = (ReplayBuffer.open(folder / name) for name in ("rollouts", "retries"))
    failed = first.meta["seeds"][first.meta["success"] == 0]
    assert again.meta["seeds"].tolist() == [seed + n * 10**9 for n in (1, 2) for seed in failed]
    begun = {
        int(seed): first["state"][end - n]
        for seed, end, n in zip(first.meta["seeds"], first.episode_ends, first.episode_lengths, strict=True)
    }
    for seed, part in zip(again.meta["seeds"], again.episode_slices(), strict=True):
        assert np.array_equal(again["state"][part.start], begun[seed % 10**9]), "the start is the one that failed"
    hot = load_policy(start, execution=ExecutionConfig(temperature=2.0), block=INFERENCE_BLOCK)
    resets = [Reset(int(seed), env_seed=int(seed) % 10**9) for seed in again.meta["seeds"]]
    alike = rollout(Agent(hot), lambda: gym.make(tiny.ENV_ID), resets, envs=64)
    assert [one.success_at_end for one in alike] == (again.meta["success"] == 1).tolist()
    assert 0 < again.meta["success"].sum() < len(again.meta["success"])
    (only,) = json.loads((tmp_path / "run" / "improvement.json").read_text())["rounds"]
    assert only["episodes_kept"] == first.meta["success"].sum() + again.meta["success"].sum()
    assert only["success_of_retries"]["mean"] == again.meta["success"].mean()
    assert only["success_before"]["mean"] == first.meta["success"].mean()
    assert only["costs"]["environment_steps"] == first.n_steps + again.n_steps
    assert only["costs"]["episodes"] == first.n_episodes + again.n_episodes
    improve_policy(start, tmp_path / "plain", method="filtered", **HOW)
    shared = {"rollouts": str(tmp_path / "plain"), "options": options}
    improve_policy(start, tmp_path / "shared", method="filtered", **HOW, **shared)
    assert bytes_of(tmp_path / "shared" / "checkpoints") == bytes_of(tmp_path / "run" / "checkpoints")


@pytest.mark.parametrize(("method", "options"), [("filtered", {}), ("filtered", {"retries": 2}), ("best_of", {})])
def test_a_run_that_was_cut_off_ends_with_the_same_bytes(start, tmp_path, method, options, monkeypatch):
    how = {**HOW, "rounds": 2, "episodes": 20, "options": options}
    improve_policy(start, tmp_path / "whole", method=method, **how)
    monkeypatch.setattr("diffpolicy.improvement.experience._AT_ONCE", 8)
    for place in (
        "improvement.experience.rollout",
        "api.train_policy" if method == "filtered" else "improvement.base.train",
    ):
        with monkeypatch.context() as patched:
            interrupt_second(patched, f"diffpolicy.{place}")
            with pytest.raises(KeyboardInterrupt):
                improve_policy(start, tmp_path / "cut", method=method, **how)
    improve_policy(start, tmp_path / "cut", method=method, **how)
    whole, cut = (bytes_of(tmp_path / name / "checkpoints") for name in ("whole", "cut"))
    assert whole == cut and whole


def first_successes(run):
    return ReplayBuffer.open(run / "round_1" / "rollouts").meta["success"].tolist()


def test_rollouts_of_another_improvement_are_taken(start, tmp_path, monkeypatch):
    improve_policy(start, tmp_path / "first", method="filtered", **HOW)
    anew = improve_policy(start, tmp_path / "anew", method="best_of", **HOW)
    monkeypatch.delattr("diffpolicy.improvement.experience.rollout")
    taken = improve_policy(start, tmp_path / "taken", method="best_of", rollouts=str(tmp_path / "first"), **HOW)
    assert bytes_of(taken) == bytes_of(anew)
    costs = [json.loads((tmp_path / name / "improvement.json").read_text())["total"] for name in ("first", "taken")]
    assert all(costs[0][name] == costs[1][name] for name in ("rollout_seconds", "environment_steps", "network_calls"))
    with pytest.raises(ValueError, match=r"records something else \(first_seed: 0 there, 7 now\)"):
        improve_policy(start, tmp_path / "other", rollouts=str(tmp_path / "first"), **{**HOW, "first_seed": 7})
    fewer = {**HOW, "episodes": 12}
    improve_policy(start, tmp_path / "fewer", method="filtered", rollouts=str(tmp_path / "first"), **fewer)
    (part,) = json.loads((tmp_path / "fewer" / "improvement.json").read_text())["rounds"]
    assert part["success_before"]["mean"] * 12 == pytest.approx(sum(first_successes(tmp_path / "first")[:12]))
    with pytest.raises(ValueError, match=r"records something else \(env.max_steps: None there, 5 now"):
        improve_policy(start, tmp_path / "env", rollouts=str(tmp_path / "first"), env={"max_steps": 5}, **HOW)
    with pytest.raises(ValueError, match=r"rollouts=.*nowhere: no folder round_1/rollouts there; give the run_dir"):
        improve_policy(start, tmp_path / "none", rollouts=str(tmp_path / "nowhere"), **HOW)
    options = {"expert": "tiny:LineExpert"}
    with pytest.raises(ValueError, match=r"records something else \(by: 'the policy' there"):
        improve_policy(
            start, tmp_path / "c", method="corrections", rollouts=str(tmp_path / "first"), options=options, **HOW
        )


def test_other_settings_and_other_folders_are_refused(start, tmp_path):
    improve_policy(start, tmp_path / "run", method="filtered", **HOW)
    with pytest.raises(FileExistsError, match=r"holds something else than this improvement: other episodes; choose"):
        improve_policy(start, tmp_path / "run", method="filtered", **{**HOW, "episodes": 31})
    (tmp_path / "foreign").mkdir()
    (tmp_path / "foreign" / "thesis.tex").write_text("…")
    with pytest.raises(FileExistsError, match="choose another run_dir"):
        improve_policy(start, tmp_path / "foreign", method="filtered", **HOW)
    assert [file.name for file in (tmp_path / "foreign").iterdir()] == ["thesis.tex"]


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"method": "filterd"}, r"filterd.*filtered"),
        ({"options": {"fastst": 1}}, r"has no option 'fastst'.*fastest"),
        ({"options": {"fastest": 0}}, r"fastest=0; expected a part"),
        ({"options": {"steps_after_success": -1}}, r"steps_after_success=-1; expected a number from 0 on"),
        ({"options": {"retries": -1}}, r"retries=-1; expected a number from 0 on"),
        ({"options": {"retries": 1, "retry_temperature": 0}}, r"retry_temperature=0; expected a number above 0"),
        ({"options": {"retry_temperature": 1.0}}, r"retry_temperature=1.0 without retries; name options.retries"),
        ({"rounds": 0}, r"rounds=0, .*expected at least 1"),
        ({"first_seed": 10**9}, r"first_seed=1000000000: episodes up to 1000000030; expected seeds below 1000000000"),
        ({"first_seed": 199_990}, r"first_seed=199990: episodes up to 200020; expected none of 200000 to 300000"),
        ({"env": {"id": None, "factory": "nowhere:make"}}, r"nowhere"),
        ({"env": {"id": "diffpolicy/Detour-v0"}}, r"as the policy has"),
        ({"method": "corrections"}, r"no expert for env.id='tiny/Line-v0'"),
        ({"method": "corrections", "options": {"expert": "tiny:LIMIT"}}, r"no function"),
        ({"method": "corrections", "options": {"of_failures": -1}}, r"of_failures=-1; expected a number from 0 on"),
        ({"training": {**TRAINING, "choose": "success"}}, r"training.choose=success; expected last"),
        ({"env": {"id": tiny.ENV_ID, "success": "none"}}, r"has no success; name what says so by env.success=KEY"),
        ({"method": "best_of", "options": {"discount": 1.0}}, r"discount=1.0; expected a number in \(0, 1\)"),
    ],
)
def test_what_does_not_fit_is_refused_before_any_work(start, tmp_path, changes, says):
    with pytest.raises((ValueError, ImportError), match=says):
        improve_policy(start, tmp_path / "run", **{**HOW, **changes})
    assert not (tmp_path / "run").exists()


def test_a_policy_of_pictures_is_refused(tmp_path):
    made = train_policy(
        [
            "task=pusht_expert",
            "observation.mode=drawn",
            "observation.vectors=[agent]",
            "observation.images=[image]",
            "env.kwargs.obs_mode=pixels",
            "dataset.episodes=2",
            "dataset.validation=0",
            "encoder.widths=[8]",
            "encoder.keypoints=4",
            "net.widths=[16]",
            "net.groups=4",
            "training.steps=1",
            "training.batch_size=2",
            "training.evaluate_every=0",
            "evaluation_episodes=1",
            "env.max_steps=2",
            "evaluation_workers=0",
            "speed=float32",
            f"run_dir={tmp_path / 'pictures'}",
        ]
    )
    for method in ("filtered", "best_of", "corrections"):
        with pytest.raises(ValueError, match=r"a policy that observes images, image; expected one of numbers"):
            improve_policy(made, tmp_path / "run", **{**HOW, "method": method})


def test_a_policy_of_another_kind_is_refused(start, tmp_path):
    best = improve_policy(start, tmp_path / "best", method="best_of", **HOW)
    for method, options in (("filtered", {}), ("corrections", {"expert": "tiny:LineExpert"})):
        with pytest.raises(ValueError, match="BestOfModel is not trained on demonstrations; improve the policy"):
            improve_policy(best, tmp_path / "run", method=method, options=options, **HOW)
    config = load_config(checkpoint.read(start).config)
    config.run_dir, config.method = str(tmp_path / "mean"), {"name": "regression"}
    mean = train_policy(config)
    with pytest.raises(ValueError, match="RegressionModel does not start from noise; expected a method that does"):
        improve_policy(mean, tmp_path / "run", method="best_of", **HOW)
    with pytest.raises(ValueError, match=r"retries=1, and RegressionModel does not start from noise"):
        improve_policy(mean, tmp_path / "run", method="filtered", options={"retries": 1}, **HOW)
    assert not (tmp_path / "run").exists()
    again = improve_policy(best, tmp_path / "again", method="best_of", **HOW)
    assert load_config(checkpoint.read(again).config).method["base"]["name"] == "generative", "not nested"


def test_sections_keep_the_commands_defaults():
    """From Python as from the command line."""
    typed_in = compose(["checkpoint=c", "run_dir=r", "training.batch_size=8"], "improve", ImproveConfig)
    given = schema.typed(ImproveConfig, {"checkpoint": "c", "run_dir": "r", "training": {"batch_size": 8}})
    assert plain(given) == plain(typed_in) and given.training.lr == 3e-4 and given.training.steps == 2000


def test_rollouts_that_teach_nothing_say_so(start, tmp_path):
    never = {"width": 2.0}
    with pytest.raises(ValueError, match="none of 30 episodes ended in success"):
        improve_policy(start, tmp_path / "filtered", method="filtered", env={"kwargs": never}, **HOW)
    with pytest.raises(ValueError, match="no success in 30 episodes, and there is nothing to learn"):
        improve_policy(start, tmp_path / "best", method="best_of", env={"kwargs": never}, **HOW)


def test_an_expert_takes_over_at_a_step_of_its_own_in_every_episode(start):
    policy = load_policy(start, block=8)

    def make():
        return gym.make(tiny.ENV_ID)

    resets = [Reset(seed) for seed in range(40)]
    expert = ExpertAgent(tiny.ENV_ID, {}, tiny.LineExpert)
    seen = [Recorder("state")]
    both = rollout(TakeOver(Agent(policy), expert, 6), make, resets, seen, envs=8)
    alone = rollout(Agent(policy), make, resets, seen, envs=8)
    steps = [step_of(seed, 6) for seed in range(40)]
    assert set(steps) == set(range(7)), "every step may be drawn"
    for seed, first, mixed, ours in zip(range(40), steps, both, alone, strict=True):
        given, own = (one.observed["recording"]["action"] for one in (mixed, ours))
        assert np.array_equal(given[:first], own[:first][: len(given)])
        side = tiny.LineExpert(seed)._side
        assert (given[first:, 0] == side).all()
        if len(given) > first:
            place = mixed.observed["recording"]["state"][first, 0]
            assert given[first, 1] == np.float32(place), "it starts where the policy has come to"


def test_corrections_stop_at_their_budget_and_keep_what_the_expert_did(start, tmp_path):
    options = {"expert": "tiny:LineExpert", "expert_steps": 30, "latest": 3}
    how = {**HOW, "episodes": 600}
    improve_policy(start, tmp_path / "run", method="corrections", options=options, **how)
    rollouts = ReplayBuffer.open(tmp_path / "run" / "round_1" / "rollouts")
    assert rollouts.n_episodes == 32, "no more than the first of the batches"
    (only,) = json.loads((tmp_path / "run" / "improvement.json").read_text())["rounds"]
    firsts = np.array([step_of(int(seed), 3) for seed in rollouts.meta["seeds"]])
    taken = np.maximum(rollouts.episode_lengths - firsts, 0)
    assert only["costs"]["expert_steps"] == taken.sum() > 30
    mine = rollouts.episode_lengths - taken
    assert only["costs"]["network_calls"] == 10 * np.ceil(mine / 2).sum(), "none that the expert spared"
    count = int(np.searchsorted(taken.cumsum(), 30)) + 1
    assert taken[:count].sum() >= 30 > taken[: count - 1].sum()
    data = ReplayBuffer.open(tmp_path / "run" / "round_1" / "data.zarr")
    kept = taken[:count][(rollouts.meta["success"] == 1)[:count] & (taken > 0)[:count]]
    assert data.episode_lengths[-len(kept) :].tolist() == kept.tolist()
    assert data.n_episodes == 7 + len(kept)


def test_corrections_that_were_cut_off_between_two_episodes_end_with_the_same_bytes(start, tmp_path):
    how = {**HOW, "method": "corrections", "episodes": 90}
    how["options"] = {"expert": "tiny:LineExpert", "expert_steps": 150, "latest": 3}
    improve_policy(start, tmp_path / "whole", **how)
    real, added = EpisodeWriter.add, []

    def broken(self, episode, **meta):
        if len(added) == 20:
            raise KeyboardInterrupt
        added.append(meta)
        real(self, episode, **meta)

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(EpisodeWriter, "add", broken)
        with pytest.raises(KeyboardInterrupt):
            improve_policy(start, tmp_path / "cut", **how)
    improve_policy(start, tmp_path / "cut", **how)
    whole, cut = (bytes_of(tmp_path / name / "checkpoints") for name in ("whole", "cut"))
    assert whole == cut and whole


def test_failures_are_gone_through_again_until_an_expert_takes_over(start, tmp_path):
    options = {"expert": "tiny:LineExpert", "expert_steps": 40, "latest": 3, "of_failures": 5}
    how = {**HOW, "method": "corrections"}
    improve_policy(start, tmp_path / "run", **how, options=options)
    folder = tmp_path / "run" / "round_1"
    first, again = (ReplayBuffer.open(folder / name) for name in ("rollouts", "corrections"))
    failed = [int(seed) for seed in first.meta["seeds"][first.meta["success"] == 0]]
    seeds = [int(seed) for seed in again.meta["seeds"]]
    assert seeds == [seed + n * 10**9 for n in range(1, 6) for seed in failed][: len(seeds)]
    parts = dict(zip(first.meta["seeds"], first.episode_slices(), strict=True))
    steps = [step_of(seed, 3) for seed in seeds]
    assert len({(seed % 10**9, step) for seed, step in zip(seeds, steps, strict=True)}) > len(failed)
    for seed, step, frames in zip(seeds, steps, again.episode_slices(), strict=True):
        frame, own = frames.start, parts[seed % 10**9].start
        assert np.array_equal(again["action"][frame : frame + step], first["action"][own : own + step])
        assert np.array_equal(again["state"][frame : frame + step + 1], first["state"][own : own + step + 1])
    (only,) = json.loads((tmp_path / "run" / "improvement.json").read_text())["rounds"]
    assert only["success_before"]["mean"] == first.meta["success"].mean()
    assert only["costs"]["environment_steps"] == first.n_steps + again.n_steps
    assert only["costs"]["expert_steps"] == sum(again.episode_lengths - steps) >= 40
    improve_policy(start, tmp_path / "plain", **{**HOW, "method": "filtered"})
    improve_policy(start, tmp_path / "shared", **how, options=options, rollouts=str(tmp_path / "plain"))
    assert bytes_of(tmp_path / "shared" / "checkpoints") == bytes_of(tmp_path / "run" / "checkpoints")


def test_a_policy_that_never_fails_has_nothing_to_correct(start, tmp_path):
    options = {"expert": "tiny:LineExpert", "of_failures": 2}
    how = {**HOW, "method": "corrections", "env": {"kwargs": {"width": 1e-9}}}
    with pytest.raises(ValueError, match=r"all 30 episodes ended in success.*take options.of_failures=0"):
        improve_policy(start, tmp_path / "run", options=options, **how)


def by_hand(rewards, done, n, discount):
    sums, factors = [], []
    for t in range(len(rewards)):
        total, k = 0.0, 0
        while k < n and t + k < len(rewards):
            total += discount**k * rewards[t + k]
            k += 1
            if done[t + k - 1]:
                break
        over = done[t : t + k].any() or t + n >= len(rewards)
        sums.append(total)
        factors.append(0.0 if over else discount**n)
    return sums, factors


@pytest.mark.parametrize("seed", range(8))
def test_what_a_chunk_brings_equals_a_loop(seed):
    draw = np.random.default_rng(seed)
    length, n = int(draw.integers(1, 12)), int(draw.integers(1, 6))
    done = (draw.random(length) < 0.2).astype(np.uint8)
    sums, factors, following = chunked(done, n, 0.9, first=100)
    expected = by_hand(done, done, n, 0.9)
    np.testing.assert_allclose(sums, expected[0])
    np.testing.assert_allclose(factors, expected[1])
    assert following.tolist() == [100 + min(t + n, length - 1) for t in range(length)]


BEST_OF = {"name": "best_of", "base": tiny_policy.METHODS["flow"], "actions": 8, "width": 32}


def best_of(candidates, seed=0, **options):
    return tiny_policy.policy({**BEST_OF, "candidates": candidates, **options})


def test_one_candidate_is_the_policy_itself():
    base, one = tiny_policy.policy("flow"), best_of(1)
    one.model.base.load_state_dict(base.model.state_dict())
    obs = tiny_policy.observations(5)
    expected = base.plan(PlanRequest(obs, 3))
    given = one.plan(PlanRequest(obs, 3))
    assert np.array_equal(given.trajectory, expected.trajectory) and given.calls.tolist() == expected.calls.tolist()


def test_the_candidate_of_the_highest_lowest_q_is_taken():
    policy, count = best_of(6), 6
    model, source = policy.model, [torch.Generator().manual_seed(9 + i) for i in range(4)]
    condition = model.condition(tiny_policy.windows(4))
    with torch.no_grad():
        chosen, calls = model.sample(condition, source)
        again = []
        for i in range(4):
            from diffpolicy.util.seeds import generator

            draws = [
                torch.Generator().manual_seed(9 + i),
                *(generator("candidates", 9 + i, k) for k in range(1, count)),
            ]
            again.append(
                model.base.sample(type(condition)(condition.vector[i : i + 1].repeat(count, 1)), draws).chunks
            )
        for mine, all_ in zip(chosen, again, strict=True):
            at = int((all_ - mine).flatten(1).norm(dim=1).argmin())
            torch.testing.assert_close(all_[at], mine)
    assert calls == 3 * count
    told = condition.vector.repeat_interleave(count, 0)
    scores = model._qs(told, torch.cat(again)[:, 1:9].flatten(1)).min(0).values.view(4, count).argmax(1)
    for i, best in enumerate(scores):
        torch.testing.assert_close(again[i][best], chosen[i])


def test_a_plan_does_not_depend_on_its_neighbors():
    policy = best_of(4)
    policy.block = 8
    obs = tiny_policy.observations(6)
    together = policy.plan(PlanRequest(obs, 3)).trajectory
    alone = policy.plan(PlanRequest(obs[2:3], 5)).trajectory
    assert np.array_equal(together[2:3], alone)


def test_critics_find_the_values_of_a_known_decision():
    """Chunks whose first action is positive bring 1 at once, others lead to a state worth 0.5."""
    torch.manual_seed(0)
    run = tiny_policy.config({**BEST_OF, "candidates": 8, "expectile": 0.5, "width": 64})
    model = tiny_policy.model(run).train()
    assert not any(parameter.requires_grad for parameter in model.base.parameters())
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=3e-3, weight_decay=0.0)
    for step in range(400):
        source = torch.Generator().manual_seed(step)
        batch = tiny_policy.windows(128, seed=step)
        later = torch.rand(128, generator=source) < 0.5  # in the later state every chunk brings 0.5
        batch["obs"] = torch.where(later[:, None, None], 1.0, -1.0).expand_as(batch["obs"]).clone()
        good = batch["action"][:, 1, 0] > 0
        batch["reward"] = torch.where(later, 0.5, torch.where(good, 1.0, 0.0))
        batch["discount"] = torch.where(later | good, 0.0, 0.9)
        batch["next_obs"] = torch.ones_like(batch["obs"])
        batch["action"] = batch["action"][:, :9]
        optimizer.zero_grad()
        model.loss(batch, None).mean().backward()
        optimizer.step()
    batch = tiny_policy.windows(64, seed=1000)
    first = torch.full_like(batch["obs"], -1.0)
    told = model.condition({"obs": first}).vector
    chunk = batch["action"][:, 1:9].flatten(1)
    clear = batch["action"][:, 1, 0].abs() > 0.2
    found = model._qs(told, chunk).min(0).values.detach()
    expected = torch.where(batch["action"][:, 1, 0] > 0, 1.0, 0.9 * 0.5)
    assert (found - expected)[clear].abs().mean() < 0.1
    assert abs(float(model.value(told).detach().mean()) - (1.0 + 0.45) / 2) < 0.1  # the mean over what was done


def test_an_expectile_lies_above_the_mean():
    """For Q uniform on [0, 1] the expectile τ is 1/(1 + √((1 - τ)/τ))."""
    model = best_of(2, expectile=0.9).model
    source = torch.Generator().manual_seed(0)
    qs = torch.rand(200_000, generator=source)
    value = torch.tensor(0.5, requires_grad=True)
    optimizer = torch.optim.SGD([value], lr=0.5)
    model._qs = lambda told, chunk: qs[None]
    model.value = torch.nn.Module()
    model.value.forward = lambda told: value.expand(len(qs), 1)
    batch = {
        "obs": torch.zeros(len(qs), 2, 5),
        "action": torch.zeros(len(qs), 9, 2),
        "next_obs": torch.zeros(len(qs), 2, 5),
    }
    batch |= {"reward": qs, "discount": torch.zeros(len(qs))}
    model.condition = lambda observed, generator=None: type("C", (), {"vector": observed["obs"].flatten(1)})()
    for _ in range(200):
        optimizer.zero_grad()
        model.loss(batch, None).mean().backward()
        optimizer.step()
    expected = 1 / (1 + math.sqrt(0.1 / 0.9))
    assert abs(float(value.detach()) - expected) < 2e-3


def test_best_of_is_a_policy_like_others(start, tmp_path):
    improved = improve_policy(start, tmp_path / "run", method="best_of", options={"candidates": 4}, **HOW)
    before, after = checkpoint.read(start).tensors("ema"), checkpoint.read(improved).tensors("ema")
    assert all(torch.equal(after[f"base.{name}"], value) for name, value in before.items())
    result = evaluate_policy(improved, tmp_path / "evaluation", episodes=4, workers=0, videos=0)
    assert result["network_calls"] == 4 * 10
    fewer = load_policy(improved, SamplerConfig(steps=2))
    assert fewer.plan(PlanRequest(np.zeros((1, 2, 2), np.float32), 0)).calls.tolist() == [8]
    with pytest.raises(NotImplementedError, match="diffpolicy improve"):
        build_model(load_config(checkpoint.read(improved).config), fewer.observation, 2).chunk_loss(None, None, None)


def test_the_command_says_what_it_did(start, tmp_path):
    settings = [f"training.{name}={value}" for name, value in TRAINING.items()]
    settings += ["episodes=30", "first_seed=0", "workers=0", "speed=float32", f"checkpoint={start}"]
    said = typed("improve", "run_dir=run", "method=filtered", *settings, cwd=tmp_path)
    assert "round 1: the policy before succeeded in" in said and "environment steps" in said
    assert "diffpolicy evaluate checkpoint=run out=run/evaluation" in said
    assert "nothing" in typed("improve", "run_dir=other", "method=nothing", *settings, cwd=tmp_path, ok=False)
    assert not (tmp_path / "other").exists()
