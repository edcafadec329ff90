"""What this project writes beside a LeRobot data set, which LeRobot ignores: names, shapes and roles of arrays."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, final

import numpy as np

from diffpolicy.datasets.importers.base import Array, Say
from diffpolicy.datasets.importers.lerobot_info import Feature
from diffpolicy.util.errors import require
from diffpolicy.util.files import sha256, write_json

SIDECAR = "meta/diffpolicy.json"


@final
@dataclass(frozen=True)
class Sidecar:
    """What a recording was before it was exported.

    Args:
        arrays: LeRobot's feature -> "name", "shape", "role" and "unit" of the array.
        made: features that stand for what is known of whole episodes, and are no arrays.
        episodes: by number: "name", "success" and whatever else was known.
        recording: attributes of the recording.
    """

    arrays: Mapping[str, Mapping[str, Any]]
    made: tuple[str, ...]
    episodes: tuple[Mapping[str, Any], ...]
    recording: Mapping[str, Any]

    def write(self, path: Path) -> None:
        """Write it into a data set, with its own digest."""
        content = json.loads(json.dumps(vars(self)))
        write_json(path / SIDECAR, {**content, "sha256": _digest(content)})

    def restored(self, features: Mapping[str, Feature]) -> dict[str, Feature]:
        """Return features under the names and in the shapes that their arrays had."""
        found = {}
        for key, feature in features.items():
            if feature.column in self.made:
                continue
            told = self.arrays.get(feature.column)
            if told is None:
                found[key] = feature
                continue
            array = feature.array
            shape = tuple(told["shape"])
            gray = array.image and shape == (*array.shape[:2], 1)
            same = gray or np.prod(shape, dtype=int) == np.prod(array.shape, dtype=int)
            array = replace(array, shape=shape if same else array.shape, role=told["role"], unit=told["unit"])
            found[str(told["name"])] = replace(feature, array=array)
        return found


def read_sidecar(path: Path, say: Say) -> Sidecar | None:
    """Return what this project wrote beside a data set; None if it did not, or if that is damaged."""
    if not (path / SIDECAR).is_file():
        return None
    try:
        content = json.loads((path / SIDECAR).read_bytes())
        digest = content.pop("sha256")
        require(digest == _digest(content), "its checksum is another")
        for told in content["arrays"].values():
            Array(tuple(told["shape"]), np.dtype(np.uint8), told["role"])
        return Sidecar(content["arrays"], tuple(content["made"]), tuple(content["episodes"]), content["recording"])
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        say(f"{SIDECAR} is damaged ({error}), so arrays have the names and shapes that LeRobot's files give")
        return None


def _digest(content: Mapping[str, Any]) -> str:
    return sha256(json.dumps(content, sort_keys=True).encode())
