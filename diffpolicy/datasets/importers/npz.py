"""npz files: a folder with a file an episode, or one file that holds all of them and their ends."""

from __future__ import annotations

import re
import tokenize
import zipfile
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, final

import numpy as np

from diffpolicy.datasets.checks import IMAGE_NDIM, SMALLEST_SIDE, as_images
from diffpolicy.datasets.importers.base import (
    LOOKED_AT,
    Array,
    DamagedEpisode,
    Episode,
    Importer,
    Say,
    damaged,
    typical,
)
from diffpolicy.datasets.importers.forms import channels_first
from diffpolicy.datasets.importers.hdf5 import of_episode
from diffpolicy.util.errors import require

_ENDS = "episode_ends"
_ACTIONS = ("action", "actions")
_OTHER = re.compile(r"(next_)?(rewards?|dones?|success(es)?|terminat\w+|truncat\w+|timestamps?|time)")
_FACTS = ("fps", "task", "success")
"""Single values beside the arrays that say something of an episode."""

_BROKEN = (
    *(OSError, ValueError, KeyError, TypeError, EOFError, MemoryError, NotImplementedError),
    *(zipfile.BadZipFile, zlib.error, tokenize.TokenError, SyntaxError),  # the last two of a header
)


@final
class NpzImporter(Importer):
    """A folder of `.npz` files, an episode each, or one file: a single episode, or several that `episode_ends` parts.

    Every array has time on axis 0; one of four dimensions holds images. The actions are called "action" or "actions".
    Where all observations have a frame more than the actions, their last one is dropped. Single values called "fps",
    "task" and "success" are what they say; others are left out. One file of several episodes is held whole.
    """

    summary: ClassVar[str] = "arrays in .npz files, one an episode, or one with episode_ends"

    def __init__(self, path: Path, say: Say) -> None:
        super().__init__(path, say)
        self._files = _files(path)
        require(self._files, f"{path} is no npz file and holds none", "a .npz file, or a folder of them")
        self._whole = self._load(self._files[0], "the recording") if path.is_file() else None
        self._ends = self._episode_ends()
        self._facts = [self._single_values(file) for file in self._files]
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

    @property
    def fps(self) -> float | None:
        found = {facts["fps"] for facts in self._facts if isinstance(facts.get("fps"), (int, float))}
        require(len(found) < 2, f"{self.path}: files of {sorted(found)} frames a second", "one rate")
        return float(found.pop()) if found else None

    def episodes(self) -> Sequence[Episode]:
        if self._ends is None:
            return [
                Episode(number, file.stem, None, _text(facts.get("task")), _flag(facts.get("success")))
                for number, (file, facts) in enumerate(zip(self._files, self._facts, strict=True))
            ]
        lengths, task = np.diff(self._ends, prepend=0), _text(self._facts[0].get("task"))
        return [Episode(number, f"episode {number}", int(length), task) for number, length in enumerate(lengths)]

    def read(self, episode: Episode) -> dict[str, np.ndarray]:
        if self._ends is None:
            file = self._files[0 if self._whole else episode.number]
            found = self._whole or self._load(file, episode.name)
            with of_episode(file, episode.name):
                return self._brought(found)
        stop, whole = int(self._ends[episode.number]), self._whole or {}
        start = stop - (episode.length or 0)
        with of_episode(self.path, episode.name):
            return self._brought({name: values[start:stop] for name, values in whole.items()})

    def _load(self, file: Path, episode: str) -> dict[str, np.ndarray]:
        """The arrays of a file, the actions called "action"; a checksum of the zip guards each."""
        if not zipfile.is_zipfile(file):
            raise damaged(file, episode, "it is no zip file, as every npz file is")
        try:
            with np.load(file, allow_pickle=False) as opened:
                found = {name: opened[name] for name in opened.files}
        except _BROKEN as error:
            pickled = "Object arrays" in str(error)
            cure = "save arrays of numbers, equally long ones" if pickled else "copy it again"
            raise damaged(file, episode, error, cure) from error
        named = [name for name in _ACTIONS if name in found]
        found = {"action" if name in named[:1] else name: values for name, values in found.items() if values.ndim}
        plain = {name.replace("/", "_"): values for name, values in found.items()}
        if len(plain) < len(found):
            raise damaged(file, episode, f"two of {sorted(found)} have one name", "rename one: / becomes _")
        return self._without_last(plain)

    def _without_last(self, found: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Of N + 1 observations and N actions, as simulators give them, the last observation has no action."""
        length = len(found.get("action", ()))
        longer = {name for name, values in found.items() if len(values) == length + 1}
        observed = {name for name in found if name not in ("action", _ENDS) and not _OTHER.fullmatch(name)}
        if not length or longer != observed or _ENDS in found:
            return found
        self.say("observations have one frame more than actions: the last one is dropped")
        return {name: values[:length] if name in longer else values for name, values in found.items()}

    def _single_values(self, file: Path) -> dict[str, Any]:
        """What a file says of its episode; of a file that cannot be read, nothing."""
        try:
            with zipfile.ZipFile(file) as archive:
                there = [name for name in _FACTS if f"{name}.npy" in archive.namelist()]
            with np.load(file, allow_pickle=False) as opened:
                found = {name: opened[name] for name in there}
        except _BROKEN:
            return {}
        return {name: values.item() for name, values in found.items() if values.ndim == 0}

    def _episode_ends(self) -> np.ndarray | None:
        if self._whole is None or _ENDS not in self._whole:
            return None
        ends = self._whole.pop(_ENDS)
        right = ends.ndim == 1 and ends.dtype.kind in "iu" and len(ends) and (np.diff(ends, prepend=0) > 0).all()
        require(right, f"{_ENDS} are {ends[:5]}…", "integers that increase strictly from above 0")
        frames = {name: len(values) for name, values in self._whole.items()}
        fits = all(count == ends[-1] for count in frames.values())
        require(fits, f"{_ENDS} end at {ends[-1]}, and the arrays have the lengths {frames}", "equal ones")
        return ends.astype(np.int64)

    def _describe(self) -> dict[str, Array]:
        """What the first two files that agree hold, or else most of those that were looked at."""
        said, refused = ValueError("no file"), []
        looked: list[dict[str, Array]] = []
        for file in self._files:
            try:
                found = self._described(file)
            except DamagedEpisode as error:
                said = error
                continue
            except ValueError as error:  # readable, and laid out otherwise
                refused.append(error)
            else:
                if found in looked:
                    return found
                looked.append(found)
            if len(looked) + len(refused) == LOOKED_AT:
                break
        if refused and not looked:
            raise refused[0]
        require(looked, f"no file can be read ({said})")
        return looked[typical(looked)]

    def _described(self, file: Path) -> dict[str, Array]:
        found = self._whole or self._load(file, "an episode")
        return {name: _array(name, values) for name, values in found.items()}

    def _brought(self, found: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """The arrays as `_array` describes them."""
        uint8 = {name for name, array in self._arrays.items() if array.image and array.dtype == np.uint8}
        return {name: as_images(values, name, 0) if name in uint8 else values for name, values in found.items()}


def _files(path: Path) -> list[Path]:
    """The npz files at `path`, numbers in their names in numerical order."""
    if path.is_file():
        return [path] if path.suffix == ".npz" else []
    return sorted(path.glob("*.npz"), key=lambda file: _number_aware(file.stem))


def _number_aware(name: str) -> list[tuple[int, str]]:
    """A key by which "demo_10" comes behind "demo_9"."""
    return [(int(part), "") if part.isdigit() else (-1, part) for part in re.split(r"(\d+)", name)]


def _array(name: str, values: np.ndarray) -> Array:
    """What an array is.

    Raises:
        ValueError: images with axes in another order, or that are no pixels; with the line that helps.
    """
    frame, says = values.shape[1:], f"{name!r} has shape {values.shape} and dtype {values.dtype}"
    require(values.dtype.kind in "biuf", says, "real numbers or booleans")
    role = "action" if name == "action" else "other" if _OTHER.fullmatch(name) else "observation"
    pixels = values.dtype in (np.uint8, np.uint16)
    first = channels_first(frame)
    require(not first, says, "images with channels last", f"move them: {name} = {name}.transpose(0, 2, 3, 1)")
    gray = pixels and len(frame) == 2 and min(frame) >= SMALLEST_SIDE
    require(not gray, says, "images (frames, height, width, channels)", f"add an axis: {name} = {name}[..., None]")
    if values.ndim != IMAGE_NDIM:
        return Array(frame, values.dtype, role)
    if values.dtype == np.uint16 and frame[2] == 1:
        return Array(frame, values.dtype, role, image=True)
    scaled = values.dtype.kind == "f" and values.size and values.min() >= 0 and values.max() <= 1
    cure = f"scale them: {name} = ({name} * 255).round().astype(np.uint8)"
    require(not scaled, f"{says}, numbers from 0 to 1", "images as uint8, 0 to 255", cure)
    return Array(frame, np.dtype(np.uint8), role, image=True)


def _text(value: object) -> str | None:
    return value if isinstance(value, str) and value else None


def _flag(value: object) -> bool | None:
    return bool(value) if isinstance(value, (bool, int)) else None
