"""Replay buffers in zarr: ours and Diffusion Policy's, to change or to pack them anew."""

from __future__ import annotations

import math
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, final

import numpy as np

from diffpolicy.datasets.checks import IMAGE_NDIM, as_images, checked_ends
from diffpolicy.datasets.importers.base import Array, Episode, Importer, Say, damaged
from diffpolicy.datasets.zarr_layout import ENDS, ZarrArchive
from diffpolicy.util.errors import explain

_STRUCTURE = ("fps", "units", "names", "roles", "tasks", "source", "recording", "episodes", "findings", "finished")
"""Attributes that are read elsewhere, or say how a recording was written; the others say of what it is."""


@final
class ReplayBufferImporter(Importer):
    """A zarr directory or zip in the layout of `zarr_layout`."""

    summary: ClassVar[str] = "replay buffers in zarr, ours and Diffusion Policy's"

    def __init__(self, path: Path, say: Say) -> None:
        super().__init__(path, say)
        self._archive = ZarrArchive(path)
        try:
            self._ends = checked_ends(self._archive.read(ENDS))
            self._opened = {name: self._archive.array(f"data/{name}") for name in self._archive.names()}
            self._attrs = self._archive.attrs()
            self._meta = self._archive.meta(len(self._ends))
        except BaseException:
            self.close()
            raise
        if "fps" in self._attrs and self.fps is None:
            say(f"its attribute fps is {self._attrs['fps']!r}, and no number of frames a second")

    @classmethod
    def recognize(cls, path: Path) -> str | None:
        if path.is_dir():
            there = any((path / ENDS / name).is_file() for name in (".zarray", "zarr.json"))
            return "a replay buffer in zarr" if there else None
        there = any(name.endswith((f"{ENDS}/.zarray", f"{ENDS}/zarr.json")) for name in names_in_zip(path))
        return "a zipped replay buffer in zarr" if there else None

    @property
    def arrays(self) -> Mapping[str, Array]:
        roles, units = self._attrs.get("roles", {}), self._attrs.get("units", {})
        names = self._attrs.get("names", {})
        found = {}
        for name, array in self._opened.items():
            image = array.ndim == IMAGE_NDIM
            role = roles.get(name, "action" if name == "action" else "observation")
            dtype = np.dtype(np.uint8) if image and array.dtype != np.uint16 else array.dtype
            of_dims = tuple(names[name]) if name in names else None
            found[name] = Array(array.shape[1:], dtype, role, image, units.get(name), of_dims)
        return found

    @property
    def fps(self) -> float | None:
        found = self._attrs.get("fps")
        number = isinstance(found, (int, float)) and not isinstance(found, bool) and 0 < found < math.inf
        return found if number else None

    @property
    def attrs(self) -> Mapping[str, Any]:
        rest = {name: value for name, value in self._attrs.items() if name not in _STRUCTURE}  # "ranges" among them
        return {**rest, **self._attrs.get("recording", {})}

    def episodes(self) -> Sequence[Episode]:
        lengths, tasks = np.diff(self._ends, prepend=0), self._attrs.get("tasks", [])
        known = dict(self._meta)
        tasked, succeeded = (known.pop(name, np.full(len(lengths), -1)) for name in ("task", "success"))
        told = self._attrs.get("episodes", [])
        told = told if len(told) == len(lengths) else [{}] * len(lengths)
        found = []
        for number, length in enumerate(lengths):
            task, success = int(tasked[number]), int(succeeded[number])
            text = tasks[task] if 0 <= task < len(tasks) else None
            done = None if success < 0 else bool(success)
            extra = {**{name: values[number].item() for name, values in known.items()}, **told[number]}
            name = str(extra.pop("name", f"episode {number}"))
            found.append(Episode(number, name, int(length), text, done, extra=extra))
        return found

    def read(self, episode: Episode) -> dict[str, np.ndarray]:
        stop = int(self._ends[episode.number])
        start = stop - int(episode.length or 0)
        found = {}
        for name, array in self._opened.items():
            try:
                values = self._archive.frames(f"data/{name}", array, start, stop)
                found[name] = as_images(values, name, start) if self.arrays[name].dtype == np.uint8 else values
            except ValueError as error:
                raise damaged(self.path, episode.name, error) from error
        return found

    def close(self) -> None:
        self._archive.close()


def names_in_zip(path: Path) -> list[str]:
    """Return the names in a zip file; none of a file that is no zip.

    Raises:
        ValueError: a zip file whose directory is damaged.
    """
    if not zipfile.is_zipfile(path):
        return []
    try:
        with zipfile.ZipFile(path) as archive:
            return archive.namelist()
    except (zipfile.BadZipFile, NotImplementedError, ValueError) as error:
        raise ValueError(explain(f"{path} is a damaged zip file ({error})", cure="copy it again")) from error
