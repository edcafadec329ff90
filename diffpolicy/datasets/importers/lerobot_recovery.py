"""Episodes that a LeRobot data set's index has lost, found again by its data files and videos."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import groupby
from pathlib import Path

from diffpolicy.datasets.importers.base import NOTED, Say
from diffpolicy.datasets.importers.lerobot_info import Info, matching
from diffpolicy.datasets.importers.lerobot_meta import Clip, Entry, Meta
from diffpolicy.datasets.importers.lerobot_rows import DataFiles
from diffpolicy.datasets.importers.video import Video


def recovered(path: Path, info: Info, meta: Meta, rows: DataFiles, lost: Sequence[int]) -> dict[int, Entry]:
    """Return episodes that only the data files know, with their tasks and, where it is unambiguous, their videos.

    Args:
        path: the data set.
        info: its info.
        meta: what is left of its index.
        rows: its data files.
        lost: their numbers.
    """
    cameras = [feature.column for feature in info.features.values() if feature.kind == "video"]
    clips: dict[int, dict[str, Clip]] = {number: {} for number in lost}
    for camera in cameras:
        if info.version == "v3.0":
            for number, clip in _clips(path, info, meta.entries, rows, lost, camera).items():
                clips[number][camera] = clip
    found = {}
    for number in lost:
        videos = clips[number] if info.version == "v3.0" else meta.clips_v2(number)
        found[number] = Entry(number, (), _tasks_of(number, meta, rows), videos)
    return found


def with_tasks(known: Mapping[int, Entry], meta: Meta, rows: DataFiles, say: Say) -> dict[int, Entry]:
    """Return the episodes, those without a task with the one that their rows name.

    Args:
        known: the episodes of the index.
        meta: what the data set says of them.
        rows: its data files.
        say: is told what was taken from the rows, or is missing there too.
    """
    without = [number for number, entry in known.items() if not entry.tasks]
    named = {number: _tasks_of(number, meta, rows) for number in without if number in rows.segments}
    told = {number: tasks for number, tasks in named.items() if tasks}
    if told:
        say(f"the index has no task for episodes {listed(sorted(told))}; it was taken from the data files")
    missing = sorted(set(without) - set(told))
    if missing and len(missing) < len(known):
        say(f"episodes {listed(missing)} have no task; the others have one")
    return {**known, **{number: replace(known[number], tasks=tasks) for number, tasks in told.items()}}


def listed(numbers: Sequence[int]) -> str:
    """Return the first numbers of episodes, for a sentence."""
    more = ", …" if len(numbers) > NOTED else ""
    return ", ".join(map(str, numbers[:NOTED])) + more


def _tasks_of(number: int, meta: Meta, rows: DataFiles) -> tuple[str, ...]:
    """The texts of the tasks that an episode's rows name by their numbers."""
    try:
        index = rows.table(number, ["task_index"]).column("task_index").to_pylist()
    except (ValueError, KeyError):
        return ()
    return tuple(meta.tasks[i] for i in dict.fromkeys(index) if i in meta.tasks)


def _clips(
    path: Path, info: Info, known: Mapping[int, Entry], rows: DataFiles, lost: Sequence[int], camera: str
) -> dict[int, Clip]:
    """Where lost episodes are in the videos of a camera: between their neighbors, if their lengths fill the gap."""
    if info.video_path is None:
        return {}
    files = matching(path, info.video_path.replace("{video_key}", camera))
    lengths: dict[Path, int] = {}
    for file in files:
        try:
            video = Video(file)
            lengths[file] = video.frames
            video.close()
        except ValueError:
            return {}
    found: dict[int, Clip] = {}
    for _, run in groupby(enumerate(sorted(lost)), lambda pair: pair[1] - pair[0]):
        numbers = [number for _, number in run]
        before, after = (known.get(n) for n in (numbers[0] - 1, numbers[-1] + 1))
        place, frame = 0, 0
        if before is not None and camera in before.clips:
            if path / before.clips[camera].file not in files:
                continue
            video = path / before.clips[camera].file
            if video not in lengths:
                continue
            place = files.index(video)
            frame = round((before.clips[camera].stop or 0) * info.fps)
        elif numbers[0] > 0:
            continue
        walked: dict[int, Clip] = {}
        for number in numbers:
            count = rows.count(number)
            if place < len(files) and frame == lengths[files[place]]:
                place, frame = place + 1, 0
            if place == len(files) or frame + count > lengths[files[place]]:
                break
            file = files[place].relative_to(path).as_posix()
            walked[number] = Clip(file, frame / info.fps, (frame + count) / info.fps)
            frame += count
        filled = place < len(files) and _ends_right(path, info, files, lengths, place, frame, after, camera)
        found |= walked if len(walked) == len(numbers) and filled else {}
    return found


def _ends_right(
    path: Path,
    info: Info,
    files: Sequence[Path],
    lengths: Mapping[Path, int],
    place: int,
    frame: int,
    after: Entry | None,
    camera: str,
) -> bool:
    """Whether what was filled ends where the next known episode begins, or at the end of the last video."""
    at_end = frame == lengths[files[place]]
    if after is None or camera not in after.clips:
        return at_end and place == len(files) - 1
    clip = after.clips[camera]
    start = round(clip.start * info.fps)
    if path / clip.file == files[place]:
        return start == frame
    return at_end and start == 0 and place + 1 < len(files) and path / clip.file == files[place + 1]
