"""Show what a data set of demonstrations holds: a card, and with --sheet a picture of its trajectories.

diffpolicy-inspect-dataset DEMOS --sheet sheet.png
diffpolicy-inspect-dataset DEMOS --verify
"""

from __future__ import annotations

import argparse
import sys
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


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="diffpolicy-inspect-dataset",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("path", type=Path, help="a recording, or any data set of the replay-buffer layout")
    parser.add_argument("--verify", action="store_true", help="compare every file of a recording with its digest")
    parser.add_argument("--sheet", type=Path, help="where to write the picture of trajectories")
    parser.add_argument("--key", default="action", help="which array to draw (default: action)")
    arguments = parser.parse_args()
    try:
        if arguments.sheet and arguments.sheet.exists():
            raise FileExistsError(f"{arguments.sheet} exists and is not overwritten; choose another name")
        if arguments.verify:
            damaged = verify(arguments.path)
            print("\n".join(damaged) or f"{arguments.path}: every file is as it was written")
            sys.exit(1 if damaged else 0)
        buffer = ReplayBuffer.open(arguments.path)
        print(card(arguments.path, buffer))
        if arguments.sheet:
            draw_sheet(arguments.sheet, buffer, arguments.key)
    except (ValueError, TypeError, OSError, KeyError) as error:
        says = error.args[0] if isinstance(error, KeyError) else error
        print(f"inspect_dataset: {type(error).__name__}: {says}", file=sys.stderr)
        sys.exit(2)


if __name__ == "__main__":
    main()
