"""The zarr layout of the Diffusion Policy data sets, read and written with care for damage.

Arrays `data/NAME` have time on axis 0; `meta/episode_ends` holds the exclusive end of every episode. They are kept in
a directory, in a zip, or in a zip with folders above them (`folder/name.zarr/...`); zarr format 2 or 3.

zarr itself answers a missing chunk file with the fill value, that is with zeros, and blosc reads past the end of a
chunk that lost its last bytes. So the chunk files present are compared with those the shape calls for, and the length
that a blosc chunk states with the length it has, before anything is decoded. What is written here carries a checksum
in every chunk, so that a later flipped bit is an error and not a wrong number.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import shutil
import uuid
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, final

import numcodecs.registry
import numpy as np
import zarr
from zarr.codecs import ZstdCodec
from zarr.storage import LocalStore, ZipStore

from diffpolicy.util.errors import explain, require
from diffpolicy.util.names import check

ENDS = "meta/episode_ends"
MANIFEST = "manifest.json"
CHUNK_BYTES = 2**20  # what is written per chunk
_METADATA = (".zarray", "zarr.json")  # of an array, in format 2 and 3
_NO_CHUNK = (".zarray", ".zattrs", "zarr.json")
_SLAB_BYTES = 32 * 2**20  # what is decoded at a time when an array is not read whole
_BLOSC_HEADER = 16  # bytes; the last four hold the compressed length, little-endian
_AGAIN = "download or copy the data set again"


@final
class ZarrArchive:
    """One data set opened for reading; a context manager, since a zip stays open until `close`.

    Args:
        path: a zarr directory, or a zip that holds one at any depth.

    Raises:
        FileNotFoundError: nothing at `path`.
        ValueError: `path` holds no data set of this layout, or several, or is a broken zip.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        self._zip: zipfile.ZipFile | None = None
        self._prefix = ""
        nothing = f"no data set at {self.path}"
        require(self.path.exists(), nothing, "a zarr directory or a .zarr.zip file", error=FileNotFoundError)
        self._store: zarr.abc.store.Store
        if self.path.is_dir():
            self._open_directory()
        else:
            self._open_zip()

    def _open_directory(self) -> None:
        there = any((self.path / ENDS / name).is_file() for name in _METADATA)
        self._require_buffer(there, sorted(entry.name for entry in self.path.iterdir()))
        # data sets are often put together from links; one that leads nowhere counts as missing
        walk = os.walk(self.path, followlinks=True)
        files = [file for folder, _, names in walk for name in names if (file := Path(folder, name)).is_file()]
        self._sizes = {file.relative_to(self.path).as_posix(): file.stat().st_size for file in files}
        self._store = LocalStore(self.path, read_only=True)

    def _open_zip(self) -> None:
        try:
            self._zip = zipfile.ZipFile(self.path)
        except zipfile.BadZipFile as error:
            says = f"{self.path} is neither a zarr directory nor a whole zip file ({error})"
            raise ValueError(explain(says, cure=_AGAIN)) from error
        with contextlib.ExitStack() as on_error:
            on_error.callback(self._zip.close)
            self._prefix = self._find_prefix(self._zip.namelist())
            self._sizes = {
                entry.filename.removeprefix(self._prefix): entry.file_size
                for entry in self._zip.infolist()
                if entry.filename.startswith(self._prefix) and not entry.is_dir()
            }
            self._store = ZipStore(self.path, mode="r")
            on_error.pop_all()

    def __enter__(self) -> ZarrArchive:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the zip file, if it is one."""
        if self._zip is not None:
            self._zip.close()
        with contextlib.suppress(AttributeError):  # a ZipStore that nothing was read from cannot be closed
            self._store.close()

    def names(self) -> list[str]:
        """Return the names of the arrays under `data/`, sorted."""
        found = (name.split("/") for name in self._sizes)
        return sorted({p[1] for p in found if len(p) == 3 and p[0] == "data" and p[2] in _METADATA})

    def meta_names(self) -> list[str]:
        """Return the names of the arrays of numbers per episode under `meta/`, beside the ends, sorted."""
        found = (name.split("/") for name in self._sizes)
        there = {p[1] for p in found if len(p) == 3 and p[0] == "meta" and p[2] in _METADATA}
        return sorted(there - {ENDS.rpartition("/")[2]})

    def is_recording(self) -> bool:
        """Return whether it was written an episode at a time, see `writer`."""
        return MANIFEST in self._sizes

    def attrs(self) -> dict[str, Any]:
        """Return the attributes of the root group."""
        if "zarr.json" in self._sizes:
            return dict(self._json("zarr.json").get("attributes", {}))
        return self._json(".zattrs") if ".zattrs" in self._sizes else {}

    def shape(self, name: str) -> tuple[int, ...]:
        """Return the shape of an array, from its metadata alone."""
        return tuple(self._metadata(name).get("shape", ()))

    def array(self, name: str) -> zarr.Array:
        """Open an array (`data/state`, `meta/episode_ends`) after checking that nothing of it is missing.

        Raises:
            KeyError: no such array.
            ValueError: unreadable metadata, a dtype that is not a real number, an array that would unpickle, missing
                or truncated chunks. The message names the array and the first bad file.
            ImportError: the array needs the image codecs, which are an extra.
        """
        metadata = self._metadata(name)
        codecs = sorted(_codec_ids(metadata))
        pickled = any(codec.rsplit(".", 1)[-1] == "pickle" for codec in codecs)
        says = f"{self.path}: {name} is stored pickled, and unpickling runs whatever code the file holds: refused"
        require(not pickled, says, cure="store it as an array of numbers")
        _register_image_codecs(codecs, f"{self.path}: {name}")
        try:
            array = zarr.open_array(self._store, path=self._prefix + name, mode="r")
        except Exception as error:  # zarr raises many types here, all of which mean the same to the reader
            raise ValueError(f"{self.path}: {name} cannot be opened ({error})") from error
        says = f"{self.path}: {name} has dtype {array.dtype} and shape {array.shape}"
        require(array.dtype.kind in "biuf" and array.ndim, says, "real numbers or booleans with time on axis 0")
        self._check_chunks(name, array, metadata)
        return array

    def read(self, name: str) -> np.ndarray:
        """Return the whole array in native byte order, C-contiguous. Raises ValueError naming the damaged frames."""
        array = self.array(name)
        try:
            values = np.asarray(array[...])
        except Exception:  # every codec has its own exception: find the chunk, and report it alike
            list(self._slabs(name, array, array.chunks[0]))
            raise
        return np.ascontiguousarray(values, dtype=values.dtype.newbyteorder("="))

    def slabs(self, name: str) -> Iterator[np.ndarray]:
        """Return the array in pieces of consecutive frames, some tens of MB each, so that images fit in memory."""
        array = self.array(name)
        return self._slabs(name, array, frames_within(array, _SLAB_BYTES))

    def frames(self, name: str, array: zarr.Array, start: int, stop: int) -> np.ndarray:
        """Return frames of an array that `array` opened, maybe long ago, decoded together: memory for all of them.

        Raises:
            ValueError: their chunks cannot be decoded, or have gone or changed since the array was opened; the
                message names the array, and the file or the frames.
        """
        if self._zip is None:
            for _, file in _chunk_files(name, array, start, stop):
                size = (self.path / file).stat().st_size if (self.path / file).is_file() else "no"
                says = f"{self.path}: the chunk file {file} had {self._sizes[file]} bytes when opened, now {size}"
                require(size == self._sizes[file], says, cure="leave a data set alone while it is read")
        return self._decoded(name, array, start, stop)

    def _slabs(self, name: str, array: zarr.Array, frames: int) -> Iterator[np.ndarray]:
        for start in range(0, array.shape[0], frames):
            yield self._decoded(name, array, start, min(start + frames, array.shape[0]))

    def _decoded(self, name: str, array: zarr.Array, start: int, stop: int) -> np.ndarray:
        try:
            return np.asarray(array[start:stop])
        except Exception as error:
            says = f"{self.path}: {name} is damaged: frames {start} to {stop - 1} cannot be decoded ({error})"
            raise ValueError(explain(says, cure=_AGAIN)) from error

    def _check_chunks(self, name: str, array: zarr.Array, metadata: Mapping[str, Any]) -> None:
        files: list[str] = []
        for first, file in _chunk_files(name, array, 0, array.shape[0]):
            # ends at the first missing one, so that an absurd shape costs nothing
            files.append(file)
            if file not in self._sizes:
                self._report_missing(name, array, first, file)
        outermost = (metadata.get("codecs") or [metadata.get("compressor")])[-1] or {}
        if "blosc" in (outermost.get("id"), outermost.get("name")):
            for file in files:
                size, stated = self._sizes[file], int.from_bytes(self._head(file, _BLOSC_HEADER)[-4:], "little")
                whole = size >= _BLOSC_HEADER and stated == size
                says = f"{self.path}: the chunk file {file} has {size} bytes and states {stated}"
                require(whole, f"{says}: it is truncated or damaged", cure=_AGAIN)

    def _report_missing(self, name: str, array: zarr.Array, first: int, file: str) -> None:
        shape = _file_shape(array)
        total = math.prod(-(-n // c) for n, c in zip(array.shape, shape, strict=True))
        present = sum(entry.startswith(f"{name}/") and not entry.endswith(_NO_CHUNK) for entry in self._sizes)
        last = min(first + shape[0], array.shape[0]) - 1
        says = (
            f"{self.path}: {name} has {present} of {total} chunk files, and lacks {file} (frames {first} to {last})"
        )
        cure = f"{_AGAIN}, or write it with write_empty_chunks=True where its writer left out chunks of zeros"
        raise ValueError(explain(says, cure=cure))

    def _metadata(self, name: str) -> dict[str, Any]:
        file = next((f"{name}/{entry}" for entry in _METADATA if f"{name}/{entry}" in self._sizes), None)
        if file is None:
            check(f"array of {self.path}", name, [ENDS, *(f"data/{known}" for known in self.names())], KeyError)
        return self._json(str(file))

    def _head(self, file: str, count: int) -> bytes:
        try:
            if self._zip is not None:
                with self._zip.open(self._prefix + file) as stream:
                    return stream.read(count)
            with open(self.path / file, "rb") as stream:
                return stream.read(count)
        except (zipfile.BadZipFile, zlib.error, OSError) as error:
            raise ValueError(explain(f"{self.path}: {file} cannot be read ({error})", cure=_AGAIN)) from error

    def _json(self, file: str) -> dict[str, Any]:
        try:
            content = json.loads(self._head(file, -1))
            require(isinstance(content, dict), "it holds no JSON object")
        except ValueError as error:
            raise ValueError(explain(f"{self.path}: {file} is damaged ({error})", cure=_AGAIN)) from error
        return content

    def _find_prefix(self, names: list[str]) -> str:
        ends = tuple(f"{ENDS}/{entry}" for entry in _METADATA)
        found = {name[: name.rindex(ENDS)] for name in names if name.endswith(ends)}
        roots = sorted(prefix for prefix in found if prefix == "" or prefix.endswith("/"))
        self._require_buffer(bool(roots), sorted({name.split("/")[0] for name in names}))
        require(
            len(roots) == 1, f"{self.path} holds several data sets, {', '.join(roots)}", cure="unpack one of them"
        )
        return roots[0]

    def _require_buffer(self, there: bool, found: list[str]) -> None:
        says = f"{self.path} holds no replay buffer: {ENDS} is missing; found {', '.join(found[:8]) or 'nothing'}"
        require(there, says, "the groups data/ and meta/ of the Diffusion Policy layout")


def frames_within(array: zarr.Array, size: int) -> int:
    """Return as many frames as `size` bytes hold, in whole chunks, and at least one chunk."""
    chunk_bytes = array.chunks[0] * math.prod(array.shape[1:]) * array.dtype.itemsize
    return max(1, size // max(1, chunk_bytes)) * array.chunks[0]


def _file_shape(array: zarr.Array) -> tuple[int, ...]:
    # In a sharded array the files are the shards; each holds a checksummed index of its own chunks.
    return array.shards or array.chunks


def _chunk_files(name: str, array: zarr.Array, start: int, stop: int) -> Iterator[tuple[int, str]]:
    """The files that hold frames start to stop - 1, in order, each with its first frame."""
    shape = _file_shape(array)
    grid = [-(-n // c) for n, c in zip(array.shape, shape, strict=True)]
    beside = math.prod(grid[1:])  # files of the same frames
    for index in range(start // shape[0] * beside, -(-stop // shape[0]) * beside):
        at = tuple(map(int, np.unravel_index(index, grid)))
        yield at[0] * shape[0], f"{name}/{array.metadata.encode_chunk_key(at)}"


def new_array(root: zarr.Group, name: str, shape: tuple[int, ...], dtype: np.dtype, chunk_frames: int) -> zarr.Array:
    """Create an array with a checksum in every chunk."""
    return root.create_array(
        name,
        shape=shape,
        dtype=dtype,
        chunks=(chunk_frames, *shape[1:]),
        compressors=[ZstdCodec(level=3, checksum=True)],
        # zarr leaves out chunks of zeros otherwise, and then they look like lost ones
        config={"write_empty_chunks": True},
    )


def write_archive(
    path: str | os.PathLike[str],
    data: Mapping[str, np.ndarray],
    episode_ends: np.ndarray,
    attrs: Mapping[str, Any],
) -> None:
    """Write the layout in zarr format 3 with a checksum in every chunk.

    It is written beside `path` under a hidden name and renamed, so that `path` is either whole or absent.

    Args:
        path: a zip if it ends in `.zip`, else a directory.
        data: name -> array (N, ...).
        episode_ends: (E,) the exclusive end of each episode.
        attrs: attributes of the root group.

    Raises:
        FileExistsError: `path` exists; nothing is written.
    """
    path = Path(path)
    _refuse_existing(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.parent / f".{path.name}.{uuid.uuid4().hex}.partial"
    try:
        store = ZipStore(beside, mode="w") if path.suffix == ".zip" else LocalStore(beside)
        with contextlib.closing(store):
            root = zarr.create_group(store, attributes=dict(attrs))
            for name, values in [*((f"data/{name}", values) for name, values in data.items()), (ENDS, episode_ends)]:
                frames = min(len(values), max(1, CHUNK_BYTES // max(1, values[:1].nbytes)))
                new_array(root, name, values.shape, values.dtype, frames)[...] = values
        _refuse_existing(path)
        os.rename(beside, path)
    except BaseException:
        shutil.rmtree(beside, ignore_errors=True)
        beside.unlink(missing_ok=True)
        raise


def _refuse_existing(path: Path) -> None:
    there = path.exists() or path.is_symlink()
    require(not there, f"{path} exists", cure="remove it or choose another name", error=FileExistsError)


def _codec_ids(metadata: Mapping[str, Any]) -> set[str]:
    """The codecs in an array's metadata: `id` in format 2, `name` (nested, if sharded) in format 3."""
    waiting: list[Any] = [metadata.get(key) for key in ("compressor", "filters", "codecs")]
    found: set[str] = set()
    while waiting:
        item = waiting.pop()
        if isinstance(item, list):
            waiting.extend(item)
        elif isinstance(item, dict):
            found.update(value for key in ("id", "name") if isinstance(value := item.get(key), str))
            waiting.extend(value for value in item.values() if isinstance(value, list | dict))
    return found


def _register_image_codecs(codecs: list[str], what: str) -> None:
    needed = [c for c in codecs if c.startswith("imagecodecs_") and c not in numcodecs.registry.codec_registry]
    if not needed:
        return
    try:
        from imagecodecs.numcodecs import register_codecs
    except ImportError as error:
        says = f"{what} is compressed with {', '.join(needed)}"
        raise ImportError(explain(says, cure="pip install 'diffpolicy[imagecodecs]'")) from error
    register_codecs()
