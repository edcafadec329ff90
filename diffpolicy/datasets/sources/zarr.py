"""Your own demonstrations: a replay buffer, or a recording of a format that is converted to one."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import ClassVar

from diffpolicy.datasets.buffer import ReplayBuffer
from diffpolicy.datasets.catalog import DemonstrationSource, transform
from diffpolicy.datasets.checks import IMAGE_NDIM, is_picture
from diffpolicy.datasets.conversion_cache import replay_buffer_at
from diffpolicy.datasets.frames import FrameSource, ZarrFrames
from diffpolicy.datasets.zarr_layout import ZarrArchive
from diffpolicy.util import hub
from diffpolicy.util.errors import explain, require
from diffpolicy.util.names import unknown


class OwnRecording(DemonstrationSource):
    """A recording at `dataset.path`: a zarr directory or zip, see `ReplayBuffer.open`, or one of another format.

    One of another format is converted into the data root first, see `conversion_cache`. hf://user/repo is downloaded.
    """

    summary: ClassVar[str] = "your own recording, at dataset.path"

    @functools.cached_property
    def path(self) -> Path:
        """Where the replay buffer is."""
        require(self.dataset.path, "dataset.name=zarr without a path", cure="say where your data are by dataset.path")
        return replay_buffer_at(
            hub.local(self.dataset.path, "dataset"), self.data_root, action_key=self.dataset.action_key
        )

    def recorded(self) -> ReplayBuffer:
        """Return the arrays of `observation.vectors` and the actions.

        Raises:
            KeyError: an array that the recording lacks; says which settings would fit.
        """
        observed = [*self.observation.vectors, *self.observation.goals]
        keys = dict.fromkeys([*observed, *self._read_by_transforms, self.dataset.action_key])
        self._check([*keys, *self.observation.images])
        return ReplayBuffer.open(self.path, list(keys))

    @property
    def _read_by_transforms(self) -> list[str]:
        return [key for name in self.dataset.transforms for key in transform(name).reads]

    def frames(self, recorded: ReplayBuffer) -> FrameSource | None:
        """Return the arrays of `observation.images`, which stay on disk."""
        cameras = self.observation.images
        return ZarrFrames(self.path, {key: key for key in cameras}) if cameras else None

    def _check(self, keys: list[str]) -> None:
        with ZarrArchive(self.path) as archive:
            names = archive.names()
            missing = next((key for key in keys if key not in names), None)
            if missing is not None and missing in self._read_by_transforms:
                given = f"dataset.transforms={self.dataset.transforms} of a recording without {missing!r}"
                raise KeyError(explain(given, cure="record it by env.obs_keys, or leave the transform out"))
            if missing is not None:
                raise KeyError(f"{self.path}: {unknown('key', missing, names)}; {self._proposed(archive)}")

    def _proposed(self, archive: ZarrArchive) -> str:
        """The settings that observe all that a recording has, but for what its roles name otherwise."""
        roles = {self.dataset.action_key: "action", **archive.attrs().get("roles", {})}
        seen = [name for name in archive.names() if roles.get(name, "observation") == "observation"]
        shapes = {name: archive.shape(f"data/{name}") for name in seen}
        cameras = [name for name, shape in shapes.items() if len(shape) == IMAGE_NDIM]
        pictures = [name for name, shape in shapes.items() if is_picture(shape, archive.dtype(f"data/{name}"))]
        vectors = [name for name in seen if name not in {*cameras, *pictures}]
        settings = [f"observation.vectors=[{','.join(vectors)}]"]
        if cameras:
            settings.append(f"observation.images=[{','.join(cameras)}]")
        if self.dataset.action_key not in archive.names():
            actions = [name for name, role in roles.items() if role == "action" and name in archive.names()]
            settings += [f"dataset.action_key={name}" for name in actions[:1]]
        return f"take {' '.join(settings)}"
