"""Policies that are told what to do, learned from a recording whose texts and goals decide what its actions are."""

import numpy as np
import pytest
import torch

from diffpolicy import checkpoint, load_policy, train_policy
from diffpolicy.config import ExecutionConfig, load_config
from diffpolicy.config.compose import compose
from diffpolicy.control import wire
from diffpolicy.control.local import LocalPlanner
from diffpolicy.control.planning import Ask, warm
from diffpolicy.datasets import ReplayBuffer
from diffpolicy.datasets.load import load_windows
from diffpolicy.datasets.normalizer import Normalizer
from diffpolicy.improvement.base import check_numbers
from diffpolicy.policies import Agent, PlanRequest
from diffpolicy.policies.export_onnx import export_onnx

TEXTS = ["go left", "go right", "to the left", "to the right"]
SIGNS = np.array([-1.0, 1.0, -1.0, 1.0])
NET = ["net.widths=[16,32]", "net.groups=4", "net.time_features=16", "text.width=16", "text.features=16"]
HOW = ["training.steps=250", "training.batch_size=64", "training.lr=3e-3", "training.warmup_steps=20"]
HORIZONS = ["policy.horizon=8", "policy.action_horizon=4"]


def recording(path, untold=0):
    """Episodes whose action is ±(1, 0) as the text says, plus (0, goal)."""
    rng = np.random.default_rng(0)
    episodes, task = [], []
    for number in range(48):
        which, goal = number % 4, rng.uniform(-1, 1)
        actions = np.tile([SIGNS[which], goal], (20, 1)) + 0.02 * rng.standard_normal((20, 2))
        state = rng.uniform(-1, 1, (20, 3))
        episodes.append({"state": state, "where": np.full((20, 1), goal), "action": actions})
        task.append(-1 if number < untold else which)
    buffer = ReplayBuffer.from_episodes(episodes, {"tasks": TEXTS, "fps": 10}, {"task": np.array(task)})
    buffer.save(path)
    return path


def settings(path, run_dir, *more):
    told = ["observation.vectors=[state]", "observation.texts=[task]", "observation.goals=[where]"]
    dropout = ["policy.condition_dropout.task=0.2", "policy.condition_dropout.where=0.2"]
    where = ["task=own", f"dataset.path={path}", f"run_dir={run_dir}", "env.id=null", "dataset.validation=0"]
    return [*where, *told, *dropout, *HORIZONS, *NET, *HOW, "speed=float32", "device=cpu", *more]


@pytest.fixture(scope="module")
def told(tmp_path_factory):
    folder = tmp_path_factory.mktemp("told")
    path = recording(folder / "told.zarr")
    return path, train_policy(settings(path, folder / "run"))


def asked(count, texts, goals):
    return {
        "state": np.random.default_rng(5).uniform(-1, 1, (count, 2, 3)).astype(np.float32),
        "task": np.array([[text, text] for text in texts]),
        "where": np.repeat(np.array(goals, np.float32)[:, None, None], 2, 1),
    }


def mean_action(policy, texts, goals):
    chunk = policy.plan(PlanRequest(asked(len(texts), texts, goals)))
    return chunk.actions.mean(1), chunk.calls


def test_it_does_as_it_is_told(told):
    policy = load_policy(told[1], steps=10)
    goals = np.array([-0.8, 0.8, 0.0, 0.4])
    actions, calls = mean_action(policy, TEXTS * 16, np.tile(goals, 16))
    np.testing.assert_array_equal(np.sign(actions[:, 0]), np.tile(SIGNS, 16))
    of_each = actions.reshape(16, 4, 2).mean(0)
    np.testing.assert_allclose(of_each, np.stack([SIGNS, goals], 1), atol=0.2)
    assert set(calls) == {10}


def test_scales_of_guidance(told):
    texts, goals = ["go left"] * 32 + ["go right"] * 32, [0.3] * 64

    def acting(**scales):
        return mean_action(load_policy(told[1], steps=10, execution=ExecutionConfig(guidance=scales)), texts, goals)

    plain, _ = acting()
    one, calls = acting(task=1.0, where=1)
    np.testing.assert_array_equal(one, plain)
    assert set(calls) == {10}
    none, calls = acting(task=0.0)
    assert set(calls) == {20}
    left = (none[:, 0] < 0).mean()
    assert 0.2 < left < 0.8  # as if nothing had been said, both are done
    np.testing.assert_allclose(none[:, 1].mean(), 0.3, atol=0.15)  # while the goal is followed still
    _, calls = acting(task=2.0, where=0.5)
    assert set(calls) == {30}
    costs = [{"name": "smooth", "weight": 0.5}]
    both = ExecutionConfig(guidance={"task": 2.0}, costs=costs)
    _, calls = mean_action(load_policy(told[1], steps=10, execution=both), texts, goals)
    assert set(calls) == {20}  # costs take none
    away, _ = acting(where=-1.0)
    assert np.corrcoef(np.sign(plain[:, 0]), np.sign(away[:, 0]))[0, 1] > 0.9
    assert away[:, 1].mean() < plain[:, 1].mean() - 0.2  # the opposite of the goal


def test_an_empty_text_and_a_goal_of_nan_say_nothing(told):
    untold = load_policy(told[1], steps=10)
    guided = load_policy(told[1], steps=10, execution=ExecutionConfig(guidance={"task": 0.0}))
    texts, goals = ["go left"] * 16, [0.3] * 16
    silent, calls = mean_action(untold, [""] * 16, goals)
    np.testing.assert_allclose(silent, mean_action(guided, texts, goals)[0], atol=1e-4)
    assert set(calls) == {10} and 0 < (silent[:, 0] < 0).mean() < 1
    mixed, _ = mean_action(untold, ["", "go right"] * 8, [np.nan, 0.3] * 8)
    assert np.isfinite(mixed).all() and (mixed[1::2, 0] > 0).all()


def test_words_that_no_training_episode_had_are_refused(tmp_path):
    buffer = ReplayBuffer.open(recording(tmp_path / "some.zarr"))
    buffer.attrs["tasks"] = [*TEXTS, "jump somersault", ""]
    buffer.save(tmp_path / "more.zarr")
    last = train_policy(settings(tmp_path / "more.zarr", tmp_path / "run", "training.steps=1"))
    policy = load_policy(last, steps=1)
    with pytest.raises(ValueError, match="'jump' .*training never saw"):
        policy.plan(PlanRequest(asked(1, ["jump somersault"], [0.0])))


def test_a_run_does_not_begin_with_another_ones_words(told, tmp_path):
    buffer = ReplayBuffer.open(told[0])
    buffer.attrs["tasks"] = ["aim left", "aim right", "at the left", "at the right"]
    buffer.save(tmp_path / "other.zarr")
    few = ["training.steps=1", f"init_from={told[1]}"]
    with pytest.raises(ValueError, match="trained on other words of 'task': aim, at, go, to"):
        train_policy(settings(tmp_path / "other.zarr", tmp_path / "run", *few))
    train_policy(settings(told[0], tmp_path / "same", *few))
    with pytest.raises(ValueError, match=r"other settings .*text.heads"):
        train_policy(settings(told[0], tmp_path / "same", *few, "resume=true", "text.heads=2"))


def test_an_agent_hears_an_instruction_that_changes_within_an_episode(told):
    agent = Agent(load_policy(told[1], steps=5))
    agent.reset()
    moment = {"state": np.zeros(3, np.float32), "where": np.zeros(1, np.float32)}
    said = [np.array(text) for text in ["to the left"] * 4 + ["to the right"] * 4]
    actions = [agent.act([{**moment, "task": text}])[0] for text in said]
    np.testing.assert_allclose(np.mean(actions[:4], 0)[0], -1, atol=0.3)
    np.testing.assert_allclose(np.mean(actions[4:], 0)[0], 1, atol=0.3)


def test_attending_to_words_is_learned_too(told, tmp_path):
    for number, more in enumerate([["text.attend=true"], ["text.attend=true", "net=transformer", "net.joint=true"]]):
        small = [] if number == 0 else ["net.width=32", "net.layers=2", "net.features=32", "net.time_features=16"]
        kept = [one for one in settings(told[0], tmp_path / str(number)) if number == 0 or not one.startswith("net.")]
        policy = load_policy(train_policy([*kept, *more, *small]), steps=5)
        actions, _ = mean_action(policy, TEXTS * 8, [0.0] * 32)
        np.testing.assert_array_equal(np.sign(actions[:, 0]), np.tile(SIGNS, 8))


def test_a_run_goes_on_to_the_same_weights(told, tmp_path):
    few = ["training.steps=12", "training.checkpoint_every=6"]
    whole = train_policy(settings(told[0], tmp_path / "whole", *few))
    train_policy(settings(told[0], tmp_path / "parts", *few, "max_minutes=0.0001"))
    parts = train_policy(settings(told[0], tmp_path / "parts", *few, "resume=true"))
    ours, theirs = (load_policy(one).model.state_dict() for one in (whole, parts))
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)


def test_episodes_without_a_text_are_untold(tmp_path):
    windows = load_windows(compose(settings(recording(tmp_path / "some.zarr", untold=8), tmp_path / "run")))
    batch = windows.train.batch(torch.arange(len(windows.train)))
    assert set(batch["task"].flatten().tolist()) == {-1.0, 0.0, 1.0, 2.0, 3.0}
    assert windows.texts == {"task": TEXTS} and batch["where"].shape[1:] == (1,)
    assert isinstance(windows.normalizer, Normalizer)
    assert windows.normalized(batch)["where"].abs().max() <= 1 + 1e-5


def test_other_texts_are_other_data(tmp_path):
    digests = set()
    for number, (texts, untold) in enumerate([(TEXTS, 0), (TEXTS[::-1], 0), (TEXTS, 4)]):
        path = recording(tmp_path / f"{number}.zarr", untold)
        buffer = ReplayBuffer.open(path)
        buffer.attrs["tasks"] = texts
        buffer.save(tmp_path / f"changed{number}.zarr")
        digests.add(load_windows(compose(settings(tmp_path / f"changed{number}.zarr", tmp_path / "run"))).digest)
    assert len(digests) == 3


def test_what_it_cannot_be_told_is_refused_before_it_acts(told):
    policy = load_policy(told[1], steps=2)
    for text, says in ((" ", "expected words"), ("go up", "the word 'up'"), ("go " * 30, "of 30 words")):
        with pytest.raises(ValueError, match=says):
            policy.plan(PlanRequest(asked(1, [text], [0.0])))
    obs = asked(1, ["go left"], [0.0])
    with pytest.raises(ValueError, match=r"lacks 'task'"):
        policy.plan(PlanRequest({key: obs[key] for key in ("state", "where")}))
    with pytest.raises(TypeError, match=r"obs\['task'\] is int64; expected text"):
        policy.plan(PlanRequest({**obs, "task": np.zeros((1, 2), int)}))
    with pytest.raises(ValueError, match=r"obs\['where'\] holds NaN or infinity"):
        policy.plan(PlanRequest({**obs, "where": obs["where"] + np.inf}))
    with pytest.raises(ValueError, match=r"obs\['task'\] has shape \(1, 2\); expected \(3, 2\)"):
        policy.plan(PlanRequest({**asked(3, ["go left"] * 3, [0.0] * 3), "task": obs["task"]}))
    with pytest.raises(ValueError, match=r"obs\['where'\]"):
        policy.plan(PlanRequest({**obs, "where": np.zeros((1, 2, 3), np.float32)}))


@pytest.mark.parametrize(
    ("guidance", "says"),
    [
        ({"tsk": 2.0}, "unknown execution.guidance 'tsk'"),
        ({"task": float("nan")}, "a finite scale"),
        ({"task": True}, "a finite scale"),
        (3, "execution.guidance=3; expected a scale by text or goal"),
    ],
)
def test_scales_that_mean_nothing_are_refused(told, guidance, says):
    with pytest.raises(ValueError, match=says):
        load_policy(told[1], execution=ExecutionConfig(guidance=guidance))


def test_guidance_of_a_policy_that_was_always_told_is_refused(told, tmp_path):
    drops = ["policy.condition_dropout={}", "training.steps=1"]
    kept = [one for one in settings(told[0], tmp_path / "run") if not one.startswith("policy.condition_dropout")]
    last = train_policy([*kept, *drops])
    always = load_policy(last, execution=ExecutionConfig(guidance={"task": 1.0}))
    for nothing in (asked(1, [""], [0.0]), asked(1, ["go left"], [np.nan])):
        with pytest.raises(ValueError, match="nothing said as .* to a policy that was always told; say what to do"):
            always.plan(PlanRequest(nothing))
    with pytest.raises(ValueError, match="never acted without 'task'.*condition_dropout.task=0.1"):
        load_policy(last, execution=ExecutionConfig(guidance={"task": 2.0}))


@pytest.mark.parametrize(
    ("changed", "says"),
    [
        (["observation.texts=[order]"], "of a recording without orders"),
        (["policy.condition_dropout.tsk=0.1"], "one of what the policy is told: where, task"),
        (["policy.condition_dropout.task=1"], "a share of the windows"),
        (["method=nearest"], "learns nothing"),
        (["method=lstm_gmm", "policy.horizon=10", "policy.action_horizon=1"], "a method that can be told what to do"),
        (["dataset.transforms=[hindsight]"], "of a recording without 'achieved_goal'; record it by env.obs_keys"),
        (["text.heads=3"], "a width that the heads divide"),
        (["observation.vectors=[state,where]"], "where observed twice"),
    ],
)
def test_settings_that_do_not_fit_are_refused(told, tmp_path, changed, says):
    with pytest.raises((ValueError, KeyError), match=says):
        train_policy(settings(told[0], tmp_path / "run", *changed))


def test_a_robot_tells_it_over_the_wire(told):
    planner = LocalPlanner(load_policy(told[1], steps=2))
    meta = wire.metadata_of(wire.unpack(wire.pack(wire.hello(planner.metadata))))
    warm(planner)
    moment = {"state": np.zeros(3, np.float32), "where": np.zeros(1, np.float32), "task": np.array("go left")}
    none = np.zeros((0, 2), np.float32)
    sent = wire.pack(wire.asking(Ask([moment, moment], (3, 0), none, none), 0))
    assert len(sent) < wire.message_limit(meta)
    here, there = planner.plan(Ask([moment, moment], (3, 0), none, none)), wire.asked(wire.unpack(sent), meta)
    np.testing.assert_array_equal(planner.plan(there).trajectory, here.trajectory)
    for wrong in ("", "x" * 1001, 3, np.array(["a", "b"])):
        with pytest.raises(wire.WireError, match="the policy is told by a text|an array of"):
            wire.asked(
                wire.unpack(wire.pack(wire.asking(Ask([{**moment, "task": wrong}] * 2, (3, 0), none, none), 0))), meta
            )


def test_what_needs_numbers_alone_refuses_it(told, tmp_path):
    with pytest.raises(ValueError, match="the policy is told 'where', 'task'"):
        export_onnx(told[1], tmp_path / "policy.onnx")
    with pytest.raises(ValueError, match="that is told what to do, where, task"):
        check_numbers(load_policy(told[1]))


def test_goals_that_a_recording_lacks_are_refused(told, tmp_path):
    with pytest.raises(ValueError, match="unknown goal in observation.goals 'stat'.*did you mean 'state'"):
        train_policy(["task=detour", "observation.goals=[stat]", f"run_dir={tmp_path / 'run'}"])
    with pytest.raises(KeyError, match="unknown key 'wher'.*did you mean 'where'"):
        train_policy(settings(told[0], tmp_path / "run", "observation.goals=[wher]"))


def test_a_checkpoint_knows_its_words(told):
    config = load_config(checkpoint.read(told[1]).config)
    assert config.found.words == {"task": ["go", "left", "right", "the", "to"]}
    assert config.found.observation["task"] == {"kind": "text", "shape": None, "unit": None, "rate": None}
