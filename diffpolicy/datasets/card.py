"""What a data set of demonstrations holds: a card, and a sheet of its trajectories."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from diffpolicy.config import DatasetConfig, RunConfig
from diffpolicy.datasets import catalog
from diffpolicy.datasets.buffer import ReplayBuffer
from diffpolicy.datasets.manifest import digest, verify
from diffpolicy.datasets.zarr_layout import MANIFEST
from diffpolicy.util.errors import require

_DRAWN = 24  # episodes on a sheet


def card(path: str | Path, buffer: ReplayBuffer, rate: float | None = None) -> str:
    """Return episodes, lengths, ranges and digest of a data set, as lines of text.

    Args:
        path: where it is, or its name.
        buffer: its content.
        rate: frames per second, for lengths in seconds; None takes the data set's attribute "fps", if it has one.
    """
    low, middle, high = np.percentile(buffer.episode_lengths, [0, 50, 100]).astype(int)
    rate = rate or buffer.attrs.get("fps")
    seconds = f" ({middle / rate:g} s at {rate:g} Hz)" if rate else ""
    lines = [
        f"{path}: {buffer.n_episodes} episodes, {buffer.n_steps} frames",
        f"lengths: {low} to {high}, half of them up to {middle} frames{seconds}",
    ]
    for name in buffer.keys():  # noqa: SIM118  a buffer is no mapping
        values = buffer[name].reshape(buffer.n_steps, -1)
        lines.append(f"{name} {buffer[name].shape[1:]} {buffer[name].dtype}: {values.min():g} to {values.max():g}")
    lines += [f"{key}: {value}" for key, value in buffer.attrs.items()]
    if (Path(path) / MANIFEST).exists():
        lines.append(f"SHA-256 of the recording: {digest(path)}")
    return "\n".join(lines)


def draw_sheet(file: Path, buffer: ReplayBuffer, key: str) -> None:
    """Draw the first two numbers of an array over time, for episodes spread over a data set.

    Args:
        file: the image file to write.
        buffer: the data set.
        key: the array.

    Raises:
        KeyError: an array that the data set lacks.
        ValueError: an array of one number per frame.
    """
    figure = Figure(figsize=(12, 8.4), layout="constrained")
    picked = np.unique(np.linspace(0, buffer.n_episodes - 1, _DRAWN).astype(int))
    values = buffer[key].reshape(buffer.n_steps, -1)
    require(values.shape[1] >= 2, f"{key} has one number per frame", "two to draw", "choose another key")
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


def list_sources() -> str:
    """Return the sources of the catalog and what can be observed of each, as lines of text."""
    lines = ["Data sets by name (dataset.name=…):"]
    for name in catalog.names():
        try:
            source = catalog.lookup(name)
        except ValueError as error:  # another package's, which is broken
            lines.append(f"  {name:14} {error}")
            continue
        lines.append(f"  {name:14} {source.summary}")
        if issubclass(source, catalog.DemonstrationSource):
            lines += [f"  {'':14}   observation.mode={mode}: {what}" for mode, what in source.modes.items()]
            if source.transforms:
                lines.append(f"  {'':14}   dataset.transforms: {', '.join(source.transforms)}")
    return "\n".join(lines)


def inspect_dataset(
    path: str | None, check: bool = False, sheet: str | None = None, key: str = "action"
) -> tuple[str, bool]:
    """Describe a data set, or without a path the catalog, and say whether it is sound.

    Args:
        path: a recording, any data set in the replay-buffer layout, or the name of demonstrations of the catalog.
        check: compare every file of a recording with its digest.
        sheet: image file to draw the trajectories of `key` into.
        key: array to draw.

    Raises:
        FileExistsError: `sheet` exists.
        ValueError: damaged or ill-formed data, see `ReplayBuffer.open`.
        FileNotFoundError: nothing at `path`.
        KeyError: an array that the data set lacks.
    """
    if path is None:
        return list_sources(), True
    there = bool(sheet) and Path(str(sheet)).exists()
    require(not there, f"{sheet} exists", cure="choose another name", error=FileExistsError)
    if check:
        damaged = verify(path)
        return "\n".join(damaged) or f"{path}: every file is as it was written", not damaged
    if path in catalog.names() and not Path(path).exists():
        source = catalog.open_demonstrations(RunConfig(dataset=DatasetConfig(name=path)))
        buffer, rate = source.recorded(), source.rate
    else:
        buffer, rate = ReplayBuffer.open(path), None
    if sheet:
        draw_sheet(Path(sheet), buffer, key)
    return card(path, buffer, rate), True
