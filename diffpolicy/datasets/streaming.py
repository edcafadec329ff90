"""Batches of windows whose images are read from disk ahead of the training, in an order that suits chunks.

A window drawn at random costs a whole chunk to decode, so the order is that of `PoolSampler`: the recording is cut
into runs of whole chunks, and windows are permuted within pools of runs, drawn anew in every epoch. While one pool is
handed out, a thread decodes the next. Two are the most there is in memory, however long the recording. Observations
in numbers and actions are small and stay in memory.

The batch of step k is a function of the seed and of k alone, as with `BatchSampler`: resuming needs no stored
position, every window comes exactly once an epoch, every batch is full and may start in one epoch and end in the
next.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from typing import final

import numpy as np
import torch
from torch import Tensor

from diffpolicy.datasets.image_windows import Frames, ImageWindows
from diffpolicy.datasets.samplers import PoolSampler
from diffpolicy.datasets.stream_settings import MIB, POOL, RUN, pool_bytes, too_large
from diffpolicy.datasets.transforms import StreamedAugmentation
from diffpolicy.util.errors import require


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
        shard: (rank, world): of every batch the samples from rank·batch_size/world on, batch_size/world of them.

    Raises:
        ValueError: numbers out of range, or more memory needed than allowed; says how much, and what would fit.
    """

    def __init__(
        self,
        windows: ImageWindows,
        batch_size: int,
        seed: int,
        pool: int = POOL,
        run: int = RUN,
        memory: float = 1024,
        shard: tuple[int, int] = (0, 1),
    ) -> None:
        rank, world = shard
        fits = 0 <= rank < world and batch_size % world == 0
        says = f"shard={shard} of batch_size={batch_size}"
        require(fits, says, "(rank, world) with 0 ≤ rank < world, and batch_size a multiple of world")
        require(run >= 1, f"run={run}", "at least 1 frame")
        runs = windows.runs(run)
        self._sampler = PoolSampler(runs, batch_size, seed, pool)
        self._windows = windows
        self._count = batch_size // world
        self._first = rank * self._count
        self._pool_bytes = pool_bytes(windows, runs)
        self._run = run
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
        """End the thread, and free the images."""
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
        return 2 * self.pool_bytes + self._windows.frames.decoding_bytes

    def __getitem__(self, step: int) -> dict[str, Tensor]:
        """Return this shard of the batch of the step, counted from 0, as `ImageWindows.batch` gives it.

        Raises:
            ValueError: damaged images, found by the thread; says where.
            RuntimeError: after `close`.
        """
        require(not self._closed, "this stream of windows is closed", cure="make another one", error=RuntimeError)
        chosen, images, place = [], [], -self._first
        for key, windows in self._sampler.parts(step):
            mine = windows[max(0, -place) : max(0, self._count - place)]
            place += len(windows)
            # Also where nothing is of this shard, so that every shard reads the pools in the same order. No name
            # is given to the pool, which would keep it while the next but one is being read.
            images.append(self._turn_to(key).gather(self._windows.observed(mine)))
            chosen.append(mine)
        joined = images[0] if len(images) == 1 else {k: torch.cat([part[k] for part in images]) for k in images[0]}
        return {**self._windows.numbers(torch.cat(chosen)), **joined}

    def _turn_to(self, key: tuple[int, int]) -> Frames:
        if self._now is None or self._now[0] != key:
            self._now = None  # before another is read: two pools are the most there is
            if self._ahead is None or self._ahead.key != key:
                self._cancel()
                self._ahead = self._read(key)
            reading, self._ahead = self._ahead, None
            self._now = (key, reading.future.result())
            del reading
            self._ahead = self._read(self._sampler.after(key))
        return self._now[1]

    def _read(self, key: tuple[int, int]) -> _Reading:
        place, windows = self._sampler.samples(key)
        places = (place + torch.arange(len(windows))) % self._sampler.batch_size - self._first
        mine = windows[(places >= 0) & (places < self._count)]
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
        if self.memory_bytes > memory * MIB:
            raise too_large(self._windows, self._pool_bytes, self._sampler.pool, self._run, memory)


@dataclass(frozen=True)
class _Reading:
    """A pool that is being read, and how to stop that."""

    key: tuple[int, int]
    future: Future[Frames]
    cancelled: threading.Event


def augmented(
    batches: WindowStream,
    augmentations: Sequence[StreamedAugmentation],
    seed: int,
    batch_size: int,
    mine: slice,
    step: int,
) -> dict[str, Tensor]:
    """Return a batch in which each augmentation changed every window with probability 1/2, by the seed and the step.

    Args:
        batches: of windows.
        augmentations: what changes them.
        seed: of what is drawn.
        batch_size: of all processes together.
        mine: the part of every batch that this process has.
        step: number of the batch.
    """
    batch = batches[step]
    for number, augmentation in enumerate(augmentations):
        key = [seed, step, number] if number else [seed, step]
        chosen = np.random.default_rng(key).random(batch_size) < 0.5
        batch = augmentation.change(batch, torch.from_numpy(chosen[mine]))
    return batch
