"""Demonstrations written an episode at a time, so that whatever happens what is finished stays.

A recording is a data set in the layout of `zarr_layout` plus an array `meta/NAME` for each number that is kept of an
episode, such as its seed, and `manifest.json`, the SHA-256 of every other file. An episode is added in an order that
keeps the folder readable after every single write, each of which appears whole or not at all:

1. the manifest, with the digests that files are about to get under "pending";
2. the chunk files of the new frames, at the end of the arrays or beyond it;
3. the lengths of the arrays, `meta/episode_ends` last: until then the new frames do not count;
4. the manifest, with nothing pending.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any, final

import numpy as np
import zarr
from zarr.storage import MemoryStore

from diffpolicy.datasets.checks import as_array, check_camera, check_lengths, check_name
from diffpolicy.datasets.manifest import manifest_bytes, read_manifest, verify
from diffpolicy.datasets.packing import Packing
from diffpolicy.datasets.zarr_chunks import Layout, chunk_files, file_shape
from diffpolicy.datasets.zarr_layout import ENDS, MANIFEST, META, ZarrArchive
from diffpolicy.datasets.zarr_writing import new_array
from diffpolicy.util.errors import explain, require
from diffpolicy.util.files import PARTIAL, lock, sha256, write_bytes

_FINISHED = "finished"  # names of the attributes that `finish` added
_THREADS = 2  # that compress and write files
_FILE_FRAMES = 1024  # at most; the last file is written again with every episode


@contextmanager
def alone(path: str | os.PathLike[str]) -> Iterator[None]:
    """Keep other processes from writing the recording at `path`, by a lock file beside it.

    Args:
        path: a folder, or where it will be.

    Raises:
        FileExistsError: another process writes it.
    """
    place = Path(path).absolute()
    place.parent.mkdir(parents=True, exist_ok=True)
    held = explain(f"{path} is being written by another process", cure="wait for it, or choose another name")
    with lock(place.with_name(f".{place.name}.lock"), held):
        yield


@final
@dataclass(frozen=True)
class _Tail:
    """The end of an array: the frames of its last, unfinished file, all that is kept in memory."""

    start: int  # a multiple of layout.file
    values: np.ndarray
    layout: Layout
    more: np.ndarray  # what follows `values`; kept apart, since an episode of images is large to copy

    @property
    def stop(self) -> int:
        return self.start + len(self.values) + len(self.more)

    def extended(self, more: np.ndarray) -> _Tail:
        return _Tail(self.start, self.values, self.layout, more)

    def files(self) -> Iterator[tuple[int, np.ndarray]]:
        """The first frame and the frames of each file."""
        held = len(self.values)
        for first in range(0, self.stop - self.start, self.layout.file):
            last = first + self.layout.file
            frames = self.more[max(0, first - held) : max(0, last - held)]
            yield self.start + first, frames if first >= held else np.concatenate([self.values[first:last], frames])

    def cut(self) -> _Tail:
        """Return it without the files that are full."""
        unfinished = [(first, frames) for first, frames in self.files() if len(frames) < self.layout.file]
        start, values = unfinished[0] if unfinished else (self.stop, self.more[:0])
        return _Tail(start, values.copy(), self.layout, values[:0])

    @classmethod
    def new(cls, values: np.ndarray) -> _Tail:
        return cls(0, values[:0], Layout.of(values[:1].nbytes, _FILE_FRAMES), values[:0])

    @classmethod
    def read(cls, archive: ZarrArchive, name: str, count: int) -> _Tail:
        """The end of an array of which the first `count` frames count."""
        array = archive.array(name)
        layout = Layout(array.chunks[0], file_shape(array)[0])
        start = count // layout.file * layout.file
        values = archive.frames(name, array, start, count) if count > start else np.empty((0, *array.shape[1:]))
        values = values.astype(array.dtype, copy=False)
        return cls(start, values, layout, values[:0])


@final
class EpisodeWriter:
    """Adds episodes to the recording at `path`, which is made if there is none.

    Memory holds the last file of every array, the names and digests of all files, and while an episode is added its
    chunks, compressed. Every episode writes the manifest twice, so its bytes grow with the square of the recording.

    Args:
        path: a folder.
        attrs: what the recording is of, as JSON; to continue one, it has to be the same, up to what `finish` added.
            "fps" and "units" are read by the data set's users, see `ReplayBuffer`.

    Raises:
        FileExistsError: `path` is something else than a recording.
        ValueError: a recording with other attributes (says which), or a damaged one (names the files).
    """

    def __init__(self, path: str | os.PathLike[str], attrs: Mapping[str, Any]) -> None:
        self.path = Path(path)
        self._attrs = json.loads(json.dumps(dict(attrs)))
        self._added: dict[str, Any] = {}
        self._tails: dict[str, _Tail] = {}
        self._numbers: dict[str, list[int]] = {}
        self._frames = 0
        self._files: dict[str, str] = {}
        self._unfinished = False  # a write failed: the folder is to be read again before the next one
        self._open()

    def _open(self) -> None:
        """Read what is there, and undo an episode that was cut off."""
        left = {MANIFEST + PARTIAL}  # by a kill before anything else was written
        if not self.path.exists() or (self.path.is_dir() and {file.name for file in self.path.iterdir()} <= left):
            return
        foreign = f"{self.path} exists and is no recording ({MANIFEST} is missing)"
        there = (self.path / MANIFEST).is_file()
        require(there, foreign, cure="choose another name", error=FileExistsError)
        self._files, pending = read_manifest(self.path)
        if not (self.path / ENDS / "zarr.json").exists():  # cut off in its first episode: nothing is finished yet
            self._remove({*self._files, *pending})
            return
        damaged = verify(self.path)
        require(not damaged, f"{self.path} is damaged, so nothing is added to it: {'; '.join(damaged)}")
        self._continue()
        if pending:
            self._finish({*self._files, *pending})
        self._unfinished = False

    def _continue(self) -> None:
        """Read what the next episode is added to."""
        with ZarrArchive(self.path) as archive:
            found = archive.attrs()
            ends = archive.read(ENDS)
            self._frames, count = int(ends[-1]), len(ends)
            self._numbers = {name: archive.read(META + name)[:count].tolist() for name in archive.meta_names()}
            kept = [META + name for name in self._numbers]
            for name in (*(f"data/{name}" for name in archive.names()), *kept, ENDS):
                self._tails[name] = _Tail.read(archive, name, self._frames if name.startswith("data/") else count)
        self._added = {key: found.pop(key, None) for key in found.pop(_FINISHED, {})}
        there, now = _flat(found), _flat(self._attrs)
        other = sorted(k for k in there.keys() | now.keys() if there.get(k) != now.get(k))
        differs = "; ".join(f"{k}: {there.get(k)!r:.80} there, {now.get(k)!r:.80} now" for k in other[:4])
        says = f"{self.path} records something else ({differs})"
        require(not other, says, cure="choose another name, or the same settings")

    @property
    def meta(self) -> dict[str, list[int]]:
        """What was kept of each finished episode, by name, in their order."""
        return {name: list(values) for name, values in self._numbers.items()}

    @property
    def frames(self) -> int:
        """The frames of all finished episodes together."""
        return self._frames

    def add(self, episode: Mapping[str, Any], **meta: int) -> None:
        """Add an episode.

        Args:
            episode: name -> array, list or tensor (L, ...), equally long; images (L, H, W, C).
            meta: numbers that are kept of it, such as `seed`; the same names for every episode.

        Raises:
            ValueError: arrays or numbers of other names, or frames of other shapes, than those before; a name that is
                no plain word; or images with their channels first or without any.
            OSError: as on a full disk; the episodes before stay as they are. The next call first reads the folder, as
                a new writer would.
        """
        self._recover()
        for name in episode:
            check_name(name)
        new = {f"data/{name}": as_array(name, values) for name, values in episode.items()}
        flat = next((name for name, values in new.items() if values.ndim == 0), None)
        require(flat is None, f"{flat} is a single number", "time on axis 0")
        check_lengths("an episode", {name.removeprefix("data/"): len(values) for name, values in new.items()})
        for name, values in new.items():
            check_camera(name.removeprefix("data/"), values.shape, values.dtype)
        end = self._frames + len(next(iter(new.values())))
        if self._tails:
            kept = {name: tail.values for name, tail in self._tails.items() if name.startswith("data/")}
            before, now = ({n: (v.shape[1:], str(v.dtype)) for n, v in part.items()} for part in (kept, new))
            require(before == now, f"this episode's frames are {now}", f"{before}, as before")
            same = meta.keys() == self._numbers.keys()
            require(same, f"this episode has the numbers {sorted(meta)}", f"{sorted(self._numbers)}, as before")
        new |= {**{META + name: np.array([int(value)]) for name, value in meta.items()}, ENDS: np.array([end])}
        tails = {name: self._tails.get(name, _Tail.new(values)).extended(values) for name, values in new.items()}
        self._write(tails)
        self._tails = {name: tail.cut() for name, tail in tails.items()}
        for name, value in meta.items():
            self._numbers.setdefault(name, []).append(int(value))
        self._frames = end
        self._unfinished = False

    def finish(self, attrs: Mapping[str, Any]) -> None:
        """Add attributes that are known only when all episodes are there. More may still be added."""
        self._recover()
        self.note(attrs)
        self._write(self._tails)
        self._unfinished = False

    def note(self, attrs: Mapping[str, Any]) -> None:
        """Set attributes as `finish` does, to be written together with the next episode."""
        self._added = json.loads(json.dumps(dict(attrs)))

    @property
    def noted(self) -> dict[str, Any]:
        """The attributes that `finish` or `note` added, also before this recording was continued."""
        return dict(self._added)

    def _recover(self) -> None:
        """After a write that failed: read the folder again, since some files are others than memory knows."""
        if not self._unfinished:
            return
        noted, self._tails, self._numbers, self._frames, self._files = self._added, {}, {}, 0, {}
        try:
            self._open()
        finally:
            self._added = noted
        self._unfinished = False

    def _write(self, tails: Mapping[str, _Tail]) -> None:
        """Write the files in which the ends of the arrays differ from what is there."""
        self._unfinished = True
        added = {**self._added, _FINISHED: dict.fromkeys(self._added, True)} if self._added else {}
        with ThreadPoolExecutor(_THREADS, "write") as pool:
            contents = _encode(tails, {**self._attrs, **added}, pool)
            found = dict(zip(contents, pool.map(sha256, contents.values()), strict=True))
            pending = {name: digest for name, digest in found.items() if self._files.get(name) != digest}
            self._manifest(pending)
            for _, names in groupby(sorted(pending, key=_order), key=_order):
                list(pool.map(lambda name: write_bytes(self.path / name, contents[name]), names))
        self._files |= pending
        self._manifest({})

    def _manifest(self, pending: Mapping[str, str]) -> None:
        write_bytes(self.path / MANIFEST, manifest_bytes(self._files, pending))

    def _finish(self, names: set[str]) -> None:
        """After a kill: write the ends of the arrays without the frames that do not count, and remove the files."""
        for name in names:  # half a file that the next episode may have no use for would be foreign then
            (self.path / (name + PARTIAL)).unlink(missing_ok=True)
        self._files = {name: sha256(self.path / name) for name in names if (self.path / name).exists()}
        self._write(self._tails)
        self._remove({name for name in self._files if not self._counts(name)})
        self._manifest({})

    def _counts(self, file: str) -> bool:
        """Whether a file holds metadata, or a chunk with frames that count."""
        if file.endswith("zarr.json"):
            return True
        name, _, place = file.rpartition("/c/")
        tail = self._tails.get(name)
        return tail is not None and int(place.split("/")[0]) * tail.layout.file < tail.stop

    def _remove(self, names: Iterable[str]) -> None:
        for name in list(names):
            for file in (name, name + PARTIAL):
                (self.path / file).unlink(missing_ok=True)
            self._files.pop(name, None)


def _flat(attrs: Mapping[str, Any]) -> dict[str, Any]:
    """The attributes, those inside another one as "outer.inner"."""
    nested = {
        f"{k}.{inner}": v for k, found in attrs.items() if isinstance(found, dict) for inner, v in found.items()
    }
    return {**{k: found for k, found in attrs.items() if not isinstance(found, dict)}, **nested}


def _encode(tails: Mapping[str, _Tail], attrs: Mapping[str, Any], pool: ThreadPoolExecutor) -> dict[str, bytes]:
    """File name -> content of the metadata, and of the chunk files at the ends of the arrays."""
    memory: dict[str, Any] = {}
    root = zarr.create_group(MemoryStore(memory), attributes=dict(attrs))
    packed: dict[str, Future[bytes]] = {}
    for name, tail in tails.items():
        array = new_array(root, name, (tail.stop, *tail.values.shape[1:]), tail.values.dtype, tail.layout)
        packing, names = Packing.of(array), dict(chunk_files(name, array, tail.start, tail.stop))
        says = f"this release of zarr packs {name} in a way that is not known here"
        require(packing is not None, says, cure="install the releases in constraints.txt", error=RuntimeError)
        for first, frames in tail.files():
            packed[names[first]] = pool.submit(packing.pack, frames)
    metadata = {name: memory[name].to_bytes() for name in memory}
    return metadata | {file: content.result() for file, content in packed.items()}


def _order(name: str) -> tuple[bool, bool]:
    """Chunks first, then lengths, and the ends of the episodes after all else."""
    return name.startswith(ENDS), name.endswith("zarr.json")
