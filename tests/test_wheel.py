"""What is installed from a wheel works as the checkout does, and takes no names but `diffpolicy`."""

import os
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent

USE = """
import gymnasium
import diffpolicy
from diffpolicy import Agent, evaluate_policy, load_policy, make_env, rollout, train_policy
from diffpolicy.cli import main
from diffpolicy.config.compose import compose
from diffpolicy.datasets.sources.shipped import SHIPPED, open_shipped
from diffpolicy.evaluation.episode import episode_resets

tiny = ["task=detour", "env.max_steps=20", "evaluation_episodes=1", "net.widths=[8,16]", "net.time_features=8"]
tiny += ["training.batch_size=16", "training.steps=2", "speed=float32"]
main(["record", "env.id=diffpolicy/Detour-v0", "episodes=2", "out=DEMOS"])
main(["inspect", "DEMOS", "verify=true"])
main(["train", *tiny, "run_dir=RUN"])
main(["evaluate", "checkpoint=RUN", "episodes=2", "videos=1", "out=OUT"])
main(["export", "checkpoint=RUN", "out=policy.onnx"])
train_policy(compose([*tiny, "run_dir=AGAIN"]))
result = evaluate_policy("AGAIN", episodes=2, videos=0)
env = make_env("diffpolicy/Detour-v0", max_steps=20)
rolled = list(rollout(Agent(load_policy("AGAIN")), env, episode_resets(0, 2)))
shown = gymnasium.make("diffpolicy/PushT-v0").reset(seed=0)[0].shape
print(len(result["episodes"]), len(rolled), shown, *(open_shipped(name).n_episodes for name in SHIPPED))
print(diffpolicy.__file__)
"""


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    folder = tmp_path_factory.mktemp("wheel")
    source = folder / "source"  # a copy, so that building leaves nothing in the checkout
    files = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True).stdout.split()
    if not files:
        pytest.skip("not a git checkout")
    for name in files:
        if (ROOT / name).exists():
            (source / name).parent.mkdir(parents=True, exist_ok=True)
            (source / name).write_bytes((ROOT / name).read_bytes())
    build = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation"]
    subprocess.run([*build, "--wheel-dir", folder, source], check=True, capture_output=True)
    (wheel,) = folder.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(folder / "site")
    return folder / "site"


def test_one_top_level_name(installed):
    assert sorted(path.name for path in installed.iterdir() if path.suffix != ".dist-info") == ["diffpolicy"]


def test_every_package_is_in_it():
    folders = [
        file.parent for top in ("diffpolicy", "envs", "configs", "data") for file in (ROOT / top).rglob("__init__.py")
    ]
    names = {".".join(folder.relative_to(ROOT).parts) for folder in folders}
    expected = {name if name.startswith("diffpolicy") else f"diffpolicy.{name}" for name in names}
    listed = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["packages"]
    assert set(listed) == expected


def test_recorded_trained_evaluated_exported_by_command_and_from_python(installed, tmp_path):
    environment = {**os.environ, "PYTHONPATH": str(installed), "OMP_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, "-c", USE], cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert (
        "every file is as it was written" in done.stdout and "largest difference between onnxruntime" in done.stdout
    )
    numbers, where = done.stdout.splitlines()[-2:]
    assert numbers == "2 2 (5,) 849 800 800" and where == str(installed / "diffpolicy" / "__init__.py")
    assert (tmp_path / "OUT/report.html").exists() and (tmp_path / "policy.onnx").exists()
