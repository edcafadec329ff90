"""What a reader of another format gives: which arrays there are, which episodes, and one episode at a time."""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, final

import numpy as np

from diffpolicy.datasets.importers.twins import Stills
from diffpolicy.util.errors import explain
from diffpolicy.util.names import check

ROLES = ("observation", "action", "other")
"""other: rewards, flags, timestamps, privileged states: kept, and not observed unless asked for."""

RELATIVE, ABSOLUTE = "relative", "absolute"
"""What `Importer.attrs` says under "actions" where the format says it: differences to move by, or where to be."""

Say = Callable[[str], None]
"""Takes a sentence about something that is wrong or was repaired, which is shown and stored with the recording."""


class DamagedEpisode(ValueError):
    """An episode that cannot be read; the message names file and episode. The others are read all the same."""


@final
@dataclass(frozen=True)
class Array:
    """One array of a recording: the same in every episode.

    Args:
        shape: of one frame; (H, W, C) of an image, also where the format keeps channels first.
        dtype: of its numbers.
        role: one of `ROLES`.
        image: whether it is an image: (H, W, C) uint8, or uint16 of one channel for depth.
        unit: of its numbers, in words; None if the format does not say.
        names: of its dimensions, in order; None if the format does not say.

    Raises:
        ValueError: an unknown role.
    """

    shape: tuple[int, ...]
    dtype: np.dtype
    role: str = "observation"
    image: bool = False
    unit: str | None = None
    names: tuple[str, ...] | None = None

    def __post_init__(self) -> None:
        check("role of an array", self.role, ROLES)


@final
@dataclass(frozen=True)
class Episode:
    """One episode, before it is read.

    Args:
        number: by which `episodes=` chooses it: the format's own number where there is one.
        name: what the format calls it, such as "demo_7", for messages.
        length: frames, as far as known without reading it.
        task: what was to be done, in words.
        success: whether it was done.
        filters: names of the selections that it belongs to, such as "train".
        extra: whatever else is known of it, as JSON holds it.
    """

    number: int
    name: str
    length: int | None = None
    task: str | None = None
    success: bool | None = None
    filters: tuple[str, ...] = ()
    extra: Mapping[str, Any] = field(default_factory=dict)


class Importer(ABC):
    """One recording of one format, opened for reading; a context manager.

    A subclass reads one format, in one file of this package or of another one (entry point "diffpolicy.importer").
    Memory holds one episode at a time. Nothing of a file is ever unpickled or run.

    Args:
        path: the recording, which `recognize` knew.
        say: is told what is wrong or was repaired.

    Raises:
        ValueError: a recording of this format of which nothing can be read; says which file and what helps.
    """

    summary: ClassVar[str]
    """The format and its variants, in a line."""

    def __init__(self, path: Path, say: Say) -> None:
        self.path, self.say = path, say
        self.name = path.name  # in findings; of a download, whose folder is named by a commit, its address is set
        self.stills = Stills()
        self._noted: Counter[str] = Counter()

    usual_fps: ClassVar[str | None] = None
    """At what rate this format is usually recorded, in words, for a format that does not say it."""

    @classmethod
    @abstractmethod
    def recognize(cls, path: Path) -> str | None:
        """Return what the recording at `path` is, such as "LeRobot v3.0"; None if it is of another format.

        It looks at names and at most at a file's head, so that asking every format costs nothing.
        """

    @property
    @abstractmethod
    def arrays(self) -> Mapping[str, Array]:
        """The arrays by name. The actions are called "action"; all other names are the format's, "/" left out."""

    @property
    def fps(self) -> float | None:
        """Frames per second; None if the format does not say."""
        return None

    @property
    def attrs(self) -> Mapping[str, Any]:
        """Whatever else the recording says of itself, as JSON holds it, such as the robot or the environment.

        "ranges" (depth camera -> [nearest, farthest]) is read by those who train on it.
        """
        return {}

    @property
    def state_keys(self) -> tuple[str, ...]:
        """The arrays that say where the robot is, whose next values can be the action where the format has none."""
        return ()

    @abstractmethod
    def episodes(self) -> Sequence[Episode]:
        """Return all episodes in order, those that turn out to be damaged included."""

    @abstractmethod
    def read(self, episode: Episode) -> dict[str, np.ndarray]:
        """Return the arrays of one episode: name -> (L, *shape), all of `arrays`.

        Raises:
            DamagedEpisode: it cannot be read, or what it holds contradicts itself.
        """

    def note(self, where: str, finding: str) -> None:
        """Say what is wrong with an episode, the first few times of each kind.

        Args:
            where: file and episode.
            finding: what is wrong; those that differ in numbers alone are of one kind.
        """
        kind = re.sub(r"[-+]?\d[\d.]*(e[-+]?\d+)?", "#", finding)
        self._noted[kind] += 1
        if self._noted[kind] <= NOTED:
            more = "; likewise others that are not listed" if self._noted[kind] == NOTED else ""
            self.say(f"{where}: {finding}{more}")

    def close(self) -> None:  # noqa: B027  most formats keep no file open
        """Close the files; calling it again does nothing."""

    def __enter__(self) -> Importer:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


NOTED = 5
"""Findings of one kind that are said one by one."""

LOOKED_AT = 16
"""Episodes that are looked at to find out which arrays there are."""


def typical(found: Sequence[Mapping[str, Any]]) -> int:
    """Return the place of the first one of the most common: one damaged episode does not say what all others hold.

    Args:
        found: for some episodes, what is known of each array by name.
    """
    keys = [repr(sorted(one.items(), key=lambda item: item[0])) for one in found]
    return keys.index(Counter(keys).most_common(1)[0][0])


def damaged(file: object, episode: object, what: object, cure: str = "copy it again") -> DamagedEpisode:
    """Return the error of an episode that cannot be read.

    Args:
        file: where it is.
        episode: its name.
        what: is wrong with it.
        cure: one thing to do.
    """
    return DamagedEpisode(explain(f"{file}: {episode} is damaged ({what})", cure=cure))
