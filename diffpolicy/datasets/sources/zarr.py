"""Your own demonstrations, in the replay-buffer layout."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar

from diffpolicy.datasets.buffer import ReplayBuffer
from diffpolicy.datasets.catalog import DemonstrationSource
from diffpolicy.datasets.frames import FrameSource, ZarrFrames
from diffpolicy.util.errors import require


class OwnRecording(DemonstrationSource):
    """A recording at `dataset.path`: a zarr directory, or a zip that holds one, see `ReplayBuffer.open`."""

    summary: ClassVar[str] = "your own replay buffer, at dataset.path"

    @property
    def path(self) -> Path:
        """Where the recording is."""
        require(self.dataset.path, "dataset.name=zarr without a path", cure="say where your data are by dataset.path")
        return Path(str(self.dataset.path)).expanduser()

    def recorded(self) -> ReplayBuffer:
        """Return the arrays of `observation.vectors` and the actions."""
        keys = dict.fromkeys([*self.observation.vectors, self.dataset.action_key])
        return ReplayBuffer.open(self.path, list(keys))

    def frames(self) -> FrameSource | None:
        """Return the arrays of `observation.images`, which stay on disk."""
        cameras = self.observation.images
        return ZarrFrames(self.path, {key: key for key in cameras}) if cameras else None
