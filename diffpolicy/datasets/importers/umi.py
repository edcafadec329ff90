"""UMI's data sets: zarr zips with hand poses and cameras in JPEG XL, and no action."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, final

import numpy as np

from diffpolicy.datasets.importers.base import Array, Episode, Importer, Say
from diffpolicy.datasets.importers.replay_buffer import ReplayBufferImporter, names_in_zip

_POSE = "robot0_eef_pos"
_STATE = re.compile(r"robot\d+_(eef_pos|eef_rot_axis_angle|gripper_width)")
_OTHER = re.compile(r"robot\d+_demo_(start|end)_pose")
_FACTS = {
    "eef_pos": ("m", ("x", "y", "z")),
    "eef_rot_axis_angle": ("rad", ("rx", "ry", "rz")),
    "gripper_width": ("m", ("width",)),
}


@final
class UmiImporter(Importer):
    """A replay buffer, most often a zip, with `robotN_eef_pos`, `robotN_eef_rot_axis_angle`, `robotN_gripper_width`.

    The action is what these are at the next frame: `action=next:` with `state_keys`. Poses of start and end are of
    role "other".
    """

    summary: ClassVar[str] = "UMI's zarr zips, cameras in JPEG XL"
    usual_fps: ClassVar[str | None] = "UMI's cameras have 59.94 Hz"

    def __init__(self, path: Path, say: Say) -> None:
        super().__init__(path, say)
        self._buffer = ReplayBufferImporter(path, say)

    @classmethod
    def recognize(cls, path: Path) -> str | None:
        if ReplayBufferImporter.recognize(path) is None:
            return None
        metadata = f"data/{_POSE}/.zarray"
        if path.is_dir():
            there = (path / metadata).is_file()
        else:
            there = any(name.endswith(metadata) for name in names_in_zip(path))
        return "a UMI data set in zarr" if there else None

    @property
    def arrays(self) -> Mapping[str, Array]:
        found = {}
        for name, array in self._buffer.arrays.items():
            unit, names = _FACTS.get(name.partition("_")[2], (None, None)) if _STATE.fullmatch(name) else (None, None)
            role = "other" if _OTHER.fullmatch(name) else array.role
            fits = names is not None and array.shape == (len(names),)
            found[name] = dataclasses.replace(
                array, role=role, unit=unit or array.unit, names=names if fits else None
            )
        return found

    @property
    def fps(self) -> float | None:
        return self._buffer.fps

    @property
    def attrs(self) -> Mapping[str, Any]:
        return self._buffer.attrs

    @property
    def state_keys(self) -> tuple[str, ...]:
        kinds = list(_FACTS)
        found = [name for name in self._buffer.arrays if _STATE.fullmatch(name)]
        return tuple(sorted(found, key=lambda name: (name.partition("_")[0], kinds.index(name.partition("_")[2]))))

    def episodes(self) -> Sequence[Episode]:
        return self._buffer.episodes()

    def read(self, episode: Episode) -> dict[str, np.ndarray]:
        return self._buffer.read(episode)

    def close(self) -> None:
        self._buffer.close()
