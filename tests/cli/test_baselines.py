"""The baselines through the commands: trained, resumed and rolled out."""

import json

import pytest
from typed import typed

from diffpolicy import checkpoint, load_policy
from diffpolicy.evaluation import episode_resets, make_env, rollout
from diffpolicy.policies.agent import Agent

SMALL = ["task=detour", "dataset.episodes=20", "evaluation_episodes=2", "training.steps=4", "training.batch_size=8"]
OPTIONS = {"lstm_gmm": ["method.hidden=8", "method.modes=2", "speed=float32"], "nearest": ["method.k=2"]}


@pytest.mark.parametrize("name", OPTIONS)
def test_trained_resumed_and_rolled_out_by_the_commands(tmp_path, name):
    command = ("train", *SMALL, f"method={name}", *OPTIONS[name], "training.validate_every=4", "run_dir=RUN")
    assert typed(*command, cwd=tmp_path).endswith("RUN/checkpoints/best\n")
    last, metrics = tmp_path / "RUN/checkpoints/last", tmp_path / "RUN/metrics.jsonl"
    step = 0 if name == "nearest" else 4
    rows = [json.loads(line) for line in metrics.read_text().splitlines()]
    assert last.resolve().name == f"step_{step:08d}" and rows[-1]["step"] == step
    assert {key for row in rows for key in row} >= {"validation_loss", "evaluation/score"}
    assert (tmp_path / "RUN/training.png").stat().st_size > 1000
    before = (metrics.read_text(), (last / "ema.safetensors").read_bytes())
    typed(*command, "resume=true", cwd=tmp_path)
    assert (metrics.read_text(), (last / "ema.safetensors").read_bytes()) == before
    assert not checkpoint.read(last).config["net"]

    calls = 0 if name == "nearest" else 1
    evaluate = (
        "evaluate",
        "checkpoint=RUN/checkpoints/best",
        "episodes=3",
        "videos=0",
        "envs=2",
        "workers=0",
        "out=A",
    )
    assert f"3 episodes, {calls} network calls per chunk" in typed(*evaluate, cwd=tmp_path)
    result = json.loads((tmp_path / "A/evaluation.json").read_text())
    agent = Agent(load_policy(last, block=32))
    again = rollout(agent, make_env("diffpolicy/Detour-v0"), episode_resets(200_000, 3), envs=3)
    assert [episode.row() for episode in again] == result["episodes"]


def test_the_config_sets_the_horizons_and_the_user_has_the_last_word(tmp_path):
    out = typed("train", "method=lstm_gmm", "task=detour", "policy.horizon=12", "--cfg", "job", cwd=tmp_path)
    assert "policy:\n  obs_horizon: 10\n  horizon: 12\n  action_horizon: 1\n" in out
    error = typed(
        "train", "method=lstm_gmm", "policy.horizon=12", "policy.action_horizon=3", "run_dir=RUN", *SMALL,
        cwd=tmp_path, ok=False,
    )  # fmt: skip
    assert "obs_horizon=10 and policy.horizon=12" in error and not (tmp_path / "RUN").exists()
