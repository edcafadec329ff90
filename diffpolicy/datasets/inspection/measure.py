"""Everything that is measured of a recording, in one pass, an episode at a time."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import final

import numpy as np
from tqdm import tqdm

from diffpolicy.datasets.conversion_changes import moving
from diffpolicy.datasets.convert import read_checked
from diffpolicy.datasets.importers import Array, DamagedEpisode, Episode, Importer
from diffpolicy.datasets.inspection.numbers import Numbers, Place
from diffpolicy.datasets.inspection.pictures import Pictures
from diffpolicy.datasets.inspection.relations import Moments
from diffpolicy.datasets.inspection.rotations import Rotations
from diffpolicy.util.files import new_digest

SHOWN = 4
"""Episodes of which the page shows pictures and numbers over time."""

LINES = 32
"""Numbers of an array that are shown over time."""

DRAWN = 24
"""Episodes whose trajectories are drawn."""

RELATED = 64
"""Numbers of an array up to which rotations are looked for in it, and its relation to the action is measured."""

TIME = re.compile(r"(.*_)?(timestamps?|time|stamp)", re.IGNORECASE)
"""Names of arrays that say when a frame was recorded."""

_REST_FRAMES, _REST_SECONDS = 3, 0.3  # motions ease in and out: so long a rest at either end is normal
_GAP = 1.5  # usual steps from which a frame is missing
_POINTS = 2000  # frames of a drawn trajectory
_PRINTED = 8  # frames by which nearly equal episodes are known
_PRINTED_DIMS = 32


@final
@dataclass(frozen=True)
class Measured:
    """What is kept of one episode.

    Args:
        episode: what the recording says of it.
        length: frames.
        head: frames before anything moves.
        tail: frames after the last motion.
        still: whether nothing moves at all.
        repeats: frames inside that equal the one before in every array.
        runs: of how many runs these repeats consist.
        digest: of all actions and observed numbers.
        print: some frames of them, (8, up to 32), by which nearly equal episodes are found.
        late: places of gaps in the timestamps, with how many usual steps they last.
        stuck: places where a timestamp is not behind the one before.
    """

    episode: Episode
    length: int
    head: int
    tail: int
    still: bool
    repeats: int
    runs: int
    digest: str
    print: np.ndarray
    late: tuple[tuple[Place, float], ...] = ()
    stuck: tuple[Place, ...] = ()


@final
@dataclass
class Measurements:
    """What was measured of a recording.

    Args:
        arrays: what the recording says it holds.
        fps: frames per second; None if it does not say.
        state_keys: arrays that say where the robot is, as far as the format knows.
        usual_fps: at what rate the format is usually recorded, in words.
        episodes: of each that could be read.
        damaged: episode -> what is wrong with it.
        numbers: by array.
        rotations: by array.
        pictures: by camera.
        moments: of each action (by name) and each state (by name).
        trajectories: array -> [(number of the episode, its first two numbers (L, 2))].
        traces: array -> [(number of the episode, frames (L,), its numbers (L, up to `LINES`))].
        clock: the usual time between two frames, in whatever unit timestamps have; None without any.
        said: what the reader said, a sentence each.
    """

    arrays: Mapping[str, Array]
    fps: float | None
    state_keys: tuple[str, ...] = ()
    usual_fps: str | None = None
    episodes: list[Measured] = field(default_factory=list)
    damaged: list[tuple[Episode, str]] = field(default_factory=list)
    numbers: dict[str, Numbers] = field(default_factory=dict)
    rotations: dict[str, Rotations] = field(default_factory=dict)
    pictures: dict[str, Pictures] = field(default_factory=dict)
    moments: dict[str, dict[str, Moments]] = field(default_factory=dict)
    trajectories: dict[str, list[tuple[int, np.ndarray]]] = field(default_factory=dict)
    traces: dict[str, list[tuple[int, np.ndarray, np.ndarray]]] = field(default_factory=dict)
    clock: float | None = None
    said: Sequence[str] = ()

    def __post_init__(self) -> None:
        for name, array in self.arrays.items():
            if array.image:
                self.pictures[name] = Pictures(name, array)
            else:
                self.numbers[name] = Numbers(name, array)
        small = {name: one.dims for name, one in self.numbers.items() if one.dims <= RELATED}
        self.rotations = {name: Rotations(dims) for name, dims in small.items()}
        actions = [name for name in small if self.arrays[name].role == "action"]
        states = [name for name in small if self.arrays[name].role == "observation"]
        self.moments = {a: {s: Moments(small[a], small[s]) for s in states} for a in actions}

    @property
    def frames(self) -> int:
        """Frames of all episodes that could be read."""
        return sum(one.length for one in self.episodes)

    @property
    def lengths(self) -> np.ndarray:
        """(E,) frames of each."""
        return np.array([one.length for one in self.episodes])

    def idle(self, one: Measured) -> tuple[int, int]:
        """Return the frames at head and tail of an episode that stand still; a short moment of rest is none."""
        rest = max(_REST_FRAMES, round(_REST_SECONDS * (self.fps or 0)))
        return one.head if one.head > rest else 0, one.tail if one.tail > rest else 0

    def of_role(self, *roles: str) -> list[Numbers]:
        """Return the arrays of numbers that have one of the roles, and are no maps."""
        return [one for name, one in self.numbers.items() if self.arrays[name].role in roles and not one.wide]


def measure(importer: Importer, said: Sequence[str], *, progress: bool = False) -> Measurements:
    """Read a recording once, an episode at a time, and return what was measured.

    Args:
        importer: the opened recording.
        said: filled by the importer while it reads.
        progress: show a progress bar.
    """
    found = Measurements(importer.arrays, importer.fps, importer.state_keys, importer.usual_fps, said=said)
    episodes = importer.episodes()
    shown, drawn = _spread(episodes, SHOWN), _spread(episodes, DRAWN)
    clocks: list[float] = []
    for episode in tqdm(episodes, desc="episodes", unit="episode", disable=not progress, leave=False):
        try:
            arrays = read_checked(importer, episode)
        except DamagedEpisode as error:
            found.damaged.append((episode, str(error)))
            continue
        _add(found, episode, arrays, episode.number in shown, episode.number in drawn, clocks)
        del arrays
    found.clock = float(np.median(clocks)) if clocks else None
    return found


def _add(
    found: Measurements,
    episode: Episode,
    arrays: Mapping[str, np.ndarray],
    shown: bool,
    drawn: bool,
    clocks: list[float],
) -> None:
    number, length = episode.number, len(next(iter(arrays.values())))
    flat = {name: arrays[name].reshape(length, -1) for name in found.numbers}
    # maps stay as they are: eight times their size is too much
    flat = {name: v if found.numbers[name].wide else v.astype(np.float64) for name, v in flat.items()}
    for name, values in flat.items():
        found.numbers[name].add(values, number)
        if name in found.rotations:
            found.rotations[name].add(values, number)
        step = -(-length // _POINTS)
        if drawn and values.shape[1] >= 2:
            found.trajectories.setdefault(name, []).append((number, values[::step, :2].copy()))
        if shown and not found.numbers[name].wide:
            lines = values[::step, :LINES].copy()
            found.traces.setdefault(name, []).append((number, np.arange(0, length, step), lines))
    for action, states in found.moments.items():
        for state, moments in states.items():
            moments.add(flat[action], flat[state])
    seen = {name: values for name, values in flat.items() if found.arrays[name].role != "other"}
    moved = np.zeros(length - 1, bool)
    for values in seen.values():
        moved |= (values[1:] != values[:-1]).any(axis=1)
    for name, camera in found.pictures.items():
        camera.add(arrays[name], number, moved, shown)
    found.episodes.append(_episode(found, episode, arrays, seen, moved, clocks))


def _episode(
    found: Measurements,
    episode: Episode,
    arrays: Mapping[str, np.ndarray],
    seen: Mapping[str, np.ndarray],
    moved: np.ndarray,
    clocks: list[float],
) -> Measured:
    length = len(moved) + 1
    first, stop = moving({name: arrays[name] for name in seen}) if seen else (0, length)
    same = ~moved[first : stop - 1]
    for name in found.pictures:
        at = np.flatnonzero(same)
        images = arrays[name]
        same[at] = [np.array_equal(images[first + i], images[first + i + 1]) for i in at]
    late, stuck = _times(found, episode.number, arrays, clocks)
    return Measured(
        episode,
        length,
        first,
        length - stop,
        not moved.any(),
        int(same.sum()),
        int((np.diff(same.astype(int), prepend=0) > 0).sum()),
        _digest(seen),
        _print(found, seen),
        late,
        stuck,
    )


def _times(
    found: Measurements, episode: int, arrays: Mapping[str, np.ndarray], clocks: list[float]
) -> tuple[tuple[tuple[Place, float], ...], tuple[Place, ...]]:
    """Gaps and standstills of the first array of timestamps, by the episode's usual step."""
    name = next((name for name, one in found.numbers.items() if one.dims == 1 and TIME.fullmatch(name)), None)
    if name is None or len(arrays[name]) < 3:
        return (), ()
    steps = np.diff(arrays[name].reshape(-1).astype(np.float64))
    usual = float(np.median(steps))
    stuck = tuple(Place(episode, int(at) + 1) for at in np.flatnonzero(steps <= 0))
    if usual <= 0:
        return (), stuck
    clocks.append(usual)
    gaps = np.flatnonzero(steps > _GAP * usual)
    return tuple((Place(episode, int(at) + 1), float(steps[at] / usual)) for at in gaps), stuck


def _digest(seen: Mapping[str, np.ndarray]) -> str:
    digest = new_digest()
    for name, values in sorted(seen.items()):
        digest.update(f"{name} {values.shape}".encode())
        digest.update(np.ascontiguousarray(values).data)
    return str(digest.hexdigest())


def _print(found: Measurements, seen: Mapping[str, np.ndarray]) -> np.ndarray:
    """Some frames of actions and observed numbers, actions first."""
    names = sorted(seen, key=lambda name: found.arrays[name].role != "action")
    columns = [seen[name] for name in names if not found.numbers[name].wide]
    if not columns:
        return np.empty((_PRINTED, 0), np.float32)
    frames = np.linspace(0, len(columns[0]) - 1, _PRINTED).round().astype(int)
    return np.concatenate([values[frames] for values in columns], axis=1)[:, :_PRINTED_DIMS].astype(np.float32)


def _spread(episodes: Sequence[Episode], count: int) -> set[int]:
    """Numbers of some episodes, from the first to the last."""
    if not episodes:
        return set()
    return {episodes[i].number for i in np.linspace(0, len(episodes) - 1, count).round().astype(int)}
