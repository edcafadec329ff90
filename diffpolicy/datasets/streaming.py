"""Training windows whose images stay on disk, read ahead in an order that suits chunks.

A window drawn at random costs a whole chunk to decode, so the order is that of `PoolSampler`: the recording is cut
into runs of whole chunks, and windows are permuted within pools of runs, drawn anew in every epoch. While one pool is
handed out, a thread decodes the next. Two are the most there is in memory, however long the recording. Observations
in numbers and actions are small and stay in memory.

As with `BatchSampler`, the batch of step k is a function of the seed and of k alone: resuming needs no stored
position, every window comes exactly once an epoch, every batch is full and may begin in one epoch and end in the
next.
"""

from __future__ import annotations

import math
import os
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import CancelledError, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from pathlib import Path
from typing import final

import numpy as np
import torch
import zarr
from torch import Tensor

from diffpolicy.datasets.replay_buffer import IMAGE_NDIM, ReplayBuffer, as_images, check_length
from diffpolicy.datasets.windows import PoolSampler, WindowDataset, WindowIndex
from diffpolicy.datasets.zarr_layout import ENDS, ZarrArchive, slab_rows, unknown

_MIB = 2**20
_PIECE_BYTES = 8 * _MIB  # what is decoded at a time; a chunk if that is larger
_NUMBERS = ("obs", "action", "weight")  # what a batch holds beside its images


@final
class ImageWindows:
    """All windows of a recording, as `WindowDataset`, with the images of their observed frames left on disk.

    A context manager, since the recording stays open until `close`.

    Args:
        buffer: the numbers of the recording, or of some of its episodes in their order (`ReplayBuffer.subset`).
        path: the recording, see `ReplayBuffer.open`.
        cameras: name in a batch -> array in the recording, images (N, H, W, C): uint8, or any dtype that holds whole
            numbers from 0 to 255, as the published float32.
        obs_keys, action_key, horizon, obs_horizon, action_horizon, weights: as of `WindowDataset`.

    Raises:
        FileNotFoundError: nothing at `path`.
        KeyError: a key that the buffer or the recording lacks.
        ValueError: as `WindowDataset`; an array that holds no images, or is damaged; a buffer whose episodes are
            not the recording's.
    """

    def __init__(
        self,
        buffer: ReplayBuffer,
        path: str | os.PathLike[str],
        cameras: Mapping[str, str],
        obs_keys: Sequence[str],
        action_key: str,
        horizon: int,
        obs_horizon: int,
        action_horizon: int,
        weights: Tensor | None = None,
    ) -> None:
        if not cameras or any(name in _NUMBERS for name in cameras):
            raise ValueError(
                f"cameras must name at least one array of images, and none {' or '.join(_NUMBERS)}, where a batch "
                f"has its numbers; got {dict(cameras)}"
            )
        self._numbers = WindowDataset(
            buffer, obs_keys, action_key, horizon, obs_horizon, action_horizon, weights=weights
        )
        self._archive = ZarrArchive(path)
        try:
            ends = self._archive.read(ENDS).astype(np.int64)
            firsts = _episodes_on_disk(buffer, ends, self._archive.path)
            self._images = {name: self._open(key, ends) for name, key in cameras.items()}
            self._keys = dict(cameras)
        except BaseException:
            self._archive.close()
            raise
        counts = self._numbers.window_counts
        self._index = WindowIndex(firsts, buffer.episode_lengths, counts, obs_horizon)

    def _open(self, key: str, ends: np.ndarray) -> zarr.Array:
        known = self._archive.names()
        if key not in known:
            raise KeyError(f"{self._archive.path}: " + unknown("key", key, known))
        array = self._archive.array(f"data/{key}")
        counted = min(array.shape[0], int(ends[-1])) if self._archive.is_recording() else array.shape[0]
        try:
            check_length(key, (counted, *array.shape[1:]), ends)
        except ValueError as error:
            raise ValueError(f"{self._archive.path}: {error}") from error
        if array.ndim != IMAGE_NDIM:
            raise ValueError(
                f"{key!r} of {self._archive.path} has shape {array.shape}; images have (frames, height, width, "
                "channels). Name arrays of numbers in obs_keys"
            )
        return array

    def __enter__(self) -> ImageWindows:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Closes the recording."""
        self._archive.close()

    def __len__(self) -> int:
        return len(self._index)

    @property
    def image_shapes(self) -> dict[str, tuple[int, int, int]]:
        """(H, W, C) of each camera's images, by its name in a batch."""
        return {name: array.shape[1:] for name, array in self._images.items()}

    @property
    def obs_horizon(self) -> int:
        """T_o, frames."""
        return self._numbers.obs_horizon

    @property
    def obs_dim(self) -> int:
        """D, the numbers in one observation beside its images."""
        return self._numbers.obs_dim

    @property
    def action_dim(self) -> int:
        """A, the numbers in one action."""
        return self._numbers.action_dim

    @property
    def frame_bytes(self) -> int:
        """What the images of one frame take in memory, bytes."""
        return sum(math.prod(shape) for shape in self.image_shapes.values())

    @property
    def decoding_bytes(self) -> int:
        """What decoding takes beside the frames that come of it, bytes: the chunks of a piece, and the piece."""
        pieces = (
            slab_rows(a, _PIECE_BYTES) * math.prod(a.shape[1:]) * a.dtype.itemsize for a in self._images.values()
        )
        return 2 * max(pieces)

    def all_obs(self) -> Tensor:
        """As of `WindowDataset`: what a normaliser is fitted on."""
        return self._numbers.all_obs()

    def all_actions(self) -> Tensor:
        """As of `WindowDataset`: what a normaliser is fitted on."""
        return self._numbers.all_actions()

    def numbers(self, indices: Tensor) -> dict[str, Tensor]:
        """`batch` without the images."""
        return self._numbers.batch(indices)

    def batch(self, indices: Tensor) -> dict[str, Tensor]:
        """The windows of the given numbers, shape (B,), int64, 0 to len - 1, read from disk now.

        Returns:
            `obs` (B, T_o, D) and `action` (B, T_p, A), float32, in the units of the data, and under the name of
            each camera its images (B, T_o, H, W, C), uint8.

        Raises:
            ValueError: damaged images; says where.
        """
        shown = self.observed(indices)
        return {**self.numbers(indices), **self.read(np.unique(shown.numpy())).gather(shown)}

    def observed(self, indices: Tensor) -> Tensor:
        """The numbers of the frames that windows observe, (B,) -> (B, T_o) int64."""
        return self._index.frames(indices, self.obs_horizon)

    def runs(self, frames: int) -> np.ndarray:
        """(R + 1,) int64: windows runs[i] to runs[i + 1] - 1 begin in run i, of at least `frames`, whole chunks."""
        rows = max(array.chunks[0] for array in self._images.values())
        run = -(-frames // rows) * rows
        first = self._index.frames(torch.arange(len(self)), 1)[:, 0].numpy()
        return np.append(np.flatnonzero(np.diff(first // run, prepend=-1)), len(self))

    def read(self, frames: np.ndarray, cancelled: Callable[[], bool] = lambda: False) -> Frames:
        """The images of the given frames, (n,) int64 that increase, decoded piece by piece.

        Args:
            cancelled: asked before every piece; once it says so, `CancelledError` is raised.

        Raises:
            ValueError: damaged images; names the recording, the array, and the file or the frames.
        """
        found = {}
        for name, array in self._images.items():
            key = self._keys[name]
            images = np.empty((len(frames), *array.shape[1:]), np.uint8)
            rows = array.chunks[0]
            for begin, end in _pieces(frames // rows, slab_rows(array, _PIECE_BYTES) // rows):
                if cancelled():
                    raise CancelledError
                start = frames[begin] // rows * rows
                stop = min((frames[end - 1] // rows + 1) * rows, array.shape[0])
                piece = self._archive.frames(f"data/{key}", array, int(start), int(stop))
                try:
                    piece = as_images(piece, key, int(start))
                except ValueError as error:
                    raise ValueError(f"{self._archive.path}: {error}") from error
                np.take(piece, frames[begin:end] - start, axis=0, out=images[begin:end], mode="clip")
            found[name] = torch.from_numpy(images)
        return Frames(frames, found)


@final
@dataclass(frozen=True)
class Frames:
    """Images in memory: under each name (n, H, W, C) uint8, of the frames `numbers` (n,) int64, increasing."""

    numbers: np.ndarray
    images: dict[str, Tensor]

    def gather(self, wanted: Tensor) -> dict[str, Tensor]:
        """Copies of the frames of the given numbers, all of which are here, (B, T_o) -> (B, T_o, H, W, C)."""
        places = torch.from_numpy(np.searchsorted(self.numbers, wanted.flatten().numpy()))
        return {key: images.index_select(0, places).unflatten(0, wanted.shape) for key, images in self.images.items()}


def _pieces(chunks: np.ndarray, longest: int) -> Iterator[tuple[int, int]]:
    """Slices of frames, given the chunk of each, over at most `longest` chunks with none between that holds none."""
    jumps = np.append(np.flatnonzero(np.diff(chunks) > 1) + 1, len(chunks))
    begin = 0
    while begin < len(chunks):
        jump = jumps[np.searchsorted(jumps, begin, side="right")]
        end = min(int(jump), int(np.searchsorted(chunks, chunks[begin] + longest)))
        yield begin, end
        begin = end


def _episodes_on_disk(buffer: ReplayBuffer, ends: np.ndarray, path: Path) -> np.ndarray:
    """(E,) the frame at which each of the buffer's episodes begins in the recording."""
    lengths, numbers = np.diff(ends, prepend=0), buffer.episode_numbers
    in_order = numbers[-1] < len(ends) and bool((np.diff(numbers) > 0).all())
    if not in_order or not np.array_equal(lengths[numbers], buffer.episode_lengths):
        raise ValueError(
            f"{buffer!r} does not hold episodes of {path} ({len(ends)} episodes, {ends[-1]} steps) in their order: "
            "open it with ReplayBuffer.open, and choose episodes with subset, in increasing order"
        )
    return (ends - lengths)[numbers]


@final
class WindowStream:
    """The batches of a training run by step number, their images read ahead of the steps.

    Asked for steps in turn, it waits only where training is faster than the disk; any other step can be asked for
    and costs the reading of a pool. A context manager: `close` ends the thread. One that is not closed ends with
    the process, after the pool it is reading.

    Args:
        windows: all windows; stays open.
        batch_size: of all processes together.
        seed: of the order.
        pool: how many runs are mixed at a time: more mix better and take more memory.
        run: frames that are read together, at least; rounded up to whole chunks. A window that reaches into the
            next run costs one of its chunks, so long runs are decoded faster, and short ones mix better.
        memory: bound of the images in memory, MiB.
        share: (rank, world): of every batch the rows from rank·batch_size/world on, batch_size/world of them.

    Raises:
        ValueError: numbers out of range, or more memory needed than allowed; says how much, and what would fit.
    """

    def __init__(
        self,
        windows: ImageWindows,
        batch_size: int,
        seed: int,
        pool: int = 16,
        run: int = 256,
        memory: float = 1024,
        share: tuple[int, int] = (0, 1),
    ) -> None:
        rank, world = share
        if not 0 <= rank < world or batch_size % world:
            raise ValueError(
                f"share must be (rank, world) with 0 ≤ rank < world, and world must divide batch_size: got {share} "
                f"and batch_size={batch_size}"
            )
        if run < 1:
            raise ValueError(f"a run must be at least 1 frame, got run={run}")
        runs = windows.runs(run)
        self._sampler = PoolSampler(runs, batch_size, seed, pool)
        self._windows = windows
        self._rows = batch_size // world
        self._first_row = rank * self._rows
        self._pool_bytes = _pool_bytes(windows, runs)
        self._check_memory(memory)
        self._reader = ThreadPoolExecutor(1, "window-stream")
        self._now: tuple[tuple[int, int], Frames] | None = None
        self._ahead: _Reading | None = None
        self._closed = False

    def __enter__(self) -> WindowStream:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Ends the thread, and frees the images."""
        self._closed = True
        self._cancel()
        self._now = None
        self._reader.shutdown()

    @property
    def pool_bytes(self) -> int:
        """What the images of a pool take in memory at most, bytes."""
        return int(self._pool_bytes[min(self._sampler.pool, len(self._pool_bytes)) - 1])

    @property
    def memory_bytes(self) -> int:
        """What all images take in memory at most, bytes: two pools and what is being decoded."""
        return 2 * self.pool_bytes + self._windows.decoding_bytes

    def __getitem__(self, step: int) -> dict[str, Tensor]:
        """This share of the batch of the step, counted from 0, as `ImageWindows.batch` gives it.

        Raises:
            ValueError: damaged images, found by the thread; says where.
            RuntimeError: after `close`.
        """
        if self._closed:
            raise RuntimeError("this stream of windows is closed; make another one, it goes on at any step")
        chosen, images, row = [], [], -self._first_row
        for key, windows in self._sampler.parts(step):
            mine = windows[max(0, -row) : max(0, self._rows - row)]
            row += len(windows)
            # Also where no row is of this share, so that every share reads the pools in the same order. No name
            # is given to the pool, which would keep it while the next but one is being read.
            images.append(self._turn_to(key).gather(self._windows.observed(mine)))
            chosen.append(mine)
        joined = images[0] if len(images) == 1 else {k: torch.cat([part[k] for part in images]) for k in images[0]}
        return {**self._windows.numbers(torch.cat(chosen)), **joined}

    def _turn_to(self, key: tuple[int, int]) -> Frames:
        if self._now is None or self._now[0] != key:
            self._now = None  # before another is begun: two pools are the most there is
            if self._ahead is None or self._ahead.key != key:
                self._cancel()
                self._ahead = self._begin(key)
            reading, self._ahead = self._ahead, None
            self._now = (key, reading.future.result())
            del reading
            self._ahead = self._begin(self._sampler.after(key))
        return self._now[1]

    def _begin(self, key: tuple[int, int]) -> _Reading:
        place, windows = self._sampler.samples(key)
        rows = (place + torch.arange(len(windows))) % self._sampler.batch_size - self._first_row
        mine = windows[(rows >= 0) & (rows < self._rows)]
        frames = np.unique(self._windows.observed(mine).numpy())
        cancelled = threading.Event()
        return _Reading(key, self._reader.submit(self._windows.read, frames, cancelled.is_set), cancelled)

    def _cancel(self) -> None:
        if self._ahead is not None:
            self._ahead.cancelled.set()
            self._ahead.future.cancel()
            wait([self._ahead.future])
            self._ahead = None

    def _check_memory(self, memory: float) -> None:
        if self.memory_bytes <= memory * _MIB:
            return
        fitting = 2 * self._pool_bytes + self._windows.decoding_bytes <= memory * _MIB
        needed = math.ceil(self.memory_bytes / _MIB)
        cure = (
            f"set pool to at most {int(fitting.sum())}"
            if fitting.any()
            else "not even pool=1 fits: take a shorter run, write the recording with smaller chunks"
        )
        raise ValueError(
            f"two pools of {self._sampler.pool} runs need {needed} MiB ({self.pool_bytes / _MIB:.1f} each, and "
            f"{self._windows.decoding_bytes / _MIB:.1f} to decode), and memory allows {memory:g} MiB: {cure}, or set "
            f"memory to {needed}"
        )


@dataclass(frozen=True)
class _Reading:
    """A pool that is being read, and how to stop that."""

    key: tuple[int, int]
    future: Future[Frames]
    cancelled: threading.Event


def _pool_bytes(windows: ImageWindows, runs: np.ndarray) -> np.ndarray:
    """(R,) int64: at most so many bytes are the images of a pool of 1, 2, ... runs, the longest ones."""
    first = windows.observed(torch.from_numpy(runs[:-1]))[:, 0].numpy()
    last = windows.observed(torch.from_numpy(runs[1:] - 1))[:, -1].numpy()
    frames = np.minimum(last - first + 1, np.diff(runs) * windows.obs_horizon)
    return np.cumsum(np.sort(frames)[::-1]) * windows.frame_bytes
