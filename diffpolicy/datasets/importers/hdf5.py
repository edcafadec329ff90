"""HDF5 files, read with care: no link leads out of them, and what was never written does not read as zeros."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, final

import numpy as np

from diffpolicy.datasets.importers.base import DamagedEpisode, damaged
from diffpolicy.util.errors import explain, require
from diffpolicy.util.optional import optional

_SIGNATURE = b"\x89HDF\r\n\x1a\n"
_LINKS = 8  # soft links that lead to soft links, at most
_LISTED = 64  # numbers of an attribute that are kept


def is_hdf5(path: Path) -> bool:
    """Return whether a file starts as HDF5 files do."""
    if not path.is_file():
        return False
    with path.open("rb") as stream:
        return stream.read(len(_SIGNATURE)) == _SIGNATURE


@final
class Hdf5:
    """An HDF5 file opened for reading; a context manager.

    Args:
        path: of the file.

    Raises:
        ImportError: h5py is not installed.
        ValueError: the file cannot be opened.
    """

    def __init__(self, path: Path) -> None:
        h5py: Any = optional("h5py", "recordings", str(path))
        self.path, self._h5py = path, h5py
        with self._access("the file"):
            self._file = h5py.File(path, "r", locking="best-effort")

    def __enter__(self) -> Hdf5:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the file; calling it again does nothing."""
        self._file.close()

    def names(self, group: str = "/") -> list[str]:
        """Return the names in a group, sorted; none if it is no group."""
        found = self._at(group)
        with self._access(group):
            return sorted(found) if isinstance(found, self._h5py.Group) else []

    def has(self, name: str) -> bool:
        """Return whether there is a group or a dataset of this name."""
        group, _, last = name.rstrip("/").rpartition("/")
        return (not group or self.has(group)) and last in self.names(group or "/")

    def is_group(self, name: str) -> bool:
        """Return whether `name` is a group."""
        return isinstance(self._at(name), self._h5py.Group)

    def datasets(self, group: str) -> list[str]:
        """Return the datasets below a group, nested ones as "a/b", in the order of their names."""
        found = []
        for key in self.names(group):
            below = f"{group}/{key}"
            found += [f"{key}/{name}" for name in self.datasets(below)] if self.is_group(below) else [key]
        return found

    def attrs(self, name: str = "/") -> dict[str, Any]:
        """Return the attributes of a group or dataset that JSON holds; long arrays are left out."""
        found = self._at(name)
        with self._access(f"attributes of {name}"):
            plain = {key: _plain(value) for key, value in found.attrs.items()}
        return {key: value for key, value in plain.items() if value is not None}

    def shape(self, name: str) -> tuple[int, ...]:
        """Return the shape of a dataset."""
        return tuple(self._dataset(name).shape)

    def dtype(self, name: str) -> np.dtype:
        """Return the dtype of a dataset in native byte order; of object where its elements have various lengths."""
        return self._dataset(name).dtype.newbyteorder("=")

    def read(self, name: str, start: int = 0, stop: int | None = None) -> np.ndarray:
        """Return the frames of a dataset from `start` to before `stop`, in native byte order.

        Raises:
            ValueError: it is missing, leads out of the file, was never written whole, or cannot be decoded.
        """
        dataset = self._dataset(name)
        with self._access(name):
            self._require_written(name, dataset)
            values = np.asarray(dataset[start:stop] if dataset.shape else dataset[()])
            return np.ascontiguousarray(values, dtype=values.dtype.newbyteorder("=")).reshape(values.shape)

    def _dataset(self, name: str) -> Any:
        found = self._at(name)
        require(isinstance(found, self._h5py.Dataset), f"{self.path}: {name} is a group", "an array")
        with self._access(name):
            outside = found.is_virtual or found.external
        says = f"{self.path}: the numbers of {name} lie in another file"
        require(not outside, says, "one file that holds all of them", "copy them into it by h5repack")
        return found

    def _require_written(self, name: str, dataset: Any) -> None:
        """HDF5 reads what was never written as zeros, which a recorder that was killed leaves behind."""
        if not dataset.size:
            return
        if dataset.chunks:
            called_for = math.prod(
                -(-size // chunk) for size, chunk in zip(dataset.shape, dataset.chunks, strict=True)
            )
            written = dataset.id.get_num_chunks()
        else:
            called_for, written = 1, int(dataset.id.get_storage_size() > 0)
        says = f"{name} has {written} of {called_for} chunks, the others were never written"
        require(written >= called_for, says, cure="record the episode again")

    def _at(self, name: str, base: Any = None, links: int = 0) -> Any:
        """The object of a name, every link on the way inside this file."""
        found = self._file if base is None or name.startswith("/") else base
        for part in filter(None, name.split("/")):
            with self._access(name):
                link = found.get(part, getlink=True) if isinstance(found, self._h5py.Group) else None
                inside = found[part] if isinstance(link, self._h5py.HardLink) else None
            if isinstance(link, self._h5py.SoftLink):
                require(links < _LINKS, f"{self.path}: {name} is a link that leads in circles", "an array")
                inside = self._at(link.path, found, links + 1)
            require(link is not None, f"{self.path}: {name} is missing")
            says = f"{self.path}: {name} is a link to another file, which is not followed"
            require(inside is not None, says, "one file that holds everything", "copy it there by h5copy")
            found = inside
        return found

    @contextmanager
    def _access(self, what: str) -> Iterator[None]:
        """Every error of h5py as a ValueError that names file and part."""
        try:
            yield
        except Exception as error:  # h5py raises a dozen types, all of which mean the same to the reader
            reason = " ".join(str(error).split())
            says = f"{self.path}: {what} cannot be read ({reason})" if str(self.path) not in reason else reason
            raise ValueError(explain(says, cure="copy or record it again")) from error


@contextmanager
def of_episode(file: object, episode: str) -> Iterator[None]:
    """Turn a ValueError raised inside into a DamagedEpisode that names file and episode."""
    try:
        yield
    except DamagedEpisode:
        raise
    except ValueError as error:
        reason = str(error).removeprefix(f"{file}: ")
        raise damaged(file, episode, reason, "copy or record it again") from error


def numbered(names: list[str], prefix: str) -> list[tuple[int, str]]:
    """Return (number, name) of the names that are `prefix` and a number, in the order of the numbers."""
    found = [(name.removeprefix(prefix), name) for name in names if name.startswith(prefix)]
    return sorted((int(number), name) for number, name in found if number.isascii() and number.isdigit())


def json_of(text: object) -> dict[str, Any]:
    """Return the JSON object that an attribute holds as text; an empty one if it holds none."""
    try:
        found = json.loads(text) if isinstance(text, (str, bytes)) else {}
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


def _plain(value: Any) -> Any:
    """A value of an attribute as JSON holds it; None if it holds too much, or something else."""
    if isinstance(value, bytes):
        return value.decode(errors="replace")
    if isinstance(value, np.generic):
        value = value.item()
        return value.decode(errors="replace") if isinstance(value, bytes) else value
    if isinstance(value, np.ndarray):
        return [_plain(one) for one in value.ravel()] if value.size <= _LISTED else None
    return value if isinstance(value, (str, int, float, bool)) else None
