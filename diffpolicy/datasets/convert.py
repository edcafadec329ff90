"""From a recording of any format to one of ours, an episode at a time.

What is converted is read by an `Importer`, changed as the settings ask, checked, and added by the `EpisodeWriter`: a
kill at any moment leaves the episodes that were done, and the same command goes on with the others. While one episode
is written, a thread reads the next; more are never in memory.
"""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, final

import numpy as np
from tqdm import tqdm

from diffpolicy.config.commands import ConvertConfig
from diffpolicy.datasets.conversion_changes import Changes
from diffpolicy.datasets.importers import Array, DamagedEpisode, Episode, Importer, recognize
from diffpolicy.datasets.manifest import digest
from diffpolicy.datasets.source_digest import source_digest
from diffpolicy.datasets.writer import EpisodeWriter
from diffpolicy.util.errors import explain, located, require

NUMBER, TASK, SUCCESS = "source_episode", "task", "success"
"""Names of the arrays that say of each episode its number in the source, its task (an index of the attribute "tasks";
-1: none) and whether it succeeded (1, 0; -1: not known)."""


@final
@dataclass(frozen=True)
class Conversion:
    """What was converted.

    Args:
        path: the recording that was written.
        seen: what the source was recognized as.
        arrays: what was written, by name.
        episodes: number of episodes.
        frames: number of frames of all episodes together.
        findings: what was wrong or repaired, a sentence each.
    """

    path: Path
    seen: str
    arrays: Mapping[str, Array]
    episodes: int
    frames: int
    findings: tuple[str, ...]

    def keys(self, role: str, image: bool = False) -> list[str]:
        """Return the names of the arrays of one role that are images, or are not."""
        return [name for name, array in self.arrays.items() if array.role == role and array.image == image]

    @property
    def train_line(self) -> str:
        """The command that trains on it."""
        settings = [f"dataset.path={self.path}"]
        settings.append(f"observation.vectors=[{','.join(self.keys('observation'))}]")
        if cameras := self.keys("observation", image=True):
            settings.append(f"observation.images=[{','.join(cameras)}]")
        return " ".join(["diffpolicy train task=own", *map(shlex.quote, settings), "run_dir=RUN"])

    def __str__(self) -> str:
        lines = [f"found {len(self.findings)} things:" if self.findings else "nothing was wrong with it"]
        lines += [f"  {finding}" for finding in self.findings]
        for name, array in self.arrays.items():
            unit = f" {array.unit}" if array.unit else ""
            kind = "camera" if array.image else array.role
            lines.append(f"{name} {array.shape} {array.dtype}: {kind}{unit}")
        lines.append(f"{self.episodes} episodes, {self.frames} frames; SHA-256 {digest(self.path)}: {self.path}")
        return "\n".join([*lines, "", "train on it:", f"  {self.train_line}"])


def convert(config: ConvertConfig, *, progress: bool = True) -> Conversion:
    """Convert a recording, or go on with converting it, and return what was written.

    Args:
        config: source, target, and what to change.
        progress: show a progress bar.

    Raises:
        FileNotFoundError: no source.
        FileExistsError: `config.out` is something else than this conversion.
        ValueError: an unknown or unreadable format, settings that do not fit the recording, or no episode left.
    """
    source, findings = Path(config.source).expanduser(), []
    reader, seen = recognize(source, config.format)
    if progress:
        print(f"{source}: {seen}")

    def say(finding: str) -> None:
        if finding not in findings:
            findings.append(finding)

    with located(source), reader(source, say) as importer:
        changes = Changes.of(config, importer.arrays, importer.fps)
        episodes = choose(importer.episodes(), config.episodes)
        tasks = sorted({episode.task for episode in episodes if episode.task is not None})
        writer = EpisodeWriter(config.out, _attributes(config, importer, changes, tasks))
        done = set(writer.meta.get(NUMBER, ()))
        left = [episode for episode in episodes if episode.number not in done]
        with tqdm(
            total=len(episodes),
            initial=len(episodes) - len(left),
            desc="episodes",
            unit="episode",
            disable=not progress,
        ) as bar:
            for episode, arrays in _read_ahead(importer, changes, left):
                bar.update()
                if isinstance(arrays, DamagedEpisode):
                    say(f"left out: {arrays}")
                    continue
                task = -1 if episode.task is None else tasks.index(episode.task)
                success = -1 if episode.success is None else int(episode.success)
                writer.add(arrays, **{NUMBER: episode.number, TASK: task, SUCCESS: success})
        kept = writer.meta.get(NUMBER, [])
        require(kept, "no episode is left", cure=findings[-1] if findings else "choose other episodes")
        by_number = {episode.number: episode for episode in episodes}
        written = [{"name": by_number[number].name, **by_number[number].extra} for number in kept]
        writer.finish({"episodes": written, "findings": findings})
    return Conversion(Path(config.out), seen, changes.arrays, len(kept), writer.frames, tuple(findings))


def choose(episodes: Sequence[Episode], wanted: Any) -> list[Episode]:
    """Return the wanted ones of the episodes, in their order.

    Args:
        episodes: all of them.
        wanted: None for all; "success"; the name of a filter; numbers and ranges as in "0-9,12"; or a list of them.

    Raises:
        ValueError: numbers that do not exist, an unknown filter, or success that the recording does not state.
    """
    if wanted is None:
        return list(episodes)
    given, filters = f"episodes={wanted}", sorted({name for episode in episodes for name in episode.filters})
    if wanted == "success" and wanted not in filters:
        known = any(episode.success is not None for episode in episodes)
        require(known, given, cure="name numbers: this recording does not say which episodes succeeded")
        return [episode for episode in episodes if episode.success]
    if wanted in filters:
        return [episode for episode in episodes if wanted in episode.filters]
    numbers, there = _numbers(wanted, filters), {episode.number for episode in episodes}
    missing = sorted(numbers - there)
    few = f"{min(there)} to {max(there)}" if there else "none"
    require(not missing, f"{given}: there is no episode {missing[:1]}", f"numbers from {few}")
    return [episode for episode in episodes if episode.number in numbers]


def _numbers(wanted: Any, filters: Sequence[str]) -> set[int]:
    parts = wanted if isinstance(wanted, (list, tuple)) else str(wanted).split(",")
    found: set[int] = set()
    for part in parts:
        first, dash, last = str(part).strip().partition("-")
        try:
            found |= set(range(int(first), int(last if dash else first) + 1))
        except ValueError:
            has = f"a filter ({', '.join(filters)}), " if filters else ""
            says = explain(f"episodes={wanted}", f"{has}success, or numbers and ranges such as 0-9,12")
            raise ValueError(says) from None
    return found


def _read_ahead(
    importer: Importer, changes: Changes, episodes: Sequence[Episode]
) -> Iterator[tuple[Episode, dict[str, np.ndarray] | DamagedEpisode]]:
    """Each episode with its arrays, or with what is wrong with it; the next one is read meanwhile."""

    def read(episode: Episode) -> dict[str, np.ndarray] | DamagedEpisode:
        try:
            arrays = importer.read(episode)
            _check(importer.path, episode, arrays, importer.arrays)
            return changes.apply(arrays)
        except DamagedEpisode as error:
            return error

    with ThreadPoolExecutor(1, "import") as reader:
        ahead: Future[dict[str, np.ndarray] | DamagedEpisode] | None = None
        for i, episode in enumerate(episodes):
            now = ahead or reader.submit(read, episode)
            arrays = now.result()
            del now
            ahead = reader.submit(read, episodes[i + 1]) if i + 1 < len(episodes) else None
            yield episode, arrays
            del arrays


def _check(path: Path, episode: Episode, arrays: Mapping[str, np.ndarray], expected: Mapping[str, Array]) -> None:
    """Raise DamagedEpisode unless an episode holds what its recording says: names, shapes, dtypes, finite numbers."""
    where = f"{path}: {episode.name}"
    missing = sorted(expected.keys() ^ arrays.keys())
    require(not missing, f"{where} has {sorted(arrays)}", f"{sorted(expected)}", error=DamagedEpisode)
    lengths = {name: len(values) for name, values in arrays.items()}
    equal = len(set(lengths.values())) == 1 and min(lengths.values()) > 0
    require(equal, f"{where} has arrays of lengths {lengths}", "equally long ones, not empty", error=DamagedEpisode)
    for name, values in arrays.items():
        want = expected[name]
        says = f"{where}: {name!r} has frames {values.shape[1:]} {values.dtype}"
        fits = values.shape[1:] == want.shape and values.dtype == want.dtype
        require(fits, says, f"{want.shape} {want.dtype}", error=DamagedEpisode)
        if values.dtype.kind == "f" and not (finite := np.isfinite(values).reshape(len(values), -1).all(1)).all():
            says = f"{where}: {name!r} holds NaN or infinity at frame {int(np.argmin(finite))}"
            raise DamagedEpisode(explain(says, cure="leave the episode out by episodes="))


def _attributes(config: ConvertConfig, importer: Importer, changes: Changes, tasks: Sequence[str]) -> dict[str, Any]:
    """What a converted recording says of itself."""
    arrays = changes.arrays
    return {
        **({"fps": changes.fps} if changes.fps else {}),
        "units": {name: array.unit for name, array in arrays.items() if array.unit},
        "names": {name: list(array.names) for name, array in arrays.items() if array.names},
        "roles": {name: array.role for name, array in arrays.items()},
        "tasks": list(tasks),
        "source": {"name": importer.path.name, "sha256": source_digest(importer.path), **changes.settings},
        "recording": dict(importer.attrs),
    }
