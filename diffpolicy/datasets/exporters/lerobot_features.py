"""How the arrays of a recording are called and described in a LeRobot data set."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, final

import numpy as np

from diffpolicy.datasets.importers.base import Array
from diffpolicy.datasets.importers.lerobot_info import CHECKS, SUCCESS


@final
@dataclass(frozen=True)
class Exported:
    """One array, and what it becomes.

    Args:
        name: of the array.
        array: what it is.
        kind: "video", "image" (a PNG file a frame) or "numbers".
    """

    name: str
    array: Array
    kind: str

    @property
    def shape(self) -> list[int]:
        """Of a frame in LeRobot's files, where a number alone is one of one dimension and gray videos have colors."""
        if self.kind == "video":
            return [*self.array.shape[:2], 3]
        return list(self.array.shape) or [1]

    def description(self) -> dict[str, Any]:
        """What `meta/info.json` says of it, the video's details excepted."""
        dtype = self.kind if self.kind != "numbers" else str(self.array.dtype)
        names: list[str] | None = ["height", "width", "channels"]
        if not self.array.image:
            names = list(self.array.names) if self.array.names else None
        found: dict[str, Any] = {"dtype": dtype, "shape": self.shape, "names": names}
        if self.kind == "image" and self.array.dtype == np.uint16:
            unit = {"depth_unit": self.array.unit} if self.array.unit in ("m", "mm") else {}
            found["info"] = {"is_depth_map": True, **unit}
        return found

    def told(self) -> dict[str, Any]:
        """What only this project knows of it."""
        array = self.array
        return {"name": self.name, "shape": list(array.shape), "role": array.role, "unit": array.unit}


def exported(arrays: Mapping[str, Array], pictures: bool) -> dict[str, Exported]:
    """Return what each array becomes, by its name in LeRobot, where observations begin with "observation.".

    Args:
        arrays: of the recording, by name.
        pictures: store images as PNG files rather than as videos. Depth and images of four channels always are.
    """
    found: dict[str, Exported] = {}
    for name, array in arrays.items():
        kind = "numbers"
        if array.image:
            kind = "image" if pictures or array.dtype != np.uint8 or array.shape[2] == 4 else "video"
        feature = _feature_name(name, array)
        while feature in found or feature in CHECKS or (feature == SUCCESS and array.dtype != bool):
            feature = f"{feature}.again"
        found[feature] = Exported(name, array, kind)
    return found


def described(features: Mapping[str, Exported], success: bool) -> dict[str, dict[str, Any]]:
    """Return the features of `meta/info.json`.

    Args:
        features: what the arrays become.
        success: whether a column says of each frame if the task was done.
    """
    found = {name: one.description() for name, one in features.items()}
    if success:
        found[SUCCESS] = {"dtype": "bool", "shape": [1], "names": None}
    return found | {name: {"dtype": dtype, "shape": [1], "names": None} for name, dtype in CHECKS.items()}


def _feature_name(name: str, array: Array) -> str:
    if array.image:
        return name if name.startswith("observation.image") else f"observation.images.{name}"
    if array.role == "action":
        return "action"
    if array.role == "observation":
        return name if name.startswith("observation.") else f"observation.{name}"
    return name
