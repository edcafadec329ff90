"""From a recording of any format to one of ours, an episode at a time.

What is converted is read by an `Importer`, changed as the settings ask, checked, and added by the `EpisodeWriter`: a
kill at any moment leaves the episodes that were done, and the same command goes on with the others. While one episode
is written, a thread reads the next; more are never in memory.
"""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, final

import numpy as np
from tqdm import tqdm

from diffpolicy.config.commands import ConvertConfig
from diffpolicy.datasets.conversion_changes import RELATIVE_ACTION, Changes, looks_relative
from diffpolicy.datasets.importers import Array, DamagedEpisode, Episode, Importer, recognize
from diffpolicy.datasets.importers.base import RELATIVE
from diffpolicy.datasets.importers.twins import odd_twin
from diffpolicy.datasets.manifest import digest
from diffpolicy.datasets.selection import is_numbered, numbered
from diffpolicy.datasets.source_digest import source_digest
from diffpolicy.datasets.writer import EpisodeWriter, alone
from diffpolicy.util import hub
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
        lines = ["what to know of it:" if self.findings else "nothing was wrong with it"]
        lines += [f"  {finding}" for finding in self.findings]
        for name, array in self.arrays.items():
            unit = f" {array.unit}" if array.unit else ""
            kind = "camera" if array.image else array.role
            lines.append(f"{name} {array.shape} {array.dtype}: {kind}{unit}")
        lines.append(f"{self.episodes} episodes, {self.frames} frames; SHA-256 {digest(self.path)}: {self.path}")
        return "\n".join([*lines, "", "train on it:", f"  {self.train_line}"])


@final
class _Findings:
    """What is wrong or was repaired, in the order of the episodes, whichever thread finds it and when.

    Args:
        lines: the sentences so far.
    """

    def __init__(self) -> None:
        self.lines: list[str] = []
        self._aside: list[str] | None = None

    def say(self, finding: str) -> None:
        """Add a sentence that is not there yet."""
        self.add([finding], self.lines if self._aside is None else self._aside)

    def add(self, findings: Sequence[str], lines: list[str] | None = None) -> None:
        """Add sentences behind `lines`, or behind all that there are."""
        lines = self.lines if lines is None else lines
        lines += [finding for finding in dict.fromkeys(findings) if finding not in lines]

    def resume(self, before: Sequence[str]) -> None:
        """Put the sentences of the run that was broken off where they were."""
        now, self.lines = self.lines, list(before)
        self.add(now)

    @contextmanager
    def aside(self) -> Iterator[list[str]]:
        """Collect what is said inside, instead of adding it."""
        self._aside = said = []
        try:
            yield said
        finally:
            self._aside = None


@final
@dataclass(frozen=True)
class _Read:
    """An episode that was read, or what is wrong with it."""

    episode: Episode
    arrays: dict[str, np.ndarray] | None
    said: list[str]


def convert(config: ConvertConfig, *, progress: bool = True) -> Conversion:
    """Convert a recording, or go on with converting it, and return what was written.

    Args:
        config: source, target, and what to change.
        progress: show a progress bar.

    Raises:
        FileNotFoundError: no source.
        FileExistsError: `config.out` is something else than this conversion, or being written.
        ImportError: the format needs a package that is an extra.
        ValueError: an unknown or unreadable format, settings that do not fit the recording or what is there of the
            conversion, or no episode left.
    """
    source, findings = hub.local(config.source, "dataset"), _Findings()
    shown = hub.name_of(config.source) if hub.is_address(config.source) else source
    with located(shown):
        reader, seen = recognize(source, config.format)
        if progress:
            print(f"{shown}: {seen}")
        importer = reader(source, findings.say)
        importer.name = hub.name_of(config.source)
    with importer:
        with located(shown):
            fps = _fps(config, importer, findings)
            changes = Changes.of(config, importer.arrays, fps, importer.state_keys)
            episodes = choose(importer.episodes(), config.episodes)
            if config.every > 1 and not changes.next_of and _is_relative(importer, episodes):
                findings.say(RELATIVE_ACTION)
            tasks = sorted({episode.task for episode in episodes if episode.task is not None})
            attrs = _attributes(config, importer, changes, tasks)
        with alone(config.out):
            writer = EpisodeWriter(config.out, attrs)
            findings.resume(writer.noted.get("findings", []))
            kept = _write(importer, changes, episodes, tasks, writer, findings, progress)
    return Conversion(Path(config.out), seen, changes.arrays, kept, writer.frames, tuple(findings.lines))


def _write(
    importer: Importer,
    changes: Changes,
    episodes: Sequence[Episode],
    tasks: Sequence[str],
    writer: EpisodeWriter,
    findings: _Findings,
    progress: bool,
) -> int:
    """Add the episodes that are not there yet, and return how many there are then."""
    done = set(writer.meta.get(NUMBER, ()))
    left = [episode for episode in episodes if episode.number not in done]
    with tqdm(
        total=len(episodes),
        initial=len(episodes) - len(left),
        desc="episodes",
        unit="episode",
        disable=not progress,
    ) as bar:
        for read in _read_ahead(importer, changes, left, findings):
            bar.update()
            findings.add(read.said)
            if read.arrays is None:
                continue
            episode = read.episode
            task = -1 if episode.task is None else tasks.index(episode.task)
            success = -1 if episode.success is None else int(episode.success)
            if findings.lines:  # what was found stays, also if the next moment is the last one
                writer.note({"findings": findings.lines})
            writer.add(read.arrays, **{NUMBER: episode.number, TASK: task, SUCCESS: success})
    kept = writer.meta.get(NUMBER, [])
    why = findings.lines[-1] if findings.lines else "choose other episodes"
    require(kept, f"{importer.path}: no episode is left of {len(episodes)}", cure=why)
    by_number = {episode.number: episode for episode in episodes}
    written = [{"name": by_number[number].name, **by_number[number].extra} for number in kept]
    writer.finish({"episodes": written, "findings": findings.lines})
    return len(kept)


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
    if str(wanted) in filters:
        return [episode for episode in episodes if str(wanted) in episode.filters]
    there = {episode.number for episode in episodes}
    require(there, f"{given}, of a recording without episodes")
    parts = wanted if isinstance(wanted, (list, tuple)) else str(wanted).strip("[]").split(",")
    kinds = f"a filter ({', '.join(filters)}), " if filters else ""
    says = f"episodes={wanted}", f"{kinds}success, or numbers and ranges such as 0-9,12"
    require(all(is_numbered(part) for part in parts), *says)
    numbers = numbered(parts, there, f"episodes={wanted}")
    return [episode for episode in episodes if episode.number in numbers]


def _fps(config: ConvertConfig, importer: Importer, findings: _Findings) -> float | None:
    """The frames per second of the source: what the settings say before what the recording does."""
    require(config.fps is None or config.fps > 0, f"fps={config.fps}", "above 0")
    if importer.fps is None and config.fps is None:
        usual = f" ({importer.usual_fps})" if importer.usual_fps else ""
        findings.say(f"it does not say how many frames a second it has{usual}: add fps=N, if you know it")
    if None not in (importer.fps, config.fps) and importer.fps != config.fps:
        findings.say(f"it has {importer.fps:g} frames a second by its own word, and {config.fps:g} as told")
    fps = config.fps or importer.fps
    return None if fps is None else float(fps)


def _is_relative(importer: Importer, episodes: Sequence[Episode]) -> bool:
    """Whether actions are differences: what the format says, or else what the first readable episode looks like."""
    if said := importer.attrs.get("actions"):
        return bool(said == RELATIVE)
    for episode in episodes:
        with suppress(ValueError):
            return looks_relative(importer.read(episode), importer.arrays)
    return False


def _read_ahead(
    importer: Importer, changes: Changes, episodes: Sequence[Episode], findings: _Findings
) -> Iterator[_Read]:
    """Each episode with its arrays, or with what is wrong with it; the next one is read meanwhile."""

    def read(episode: Episode) -> _Read:
        with findings.aside() as said:
            try:
                return _Read(episode, changes.apply(read_checked(importer, episode)), said)
            except ValueError as error:
                says = str(error) if isinstance(error, DamagedEpisode) else f"{episode.name}: {error}"
                return _Read(episode, None, [*said, f"left out: {says}"])

    with ThreadPoolExecutor(1, "import") as reader:
        ahead: Future[_Read] | None = None
        for i, episode in enumerate(episodes):
            now = ahead or reader.submit(read, episode)
            result = now.result()
            del now
            ahead = reader.submit(read, episodes[i + 1]) if i + 1 < len(episodes) else None
            yield result
            del result


def read_checked(importer: Importer, episode: Episode) -> dict[str, np.ndarray]:
    """Return the arrays of an episode, which hold what the recording says; numbers that differ are noted.

    Args:
        importer: the opened recording.
        episode: one of its episodes.

    Raises:
        DamagedEpisode: it cannot be read, or holds something else than the recording says.
    """
    try:
        arrays = importer.read(episode)
    except DamagedEpisode:
        raise
    except ValueError as error:  # of a reader that names no episode
        raise DamagedEpisode(f"{episode.name}: {error}") from error
    check_read(importer.path, episode, arrays, importer.arrays)
    where = f"{importer.name}: {episode.name}"
    if finding := odd_twin(arrays):
        importer.note(where, finding)
    still = {name: values for name, values in arrays.items() if importer.arrays[name].role != "action"}
    for found in importer.stills.look(where, still):
        importer.note(*found)
    return arrays


def check_read(path: Path, episode: Episode, arrays: Mapping[str, np.ndarray], expected: Mapping[str, Array]) -> None:
    """Raise DamagedEpisode unless an episode holds what its recording says: names, shapes, dtypes, finite numbers.

    Args:
        path: of the recording, for the message.
        episode: that was read.
        arrays: what was read.
        expected: what the recording says.
    """
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
    asked = {} if config.episodes is None else {"episodes": config.episodes}
    recording = dict(importer.attrs)
    known = recording.pop("ranges", None)
    known = known if isinstance(known, Mapping) else {}
    ranges = {new: known[old] for old, new in changes.names.items() if old in known}
    return {
        **({"fps": changes.fps} if changes.fps else {}),
        "units": {name: array.unit for name, array in arrays.items() if array.unit},
        "names": {name: list(array.names) for name, array in arrays.items() if array.names},
        "roles": {name: array.role for name, array in arrays.items()},
        "tasks": list(tasks),
        "source": {"name": importer.name, "digest": source_digest(importer.path), **asked, **changes.settings},
        **({"ranges": ranges} if ranges else {}),
        "recording": recording,
    }
