"""The zarr layout of the Diffusion Policy data sets, read and written with care for damage.

Arrays `data/NAME` have time on axis 0; `meta/episode_ends` holds the exclusive end of every episode. They are kept in
a directory, in a zip, or in a zip with folders above them (`folder/name.zarr/...`); zarr format 2 or 3.

zarr itself answers a missing chunk file with the fill value, that is with zeros, and blosc reads past the end of a
chunk that lost its last bytes. So the chunk files present are compared with those the shape calls for, and the length
that a blosc chunk states with the length it has, before anything is decoded. What is written here (`zarr_writing`)
carries a checksum in every chunk, so that a later flipped bit is an error and not a wrong number.

A missing chunk is taken for a lost one, unless the array's own metadata say that writers leave chunks of the fill
value out (`zarr_chunks.may_leave_out`: zarr format 3, as others write it). Such chunks are read as that value, with a
warning that counts them. In a recording with a manifest, which lists every file, and in `meta/episode_ends`, whose
numbers are never 0, a missing chunk is always lost.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import warnings
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, final

import numpy as np
import zarr
from zarr.storage import LocalStore, ZipStore

from diffpolicy.datasets.packing import Packing
from diffpolicy.datasets.zarr_chunks import (
    AGAIN,
    chunk_files,
    codec_ids,
    dtype_of,
    file_shape,
    frames_within,
    may_leave_out,
    register_image_codecs,
)
from diffpolicy.util.errors import explain, require
from diffpolicy.util.names import check

META = "meta/"
ENDS = "meta/episode_ends"
MANIFEST = "manifest.json"
_METADATA = (".zarray", "zarr.json")  # of an array, in format 2 and 3
_NO_CHUNK = (".zarray", ".zattrs", "zarr.json")
_SLAB_BYTES = 32 * 2**20  # what is decoded at a time when an array is not read whole
_BLOSC_HEADER = 16  # bytes; the last four hold the compressed length, little-endian


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
            raise ValueError(self._other_format() or explain(says, cure=AGAIN)) from error
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

    def dtype(self, name: str) -> np.dtype | None:
        """Return the dtype of an array, from its metadata alone; None if it does not hold real numbers."""
        return dtype_of(self._metadata(name))

    def meta(self, episodes: int) -> dict[str, np.ndarray]:
        """Return the numbers that are kept of each episode, name -> (episodes,); what is no such array is left out.

        Raises:
            ValueError: a damaged one.
        """
        found = {}
        for name in self.meta_names():
            shape, dtype = self.shape(META + name), self.dtype(META + name)
            # A recording that was cut off may hold numbers of an episode that does not count yet.
            fits = len(shape) == 1 and (shape[0] == episodes or (self.is_recording() and shape[0] > episodes))
            if fits and dtype is not None:
                found[name] = self.read(META + name)[:episodes]
        return found

    def array(self, name: str) -> zarr.Array:
        """Open an array (`data/state`, `meta/episode_ends`) after checking that nothing of it is missing.

        Raises:
            KeyError: no such array.
            ValueError: unreadable metadata, a dtype that is not a real number, an array that would unpickle, missing
                or truncated chunks. The message names the array and the first bad file.
            ImportError: the array needs the image codecs, which are an extra.
        """
        metadata = self._metadata(name)
        codecs = sorted(codec_ids(metadata))
        pickled = any(codec.rsplit(".", 1)[-1] == "pickle" for codec in codecs)
        says = f"{self.path}: {name} is stored pickled, and unpickling runs whatever code the file holds: refused"
        require(not pickled, says, cure="store it as an array of numbers")
        register_image_codecs(codecs, f"{self.path}: {name}")
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

    @property
    def folder(self) -> Path | None:
        """The folder that holds the files; None if they are in a zip."""
        return self.path if self._zip is None else None

    def frames(self, name: str, array: zarr.Array, start: int, stop: int) -> np.ndarray:
        """Return frames of an array that `array` opened, maybe long ago, decoded together: memory for all of them.

        Raises:
            ValueError: their chunks cannot be decoded, or have gone or changed since the array was opened; the
                message names the array, and the file or the frames.
        """
        with self.unchanged(name, array, start, stop):
            packing = None if self.folder is None else Packing.of(array)
            if packing is None:
                return self._decoded(name, array, start, stop)
            frames = np.empty((stop - start, *array.shape[1:]), array.dtype)
            packing.unpack(self.path, name, array, np.arange(start, stop), frames)
            return frames

    @contextlib.contextmanager
    def unchanged(self, name: str, array: zarr.Array, start: int, stop: int) -> Iterator[None]:
        """Raise ValueError if chunk files of these frames have gone or changed since the array was opened.

        That is also looked for where the block raises one, whose reason it may be.
        """
        self._check_unchanged(name, array, start, stop)
        try:
            yield
        except ValueError:
            self._check_unchanged(name, array, start, stop)
            raise

    def _check_unchanged(self, name: str, array: zarr.Array, start: int, stop: int) -> None:
        if self._zip is not None:
            return
        for _, file in chunk_files(name, array, start, stop):
            size = (self.path / file).stat().st_size if (self.path / file).is_file() else "no"
            before = self._sizes.get(file, "no")
            says = f"{self.path}: the chunk file {file} had {before} bytes when opened, now {size}"
            require(size == before, says, cure="leave a data set alone while it is read")

    def _slabs(self, name: str, array: zarr.Array, frames: int) -> Iterator[np.ndarray]:
        for start in range(0, array.shape[0], frames):
            yield self._decoded(name, array, start, min(start + frames, array.shape[0]))

    def _decoded(self, name: str, array: zarr.Array, start: int, stop: int) -> np.ndarray:
        try:
            return np.asarray(array[start:stop])
        except Exception as error:
            says = f"{self.path}: {name} is damaged: frames {start} to {stop - 1} cannot be decoded ({error})"
            raise ValueError(explain(says, cure=AGAIN)) from error

    def _check_chunks(self, name: str, array: zarr.Array, metadata: Mapping[str, Any]) -> None:
        files: list[str] = []
        if may_leave_out(metadata) and not self.is_recording() and name != ENDS:
            files = self._present(name)  # whatever the shape is, which may be absurd
            self._warn_of_unwritten(name, array, len(files))
        else:
            for first, file in chunk_files(name, array, 0, array.shape[0]):
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
                require(whole, f"{says}: it is truncated or damaged", cure=AGAIN)

    def _present(self, name: str) -> list[str]:
        """The chunk files of an array that are there."""
        return [entry for entry in self._sizes if entry.startswith(f"{name}/") and not entry.endswith(_NO_CHUNK)]

    def _warn_of_unwritten(self, name: str, array: zarr.Array, present: int) -> None:
        total = math.prod(-(-n // c) for n, c in zip(array.shape, file_shape(array), strict=True))
        if present < total:
            says = f"{self.path}: {total - present} of {total} chunks of {name} were never written"
            warnings.warn(f"{says}, and are {array.fill_value} as its metadata say", stacklevel=3)

    def _report_missing(self, name: str, array: zarr.Array, first: int, file: str) -> None:
        shape = file_shape(array)
        total = math.prod(-(-n // c) for n, c in zip(array.shape, shape, strict=True))
        present = len(self._present(name))
        last = min(first + shape[0], array.shape[0]) - 1
        says = (
            f"{self.path}: {name} has {present} of {total} chunk files, and lacks {file} (frames {first} to {last})"
        )
        raise ValueError(explain(says, cure=AGAIN))

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
            raise ValueError(explain(f"{self.path}: {file} cannot be read ({error})", cure=AGAIN)) from error

    def _json(self, file: str) -> dict[str, Any]:
        try:
            content = json.loads(self._head(file, -1))
            require(isinstance(content, dict), "it holds no JSON object")
        except ValueError as error:
            raise ValueError(explain(f"{self.path}: {file} is damaged ({error})", cure=AGAIN)) from error
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

    def _other_format(self) -> str | None:
        """What to do about a recording of a format that can be converted; None if it is of none."""
        from diffpolicy.datasets.importers import UnknownFormat, recognize  # whose readers use this module

        try:
            _, seen = recognize(self.path)
        except (UnknownFormat, FileNotFoundError):
            return None
        return explain(f"{self.path} is {seen}", "a replay buffer", f"diffpolicy convert {self.path} OUT")

    def _require_buffer(self, there: bool, found: list[str]) -> None:
        if not there and (other := self._other_format()):
            raise ValueError(other)
        says = f"{self.path} holds no replay buffer: {ENDS} is missing; found {', '.join(found[:8]) or 'nothing'}"
        require(there, says, "the groups data/ and meta/ of the Diffusion Policy layout")
