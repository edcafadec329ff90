"""npz files: a folder with a file an episode, or one file that holds all of them and their ends."""

from __future__ import annotations

import re
import zipfile
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import ClassVar, final

import numpy as np

from diffpolicy.datasets.importers.base import Array, Episode, Importer, Say, damaged
from diffpolicy.util.errors import explain, require

_ENDS = "episode_ends"
_ACTIONS = ("action", "actions")
_OTHER = re.compile(r"(next_)?(rewards?|dones?|success(es)?|terminat\w+|truncat\w+|timestamps?|time)")
_BROKEN = (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile, zlib.error, MemoryError)


@final
class NpzImporter(Importer):
    """A folder of `.npz` files, an episode each, or one file: a single episode, or several that `episode_ends` parts.

    Every array has time on axis 0; one of four dimensions holds images. The actions are called "action" or "actions".
    """

    summary: ClassVar[str] = "arrays in .npz files, one an episode, or one with episode_ends"

    def __init__(self, path: Path, say: Say) -> None:
        super().__init__(path, say)
        self._files = _files(path)
        self._whole = self._load(self._files[0], "the recording") if path.is_file() else None
        self._ends = self._episode_ends()
        self._arrays = self._describe()

    @classmethod
    def recognize(cls, path: Path) -> str | None:
        files = _files(path)
        if not files:
            return None
        return "an npz file" if path.is_file() else f"a folder of {len(files)} npz files"

    @property
    def arrays(self) -> Mapping[str, Array]:
        return self._arrays

    def episodes(self) -> Sequence[Episode]:
        if self._ends is None:
            return [Episode(number, file.stem) for number, file in enumerate(self._files)]
        lengths = np.diff(self._ends, prepend=0)
        return [Episode(number, f"episode {number}", int(length)) for number, length in enumerate(lengths)]

    def read(self, episode: Episode) -> dict[str, np.ndarray]:
        if self._whole is None:
            return self._load(self._files[episode.number], episode.name)
        if self._ends is None:
            return self._whole
        stop = int(self._ends[episode.number])
        start = stop - (episode.length or 0)
        return {name: values[start:stop] for name, values in self._whole.items() if name != _ENDS}

    def _load(self, file: Path, episode: str) -> dict[str, np.ndarray]:
        """The arrays of a file, the actions called "action"; a checksum of the zip guards each."""
        if not zipfile.is_zipfile(file):
            raise damaged(file, episode, "it is no zip file, as every npz file is")
        try:
            with np.load(file, allow_pickle=False) as opened:
                found = {name: opened[name] for name in opened.files}
        except _BROKEN as error:
            raise damaged(file, episode, error) from error
        named = [name for name in _ACTIONS if name in found]
        return {"action" if name in named[:1] else name: values for name, values in found.items()}

    def _episode_ends(self) -> np.ndarray | None:
        if self._whole is None or _ENDS not in self._whole:
            return None
        ends = self._whole[_ENDS]
        right = ends.ndim == 1 and ends.dtype.kind in "iu" and len(ends) and (np.diff(ends, prepend=0) > 0).all()
        require(right, f"{_ENDS} are {ends[:5]}…", "integers that increase strictly from above 0")
        frames = {name: len(values) for name, values in self._whole.items() if name != _ENDS}
        fits = all(count == ends[-1] for count in frames.values())
        require(fits, f"{_ENDS} end at {ends[-1]}, and the arrays have the lengths {frames}", "equal ones")
        return ends.astype(np.int64)

    def _describe(self) -> dict[str, Array]:
        """What the first readable file holds."""
        said: Exception = ValueError("no file")
        for number, file in enumerate(self._files):
            try:
                found = self._whole or self._load(file, f"episode {number}")
            except ValueError as error:
                said = error
                continue
            return {name: _array(name, values) for name, values in found.items() if name != _ENDS}
        raise ValueError(explain(f"no file can be read ({said})"))


def _files(path: Path) -> list[Path]:
    """The npz files at `path`, numbers in their names in numerical order."""
    if path.is_file():
        return [path] if path.suffix == ".npz" else []
    return sorted(path.glob("*.npz"), key=lambda file: _number_aware(file.stem))


def _number_aware(name: str) -> list[tuple[int, str]]:
    """A key by which "demo_10" comes behind "demo_9"."""
    return [(int(part), "") if part.isdigit() else (-1, part) for part in re.split(r"(\d+)", name)]


def _array(name: str, values: np.ndarray) -> Array:
    require(values.ndim >= 1, f"{name!r} is a single number", "time on axis 0")
    role = "action" if name == "action" else "other" if _OTHER.fullmatch(name) else "observation"
    return Array(values.shape[1:], values.dtype, role, image=values.ndim == 4)
