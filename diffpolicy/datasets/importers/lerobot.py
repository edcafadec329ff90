"""LeRobot data sets v3.0, v2.1 and v2.0: parquet files for numbers, mp4 files or pictures for cameras."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar, final

import numpy as np

from diffpolicy.datasets.importers.base import NOTED, Array, Episode, Importer, Say, damaged
from diffpolicy.datasets.importers.lerobot_checks import (
    check_length,
    column_numbers,
    images_differ,
    numbers_differ,
    order_of,
    rounding_differs,
)
from diffpolicy.datasets.importers.lerobot_info import CHECKS, INFO, Feature, matching, read_info, version_of
from diffpolicy.datasets.importers.lerobot_meta import Entry, Meta, Stats
from diffpolicy.datasets.importers.lerobot_recovery import listed, recovered, with_tasks
from diffpolicy.datasets.importers.lerobot_rows import DataFiles, dtype_in, numbers
from diffpolicy.datasets.importers.lerobot_sidecar import read_sidecar
from diffpolicy.datasets.importers.pictures import decode_picture
from diffpolicy.datasets.importers.video import Video
from diffpolicy.util.errors import require


@final
class LeRobotImporter(Importer):
    """A folder that LeRobot wrote. Episodes are what the data files say; the index is compared and repaired."""

    summary: ClassVar[str] = "LeRobot v3.0, v2.1 and v2.0: a folder with meta, data and videos"

    def __init__(self, path: Path, say: Say) -> None:
        super().__init__(path, say)
        self._info = read_info(path, say)
        self._sidecar = read_sidecar(path, say)
        self._alike: dict[str, list[int]] = {}
        self._videos: dict[str, Video] = {}
        self._counted: set[Path] = set()
        cameras = [f.column for f in self._info.features.values() if f.kind == "video"]
        self._trusted: dict[str, bool] | None = None
        self._rows = DataFiles(matching(path, self._info.data_path), path, say)
        try:
            require(self._rows.segments, f"none of the data files {self._info.data_path!r} can be read")
            self._meta = Meta(path, self._info, cameras, say)
            self._features = self._found(self._info.features)
            self._entries = with_tasks(self._all_entries(), self._meta, self._rows, say)
            self._compare_index()
        except BaseException:
            self.close()
            raise

    @classmethod
    def recognize(cls, path: Path) -> str | None:
        if not path.is_dir():
            return None
        version = version_of(path)
        return None if version is None else f"LeRobot {version}"

    @property
    def arrays(self) -> Mapping[str, Array]:
        return {key: feature.array for key, feature in self._features.items()}

    @property
    def fps(self) -> float | None:
        return self._info.fps

    @property
    def state_keys(self) -> tuple[str, ...]:
        return tuple(key for key, feature in self._features.items() if feature.column == "observation.state")

    @property
    def attrs(self) -> Mapping[str, Any]:
        if self._sidecar is not None:
            return self._sidecar.recording
        found = {"format": f"LeRobot {self._info.version}", "robot_type": self._info.content.get("robot_type")}
        return {name: value for name, value in found.items() if value is not None}

    def episodes(self) -> Sequence[Episode]:
        found = []
        for number, entry in sorted(self._entries.items()):
            length = self._rows.count(number) or (entry.lengths[0] if entry.lengths else None)
            tasks = [task for task in entry.tasks if task]
            extra = {"tasks": tasks} if len(tasks) > 1 else {}
            success = self._rows.success.get(number)
            name, splits = f"episode {number}", self._info.splits(number)
            if self._sidecar is not None and number < len(self._sidecar.episodes):
                extra = {**extra, **self._sidecar.episodes[number]}
                name, success = str(extra.pop("name", name)), extra.pop("success", success)
            found.append(Episode(number, name, length, tasks[0] if tasks else None, success, splits, extra))
        return found

    def read(self, episode: Episode) -> dict[str, np.ndarray]:
        entry = self._entries[episode.number]
        stats = self._meta.stats(episode.number)
        arrays = self._read(entry, stats)
        self._compare_numbers(entry, arrays, stats)
        self._compare_images(entry, arrays, stats)
        return arrays

    def close(self) -> None:
        self._rows.close()
        for video in self._videos.values():
            video.close()
        self._videos = {}

    def _read(self, entry: Entry, stats: Stats) -> dict[str, np.ndarray]:
        """The arrays of an episode, what is said of it twice compared, its statistics excepted."""
        name, where = f"episode {entry.number}", self._where(entry)
        if entry.number not in self._rows.segments:
            raise damaged(where, name, self._rows.lost.get(str(entry.data), "no data file holds its rows"))
        columns = [f.column for f in self._features.values() if f.kind != "video"]
        try:
            there = set(self._rows.schema.names)
            table = self._rows.table(entry.number, [*columns, *(c for c in CHECKS if c in there)])
            order = order_of(table, self._info.fps)
            table = table if order.rows is None else table.take(order.rows)
            count, stated = table.num_rows, [*entry.lengths, *_counts(stats)]
            self._repaired(name, where, order.repaired, check_length(count, stated), self._odd(table, entry))
            arrays = {key: self._numbers(f, table) for key, f in self._features.items() if f.kind == "numbers"}
            arrays |= {key: self._pictures(f, table) for key, f in self._features.items() if f.kind == "image"}
        except ValueError as error:
            raise damaged(where, name, error) from error
        for key, feature in self._features.items():
            if feature.kind == "video":
                arrays[key] = self._video(feature, entry, count)
        return arrays

    def _numbers(self, feature: Feature, table: Any) -> np.ndarray:
        try:
            return numbers(table.column(feature.column), feature.array.shape, feature.array.dtype)
        except (ValueError, KeyError) as error:
            raise ValueError(f"{feature.column!r}: {error}") from error

    def _pictures(self, feature: Feature, table: Any) -> np.ndarray:
        images = np.empty((table.num_rows, *feature.array.shape), feature.array.dtype)
        for i, picture in enumerate(table.column(feature.column)):
            said = picture.as_py()
            content = said if isinstance(said, bytes) else (said or {}).get("bytes")
            if content is None:
                name = str((said or {}).get("path"))
                file = self.path / name
                inside = not Path(name).is_absolute() and ".." not in Path(name).parts and file.is_file()
                require(inside, f"{feature.column!r}: frame {i} has no picture, nor a file {name}")
                content = file.read_bytes()
            try:
                decode_picture(content, images[i])
            except ValueError as error:
                raise ValueError(f"{feature.column!r}: frame {i}: {error}") from error
        return images

    def _video(self, feature: Feature, entry: Entry, count: int) -> np.ndarray:
        clip, name = entry.clips.get(feature.column), f"episode {entry.number}"
        if clip is None:
            raise damaged(self.path, name, f"meta does not say where the video of {feature.column!r} is")
        images = np.empty((count, *feature.array.shape), feature.array.dtype)
        try:
            video = self._opened(feature.column, self.path / clip.file)
            if clip.stop is None and video.frames not in (0, count):
                says = f"{video.frames} frames are in the video, and {count} in the data"
                require(abs(video.frames - count) == 1, says)
                self._repaired(name, clip.file, f"{says}; the last one is left out")
            largest = video.read(clip.start, count, self._info.fps, images)
        except (ValueError, OSError) as error:
            raise damaged(clip.file, name, error) from error
        return feature.quantized.millimeters(images, largest) if feature.quantized else images

    def _opened(self, camera: str, file: Path) -> Video:
        """The video, kept open for the next episode, which usually goes on where this one ends."""
        if camera not in self._videos or self._videos[camera].file != file:
            if camera in self._videos:
                self._videos.pop(camera).close()
            require(file.is_file(), "the file is missing")
            self._videos[camera] = Video(file)
            self._compare_frames(camera, file, self._videos[camera].frames)
        return self._videos[camera]

    def _compare_frames(self, camera: str, file: Path, frames: int) -> None:
        """Say it if a video of several episodes has more or fewer frames than these."""
        name = file.relative_to(self.path).as_posix()
        clips = [entry.clips[camera] for entry in self._entries.values() if camera in entry.clips]
        stops = [clip.stop for clip in clips if clip.file == name]
        if file in self._counted or not frames or None in stops:
            return
        self._counted.add(file)
        stated = round(max(stop for stop in stops if stop is not None) * self._info.fps)
        if stated != frames:
            self.say(f"{name} has {frames} frames, and the episodes in it end at frame {stated}")

    def _compare_numbers(self, entry: Entry, arrays: Mapping[str, np.ndarray], stats: Stats) -> None:
        """Raise DamagedEpisode if an episode's numbers are not those that its statistics were taken from."""
        vectors = {key: values for key, values in arrays.items() if not self._features[key].array.image}
        name, where = f"episode {entry.number}", self._where(entry)
        for differ, trusted in zip(self._differences(vectors, stats), ("numbers", "rounding"), strict=True):
            if differ and self._trusted_statistics()[trusted]:
                if trusted == "numbers":
                    raise damaged(where, name, differ)
                self._repaired(name, where, differ)

    def _differences(self, vectors: Mapping[str, np.ndarray], stats: Stats) -> tuple[str, str]:
        """How the numbers of an episode differ from its statistics, by much and by the last digits, in words."""
        much = last = ""
        for key, values in vectors.items():
            column = self._features[key].column
            much = much or numbers_differ(values, stats, column)
            if not last and rounding_differs(values, stats, column):
                last = f"{column!r} may have changed in its last digits: mean or std are not exactly as recorded"
        return much, last

    def _compare_images(self, entry: Entry, arrays: Mapping[str, np.ndarray], stats: Stats) -> None:
        """Say it if images are not those that the statistics were taken from; raise where those of others are."""
        for key, images in arrays.items():
            feature = self._features[key]
            if feature.array.image and not feature.quantized:
                says = images_differ(images, stats, feature.column, feature.kind == "image")
                alike = self._alike.setdefault(key, [0, 0])
                alike[bool(says)] += 1
                clip = entry.clips.get(feature.column)
                file, name = clip.file if clip else self._where(entry), f"episode {entry.number}"
                if says and alike[0] >= alike[1]:
                    raise damaged(file, name, says)
                self._repaired(name, file, says)

    def _trusted_statistics(self) -> dict[str, bool]:
        """Whether statistics are those of most episodes, and to the last digit: some tools change numbers only."""
        if self._trusted is None:
            there = sorted(set(self._entries) & set(self._rows.segments))
            chosen = [there[i] for i in sorted({0, len(there) // 2, len(there) - 1})]
            vectors = {k: f for k, f in self._features.items() if f.kind == "numbers"}
            wrong, known = np.zeros(2, int), 0
            for number in chosen:
                stats = self._meta.stats(number)
                try:
                    table = self._rows.table(number, [f.column for f in vectors.values()])
                    arrays = {key: self._numbers(feature, table) for key, feature in vectors.items()}
                except ValueError:
                    continue
                known += bool(stats)
                wrong += [bool(says) for says in self._differences(arrays, stats)]
            self._trusted = dict(zip(("numbers", "rounding"), (2 * wrong <= known).tolist(), strict=True))
            if not self._trusted["numbers"]:
                self.say("the statistics in meta are not those of the numbers, so they were not used to find damages")
        return self._trusted

    def _found(self, features: Mapping[str, Feature]) -> dict[str, Feature]:
        """The features that the data files have, with the dtypes that their numbers have there."""
        found, schema = {}, self._rows.schema
        for key, feature in features.items():
            if feature.kind == "numbers":
                dtype = dtype_in(schema, feature.column)
                if dtype is None:
                    self.say(f"left out: {feature.column!r} is in {INFO}, and no column of numbers in the data files")
                    continue
                feature = replace(feature, array=replace(feature.array, dtype=dtype))
            elif feature.kind == "image" and feature.column not in schema.names:
                self.say(f"left out: {feature.column!r} is in {INFO}, and not in the data files")
                continue
            found[key] = feature
        unknown = [name for name in schema.names if name not in self._info.described]
        if unknown:
            self.say(f"left out: {', '.join(map(repr, unknown[:NOTED]))}, which {INFO} does not describe")
        found = found if self._sidecar is None else self._sidecar.restored(found)
        require(found, "none of the features is in the data files", cure="copy it again")
        return found

    def _all_entries(self) -> dict[int, Entry]:
        """The episodes of the index, and those that it has lost."""
        known, there = dict(self._meta.entries), self._rows.segments
        unknown = sorted(set(there) - set(known))
        if not unknown:
            return known
        if self._meta.damaged or len(known) < (self._info.count or 0):
            known |= recovered(self.path, self._info, self._meta, self._rows, unknown)
            self.say(f"episodes {listed(unknown)} are not in the index, and were recovered from the data files")
        else:
            frames = sum(self._rows.count(number) for number in unknown)
            self.say(f"left out: {frames} frames of episodes {listed(unknown)}, which the index does not have")
        return known

    def _compare_index(self) -> None:
        """Say where the index contradicts the data files, which were taken."""
        there, frames, moved, stale = self._rows.segments, 0, [], []
        for number in there:
            entry = self._entries.get(number)
            if entry is not None and entry.start not in (None, frames):
                moved.append(number)
            if entry is not None and entry.data and entry.data not in self._rows.files_of(number, self.path):
                stale.append(number)
            frames += self._rows.count(number)
        for wrong, what in ((moved, "dataset_from_index"), (stale, "data file")):
            if wrong and not (self._rows.lost and what == "dataset_from_index"):
                says = f"the index has a wrong {what} for {len(wrong)} episodes ({listed(wrong)})"
                self.say(f"{says}; the rows were taken by their own episode_index")
        lost = self._rows.lost
        for stated, count, what in (
            (self._info.count, len(self._entries), "episodes"),
            (self._info.frames, frames, "frames"),
        ):
            if stated is not None and stated != count and not (lost and what == "frames"):
                self.say(f"{INFO} states {stated} {what}, and {count} were found")

    def _odd(self, table: Any, entry: Entry) -> str:
        """What the columns that are not kept contradict, in words."""
        says = []
        if "index" in table.column_names:
            index = column_numbers(table, "index")
            if (np.diff(index) != 1).any():
                says.append("its column index does not count its frames")
        if "task_index" in table.column_names and entry.tasks and self._meta.tasks:
            numbers = np.unique(column_numbers(table, "task_index")).tolist()
            texts = {self._meta.tasks.get(number) for number in numbers}
            if not texts <= set(entry.tasks):
                says.append(f"its task is {entry.tasks[0]!r} in the index, and number {numbers[0]} in the data")
        return "; ".join(says)

    def _repaired(self, name: str, file: str, *findings: str) -> None:
        """Say what was repaired, the first few times of each kind."""
        for finding in filter(None, findings):
            self.note(f"{file}: {name}", finding)

    def _where(self, entry: Entry) -> str:
        """The data file of an episode, for messages."""
        files = self._rows.files_of(entry.number, self.path)
        return files[0] if files else str(entry.data or self.path)


def _counts(stats: Stats) -> list[int]:
    """The lengths that the statistics of numbers state."""
    found = []
    for name, said in stats.items():
        if name in ("frame_index", "timestamp") and "count" in said:
            found.append(int(np.asarray(said["count"]).reshape(-1)[0]))
    return found
