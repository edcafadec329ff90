"""Episodes of recorded demonstrations in memory, and the choice of episodes for training and validation."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, final

import numpy as np

from diffpolicy.datasets.zarr_layout import ENDS, ZarrArchive, unknown, write_archive

IMAGE_NDIM = 4  # (frames, height, width, channels)


@final
class ReplayBuffer:
    """Whole episodes one after another: arrays with time on axis 0, and where each episode ends.

    Arrays of four dimensions (N, H, W, C) are images and uint8; all others are numbers of any real dtype.
    Everything is checked here, so that whoever holds a buffer holds finite data of matching lengths.

    Args:
        data: name -> array of shape (N, ...), all with the same N.
        episode_ends: (E,) integers, the exclusive end of each episode; strictly increasing, the last one is
            N.
        attrs: whatever JSON can hold; travels with `save` and `open`.

    Raises:
        TypeError: a dtype that is not a real number, episode ends that are not integers.
        ValueError: wrong shapes or lengths, bad episode ends, an empty episode, NaN or infinity in the data.
    """

    def __init__(
        self,
        data: Mapping[str, np.ndarray],
        episode_ends: np.ndarray,
        attrs: Mapping[str, Any] | None = None,
    ) -> None:
        self._ends = _checked_ends(np.asarray(episode_ends))
        if not data:
            raise ValueError("a replay buffer needs at least one array, got none")
        self._numbers = np.arange(len(self._ends))
        self._data = {name: np.asarray(values) for name, values in data.items()}
        self.attrs: dict[str, Any] = dict(attrs or {})
        json.dumps(self.attrs)  # fails now rather than in `save`, when the demonstrations would be lost
        for name, values in self._data.items():
            _check_array(name, values, self._ends)

    @classmethod
    def from_episodes(
        cls, episodes: Iterable[Mapping[str, np.ndarray]], attrs: Mapping[str, Any] | None = None
    ) -> ReplayBuffer:
        """A buffer from one's own recordings: each episode a dict of equally long arrays (L, ...).

        Raises:
            ValueError: no episodes, or an episode that is empty, or whose names, lengths or frame shapes do
                not match; the message names the episode (counted from 0) and the array.
        """
        parts: dict[str, list[np.ndarray]] = {}
        lengths: list[int] = []
        for number, episode in enumerate(episodes):
            arrays = {name: np.asarray(values) for name, values in episode.items()}
            if number == 0:
                parts = {name: [] for name in arrays}
            if not arrays or arrays.keys() != parts.keys():
                raise ValueError(f"episode {number} holds the arrays {sorted(arrays)}, expected {sorted(parts)}")
            if flat := [name for name, values in arrays.items() if values.ndim == 0]:
                raise ValueError(f"episode {number}: {flat[0]!r} is a single number, expected time on axis 0")
            sizes = {name: len(values) for name, values in arrays.items()}
            if len(set(sizes.values())) > 1 or not all(sizes.values()):
                raise ValueError(f"episode {number}: arrays must be equally long and not empty, got lengths {sizes}")
            for name, values in arrays.items():
                if parts[name] and values.shape[1:] != parts[name][0].shape[1:]:
                    raise ValueError(
                        f"episode {number}: a frame of {name!r} has shape {values.shape[1:]}, in episode 0 "
                        f"it has {parts[name][0].shape[1:]}"
                    )
                parts[name].append(values)
            lengths.append(next(iter(sizes.values())))
        if not lengths:
            raise ValueError("no episodes given")
        return cls({name: np.concatenate(values) for name, values in parts.items()}, np.cumsum(lengths), attrs)

    @classmethod
    def open(cls, path: str | os.PathLike[str], keys: Sequence[str] | None = None) -> ReplayBuffer:
        """Reads the published Diffusion Policy layout (see `zarr_layout`) into memory.

        Images, that is arrays of four dimensions, come as uint8 also where the file holds float32 (as the
        published ones do): a quarter of the memory, and read piece by piece.

        Args:
            path: a zarr directory, a `.zarr.zip`, or a zip with the zarr folder inside; zarr format 2 or 3.
            keys: the arrays to read; without it all but the images.

        Raises:
            FileNotFoundError: nothing at `path`.
            KeyError: a key the file lacks (with the near ones).
            ValueError, TypeError: damaged or ill-formed data; the message names the array and what to do.
            ImportError: the images need the codecs of the `imagecodecs` extra.
        """
        if isinstance(keys, str):
            raise TypeError(f"keys must be a list of names, got the string {keys!r}; write [{keys!r}]")
        with ZarrArchive(path) as archive:
            known = archive.names()
            for key in keys or ():
                if key not in known:
                    raise KeyError(f"{archive.path}: " + unknown("key", key, known))
            try:
                # before the data, since reading images takes a while
                ends = _checked_ends(archive.read(ENDS))
                shapes = {n: archive.shape(f"data/{n}") for n in (known if keys is None else keys)}
                if keys is None:
                    shapes = {n: shape for n, shape in shapes.items() if len(shape) != IMAGE_NDIM}
                if not shapes:
                    raise ValueError(f"nothing to read but images; name those wanted in keys, of: {known}")
                data = {}
                for name, shape in shapes.items():
                    # A recording that was cut off may hold frames of an episode that does not count yet.
                    counted = min(shape[0], int(ends[-1])) if shape and archive.is_recording() else None
                    check_length(name, (counted, *shape[1:]) if counted else shape, ends)
                    is_image = len(shape) == IMAGE_NDIM
                    values = _read_images(archive, name, shape) if is_image else archive.read(f"data/{name}")
                    data[name] = values[:counted]
                return cls(data, ends, archive.attrs())
            except (ValueError, TypeError) as error:
                if str(archive.path) in str(error):
                    raise
                kind = TypeError if isinstance(error, TypeError) else ValueError
                raise kind(f"{archive.path}: {error}") from error

    def save(self, path: str | os.PathLike[str]) -> None:
        """Writes the same layout, every chunk with a checksum.

        A zip if `path` ends in `.zip`, else a directory. It appears whole or not at all.

        Raises:
            FileExistsError: `path` exists.
        """
        write_archive(path, self._data, self._ends, self.attrs)

    def keys(self) -> list[str]:
        """The names of the arrays."""
        return list(self._data)

    def __getitem__(self, key: str) -> np.ndarray:
        """The array (N, ...) of that name; not a copy. Raises KeyError with the near names."""
        try:
            return self._data[key]
        except KeyError:
            raise KeyError(unknown("key", key, self._data)) from None

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
        """(E,) int64, what each episode was called in the buffer that subsets were taken of; for messages."""
        return self._numbers.copy()

    @property
    def n_episodes(self) -> int:
        """The number of episodes E."""
        return len(self._ends)

    @property
    def n_steps(self) -> int:
        """The number of frames N of all episodes together."""
        return int(self._ends[-1])

    def episode_slices(self) -> list[slice]:
        """For each episode the slice of its frames."""
        return [slice(int(e - n), int(e)) for e, n in zip(self._ends, self.episode_lengths, strict=True)]

    def subset(self, episode_indices: Iterable[int]) -> ReplayBuffer:
        """A buffer of copies of the given episodes, in the given order.

        Raises:
            ValueError: no episode, one that does not exist, or one twice.
        """
        indices = [int(i) for i in episode_indices]
        if not indices:
            raise ValueError("a subset of no episodes was asked for; a buffer holds at least one")
        if bad := [i for i in indices if not 0 <= i < self.n_episodes]:
            raise ValueError(f"there is no episode {bad[0]}: the buffer has {self.n_episodes}, counted from 0")
        if len(set(indices)) < len(indices):
            raise ValueError("a subset must name every episode at most once")
        slices = self.episode_slices()
        data = {n: np.concatenate([v[slices[i]] for i in indices]) for n, v in self._data.items()}
        part = ReplayBuffer(data, np.cumsum(self.episode_lengths[indices]), self.attrs)
        part._numbers = self._numbers[indices]
        return part

    def joined(self, other: ReplayBuffer) -> ReplayBuffer:
        """A buffer of copies: these episodes, then the other's, which keep their numbers for messages.

        Raises:
            ValueError: the two hold other arrays, or frames of other shapes.
        """
        frames = [{name: values.shape[1:] for name, values in part._data.items()} for part in (self, other)]
        if frames[0] != frames[1]:
            raise ValueError(f"cannot join buffers of different frames: {frames[0]} and {frames[1]}")
        data = {name: np.concatenate([values, other[name]]) for name, values in self._data.items()}
        both = ReplayBuffer(data, np.concatenate([self._ends, other._ends + self.n_steps]), self.attrs)
        both._numbers = np.concatenate([self._numbers, other._numbers])
        return both

    def __repr__(self) -> str:
        arrays = ", ".join(f"{n} {v.shape[1:]} {v.dtype}" for n, v in self._data.items())
        return f"ReplayBuffer({self.n_episodes} episodes, {self.n_steps} steps: {arrays})"


def select_episodes(
    n_episodes: int, episodes: int | None = None, seed: int = 42, validation: float = 0.05
) -> tuple[np.ndarray, np.ndarray]:
    """A seeded choice of training and validation episodes; the two never overlap.

    All come from one permutation of the seed: training episodes from its front, validation episodes from its
    back. So a smaller training set is part of a larger one, and the validation episodes are the same for
    every size of the training set that leaves room for them.

    Args:
        n_episodes: how many there are.
        episodes: how many to train on. `None`: all but the validation ones. With a number, validation takes
            from the rest, hence fewer than its share when the rest is small, and none when there is no rest.
        seed: of the permutation.
        validation: the share of `n_episodes` held out, in [0, 1); at least one episode when above 0.

    Returns:
        Two sorted int64 arrays of episode indices; the second is empty for `validation=0`.

    Raises:
        ValueError: numbers out of range, or nothing left to train on.
    """
    if n_episodes < 1:
        raise ValueError(f"n_episodes must be at least 1, got {n_episodes}")
    if not 0 <= validation < 1:
        raise ValueError(f"validation must be a share in [0, 1), got {validation}; 0.05 holds out one in twenty")
    if episodes is not None and not 1 <= episodes <= n_episodes:
        raise ValueError(f"cannot train on {episodes} episodes: there are {n_episodes}, and at least 1 is needed")
    held_out = max(1, round(validation * n_episodes)) if validation > 0 else 0
    if episodes is None:
        episodes = n_episodes - held_out
        if episodes < 1:
            raise ValueError(
                f"holding out {held_out} of {n_episodes} episodes leaves none to train on; set validation=0"
            )
    held_out = min(held_out, n_episodes - episodes)
    order = np.random.default_rng(seed).permutation(n_episodes)
    return np.sort(order[:episodes]), np.sort(order[n_episodes - held_out :])


def _checked_ends(ends: np.ndarray) -> np.ndarray:
    if ends.dtype.kind not in "iu":
        raise TypeError(f"episode_ends must be integers, got dtype {ends.dtype}")
    if ends.ndim != 1 or len(ends) == 0:
        raise ValueError(f"episode_ends must have shape (E,) with at least one episode, got shape {ends.shape}")
    ends = ends.astype(np.int64)
    if bad := np.flatnonzero(np.diff(ends, prepend=0) <= 0).tolist():
        i = bad[0]
        before = ends[i - 1] if i else 0
        raise ValueError(
            f"episode_ends must increase strictly from above 0, so that no episode is empty: episode {i} "
            f"ends at {ends[i]} and begins at {before}"
        )
    return ends


def check_length(name: str, shape: tuple[int, ...], ends: np.ndarray) -> None:
    """Refuses an array whose frames are not those that the episodes' `ends` count, with a ValueError."""
    if not shape or math.prod(shape[1:]) == 0:
        raise ValueError(f"{name!r} has shape {shape}; expected (frames, ...) with at least one number a frame")
    if shape[0] < ends[-1]:
        over = int(np.searchsorted(ends, shape[0], side="right"))
        raise ValueError(
            f"episode_ends overrun the data: episode {over} ends at frame {ends[over]}, but {name!r} has "
            f"{shape[0]} frames; the recording is cut off or the ends belong to another one"
        )
    if shape[0] > ends[-1]:
        raise ValueError(
            f"episode_ends do not cover the data: the last episode ends at frame {ends[-1]}, but {name!r} "
            f"has {shape[0]} frames; cut the array or add the missing end"
        )


def _check_array(name: str, values: np.ndarray, ends: np.ndarray) -> None:
    if not isinstance(name, str) or not name or "/" in name or name.startswith("."):
        raise ValueError(f"an array's name must be a plain word, got {name!r}")
    if values.dtype.kind not in "biuf":
        raise TypeError(f"{name!r} has dtype {values.dtype}; expected real numbers or booleans")
    check_length(name, values.shape, ends)
    if values.ndim == IMAGE_NDIM:
        if values.dtype != np.uint8:
            raise TypeError(
                f"{name!r} has shape {values.shape}, that is images, and dtype {values.dtype}; images are "
                "uint8, 0 to 255"
            )
    elif values.dtype.kind == "f" and not (finite := np.isfinite(values)).all():
        frame = int(np.argwhere(~finite)[0, 0])
        raise ValueError(f"{name!r} holds NaN or infinity at {_where(frame, ends)}; repair or leave out the episode")


def _where(frame: int, ends: np.ndarray) -> str:
    episode = int(np.searchsorted(ends, frame, side="right"))
    inside = frame - (ends[episode - 1] if episode else 0)
    return f"frame {frame} (frame {inside} of episode {episode})"


def _read_images(archive: ZarrArchive, name: str, shape: tuple[int, ...]) -> np.ndarray:
    images = np.empty(shape, np.uint8)
    done = 0
    for slab in archive.slabs(f"data/{name}"):
        images[done : done + len(slab)] = as_images(slab, name, done)
        done += len(slab)
    return images


def as_images(frames: np.ndarray, name: str, first: int) -> np.ndarray:
    """Frames (n, H, W, C) of any dtype as uint8; `name` and the number of the `first` are for the message.

    Raises:
        ValueError: values that uint8 does not hold, which are no images; names the frame.
    """
    if frames.dtype == np.uint8:
        return frames
    with np.errstate(invalid="ignore"):  # NaN is caught by the comparison below
        images = frames.astype(np.uint8)
    if not np.array_equal(images, frames):
        frame = first + int(np.argwhere(images != frames)[0, 0])
        raise ValueError(
            f"{name!r} has four dimensions and is read as images, but frame {frame} holds values that "
            "are not whole numbers from 0 to 255; store images as uint8 and other arrays with fewer "
            "dimensions"
        )
    return images
