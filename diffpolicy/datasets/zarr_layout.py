"""The zarr layout of the Diffusion Policy data sets, read and written with care for damage.

Arrays `data/NAME` have time on axis 0; `meta/episode_ends` holds the exclusive end of every episode. They are
kept in a directory, in a zip, or in a zip with folders above them (`pusht/name.zarr/...`); zarr format 2 or
3.

zarr itself answers a missing chunk file with the fill value, that is with zeros, and blosc reads past the end
of a chunk that lost its last bytes. So the chunk files present are compared with those the shape calls for,
and the length that a blosc chunk states with the length it has, before anything is decoded. What is written
here carries a checksum in every chunk, so that a later flipped bit is an error and not a wrong number.
"""

from __future__ import annotations

import contextlib
import difflib
import json
import math
import os
import shutil
import uuid
import zipfile
import zlib
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, final

import numcodecs.registry
import numpy as np
import zarr
from zarr.codecs import ZstdCodec
from zarr.storage import LocalStore, ZipStore

ENDS = "meta/episode_ends"
MANIFEST = "manifest.json"
_METADATA = (".zarray", "zarr.json")  # of an array, in format 2 and 3
_NO_CHUNK = (".zarray", ".zattrs", "zarr.json")
_SLAB_BYTES = 32 * 2**20  # what is decoded at a time when an array is not read whole
_CHUNK_BYTES = 2**20  # what is written per chunk
_BLOSC_HEADER = 16  # bytes; the last four hold the compressed length, little-endian


def unknown(kind: str, name: str, known: Iterable[str]) -> str:
    """The sentence for a name that does not exist: what was given, the near ones, and what there is."""
    known = sorted(known)
    near = difflib.get_close_matches(name, known, n=3, cutoff=0.5)
    hint = f" Did you mean {' or '.join(repr(n) for n in near)}?" if near else ""
    return f"unknown {kind} {name!r}.{hint} There is: {', '.join(known) or 'nothing'}."


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
        if not self.path.exists():
            raise FileNotFoundError(f"no data set at {self.path}: expected a zarr directory or a .zarr.zip file")
        if self.path.is_dir():
            if not any((self.path / ENDS / m).is_file() for m in _METADATA):
                raise self._not_a_buffer(sorted(p.name for p in self.path.iterdir()))
            # data sets are often put together from links; one that leads nowhere counts as missing
            walk = os.walk(self.path, followlinks=True)
            files = [f for folder, _, names in walk for n in names if (f := Path(folder, n)).is_file()]
            self._sizes = {f.relative_to(self.path).as_posix(): f.stat().st_size for f in files}
            self._store: zarr.abc.store.Store = LocalStore(self.path, read_only=True)
        else:
            try:
                self._zip = zipfile.ZipFile(self.path)
            except zipfile.BadZipFile as error:
                raise ValueError(
                    f"{self.path} is neither a zarr directory nor a whole zip file ({error}); if it was "
                    "downloaded or copied, the transfer broke off: do it again"
                ) from error
            with contextlib.ExitStack() as on_error:
                on_error.callback(self._zip.close)
                names = self._zip.namelist()
                self._prefix = self._find_prefix(names)
                self._sizes = {
                    i.filename.removeprefix(self._prefix): i.file_size
                    for i in self._zip.infolist()
                    if i.filename.startswith(self._prefix) and not i.is_dir()
                }
                self._store = ZipStore(self.path, mode="r")
                on_error.pop_all()

    def __enter__(self) -> ZarrArchive:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Closes the zip file, if it is one."""
        if self._zip is not None:
            self._zip.close()
        self._store.close()

    def names(self) -> list[str]:
        """The arrays under `data/`, by name, sorted."""
        found = (n.split("/") for n in self._sizes)
        return sorted({p[1] for p in found if len(p) == 3 and p[0] == "data" and p[2] in _METADATA})

    def is_recording(self) -> bool:
        """Whether it was written an episode at a time, see `recorder`."""
        return MANIFEST in self._sizes

    def attrs(self) -> dict[str, Any]:
        """The attributes of the root group."""
        if "zarr.json" in self._sizes:
            return dict(self._json("zarr.json").get("attributes", {}))
        return self._json(".zattrs") if ".zattrs" in self._sizes else {}

    def shape(self, name: str) -> tuple[int, ...]:
        """The shape of an array, from its metadata alone."""
        return tuple(self._metadata(name).get("shape", ()))

    def array(self, name: str) -> zarr.Array:
        """Opens an array (`data/state`, `meta/episode_ends`) after checking that nothing of it is missing.

        Raises:
            KeyError: no such array.
            ValueError: unreadable metadata, a dtype that is not a real number, an array that would unpickle,
                missing or truncated chunks. The message names the array and the first bad file.
            ImportError: the array needs the image codecs, which are an extra.
        """
        metadata = self._metadata(name)
        codecs = sorted(_codec_ids(metadata))
        if any(c.rsplit(".", 1)[-1] == "pickle" for c in codecs):
            raise ValueError(
                f"{name} of {self.path} is stored pickled, and unpickling runs whatever code the file holds: "
                "refused. Store it as an array of numbers."
            )
        _register_image_codecs(codecs, f"{name} of {self.path}")
        try:
            array = zarr.open_array(self._store, path=self._prefix + name, mode="r")
        except Exception as error:  # zarr raises many types here, all of which mean the same to the reader
            raise ValueError(f"cannot open {name} of {self.path}: {error}") from error
        if array.dtype.kind not in "biuf" or array.ndim == 0:
            raise ValueError(
                f"{name} of {self.path} has dtype {array.dtype} and shape {array.shape}; expected real "
                "numbers or booleans with time on axis 0"
            )
        self._check_chunks(name, array, metadata)
        return array

    def read(self, name: str) -> np.ndarray:
        """The whole array in native byte order, C-contiguous. Raises ValueError naming the damaged frames."""
        array = self.array(name)
        try:
            values = np.asarray(array[...])
        except Exception:  # every codec has its own exception: find the chunk and say it in one way
            list(self._slabs(name, array, array.chunks[0]))
            raise
        return np.ascontiguousarray(values, dtype=values.dtype.newbyteorder("="))

    def slabs(self, name: str) -> Iterator[np.ndarray]:
        """The array in pieces of consecutive frames, some tens of MB each, so that images fit in memory."""
        array = self.array(name)
        return self._slabs(name, array, slab_rows(array, _SLAB_BYTES))

    def frames(self, name: str, array: zarr.Array, start: int, stop: int) -> np.ndarray:
        """Frames of an array that `array` opened, maybe long ago, decoded together: memory for all of them.

        Raises:
            ValueError: their chunks cannot be decoded, or have gone or changed since the array was opened; the
                message names the array, and the file or the frames.
        """
        if self._zip is None:
            for _, file in _chunk_files(name, array, start, stop):
                size = (self.path / file).stat().st_size if (self.path / file).is_file() else "no"
                if size != self._sizes[file]:
                    raise ValueError(
                        f"{name} of {self.path}: the chunk file {file} had {self._sizes[file]} bytes when the data "
                        f"set was opened and now has {size}; leave a data set alone while it is read, and copy "
                        "it again"
                    )
        return self._decoded(name, array, start, stop)

    def _slabs(self, name: str, array: zarr.Array, rows: int) -> Iterator[np.ndarray]:
        for start in range(0, array.shape[0], rows):
            yield self._decoded(name, array, start, min(start + rows, array.shape[0]))

    def _decoded(self, name: str, array: zarr.Array, start: int, stop: int) -> np.ndarray:
        try:
            return np.asarray(array[start:stop])
        except Exception as error:
            raise ValueError(
                f"{name} of {self.path} cannot be decoded in frames {start} to {stop - 1} ({error}): a "
                "chunk file is truncated or damaged; download or copy the data set again"
            ) from error

    def _check_chunks(self, name: str, array: zarr.Array, metadata: Mapping[str, Any]) -> None:
        files: list[str] = []
        for first, file in _chunk_files(name, array, 0, array.shape[0]):
            # ends at the first missing one, so that an absurd shape costs nothing
            files.append(file)
            if file in self._sizes:
                continue
            shape = _file_shape(array)
            total = math.prod(-(-n // c) for n, c in zip(array.shape, shape, strict=True))
            present = sum(f.startswith(f"{name}/") and not f.endswith(_NO_CHUNK) for f in self._sizes)
            last = min(first + shape[0], array.shape[0]) - 1
            raise ValueError(
                f"{name} of {self.path}: of {total} chunk files {present} are there, the first missing one "
                f"is {files[-1]} (frames {first} to {last}); zarr would read them as zeros. Download or copy "
                "the data set again. If its writer left out chunks of zeros (zarr 3 does unless told "
                "write_empty_chunks=True), write it again with ReplayBuffer.save"
            )
        outermost = (metadata.get("codecs") or [metadata.get("compressor")])[-1] or {}
        if "blosc" in (outermost.get("id"), outermost.get("name")):
            for file in files:
                stated = int.from_bytes(self._head(file, _BLOSC_HEADER)[-4:], "little")
                if self._sizes[file] < _BLOSC_HEADER or stated != self._sizes[file]:
                    raise ValueError(
                        f"{name} of {self.path}: the chunk file {file} has {self._sizes[file]} bytes, which "
                        "is not the length it states: it is truncated or damaged; download or copy the data "
                        "set again"
                    )

    def _metadata(self, name: str) -> dict[str, Any]:
        file = next((f"{name}/{m}" for m in _METADATA if f"{name}/{m}" in self._sizes), None)
        if file is None:
            raise KeyError(f"{self.path}: " + unknown("array", name, [ENDS, *(f"data/{n}" for n in self.names())]))
        return self._json(file)

    def _head(self, file: str, count: int) -> bytes:
        try:
            if self._zip is not None:
                with self._zip.open(self._prefix + file) as stream:
                    return stream.read(count)
            with open(self.path / file, "rb") as stream:
                return stream.read(count)
        except (zipfile.BadZipFile, zlib.error, OSError) as error:
            raise ValueError(f"{file} of {self.path} cannot be read ({error}); copy it again") from error

    def _json(self, file: str) -> dict[str, Any]:
        text = self._head(file, -1)
        try:
            content = json.loads(text)
        except ValueError as error:
            raise ValueError(f"{file} of {self.path} is damaged ({error}); download or copy it again") from error
        if not isinstance(content, dict):
            raise ValueError(f"{file} of {self.path} is damaged: it holds no JSON object")
        return content

    def _find_prefix(self, names: list[str]) -> str:
        ends = tuple(f"{ENDS}/{m}" for m in _METADATA)
        found = {n[: n.rindex(ENDS)] for n in names if n.endswith(ends)}
        roots = sorted(p for p in found if p == "" or p.endswith("/"))
        if not roots:
            raise self._not_a_buffer(sorted({n.split("/")[0] for n in names}))
        if len(roots) > 1:
            raise ValueError(f"{self.path} holds several data sets: {', '.join(roots)}; unpack it and open one")
        return roots[0]

    def _not_a_buffer(self, found: list[str]) -> ValueError:
        return ValueError(
            f"{self.path} holds no replay buffer: {ENDS} is missing; found "
            f"{', '.join(found[:8]) or 'nothing'}. Expected the groups data/ and meta/ of the Diffusion "
            "Policy layout"
        )


def slab_rows(array: zarr.Array, size: int) -> int:
    """As many frames as `size` bytes hold, in whole chunks, and at least one chunk."""
    chunk_bytes = array.chunks[0] * math.prod(array.shape[1:]) * array.dtype.itemsize
    return max(1, size // max(1, chunk_bytes)) * array.chunks[0]


def _file_shape(array: zarr.Array) -> tuple[int, ...]:
    # In a sharded array the files are the shards; each holds a checksummed index of its own chunks.
    return array.shards or array.chunks


def _chunk_files(name: str, array: zarr.Array, start: int, stop: int) -> Iterator[tuple[int, str]]:
    """The files that hold frames start to stop - 1, each with its first frame, in the order of the frames."""
    shape = _file_shape(array)
    grid = [-(-n // c) for n, c in zip(array.shape, shape, strict=True)]
    a_row = math.prod(grid[1:])
    for index in range(start // shape[0] * a_row, -(-stop // shape[0]) * a_row):
        at = tuple(map(int, np.unravel_index(index, grid)))
        yield at[0] * shape[0], f"{name}/{array.metadata.encode_chunk_key(at)}"


def write_archive(
    path: str | os.PathLike[str],
    data: Mapping[str, np.ndarray],
    episode_ends: np.ndarray,
    attrs: Mapping[str, Any],
) -> None:
    """Writes the layout in zarr format 3 with a checksum in every chunk.

    A zip if `path` ends in `.zip`, else a directory. It is written beside `path` under a hidden name and
    renamed, so that `path` is either whole or absent.

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
            for name, values in [*((f"data/{n}", v) for n, v in data.items()), (ENDS, episode_ends)]:
                frame_bytes = max(1, values[:1].nbytes)
                array = root.create_array(
                    name,
                    shape=values.shape,
                    dtype=values.dtype,
                    chunks=(min(len(values), max(1, _CHUNK_BYTES // frame_bytes)), *values.shape[1:]),
                    compressors=[ZstdCodec(level=3, checksum=True)],
                    # zarr leaves out chunks of zeros otherwise, and then they look like lost ones
                    config={"write_empty_chunks": True},
                )
                array[...] = values
        _refuse_existing(path)
        os.rename(beside, path)
    except BaseException:
        shutil.rmtree(beside, ignore_errors=True)
        beside.unlink(missing_ok=True)
        raise


def _refuse_existing(path: Path) -> None:
    if path.exists() or path.is_symlink():
        raise FileExistsError(f"{path} exists and is not overwritten; remove it or choose another name")


def _codec_ids(metadata: Mapping[str, Any]) -> set[str]:
    """The codecs in an array's metadata: `id` in format 2, `name` (nested, if sharded) in format 3."""
    waiting: list[Any] = [metadata.get(k) for k in ("compressor", "filters", "codecs")]
    found: set[str] = set()
    while waiting:
        item = waiting.pop()
        if isinstance(item, list):
            waiting.extend(item)
        elif isinstance(item, dict):
            found.update(v for k in ("id", "name") if isinstance(v := item.get(k), str))
            waiting.extend(v for v in item.values() if isinstance(v, list | dict))
    return found


def _register_image_codecs(codecs: list[str], what: str) -> None:
    needed = [c for c in codecs if c.startswith("imagecodecs_") and c not in numcodecs.registry.codec_registry]
    if not needed:
        return
    try:
        from imagecodecs.numcodecs import register_codecs
    except ImportError as error:
        raise ImportError(
            f"{what} is compressed with {', '.join(needed)}; install the codecs: pip install "
            "'diffpolicy[imagecodecs]'"
        ) from error
    register_codecs()
