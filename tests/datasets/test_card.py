"""The card of a data set, and the sheet of its trajectories."""

import numpy as np
import pytest

from diffpolicy.datasets import EpisodeWriter, ReplayBuffer
from diffpolicy.datasets.card import card, inspect_dataset
from diffpolicy.datasets.manifest import digest

DATA = {"state": np.linspace(-1, 2, 60).reshape(30, 2), "reward": np.zeros(30)}


def save(path, **attrs):
    ReplayBuffer(DATA, np.array([10, 30]), attrs).save(path)
    return path


def test_lengths_in_seconds_where_the_recording_says_its_rate(tmp_path):
    path = save(tmp_path / "d.zarr", fps=20, robot="arm")
    lines = card(path, ReplayBuffer.open(path)).splitlines()
    assert lines[0] == f"{path}: 2 episodes, 30 frames"
    assert lines[1] == "lengths: 10 to 20, half of them up to 15 frames (0.75 s at 20 Hz)"
    assert "state (2,) float64: -1 to 2" in lines and "reward () float64: 0 to 0" in lines and "robot: arm" in lines
    path = save(tmp_path / "e.zarr")
    assert card(path, ReplayBuffer.open(path)).splitlines()[1].endswith("up to 15 frames")


def test_a_recording_has_a_digest_and_is_verified(tmp_path):
    writer = EpisodeWriter(tmp_path / "r", {"fps": 5})
    writer.add({"action": np.zeros((4, 2))}, seeds=0)
    text, sound = inspect_dataset(str(tmp_path / "r"))
    assert sound and f"SHA-256 of the recording: {digest(tmp_path / 'r')}" in text
    text, sound = inspect_dataset(str(tmp_path / "r"), check=True)
    assert sound and text == f"{tmp_path / 'r'}: every file is as it was written"
    (tmp_path / "r/data/action/c/0/0").write_bytes(b"")
    text, sound = inspect_dataset(str(tmp_path / "r"), check=True)
    assert not sound and text == "data/action/c/0/0 is not what was written"


def test_sheets(tmp_path):
    path, sheet = str(save(tmp_path / "d.zarr")), tmp_path / "sheet.png"
    inspect_dataset(path, sheet=str(sheet), key="state")
    assert sheet.stat().st_size > 10_000
    with pytest.raises(FileExistsError, match="choose another name"):
        inspect_dataset(path, sheet=str(sheet), key="state")
    with pytest.raises(ValueError, match="reward has one number per frame"):
        inspect_dataset(path, sheet=str(tmp_path / "other.png"), key="reward")
    with pytest.raises(KeyError, match=r"'stat' \(did you mean 'state'"):
        inspect_dataset(path, sheet=str(tmp_path / "other.png"), key="stat")


def test_sources_by_name():
    text, sound = inspect_dataset("detour")
    assert sound and "800 episodes" in text and "at 10 Hz" in text and "state (4,) float32" in text
    text, _ = inspect_dataset(None)
    assert "observation.mode=keypoints" in text and "dataset.transforms: align, mirror" in text
