"""Demonstrations written an episode at a time, so that whatever happens what is finished stays.

A recording is a data set of the layout of `zarr_layout` plus `meta/seeds`, the seed of every episode, and
`manifest.json`, the SHA-256 of every other file. An episode is added in an order that keeps the folder readable
after every single write, each of which appears whole or not at all:

1. the manifest, with the digests that files are about to get under "pending";
2. the chunk files of the new frames, at the end of the arrays or beyond it;
3. the lengths of the arrays, `meta/episode_ends` last: until then the new frames do not count;
4. the manifest, with nothing pending.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, final

import numpy as np
import zarr
from zarr.codecs import ZstdCodec
from zarr.storage import MemoryStore

from diffpolicy.datasets.zarr_layout import ENDS, MANIFEST, ZarrArchive

SEEDS = "meta/seeds"
_CHUNK_ROWS = 1024  # frames; the last chunk is written again with every episode


@final
class EpisodeRecorder:
    """Adds episodes to the recording at `path`, which is begun if there is none.

    Args:
        path: a folder.
        attrs: what the recording is of, as JSON; to go on with one, it has to be the same.

    Raises:
        FileExistsError: `path` is something else than a recording.
        ValueError: a recording with other attributes (says which), or a damaged one (names the files).
    """

    def __init__(self, path: str | os.PathLike[str], attrs: Mapping[str, Any]) -> None:
        self.path = Path(path)
        self._attrs = json.loads(json.dumps(dict(attrs)))
        self._arrays: dict[str, np.ndarray] = {}
        self._files: dict[str, str] = {}
        if not self.path.exists() or (self.path.is_dir() and not any(self.path.iterdir())):
            return
        if not (self.path / MANIFEST).is_file():
            raise FileExistsError(
                f"{self.path} exists and is no recording ({MANIFEST} is missing); choose another name"
            )
        self._files, pending = _read_manifest(self.path)
        if not (self.path / ENDS / "zarr.json").exists():  # cut off in its first episode: nothing is finished yet
            self._remove({*self._files, *pending})
            return
        if damaged := verify(self.path):
            raise ValueError(f"{self.path} is damaged, so nothing is added to it: {'; '.join(damaged)}")
        with ZarrArchive(self.path) as archive:
            found = archive.attrs()
            names = [f"data/{name}" for name in archive.names()]
            self._arrays = {name: archive.read(name) for name in (*names, SEEDS, ENDS)}
        if found != self._attrs:
            other = sorted(k for k in found.keys() | self._attrs.keys() if found.get(k) != self._attrs.get(k))
            told = "; ".join(f"{k}: {found.get(k)!r} there, {self._attrs.get(k)!r} now" for k in other)
            raise ValueError(
                f"{self.path} records something else ({told}); choose another name, or the same settings"
            )
        if pending:
            self._finish({*self._files, *pending})

    @property
    def seeds(self) -> list[int]:
        """The seeds of the finished episodes."""
        return self._arrays[SEEDS].tolist() if self._arrays else []

    def add(self, episode: Mapping[str, np.ndarray], seed: int) -> None:
        """Add an episode: equally long arrays (L, ...), by name.

        Raises:
            ValueError: arrays of other names or frame shapes than those before.
            OSError: as on a full disk; the episodes before stay as they are.
        """
        rows = {f"data/{name}": np.asarray(values) for name, values in episode.items()}
        lengths = {len(values) for values in rows.values()}
        if len(lengths) != 1 or 0 in lengths:
            raise ValueError(f"an episode's arrays must be equally long and not empty; got lengths {sorted(lengths)}")
        if self._arrays:
            before = {n: (v.shape[1:], v.dtype) for n, v in self._arrays.items() if n.startswith("data/")}
            if before != (now := {name: (values.shape[1:], values.dtype) for name, values in rows.items()}):
                raise ValueError(f"this episode's frames are {now}, those before {before}")
        end = (self._arrays[ENDS][-1] if self._arrays else 0) + lengths.pop()
        rows |= {SEEDS: np.array([seed]), ENDS: np.array([end])}
        arrays = {n: np.concatenate([self._arrays[n], v]) if self._arrays else v for n, v in rows.items()}
        self._write({name: (values, len(values) - len(rows[name])) for name, values in arrays.items()})
        self._arrays = arrays

    def _write(self, arrays: Mapping[str, tuple[np.ndarray, int]]) -> None:
        """Write the files in which these arrays, from the given rows on, differ from what is there."""
        files = {}
        for name, content in _encode(arrays, self._attrs).items():
            if self._files.get(name) != _digest(content):
                files[name] = content
        pending = {name: _digest(content) for name, content in files.items()}
        self._manifest(pending)
        for name in sorted(files, key=_order):
            _replace(self.path / name, files[name])
        self._files |= pending
        self._manifest({})

    def _manifest(self, pending: Mapping[str, str]) -> None:
        _replace(self.path / MANIFEST, _manifest_bytes(self._files, pending))

    def _finish(self, names: set[str]) -> None:
        """After a kill: forget the frames that do not count, and the files that hold nothing else."""
        count, frames = len(self._arrays[ENDS]), int(self._arrays[ENDS][-1])
        for name, values in self._arrays.items():
            self._arrays[name] = values[: frames if name.startswith("data/") else count]
        whole = {name: (values, 0) for name, values in self._arrays.items()}
        self._files = {n: _digest((self.path / n).read_bytes()) for n in names if (self.path / n).exists()}
        self._write(whole)
        self._remove(self._files.keys() - _encode(whole, self._attrs).keys())
        self._manifest({})

    def _remove(self, names: Iterable[str]) -> None:
        for name in list(names):
            (self.path / name).unlink(missing_ok=True)
            self._files.pop(name, None)


def verify(path: str | os.PathLike[str]) -> list[str]:
    """One sentence for each file of a recording that is damaged, missing or foreign; none if it is as written.

    Raises:
        FileNotFoundError: nothing at `path`.
    """
    path = Path(path)
    if not path.is_dir():
        raise FileNotFoundError(f"no recording at {path}: expected a folder with a {MANIFEST}")
    try:
        files, pending = _read_manifest(path)
    except ValueError as error:
        return [str(error)]
    damaged = []
    for name in sorted({*files, *pending}):
        try:
            found = _digest((path / name).read_bytes())
        except FileNotFoundError:
            if name in files:
                damaged.append(f"{name} is missing")
            continue
        except OSError as error:
            damaged.append(f"{name} cannot be read ({error})")
            continue
        if found not in (files.get(name), pending.get(name)):
            damaged.append(f"{name} is not what was written")
    there = (file.relative_to(path).as_posix() for file in path.rglob("*") if file.is_file())
    known = {MANIFEST, *files, *pending}
    damaged += [f"{name} is none of the recording's" for name in sorted(there) if name not in known | _partial(known)]
    return damaged


def digest(path: str | os.PathLike[str]) -> str:
    """SHA-256 of a recording: of the names and digests of its files, so that equal contents have equal digests.

    Raises:
        ValueError: the manifest is missing or damaged.
    """
    files, _ = _read_manifest(Path(path))
    return _digest(json.dumps(files, sort_keys=True).encode())


def _encode(arrays: Mapping[str, tuple[np.ndarray, int]], attrs: Mapping[str, Any]) -> dict[str, bytes]:
    """File name -> content of the metadata, and of the chunks with rows from the given ones on."""
    memory: dict[str, Any] = {}
    root = zarr.create_group(MemoryStore(memory), attributes=dict(attrs))
    for name, (values, first) in arrays.items():
        array = root.create_array(
            name,
            shape=values.shape,
            dtype=values.dtype,
            chunks=(_CHUNK_ROWS, *values.shape[1:]),
            compressors=[ZstdCodec(level=3, checksum=True)],
            config={"write_empty_chunks": True},  # as in `zarr_layout.write_archive`
        )
        start = first // _CHUNK_ROWS * _CHUNK_ROWS
        array[start:] = values[start:]
    return {name: content.to_bytes() for name, content in memory.items()}


def _order(name: str) -> tuple[bool, bool, str]:
    """Chunks first, then lengths, and the ends of the episodes after all else."""
    return name.startswith(ENDS), name.endswith("zarr.json"), name


def _replace(path: Path, content: bytes) -> None:
    """Write beside and rename, flushed: after a crash the file is the old one or the new one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(path.name + ".partial")
    try:
        with open(beside, "wb") as stream:
            stream.write(content)
            stream.flush()
            os.fsync(stream.fileno())
        beside.replace(path)
    except BaseException:
        beside.unlink(missing_ok=True)
        raise


def _partial(names: set[str]) -> set[str]:
    return {name + ".partial" for name in names}


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def _manifest_bytes(files: Mapping[str, str], pending: Mapping[str, str]) -> bytes:
    body = {"files": dict(sorted(files.items())), "pending": dict(sorted(pending.items()))}
    own = _digest(json.dumps(body).encode())
    return (json.dumps({**body, "sha256": own}, indent=1) + "\n").encode()


def _read_manifest(path: Path) -> tuple[dict[str, str], dict[str, str]]:
    """What `_manifest_bytes` wrote: files and pending. Raises ValueError if it is not that, byte for byte."""
    try:
        content = (path / MANIFEST).read_bytes()
    except OSError as error:
        raise ValueError(f"{MANIFEST} is missing or cannot be read ({error.strerror})") from error
    try:
        found = json.loads(content)
        if _manifest_bytes(found["files"], found["pending"]) == content:
            return found["files"], found["pending"]
    except (ValueError, KeyError, TypeError, AttributeError):
        pass
    raise ValueError(f"{MANIFEST} is not what was written")
