"""Recordings that are known and not read: each gets the sentence that helps."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import ClassVar, NoReturn, final

import numpy as np

from diffpolicy.datasets.importers.base import Array, Episode, Importer, Say
from diffpolicy.datasets.importers.hdf5 import Hdf5, is_hdf5
from diffpolicy.util.errors import explain

_CURES = {
    "RLDS": "convert it to LeRobot first, for example by openx2lerobot, and that by this command",
    "a pickle": "unpickling runs whatever code a file holds, so save its arrays by np.savez, one file an episode",
    "a ROS bag": "write its topics, resampled to one rate, to npz files: one an episode, time on axis 0",
    "MCAP": "write its channels, resampled to one rate, to npz files: one an episode, time on axis 0",
    "HDF5 of an unknown layout": "write its arrays to npz files: one an episode, time on axis 0, one of them action",
}
_SUFFIXES = {
    ".pkl": "a pickle",
    ".pickle": "a pickle",
    ".pt": "a pickle",
    ".pth": "a pickle",
    ".bag": "a ROS bag",
    ".db3": "a ROS bag",
    ".mcap": "MCAP",
}


@final
class UnreadableImporter(Importer):
    """Refuses RLDS, pickles, ROS bags, MCAP and HDF5 files of other layouts, and says what to do instead."""

    summary: ClassVar[str] = "RLDS, pickles, ROS bags and MCAP: known, not read, with advice"

    def __init__(self, path: Path, say: Say) -> None:
        super().__init__(path, say)
        kind = self.recognize(path) or "of a format that is not read"
        holds = ""
        if is_hdf5(path):
            with Hdf5(path) as opened:
                holds = f" (it holds {', '.join(opened.names()[:6]) or 'nothing'})"
        raise ValueError(explain(f"{path} is {kind}{holds}, which is not read", cure=_CURES.get(kind)))

    @classmethod
    def recognize(cls, path: Path) -> str | None:
        if is_hdf5(path):
            return "HDF5 of an unknown layout"
        if path.is_file():
            return "RLDS" if ".tfrecord" in path.name else _SUFFIXES.get(path.suffix.lower())
        if any(path.glob("*.tfrecord*")) or any(path.glob("*/*.tfrecord*")):
            return "RLDS"
        kinds = sorted(
            {_SUFFIXES[file.suffix.lower()] for file in path.iterdir() if file.suffix.lower() in _SUFFIXES}
        )
        return kinds[0] if kinds else None

    @property
    def arrays(self) -> Mapping[str, Array]:
        self._refuse()

    def episodes(self) -> Sequence[Episode]:
        self._refuse()

    def read(self, episode: Episode) -> dict[str, np.ndarray]:
        self._refuse()

    def _refuse(self) -> NoReturn:
        raise ValueError(explain(f"{self.path} is not read"))
