"""The two commands, as a user types them: from any folder, with their errors."""

import json
import re
import shutil
from pathlib import Path

import gymnasium as gym
import numpy as np
import pytest
from typed import typed

from diffpolicy import load_policy
from diffpolicy.config import ExecutionConfig, plain
from diffpolicy.datasets import ReplayBuffer
from diffpolicy.nets import ConditionalTransformer

OWN = ["task=own", "env.id=diffpolicy/PushT-v0", "env.kwargs.obs_mode=keypoints"]
TINY = ["net.widths=[8,16]", "net.time_features=8"]
TINY += ["training.batch_size=16", "training.steps=6", "training.log_every=2"]


@pytest.fixture(scope="module")
def demonstrations(tmp_path_factory):
    """One's own demonstrations: the agent walks towards the block, as recorded by keypoint observations."""
    path = tmp_path_factory.mktemp("own") / "demos.zarr"
    rng = np.random.default_rng(0)
    episodes = []
    for _ in range(4):
        walk = np.linspace(rng.uniform(50, 450, 20), rng.uniform(50, 450, 20), 40).astype(np.float32)
        episodes.append({"obs": walk, "action": walk[:, -2:]})
    ReplayBuffer.from_episodes(episodes).save(path)
    return path


@pytest.fixture(scope="module")
def trained(tmp_path_factory, demonstrations):
    folder = tmp_path_factory.mktemp("elsewhere")
    out = typed(
        "train", *OWN, f"dataset.path={demonstrations}", "method=ddpm", "run_dir=RUN",
        "training.evaluate_every=3", "training.evaluate_from=0", "evaluation_episodes=2", "env.max_steps=32",
        *TINY, cwd=folder,
    )  # fmt: skip
    assert out.rstrip().endswith("RUN/checkpoints/best")
    return folder


def test_train_then_evaluate_then_compare(trained):
    assert (trained / "RUN" / "training.png").stat().st_size > 1000
    steps = [json.loads(line)["step"] for line in (trained / "RUN" / "metrics.jsonl").read_text().splitlines()]
    assert steps == sorted(steps) and steps[-1] == 6
    best = "checkpoint=RUN/checkpoints/best"
    out = typed(
        "evaluate", best, "episodes=3", "seeds=paper", "solver=ddim", "steps=2", "out=A", "videos=1", cwd=trained
    )
    assert "3 episodes, 2 network calls per chunk" in out
    result = json.loads((trained / "A" / "evaluation.json").read_text())
    assert {"mean", "low", "high"} == set(result["score"]) == set(result["success"]) == set(result["final_coverage"])
    assert [row["seed"] for row in result["episodes"]] == [100_000, 100_001, 100_002]
    assert result["settings"]["steps"] == 2 and result["versions"]["pymunk"] and result["processor"]
    assert {file.name for file in (trained / "A").iterdir()} == {
        "evaluation.json", "report.html", "actions.png", "scores.png", "fan.png", "training.png",
        "episode_100000.mp4",
    }  # fmt: skip
    page = (trained / "A" / "report.html").read_text()
    assert f"{result['score']['mean']:.3f}" in page and "data:video/mp4;base64," in page
    assert page.count("data:image/png;base64,") == 4 and "Failures: 3 of 3" in page
    assert not re.search(r'(src|href)="(?!data:)', page), "a page that needs other files"
    other = typed(
        "evaluate", best, "episodes=3", "seeds=paper", "solver=ddim", "steps=2", "out=B", "videos=0", "envs=1",
        "compare_to=A/evaluation.json", cwd=trained,
    )  # fmt: skip
    assert "paired difference: +0.000  [+0.000, +0.000]" in other
    again = json.loads((trained / "B" / "evaluation.json").read_text())
    assert again["episodes"] == result["episodes"]


def test_train_a_transformer_over_the_horizon_that_is_predicted(tmp_path, demonstrations):
    tiny = ["net.width=16", "net.layers=1", "net.features=16", "policy.horizon=20", "training.batch_size=16"]
    own = [*OWN, f"dataset.path={demonstrations}", "env.id=null", "training.steps=2"]
    typed("train", "net=transformer", *own, *tiny, "run_dir=RUN", cwd=tmp_path)
    policy = load_policy(tmp_path / "RUN/checkpoints/last")
    assert isinstance(policy.model.net, ConditionalTransformer) and policy.model.net.horizon == 20


def test_maps_take_options_without_ceremony(trained):
    out = typed(
        "evaluate", "checkpoint=RUN/checkpoints/last", "episodes=1", "solver=ddim", "solver_options.eta=0.5",
        "out=D", "videos=0", "envs=1", cwd=trained,
    )  # fmt: skip
    assert "1 episode, " in out
    result = json.loads((trained / "D" / "evaluation.json").read_text())
    assert result["settings"]["sampler"]["options"] == {"eta": 0.5}
    assert result["checkpoint"]["step"] == 6 and result["checkpoint"]["sha256"]["ema.safetensors"]


def test_how_chunks_are_executed(trained):
    best = "checkpoint=RUN/checkpoints/best"
    bound = ["action_horizon=4", "execution.noise=zero", "execution.ensemble=[0.7,0.3]", "execution.warm_start=0.5"]
    out = typed(
        "evaluate", best, "episodes=1", "solver=ddim", "steps=4", "grid=uniform", *bound, "out=F", "videos=0",
        cwd=trained,
    )  # fmt: skip
    assert "1 episode, 2 network calls per chunk" in out
    expected = {**plain(ExecutionConfig()), "noise": "zero", "ensemble": [0.7, 0.3], "warm_start": 0.5}
    assert json.loads((trained / "F" / "evaluation.json").read_text())["settings"]["execution"] == expected
    for setting, says in (
        ("execution.nois=zero", "'execution.noise'"),
        ("execution.ensemble=[0.7,0.7]", "sum to 1.4"),
        ("execution.inpaint=8", "T_p - T_o + 1 - T_a = 7"),
    ):
        assert says in typed("evaluate", best, "out=G", setting, cwd=trained, ok=False)
    assert not (trained / "G").exists()


def test_a_comparison_that_cannot_be_is_refused_first(trained):
    env = {"id": "diffpolicy/PushT-v0", "options": {}, "max_steps": 32}
    other = {"settings": {"seeds": 5}, "checkpoint": {"config": {"env": env}}, "episodes": [{"seed": 5}]}
    (trained / "other.json").write_text(json.dumps(other))
    options = ("checkpoint=RUN/checkpoints/last", "seeds=paper", "out=E", "compare_to=other.json")
    assert "no initial states in common" in typed("evaluate", *options, cwd=trained, ok=False)
    assert not (trained / "E").exists()


def test_nothing_finished_is_overwritten(trained, demonstrations):
    own = ["task=own", f"dataset.path={demonstrations}"]
    assert "resume=true" in typed("train", "run_dir=RUN", *own, *TINY, cwd=trained, ok=False)
    (trained / "C").mkdir(exist_ok=True)
    (trained / "C" / "evaluation.json").write_text("{}")
    error = typed("evaluate", "checkpoint=RUN/checkpoints/best", "out=C", cwd=trained, ok=False)
    assert "overwrite=true" in error and (trained / "C" / "evaluation.json").read_text() == "{}"


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["traning.steps=5"], ["'traning.steps'", "'training.steps'"]),
        (["training.steps=many"], ["training.steps"]),
        (["method=flwo"], ["flow", "ddpm"]),
        (["method.path.name=linaer"], ["'linaer'", "'linear'"]),
        (["method.solver=eulr"], ["eulr", "euler"]),
        (["net.widths=[10]"], ["widths=[10]", "groups=8"]),
        (["dataset.name=pushtt"], ["'pushtt'", "zarr"]),
        (["task=own", "dataset.name=zarr"], ["dataset.path"]),
        (["task=own", "dataset.name=zarr", "dataset.path=nowhere.zarr"], ["nowhere.zarr"]),
        (["policy.action_horizon=16"], ["16"]),
        (["method.solver_options.et=1"], ["'et'"]),
        (["dataset.normalize.obs=gausian"], ["gaussian"]),
        (["method=ddpm", "dataset.normalize.action=gaussian"], ["±1", "another method.clip"]),
        (["env.kwargs.obs_mode=corners"], ["20", "(18,)", "env.id=null"]),
        (["evaluation_episodes=51"], ["50"]),
        (["observation.vectors=[observation]"], ["observation", "obs"]),
        (["+max_minuts=1"], ["'max_minuts'", "'max_minutes'"]),
        (["++training.stepps=1"], ["training.stepps", "training.steps"]),
        (["found.digest=x"], ["unknown setting"]),
    ],
)
def test_bad_arguments_are_refused_before_any_work(tmp_path, demonstrations, arguments, says):
    given = [argument.split("=")[0] for argument in arguments]
    own = [] if "dataset.name" in given else [*OWN, f"dataset.path={demonstrations}"]
    error = typed("train", "run_dir=RUN", *own, *arguments, cwd=tmp_path, ok=False)
    assert all(word in error for word in says), error
    assert "Traceback" not in error and not (tmp_path / "RUN").exists()


def test_a_policy_is_exported_and_runs_as_the_guide_says(trained, monkeypatch):
    command = ("export", "checkpoint=RUN/checkpoints/best", "out=policy.onnx", "solver=ddim", "steps=2")
    assert "largest difference between onnxruntime and torch: " in typed(*command, cwd=trained)
    error = typed(*command, cwd=trained, ok=False)
    assert "overwrite=true" in error and "Traceback" not in error
    readme = (Path(__file__).parent.parent.parent / "docs/guides/export.md").read_text()
    (code,) = [block for block in re.findall(r"```python\n(.*?)```", readme, re.DOTALL) if "onnxruntime" in block]
    monkeypatch.chdir(trained)
    scope = {}
    exec(code, scope)
    assert scope["actions"].shape == (1, 8, 2) and np.isfinite(scope["actions"]).all()


def test_help_lists_the_choices(tmp_path):
    text = typed("train", "--help", cwd=tmp_path)
    assert text.startswith("diffpolicy train") and "Hydra" not in text
    assert "flow" in text and "ddpm" in text and "pusht_pixels" in text
    assert "checkpoint" in typed("evaluate", "--help", cwd=tmp_path)


def test_modes_of_a_policy_beside_its_demonstrations(tmp_path):
    tiny = [*TINY, "evaluation_episodes=1", "training.steps=1"]
    typed("train", "task=detour", "run_dir=RUN", *tiny, cwd=tmp_path)
    command = ("evaluate", "checkpoint=RUN/checkpoints/last", "episodes=3", "modes=true", "videos=0", "out=M")
    assert "total variation" in typed(*command, cwd=tmp_path)
    result = json.loads((tmp_path / "M" / "evaluation.json").read_text())["modes"]
    for where in ("all_starts", "fixed_start"):
        found = result[where]
        for who, episodes in (("demonstrations", 800 if where == "all_starts" else 3), ("rollouts", 3)):
            assert found[who]["episodes"] == episodes and sum(found[who]["fractions"].values()) == pytest.approx(1)
    assert result["all_starts"]["demonstrations"]["entropy"] > 0.99  # left and right, evenly
    assert result["fixed_start"]["state"][2:] != [0.0, 0.0] and (tmp_path / "M" / "modes.png").stat().st_size > 1000


def test_a_task_without_modes_is_refused(trained):
    command = ("evaluate", "checkpoint=RUN/checkpoints/last", "episodes=1", "modes=true", "out=M")
    assert "declares no modes" in typed(*command, cwd=trained, ok=False)
    assert not (trained / "M").exists()


def test_train_on_pictures_stop_resume_and_evaluate(tmp_path):
    """Pictures as the environment gives them, streamed from disk; a run that was stopped ends as one that was not."""
    env, episodes = gym.make("diffpolicy/PushT-v0", obs_mode="pixels"), []
    for seed in range(3):
        obs, _ = env.reset(seed=seed)
        rows = []
        for _ in range(20):
            rows.append({**obs, "action": env.action_space.sample()})
            obs, *_ = env.step(rows[-1]["action"])
        episodes.append({name: np.stack([row[name] for row in rows]) for name in rows[0]})
    ReplayBuffer.from_episodes(episodes).save(tmp_path / "demos.zarr")
    data = ["task=own", "dataset.path=demos.zarr", "observation.images=[image]", "observation.vectors=[agent]"]
    data += ["dataset.stream.pool=1", "dataset.stream.run=8", "dataset.validation=0.3"]
    data += ["encoder=resnet18", "encoder.width=16"]
    data += ["env.id=diffpolicy/PushT-v0", "env.kwargs.obs_mode=pixels", "env.max_steps=20", "evaluation_episodes=1"]
    data += [*TINY, "training.steps=4", "training.checkpoint_every=2", "training.validate_every=2", "speed=float32"]
    typed("train", *data, "run_dir=A", cwd=tmp_path)
    typed("train", *data, "run_dir=B", cwd=tmp_path)
    last = tmp_path / "B/checkpoints/last"
    shutil.rmtree(last.resolve())
    last.unlink()
    (tmp_path / "B/checkpoints/best").unlink()
    typed("train", *data, "run_dir=B", "resume=true", cwd=tmp_path)
    weights = [(tmp_path / run / "checkpoints/last/ema.safetensors").read_bytes() for run in "AB"]
    assert weights[0] == weights[1]
    shards = ["episodes=2", "workers=2", "out=OUT", "steps=1"]
    out = typed("evaluate", "checkpoint=A/checkpoints/last", *shards, cwd=tmp_path)
    assert "2 episodes, 1 network calls per chunk" in out and (tmp_path / "OUT/fan.png").exists()
    error = typed("train", *data[:-1], "env.kwargs.obs_mode=state", "run_dir=C", cwd=tmp_path, ok=False)
    assert "image 'image' (96, 96, 3)" in error and "env.kwargs" in error
