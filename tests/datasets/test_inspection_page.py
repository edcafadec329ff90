"""What `diffpolicy inspect` prints and writes, for files of several formats."""

import os
import re
from pathlib import Path

import numpy as np
import pytest
from inspected import sound
from typed import typed

from diffpolicy.datasets import EpisodeWriter, ReplayBuffer
from diffpolicy.datasets.inspection import draw_sheet, inspect_dataset, list_sources, write_page
from diffpolicy.datasets.manifest import digest


def written(path, episodes, **attrs):
    writer = EpisodeWriter(path, {"fps": 10, **attrs})
    for episode in episodes:
        writer.add(episode)
    return path


def npz(folder, episodes):
    folder.mkdir()
    for number, episode in enumerate(episodes):
        np.savez(folder / f"demo_{number}.npz", **episode)
    return folder


@pytest.fixture
def spiked():
    episodes = sound()
    episodes[3]["action"][17, 1] = 1e4
    return episodes


def test_text_of_a_recording(tmp_path):
    path = written(tmp_path / "d", sound(2), units={"state": "m"}, robot="arm")
    lines = str(inspect_dataset(path)).splitlines()
    buffer = ReplayBuffer.open(path)
    low, high = sorted(buffer.episode_lengths)
    assert lines[0] == f"{path}: 2 episodes, {buffer.n_steps} frames; a replay buffer in zarr"
    middle = (low + high) // 2
    assert lines[1] == f"lengths: {low} to {high}, half of them up to {middle} frames ({middle / 10:g} s at 10 Hz)"
    state = buffer["state"]
    assert f"state (3,) float64: {state.min():g} to {state.max():g} m" in lines
    assert "front (8, 8, 3) uint8: 0 to 255, camera" in lines and "robot: arm" in lines
    assert "action is state 1 step later (exactly)" in lines
    assert f"SHA-256 of the recording: {digest(path)}" in lines and lines[-1] == "nothing is wrong"


def test_npz_and_zarr_have_the_same_findings(tmp_path, spiked):
    found = inspect_dataset(npz(tmp_path / "npz", spiked))
    assert found.seen == "a folder of 12 npz files" and found.digest is None and not found.sound
    assert found.findings[:1] == inspect_dataset(written(tmp_path / "d", spiked)).findings
    assert [(one.kind, one.place) for one in found.findings] == [("spike", (3, 17)), ("no_rate", None)]


def test_sources_by_name():
    found = inspect_dataset("detour")
    assert found.sound and found.findings == () and "800 episodes" in str(found) and "at 10 Hz" in str(found)
    assert "state (4,) float32: 104.04 to 490.82 px" in str(found)
    assert "observation.mode=keypoints" in list_sources() and "dataset.transforms: align, mirror" in list_sources()


def test_a_page_is_one_file_without_links(tmp_path, spiked):
    found = inspect_dataset(npz(tmp_path / "npz", spiked))
    write_page(tmp_path / "page.html", found)
    page = (tmp_path / "page.html").read_text("utf-8")
    assert found.findings[0].says in page and found.findings[0].cure in page
    assert not re.search(r"https?://|<script|<link|@import", page)
    sources = re.findall(r'src="([^"]{0,22})', page)
    assert set(sources) == {"data:image/png;base64,"}
    assert len(sources) == 4 * 3 + 1 + 3  # thumbnails, a sheet, numbers over time
    assert page.count("<svg") == 1 + 3 + 3 + 2  # lengths, and numbers of action, state and goal
    with pytest.raises(FileExistsError, match="choose another name"):
        write_page(tmp_path / "page.html", found)


def test_names_in_a_recording_are_no_html(tmp_path):
    episodes = [{**episode, "<b>x": episode["goal"]} for episode in sound(3, camera=False)]
    write_page(tmp_path / "page.html", inspect_dataset(npz(tmp_path / "npz", episodes)))
    page = (tmp_path / "page.html").read_text("utf-8")
    assert "<b>x" not in page and "&lt;b&gt;x" in page


def test_sheets(tmp_path):
    episodes = [{**episode, "reward": np.zeros(len(episode["state"]))} for episode in sound(3)]
    found = inspect_dataset(written(tmp_path / "d", episodes))
    draw_sheet(tmp_path / "sheet.png", found, "state")
    assert (tmp_path / "sheet.png").read_bytes()[:4] == b"\x89PNG"
    with pytest.raises(FileExistsError, match="choose another name"):
        draw_sheet(tmp_path / "sheet.png", found, "state")
    for key, error, says in (
        ("reward", ValueError, "reward has one number per frame"),
        ("front", ValueError, "front has pictures"),
        ("stat", KeyError, r"'stat' \(did you mean 'state'"),
    ):
        with pytest.raises(error, match=says):
            draw_sheet(tmp_path / "other.png", found, key)


def test_exit_status(tmp_path, spiked):
    npz(tmp_path / "bad", spiked)
    npz(tmp_path / "good", sound())
    assert "nothing is wrong, 1 thing to know:\n  note: it" in typed("inspect", "good", "--strict", cwd=tmp_path)
    assert "a spike in action[1] at frame 17 of episode 3" in typed("inspect", "bad", cwd=tmp_path)
    assert "hurts: a spike in action[1]" in typed("inspect", "bad", "strict=true", cwd=tmp_path, code=1)
    assert "page: p.html" in typed("inspect", "bad", "--strict", "page=p.html", cwd=tmp_path, code=1)
    assert "p.html exists" in typed("inspect", "bad", "page=p.html", cwd=tmp_path, code=2)
    assert "no recording at nowhere" in typed("inspect", "nowhere", cwd=tmp_path, code=2)


def test_files_are_verified(tmp_path):
    path = written(tmp_path / "r", [{"action": np.zeros((4, 2))}])
    assert typed("inspect", path, "--verify", cwd=tmp_path) == f"{path}: every file is as it was written\n"
    (path / "data/action/c/0/0").write_bytes(b"")
    assert "data/action/c/0/0 is not what was written" in typed("inspect", path, "verify=true", cwd=tmp_path, code=1)


KINDS = {
    "lerobot_v30/state": {"tasks", "idle"},
    "lerobot_v30/multi_h264": {"tasks", "idle"},
    "lerobot_v21/video": {"tasks", "idle"},
    "minari/tinygoal/pixels-v0": {"no_rate"},
    "minari/fetchreach/arrow-v0": {"no_rate", "constant"},
    "robomimic/robomimic_low_dim.hdf5": {"no_rate", "constant", "quaternion"},
    "umi/dataset.zarr.zip": {"no_rate", "no_action", "rotation_vector"},
}


@pytest.mark.parametrize("name", KINDS)
def test_recordings_of_other_formats(name, tmp_path):
    """Written by the formats' own tools, and sound: what is said of them is true of them."""
    root = os.environ.get("DIFFPOLICY_DATA")
    if root is None or not (path := Path(root) / "formats" / name).exists():
        pytest.skip("DIFFPOLICY_DATA names no folder with recordings of other formats")
    found = inspect_dataset(path)
    assert {one.kind for one in found.findings} == KINDS[name], str(found)
    if found.measured.pictures:
        write_page(tmp_path / "page.html", found)


def test_recordings_of_one_frame_or_one_number(tmp_path):
    ReplayBuffer({"action": np.zeros((1, 1)), "flag": np.ones(1, bool)}, np.array([1])).save(tmp_path / "one.zarr")
    found = inspect_dataset(tmp_path / "one.zarr")
    write_page(tmp_path / "page.html", found)
    assert {one.kind for one in found.findings} == {"no_action", "short", "no_rate"}
