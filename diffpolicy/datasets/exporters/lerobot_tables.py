"""The parquet files of a LeRobot v3.0 data set, written an episode at a time."""

from __future__ import annotations

import io
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, final

import numpy as np
from PIL import Image

from diffpolicy.util.optional import optional

_MAXIMUM = 2**20  # bytes of a megabyte
_INDEXED = 100  # episodes whose entries are written together


@final
class Places:
    """Numbers of folder and file of the next file: so many files a folder.

    Args:
        template: of the files' names, with chunk_index and file_index.
        chunk: files in a folder.
    """

    def __init__(self, template: str, chunk: int) -> None:
        self._template, self._chunk, self._count = template, chunk, -1

    @property
    def now(self) -> tuple[int, int]:
        """(chunk_index, file_index) of the file that is written."""
        return divmod(self._count, self._chunk)

    def next(self, **values: str) -> str:
        """Go on to the next file, and return its name."""
        self._count += 1
        chunk, file = self.now
        return self._template.format(chunk_index=chunk, file_index=file, **values)


@final
class DataWriter:
    """Writes `data/…`: a row group an episode, the next file when one is full.

    Args:
        root: folder of the data set.
        features: as `meta/info.json` describes them; videos are left out.
        places: numbers of the files.
        megabytes: of a full file.
    """

    def __init__(self, root: Path, features: Mapping[str, Any], places: Places, megabytes: float) -> None:
        self._root, self.places, self._limit = root, places, megabytes * _MAXIMUM
        self._kept = {name: said for name, said in features.items() if said["dtype"] != "video"}
        self._schema = _schema(self._kept)
        self._writer: Any = None
        self._file: Path | None = None

    def add(self, columns: Mapping[str, np.ndarray]) -> tuple[int, int]:
        """Write the rows of an episode; return (chunk_index, file_index) of their file."""
        arrow, parquet = optional("pyarrow", "recordings"), optional("pyarrow.parquet", "recordings")
        if self._writer is not None and self._file is not None and self._file.stat().st_size >= self._limit:
            self.close()
        if self._writer is None:
            self._file = self._root / self.places.next()
            self._file.parent.mkdir(parents=True, exist_ok=True)
            settings = {"compression": "snappy", "use_dictionary": True, "write_page_checksum": True}
            self._writer = parquet.ParquetWriter(self._file, self._schema, **settings)
        arrays = [_column(self._schema.field(name).type, columns[name]) for name in self._kept]
        table = arrow.Table.from_arrays(arrays, schema=self._schema)
        self._writer.write_table(table, row_group_size=max(1, table.num_rows))
        return self.places.now

    def close(self) -> None:
        """Finish the file; calling it again does nothing."""
        if self._writer is not None:
            self._writer.close()
            self._writer = None


@final
class IndexWriter:
    """Writes `meta/episodes/…`: a row an episode.

    Args:
        root: folder of the data set.
    """

    def __init__(self, root: Path) -> None:
        self._file = root / "meta/episodes/chunk-000/file-000.parquet"
        self._file.parent.mkdir(parents=True, exist_ok=True)
        self._rows: list[dict[str, Any]] = []
        self._writer: Any = None

    def add(self, row: Mapping[str, Any]) -> None:
        """Add an episode's entry; numbers are int64, lists of them float64, as in the first one."""
        self._rows.append({**row, "meta/episodes/chunk_index": 0, "meta/episodes/file_index": 0})
        if len(self._rows) >= _INDEXED:
            self._flush()

    def _flush(self) -> None:
        arrow, parquet = optional("pyarrow", "recordings"), optional("pyarrow.parquet", "recordings")
        if self._writer is None:
            table = arrow.Table.from_pylist(self._rows)
            self._writer = parquet.ParquetWriter(self._file, table.schema, compression="snappy")
        self._writer.write_table(arrow.Table.from_pylist(self._rows, schema=self._writer.schema))
        self._rows = []

    def close(self) -> None:
        """Finish the file."""
        if self._rows:
            self._flush()
        if self._writer is not None:
            self._writer.close()
            self._writer = None


def write_tasks(file: Path, tasks: Sequence[str]) -> None:
    """Write `meta/tasks.parquet` so that pandas finds the texts as its index."""
    arrow, parquet = optional("pyarrow", "recordings"), optional("pyarrow.parquet", "recordings")
    unicode = {"pandas_type": "unicode", "numpy_type": "object"}
    columns = [
        {"name": "task_index", "field_name": "task_index", "pandas_type": "int64", "numpy_type": "int64"},
        {"name": "task", "field_name": "task", **unicode},
    ]
    pandas = {
        "index_columns": ["task"],
        "column_indexes": [{"name": None, "field_name": None, **unicode, "metadata": {"encoding": "UTF-8"}}],
        "columns": [{**column, "metadata": None} for column in columns],
        "attributes": {},
        "creator": {"library": "pyarrow", "version": arrow.__version__},
        "pandas_version": "2.3.3",
    }
    schema = arrow.schema({"task_index": arrow.int64(), "task": arrow.string()}, {"pandas": json.dumps(pandas)})
    rows = [{"task_index": i, "task": task} for i, task in enumerate(tasks)]
    parquet.write_table(arrow.Table.from_pylist(rows, schema=schema), file)


def _schema(features: Mapping[str, Any]) -> Any:
    """The columns of the data files, and what Hugging Face's `datasets` wants to know of them."""
    arrow = optional("pyarrow", "recordings")
    kinds, told = {}, {}
    for name, said in features.items():
        kind, shape = said["dtype"], said["shape"]
        if kind == "image":
            kinds[name], told[name] = (
                arrow.struct({"bytes": arrow.binary(), "path": arrow.string()}),
                {"_type": "Image"},
            )
            continue
        plain = arrow.bool_() if kind == "bool" else arrow.type_for_alias(kind)
        value = {"dtype": kind, "_type": "Value"}
        if shape == [1]:
            kinds[name], told[name] = plain, value
        elif len(shape) == 1:
            kinds[name], told[name] = (
                arrow.list_(plain, shape[0]),
                {"feature": value, "length": shape[0], "_type": "List"},
            )
        else:
            told[name] = {"shape": shape, "dtype": kind, "_type": f"Array{len(shape)}D"}
            kinds[name] = plain
            for _ in shape:
                kinds[name] = arrow.list_(kinds[name])
    return arrow.schema(kinds, {"huggingface": json.dumps({"info": {"features": told}})})


def _column(kind: Any, values: np.ndarray) -> Any:
    """An array (L, ...) as a column; images as PNG files."""
    arrow = optional("pyarrow", "recordings")
    if arrow.types.is_struct(kind):
        rows = [{"bytes": _png(image), "path": f"frame-{i:06d}.png"} for i, image in enumerate(values)]
        return arrow.array(rows, kind)
    inner, sizes = kind, []
    while arrow.types.is_list(inner) or arrow.types.is_fixed_size_list(inner):
        sizes.append(inner)
        inner = inner.value_type
    array = arrow.array(np.ascontiguousarray(values).reshape(-1), inner)
    for depth, outer in reversed(list(enumerate(sizes))):
        size = values.shape[depth + 1]
        if arrow.types.is_fixed_size_list(outer):
            array = arrow.FixedSizeListArray.from_arrays(array, type=outer)
        else:
            offsets = np.arange(0, len(array) + 1, size, dtype=np.int32)
            array = arrow.ListArray.from_arrays(arrow.array(offsets), array, type=outer)
    return array


def _png(image: np.ndarray) -> bytes:
    """An image (H, W, C) as a PNG file: uint8, or uint16 of one channel."""
    content = io.BytesIO()
    Image.fromarray(image[..., 0] if image.shape[2] == 1 else image).save(content, "PNG", compress_level=1)
    return content.getvalue()
