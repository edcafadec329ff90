"""How arrays lie in the files of other formats, and what they become here: images have channels last."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, final

import numpy as np

from diffpolicy.datasets.checks import SMALLEST_SIDE
from diffpolicy.datasets.importers.base import Array, Say
from diffpolicy.util.errors import require

_CHANNELS = (1, 3, 4)


@final
@dataclass(frozen=True)
class Form:
    """How one array lies in a file.

    Args:
        array: what it becomes.
        shape: of one frame in the file.
        dtype: of its numbers in the file.
    """

    array: Array
    shape: tuple[int, ...]
    dtype: np.dtype

    @classmethod
    def of(
        cls, name: str, shape: Sequence[int], dtype: np.dtype, role: str, say: Say, *, depth: str | None = None
    ) -> Form | None:
        """Return the form of an array; None, and a sentence, if it cannot be kept.

        Args:
            name: of the array, for the sentences.
            shape: of one frame in the file.
            dtype: of its numbers in the file.
            role: see `Array`.
            say: is told what is changed or left out.
            depth: unit of a depth camera's whole numbers; None if the array is none.
        """
        frame = tuple(int(size) for size in shape)
        if dtype.kind not in "biuf" or dtype.itemsize > 8 or not int(np.prod(frame)) or len(frame) > 3:
            say(f"{name!r} is left out: frames {frame} of {dtype} are no numbers or images that a policy reads")
            return None
        if depth is not None and dtype.kind in "iu":
            return cls(Array((*frame[:2], 1), np.dtype(np.uint16), role, image=True, unit=depth), frame, dtype)
        image = dtype in (np.uint8, np.uint16)
        if image and len(frame) == 2 and min(frame) >= SMALLEST_SIDE:
            say(f"{name!r} holds images {frame} without channels: each got one, (height, width, 1)")
            return cls(Array((*frame, 1), dtype, role, image=True), frame, dtype)
        if len(frame) < 3:
            return cls(Array(frame, dtype, role), frame, dtype)
        if not image or (dtype == np.uint16 and 1 not in (frame[0], frame[2])):
            return cls._numbers(name, frame, dtype, say)
        if not channels_first(frame):
            return cls(Array(frame, dtype, role, image=True), frame, dtype)
        say(f"{name!r} holds images with channels first, {frame}: they were moved behind height and width")
        return cls(Array((*frame[1:], frame[0]), dtype, role, image=True), frame, dtype)

    @classmethod
    def _numbers(cls, name: str, frame: tuple[int, ...], dtype: np.dtype, say: Say) -> Form | None:
        """Of three axes that are no image: one channel, such as depth in meters, is kept beside the observations."""
        if 1 not in (frame[0], frame[2]):
            say(f"{name!r} is left out: images {frame} have to be uint8, 0 to 255, and it holds {dtype}")
            return None
        flat = frame[1:] if frame[0] == 1 else frame[:2]
        say(f"{name!r} holds {dtype} images of one channel: they are kept as numbers {flat} and not observed")
        return cls(Array(flat, dtype, "other"), frame, dtype)

    def named(self, **facts: Any) -> Form:
        """Return the form with other facts of its `array`, such as unit and names."""
        return dataclasses.replace(self, array=dataclasses.replace(self.array, **facts))

    def bring(self, values: np.ndarray) -> np.ndarray:
        """Return frames (L, ...) of the file in the shape and dtype of `array`.

        Raises:
            ValueError: frames of another shape or dtype, or depth below zero.
        """
        says = f"frames {values.shape[1:]} {values.dtype}"
        fits = values.shape[1:] == self.shape and values.dtype == self.dtype
        require(fits, says, f"{self.shape} {self.dtype}, as in other episodes")
        if self.array.image and channels_first(self.shape):
            values = np.moveaxis(values, 1, -1)
        if self.array.dtype != self.dtype:
            require((values >= 0).all() and (values <= 65535).all(), "depth below 0 or above 65535")
        return np.ascontiguousarray(values.reshape(len(values), *self.array.shape), dtype=self.array.dtype)


def channels_first(frame: Sequence[int]) -> bool:
    """Return whether one frame of images has its channels before height and width."""
    return len(frame) == 3 and frame[0] in _CHANNELS and frame[2] not in _CHANNELS
