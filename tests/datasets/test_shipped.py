"""The demonstrations that ship: whole, small, and read by name."""

import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest

import diffpolicy.data
from diffpolicy.config import DatasetConfig, ObservationConfig, RunConfig
from diffpolicy.datasets.load_episodes import load_demonstrations
from diffpolicy.datasets.manifest import digest, verify
from diffpolicy.datasets.sources import shipped
from diffpolicy.datasets.sources.pusht import GOAL
from diffpolicy.datasets.sources.shipped import SHIPPED, open_shipped, shipped_path

FOLDER = Path(*diffpolicy.data.__path__)


@pytest.mark.parametrize("name", SHIPPED)
def test_as_its_card_says(name):
    path = shipped_path(name)
    assert verify(path) == []
    (row,) = re.findall(rf"^\| `{name}.zarr` .*", (FOLDER / "README.md").read_text(), re.MULTILINE)
    buffer = open_shipped(name)
    assert f"| {buffer.n_episodes} | {buffer.n_steps:,} |" in row and digest(path) in row
    assert buffer["action"].dtype == buffer["state"].dtype == np.float32
    assert buffer.attrs["noise"] == (0 if name == "pusht" else 5)


def test_together_at_most_six_megabytes():
    assert sum(file.stat().st_size for file in FOLDER.rglob("*") if file.is_file()) <= 6e6


def test_expert_pusht_is_read_as_the_human_one_is():
    def read(mode, *transforms):
        data = DatasetConfig(name="expert_pusht", transforms=list(transforms))
        return load_demonstrations(RunConfig(dataset=data, observation=ObservationConfig(mode)))

    corners, state, aligned = read("corners"), read("state"), read("state", "align")
    assert corners["obs"].shape[1] == 18 and state["obs"].shape[1] == 5
    np.testing.assert_array_equal(corners["obs"][:, 16:], state["obs"][:, :2])
    goals = np.tile(GOAL, (aligned.n_episodes, 1))
    np.testing.assert_allclose(aligned["obs"][aligned.episode_ends - 1, 2:], goals, atol=1e-4)
    with pytest.raises(ValueError, match="unknown observation.mode 'keypoints'; choose from corners, state"):
        read("keypoints")


def test_a_damaged_one_is_refused_and_an_unknown_one_named(tmp_path, monkeypatch):
    with pytest.raises(ValueError, match="'detuor'"):
        shipped_path("detuor")
    shutil.copytree(shipped_path("detour"), tmp_path / "detour.zarr")
    file = tmp_path / "detour.zarr" / "data" / "action" / "zarr.json"
    content = json.loads(file.read_text())
    content["shape"][0] -= 1
    file.write_text(json.dumps(content))
    monkeypatch.setattr(shipped, "shipped_path", lambda name: tmp_path / f"{name}.zarr")
    with pytest.raises(ValueError, match="data/action/zarr.json is not what was written"):
        open_shipped("detour")
