"""The demonstrations that ship with the package, recorded by the experts of its environments."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import ClassVar

from diffpolicy.datasets.buffer import ReplayBuffer
from diffpolicy.datasets.catalog import DemonstrationSource
from diffpolicy.datasets.manifest import verify
from diffpolicy.util.errors import require
from diffpolicy.util.names import check

SHIPPED = ("pusht", "pushblocks", "detour")
RATE = 10.0  # control steps per second of the environments


def shipped_path(name: str) -> Path:
    """Return the folder of a shipped recording, in the checkout or where the package is installed.

    Raises:
        ValueError: an unknown name.
    """
    check("shipped recording", name, SHIPPED)
    (folder,) = importlib.import_module("diffpolicy.data").__path__
    return Path(folder) / f"{name}.zarr"


def open_shipped(name: str) -> ReplayBuffer:
    """Return a shipped recording, `state` and `action`, after every file was compared with its digest.

    Raises:
        ValueError: an unknown name, or files that are not as they were recorded.
    """
    path = shipped_path(name)
    damaged = verify(path)
    require(not damaged, f"{path} is not as it was shipped: {'; '.join(damaged)}", cure="install diffpolicy again")
    return ReplayBuffer.open(path, ["state", "action"])


class ShippedRecording(DemonstrationSource):
    """A recording of `state` and `action`."""

    recording: ClassVar[str]
    """One of `SHIPPED`."""

    rate = RATE
    units: ClassVar[dict[str, str]] = {"state": "px"}

    def recorded(self) -> ReplayBuffer:
        """Return the recording, checked."""
        return open_shipped(self.recording)


class PushBlocks(ShippedRecording):
    """Two pucks into two zones."""

    summary: ClassVar[str] = "two pucks pushed into two zones, by an expert; ships with the package"
    recording = "pushblocks"


class Detour(ShippedRecording):
    """A puck around an obstacle."""

    summary: ClassVar[str] = "a puck pushed around an obstacle, by an expert; ships with the package"
    recording = "detour"
