"""What a LeRobot data set says of its episodes: one reader for v3.0's parquet files, one for v2's JSON lines."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, final

import numpy as np

from diffpolicy.datasets.importers.base import Say
from diffpolicy.datasets.importers.lerobot_info import Info, fill
from diffpolicy.util.errors import require
from diffpolicy.util.optional import optional

Stats = Mapping[str, Mapping[str, np.ndarray]]
"""Feature -> "min", "max", "mean", "std", "count" -> numbers."""

_EPISODES = "meta/episodes"
_KINDS = ("min", "max", "mean", "std", "count")
_ERRORS = (OSError, ValueError, KeyError, TypeError, IndexError, OverflowError, MemoryError, RecursionError)


@final
@dataclass(frozen=True)
class Clip:
    """Where an episode is in a video.

    Args:
        file: relative to the data set.
        start: seconds.
        stop: seconds; None is the end of the file.
    """

    file: str
    start: float = 0.0
    stop: float | None = None


@final
@dataclass(frozen=True)
class Entry:
    """What the data set says of an episode.

    Args:
        number: its index.
        lengths: its frames, as each place that states them has it; the one called length comes first.
        tasks: what was to be done.
        clips: camera -> where it is.
        data: its data file, relative to the data set; None if it is not said.
        start: index of its first frame; None if it is not said.
    """

    number: int
    lengths: tuple[int, ...]
    tasks: tuple[str, ...] = ()
    clips: Mapping[str, Clip] = field(default_factory=dict)
    data: str | None = None
    start: int | None = None


@final
class Meta:
    """The metadata of all episodes.

    Args:
        path: the data set.
        info: its info.
        cameras: names of the features that are videos.
        say: is told what is damaged.
    """

    def __init__(self, path: Path, info: Info, cameras: Sequence[str], say: Say) -> None:
        self._path, self._info, self._cameras, self._say = path, info, cameras, say
        self.entries: dict[int, Entry] = {}
        self.damaged: list[str] = []
        self._places: dict[int, tuple[Path, int]] = {}
        self._loaded: tuple[Path, dict[int, Any]] | None = None
        self.tasks = dict(self._tasks())
        for entry in self._v3() if info.version == "v3.0" else self._v2():
            if entry.number in self.entries and entry != self.entries[entry.number]:
                say(f"{_EPISODES} has episode {entry.number} twice, differently; the first one counts")
            self.entries.setdefault(entry.number, entry)

    def stats(self, number: int) -> Stats:
        """Return the statistics of an episode; empty if there are none or they are damaged."""
        if number not in self._places:
            return {}
        file, place = self._places[number]
        try:
            if file.suffix == ".parquet":
                return self._stats_in_table(file, place)
            with file.open("rb") as stream:
                stream.seek(place)
                said = json.loads(stream.readline())["stats"]
            return {name: {kind: np.asarray(v) for kind, v in one.items()} for name, one in said.items()}
        except (*_ERRORS, AttributeError) as error:
            self._say(f"{file}: the statistics of episode {number} are damaged ({error}), so they check nothing")
            return {}

    def _stats_in_table(self, file: Path, row: int) -> Stats:
        if self._loaded is None or self._loaded[0] != file:
            parquet = optional("pyarrow.parquet", "recordings").ParquetFile(file)
            names = [n for n in parquet.schema_arrow.names if n.startswith("stats/") and n.split("/")[-1] in _KINDS]
            self._loaded = file, {name: column for name, column in _columns(parquet, names).items()}
        found: dict[str, dict[str, np.ndarray]] = {}
        for name, column in self._loaded[1].items():
            _, feature, kind = name.partition("/")[0], name.partition("/")[2].rpartition("/")[0], name.split("/")[-1]
            found.setdefault(feature, {})[kind] = np.asarray(column[row].as_py())
        return found

    def _tasks(self) -> Iterator[tuple[int, str]]:
        """The texts of the tasks by their number."""
        table, lines = self._path / "meta/tasks.parquet", self._path / "meta/tasks.jsonl"
        try:
            if table.is_file():
                rows = optional("pyarrow.parquet", "recordings").read_table(table).to_pylist()
                for row in rows:
                    text = next((row[name] for name in row if name != "task_index"), "")
                    yield int(row["task_index"]), str(text)
            elif lines.is_file():
                for line in lines.read_text(encoding="utf-8").splitlines():
                    row = json.loads(line)
                    yield int(row["task_index"]), str(row["task"])
            else:
                self._say("meta has no tasks")
        except _ERRORS as error:
            self._say(f"{table if table.is_file() else lines} is damaged ({error}), so tasks may be missing")

    def _v3(self) -> Iterator[Entry]:
        """The episodes in the tables of v3.0; those of a table that cannot be read are missing."""
        files = sorted((self._path / _EPISODES).rglob("*.parquet"))
        require(files or self._info.data_path, f"{self._path} has no {_EPISODES}")
        for file in files:
            try:
                parquet = optional("pyarrow.parquet", "recordings").ParquetFile(file)
                names = [name for name in parquet.schema_arrow.names if not name.startswith("stats/")]
                rows = _rows(parquet, names)
                found = [self._entry(row) for row in rows]
            except _ERRORS as error:
                self.damaged.append(file.relative_to(self._path).as_posix())
                self._say(f"{self.damaged[-1]} cannot be read ({short(error)}); its episodes are found by the data")
                continue
            for i, entry in enumerate(found):
                self._places.setdefault(entry.number, (file, i))
                yield entry
        if not files:
            self.damaged.append(_EPISODES)
            self._say(f"{_EPISODES} is missing; the episodes are found by the data")

    def _entry(self, row: Mapping[str, Any]) -> Entry:
        lengths = [int(row["length"])]
        start, stop = row.get("dataset_from_index"), row.get("dataset_to_index")
        if start is not None and stop is not None:
            lengths.append(int(stop) - int(start))
        clips = {}
        for camera in self._cameras:
            place = {name: row.get(f"videos/{camera}/{name}") for name in ("chunk_index", "file_index")}
            if self._info.video_path is None or None in place.values():
                continue
            first, last = (row.get(f"videos/{camera}/{name}") for name in ("from_timestamp", "to_timestamp"))
            file = fill(self._info.video_path, video_key=camera, **place)
            clips[camera] = Clip(file, float(first or 0), None if last is None else float(last))
            if last is not None:
                lengths.append(round((float(last) - float(first or 0)) * self._info.fps))
        chunk, file = row.get("data/chunk_index"), row.get("data/file_index")
        data = None
        if chunk is not None and file is not None:
            data = fill(self._info.data_path, chunk_index=int(chunk), file_index=int(file))
        tasks = tuple(str(task) for task in row.get("tasks") or ())
        return Entry(
            int(row["episode_index"]), tuple(lengths), tasks, clips, data, None if start is None else int(start)
        )

    def _v2(self) -> Iterator[Entry]:
        """The episodes in the lines of v2.0 and v2.1; damaged lines are said and left out."""
        self._places = dict(_lines(self._path / "meta/episodes_stats.jsonl"))
        file = self._path / "meta/episodes.jsonl"
        if not file.is_file():
            self.damaged.append("meta/episodes.jsonl")
            self._say("meta/episodes.jsonl is missing; the episodes are found by the data")
            return
        for i, line in enumerate(file.read_bytes().splitlines()):
            try:
                row = json.loads(line)
                number, tasks = int(row["episode_index"]), tuple(str(task) for task in row.get("tasks") or ())
                entry = Entry(number, (int(row["length"]),), tasks, self.clips_v2(number), self.data_v2(number))
            except _ERRORS as error:
                self.damaged.append("meta/episodes.jsonl")
                self._say(f"meta/episodes.jsonl: line {i + 1} is damaged ({error}); its episode is found by the data")
                continue
            yield entry

    def data_v2(self, number: int) -> str:
        """Return the file of an episode of v2, which the template alone says."""
        return fill(self._info.data_path, episode_chunk=number // self._info.chunk, episode_index=number)

    def clips_v2(self, number: int) -> dict[str, Clip]:
        """Return the videos of an episode of v2, which the template alone says."""
        if self._info.video_path is None:
            return {}
        place = {"episode_chunk": number // self._info.chunk, "episode_index": number}
        template = self._info.video_path
        return {camera: Clip(fill(template, video_key=camera, **place)) for camera in self._cameras}


def _columns(parquet: Any, names: Sequence[str]) -> dict[str, Any]:
    table = parquet.read(columns=list(names), use_threads=False)
    table.validate(full=True)
    return {name: table.column(name) for name in names}


def _rows(parquet: Any, names: Sequence[str]) -> list[dict[str, Any]]:
    """The rows of some columns, which have "/" in their names and so cannot be asked for by a path."""
    columns = {name: column.to_pylist() for name, column in _columns(parquet, names).items()}
    return [dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)]


def _lines(file: Path) -> Iterator[tuple[int, tuple[Path, int]]]:
    """Where the line of each episode begins."""
    if not file.is_file():
        return
    place = 0
    with file.open("rb") as stream:
        for line in stream:
            found = re.match(rb'\s*\{\s*"episode_index"\s*:\s*(\d+)', line)
            if found:
                yield int(found[1]), (file, place)
            place += len(line)


def short(error: BaseException) -> str:
    """Return the first line of another library's message."""
    return str(error).strip().splitlines()[0][:200] if str(error).strip() else type(error).__name__
