"""From a recording to a LeRobot v3.0 data set, an episode at a time.

What LeRobot has no place for (names, roles and units of arrays, what is known of episodes) is written beside its
files as `meta/diffpolicy.json`, which it ignores and the importer reads.
"""

from __future__ import annotations

import shutil
import uuid
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, final

import numpy as np
from tqdm import tqdm

from diffpolicy.config.commands import ExportDatasetConfig
from diffpolicy.datasets.convert import choose, read_checked
from diffpolicy.datasets.exporters.lerobot_features import Exported, described, exported
from diffpolicy.datasets.exporters.lerobot_stats import KINDS, Together, of_images, of_numbers
from diffpolicy.datasets.exporters.lerobot_tables import DataWriter, IndexWriter, Places, write_tasks
from diffpolicy.datasets.exporters.video import CODECS, Encoding, VideoWriter, describe
from diffpolicy.datasets.importers import DamagedEpisode, Episode, Importer, recognize
from diffpolicy.datasets.importers.lerobot_info import SUCCESS
from diffpolicy.datasets.importers.lerobot_sidecar import Sidecar
from diffpolicy.util import hub
from diffpolicy.util.errors import located, require
from diffpolicy.util.files import flush, rename, write_json
from diffpolicy.util.names import check

FORMATS = ("lerobot",)
PICTURES = "png"
_DATA = "data/chunk-{chunk_index:03d}/file-{file_index:03d}.parquet"
_VIDEOS = "videos/{video_key}/chunk-{chunk_index:03d}/file-{file_index:03d}.mp4"
_CHUNK = 1000  # files in a folder
_DATA_MB, _VIDEO_MB = 100, 200


@final
@dataclass(frozen=True)
class ExportedDataset:
    """What was written.

    Args:
        path: the data set.
        features: what each array became, by name in LeRobot.
        episodes: number of episodes.
        frames: number of frames of all episodes together.
        findings: what was left out or is stored otherwise, a sentence each.
    """

    path: Path
    features: Mapping[str, Exported]
    episodes: int
    frames: int
    findings: tuple[str, ...]

    def __str__(self) -> str:
        lines = [f"{name} {one.shape}: {one.name} as {one.kind}" for name, one in self.features.items()]
        lines += list(self.findings)
        lines.append(f"{self.episodes} episodes, {self.frames} frames: {self.path}")
        load = f"LeRobotDataset('own/{self.path.name}', root='{self.path}')"
        return "\n".join([*lines, "", "load it with LeRobot:", f"  {load}"])


def export_dataset(config: ExportDatasetConfig, *, progress: bool = True) -> ExportedDataset:
    """Write a recording of any format that is read as a LeRobot v3.0 data set, whole or not at all.

    Args:
        config: source, target and codec.
        progress: show a progress bar.

    Raises:
        FileNotFoundError: no source.
        FileExistsError: `config.out` exists.
        ImportError: pyarrow is not installed.
        ValueError: settings that do not fit, no frames per second, or no episode that can be read.
    """
    check("format", config.format, FORMATS)
    check("codec", config.codec, (*CODECS, PICTURES))
    require(0 <= config.crf <= 63, f"crf={config.crf}", "0 to 63")
    source, out = hub.local(config.dataset, "dataset"), Path(config.out).expanduser()
    there = out.exists() or out.is_symlink()
    require(not there, f"{out} exists", cure="remove it or choose another name", error=FileExistsError)
    findings: list[str] = []
    with located(source):
        reader, _ = recognize(source)
        importer = reader(source, lambda says: findings.append(says) if says not in findings else None)
    partial = out.parent / f".{out.name}.{uuid.uuid4().hex}.partial"
    try:
        with ExitStack() as opened, importer, located(source):
            episodes = choose(importer.episodes(), config.episodes)
            writer = opened.enter_context(_Writer(partial, config, importer, episodes))
            for episode in tqdm(episodes, desc="episodes", unit="episode", disable=not progress):
                try:
                    arrays = read_checked(importer, episode)
                except DamagedEpisode as error:
                    findings.append(f"left out: {error}")
                    continue
                writer.add(episode, arrays)
            require(writer.count, "no episode is left", cure=findings[-1] if findings else None)
            writer.finish()
        flush(partial)
        require(not out.exists(), f"{out} exists", cure="choose another name", error=FileExistsError)
        rename(partial, out)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise
    return ExportedDataset(out, writer.features, writer.count, writer.frames, tuple([*findings, *writer.findings]))


@final
@dataclass
class _Camera:
    """The videos of one camera: the file that is written, and where its next episode begins."""

    encoding: Encoding
    places: Places
    writer: VideoWriter | None = None
    first: str = ""


@final
@dataclass
class _Writer:
    """Writes the files of a data set into a folder."""

    path: Path
    config: ExportDatasetConfig
    importer: Importer
    episodes: Sequence[Episode]
    count: int = 0
    frames: int = 0
    findings: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        fps = self.config.fps or self.importer.fps
        require(fps, "the recording does not say its frames per second, which LeRobot needs", cure="add fps=N")
        assert fps is not None
        require(0 < fps < 1e4, f"fps={fps}", "frames per second")
        self.fps = int(fps) if float(fps).is_integer() else float(fps)
        self.features = exported(self.importer.arrays, self.config.codec == PICTURES)
        known = any(episode.success is not None for episode in self.episodes)
        self._success = known and SUCCESS not in self.features
        self._described = described(self.features, self._success)
        self._tasks: dict[str, int] = {}
        self._told: list[dict[str, Any]] = []
        self._together = Together()
        self.path.mkdir(parents=True)
        self._data = DataWriter(self.path, self._described, Places(_DATA, _CHUNK), _DATA_MB)
        self._index = IndexWriter(self.path)
        self._cameras = {name: self._camera(one) for name, one in self.features.items() if one.kind == "video"}

    def _camera(self, one: Exported) -> _Camera:
        height, width = one.array.shape[:2]
        encoding = Encoding.of(self.config.codec, self.config.crf, (height, width))
        if self.config.codec == "av1" and encoding.encoder != "libsvtav1":
            self.findings.append(
                f"{one.name!r} of {height}x{width} pixels is stored as H.264, since AV1 takes none such"
            )
        return _Camera(encoding, Places(_VIDEOS, _CHUNK))

    def add(self, episode: Episode, arrays: Mapping[str, np.ndarray]) -> None:
        """Write an episode."""
        length = len(next(iter(arrays.values())))
        task = episode.task or self.config.task or ""
        columns = self._columns(episode, arrays, length, self._tasks.setdefault(task, len(self._tasks)))
        chunk, file = self._data.add(columns)
        row: dict[str, Any] = {"episode_index": self.count, "tasks": [task], "length": length}
        row |= {"data/chunk_index": chunk, "data/file_index": file}
        row |= {"dataset_from_index": self.frames, "dataset_to_index": self.frames + length}
        for name, camera in self._cameras.items():
            row |= self._film(name, camera, columns[name])
        for name, values in columns.items():
            stats = of_images(values) if self.features.get(name) and values.ndim == 4 else of_numbers(values)
            self._together.add(name, stats)
            row |= {f"stats/{name}/{kind}": np.atleast_1d(stats[kind]).tolist() for kind in KINDS}
        self._index.add(row)
        self._told.append({"name": episode.name, "success": episode.success, **episode.extra})
        self.count, self.frames = self.count + 1, self.frames + length

    def _columns(self, episode: Episode, arrays: Mapping[str, np.ndarray], length: int, task: int) -> dict[str, Any]:
        """The arrays of an episode as LeRobot's features, and the columns that it counts by."""
        found = {}
        for name, one in self.features.items():
            values = arrays[one.name]
            if one.kind == "video" and one.array.shape[2] == 1:
                values = np.broadcast_to(values, (*values.shape[:3], 3))
            found[name] = values.reshape(length) if one.shape == [1] else values
        if self._success:
            found[SUCCESS] = np.arange(length) == (length - 1 if episode.success else length)
        number = np.arange(length)
        found |= {"timestamp": (number / self.fps).astype(np.float32), "frame_index": number}
        found |= {"episode_index": np.full(length, self.count), "index": self.frames + number}
        return found | {"task_index": np.full(length, task)}

    def _film(self, name: str, camera: _Camera, images: np.ndarray) -> dict[str, Any]:
        """Write an episode into the video of a camera; return where it is."""
        if camera.writer is not None and camera.writer.bytes >= _VIDEO_MB * 2**20:
            camera.writer.close()
            camera.writer = None
        if camera.writer is None:
            file = camera.places.next(video_key=name)
            camera.first = camera.first or file
            camera.writer = VideoWriter(self.path / file, camera.encoding, self.fps, images.shape[1:3])
        start = camera.writer.frames
        camera.writer.add(images)
        chunk, file_index = camera.places.now
        found = {"chunk_index": chunk, "file_index": file_index}
        found |= {"from_timestamp": start / self.fps, "to_timestamp": camera.writer.frames / self.fps}
        return {f"videos/{name}/{key}": value for key, value in found.items()}

    def __enter__(self) -> _Writer:
        return self

    def __exit__(self, *_: object) -> None:
        """Close what is open, also when an episode failed."""
        for camera in self._cameras.values():
            if camera.writer is not None:
                camera.writer.abandon()

    def finish(self) -> None:
        """Write what is known only at the end."""
        self._data.close()
        self._index.close()
        for name, camera in self._cameras.items():
            if camera.writer is not None:
                camera.writer.close()
            options = {key: int(v) if v.isdigit() else v for key, v in camera.encoding.options.items()}
            coded = {f"video.{key}": options[key] for key in ("g", "crf", "preset") if key in options}
            info = {
                **describe(self.path / camera.first),
                "video.fps": self.fps,
                **coded,
                "video.video_backend": "pyav",
            }
            self._described[name]["info"] = info
        write_tasks(self.path / "meta/tasks.parquet", list(self._tasks))
        write_json(self.path / "meta/stats.json", self._together.content())
        write_json(self.path / "meta/info.json", self._info())
        told = {name: one.told() for name, one in self.features.items()}
        made = (SUCCESS,) if self._success else ()
        Sidecar(told, made, tuple(self._told), dict(self.importer.attrs)).write(self.path)

    def _info(self) -> dict[str, Any]:
        """The content of `meta/info.json`."""
        return {
            "codebase_version": "v3.0",
            "fps": self.fps,
            "features": self._described,
            "total_episodes": self.count,
            "total_frames": self.frames,
            "total_tasks": len(self._tasks),
            "chunks_size": _CHUNK,
            "data_files_size_in_mb": _DATA_MB,
            "video_files_size_in_mb": _VIDEO_MB,
            "data_path": _DATA,
            "video_path": _VIDEOS if self._cameras else None,
            "robot_type": self.config.robot or self.importer.attrs.get("robot_type"),
            "splits": {"train": f"0:{self.count}"},
        }
