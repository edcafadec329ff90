"""What is installed from a wheel works as the checkout does, and takes no names but `diffpolicy`."""

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent.parent


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


def _python(installed, *arguments):
    environment = {**os.environ, "PYTHONPATH": str(installed), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, *arguments]
    return subprocess.run(command, cwd=installed.parent, env=environment, capture_output=True, text=True)


def test_one_top_level_name(installed):
    assert sorted(path.name for path in installed.iterdir() if not path.name.endswith(".dist-info")) == ["diffpolicy"]


def test_commands_and_environment_work(installed):
    for script in ("train", "evaluate", "measure_ways", "gallery"):
        done = _python(installed, "-m", f"diffpolicy.scripts.{script}", "--help")
        assert done.returncode == 0 and f"diffpolicy-{script.replace('_', '-')}" in done.stdout, done.stderr
    where = _python(
        installed, "-c",
        "import diffpolicy, gymnasium; print(diffpolicy.__file__);"
        "print(gymnasium.make('diffpolicy/PushT-v0').reset(seed=0)[0].shape)",
    )  # fmt: skip
    data = _python(
        installed, "-c",
        "from diffpolicy.datasets.sources.shipped import *;"
        "print(*(open_shipped(name).n_episodes for name in SHIPPED), shipped_path('detour'))",
    )  # fmt: skip
    assert data.stdout.split() == ["400", "800", "800", str(installed / "diffpolicy" / "data" / "detour.zarr")]
    assert where.stdout.split() == [str(installed / "diffpolicy" / "__init__.py"), "(5,)"], where.stderr
