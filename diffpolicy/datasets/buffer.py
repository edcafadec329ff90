"""Episodes of recorded demonstrations in memory."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, final

import numpy as np

from diffpolicy.datasets.buffer_reading import read_arrays
from diffpolicy.datasets.checks import as_array, check_array, check_episode, check_meta, checked_ends
from diffpolicy.datasets.growing import GrowingArray
from diffpolicy.datasets.zarr_layout import ZarrArchive
from diffpolicy.datasets.zarr_writing import write_archive
from diffpolicy.util.errors import located, require
from diffpolicy.util.names import check

_Arrays = Mapping[str, np.ndarray]


@final
class ReplayBuffer:
    """Whole episodes one after another: arrays with time on axis 0, and where each episode ends.

    Arrays of four dimensions (N, H, W, C) are images: uint8, or uint16 of one channel for depth. All others are
    numbers of any real dtype. Everything is checked here, so that a buffer always holds finite data of matching
    lengths.

    Args:
        data: name -> array of shape (N, ...), all with the same N.
        episode_ends: (E,) integers, the exclusive end of each episode; strictly increasing, the last one is N.
        attrs: anything that JSON can hold, such as "fps" (frames per second), "units" (by name of an array) and
            "ranges" (of depth images: name -> [nearest, farthest]); saved with the data.
        meta: name -> (E,) numbers, one of each episode, such as its seed; saved with the data.

    Raises:
        TypeError: a dtype that is not a real number, episode ends that are not integers, attributes beyond JSON.
        ValueError: wrong shapes or lengths, bad episode ends, an empty episode, NaN or infinity in the data, images
            with their channels first or without any.
    """

    def __init__(
        self,
        data: Mapping[str, np.ndarray],
        episode_ends: np.ndarray,
        attrs: Mapping[str, Any] | None = None,
        meta: Mapping[str, np.ndarray] | None = None,
    ) -> None:
        self._ends = checked_ends(np.asarray(episode_ends))
        require(data, "a replay buffer without arrays", "at least one")
        self._numbers = np.arange(len(self._ends))
        self._data = {name: as_array(name, values) for name, values in data.items()}
        self._meta = {name: as_array(name, values) for name, values in (meta or {}).items()}
        self.attrs: dict[str, Any] = dict(attrs or {})
        json.dumps(self.attrs)  # fails now rather than in `save`, when the demonstrations would be lost
        for name, values in self._data.items():
            check_array(name, values, self._ends)
        for name, values in self._meta.items():
            check_meta(name, values, len(self._ends))

    @classmethod
    def from_episodes(
        cls,
        episodes: Iterable[Mapping[str, Any]],
        attrs: Mapping[str, Any] | None = None,
        meta: _Arrays | None = None,
    ) -> ReplayBuffer:
        """Return a buffer of your own recordings, which takes the memory of the data and of one episode.

        Args:
            episodes: each a mapping of equally long arrays, lists or tensors (L, ...); a generator that makes one at
                a time saves the memory of a list of all.
            attrs: see `ReplayBuffer`.
            meta: see `ReplayBuffer`.

        Raises:
            ValueError: no episodes, or an episode that is empty, or whose names, lengths or frame shapes do not
                match; the message names the episode (counted from 0) and the array.
        """
        joined: dict[str, GrowingArray] = {}
        lengths: list[int] = []
        for number, given in enumerate(episodes):
            with located(f"episode {number}"):
                episode = {name: as_array(name, values) for name, values in given.items()}
            frames = {name: array.frame_shape for name, array in joined.items()} if joined else None
            check_episode(number, episode, frames)
            for name, values in episode.items():
                joined.setdefault(name, GrowingArray()).append(values)
            lengths.append(len(next(iter(episode.values()))))
        require(lengths, "no episodes", "at least one")
        return cls({name: array.finished() for name, array in joined.items()}, np.cumsum(lengths), attrs, meta)

    @classmethod
    def open(cls, path: str | os.PathLike[str], keys: Sequence[str] | None = None) -> ReplayBuffer:
        """Read a data set in the Diffusion Policy layout (see `zarr_layout`) into memory.

        Images, that is arrays of four dimensions, come as uint8 also where the file holds float32 (as published ones
        do): a quarter of the memory, and read piece by piece. Depth, uint16 of one channel, stays what it is.

        Args:
            path: a zarr directory, a `.zarr.zip`, or a zip with the zarr folder inside; zarr format 2 or 3.
            keys: the arrays to read; None reads all but the images.

        Raises:
            FileNotFoundError: nothing at `path`.
            KeyError: a key the file lacks, with the close ones.
            ValueError: damaged or ill-formed data; the message names the array and what to do.
            TypeError: arrays of other things than real numbers, or `keys` that are one string.
            ImportError: the images need the codecs of the `imagecodecs` extra.
        """
        require(not isinstance(keys, str), f"keys={keys!r}", "a list of names", f"write [{keys!r}]", TypeError)
        with ZarrArchive(path) as archive, located(archive.path):
            data, ends = read_arrays(archive, keys)
            return cls(data, ends, archive.attrs(), archive.meta(len(ends)))

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the buffer in the layout that `open` reads, whole or not at all, every chunk with a checksum.

        Args:
            path: a zip if it ends in `.zip`, else a directory.

        Raises:
            FileExistsError: `path` exists.
        """
        write_archive(path, self._data, self._ends, self.attrs, self._meta)

    def keys(self) -> list[str]:
        """Return the names of the arrays."""
        return list(self._data)

    def __getitem__(self, key: str) -> np.ndarray:
        """Return the array (N, ...) of that name, not a copy. Raises KeyError with the close names."""
        check("key", key, self._data, KeyError)
        return self._data[key]

    def __contains__(self, key: object) -> bool:
        return key in self._data

    @property
    def episode_ends(self) -> np.ndarray:
        """(E,) int64, the exclusive end of each episode; a copy."""
        return self._ends.copy()

    @property
    def episode_lengths(self) -> np.ndarray:
        """(E,) int64, the number of frames of each episode."""
        return np.diff(self._ends, prepend=0)

    @property
    def episode_numbers(self) -> np.ndarray:
        """(E,) int64, the number of each episode in the buffer that subsets were made from; for messages."""
        return self._numbers.copy()

    @property
    def meta(self) -> dict[str, np.ndarray]:
        """Name -> (E,) numbers, one of each episode; copies."""
        return {name: values.copy() for name, values in self._meta.items()}

    @property
    def n_episodes(self) -> int:
        """The number of episodes E."""
        return len(self._ends)

    @property
    def n_steps(self) -> int:
        """The number of frames N of all episodes together."""
        return int(self._ends[-1])

    def episode_slices(self) -> list[slice]:
        """Return for each episode the slice of its frames."""
        return [slice(int(e - n), int(e)) for e, n in zip(self._ends, self.episode_lengths, strict=True)]

    def with_arrays(self, data: Mapping[str, np.ndarray]) -> ReplayBuffer:
        """Return a buffer of the same episodes with other arrays."""
        return self._like(data, self._ends, self._numbers, self._meta)

    def subset(self, episode_indices: Iterable[int]) -> ReplayBuffer:
        """Return a buffer of copies of the given episodes, in the given order.

        Raises:
            ValueError: no episode, one that does not exist, or one twice.
        """
        indices = [int(i) for i in episode_indices]
        require(indices, "a subset of no episodes", "at least one")
        bad = next((i for i in indices if not 0 <= i < self.n_episodes), None)
        require(bad is None, f"there is no episode {bad}", f"0 to {self.n_episodes - 1}")
        require(len(set(indices)) == len(indices), f"a subset of {indices}", "every episode at most once")
        slices = self.episode_slices()
        data = {name: np.concatenate([values[slices[i]] for i in indices]) for name, values in self._data.items()}
        meta = {name: values[indices] for name, values in self._meta.items()}
        return self._like(data, np.cumsum(self.episode_lengths[indices]), self._numbers[indices], meta)

    def joined(self, other: ReplayBuffer) -> ReplayBuffer:
        """Return a buffer of copies: these episodes, then the other's, which keep their numbers for messages.

        Of `meta` it has what both have.

        Raises:
            ValueError: the two hold other arrays, or frames of other shapes.
        """
        mine, theirs = ({name: values.shape[1:] for name, values in part._data.items()} for part in (self, other))
        require(mine == theirs, f"joining buffers of different frames: {mine} and {theirs}")
        data = {name: np.concatenate([values, other[name]]) for name, values in self._data.items()}
        ends = np.concatenate([self._ends, other._ends + self.n_steps])
        shared = [name for name in self._meta if name in other._meta]
        meta = {name: np.concatenate([self._meta[name], other._meta[name]]) for name in shared}
        return self._like(data, ends, np.concatenate([self._numbers, other._numbers]), meta)

    def _like(self, data: _Arrays, ends: np.ndarray, numbers: np.ndarray, meta: _Arrays) -> ReplayBuffer:
        buffer = ReplayBuffer(data, ends, self.attrs, meta)
        buffer._numbers = numbers
        return buffer

    def __repr__(self) -> str:
        arrays = ", ".join(f"{n} {v.shape[1:]} {v.dtype}" for n, v in self._data.items())
        return f"ReplayBuffer({self.n_episodes} episodes, {self.n_steps} steps: {arrays})"
