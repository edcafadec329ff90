"""What a data set of demonstrations holds: a card, and a sheet of its trajectories."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from diffpolicy.datasets import ReplayBuffer
from diffpolicy.datasets.recorder import digest, verify
from diffpolicy.datasets.zarr_layout import MANIFEST

_RATE = 10.0  # control steps a second, of the environments here
_DRAWN = 24  # episodes on a sheet


def card(path: Path, buffer: ReplayBuffer) -> str:
    """Episodes, lengths, ranges and digest, as lines of text."""
    lengths = buffer.episode_lengths
    low, middle, high = np.percentile(lengths, [0, 50, 100]).astype(int)
    lines = [
        f"{path}: {buffer.n_episodes} episodes, {buffer.n_steps} frames",
        f"lengths: {low} to {high}, half of them up to {middle} frames ({middle / _RATE:g} s at {_RATE:g} Hz)",
    ]
    for name in buffer.keys():  # noqa: SIM118  a buffer is no mapping
        values = buffer[name].reshape(buffer.n_steps, -1)
        lines.append(f"{name} {buffer[name].shape[1:]} {buffer[name].dtype}: {values.min():g} to {values.max():g}")
    lines += [f"{key}: {value}" for key, value in buffer.attrs.items()]
    if (path / MANIFEST).exists():
        lines.append(f"SHA-256 of the recording: {digest(path)}")
    return "\n".join(lines)


def draw_sheet(file: Path, buffer: ReplayBuffer, key: str) -> None:
    """Draw the first two numbers of array `key` over time for episodes spread over the data set."""
    figure = Figure(figsize=(12, 8.4), layout="constrained")
    picked = np.unique(np.linspace(0, buffer.n_episodes - 1, _DRAWN).astype(int))
    values = buffer[key].reshape(buffer.n_steps, -1)
    if values.shape[1] < 2:
        raise ValueError(f"{key} has one number a frame; a trajectory is drawn from two: choose another --key")
    low, high = values[:, :2].min(0), values[:, :2].max(0)
    grid = figure.subplots(4, 6).ravel()
    for axes in grid:
        axes.set(xlim=(low[0], high[0]), ylim=(high[1], low[1]), xticks=[], yticks=[], aspect="equal")
    slices = buffer.episode_slices()
    for axes, number in zip(grid, picked, strict=False):
        x, y = values[slices[number], :2].T
        axes.plot(x, y, color="slategray", linewidth=0.6)
        axes.scatter(x, y, c=np.arange(len(x)), s=5, cmap="plasma")
        axes.set_title(f"episode {number}, {len(x)} frames", fontsize=8)
    figure.suptitle(f"{key}: its first two numbers, early (dark) to late (light)")
    figure.savefig(file, dpi=110)


def inspect_dataset(path: str | None, check: bool, sheet: str | None, key: str) -> tuple[str, bool]:
    """Return what to tell about a data set, and whether it is sound; without a path, the sources of the catalog.

    Args:
        path: a recording or any data set in the replay-buffer layout.
        check: compare every file of a recording with its digest.
        sheet: image file to draw the trajectories of `key` into.
        key: array to draw.

    Raises:
        FileExistsError: `sheet` exists.
        ValueError, OSError, KeyError: see `ReplayBuffer.open`.
    """
    if path is None:
        return "sources: pusht, expert_pusht, pushblocks, detour, zarr, mnist", True
    if sheet and Path(sheet).exists():
        raise FileExistsError(f"{sheet} exists and is not overwritten; choose another name")
    if check:
        damaged = verify(path)
        return "\n".join(damaged) or f"{path}: every file is as it was written", not damaged
    buffer = ReplayBuffer.open(path)
    if sheet:
        draw_sheet(Path(sheet), buffer, key)
    return card(Path(path), buffer), True
