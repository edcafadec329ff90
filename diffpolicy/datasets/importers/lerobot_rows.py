"""The rows of a LeRobot data set, found by what the data files themselves say, not by the index."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, final

import numpy as np

from diffpolicy.datasets.importers.base import Say
from diffpolicy.datasets.importers.lerobot_info import SUCCESS
from diffpolicy.datasets.importers.lerobot_meta import short
from diffpolicy.util.errors import require
from diffpolicy.util.optional import optional

_ERRORS = (OSError, ValueError, KeyError, TypeError, IndexError, OverflowError, MemoryError, NotImplementedError)


@final
@dataclass(frozen=True)
class Segment:
    """Consecutive rows of one episode.

    Args:
        file: the data file.
        group: its row group.
        start: first row in the group.
        stop: row behind the last one.
    """

    file: Path
    group: int
    start: int
    stop: int


@final
class DataFiles:
    """The rows of all data files by episode; one row group is in memory at a time.

    Args:
        files: all data files.
        root: folder of the data set.
        say: is told what cannot be read.
    """

    def __init__(self, files: Iterable[Path], root: Path, say: Say) -> None:
        self.segments: dict[int, list[Segment]] = {}
        self.success: dict[int, bool] = {}
        self.lost: dict[str, str] = {}
        self.schema: Any = None
        self._open: tuple[Path, Any] | None = None
        self._group: tuple[Any, Any] | None = None
        for file in files:
            name = file.relative_to(root).as_posix()
            try:
                self._scan(file)
            except _ERRORS as error:
                self.segments = _without(self.segments, file)
                self.lost[name] = short(error)
                say(f"{name} cannot be read ({self.lost[name]}), so its episodes are lost; the others are kept")

    def _scan(self, file: Path) -> None:
        """Note which rows belong to which episode."""
        parquet = self._file(file)
        names = parquet.schema_arrow.names
        missing = [name for name in ("episode_index", "frame_index") if name not in names]
        require(not missing, f"it lacks the columns {', '.join(missing)}")
        wanted = ["episode_index", *([SUCCESS] if SUCCESS in names else [])]
        for group in range(parquet.num_row_groups):
            table = parquet.read_row_group(group, columns=wanted, use_threads=False)
            numbers = table.column("episode_index").to_numpy()
            require(numbers.dtype.kind in "iu", f"episode_index of {numbers.dtype}", "integers")
            ends = [*(np.flatnonzero(np.diff(numbers)) + 1).tolist(), len(numbers)]
            flags = np.asarray(table.column(SUCCESS).to_pylist(), bool).reshape(-1) if len(wanted) > 1 else None
            start = 0
            for stop in ends:
                if stop == start:
                    continue
                number = int(numbers[start])
                self.segments.setdefault(number, []).append(Segment(file, group, start, stop))
                if flags is not None and len(flags) == len(numbers):
                    done = bool(flags[start:stop].any())
                    self.success[number] = self.success.get(number, False) or done
                start = stop
        self.schema = parquet.schema_arrow if self.schema is None else self.schema

    def count(self, number: int) -> int:
        """Return the rows of an episode."""
        return sum(segment.stop - segment.start for segment in self.segments.get(number, ()))

    def files_of(self, number: int, root: Path) -> list[str]:
        """Return the files that hold an episode, relative to the data set."""
        return list(dict.fromkeys(s.file.relative_to(root).as_posix() for s in self.segments.get(number, ())))

    def table(self, number: int, columns: Sequence[str]) -> Any:
        """Return the rows of an episode in the order of the files.

        Raises:
            ValueError: they cannot be read.
        """
        arrow = optional("pyarrow", "recordings")
        parts = []
        for segment in self.segments.get(number, ()):
            try:
                table = self._row_group(segment, columns)
                parts.append(table.slice(segment.start, segment.stop - segment.start))
            except _ERRORS as error:
                raise ValueError(short(error)) from error
        require(parts, "it has no rows")
        try:
            table = arrow.concat_tables(parts)
            table.validate(full=True)
        except _ERRORS as error:
            raise ValueError(short(error)) from error
        return table

    def _row_group(self, segment: Segment, columns: Sequence[str]) -> Any:
        wanted = (segment.file, segment.group, tuple(columns))
        if self._group is None or self._group[0] != wanted:
            self._group = None
            parquet = self._file(segment.file)
            table = parquet.read_row_group(segment.group, columns=list(columns), use_threads=False)
            self._group = (wanted, table)
        return self._group[1]

    def _file(self, file: Path) -> Any:
        if self._open is None or self._open[0] != file:
            self.close()
            parquet = optional("pyarrow.parquet", "recordings")
            self._open = file, parquet.ParquetFile(file, page_checksum_verification=True)
        return self._open[1]

    def close(self) -> None:
        """Close the file that is open."""
        if self._open is not None:
            self._open[1].close()
        self._open = self._group = None


def numbers(column: Any, shape: Sequence[int], dtype: np.dtype) -> np.ndarray:
    """Return a column of numbers, or of lists of them, as (L, *shape).

    Raises:
        ValueError: missing numbers, lists of other lengths, or another dtype.
    """
    arrow = optional("pyarrow", "recordings")
    array = column.combine_chunks() if column.num_chunks != 1 else column.chunk(0)
    count = len(array)
    while True:
        if isinstance(array, arrow.ExtensionArray):
            array = array.storage
        require(array.null_count == 0, f"{array.null_count} missing values")
        if not hasattr(array, "flatten") or not arrow.types.is_nested(array.type):
            break
        lengths = set() if arrow.types.is_fixed_size_list(array.type) else set(_lengths(array))
        require(len(lengths) <= 1, f"lists of the lengths {sorted(lengths)[:4]}", "equally long ones")
        array = array.flatten()
    values = array.to_numpy(zero_copy_only=False)
    require(values.size == count * int(np.prod(shape)), f"{values.size} numbers", f"{count} frames of {tuple(shape)}")
    require(values.dtype == dtype, f"numbers of {values.dtype}", str(dtype))
    return values.reshape(count, *shape)


def dtype_in(schema: Any, column: str) -> np.dtype | None:
    """Return the dtype of a column's numbers in the files; None if there is no such column of numbers."""
    arrow = optional("pyarrow", "recordings")
    if column not in schema.names:
        return None
    kind, types = schema.field(column).type, arrow.types
    while True:
        kind = kind.storage_type if isinstance(kind, arrow.BaseExtensionType) else kind
        if not (types.is_list(kind) or types.is_large_list(kind) or types.is_fixed_size_list(kind)):
            break
        kind = kind.value_type
    try:
        found = np.dtype(kind.to_pandas_dtype())
    except (NotImplementedError, TypeError):
        return None
    return found if found.kind in "biuf" else None


def _lengths(array: Any) -> list[int]:
    return np.unique(np.asarray(array.value_lengths())).tolist()


def _without(segments: Mapping[int, list[Segment]], file: Path) -> dict[int, list[Segment]]:
    """The segments that are not of a file that turned out to be damaged."""
    kept = {number: [s for s in found if s.file != file] for number, found in segments.items()}
    return {number: found for number, found in kept.items() if found}
