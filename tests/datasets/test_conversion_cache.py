"""Training on a recording of another format: converted once, known by its content, safe in company."""

import os
import shutil
import sys
import zipfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numcodecs.registry
import numpy as np
import pytest
import recordings
import zarr

from diffpolicy.config import DatasetConfig, ObservationConfig, PolicyConfig, RunConfig
from diffpolicy.datasets import ReplayBuffer, conversion_cache, load_windows, source_digest
from diffpolicy.datasets.conversion_cache import FOLDER, replay_buffer_at
from diffpolicy.datasets.manifest import verify

RNG = np.random.default_rng(0)
EPISODES = [{"qpos": RNG.normal(size=(n, 3)), "action": RNG.normal(size=(n, 2))} for n in (12, 20, 15)]


@pytest.fixture
def source(tmp_path):
    folder = tmp_path / "theirs"
    folder.mkdir()
    for number, episode in enumerate(EPISODES):
        np.savez(folder / f"episode_{number}.npz", **episode)
    return folder


def config(path, root, **observed):
    observation = ObservationConfig(**{"vectors": ["qpos"], **observed})
    return RunConfig(
        observation=observation,
        dataset=DatasetConfig(path=str(path), validation=0.0),
        policy=PolicyConfig(2, 8, 4),
        data_root=str(root),
    )


def test_another_format_is_converted_once(source, tmp_path, capsys, monkeypatch):
    windows = load_windows(config(source, tmp_path / "root"))
    expected = np.concatenate([episode["qpos"] for episode in EPISODES])
    np.testing.assert_allclose(windows.train.all_obs().numpy(), expected, rtol=1e-6)
    said = capsys.readouterr()
    (made,) = (tmp_path / "root" / FOLDER).glob("*.zarr")
    assert f"theirs: converted into {made}" in said.out and "3/3" in said.err
    assert not verify(made)

    def refuse(*_, **__):
        raise AssertionError("converted again")

    monkeypatch.setattr(conversion_cache, "convert", refuse)
    assert load_windows(config(source, tmp_path / "root")).digest == windows.digest
    moved = source.rename(tmp_path / "theirs too")
    with pytest.raises(AssertionError, match="converted again"):
        np.savez(moved / "episode_1.npz", **EPISODES[0])
        load_windows(config(moved, tmp_path / "root"))


def test_a_newer_conversion_is_another_one(source, tmp_path, monkeypatch):
    first = replay_buffer_at(source, tmp_path, progress=False)
    monkeypatch.setattr(conversion_cache, "CONVERSION", conversion_cache.CONVERSION + 1)
    assert replay_buffer_at(source, tmp_path, progress=False) != first


def test_a_conversion_that_was_cut_off_is_continued(source, tmp_path, monkeypatch):
    from diffpolicy.datasets.writer import EpisodeWriter

    add, done = EpisodeWriter.add, []

    def cut(self, *arguments, **meta):
        if len(done) == 2:
            raise KeyboardInterrupt
        done.append(meta)
        add(self, *arguments, **meta)

    monkeypatch.setattr(EpisodeWriter, "add", cut)
    with pytest.raises(KeyboardInterrupt):
        replay_buffer_at(source, tmp_path, progress=False)
    monkeypatch.setattr(EpisodeWriter, "add", add)
    made = replay_buffer_at(source, tmp_path, progress=False)
    assert ReplayBuffer.open(made).n_episodes == 3 and not verify(made)


def test_one_converts_while_others_wait(source, tmp_path, monkeypatch):
    """The lock is that of the operating system, between threads here as between processes."""
    real, calls = conversion_cache.convert, []

    def counted(*arguments, **options):
        calls.append(arguments)
        return real(*arguments, **options)

    monkeypatch.setattr(conversion_cache, "convert", counted)
    with ThreadPoolExecutor(3) as pool:
        asked = [pool.submit(replay_buffer_at, source, tmp_path, progress=False) for _ in range(3)]
    (made,) = {one.result() for one in asked}
    assert len(calls) == 1 and not verify(made) and ReplayBuffer.open(made).n_episodes == 3


def test_a_replay_buffer_is_read_where_it_is(tmp_path):
    for name in ("own.zarr", "own.zarr.zip"):
        ReplayBuffer.from_episodes(EPISODES).save(tmp_path / name)
        assert replay_buffer_at(tmp_path / name, tmp_path / "root") == tmp_path / name
    assert replay_buffer_at(tmp_path / "nowhere", tmp_path / "root") == tmp_path / "nowhere"
    assert not (tmp_path / "root").exists()


def test_what_needs_to_be_told_how_is_said(tmp_path):
    np.savez(tmp_path / "poses.npz", pose=RNG.normal(size=(20, 3)))
    says = r"poses\.npz is an npz file, and was not converted as it is .*action=next.*; convert it with what it needs"
    with pytest.raises(ValueError, match=says):
        load_windows(config(tmp_path / "poses.npz", tmp_path / "root", vectors=["pose"]))


def test_what_is_of_another_format_is_called_so(source, tmp_path):
    np.savez(tmp_path / "one.npz", **EPISODES[0])
    for path, seen in ((source, "a folder of 3 npz files"), (tmp_path / "one.npz", "an npz file")):
        says = rf"{path.name} is {seen}; expected a replay buffer; diffpolicy convert .*{path.name} OUT"
        with pytest.raises(ValueError, match=says):
            ReplayBuffer.open(path)


@pytest.fixture
def formats():
    folder = Path(os.environ.get("DIFFPOLICY_DATA", "")) / "formats"
    if not os.environ.get("DIFFPOLICY_DATA") or not folder.is_dir():
        pytest.skip("DIFFPOLICY_DATA names no folder with formats/")
    return folder


@pytest.mark.parametrize(
    ("name", "frames", "vectors"),
    [
        ("robomimic/robomimic_low_dim.hdf5", 82, ["robot0_eef_pos", "robot0_gripper_qpos"]),
        ("lerobot_v30/state", 91, ["observation.state"]),
    ],
)
def test_files_of_other_projects_are_trained_on(formats, tmp_path, name, frames, vectors):
    """What ReplayBuffer calls by its name, and a training converts."""
    for package in ("h5py", "pyarrow"):
        pytest.importorskip(package)
    with pytest.raises(ValueError, match=r"expected a replay buffer; diffpolicy convert .* OUT") as told:
        ReplayBuffer.open(formats / name)
    assert "zip" not in str(told.value)
    run = config(formats / name, tmp_path, vectors=["nothing"])
    with pytest.raises(KeyError, match=r"unknown key 'nothing'.*take observation\.vectors=\[") as told:
        load_windows(run)
    assert all(key in told.value.args[0] for key in vectors)
    run.observation.vectors = vectors
    assert len(load_windows(run).train.all_actions()) == frames


def test_the_settings_that_would_fit_are_proposed(tmp_path):
    data = {
        "qpos": np.ones((20, 3)),
        "depth": np.ones((20, 8, 9, 1), np.uint16),
        "top": np.ones((20, 8, 9, 3), np.uint8),
        "reward": np.ones(20),
        "acts": np.ones((20, 2)),
    }
    roles = {"reward": "other", "acts": "action"}
    ReplayBuffer(data, np.array([20]), {"roles": roles}).save(tmp_path / "own.zarr")
    with pytest.raises(KeyError) as told:
        load_windows(config(tmp_path / "own.zarr", tmp_path, vectors=["obs"]))
    assert "own.zarr: unknown key 'obs'" in told.value.args[0]
    assert "choose from acts, depth, qpos, reward, top; " in told.value.args[0]
    proposed = "take observation.vectors=[qpos] observation.images=[depth,top] dataset.action_key=acts"
    assert told.value.args[0].endswith(proposed)


def test_a_missing_codec_package_is_named(tmp_path, monkeypatch):
    made = tmp_path / "own.zarr"
    ReplayBuffer.from_episodes(EPISODES).save(made)
    text = (made / "data/qpos/zarr.json").read_text().replace('"name": "zstd"', '"name": "imagecodecs_jpegxl"')
    (made / "data/qpos/zarr.json").write_text(text)
    monkeypatch.delitem(numcodecs.registry.codec_registry, "imagecodecs_jpegxl", raising=False)  # of another test
    monkeypatch.setitem(sys.modules, "imagecodecs", None)
    monkeypatch.setitem(sys.modules, "imagecodecs.numcodecs", None)
    says = r"data/qpos is compressed with imagecodecs_jpegxl, which needs .* pip install 'diffpolicy\[imagecodecs\]'"
    with pytest.raises(ImportError, match=says):
        load_windows(config(made, tmp_path))


def test_a_zip_of_something_else(tmp_path):
    with zipfile.ZipFile(tmp_path / "photos.zip", "w") as archive:
        archive.writestr("cat.jpg", b"")
    with pytest.raises(ValueError, match=r"photos\.zip holds no replay buffer"):
        load_windows(config(tmp_path / "photos.zip", tmp_path / "root"))


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("cut.hdf5", b"\x89HDF\r\n\x1a\n" + bytes(40), "cut.hdf5"),
        ("demos.pkl", b"cos\nsystem\n", "demos.pkl is a pickle, which is not read; .*np.savez, one file an episode$"),
        ("demos.bag", b"#ROSBAG V2.0\n", "demos.bag is a ROS bag, which is not read; write its topics"),
    ],
)
def test_what_is_known_and_not_read_is_called_so(tmp_path, name, content, says):
    if name.endswith("hdf5"):
        pytest.importorskip("h5py")
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=says) as told:
        load_windows(config(tmp_path / name, tmp_path / "root"))
    assert "zip" not in str(told.value) and "convert it with what it needs" not in str(told.value)
    with pytest.raises(ValueError, match=name) as told:
        ReplayBuffer.open(tmp_path / name)
    assert "zip" not in str(told.value)


def test_a_large_file_that_was_changed_in_place_is_converted_anew(source, tmp_path, monkeypatch):
    monkeypatch.setattr(source_digest, "WHOLE", 100)
    monkeypatch.setattr(source_digest, "_BLOCK", 8)  # bytes, of which the changed one is none
    file = source / "episode_0.npz"
    before = source_digest.source_digest(source)
    content = bytearray(file.read_bytes())
    content[60] ^= 1
    file.write_bytes(content)
    os.utime(file, ns=(0, 0))
    changed = source_digest.source_digest(source)
    os.utime(file, ns=(0, 1))
    assert len({before, changed, source_digest.source_digest(source)}) == 3


def test_what_did_not_change_is_not_read_again(source, tmp_path, monkeypatch):
    made = replay_buffer_at(source, tmp_path / "root", progress=False)
    asked = []
    monkeypatch.setattr(conversion_cache, "source_digest", lambda path: asked.append(path) or "0" * 64)
    assert replay_buffer_at(source, tmp_path / "root", progress=False) == made and not asked
    (note,) = (tmp_path / "root" / FOLDER).glob("*.json")
    note.write_text("{")
    assert replay_buffer_at(source, tmp_path / "root", progress=False) != made and len(asked) == 1
    os.utime(source / "episode_1.npz", ns=(0, 0))
    replay_buffer_at(source, tmp_path / "root", progress=False)
    assert len(asked) == 2


def test_what_was_found_is_said_every_time(source, tmp_path, capsys):
    (source / "episode_1.npz").write_bytes(b"nothing")
    for _ in range(2):
        made = replay_buffer_at(source, tmp_path / "root")
    said = capsys.readouterr().out
    assert "2 findings when it was converted, the first: it does not say how many frames" in said
    assert said.rstrip().endswith(f"to convert it anew, delete {made}")


def test_poses_with_an_action_are_trained_on_where_they_are(tmp_path):
    root, path = zarr.open_group(tmp_path / "theirs.zarr", mode="w", zarr_format=2), tmp_path / "theirs.zarr"
    for name, size in (("robot0_eef_pos", 3), ("my_action", 2)):
        root.create_array(f"data/{name}", data=RNG.normal(size=(20, size)))
    root.create_array("meta/episode_ends", data=np.array([20]))
    run = config(path, tmp_path / "root", vectors=["robot0_eef_pos"])
    with pytest.raises(ValueError, match="action=next:robot0_eef_pos"):
        load_windows(run)
    run.dataset.action_key = "my_action"
    assert load_windows(run).train.all_actions().shape == (20, 2)


def test_a_folder_of_several_recordings_is_called_so(tmp_path):
    pytest.importorskip("h5py")
    path = recordings.maniskill(tmp_path / "state", mode="state")
    shutil.copy(path, path.parent / "second.h5")
    with pytest.raises(ValueError, match="name one of them"):
        load_windows(config(path.parent, tmp_path / "root"))
