"""From an environment that asks in words to a recording, a policy and an evaluation."""

import shlex

import pytest
from typed import typed

from diffpolicy import evaluate_policy, make_env, train_policy
from diffpolicy.config.commands import RecordConfig
from diffpolicy.config.sections import EnvConfig
from diffpolicy.datasets import ReplayBuffer
from diffpolicy.evaluation.record import record

DETOUR = EnvConfig(id="diffpolicy/Detour-v0", kwargs={"told": True})
COUNT = 24  # enough to hear every word
SMALL = ["net.widths=[8,16]", "net.groups=4", "net.time_features=8", "training.steps=2", "evaluation_workers=0"]


@pytest.fixture(scope="module")
def recorded(tmp_path_factory):
    folder = tmp_path_factory.mktemp("told")
    says = record(RecordConfig(env=DETOUR, episodes=COUNT, out=str(folder / "detour.zarr")))
    return folder, says


def test_a_recording_keeps_what_was_asked_of_each_episode(recorded, tmp_path):
    folder, says = recorded
    buffer = ReplayBuffer.open(folder / "detour.zarr")
    phrases = make_env(DETOUR)().unwrapped.phrases
    asked = [buffer.attrs["tasks"][number] for number in buffer.meta["task"]]
    assert buffer.keys() == ["action", "state"] and "observation.texts=[task]" in says
    env = make_env(DETOUR)()
    for number, (text, part) in enumerate(zip(asked, buffer.episode_slices(), strict=True)):
        seed = int(buffer.meta["seeds"][number])
        assert str(env.reset(seed=seed)[0]["task"]) == text
        assert env.unwrapped.mode_of(buffer["state"][part]) in (phrases.mode_of(text), "")
    # Stopped after three episodes and continued, it is the same to the bit.
    for episodes in (3, COUNT):
        parts = record(RecordConfig(env=DETOUR, episodes=episodes, out=str(tmp_path / "parts.zarr")))
    assert parts.split("SHA-256 ")[1][:64] == says.split("SHA-256 ")[1][:64]


def test_two_instructions_at_once_are_refused(tmp_path):
    config = RecordConfig(env=DETOUR, episodes=1, out=str(tmp_path / "two.zarr"), instruction="push")
    with pytest.raises(ValueError, match="instruction='push' where the environment says 'task' itself"):
        record(config)


def test_the_line_that_is_printed_trains_a_policy_that_can_be_asked(recorded, monkeypatch):
    folder, says = recorded
    monkeypatch.chdir(folder)
    words = shlex.split(says.splitlines()[-1])[2:]
    words = [word.replace("run_dir=RUN", "run_dir=run") for word in words]
    last = train_policy([*words, *SMALL, "training.evaluate_every=100"])
    how = {"episodes": 2, "workers": 0, "videos": 0, "env": {"max_steps": 20}}
    told = evaluate_policy(last, **how)
    assert "obeyed" in told["metrics"] and told["network_calls"] == 10
    twice = evaluate_policy(last, **how, execution={"guidance": {"task": 2.0}})
    assert twice["network_calls"] == 20
    assert [one["obeyed"] for one in told["episodes"]] == [0.0, 0.0]
    with pytest.raises(ValueError, match=r"shows \(4,\); expected vector 'state' \(4,\), text 'task', as the policy"):
        evaluate_policy(last, episodes=1, workers=0, env={"kwargs": {"told": False}})
    again = record(RecordConfig(env=DETOUR, episodes=COUNT, out=str(folder / "detour.zarr")))
    assert "observation.texts=[task]" in again  # also where nothing is left to be recorded


def test_a_scale_is_typed_below_its_key(recorded):
    folder, _ = recorded
    how = ["checkpoint=run/checkpoints/last", "episodes=1", "workers=0", "videos=0", "env.max_steps=5", "out=typed"]
    said = typed("evaluate", *how, "execution.guidance.task=3", cwd=folder)
    assert "20 network calls per chunk" in said


def test_a_recording_without_texts_tells_nothing(tmp_path):
    line = ["task=detour", "observation.texts=[task]", *SMALL]
    with pytest.raises(ValueError, match=r"of a recording without tasks; .*attrs\['tasks'\].*meta\['task'\]"):
        train_policy([*line, f"run_dir={tmp_path / 'untold'}"])
