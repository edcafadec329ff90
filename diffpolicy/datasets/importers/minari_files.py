"""The two kinds of files that Minari keeps episodes in."""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, final

import numpy as np

from diffpolicy.datasets.importers.hdf5 import Hdf5, numbered
from diffpolicy.datasets.importers.minari_spaces import Leaf
from diffpolicy.util.errors import explain, require
from diffpolicy.util.optional import optional

_SUCCESS = ("success", "is_success")


class MinariEpisodes(ABC):
    """The episodes of a data set, whatever file holds them. Everything raises ValueError, which names the file."""

    @abstractmethod
    def numbers(self) -> list[int]:
        """Return the numbers of the episodes, in order."""

    @abstractmethod
    def file(self, number: int) -> Path:
        """Return the file that holds an episode."""

    @abstractmethod
    def about(self, number: int) -> dict[str, Any]:
        """Return what is known of an episode: total_steps, seed, statistics of the rewards."""

    @abstractmethod
    def leaf(self, number: int, part: str, leaf: Leaf) -> np.ndarray:
        """Return an array of the "observations" (N + 1 frames) or "actions" (N); of objects where encoded."""

    @abstractmethod
    def column(self, number: int, name: str) -> np.ndarray:
        """Return rewards, terminations or truncations (N,)."""

    @abstractmethod
    def success(self, number: int) -> bool | None:
        """Return whether the infos say at any step that it was done; None if they say nothing."""

    @abstractmethod
    def close(self) -> None:
        """Close the files."""


@final
class Hdf5Episodes(MinariEpisodes):
    """Groups episode_N of main_data.hdf5.

    Args:
        path: of the file.
    """

    def __init__(self, path: Path) -> None:
        self._file = Hdf5(path)

    def numbers(self) -> list[int]:
        return [number for number, _ in numbered(self._file.names(), "episode_")]

    def file(self, number: int) -> Path:
        return self._file.path

    def about(self, number: int) -> dict[str, Any]:
        return self._file.attrs(f"episode_{number}")

    def leaf(self, number: int, part: str, leaf: Leaf) -> np.ndarray:
        inside = [f"_index_{key}" if isinstance(key, int) else key for key in leaf.path]
        return self._file.read("/".join([f"episode_{number}", part, *inside]))

    def column(self, number: int, name: str) -> np.ndarray:
        return self._file.read(f"episode_{number}/{name}")

    def success(self, number: int) -> bool | None:
        for name in _SUCCESS:
            if self._file.has(place := f"episode_{number}/infos/{name}"):
                return bool(self._file.read(place).any())
        return None

    def close(self) -> None:
        self._file.close()


@final
class ArrowEpisodes(MinariEpisodes):
    """Folders N with Arrow files. Actions and rewards have a padded frame more, which is dropped.

    Args:
        path: the folder of these folders.

    Raises:
        ImportError: pyarrow is not installed.
    """

    def __init__(self, path: Path) -> None:
        self._path, self._arrow = path, optional("pyarrow", "recordings", str(path))
        self._table: tuple[int, Any] | None = None

    def numbers(self) -> list[int]:
        return [number for number, _ in numbered([f.name for f in self._path.iterdir() if f.is_dir()], "")]

    def file(self, number: int) -> Path:
        return self._path / str(number)

    def about(self, number: int) -> dict[str, Any]:
        file = self.file(number) / "metadata.json"
        try:
            found = json.loads(file.read_text())
        except (OSError, ValueError) as error:
            raise ValueError(explain(f"{file} cannot be read ({error})", cure="copy it again")) from error
        return found if isinstance(found, dict) else {}

    def leaf(self, number: int, part: str, leaf: Leaf) -> np.ndarray:
        with self._access(number, part):
            values = self._column(number, part)
            for key in leaf.path:
                values = values.field(str(key))
            found = self._numbers(values, leaf)
        if part != "actions":
            return found
        says = f"{self.file(number)}: the padded last action is not zero"
        require(found.dtype == object or not np.any(found[-1:]), says, "zeros, as Minari pads")
        return found[:-1]

    def _numbers(self, values: Any, leaf: Leaf) -> np.ndarray:
        """Frames of an Arrow array, in the shape and dtype of the space; of bytes or text as objects."""
        types = self._arrow.types
        if not (types.is_list(values.type) or types.is_fixed_size_list(values.type)):
            if types.is_primitive(values.type):
                return np.asarray(values.to_numpy(zero_copy_only=False)).astype(leaf.dtype, casting="same_kind")
            found = np.empty(len(values), object)
            found[:] = values.to_pylist()
            return found
        size, there = int(np.prod(leaf.shape)), values.drop_null()
        flat = there.flatten().to_numpy(zero_copy_only=False).astype(leaf.dtype, casting="same_kind")
        full = np.zeros((len(values), size), leaf.dtype)  # a padded frame may be null, and no other
        padded = not len(values) or values.slice(0, len(values) - 1).null_count == 0
        require(padded and len(flat) == len(there) * size, "frames of various lengths, or none")
        full[: len(there)] = flat.reshape(len(there), size)
        return full.reshape(len(values), *leaf.shape)

    def column(self, number: int, name: str) -> np.ndarray:
        with self._access(number, name):
            found = np.asarray(self._column(number, name).to_numpy(zero_copy_only=False))
        require(not found[-1:].any(), f"{self.file(number)}: the padded end of {name} is not zero", "zero")
        return found[:-1]

    def success(self, number: int) -> bool | None:
        with self._access(number, "infos"):
            if "infos" not in self._read(number).column_names:
                return None
            infos = self._column(number, "infos")
            names = {infos.type.field(i).name for i in range(infos.type.num_fields)}
            name = next((name for name in _SUCCESS if name in names), None)
            return None if name is None else bool(np.any(infos.field(name).to_numpy(zero_copy_only=False)))

    def close(self) -> None:
        self._table = None

    def _column(self, number: int, name: str) -> Any:
        """A column in one piece."""
        column = self._read(number)[name]
        return column.combine_chunks() if column.num_chunks != 1 else column.chunk(0)

    def _read(self, number: int) -> Any:
        """The table of an episode; the last one is kept."""
        if self._table is None or self._table[0] != number:
            files = sorted(self.file(number).glob("*.arrow"))
            require(files, f"{self.file(number)} holds no .arrow file")
            tables = []
            for file in files:
                with self._arrow.OSFile(str(file)) as source:
                    tables.append(self._arrow.ipc.open_file(source).read_all())
            table = self._arrow.concat_tables(tables)
            table.validate(full=True)
            self._table = (number, table)
        return self._table[1]

    @contextmanager
    def _access(self, number: int, what: str) -> Iterator[None]:
        """Every error of pyarrow as a ValueError that names the file."""
        try:
            yield
        except Exception as error:  # pyarrow raises its own types beside those of Python
            reason = " ".join(str(error).split())[:200]
            raise ValueError(f"{self.file(number)}: {what} cannot be read ({reason})") from error
