"""How many frames are read and mixed at a time, so that they fit in the memory given."""

from __future__ import annotations

import sys
from dataclasses import replace

import numpy as np
import torch

from diffpolicy.config import StreamConfig
from diffpolicy.datasets.image_windows import ImageWindows
from diffpolicy.datasets.windows import WindowDataset
from diffpolicy.util.errors import explain, require

POOL, RUN = 16, 256
"""Runs that are mixed and frames per run, where these fit in the memory given."""

MIB = 2**20


def fitted(stream: StreamConfig, windows: ImageWindows | WindowDataset | None = None) -> StreamConfig:
    """Return the settings with `pool` and `run` as numbers: those given, else `POOL` and `RUN` or what fits.

    Runs are halved before pools are: batches of many short runs are mixed better than those of few long ones.

    Args:
        stream: the settings.
        windows: all training windows; without images to stream, nothing has to fit.

    Raises:
        ValueError: numbers below 1. (What does not fit is refused where batches are opened.)
    """
    pool, run = stream.pool or POOL, stream.run or RUN
    require(stream.pool is None or stream.pool >= 1, f"dataset.stream.pool={stream.pool}", "at least 1 run, or null")
    require(stream.run is None or stream.run >= 1, f"dataset.stream.run={stream.run}", "at least 1 frame, or null")
    if not isinstance(windows, ImageWindows):
        return replace(stream, pool=pool, run=run)
    room = stream.memory * MIB - windows.frames.decoding_bytes
    fits = _runs_that_fit(windows, run, room)
    while fits < pool and stream.run is None and run > windows.frames.unit:
        run = max(run // 2, windows.frames.unit)
        fits = _runs_that_fit(windows, run, room)
    if stream.pool is None:
        pool = min(pool, max(fits, 1))
    return replace(stream, pool=pool, run=run)


def pool_bytes(windows: ImageWindows, runs: np.ndarray) -> np.ndarray:
    """Return what the images of a pool of 1, 2, ... runs, the longest ones, take at most, (R,) int64 bytes."""
    first = windows.observed(torch.from_numpy(runs[:-1]))[:, 0].numpy()
    last = windows.observed(torch.from_numpy(runs[1:] - 1))[:, -1].numpy()
    frames = np.minimum(last - first + 1, np.diff(runs) * windows.obs_horizon)
    return np.cumsum(np.sort(frames)[::-1]) * windows.frames.frame_bytes


def too_large(windows: ImageWindows, sizes: np.ndarray, pool: int, run: int, memory: float) -> ValueError:
    """Return the error for pools that do not fit in memory.

    Args:
        windows: all training windows.
        sizes: see `pool_bytes`.
        pool: runs of a pool.
        run: frames of a run.
        memory: that is allowed, MiB.
    """
    decoding = windows.frames.decoding_bytes
    fitting = int((2 * sizes + decoding <= memory * MIB).sum())
    needed = -(-(2 * int(sizes[min(pool, len(sizes)) - 1]) + decoding) // MIB)
    says = f"two pools of {pool} runs of {run} frames and decoding need {needed} MiB"
    smaller = f"set dataset.stream.pool to at most {fitting}"
    if not fitting:
        shorter = run > windows.frames.unit
        smaller = "take a smaller dataset.stream.run" if shorter else "write the recording in smaller chunks"
    cure = f"{smaller}, or set dataset.stream.memory={needed}"
    return ValueError(explain(says, f"at most dataset.stream.memory={memory:g} MiB", cure))


def _runs_that_fit(windows: ImageWindows, run: int, room: float) -> int:
    """How many runs of so many frames fit twice; any number does where all runs together fit."""
    sizes = pool_bytes(windows, windows.runs(run))
    fitting = int((2 * sizes <= room).sum())
    return fitting if fitting < len(sizes) else sys.maxsize
