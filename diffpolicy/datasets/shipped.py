"""The demonstrations that ship with the package, recorded by the experts of `diffpolicy.envs.experts`."""

from __future__ import annotations

import importlib
from pathlib import Path

from diffpolicy.datasets.recorder import verify
from diffpolicy.datasets.replay_buffer import ReplayBuffer
from diffpolicy.datasets.zarr_layout import unknown

SHIPPED = ("pusht", "pushblocks", "detour")


def shipped_path(name: str) -> Path:
    """The folder of a shipped recording, in the checkout or where the package is installed.

    Raises:
        ValueError: an unknown name.
    """
    if name not in SHIPPED:
        raise ValueError(unknown("shipped recording", name, SHIPPED))
    (folder,) = importlib.import_module("diffpolicy.data").__path__
    return Path(folder) / f"{name}.zarr"


def open_shipped(name: str) -> ReplayBuffer:
    """A shipped recording, `state` and `action`, after every file was compared with its digest.

    Raises:
        ValueError: an unknown name, or files that are not as they were recorded.
    """
    path = shipped_path(name)
    if damaged := verify(path):
        raise ValueError(f"{path} is not as it was shipped: {'; '.join(damaged)}; install diffpolicy again")
    return ReplayBuffer.open(path, ["state", "action"])
