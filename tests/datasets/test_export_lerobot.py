"""Recordings written as LeRobot data sets: the structure of LeRobot's own, and back again without a difference."""

from __future__ import annotations

import json

import av
import numpy as np
import pytest
from datasets.lerobot_fixtures import fixture, read_all
from typed import typed

from diffpolicy.config.commands import ConvertConfig, ExportDatasetConfig
from diffpolicy.datasets import ReplayBuffer
from diffpolicy.datasets.convert import convert
from diffpolicy.datasets.exporters import lerobot as exporter
from diffpolicy.datasets.exporters.lerobot import export_dataset
from diffpolicy.datasets.exporters.video import Encoding
from diffpolicy.datasets.writer import EpisodeWriter
from diffpolicy.datasets.zarr_layout import ZarrArchive

parquet = pytest.importorskip("pyarrow.parquet")

LENGTHS = (7, 12, 5)
CODEC_ERROR = 6.0  # levels, mean of a smooth moving picture at crf 30


def _picture(length: int, size: tuple[int, int], channels: int, seed: int) -> np.ndarray:
    """Smooth moving colors, of the kind that codecs are made for."""
    t, y, x = np.meshgrid(np.arange(length), *(np.linspace(0, 3, n) for n in size), indexing="ij")
    waves = [np.sin(x * (c + 1) + y + 0.2 * t + seed) for c in range(channels)]
    return (127 + 100 * np.stack(waves, -1)).astype(np.uint8)


def _record(path, size=(64, 80), **more) -> None:
    """A recording of three episodes with everything that one can hold."""
    rng = np.random.default_rng(0)
    roles = {
        "state": "observation",
        "keypoint": "observation",
        "action": "action",
        "reward": "other",
        "done": "other",
    }
    attrs = {
        "fps": 10,
        "units": {"state": "m", "depth": "mm"},
        "names": {"state": ["x", "y", "z"]},
        "roles": {**roles, "camera": "observation", "gray": "observation", "depth": "observation"},
        "tasks": ["fold", "push the cube"],
        "recording": {"robot_type": "arm"},
        **more,
    }
    writer = EpisodeWriter(path, attrs)
    for i, length in enumerate(LENGTHS):
        arrays = {
            "state": rng.normal(size=(length, 3)).astype(np.float32),
            "keypoint": rng.normal(size=(length, 4, 2)),
            "action": rng.normal(size=(length, 2)).astype(np.float32),
            "reward": rng.normal(size=length).astype(np.float32),
            "done": np.arange(length) == length - 1,
            "camera": _picture(length, size, 3, i),
            "gray": _picture(length, size, 1, i),
            "depth": rng.integers(0, 5000, (length, *size, 1)).astype(np.uint16),
        }
        writer.add(arrays, source_episode=i, task=[1, 0, -1][i], success=[1, 0, -1][i])
    writer.finish({"episodes": [{"name": f"take {i}", "operator": "ann"} for i in range(3)], "findings": []})


def _arrays(path) -> tuple[dict[str, np.ndarray], dict[str, object]]:
    with ZarrArchive(path) as archive:
        names = [f"data/{name}" for name in archive.names()] + [f"meta/{name}" for name in archive.meta_names()]
        return {name: archive.read(name) for name in [*names, "meta/episode_ends"]}, archive.attrs()


@pytest.fixture(scope="module")
def recording(tmp_path_factory):
    path = tmp_path_factory.mktemp("recording") / "demos"
    _record(path)
    return path


@pytest.fixture(scope="module")
def exported(recording, tmp_path_factory):
    out = tmp_path_factory.mktemp("exported") / "set"
    export_dataset(ExportDatasetConfig(str(recording), str(out), codec="lossless"), progress=False)
    return out


def test_lossless_round_trip_is_equal(recording, exported, tmp_path):
    done = convert(ConvertConfig(str(exported), str(tmp_path / "back")), progress=False)
    (before, said), (after, told) = _arrays(recording), _arrays(tmp_path / "back")
    assert done.findings == () and before.keys() == after.keys()
    for name, values in before.items():
        expected = [1, 0, -1] if name == "meta/task" else values
        assert after[name].dtype == values.dtype and np.array_equal(after[name], expected), name
    for name in ("fps", "units", "names", "roles", "recording", "tasks"):
        assert told[name] == said[name], name
    assert [one["operator"] for one in told["episodes"]] == ["ann"] * 3
    assert [one["name"] for one in told["episodes"]] == ["take 0", "take 1", "take 2"]


@pytest.mark.parametrize("codec", ["auto", "h264", "hevc"])
def test_lossy_round_trip_is_within_the_codecs_error(codec, recording, tmp_path):
    try:
        export_dataset(ExportDatasetConfig(str(recording), str(tmp_path / "set"), codec=codec), progress=False)
    except ValueError as error:
        pytest.skip(str(error))
    convert(ConvertConfig(str(tmp_path / "set"), str(tmp_path / "back")), progress=False)
    (before, _), (after, _) = _arrays(recording), _arrays(tmp_path / "back")
    for name, values in before.items():
        if name in ("data/camera", "data/gray"):
            assert np.abs(after[name].astype(float) - values).mean() < CODEC_ERROR
        elif name != "meta/task":
            assert np.array_equal(after[name], values), name


@pytest.mark.parametrize("name", ["lerobot_v30/video", "lerobot_v30/image"])
def test_the_structure_is_that_of_lerobots_own(name, tmp_path):
    """Converted and exported again, a data set of LeRobot has the files, columns and descriptions that it had."""
    path, out = fixture(name), tmp_path / "set"
    codec = "png" if name.endswith("image") else "auto"
    export_dataset(ExportDatasetConfig(str(path), str(out), codec=codec), progress=False)
    files = {file.relative_to(path).as_posix() for file in path.rglob("*") if file.is_file()}
    mine = {file.relative_to(out).as_posix() for file in out.rglob("*") if file.is_file()}
    assert mine - files == {"meta/diffpolicy.json"} and not files - mine
    for file in sorted(files):
        if file.endswith(".parquet"):
            theirs, ours = parquet.read_schema(path / file), parquet.read_schema(out / file)
            assert sorted(zip(ours.names, map(str, ours.types), strict=True)) == sorted(
                zip(theirs.names, map(str, theirs.types), strict=True)
            )
            for key in (b"huggingface", b"pandas"):
                if key in (theirs.metadata or {}):
                    told, known = json.loads(ours.metadata[key]), json.loads(theirs.metadata[key])
                    assert told.get("info") == known.get("info") and told.get("columns") == known.get("columns")
    info, known = (json.loads((one / "meta/info.json").read_text()) for one in (out, path))
    for content in (info, known):
        for said in content["features"].values():
            details = said.get("info", {})
            for extra in ("video.preset", "video.fast_decode", "video.extra_options"):
                details.pop(extra, None)
    assert info == known
    stats, known = (json.loads((one / "meta/stats.json").read_text()) for one in (out, path))
    assert stats.keys() == known.keys()
    for feature, said in known.items():
        for kind in ("min", "max", "mean", "std", "count"):
            tolerance = 0.02 if feature.startswith("observation.images") and codec != "png" else 2e-3
            if feature.startswith("observation.images") and kind in ("min", "max") and codec != "png":
                continue  # of single pixels, that the codec changes
            assert np.allclose(stats[feature][kind], said[kind], atol=tolerance), (feature, kind)


def test_videos_are_near_a_key_frame_and_have_the_recordings_rate(exported):
    (file,) = (exported / "videos/observation.images.camera").rglob("*.mp4")
    with av.open(str(file)) as container:
        stream = container.streams.video[0]
        assert stream.average_rate == 10 and stream.frames == sum(LENGTHS)
        frames = list(container.decode(stream))
    assert [round(float(frame.pts * frame.time_base) * 10) for frame in frames] == list(range(sum(LENGTHS)))
    assert all(frame.key_frame for frame in frames[::2])


def test_files_are_cut_between_episodes(recording, tmp_path, monkeypatch):
    monkeypatch.setattr(exporter, "_DATA_MB", 1e-4)
    monkeypatch.setattr(exporter, "_VIDEO_MB", 1e-4)
    monkeypatch.setattr(exporter, "_CHUNK", 2)
    out = tmp_path / "set"
    export_dataset(ExportDatasetConfig(str(recording), str(out), codec="lossless"), progress=False)
    names = sorted(file.relative_to(out / "data").as_posix() for file in (out / "data").rglob("*.parquet"))
    assert names == ["chunk-000/file-000.parquet", "chunk-000/file-001.parquet", "chunk-001/file-000.parquet"]
    assert len(list((out / "videos/observation.images.camera").rglob("*.mp4"))) == 3
    found, lost, said = read_all(out)
    before = ReplayBuffer.open(recording, ["state", "camera"])
    assert not lost and not said
    assert np.array_equal(np.concatenate([one["camera"] for one in found.values()]), before["camera"])


@pytest.mark.parametrize(("size", "codec"), [((63, 65), "auto"), ((16, 16), "av1"), ((63, 65), "lossless")])
def test_odd_and_small_sizes(size, codec, tmp_path):
    _record(tmp_path / "demos", size)
    config = ExportDatasetConfig(str(tmp_path / "demos"), str(tmp_path / "set"), codec=codec)
    done = export_dataset(config, progress=False)
    found, lost, _ = read_all(tmp_path / "set")
    assert not lost and found[0]["camera"].shape == (LENGTHS[0], *size, 3)
    assert bool(done.findings) == (codec == "av1")


def test_a_recording_without_a_rate_needs_one(tmp_path):
    writer = EpisodeWriter(tmp_path / "demos", {})
    writer.add({"action": np.zeros((4, 2), np.float32), "state": np.ones((4, 2), np.float32)})
    config = ExportDatasetConfig(str(tmp_path / "demos"), str(tmp_path / "set"))
    with pytest.raises(ValueError, match="add fps=N"):
        export_dataset(config, progress=False)
    config.fps, config.task = 59.94, "wave"
    export_dataset(config, progress=False)
    assert json.loads((tmp_path / "set/meta/info.json").read_text())["fps"] == 59.94
    assert parquet.read_table(tmp_path / "set/meta/tasks.parquet").to_pylist() == [{"task_index": 0, "task": "wave"}]
    found, lost, said = read_all(tmp_path / "set")
    assert not lost and not said and found[0]["action"].shape == (4, 2)


def test_the_command_writes_what_the_command_reads(tmp_path):
    writer = EpisodeWriter(tmp_path / "demos", {"fps": 10})
    rng = np.random.default_rng(0)
    for length in (5, 9):
        writer.add({name: rng.normal(size=(length, 3)).astype(np.float32) for name in ("state", "action")})
    out = typed("export-dataset", "demos", "set", "episodes=0-0,1", "robot=arm", cwd=tmp_path)
    assert "2 episodes, 14 frames" in out
    assert json.loads((tmp_path / "set/meta/info.json").read_text())["robot_type"] == "arm"
    typed("convert", "set", "back", cwd=tmp_path)
    before, after = (ReplayBuffer.open(tmp_path / name) for name in ("demos", "back"))
    assert np.array_equal(before["state"], after["state"]) and np.array_equal(before["action"], after["action"])


def test_what_exists_is_kept_and_what_fails_leaves_nothing(recording, tmp_path, monkeypatch):
    (tmp_path / "set").mkdir()
    with pytest.raises(FileExistsError, match="exists"):
        export_dataset(ExportDatasetConfig(str(recording), str(tmp_path / "set")), progress=False)

    def broken(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("diffpolicy.datasets.exporters.lerobot_tables.IndexWriter.close", broken)
    with pytest.raises(OSError, match="No space"):
        export_dataset(ExportDatasetConfig(str(recording), str(tmp_path / "other")), progress=False)
    assert [one.name for one in tmp_path.iterdir()] == ["set"]


def test_episodes_that_contradict_the_recording_are_left_out(tmp_path):
    good = {"obs": np.ones((5, 3), np.float32), "action": np.zeros((5, 2), np.float32)}
    nan = {**good, "obs": np.full((5, 3), np.nan, np.float32)}
    odd = [{"action": good["action"]}, {**good, "obs": good["obs"][:3]}, nan]
    (tmp_path / "demos").mkdir()
    for number, arrays in enumerate([good, *odd, good]):
        np.savez(tmp_path / "demos" / f"{number}.npz", **arrays)
    config = ExportDatasetConfig(str(tmp_path / "demos"), str(tmp_path / "set"), fps=10)
    done = export_dataset(config, progress=False)
    assert (done.episodes, done.frames) == (2, 10)
    left = [said for said in done.findings if said.startswith("left out: ")]
    for says, words in zip(
        left, ["1 has ['action']", "lengths", "'obs' holds NaN or infinity at frame 0"], strict=True
    ):
        assert words in says
    found, lost, said = read_all(tmp_path / "set")
    assert len(found) == 2 and not lost and not said


@pytest.mark.parametrize(
    ("changes", "says"),
    [({"codec": "vp9"}, "unknown codec"), ({"crf": 99}, "0 to 63"), ({"format": "rlds"}, "format")],
)
def test_settings_that_make_no_sense_are_refused(changes, says, recording, tmp_path):
    with pytest.raises(ValueError, match=says):
        export_dataset(ExportDatasetConfig(str(recording), str(tmp_path / "set"), **changes), progress=False)


def test_the_default_codec_is_av1_where_it_can_be_written(monkeypatch):
    assert Encoding.of("auto", 30, (64, 64)).encoder == "libsvtav1"
    monkeypatch.setattr(av, "codecs_available", {"libx264"})
    assert Encoding.of("auto", 30, (64, 64)).encoder == "libx264"
    with pytest.raises(ValueError, match="codec=h264"):
        Encoding.of("av1", 30, (64, 64))


def test_a_damaged_sidecar_is_said(exported, tmp_path):
    import shutil

    shutil.copytree(exported, tmp_path / "set")
    file = tmp_path / "set/meta/diffpolicy.json"
    file.write_text(file.read_text().replace('"keypoint"', '"keypoinT"'))
    found, lost, said = read_all(tmp_path / "set")
    assert not lost and "checksum" in said[0] and "observation.state" in found[0]
